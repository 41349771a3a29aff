"""optuna-dashboard on a cached storage, behind a guard, on a server of its own."""

import ipaddress
import logging
import signal
import socket
import threading
import time
import webbrowser
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO
from wsgiref.util import setup_testing_defaults

import optuna_dashboard
from optuna.artifacts import FileSystemArtifactStore
from optuna.storages import RDBStorage, get_storage

from hpsearch.errors import StorageAway, StudyNotFound, UserError
from hpsearch.files.run_folder import RunFolder
from hpsearch.results.dashboard.accounts import UsersFile
from hpsearch.results.dashboard.cards import Cards
from hpsearch.results.dashboard.graph_order import in_order
from hpsearch.results.dashboard.guard import LOCAL_NAMES, Guard
from hpsearch.results.dashboard.login import Login
from hpsearch.results.dashboard.protection import Driven
from hpsearch.results.dashboard.wsgi import (
    Application,
    Environ,
    Headers,
    Limits,
    Server,
    StartResponse,
    same_address,
)
from hpsearch.service.signals import heeded
from hpsearch.store import queries
from hpsearch.store.connection import open_storage
from hpsearch.store.reader import reader_of
from hpsearch.store.sqlite import may_write
from hpsearch.store.url import as_url, sqlite_file

logger = logging.getLogger(__name__)

_LARGEST_UPLOAD = 128 * 2**20  # bytes, the dashboard's own limit for artifacts
# What users of a network may send at once, and docker/Caddyfile lets through. Files that a page uploads are a third
# longer in its body.
LARGEST_SHARED_BODY = 8 * 2**20
_WARM = 5  # the newest studies, of which somebody will want to see one
_LOOK_EVERY = 2.0  # seconds between looks for studies that were deleted


@dataclass(frozen=True, slots=True)
class Access:
    """Where the dashboard is served, and to whom.

    Attributes:
        auth: file of the users who may log in; None asks nobody.
        proxy: address of a reverse proxy that ends TLS; its X-Forwarded headers are believed.
        read_only: refuse every request that could change something.

    Raises:
        UserError: others than this machine's users would get in without a login.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    auth: Path | None = None
    proxy: str | None = None
    read_only: bool = False

    def __post_init__(self) -> None:
        if self.auth is None and not self.is_local:
            raise UserError(
                f"--host {self.host}: anyone who reaches it could delete studies; give --auth FILE "
                "(made with --add-user NAME --auth FILE)"
            )
        if self.auth is None and self.proxy is not None:
            raise UserError(
                f"--proxy {self.proxy}: give --auth FILE too, or everyone who reaches the proxy gets in"
            )
        if self.proxy is not None and not same_address(self.proxy, self.proxy):
            raise UserError(
                f"--proxy {self.proxy}: not an IP address; give the one that the proxy calls from"
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine's users reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class Dashboard:
    """A dashboard that is bound to its port, so that its address can be told before it serves.

    Attributes:
        warnings: sentences to show before it serves.

    Raises:
        StudyNotFound: the storage holds no studies yet.
        UserError: the host or the port cannot be had, or the file of users is wrong.
    """

    def __init__(self, url: str, run_folder: Path, access: Access = Access()) -> None:
        login = Login(UsersFile(access.auth)) if access.auth is not None else None
        hosts = None if login else LOCAL_NAMES | {access.host.lower()}
        file = sqlite_file(as_url(url))
        closed = file is not None and not may_write(file)
        self._app = Refreshed(_open(url), ArtifactFolder(RunFolder(run_folder, "").artifacts))
        self._server = _bind(Guard(self._app, login, hosts, access.read_only or closed), access)
        self.address = _address(access.host, self._server.port)
        self.warnings: tuple[str, ...] = ()
        if closed and not access.read_only:
            self.warnings = (f"{file} is read-only: every change is refused",)
        if not access.is_local and access.proxy is None:
            self.warnings += (
                "passwords and data cross the network in the clear: put a proxy with TLS in front, on a "
                "local --host, and name it with --proxy",
            )

    def warm(self) -> threading.Thread:
        """Begins to read the newest studies, so that their first page comes as fast as the next ones.

        It serves meanwhile; a page of a study that is just being read waits for it, as it would anyway.
        """
        thread = threading.Thread(target=self._app.warm, name="warm", daemon=True)
        thread.start()
        return thread

    def serve(self, open_browser: bool = False, ready: Callable[[], object] = lambda: None) -> None:
        """Serves until SIGINT, SIGTERM or the like, then returns; `ready` is called when these are heeded."""
        with _ended_by_signals(self._server):
            ready()
            self.warm()
            if open_browser:
                # A text browser holds its caller until it is left.
                threading.Thread(target=webbrowser.open, args=(self.address,), daemon=True).start()
            self._server.run()
        self.close()

    def close(self) -> None:
        """Gives the port back and closes the database."""
        self._server.close()
        self._app.ended.set()
        self._app.storage.engine.dispose()


@contextmanager
def _ended_by_signals(server: Server) -> Iterator[None]:
    """Ends the block at SIGINT or SIGTERM; a second one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can heed signals: its owner calls close()
        return
    before = {number: signal.getsignal(number) for number in heeded()}

    def end(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        if not server.runs:
            raise SystemExit
        server.close()  # an exception might end what the server is just doing, and not the server
        logger.info("the dashboard was told to stop")

    for number in before:
        signal.signal(number, end)
    try:
        yield
    except SystemExit:
        logger.info("the dashboard was told to stop")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _open(url: str) -> RDBStorage:
    try:
        # Read-only leaves out SQLite's write lock: with it the driver would wait for the dashboard.
        return open_storage(url, readonly=True)
    except StudyNotFound as error:
        raise StudyNotFound(f"{error}; begin with: `hpsearch run STUDY.toml`") from None


def _bind(guard: Guard, access: Access) -> Server:
    family = socket.AF_INET6 if ":" in access.host else socket.AF_INET
    try:
        listener = socket.create_server((access.host, access.port), family=family, backlog=128)
    except OSError as error:
        raise UserError(
            f"--host {access.host} --port {access.port}: {error.strerror}; choose another host or port"
        ) from None
    return Server(guard, listener, Limits(_largest_body(access)), guard.screen, access.proxy)


def _largest_body(access: Access) -> int:
    if access.read_only:
        return 2**20
    return _LARGEST_UPLOAD if access.auth is None else LARGEST_SHARED_BODY


def _address(host: str, port: int) -> str:
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else host
    return f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"


class ArtifactFolder(FileSystemArtifactStore):
    """Artifacts in a folder that is made for the first upload."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._folder = folder

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Stores an artifact."""
        self._folder.mkdir(parents=True, exist_ok=True)
        super().write(artifact_id, content_body)


# Study -> its name and when its first trial began.
Identities = Mapping[int, tuple[str, datetime | None]]


class Refreshed:
    """optuna-dashboard's application, made anew when what it remembers is of a study that is gone.

    It keeps finished trials by the study's number, which SQLite gives to the next study after a deletion.
    """

    def __init__(self, storage: RDBStorage, artifacts: FileSystemArtifactStore) -> None:
        self.storage = storage
        self.ended = threading.Event()
        self._artifacts = artifacts
        self._lock = threading.Lock()
        self._known = read_identities(storage)
        self._looked = time.monotonic()
        self._app = self._make()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        # One request looks, the others use what there is.
        if time.monotonic() - self._looked > _LOOK_EVERY and self._lock.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._lock.release()
        return self._app(environ, start_response)

    def warm(self) -> None:
        """Asks for the pages of the newest studies until it is `ended`, as a browser would."""
        for number in sorted(self._known, reverse=True)[:_WARM]:
            if self.ended.is_set():
                return
            environ: Environ = {"PATH_INFO": f"/api/studies/{number}", "HTTP_ACCEPT_ENCODING": ""}
            setup_testing_defaults(environ)
            for _ in self._app(environ, _unanswered):
                pass  # what matters is what the application remembers of it

    def _look(self) -> None:
        try:
            found = read_identities(self.storage)
        except StorageAway as error:
            logger.warning("%s", error)
        else:
            if was_replaced(self._known, found):
                self._app = self._make()
            self._known = found
        self._looked = time.monotonic()

    def _make(self) -> Application:
        # Cached: a finished trial is read once, and only those that were unfinished are read again.
        in_order()
        app = optuna_dashboard.wsgi(get_storage(self.storage), artifact_store=self._artifacts)
        app.install(Cards(self.storage))
        app.install(Driven(self.storage))  # the last: it must find the dashboard's own views unwrapped
        made: Application = app
        return made


def _unanswered(status: str, headers: Headers, exc_info: Any = None) -> None:
    """Takes the place of a client; a page that cannot be made is told in the log by the dashboard itself."""


def read_identities(storage: RDBStorage) -> Identities:
    """Reads what tells a study from a later one of the same number.

    Raises:
        StorageAway: the database does not answer.
    """
    with reader_of(storage) as reader:
        return queries.first_starts(reader)


def was_replaced(known: Identities, found: Identities) -> bool:
    """Says whether a known study is gone, or another one has its number."""
    for number, (name, begun) in known.items():
        if number not in found or found[number][0] != name:
            return True
        if begun is not None and found[number][1] != begun:
            return True
    return False
