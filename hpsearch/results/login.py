"""HTTP basic authentication for the dashboard, with a growing delay after failures."""

import base64
import binascii
import hashlib
import hmac
import ipaddress
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie

from hpsearch.results.accounts import Users

logger = logging.getLogger(__name__)

COOKIE = "hpsearch_login"
_LONGEST_HEADER = 8192
_CHECKS_AT_ONCE = 4  # each takes 32 MiB; fewer than the server's threads, so that others are served meanwhile


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a login came to.

    Attributes:
        wait: seconds to stay away, when refused without a look at the password.
        cookie: the value of a cookie to set, after a password was checked and was right.
    """

    admitted: bool
    wait: int = 0
    cookie: str = ""


class Delays:
    """Failures by client address, and how long each must wait; bounded in time and memory.

    The first `free` failures cost nothing (people mistype), then the wait doubles up to `longest` seconds.
    """

    def __init__(
        self,
        free: int = 3,
        longest: float = 60.0,
        forget: float = 900.0,
        most: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._free, self._longest, self._forget, self._most, self._clock = free, longest, forget, most, clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()  # address -> count, last time
        self._lock = threading.Lock()

    def begin(self, address: str) -> float:
        """Returns the seconds that the address must still wait; 0 counts a failure, until `succeeded`.

        Counted before the password is checked: else many guesses at once would slip through.
        """
        key, now = _network(address), self._clock()
        with self._lock:
            count, last = self._failures.get(key, (0, now))
            if now - last > self._forget:
                count = 0
            wait = last + self._delay(count) - now
            if count and wait > 0:
                return wait
            self._failures[key] = (count + 1, now)
            self._failures.move_to_end(key)
            while len(self._failures) > self._most:
                self._failures.popitem(last=False)
        return 0.0

    def succeeded(self, address: str) -> None:
        """Takes back what `begin` counted; earlier failures stay until they are forgotten."""
        key = _network(address)
        with self._lock:
            count, last = self._failures.get(key, (0, 0.0))
            if count > 1:
                self._failures[key] = (count - 1, last)
            else:
                self._failures.pop(key, None)

    def _delay(self, count: int) -> float:
        return 0.0 if count < self._free else min(self._longest, 2.0 ** (count - self._free))


def _network(address: str) -> str:
    """Returns the address, of IPv6 the /64: one client owns all of it."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
    return address


class Login:
    """Checks the credentials of requests.

    Browsers send name and password with every request, and scrypt is slow on purpose. So who got in
    receives a cookie that proves it: a MAC of the credentials under a key of this process. It is worthless
    without the same credentials, and its owner is not delayed by others' failures from the same address.
    """

    def __init__(self, users: Users, delays: Delays | None = None) -> None:
        self._users = users
        self._delays = delays or Delays()
        self._key = secrets.token_bytes(32)
        self._checks = threading.BoundedSemaphore(_CHECKS_AT_ONCE)

    def check(self, authorization: str | None, cookies: str, address: str) -> Verdict:
        """Judges a request by its Authorization and Cookie headers."""
        if authorization is None:  # a browser's first request: no attempt, so no failure
            return Verdict(False)
        proof = self._proof(authorization)
        if secrets.compare_digest(_cookie(cookies).encode(), proof.encode()):
            return Verdict(True)
        wait = self._delays.begin(address)
        if wait > 0:
            return Verdict(False, wait=int(wait) + 1)
        credentials = parse_credentials(authorization)
        if credentials is None:
            return Verdict(False)
        if not self._checks.acquire(blocking=False):
            self._delays.succeeded(address)
            return Verdict(False, wait=1)
        try:
            admitted = self._users.admit(*credentials)
        finally:
            self._checks.release()
        if not admitted:
            logger.warning("login refused: user %.80r from %s", credentials[0], address)
            return Verdict(False)
        self._delays.succeeded(address)
        return Verdict(True, cookie=proof)

    def _proof(self, authorization: str) -> str:
        return hmac.new(self._key, authorization.encode("latin-1", "replace"), hashlib.sha256).hexdigest()


def _cookie(header: str) -> str:
    try:
        morsel = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel is not None else ""


def parse_credentials(authorization: str) -> tuple[str, str] | None:
    """Returns name and password of a basic Authorization header (RFC 7617), or None if it is malformed."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic" or len(encoded) > _LONGEST_HEADER:
        return None
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return None
    name, colon, password = text.partition(":")
    return (name, password) if colon else None
