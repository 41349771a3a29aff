"""A WSGI server in one process: an event loop (Tornado's) holds the connections, threads run the application.

A thread is taken only for a request that has arrived whole, and the loop keeps the answer of a client that reads
slowly. So connections that say nothing, or little, cost nobody else a thread; each ends at its deadline, or earlier
when there are so many that a new one would find no place.
"""

import asyncio
import ipaddress
import logging
import resource
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from io import BytesIO
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from tornado.http1connection import HTTP1Connection, HTTP1ConnectionParameters, HTTP1ServerConnection
from tornado.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream, StreamClosedError
from tornado.tcpserver import TCPServer

logger = logging.getLogger(__name__)

Environ = dict[str, Any]
Headers = list[tuple[str, str]]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]
Response = tuple[str, Headers, bytes]

_FORWARDED = ("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may send and for how long.

    Attributes:
        body: bytes of a request's body.
        header_bytes: of the address and all headers; more than twice as many end the connection without an answer.
        headers: how many.
        idle: seconds for a request's headers, and until the next request begins.
        transfer: seconds for a body or an answer, and one more for each `slowest` bytes of it.
        connections: at once; None is half of the files that the process may have open, at most 1,000.
        threads: requests that are worked on at once.
    """

    body: int
    header_bytes: int = 32 * 2**10
    headers: int = 100
    idle: float = 30.0
    transfer: float = 30.0
    slowest: int = 16 * 2**10
    connections: int | None = None
    threads: int = 16

    def seconds_for(self, size: int) -> float:
        """Returns how long so many bytes may take."""
        return self.transfer + size / self.slowest

    def places(self) -> int:
        """Returns how many connections there may be."""
        return self.connections or max(1, min(1000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2))


class Server:
    """Serves an application on a socket that listens.

    Attributes:
        screen: asked before a request's body is read; what it returns answers in the application's place.
        proxy: address whose X-Forwarded headers are believed; others' are dropped.
    """

    def __init__(
        self,
        app: Application,
        listener: socket.socket,
        limits: Limits,
        screen: Callable[[Environ], Application | None] = lambda environ: None,
        proxy: str | None = None,
    ) -> None:
        self.app, self.limits, self.screen, self.proxy = app, limits, screen, proxy
        self._listener = listener
        listener.setblocking(False)  # the loop takes all that wait, until there is none
        self._threads = ThreadPoolExecutor(limits.threads, thread_name_prefix="request")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None
        self._closed = False

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._listener.getsockname()[1])

    @property
    def runs(self) -> bool:
        """Whether it serves, so that `close` ends it."""
        return self._ended is not None and not self._closed

    def run(self) -> None:
        """Serves until `close`, which another thread may call."""
        if not self._closed:
            asyncio.run(self._run())

    async def _run(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        connections = _Connections(self)
        connections.add_socket(self._listener)
        try:
            if not self._closed:
                await self._ended.wait()
        finally:
            connections.close_all()
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def in_thread(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Returns what a call returns, which may take its time."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)

    def close(self) -> None:
        """Gives the port back and lets `run` return."""
        self._closed = True
        if self._loop is None or self._ended is None:
            self._listener.close()
            return
        with suppress(RuntimeError):  # it has returned
            self._loop.call_soon_threadsafe(self._ended.set)


class _Connections(TCPServer, HTTPServerConnectionDelegate):
    """The open connections: those that wait for a request, the longest waiting first, and those with one."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server, self._limits, self._places = server, server.limits, server.limits.places()
        self._waiting: dict[HTTP1ServerConnection, None] = {}
        self._busy: set[HTTP1ServerConnection] = set()
        self._parameters = HTTP1ConnectionParameters(
            max_header_size=2 * self._limits.header_bytes,
            header_timeout=self._limits.idle,
            # One that is not announced is answered by _Request, so that the client hears why.
            max_body_size=2 * self._limits.body,
        )

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        """Takes a new connection; where there is no place, the one that has waited longest goes."""
        if len(self._waiting) + len(self._busy) >= self._places:
            if not self._waiting:
                stream.close()
                return
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.stream.close()
        connection = HTTP1ServerConnection(stream, self._parameters, context=address[0])
        self._waiting[connection] = None
        connection.start_serving(self)

    def start_request(self, server_conn: object, request_conn: Any) -> HTTPMessageDelegate:
        """Begins to wait for a request's headers."""
        assert isinstance(server_conn, HTTP1ServerConnection)
        if server_conn in self._busy:
            self._busy.remove(server_conn)
            self._waiting[server_conn] = None
        return _Request(self._server, request_conn, lambda: self._begun(server_conn))

    def _begun(self, connection: HTTP1ServerConnection) -> None:
        if connection in self._waiting:
            del self._waiting[connection]
            self._busy.add(connection)

    def close_all(self) -> None:
        """Gives the port back and leaves every client."""
        self.stop()
        for connection in [*self._waiting, *self._busy]:
            connection.stream.close()

    def on_close(self, server_conn: object) -> None:
        """Forgets a connection."""
        assert isinstance(server_conn, HTTP1ServerConnection)
        self._waiting.pop(server_conn, None)
        self._busy.discard(server_conn)


class _Request(HTTPMessageDelegate):
    """One request, from its headers to the last byte of its answer."""

    def __init__(self, server: Server, connection: HTTP1Connection, begun: Callable[[], None]) -> None:
        self._server, self._limits = server, server.limits
        self._connection, self._begun = connection, begun
        self._environ: Environ = {}
        self._body = bytearray()
        self._task: asyncio.Task[None] | None = None

    async def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
        """Answers at once what need not, or must not, have its body read."""
        self._begun()
        length = _length(headers)
        if refused := self._refused(start_line.path, headers, length):
            await self._send(*_plain(refused))
            return
        self._environ = make_environ(start_line, headers, str(self._connection.context), self._server.proxy)
        self._connection.set_body_timeout(self._limits.seconds_for(length))
        if length or "Transfer-Encoding" in headers:
            instead = await self._server.in_thread(self._server.screen, self._environ)
            if instead is not None:
                await self._send(*await self._server.in_thread(called, instead, self._environ))

    def _refused(self, path: str, headers: HTTPHeaders, length: int) -> HTTPStatus | None:
        sizes = [len(name) + len(value) for name, value in headers.get_all()]
        if len(sizes) > self._limits.headers or len(path) + sum(sizes) > self._limits.header_bytes:
            return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE if length > self._limits.body else None

    async def data_received(self, chunk: bytes) -> None:
        """Keeps a part of the body."""
        self._body += chunk
        if len(self._body) > self._limits.body:
            self._body.clear()
            await self._send(*_plain(HTTPStatus.REQUEST_ENTITY_TOO_LARGE))

    def finish(self) -> None:
        """Answers a request that has arrived whole."""
        self._environ["wsgi.input"] = BytesIO(self._body)
        self._environ["CONTENT_LENGTH"] = str(len(self._body))
        self._task = asyncio.get_running_loop().create_task(self._answer())

    async def _answer(self) -> None:
        await self._send(*await self._server.in_thread(called, self._server.app, self._environ))

    async def _send(self, status: str, headers: Headers, body: bytes) -> None:
        connection = self._connection
        if connection.stream is None or connection.stream.closed():
            return
        code, _, reason = status.partition(" ")
        sent = HTTPHeaders()
        for name, value in headers:
            sent.add(name, value)
        sent["Date"] = formatdate(usegmt=True)
        if code not in ("204", "304") and "Content-Length" not in sent:
            sent["Content-Length"] = str(len(body))
        stream = connection.stream
        written = connection.write_headers(ResponseStartLine("HTTP/1.1", int(code), reason), sent, body)
        connection.finish()
        try:
            await asyncio.wait_for(written, self._limits.seconds_for(len(body)))
        except TimeoutError:
            stream.close()
        except StreamClosedError:
            logger.debug("a client left before it had its answer")


def called(app: Application, environ: Environ) -> Response:
    """Calls a WSGI application to its end; a bug in it is status 500 and a line in the log."""
    started: list[tuple[str, Headers]] = []

    def start_response(status: str, headers: Headers, exc_info: Any = None) -> Any:
        started.append((status, headers))
        return parts.append

    parts: list[bytes] = []
    try:
        result = app(environ, start_response)
        try:
            parts.extend(result)
        finally:
            if hasattr(result, "close"):
                result.close()
        return (*started[-1], b"".join(parts))
    except Exception:
        logger.exception("%s %.200r", environ.get("REQUEST_METHOD"), environ.get("PATH_INFO"))
        return _plain(HTTPStatus.INTERNAL_SERVER_ERROR)


def _plain(status: HTTPStatus) -> Response:
    line = f"{status.value} {status.phrase}"
    return line, [("Content-Type", "text/plain; charset=utf-8")], f"{line}\n".encode()


def _length(headers: Mapping[str, str]) -> int:
    """Returns the body's length that the headers announce; Tornado refuses what is not a number."""
    digits = headers.get("Content-Length", "0").partition(",")[0]
    return int(digits[:20]) if digits.isascii() and digits.isdigit() else 0


def make_environ(
    start_line: RequestStartLine, headers: HTTPHeaders, peer: str, proxy: str | None = None
) -> Environ:
    """Returns the WSGI environment of a request; the proxy's word counts for who asks, by which name and how."""
    path, _, query = start_line.path.partition("?")
    forwarded = {name: headers.get(name, "").rpartition(",")[2].strip() for name in _FORWARDED}
    believed = proxy is not None and same_address(peer, proxy)
    environ: Environ = {
        "REQUEST_METHOD": start_line.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path.encode("latin-1")).decode("latin-1"),
        "QUERY_STRING": query,
        "REMOTE_ADDR": (believed and _client(forwarded["X-Forwarded-For"])) or peer,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": start_line.version,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https" if believed and forwarded["X-Forwarded-Proto"] == "https" else "http",
        "wsgi.input": BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in headers.items():
        # X_Forwarded_For would pass for X-Forwarded-For.
        if name not in _FORWARDED and "_" not in name:
            environ["HTTP_" + name.upper().replace("-", "_")] = value
    environ["CONTENT_TYPE"] = environ.pop("HTTP_CONTENT_TYPE", "")
    environ.pop("HTTP_CONTENT_LENGTH", None)
    if believed and forwarded["X-Forwarded-Host"]:
        environ["HTTP_HOST"] = forwarded["X-Forwarded-Host"]
    return environ


def same_address(one: str, other: str) -> bool:
    """Says whether two texts name one address."""
    with suppress(ValueError):
        return ipaddress.ip_address(one) == ipaddress.ip_address(other)
    return False


def _client(text: str) -> str:
    """Returns the address that a proxy names, which some send with a port, or nothing."""
    for candidate in (text, _without_port(text)):
        with suppress(ValueError):
            return str(ipaddress.ip_address(candidate))
    return ""


def _without_port(text: str) -> str:
    try:
        return urlsplit(f"//{text}").hostname or ""
    except ValueError:
        return ""
