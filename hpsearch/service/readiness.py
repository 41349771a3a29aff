"""What workers say before their first trial: whether they can train this study, and on which data."""

from collections.abc import Mapping
from pathlib import Path

from hpsearch import errors
from hpsearch.contracts.callbacks import Calls, WorkerNews
from hpsearch.contracts.messages import DataFacts, Loading, Ready, SetupFailed, Waiting
from hpsearch.errors import DataError, HpsearchError, WorkersFailed
from hpsearch.service.fleet import Fleet
from hpsearch.service.keeper import WeightsKeeper
from hpsearch.service.study import Study
from hpsearch.study.checks import check_study_against


class Readiness:
    """Follows the workers until they are ready, and refuses a study that cannot be trained."""

    def __init__(self, study: Study, fleet: Fleet, keeper: WeightsKeeper, call: Calls) -> None:
        self._study = study
        self._fleet = fleet
        self._keeper = keeper
        self._call = call
        self._data: DataFacts | None = None
        self._someone_was_ready = False
        self._failed: set[int] = set()
        self._reasons: dict[int, str] = {}
        self._said: set[str] = set()

    def hear(self, message: Waiting | Loading | Ready | SetupFailed) -> None:
        """Acts on one message.

        Raises:
            UserError: the study cannot be trained on these data or devices, or data have changed.
            WorkersFailed: no worker can train, for a reason that the user cannot mend.
        """
        match message:
            case Waiting(worker, text):
                if self._reasons.get(worker) != text:  # again and again it is only a sign of life
                    self._reasons[worker] = text
                    self._call("on_worker", WorkerNews(worker, "waiting", text))
            case Loading(worker, done, total):
                text = f"reads images: {done:,} of {total:,}"
                self._call("on_worker", WorkerNews(worker, "loading", text, done, total))
            case Ready(worker, _, device):
                if message.data is not None:
                    self._check_data(message.data)
                self._check_code(message.code)
                self._someone_was_ready = True
                self._reasons.pop(message.worker, None)
                text = f"ready on {device} after {message.seconds:.1f} s"
                self._call("on_worker", WorkerNews(worker, "ready", text))
            case SetupFailed():
                self._on_failure(message)

    def _check_data(self, facts: DataFacts) -> None:
        if self._data is not None:
            if facts.digest != self._data.digest:
                raise DataError(
                    "data.dataset: two workers found different data under the same root; "
                    "it must not change while a study runs"
                )
            return
        self._data = facts
        check_study_against(self._study.spec, facts)
        self._study.know_data(facts)
        cache = self._study.spec.data.cache or self._keeper.folder.cache
        self._keeper.keep_split(Path(cache), facts.digest)
        for note in facts.notes:
            self._call("on_message", f"data: {note}")

    def _check_code(self, digests: Mapping[str, str]) -> None:
        for sentence in self._study.data.changed_code(digests):
            if sentence not in self._said:  # every worker finds the same
                self._said.add(sentence)
                self._call("on_message", sentence)

    def _on_failure(self, failed: SetupFailed) -> None:
        self._failed.add(failed.worker)
        # A missing file fails everywhere; a sick device, or a bug, perhaps only here.
        general = failed.user_error not in (None, "DeviceError")
        everywhere = len(self._failed) == len(self._fleet.workers)
        if self._someone_was_ready or not (general or everywhere):
            self._call("on_message", f"worker {failed.worker} cannot begin: {failed.message}")
            return
        if failed.user_error is not None:
            kind: type[HpsearchError] = getattr(errors, failed.user_error, errors.UserError)
            raise kind(failed.message)
        raise WorkersFailed(f"worker {failed.worker} cannot train: {failed.message}\n{failed.traceback}")
