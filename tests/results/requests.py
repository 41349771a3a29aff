"""Requests to the dashboard: to its WSGI application directly, and over HTTP to a real server."""

import base64
import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

DEADLINE = 60.0  # seconds; importing Optuna's dashboard takes some on a busy machine


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def basic(name: str, password: str) -> str:
    """Returns the header that a browser sends for a name and a password."""
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def ask(app: Any, path: str = "/", method: str = "GET", body: bytes = b"", **environ: str) -> Answer:
    """Sends one request to a WSGI application."""
    started: list[tuple[str, list[tuple[str, str]]]] = []
    request: dict[str, Any] = {"PATH_INFO": path, "REQUEST_METHOD": method, "REMOTE_ADDR": "127.0.0.1"}
    request |= {"HTTP_HOST": "127.0.0.1:8080", "wsgi.input": io.BytesIO(body), **environ}
    setup_testing_defaults(request)
    answer = b"".join(app(request, lambda status, headers, exc_info=None: started.append((status, headers))))
    ((status, headers),) = started
    return Answer(int(status.split()[0]), dict(headers), answer)


@dataclass(frozen=True)
class Server:
    """A server on a port of this machine."""

    port: int
    process: subprocess.Popen[str]

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: Any) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        with contextlib.closing(connection):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())

    def json(self, path: str, **headers: Any) -> Any:
        answer = self.ask(path, **headers)
        assert answer.status == 200, answer
        return answer.json


@contextlib.contextmanager
def ours(*arguments: object) -> Iterator[Server]:
    """Runs `hpsearch dashboard` on a free port until SIGTERM, which must end it with status 0."""
    command = [sys.executable, "-m", "hpsearch", "dashboard", "--port", "0", *map(str, arguments)]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout
            assert process.stderr
            line = process.stdout.readline()
            if "dashboard at" not in line:
                raise AssertionError(f"no server: {line}{process.stderr.read()}")
            yield Server(int(line.split("/ ")[0].rsplit(":", 1)[1]), process)
        finally:
            process.send_signal(signal.SIGTERM)
            status = process.wait(DEADLINE)
    assert status == 0


@contextlib.contextmanager
def stock(url: str) -> Iterator[Server]:
    """Runs Optuna's own dashboard command."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    program = str(Path(sys.executable).with_name("optuna-dashboard"))
    command = [program, url, "--host", "127.0.0.1", "--port", str(port), "--server", "wsgiref", "--quiet"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, env={**os.environ, "NO_COLOR": "1"}, **quiet) as process:
        try:
            until(lambda: listens(port))
            yield Server(port, process)
        finally:
            process.terminate()


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def until(condition: Callable[[], Any], seconds: float = DEADLINE) -> Any:
    """Waits for a condition; returns its value or fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return value


def free_port() -> int:
    """Returns a port of this machine on which nothing listens at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
