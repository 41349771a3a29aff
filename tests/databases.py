"""Databases for tests: a fresh one for each test, on real servers, and a line to them that can be cut."""

import multiprocessing
import os
import select
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
from optuna.trial import FrozenTrial
from sqlalchemy.engine import URL, make_url

from hpsearch.store.connection import open_storage

_SERVERS = {
    "postgresql": ("HPSEARCH_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres"),
    "mysql": ("HPSEARCH_TEST_MYSQL", "mysql://root@127.0.0.1:3306"),
}


@contextmanager
def fresh_database(kind: str, folder: Path) -> Iterator[str]:
    """Yields the URL of an empty database, dropped afterwards; skips the test when there is no server.

    A server that the environment names must answer: what was asked for is not skipped.
    """
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'study.db'}"
        return
    server = server_url(kind)
    name = f"hpsearch_test_{uuid.uuid4().hex}"
    try:
        execute(server, f"CREATE DATABASE {name}")
    except (psycopg.OperationalError, pymysql.err.OperationalError) as error:
        if _SERVERS[kind][0] in os.environ:
            raise
        pytest.skip(f"no {kind} server at {server.host}:{server.port} ({_SERVERS[kind][0]}): {error}")
    try:
        yield server.set(database=name).render_as_string(hide_password=False)
    finally:
        execute(server, f"DROP DATABASE {name}{' WITH (FORCE)' if kind == 'postgresql' else ''}")


def at_once(count: int, work: Callable[..., Any], *given: Any) -> list[Any]:
    """Calls a module's function in so many processes at the same moment, with the place of each, from 0."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        count, context, initializer=_await_others, initargs=(context.Barrier(count),)
    ) as pool:
        return [future.result() for future in [pool.submit(_with_others, work, *given) for _ in range(count)]]


_barrier: Any = None


def _await_others(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def _with_others(work: Callable[..., Any], *given: Any) -> Any:
    return work(_barrier.wait(120), *given)


def stored_trials(url: str, study: str) -> list[FrozenTrial]:
    """Returns a study's trials as any reader of the database sees them; leaves no connection open."""
    storage = open_storage(url, readonly=True)
    try:
        return storage.get_all_trials(storage.get_study_id_from_name(study))
    finally:
        storage.engine.dispose()


def server_url(kind: str) -> URL:
    """Returns the URL of the test server of a kind."""
    variable, default = _SERVERS[kind]
    return make_url(os.environ.get(variable, default))


def execute(url: URL, statement: str) -> None:
    """Runs one statement with the driver itself, outside of any transaction."""
    if url.get_backend_name() == "postgresql":
        conninfo = url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(conninfo, autocommit=True, connect_timeout=5) as connection:
            connection.execute(statement.encode())
        return
    login = {"host": url.host or "127.0.0.1", "port": url.port or 3306, "user": url.username or "root"}
    mysql = pymysql.connect(**login, password=str(url.password or ""), connect_timeout=5)  # type: ignore[arg-type]
    with closing(mysql), mysql.cursor() as cursor:
        cursor.execute(statement)


class Proxy:
    """A line to a server that can be frozen (nothing passes) or cut (connections are refused and closed).

    `url` is the server's URL by way of this line.
    """

    def __init__(self, url: str) -> None:
        target = make_url(url)
        default = 5432 if target.get_backend_name() == "postgresql" else 3306
        self._target = (target.host or "127.0.0.1", target.port or default)
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._tap: bytearray | None = None
        self._flows = threading.Event()
        self._flows.set()
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]
        through = target.set(host="127.0.0.1", port=self.port)
        self.url = through.render_as_string(hide_password=False)

    @contextmanager
    def tapped(self, heard: bytearray) -> "Iterator[Proxy]":
        """Notes all that clients say; cuts the line at the end."""
        self._tap = heard
        yield self
        self.cut()

    def freeze(self) -> None:
        """Lets connections stand and new ones be accepted, with not a byte passed on."""
        self._flows.clear()

    def thaw(self) -> None:
        """Lets everything flow again."""
        self._flows.set()

    def cut(self) -> None:
        """Closes all connections and refuses new ones, as a server that is down."""
        # shutdown wakes the thread that waits in accept; close alone would leave it there.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for pair in self._pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def mend(self) -> None:
        """Accepts connections again after `cut`."""
        self._listener = self._listen(self.port)

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # cut
            server = socket.create_connection(self._target)
            self._pairs.append((client, server))
            threading.Thread(target=self._pump, args=(client, server), daemon=True).start()

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        other = {client: server, server: client}
        with client, server:
            while True:
                ready, _, _ = select.select([client, server], [], [])
                self._flows.wait()
                for end in ready:
                    try:
                        data = end.recv(65536)
                        if not data:
                            return
                        if self._tap is not None and end is client:
                            self._tap += data
                        other[end].sendall(data)
                    except OSError:
                        return


@contextmanager
def proxied(url: str) -> Iterator[Proxy]:
    """Yields a line to the server of `url`, cut at the end."""
    proxy = Proxy(url)
    try:
        yield proxy
    finally:
        proxy.thaw()
        proxy.cut()
