"""Workers that dial: started by hand, by a scheduler, or by Ray, and reached over a socket.

`DialExecutor` is for workers that are started by hand. Slurm's and Ray's executors are the same with something
that starts the workers: see `DialExecutor.begin`, `tend`, `end` and `left`.
"""

import contextlib
import errno
import json
import logging
import os
import resource
import secrets
import selectors
import shlex
import socket
import ssl
import time
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path

from hpsearch.contracts.executor import WorkerPlace, Workers
from hpsearch.contracts.messages import (
    EpochResult,
    FromWorker,
    PlaceAdded,
    PlaceRemoved,
    Ready,
    Shutdown,
    ToWorker,
    TrialEnd,
    TrialRun,
    TrialStarted,
    Waiting,
    WorkerExit,
    WorkerSetup,
)
from hpsearch.contracts.places import Cluster
from hpsearch.contracts.wire import WireError, encode, from_worker
from hpsearch.errors import DeviceError, UserError
from hpsearch.executors.address import split_address
from hpsearch.executors.line import (
    BEAT_EVERY,
    GREETING,
    MOST,
    PATIENCE,
    SILENCE,
    Channel,
    Entry,
    Kind,
    LineError,
    Session,
    Token,
    answer,
    read_token,
)
from hpsearch.executors.places import refuse_share
from hpsearch.executors.tls import certified
from hpsearch.files.run_folder import RunFolder
from hpsearch.store.identity import DriverIdentity
from hpsearch.text import one_line
from hpsearch.version import __version__

logger = logging.getLogger(__name__)

STRANGERS = 256  # connections that have yet to prove who they are; of more, the oldest are hung up on
GREETINGS = 4096  # of workers, the last ones of which are known again
BACKLOG = 1024  # connections that the system holds while the driver is busy
CHUNK = 1 << 18  # bytes read at a time
SAY_AGAIN = 60.0  # seconds between two messages of a worker that is waited for
KILLED = 5.0  # seconds in which a worker must have hung up after it was killed
IDLE = 60.0  # seconds without a trial after which a scheduler's worker leaves while others train
TENDED = 0.2  # seconds after which beats and deadlines are looked at while nothing comes
LATER = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""A socket has nothing to read, or no room to write."""


@dataclass(eq=False, slots=True)
class _Connection:
    """A connection; one without a worker is a stranger's."""

    socket: socket.socket
    since: float
    heard: float
    beaten: float = 0.0
    greeting: bytes = b""
    channel: Channel | None = None
    remote: "RemoteWorker | None" = None
    outgoing: bytearray = field(default_factory=bytearray)
    is_writing: bool = False


@dataclass(eq=False, slots=True)
class RemoteWorker:
    """A worker that was started, whether it has dialled yet or not.

    Attributes:
        granted: flags of its worker that say what it may be told to use.
        process: names the process that has taken it; "" before.
        lost: when its connection broke (monotonic seconds); None while there is one, or was none yet.
        silent: whether the connection broke without a word of the other end's system, or while the driver was
            away: the worker may have left for lack of a driver.
        killed: when it was killed.
        said: what was last said of its waiting, and when.
        folders: of the trials that it was given, by number.
        is_ready: whether it has said that it can train.
        has_trained: whether it has finished an epoch.
    """

    place: WorkerPlace
    granted: tuple[str, ...] = ()
    session: Session = field(default_factory=Session)
    process: str = ""
    connection: _Connection | None = None
    lost: float | None = None
    silent: bool = False
    killed: float | None = None
    said: tuple[str, float] = ("", 0.0)
    folders: dict[int, str] = field(default_factory=dict)
    is_ready: bool = False
    has_trained: bool = False

    @property
    def has_entered(self) -> bool:
        return bool(self.process)


class DialExecutor:
    """Listens for workers, proves who they are, and carries messages; strangers cost next to nothing.

    Everything happens in `receive`, in the driver's own thread: a thread beside it would fight for the
    interpreter. What has no token is hung up on after its first bytes, or after `PATIENCE`.
    """

    by_hand = True
    """Whether people start the workers: one that refuses its driver was started wrongly, and another may come."""

    def __init__(self, folder: RunFolder, cluster: Cluster) -> None:
        self.folder = folder
        self.cluster = cluster
        self.remotes: dict[int, RemoteWorker] = {}
        self.retired: dict[int, WorkerPlace] = {}
        self._idle: dict[int, float] = {}
        self.identity = DriverIdentity.here()
        self._token = Token(
            secrets.token_hex(32),
            cluster.reconnect,
            self.identity.host,
            self.identity.pid,
            self.identity.started,
        )
        self.ready: deque[FromWorker] = deque()
        self._strangers: dict[_Connection, None] = {}  # in the order in which they came
        self._selector: selectors.BaseSelector | None = None
        self._listener: socket.socket | None = None
        self._tls: ssl.SSLContext | None = None
        self._greeted: dict[bytes, None] = {}
        self._refused = 0
        self._host = ""
        self._turned = time.time()
        self._returned = float("-inf")
        self._touched = 0.0
        self._tended = float("-inf")

    # What a scheduler adds

    def begin(self, remote: RemoteWorker, setup: WorkerSetup) -> None:
        """Starts a worker; by hand, somebody is asked to."""

    def tend(self, now: float) -> None:
        """Looks after what was started, several times a second; says what is waited for."""
        for remote in self.remotes.values():
            if not remote.has_entered:
                command = shlex.join(["hpsearch", *self.arguments(remote)])
                self.say(remote, f"waits for a worker: start one with {command}", now)

    def arguments(self, remote: RemoteWorker) -> list[str]:
        """Returns the words after `hpsearch` that start a worker."""
        return ["worker", "--dial", self.address, "--token-file", str(self.token_file), *remote.granted]

    def end(self, remote: RemoteWorker) -> None:
        """Ends at once what was started for a worker, whether it has dialled or not."""

    def left(self, deadline: float) -> None:
        """Sees gone what was started, at the end of the run; ends what is left."""

    def retire(self, now: float) -> None:
        """Lets the workers go that have had no trial for a while, as long as others train; for use in `tend`."""
        busy = any(remote.folders for remote in self.remotes.values())
        for number, remote in self.remotes.items():
            if not remote.is_ready or remote.folders or number in self.retired:
                self._idle.pop(number, None)
            elif busy and now - self._idle.setdefault(number, now) > IDLE:
                logger.info("worker %d has nothing to train: its place is released", number)
                self.retired[number] = remote.place
                self.send(number, Shutdown())

    def remote_of(self, entry: Entry) -> RemoteWorker | None:
        """Returns the started worker that dials for the first time; None if it must wait."""
        return next((remote for remote in self.remotes.values() if not remote.has_entered), None)

    # The executor

    @property
    def token_file(self) -> Path:
        return self.folder.dial_token(self.identity.id)

    @property
    def address(self) -> str:
        """HOST:PORT, as workers dial it."""
        host, port = self.listen()
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def default_host(self) -> str:
        """Returns the address to listen on where none was given."""
        return "127.0.0.1"

    def places(self, wanted: Workers, threads: int, share: str) -> list[WorkerPlace]:
        refuse_share(share, "dial")
        if wanted.gpus not in ("auto", "all", "none"):
            raise DeviceError(
                f"--gpus {wanted.gpus}: with --executor dial, each worker chooses its GPU by its own "
                "CUDA_VISIBLE_DEVICES; give auto, all or none"
            )
        for name in ("workers_per_gpu", "gpus_per_trial"):
            if (number := getattr(wanted, name)) != 1:
                raise DeviceError(
                    f"--{name.replace('_', '-')} {number}: with --executor dial, each worker uses one GPU where it is "
                    "started; leave the flag out"
                )
        self.listen()
        return [WorkerPlace(number, (), threads) for number in range(wanted.workers or 1)]

    def start(self, place: WorkerPlace, setup: WorkerSetup) -> None:
        _refuse_foreign_names(setup)
        setup = _from_anywhere(setup)
        self.listen()
        remote = RemoteWorker(place, _granted(setup))
        self.remotes[place.worker] = remote
        remote.session.post(encode(setup))
        self.begin(remote, setup)

    def send(self, worker: int, message: ToWorker) -> None:
        remote = self.remotes.get(worker)
        if remote is not None and remote.killed is None:
            if isinstance(message, TrialRun):
                remote.folders[message.number] = message.folder
                self._recall(worker)
            frame = remote.session.post(encode(message))
            if remote.connection is not None:
                self._write(remote.connection, *frame)

    def receive(self, timeout: float) -> list[FromWorker]:
        deadline = time.monotonic() + timeout
        while True:
            wait = 0.0 if self.ready else max(0.0, deadline - time.monotonic())
            self._turn(min(wait, TENDED))
            now = time.monotonic()
            if now - self._tended >= TENDED:  # with thousands of workers it costs more than their messages
                self._tended = now
                self._look_at_the_clock(now)
                self.tend(now)
            if self.ready or now >= deadline:
                break
        messages = list(self.ready)
        self.ready.clear()
        return messages

    def kill(self, worker: int) -> None:
        remote = self.remotes.get(worker)
        if remote is None or remote.killed is not None:
            return
        remote.killed = time.monotonic()
        self.end(remote)
        if not remote.has_entered:
            self.bury(remote, "was ended before it began")
        elif remote.connection is not None:
            self._write(remote.connection, Kind.KILL)

    def close(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        for worker, remote in list(self.remotes.items()):
            self.send(worker, Shutdown())
            if not remote.has_entered:
                self.kill(worker)
        while self.remotes and time.monotonic() < deadline:
            self.receive(0.1)
        for worker in list(self.remotes):
            self.kill(worker)
        enough = time.monotonic() + KILLED
        while self.remotes and time.monotonic() < enough + 1.0:
            self.receive(0.1)
        self.left(max(deadline - 1.0, enough))
        self._hang_up_on_all()
        self.ready.clear()

    def say(self, remote: RemoteWorker, text: str, now: float) -> None:
        """Tells what a worker waits for, when that changes and now and then."""
        if text != remote.said[0] or now - remote.said[1] >= SAY_AGAIN:
            remote.said = text, now
            self.ready.append(Waiting(remote.place.worker, text))

    def _recall(self, worker: int) -> None:
        """Wants a worker back that has left for lack of trials, where no other is left to take the next one."""
        self._idle.pop(worker, None)
        gone = self.retired.keys() - self.remotes.keys()
        if gone and not self._idle:
            place = self.retired.pop(number := min(gone))
            logger.info("worker %d is needed again", number)
            self.ready.append(PlaceAdded(place))

    def bury(self, remote: RemoteWorker, reason: str, stderr: str = "", blameless: bool = False) -> None:
        """Tells that a worker has gone, after all that it has said."""
        number = remote.place.worker
        if self.remotes.get(number) is not remote:
            return
        del self.remotes[number]
        self._idle.pop(number, None)
        if remote.connection is not None:
            self._close(remote.connection)
        self.ready.append(WorkerExit(number, reason, stderr, blameless or number in self.retired))
        if number in self.retired:
            self.ready.append(PlaceRemoved(number))

    # The listener

    def listen(self) -> tuple[str, int]:
        """Opens the listener and writes the token's file, once; returns the address as workers dial it.

        Raises:
            UserError: the address cannot be had, or the file cannot be written.
        """
        if self._listener is None:
            given = self.cluster.listen or self.default_host()
            try:
                self._host, port = split_address(given)
            except ValueError as error:
                raise UserError(
                    f'--listen "{one_line(given, 100)}": {error}; write HOST or HOST:PORT'
                ) from None
            self._open(given, self._host, port or 0)
        assert self._listener is not None
        shown = socket.gethostname() if self._host in ("0.0.0.0", "::") else self._host
        return shown, self._listener.getsockname()[1]

    def _open(self, given: str, host: str, port: int) -> None:
        if self.cluster.tls:
            self._tls, certificate = certified()
            self._token = replace(self._token, certificate=certificate)
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
            self._listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError as error:
            raise UserError(
                f'--listen "{given}": cannot be listened on: {error}; give an address of this machine that '
                "workers can reach, or another port"
            ) from None
        _allow_many_files()
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        try:
            self._remove_left_tokens()
            self._token.write(self.token_file)
        except OSError as error:
            self._hang_up_on_all()
            raise UserError(
                f"--run-folder: {self.token_file} cannot be written: {error.strerror}; choose another folder"
            ) from None

    def _remove_left_tokens(self) -> None:
        """Removes the tokens of drivers that were killed: their workers leave when they find none."""
        for path in self.token_file.parent.glob("*.token"):
            with contextlib.suppress(UserError):  # another driver's business
                token = read_token(path)
                if DriverIdentity(token.host, token.pid, token.started).is_dead():
                    self.driver_is_dead(path.stem)
                    path.unlink(missing_ok=True)

    def driver_is_dead(self, driver: str) -> None:
        """Cleans up after another driver of this folder that was killed.

        Args:
            driver: begins the id of its identity.
        """

    def _turn(self, timeout: float) -> None:
        """Reads and writes what can be read and written."""
        if self._selector is None:
            time.sleep(timeout)
            return
        now = time.time()  # monotonic time does not count sleep
        if now - self._turned > SILENCE:
            self._returned = time.monotonic()
        self._turned = now
        for key, events in self._selector.select(timeout):
            if key.data is None:
                self._accept()
                continue
            connection: _Connection = key.data
            if events & selectors.EVENT_READ:
                self._read(connection)
            if events & selectors.EVENT_WRITE and connection.socket.fileno() >= 0:
                self._flush(connection)

    @property
    def _was_away(self) -> bool:
        """Whether this process has just been suspended, or busy, for so long that workers may have left."""
        return time.monotonic() - self._returned < SILENCE

    def has_left_alone(self, remote: RemoteWorker) -> bool:
        """Says whether a worker that has gone may have found no driver, which is not its fault."""
        return remote.silent or (not remote.has_entered and self._was_away)

    def _accept(self) -> None:
        assert self._listener is not None
        assert self._selector is not None
        for _ in range(STRANGERS):
            try:
                one, _ = self._listener.accept()
            except OSError as error:  # nobody there, who was there has gone, or the system has no room for it
                if error.errno in (errno.EMFILE, errno.ENFILE) and self._strangers:
                    self._close(self._oldest_stranger())
                return
            try:
                one.setblocking(False)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                one.getpeername()  # here rather than there, where the socket would be left open
                if self._tls is not None:
                    one = self._tls.wrap_socket(one, server_side=True, do_handshake_on_connect=False)
            except OSError:  # who was there has hung up already
                one.close()
                continue
            now = time.monotonic()
            connection = _Connection(one, now, now)
            self._strangers[connection] = None
            self._selector.register(one, selectors.EVENT_READ, connection)
            if len(self._strangers) > STRANGERS:
                self._close(self._oldest_stranger())
            self._read(connection)  # a worker greets at once

    def _oldest_stranger(self) -> _Connection:
        unproven = (other for other in self._strangers if other.channel is None)
        return next(unproven, next(iter(self._strangers)))

    def _read(self, connection: _Connection) -> None:
        self._read_some(connection)
        while isinstance(connection.socket, ssl.SSLSocket) and connection.socket.pending():
            self._read_some(connection)  # what is decrypted already wakes no selector

    def _read_some(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(CHUNK if connection.remote is not None else GREETING)
        except LATER:
            return
        except OSError:
            data = b""
        if not data:
            self._close(connection)
            return
        connection.heard = time.monotonic()
        try:
            self._hear(connection, data)
        except LineError as error:
            if connection.remote is None:
                self._refused += 1
                logger.debug("unknown connection number %d closed: %s", self._refused, error)
            else:
                logger.warning(
                    "worker %d: its connection is closed: %s", connection.remote.place.worker, error
                )
            self._close(connection)

    def _hear(self, connection: _Connection, data: bytes) -> None:
        if connection.channel is None:
            connection.greeting += data
            if len(connection.greeting) < GREETING:
                return
            greeted, data = connection.greeting[:GREETING], connection.greeting[GREETING:]
            said, connection.channel = answer(self._token.key, greeted)
            if greeted in self._greeted:
                raise LineError("a repeated greeting")
            self._greeted[greeted] = None
            if len(self._greeted) > GREETINGS:
                del self._greeted[next(iter(self._greeted))]
            connection.outgoing += said
            self._flush(connection)
        for kind, body in connection.channel.feed(data):
            if connection.remote is None:
                self._enter(connection, kind, body)
            elif kind in (Kind.DATA, Kind.END, Kind.BEAT):
                message = connection.remote.session.take(kind, body)
                if message is not None:
                    self._take(connection.remote, kind, message)
            if connection.socket.fileno() < 0:  # closed by what was heard
                return

    def _enter(self, connection: _Connection, kind: Kind, body: bytes) -> None:
        if kind is not Kind.ENTER:
            raise LineError(f"{kind.name} before ENTER")
        entry = Entry.read(body)
        if entry.version != __version__:
            text = (
                f"its driver runs hpsearch {__version__} and this worker {entry.version}; install the same version "
                "for both"
            )
            self._turn_away(connection, Kind.REFUSED, text)
            return
        remote = next((one for one in self.remotes.values() if one.process == entry.session), None)
        if remote is None and entry.received:
            self._turn_away(connection, Kind.REFUSED, "its driver no longer knows it")
            return
        remote = remote or self.remote_of(entry)
        if remote is None:
            self._turn_away(connection, Kind.LATER, "its driver has all the workers it wants")
            return
        if remote.connection is not None:
            self._close(remote.connection)
        assert connection.channel is not None
        connection.channel.most = MOST
        self._strangers.pop(connection, None)
        remote.process, remote.connection, remote.lost, connection.remote = (
            entry.session,
            connection,
            None,
            remote,
        )
        remote.silent = False
        remote.session.acknowledge(entry.received)
        self._write(connection, Kind.WELCOME, json.dumps({"received": remote.session.received}).encode())
        for frame in remote.session.again():
            self._write(connection, *frame)
        if remote.killed is not None:
            self._write(connection, Kind.KILL)

    def _turn_away(self, connection: _Connection, kind: Kind, text: str) -> None:
        self._write(connection, kind, json.dumps({"text": text}).encode())
        self._close(connection)

    def _take(self, remote: RemoteWorker, kind: Kind, body: bytes) -> None:
        if kind is Kind.END:
            if remote.connection is not None:
                self._write(remote.connection, *remote.session.beat())
            self.ended(remote, body.decode("utf-8", "replace"))
            return
        try:
            message = from_worker(body)
            self._check(remote, message)
        except WireError as error:
            self.end(remote)
            self.bury(remote, f"was disconnected for an invalid message: {error}")
            return
        remote.is_ready = remote.is_ready or isinstance(message, Ready)
        remote.has_trained = remote.has_trained or isinstance(message, EpochResult)
        self.ready.append(message)

    def ended(self, remote: RemoteWorker, why: str) -> None:
        """Notes that a worker has left by itself.

        Args:
            why: "told" by a signal, as of a scheduler that wants its place for others; what it refuses; or "".
        """
        if why == "told":
            self.bury(remote, "was told to leave by a signal", blameless=True)
        else:
            said = f"left: {one_line(why, 500)}" if why else "left"
            self.bury(remote, said, blameless=bool(why) and self.by_hand)

    def _check(self, remote: RemoteWorker, message: FromWorker) -> None:
        """Refuses a message that only another worker may send, or that names files elsewhere.

        Raises:
            WireError: it is one.
        """
        if getattr(message, "worker", remote.place.worker) != remote.place.worker:
            raise WireError(f"{type(message).__name__} of another worker")
        if not isinstance(message, TrialStarted | EpochResult | TrialEnd):
            return
        folder = remote.folders.get(message.number)
        if folder is None:
            raise WireError(f"{type(message).__name__} of trial {message.number}, which it was not given")
        if isinstance(message, TrialEnd):
            del remote.folders[message.number]
            path = Path(message.weights or folder)
            if ".." in path.parts or not path.is_relative_to(folder):
                raise WireError(f"weights outside its trial's folder: {path}")

    # Connections

    def _write(self, connection: _Connection, kind: Kind, body: bytes = b"") -> None:
        if connection.socket.fileno() < 0:
            return
        assert connection.channel is not None
        connection.outgoing += connection.channel.seal(kind, body)
        connection.beaten = time.monotonic()
        self._flush(connection)

    def _flush(self, connection: _Connection) -> None:
        assert self._selector is not None
        try:
            while connection.outgoing:
                sent = connection.socket.send(connection.outgoing)
                del connection.outgoing[:sent]
        except LATER:
            pass
        except OSError:
            connection.outgoing.clear()  # what it said before it hung up is still to be read
        if bool(connection.outgoing) != connection.is_writing:
            connection.is_writing = bool(connection.outgoing)
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.is_writing else 0)
            self._selector.modify(connection.socket, events, connection)

    def _close(self, connection: _Connection, silent: bool = False) -> None:
        if connection.socket.fileno() < 0:
            return
        assert self._selector is not None
        self._selector.unregister(connection.socket)
        connection.socket.close()
        self._strangers.pop(connection, None)
        remote = connection.remote
        if remote is not None and remote.connection is connection:
            remote.connection, remote.lost, remote.silent = None, time.monotonic(), silent or self._was_away

    def _look_at_the_clock(self, now: float) -> None:
        if now - self._touched >= BEAT_EVERY:  # its age tells workers whether there is a driver
            self._touched = now
            with contextlib.suppress(OSError):
                os.utime(self.token_file)
        for connection in list(self._strangers):
            if now - connection.since <= PATIENCE:
                break
            self._close(connection)
        for remote in list(self.remotes.values()):
            line = remote.connection
            if line is not None and now - line.heard > SILENCE:
                self._close(line, silent=True)
            elif line is not None and now - line.beaten >= BEAT_EVERY:
                self._write(line, *remote.session.beat())
            if remote.killed is not None and remote.has_entered:
                if remote.connection is None:
                    self.bury(remote, "was killed")
                elif now - remote.killed > KILLED:
                    self.bury(remote, "was killed, but has not hung up")
            elif remote.lost is not None and now - remote.lost > self._token.reconnect:
                text = f"could not be reached for {self._token.reconnect:g} s"
                self.bury(remote, text, blameless=remote.silent)

    def _hang_up_on_all(self) -> None:
        if self._selector is None or self._listener is None:
            return
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                self._close(key.data)
        self._listener.close()
        self._selector.close()
        self._listener = self._selector = None
        self.remotes.clear()
        self.token_file.unlink(missing_ok=True)


def _from_anywhere(setup: WorkerSetup) -> WorkerSetup:
    """Returns a setup that means the same data for a worker that is started in another folder."""
    root = dict(setup.spec.places(setup.data_root)).get("data.root")
    return setup if root is None else replace(setup, data_root=os.path.abspath(root))


def _granted(setup: WorkerSetup) -> tuple[str, ...]:
    """Returns the flags of a worker that say what it may be told to use; it refuses all else."""
    named = setup.spec.objects() if setup.allow is None else setup.allow
    flags = [
        *(("--data-root", os.path.abspath(place)) for _, place in setup.spec.places(setup.data_root)),
        *(("--study-folder", folder) for folder in setup.import_paths),
        *(("--allow", name) for name in named),
    ]
    return tuple(word for flag in dict.fromkeys(flags) for word in flag)


def _refuse_foreign_names(setup: WorkerSetup) -> None:
    """Refuses paths that no message can carry.

    Raises:
        UserError: a path is not UTF-8.
    """
    paths = [("--data-root", setup.data_root or ""), ("--run-folder", setup.cache)]
    for name, path in [*paths, *(("the study's folder", path) for path in setup.import_paths)]:
        try:
            path.encode()
        except UnicodeEncodeError:
            raise UserError(
                f'{name}: "{one_line(path)}" is not UTF-8, so workers elsewhere cannot be told of it; rename it'
            ) from None


def _allow_many_files() -> None:
    """Lets this process have as many connections as the system allows it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
