"""Publishes graphs, notes and the best weights into the dashboard while a study runs.

The driver's thread must not wait: another process computes (`hpsearch.results.dashboard.publication`), this callback
asks it now and then and writes what it hands back, one short transaction at a time. What is not there some seconds
after the end of a run, a process that outlives it computes and writes:

    python -m hpsearch.results.dashboard.publisher < request
"""

import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hpsearch.contracts.callbacks import Callback, FinishedTrial, RunSummary, StudyInfo
from hpsearch.errors import HpsearchError, StorageAway
from hpsearch.executors.local import own_paths, python_module
from hpsearch.files.run_folder import RunFolder
from hpsearch.results.dashboard.publication import STEP_BACK, Change, Publication, PublicationRequest, compute
from hpsearch.store.connection import open_storage
from hpsearch.store.writes import change_study_attrs

logger = logging.getLogger(__name__)

SOON = 10.0  # seconds between two publications when there is a new best
INTERVAL = 30.0  # seconds otherwise
SHARE = 20.0  # a publication that takes long is made less often: at most this part of the time
WRITTEN = (
    0.5  # seconds after a trial's end: the driver gathers what it writes, and reading sooner would miss it
)
AT_END = 10.0  # seconds that the end of the run waits for the last publication
AFTER_SIGNAL = 3.0  # the same when the user wants to leave
AWAY = 60.0  # seconds to keep clear of a database that did not answer

_outliving: list["subprocess.Popen[bytes]"] = []  # kept, so that they can be waited for


class Publisher(Callback):
    """Keeps the dashboard's graphs, notes and artifact of one study up to date.

    Nothing that goes wrong here harms the study: it is told as a warning.

    Args:
        storage: URL of the database; it reaches the other process through a pipe, not through its arguments.
        run_folder: holds the artifact store.
    """

    def __init__(self, storage: str, run_folder: Path) -> None:
        self._url = storage
        self._run_folder = run_folder.absolute()
        self._study = ""
        self._storage: Any = None
        self._process: _PublicationProcess | None = None
        self._queue: list[Change] = []
        self._warned: set[str] = set()
        self._news = self._best = False
        self._news_at = 0.0
        self._last = time.monotonic()
        self._took = 0.0
        self._away_until = 0.0

    def on_study_start(self, info: StudyInfo) -> None:
        self._study = info.spec.study.name
        self._news = any(info.finished.values())

    def on_trial_end(self, trial: FinishedTrial) -> None:
        self._news = True
        self._news_at = time.monotonic()
        self._best = self._best or trial.is_best

    def on_tick(self) -> None:
        if self._queue:
            self._write(self._queue[:1])
        elif self._process is not None and self._process.busy:
            self._collect(0.0)
        elif self._is_due():
            self._ask()

    def on_study_end(self, summary: RunSummary) -> None:
        """Publishes the final state.

        The process that computes takes seconds to start on a busy machine, so that a user who has pressed
        Ctrl-C early, before any trial has ended, must not wait for a page without graphs.
        """
        if summary.cold or summary.lost or not summary.any_finished:
            self._end_process()
            return
        self.publish(summary.study, AFTER_SIGNAL if summary.exit_status > 128 else AT_END)

    def publish(self, study: str, patience: float = AT_END) -> None:
        """Publishes a study as it is now; what takes longer than so many seconds is left to another process."""
        self._study = study
        deadline = time.monotonic() + patience
        if self._process is not None and self._process.busy:
            self._end_process()  # what it computes is out of date
        self._queue.clear()
        self._away_until = 0.0
        self._ask()
        if not self._collect(patience):
            self._leave_to_another(patience)
        self._end_process()
        while self._queue and time.monotonic() < deadline:
            self._write(self._queue[:1])
        if self._storage is not None:
            self._storage.engine.dispose()
            self._storage = None

    def _leave_to_another(self, patience: float) -> None:
        try:
            number = _start_outliving(self._request(), RunFolder(self._run_folder, self._study).dashboard_log)
        except OSError as error:
            logger.warning("the dashboard's graphs may lack the last trials: %s; run the study again", error)
            return
        logger.warning(
            "the dashboard's graphs were not finished after %g s; process %d finishes them in the background",
            patience,
            number,
        )

    def _request(self) -> PublicationRequest:
        return PublicationRequest(self._url, self._study, str(self._run_folder))

    def _is_due(self) -> bool:
        interval = max(SOON if self._best else INTERVAL, SHARE * self._took)
        now = time.monotonic()
        written = now - self._news_at >= WRITTEN
        return self._news and written and now - self._last >= interval and now >= self._away_until

    def _ask(self) -> None:
        self._news = self._best = False
        self._last = time.monotonic()
        if self._process is None:
            self._process = _PublicationProcess()
        self._process.ask(self._request())

    def _collect(self, seconds: float) -> bool:
        """Queues the answer if it comes within so many seconds; says whether it has come, or never will."""
        process = self._process
        if process is None or not process.wait(seconds):
            return False
        self._took = time.monotonic() - self._last
        try:
            answer = process.answer()
        except HpsearchError as error:
            self._end_process()
            logger.warning("the dashboard's graphs could not be drawn: %s", error)
        else:
            self._queue = list(answer.changes)
            for warning in answer.warnings:
                if warning not in self._warned:  # it would come again with every publication
                    logger.warning("%s", warning)
            self._warned.update(answer.warnings)
        return True

    def _end_process(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None

    def _write(self, some: list[Change]) -> None:
        try:
            if self._storage is None:
                self._storage = open_storage(self._url, timeout=2.0)
            for change in some:
                write(self._storage, self._study, change)
                self._queue.remove(change)
        except (HpsearchError, OSError) as error:
            self._queue.clear()
            self._news = True
            self._away_until = time.monotonic() + (AWAY if isinstance(error, StorageAway) else 0.0)
            logger.warning("the dashboard's graphs could not be stored: %s; tried again later", error)


def write(storage: Any, study: str, change: Change) -> None:
    """Writes one change of a study into an open database.

    Raises:
        HpsearchError: the database, or no such study.
        OSError: a file that is not shown any more cannot be deleted.
    """
    change_study_attrs(storage, study, change.attrs, change.removed)
    for path in change.files:
        Path(path).unlink(missing_ok=True)


def _start_outliving(request: PublicationRequest, log: Path) -> int:
    """Starts a process that publishes a study by itself, also after this one has ended; returns its id.

    Raises:
        OSError: it cannot be started, or the log cannot be written.
    """
    _outliving[:] = [process for process in _outliving if process.poll() is None]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as errors, tempfile.TemporaryFile() as asked:
        asked.write(json.dumps(asdict(request)).encode())
        asked.seek(0)
        process = subprocess.Popen(
            python_module("hpsearch.results.dashboard.publisher"),
            stdin=asked,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=own_paths(os.environ),
            start_new_session=True,
        )
    _outliving.append(process)
    return process.pid


class _PublicationProcess:
    """The process that computes publications, one after another.

    Attributes:
        busy: whether it has been asked and its answer not been taken.
    """

    def __init__(self) -> None:
        self.busy = False
        # Files without a name: nothing of them is left, however this process and the other one end.
        self._files = contextlib.ExitStack()
        output, errors = tempfile.TemporaryFile("w+b"), tempfile.TemporaryFile("w+b")  # noqa: SIM115
        self._output, self._errors = self._files.enter_context(output), self._files.enter_context(errors)
        self._process = subprocess.Popen(
            python_module("hpsearch.results.dashboard.publication"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            pass_fds=(self._output.fileno(),),
            env=own_paths(os.environ),
            start_new_session=True,  # Ctrl-C is meant for the driver
        )
        assert self._process.stdin is not None  # PIPE was asked for
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout

    def ask(self, request: PublicationRequest) -> None:
        """Sends a request; one to a process that has died is answered with its last words."""
        self.busy = True
        request = replace(request, output=self._output.fileno())
        with contextlib.suppress(BrokenPipeError):
            # Far smaller than a pipe's buffer: this does not block.
            self._requests.write(json.dumps(asdict(request)).encode() + b"\n")
            self._requests.flush()

    def wait(self, seconds: float) -> bool:
        """Waits for the answer or the process's end; returns whether either has come."""
        ready, _, _ = select.select([self._answers], [], [], max(0.0, seconds))
        return bool(ready)

    def answer(self) -> Publication:
        """Returns what it has found, once `wait` has said so.

        Raises:
            HpsearchError: it failed; the message holds its last words.
        """
        self.busy = False
        said = self._answers.readline()
        if not said:
            self._errors.seek(0)
            words = self._errors.read().decode(errors="replace").strip().splitlines()
            raise HpsearchError(words[-1] if words else f"exit status {self._process.wait()}")
        if error := json.loads(said).get("error"):
            raise HpsearchError(error)
        self._output.seek(0)
        found = json.loads(self._output.read())
        changes = (
            Change(one["what"], one["attrs"], tuple(one["removed"]), tuple(one["files"]))
            for one in found["changes"]
        )
        return Publication(tuple(changes), tuple(found["warnings"]))

    def end(self) -> None:
        """Ends it; it only reads, so nothing is lost."""
        self._process.kill()
        self._process.communicate()
        self._files.close()


def main() -> None:
    """Publishes the study that stdin asks for."""
    os.nice(STEP_BACK)
    request = PublicationRequest(**json.load(sys.stdin))
    storage = None
    try:
        found = compute(request)
        storage = open_storage(request.storage, timeout=AWAY)
        for change in found.changes:
            write(storage, request.study, change)
    except (HpsearchError, OSError) as error:
        sys.exit(f"{request.study}: the dashboard's graphs could not be finished: {error}")
    finally:
        if storage is not None:
            storage.engine.dispose()
    for warning in found.warnings:
        print(f"{request.study}: {warning}", file=sys.stderr)


if __name__ == "__main__":
    main()
