"""What workers say before their first trial: whether they can train this study, and on which data."""

from collections.abc import Callable, Iterable, Mapping

from hpsearch import errors
from hpsearch.contracts.callbacks import Calls, WorkerNews
from hpsearch.contracts.messages import DataFacts, Loading, PlaceRemoved, Ready, SetupFailed, Waiting
from hpsearch.errors import DataError, HpsearchError, WorkersFailed


class Readiness:
    """Follows the workers until they are ready, and refuses a study that cannot be trained.

    Args:
        know_data: called with the data as the first worker found them; refuses them by a UserError.
        changed_code: returns a sentence for each of the user's modules that has changed since the study began.
        keep_pictures: called with the training images that a worker shows, PNG files in base64.
        call: the callbacks.
    """

    def __init__(
        self,
        know_data: Callable[[DataFacts], None],
        changed_code: Callable[[Mapping[str, str]], Iterable[str]],
        keep_pictures: Callable[[tuple[str, ...]], None],
        call: Calls,
    ) -> None:
        self._know_data = know_data
        self._changed_code = changed_code
        self._keep_pictures = keep_pictures
        self._call = call
        self._data: DataFacts | None = None
        self._someone_was_ready = False
        self._failed: set[int] = set()
        self._reasons: dict[int, str] = {}
        self._said: set[str] = set()

    def hear(self, message: Waiting | Loading | Ready | SetupFailed | PlaceRemoved, workers: int) -> None:
        """Acts on one message.

        Args:
            workers: how many workers there are.

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
                self._keep_pictures(message.pictures)
                self._someone_was_ready = True
                self._reasons.pop(message.worker, None)
                text = f"ready on {device} after {message.seconds:.1f} s"
                self._call("on_worker", WorkerNews(worker, "ready", text))
            case SetupFailed():
                self._on_failure(message, workers)
            case PlaceRemoved(worker):
                text = "is not started again: its place has gone"
                self._call("on_worker", WorkerNews(worker, "removed", text))

    def _check_data(self, facts: DataFacts) -> None:
        if self._data is not None:
            if facts.digest != self._data.digest:
                raise DataError(
                    "data.dataset: two workers found different data under the same root; "
                    "it must not change while a study runs"
                )
            return
        self._data = facts
        self._know_data(facts)
        for note in facts.notes:
            self._call("on_message", f"data: {note}")

    def _check_code(self, digests: Mapping[str, str]) -> None:
        for sentence in self._changed_code(digests):
            if sentence not in self._said:  # every worker finds the same
                self._said.add(sentence)
                self._call("on_message", sentence)

    def _on_failure(self, failed: SetupFailed, workers: int) -> None:
        self._failed.add(failed.worker)
        # A missing file fails everywhere; a sick device, or a bug, perhaps only here.
        general = failed.user_error not in (None, "DeviceError")
        everywhere = len(self._failed) == workers
        if self._someone_was_ready or not (general or everywhere):
            self._call("on_message", f"worker {failed.worker} cannot begin: {failed.message}")
            return
        if failed.user_error is not None:
            kind: type[HpsearchError] = getattr(errors, failed.user_error, errors.UserError)
            raise kind(failed.message)
        raise WorkersFailed(f"worker {failed.worker} cannot train: {failed.message}\n{failed.traceback}")
