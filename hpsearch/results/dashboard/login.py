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

from hpsearch.results.dashboard.accounts import Users

logger = logging.getLogger(__name__)

COOKIE = "hpsearch_login"
_LONGEST_HEADER = 8192
_CHECKS_AT_ONCE = 4  # each takes 32 MiB; fewer than the server's threads, so that others are served meanwhile


@dataclass(frozen=True, slots=True)
class LoginResult:
    """What a login came to.

    Attributes:
        wait: seconds to stay away, when refused without a look at the password.
        reason: why it has to wait.
        cookie: the value of a cookie to set, after a password was checked and was right.
    """

    admitted: bool
    wait: int = 0
    reason: str = ""
    cookie: str = ""


class Delays:
    """Failures by client address and user name, and how long each must wait; bounded in time and memory.

    The first `free` failures cost nothing (people mistype), then the wait doubles up to `longest` seconds. An
    address has `names` times as many for all names together: behind a company's address or a proxy that was not
    named with --proxy sit many people, whom one must not lock out by failing under a name that is not theirs.
    """

    def __init__(
        self,
        free: int = 3,
        longest: float = 60.0,
        forget: float = 900.0,
        most: int = 10_000,
        names: int = 10,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._free, self._longest, self._forget, self._most = free, longest, forget, most
        self._names, self._clock = names, clock
        self._failures: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()  # count, last time
        self._lock = threading.Lock()

    def begin(self, address: str, name: str = "") -> float:
        """Returns the seconds that they must still wait; 0 counts a failure, until `succeeded`.

        Counted before the password is checked: else many guesses at once would slip through.
        """
        keys, now = _keys(address, name), self._clock()
        with self._lock:
            wait = max(self._wait(key, free, now) for key, free in self._allowed(keys))
            if wait > 0:
                return wait
            for key in keys:
                self._failures[key] = (self._count(key, now) + 1, now)
                self._failures.move_to_end(key)
            while len(self._failures) > self._most:
                self._failures.popitem(last=False)
        return 0.0

    def failed(self, address: str, name: str = "") -> None:
        """Lets the wait that `begin` counted start now, however long the check has taken."""
        with self._lock:
            for key in _keys(address, name):
                self._failures[key] = (self._failures.get(key, (1, 0.0))[0], self._clock())

    def succeeded(self, address: str, name: str = "") -> None:
        """Takes back what `begin` counted; earlier failures stay until they are forgotten."""
        with self._lock:
            for key in _keys(address, name):
                count, last = self._failures.get(key, (0, 0.0))
                if count > 1:
                    self._failures[key] = (count - 1, last)
                else:
                    self._failures.pop(key, None)

    def _allowed(self, keys: "Keys") -> list[tuple[tuple[str, str], int]]:
        return list(zip(keys, (self._free, self._free * self._names), strict=True))

    def _count(self, key: tuple[str, str], now: float) -> int:
        count, last = self._failures.get(key, (0, now))
        return 0 if now - last > self._forget else count

    def _wait(self, key: tuple[str, str], free: int, now: float) -> float:
        count = self._count(key, now)
        if count < free:
            return 0.0
        # 2 ** 1024 is more than a float holds.
        return self._failures[key][1] + min(self._longest, 2.0 ** min(count - free, 64)) - now


Keys = tuple[tuple[str, str], tuple[str, str]]


def _keys(address: str, name: str) -> Keys:
    """Returns what an attempt is counted under: the name from there, then the address whatever the name."""
    network = _network(address)
    # A digest, since names are as long as a client likes.
    return (network, hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()), (network, "")


def _network(address: str) -> str:
    """Returns the address, of IPv6 the /64: one client owns all of it."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
    return address


class Login:
    """Checks the credentials of requests.

    Browsers send name and password with every request, and scrypt is slow on purpose. So who got in
    receives a cookie that proves it: a MAC of the credentials and the user's stored hash under a key of this
    process. It is worthless without the same credentials, for a removed user and after a change of the password,
    and its owner is not delayed by others' failures from the same address.

    Args:
        users: returns the users of this moment.
    """

    def __init__(self, users: Callable[[], Users], delays: Delays | None = None) -> None:
        self._users = users
        self._delays = delays or Delays()
        self._key = secrets.token_bytes(32)
        self._checks = threading.BoundedSemaphore(_CHECKS_AT_ONCE)

    def check(self, authorization: str | None, cookies: str, address: str) -> LoginResult:
        """Judges a request by its Authorization and Cookie headers."""
        if authorization is None:  # a browser's first request: no attempt, so no failure
            return LoginResult(False)
        credentials, users = parse_credentials(authorization), self._users()
        name = credentials[0] if credentials is not None else ""
        proof = self._proof(authorization, users.mark(name))
        if proof and secrets.compare_digest(_cookie(cookies).encode(), proof.encode()):
            return LoginResult(True)
        wait = self._delays.begin(address, name)
        if wait > 0:
            return LoginResult(False, int(wait) + 1, "too many failed logins")
        if credentials is None:
            return LoginResult(False)
        if not self._checks.acquire(blocking=False):
            self._delays.succeeded(address, name)
            return LoginResult(False, 1, "too many logins at once")
        try:
            admitted = users.admit(*credentials)
        finally:
            self._checks.release()
        if not admitted:
            self._delays.failed(address, name)
            logger.warning("login refused: user %.80r from %s", name, address)
            return LoginResult(False)
        self._delays.succeeded(address, name)
        return LoginResult(True, cookie=proof)

    def _proof(self, authorization: str, mark: bytes) -> str:
        """Returns the cookie's value for these credentials; nothing for a user who is not one."""
        if not mark:
            return ""
        proven = mark + authorization.encode("latin-1", "replace")  # marks are equally long
        return hmac.new(self._key, proven, hashlib.sha256).hexdigest()


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
