"""A worker that dials its driver: the loop of every worker, over a line that outlives breaks of the network.

It is started on another machine, by hand, by Slurm or by Ray: `hpsearch worker --dial HOST:PORT --token-file FILE`.
A thread carries the messages, answers the driver's signs of life in the midst of a long epoch, and dials again
after a break. When the driver has gone for longer than the token says, or has removed the token, the worker leaves
at once, with all that it started.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NoReturn

from hpsearch.contracts.messages import FromWorker, ToWorker, TrialRun, WorkerSetup
from hpsearch.contracts.wire import WireError, encode, to_worker
from hpsearch.errors import HpsearchError, UserError
from hpsearch.executors.address import split_address
from hpsearch.executors.line import (
    ANSWER,
    BEAT_EVERY,
    MOST,
    PATIENCE,
    SILENCE,
    Channel,
    Entry,
    Kind,
    LineError,
    Session,
    Token,
    answered,
    greeting,
    read_object,
    read_token,
)
from hpsearch.executors.local import thread_counts
from hpsearch.executors.tls import trusting
from hpsearch.files.paths import is_below
from hpsearch.files.run_folder import RunFolder
from hpsearch.service.signals import heeded
from hpsearch.service.worker import LOOK_UP, TERMINATED, attend, leave_at_once, leave_with_driver
from hpsearch.study.specification import StudySpec
from hpsearch.text import LineFormatter, one_line
from hpsearch.version import __version__

logger = logging.getLogger(__name__)

CHUNK = 1 << 18  # bytes read at a time
FIRST_PAUSE, MOST_PAUSE = 0.05, 2.0  # seconds between two attempts to dial
ANSWERS = 30.0  # seconds in which a driver that may be busy must have answered
HURRY = 10.0  # seconds in which the last words of a worker that was told to leave must have arrived


class Gone(Exception):
    """The driver has gone, or does not want this worker; the sentence says why."""


class Grant:
    """What a worker was started with: whatever its driver says, it uses no other files and no other code.

    Args:
        token_file: lies in the study's folder, below which a worker writes.
        data_roots: files and folders that the driver may name beside the run folder.
        study_folders: where the study's own modules may lie.
        allow: what may be imported, see `training.imports.import_object`.
    """

    def __init__(
        self,
        token_file: Path,
        data_roots: tuple[Path, ...] = (),
        study_folders: tuple[Path, ...] = (),
        allow: tuple[str, ...] = (),
    ) -> None:
        home = token_file.absolute().parent.parent
        self._folder = RunFolder(home.parent, home.name)
        self._data_roots = data_roots
        self._study_folders = study_folders
        self._allow = allow
        self._data_root: str | None = None

    def checked(self, message: ToWorker) -> ToWorker:
        """Returns a message of the driver, by which nothing may be imported that is not allowed here.

        Raises:
            UserError: it names files or folders that this worker was not started with.
        """
        match message:
            case WorkerSetup():
                self._data_root = message.data_root
                _refuse("cache", message.cache, [self._folder.root], "the run folder of its token")
                for folder in message.import_paths:
                    remedy = f"--study-folder {folder}"
                    _refuse("the study's folder", folder, self._study_folders, remedy, itself=True)
                self._check_names(message.spec.objects())
                self._check_places(message.spec)
                return replace(message, allow=self._allow)
            case TrialRun():
                where = "the trials' folder of its token's study"
                for folder in (message.folder, *([message.origin.folder] if message.origin else ())):
                    _refuse(f"folder of trial {message.number}", folder, [self._folder.trials], where)
                self._check_places(message.spec)
        return message

    def _check_names(self, named: Iterable[str]) -> None:
        from hpsearch.training.imports import is_allowed

        for name in named:
            if not is_allowed(name, self._allow):
                _refused("the study's own code", name, f"--allow {name}")

    def _check_places(self, spec: StudySpec) -> None:
        for field, place in spec.places(self._data_root):
            _refuse(field, place, [self._folder.root, *self._data_roots], f"--data-root {place}")


def _refuse(what: str, place: str, granted: Sequence[Path], remedy: str, itself: bool = False) -> None:
    """Refuses a path that is not below one of those granted.

    Args:
        itself: whether it must be one of them.

    Raises:
        UserError: it is not.
    """
    if not any(is_below(place, folder) and (not itself or is_below(folder, place)) for folder in granted):
        _refused(what, place, remedy)


def _refused(what: str, named: str, remedy: str) -> NoReturn:
    raise UserError(
        f'{what}: the driver says "{one_line(named)}", which this worker was not started with; a worker that may use '
        f"it is started with {remedy}"
    )


def work(dial: str, token_file: Path, grant: Grant, name: str = "", with_parent: bool = False) -> int:
    """Serves the driver at an address until it says Shutdown, or a signal comes; returns the exit status.

    Args:
        dial: HOST:PORT.
        grant: what the driver may lead this worker to.
        name: tells the driver's executor which of its workers this is.
        with_parent: whether to leave when the process that has started this one goes, or closes its standard input.

    Raises:
        UserError: the token cannot be used, or the driver names what this worker was not started with.
        HpsearchError: the driver is not there, or refuses this worker.
    """
    address = parse_address(dial)
    token = read_token(token_file)  # a wrong one is said before anything else
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    if os.getpgrp() != os.getpid() and not sys.stdin.isatty():
        os.setpgrp()  # so that all that it starts ends with it
    if with_parent:
        threading.Thread(target=leave_with_driver, args=(0, os.getppid()), daemon=True).start()
    terminated = threading.Event()
    _heed(terminated)
    line = Line(address, token_file, token, name, leave_at_once, grant.checked)
    refused = ""
    try:
        while not line.poll(LOOK_UP):
            if terminated.is_set():
                return TERMINATED
        setup: Any = line.recv()
        # They must stand before torch and NumPy are imported.
        os.environ.update(thread_counts(setup.spec.train.threads))
        attend(line, setup, terminated)
    except EOFError:
        raise HpsearchError(f"--dial {dial}: {line.reason}") from None
    except UserError as error:
        refused = str(error)
        raise
    except Exception:
        logger.exception("this worker fails")  # before the driver hears that it has gone, and reads its log
        return 1
    finally:
        for number in heeded():  # nothing is trained any more
            signal.signal(number, lambda *_: leave_at_once())
        line.close(terminated.is_set(), refused)
    return TERMINATED if terminated.is_set() else 0


def parse_address(dial: str) -> tuple[str, int]:
    """Returns the host and the port of an address.

    Raises:
        UserError: it is none.
    """
    try:
        host, port = split_address(dial)
    except ValueError:
        host, port = "", None
    if not host or not port:
        raise UserError(
            f'--dial: "{one_line(dial, 100)}" is not an address; write HOST:PORT, as the driver prints it'
        )
    return host, port


def _heed(terminated: threading.Event) -> None:
    """Lets the first signal end the work at the epoch's end, and a second Ctrl-C at once."""

    def note(number: int, frame: object) -> None:
        if number == signal.SIGINT and terminated.is_set():
            leave_at_once()
        terminated.set()

    for number in heeded():
        signal.signal(number, note)


class Line:
    """The worker's end of the line to its driver, as a pipe.

    Args:
        leave: ends the process when the driver has gone; what it trains is kept up to its last checkpoint.
        check: returns what is received, or raises.

    Attributes:
        reason: why the line has ended.
    """

    def __init__(
        self,
        address: tuple[str, int],
        token_file: Path,
        token: Token,
        name: str,
        leave: Callable[[], object],
        check: Callable[[ToWorker], ToWorker] = lambda message: message,
    ) -> None:
        self.reason = ""
        self._check = check
        self._tls = trusting(token.certificate) if token.certificate else None
        self._address = address
        self._token_file = token_file
        self._token = token
        self._name = name
        self._leave = leave
        self._id = uuid.uuid4().hex
        self._session = Session()
        self._changed = threading.Condition()
        self._came: deque[ToWorker] = deque()
        self._posted: deque[tuple[Kind, bytes]] = deque()
        self._ended = self._closing = False
        self._ours, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="hpsearch-line", daemon=True)
        self._thread.start()

    def send(self, obj: FromWorker, /) -> None:
        """Sends a message; it arrives once, whatever happens to the network.

        Raises:
            EOFError: the driver has gone.
        """
        self._post(encode(obj), Kind.DATA)

    def recv(self) -> ToWorker:
        """Waits for a message.

        Raises:
            EOFError: the driver has gone.
            UserError: it is refused.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._came or self._ended)
            if not self._came:
                raise EOFError
            return self._check(self._came.popleft())

    def poll(self, timeout: float = 0.0, /) -> bool:
        """Says whether `recv` would return or raise at once, after waiting at most so many seconds for it."""
        with self._changed:
            return bool(self._changed.wait_for(lambda: self._came or self._ended, timeout))

    def close(self, told: bool, refused: str = "") -> None:
        """Says that the worker leaves, and waits until all that it has said has arrived.

        Who was told to leave is in a hurry, and who was given nothing yet has nothing to say.

        Args:
            told: whether it was told to by a signal.
            refused: what it does not do for this driver.
        """
        with contextlib.suppress(EOFError):
            self._closing = True
            self._post(b"told" if told else refused.encode(errors="replace"), Kind.END)
        if told:
            self._thread.join(HURRY if self._session.received else 0.0)
        else:
            self._thread.join()
        if not self._thread.is_alive():  # else it ends with the process
            for end in (self._ours, self._wake):
                end.close()

    def _post(self, body: bytes, kind: Kind) -> None:
        with self._changed:
            if self._ended:
                raise EOFError
            self._posted.append((kind, body))
        with contextlib.suppress(BlockingIOError):  # it is awake already
            self._wake.send(b"x")

    # What the thread does

    def _run(self) -> None:
        try:
            self._carry()
        except Gone as gone:
            self.reason = str(gone)
        except Exception as error:  # a bug must not leave a worker that nobody hears
            logger.exception("the line to the driver has failed")
            self.reason = f"{type(error).__name__}: {error}"
        has_begun = self._session.received > 0
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        if self.reason and has_begun and not self._closing:
            logger.error("%s: this worker leaves", self.reason)
            self._leave()

    def _carry(self) -> None:
        """Dials, and dials again after each break, until all is said or the driver has gone.

        Raises:
            Gone: the driver has gone, or does not want this worker.
        """
        reconnect = self._token.reconnect
        last, pause, told = time.monotonic(), FIRST_PAUSE, ""
        while not (self._closing and self._session.is_acknowledged and not self._posted):
            broken = ""
            self._look_at_token()
            try:
                with self._connect() as connection:
                    channel, broken = self._enter(connection)
                    if channel is not None:
                        logger.info("connected to the driver at %s:%d", *self._address)
                        pause = FIRST_PAUSE
                        try:
                            self._pump(connection, channel)
                            return
                        finally:
                            last = time.monotonic()
                    last = time.monotonic()  # there is a driver, which will want this worker later
            except (OSError, LineError) as error:
                broken = str(error) or type(error).__name__
            if self._closing and not self._session.received:
                raise Gone("told to leave before it was given anything to do")
            if time.monotonic() - last > reconnect:
                raise Gone(f"there is no driver: {broken} (tried for {reconnect:g} s)")
            if broken != told:
                logger.warning("no connection to the driver: %s; dials again", broken)
                told = broken
            time.sleep(pause)
            pause = min(2 * pause, MOST_PAUSE)

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(self._address, ANSWERS)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection if self._tls is None else self._tls.wrap_socket(connection)
        except OSError:
            connection.close()
            raise

    def _look_at_token(self) -> None:
        """Looks whether the driver has removed its token, or had gone before this worker began.

        Raises:
            Gone: it has.
        """
        try:
            age = 0.0 if self._session.received else _age(self._token_file)
            self._token_file.stat()
        except FileNotFoundError:
            raise Gone(f"the driver has ended (its token {self._token_file} has gone)") from None
        except OSError as error:  # shared file systems have hiccups
            logger.info("the driver's token cannot be looked at: %s", error)
            return
        if age > max(self._token.reconnect, SILENCE):
            raise Gone(f"the driver has gone (its token {self._token_file} is {age:.0f} s old)")

    def _enter(self, connection: socket.socket) -> tuple[Channel | None, str]:
        """Proves both ends and enters; returns the channel, or why the driver does not want the worker yet.

        Raises:
            Gone: the driver refuses this worker.
            LineError, OSError: the connection is broken.
        """
        key = self._token.key
        greeted = greeting(key)
        connection.sendall(greeted)
        said = b""
        while len(said) < ANSWER:
            said += _received(connection, ANSWER - len(said))
        connection.settimeout(PATIENCE)
        channel = answered(key, greeted, said)
        channel.most = MOST  # this driver has the token
        entry = Entry(self._name, self._id, self._session.received, __version__)
        connection.sendall(channel.seal(Kind.ENTER, entry.body()))
        frames: list[tuple[Kind, bytes]] = []
        while not frames:
            frames = list(channel.feed(_received(connection, CHUNK)))
        kind, body = frames[0]
        answer = read_object(body)
        if kind is Kind.REFUSED:
            raise Gone(f"refused: {answer.get('text')}")
        if kind is Kind.LATER:
            return None, str(answer.get("text"))
        if kind is not Kind.WELCOME or type(answer.get("received")) is not int:
            raise LineError(f"{kind.name} in answer to ENTER")
        self._session.acknowledge(answer["received"])
        for frame in self._session.again():
            connection.sendall(channel.seal(*frame))
        for frame in frames[1:]:
            self._hear(*frame)
        return channel, ""

    def _pump(self, connection: socket.socket, channel: Channel) -> None:
        """Carries messages until all is said.

        Raises:
            LineError, OSError: the connection is broken.
        """
        connection.settimeout(SILENCE)
        heard = beaten = time.monotonic()
        while not (self._closing and not self._posted and self._session.is_acknowledged):
            pause = max(0.0, beaten + BEAT_EVERY - time.monotonic())
            ready = wait([connection, self._ours], pause)
            if self._ours in ready:
                self._ours.recv(4096)
            while self._posted:
                kind, body = self._posted.popleft()
                frame = self._session.post(body, kind)
                connection.sendall(channel.seal(*frame))
                beaten = time.monotonic()
            if connection in ready:
                for frame in channel.feed(_received(connection, CHUNK)):
                    self._hear(*frame)
                heard = time.monotonic()
            if time.monotonic() - heard > SILENCE:
                raise LineError(f"silent for {SILENCE:g} s")
            if time.monotonic() - beaten >= BEAT_EVERY:
                connection.sendall(channel.seal(*self._session.beat()))
                beaten = time.monotonic()

    def _hear(self, kind: Kind, body: bytes) -> None:
        if kind is Kind.KILL:
            raise Gone("killed by the driver")
        if kind not in (Kind.DATA, Kind.BEAT):
            raise LineError(f"{kind.name} from a driver")
        text = self._session.take(kind, body)
        if text is None:
            return
        try:
            message = to_worker(text)
        except WireError as error:
            raise Gone(f"the driver sent an invalid message: {error}") from None
        with self._changed:
            self._came.append(message)
            self._changed.notify_all()


def _received(connection: socket.socket, most: int) -> bytes:
    data = connection.recv(most)
    if not data:
        raise LineError("the driver has hung up")
    return data


def _age(path: Path) -> float:
    """Returns how long ago a file was touched, by the clock of its own file system.

    Raises:
        OSError: it is not there, or cannot be looked at.
    """
    with path.open("rb") as file, tempfile.TemporaryFile(dir=path.parent) as now:
        return os.fstat(now.fileno()).st_mtime - os.fstat(file.fileno()).st_mtime
