"""What stands before the dashboard: who may ask, from where, and for what.

Optuna's dashboard has no authentication, and any web page that a browser shows can send requests to a port of
the same machine.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from hpsearch.results.dashboard.login import COOKIE, Login
from hpsearch.results.dashboard.wsgi import Application, Environ, Headers, StartResponse

logger = logging.getLogger(__name__)

_SCREENED = "hpsearch.screened"  # the headers that a request let through by `screen` has to be answered with

READING = frozenset({"GET", "HEAD", "OPTIONS"})
LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})

# The dashboard's bundle sets styles inline, and WebGL plots compile their code.
_PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-eval'; style-src 'self' data: 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; frame-src 'self'; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
)
# For all that is not the dashboard's page. An artifact may be an HTML file: it is shown, but none of its
# scripts runs as the dashboard.
_STRICT_POLICY = (
    "sandbox; default-src 'none'; img-src 'self' data:; media-src 'self'; style-src 'unsafe-inline'; "
    "frame-ancestors 'self'"
)

_FIXED_HEADERS: Headers = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "SAMEORIGIN"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
]


@dataclass(frozen=True, slots=True)
class Guard:
    """A WSGI application that refuses what it must and hands on the rest.

    Attributes:
        login: None lets everybody in; only for an address of this machine.
        hosts: names by which the server may be called; None allows all. Without a login it stops pages whose
            own name was made to point at this machine (DNS rebinding).
        read_only: refuse every request that could change something.
    """

    app: Application
    login: Login | None = None
    hosts: frozenset[str] | None = None
    read_only: bool = False

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        instead = None if _SCREENED in environ else self.screen(environ)
        if instead is not None:
            return instead(environ, start_response)
        path, extra = environ.get("PATH_INFO", ""), environ.pop(_SCREENED)

        def start(status: str, headers: Headers, exc_info: Any = None) -> Any:
            return start_response(status, _hardened(headers, path, extra), exc_info)

        return self.app(environ, start)

    def screen(self, environ: Environ) -> Application | None:
        """Judges a request by its headers; returns what answers in the application's place, or None."""
        environ.setdefault("HTTP_ACCEPT_ENCODING", "")  # the dashboard fails without it
        extra: Headers = []
        refusal = self._place(environ)
        if refusal is None and self.login is not None:
            refusal = self._identity(self.login, environ, extra)
        refusal = refusal or self._deed(environ)
        if refusal is None:
            environ[_SCREENED] = extra
            return None
        return partial(refusal.answer, headers=_hardened([], environ.get("PATH_INFO", ""), extra))

    def _place(self, environ: Environ) -> "Refusal | None":
        host = _host_name(environ.get("HTTP_HOST", ""))
        if self.hosts is None or host in self.hosts:
            return None
        return Refusal(HTTPStatus.MISDIRECTED_REQUEST, f"this dashboard does not answer to the name {host!r}")

    def _identity(self, login: Login, environ: Environ, extra: Headers) -> "Refusal | None":
        verdict = login.check(
            environ.get("HTTP_AUTHORIZATION"), environ.get("HTTP_COOKIE", ""), environ.get("REMOTE_ADDR", "")
        )
        if verdict.cookie:
            flags = "; Secure" if environ.get("wsgi.url_scheme") == "https" else ""
            value = f"{COOKIE}={verdict.cookie}; Path=/; HttpOnly; SameSite=Strict{flags}"
            extra.append(("Set-Cookie", value))
        if verdict.admitted:
            return None
        if verdict.wait:
            extra.append(("Retry-After", str(verdict.wait)))
            return Refusal(HTTPStatus.TOO_MANY_REQUESTS, f"{verdict.reason}: wait {verdict.wait} s")
        extra.append(("WWW-Authenticate", 'Basic realm="hpsearch dashboard", charset="UTF-8"'))
        return Refusal(HTTPStatus.UNAUTHORIZED, "name and password, please")

    def _deed(self, environ: Environ) -> "Refusal | None":
        method = environ.get("REQUEST_METHOD", "")
        if method in READING:
            return None
        if self.read_only:
            return Refusal(HTTPStatus.FORBIDDEN, "this dashboard is read-only")
        if _is_cross_site(environ):
            return Refusal(HTTPStatus.FORBIDDEN, "a change must come from the dashboard's own pages")
        return None


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer in place of the application's."""

    status: HTTPStatus
    reason: str

    def answer(self, environ: Environ, start_response: StartResponse, *, headers: Headers) -> list[bytes]:
        body = f"{self.reason}\n".encode()
        length = ("Content-Length", str(len(body)))
        plain = ("Content-Type", "text/plain; charset=utf-8")
        start_response(f"{self.status.value} {self.status.phrase}", [*headers, plain, length])
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]


def _is_cross_site(environ: Environ) -> bool:
    """Says whether a browser sent the request for another site's page; other clients tell nothing."""
    if environ.get("HTTP_SEC_FETCH_SITE", "same-origin") not in ("same-origin", "none"):
        return True
    origin = environ.get("HTTP_ORIGIN")
    # "null" has no place, so it never equals the host.
    return origin is not None and _place_of(origin) != environ.get("HTTP_HOST", "").lower()


def _place_of(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _host_name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _hardened(headers: Headers, path: str, extra: Headers) -> Headers:
    """Returns the headers with ours in place of the application's own."""
    policy = _PAGE_POLICY if path.startswith("/dashboard") else _STRICT_POLICY
    ours = [*_FIXED_HEADERS, ("Content-Security-Policy", policy), *extra]
    if not path.startswith("/static"):
        ours.append(("Cache-Control", "no-store"))
    replaced = {name.lower() for name, _ in ours}
    # The dashboard offers artifacts to all origins.
    kept = [
        (name, value)
        for name, value in headers
        if name.lower() not in replaced and not name.lower().startswith("access-control-")
    ]
    return kept + ours
