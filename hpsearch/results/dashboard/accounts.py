"""The dashboard's users: a file of names and scrypt hashes.

One line for each user: `name:scrypt:n:r:p:salt:hash`, salt and hash in base64.
"""

import base64
import getpass
import hashlib
import logging
import os
import re
import secrets
import stat
import threading
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from hpsearch.errors import UserError
from hpsearch.files.atomic import write_whole
from hpsearch.files.paths import is_there, regular

logger = logging.getLogger(__name__)

SHORTEST = 8
LONGEST = 1024  # characters; more is no password and would only cost time
_MEMORY = 256 * 2**20
# scrypt takes a password and the same with NULs behind it for one.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NAME = re.compile(r"[^\s:#\x00-\x1f\x7f]{1,64}")


@dataclass(frozen=True, slots=True)
class PasswordHash:
    """A salted scrypt hash (RFC 7914); the default costs are OWASP's for 32 MiB of memory."""

    salt: bytes
    digest: bytes
    n: int = 2**15
    r: int = 8
    p: int = 3

    def fits(self, password: str) -> bool:
        """Says whether this is the password's hash, in a time that tells nothing of the answer."""
        computed = _scrypt(password, self.salt, self.n, self.r, self.p, len(self.digest))
        return secrets.compare_digest(computed, self.digest)

    def stored_form(self) -> str:
        """Returns the fields of a line in the file, without the name."""
        return f"scrypt:{self.n}:{self.r}:{self.p}:{_base64(self.salt)}:{_base64(self.digest)}"


def hash_password(password: str) -> PasswordHash:
    """Hashes a password with a new salt."""
    salt = secrets.token_bytes(16)
    blank = PasswordHash(salt, b"")
    return PasswordHash(salt, _scrypt(password, salt, blank.n, blank.r, blank.p, 32))


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int, length: int) -> bytes:
    secret = unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
    return hashlib.scrypt(secret, salt=salt, n=n, r=r, p=p, maxmem=_MEMORY, dklen=length)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


class Users:
    """Who may log in."""

    def __init__(self, hashes: Mapping[str, PasswordHash]) -> None:
        self._hashes = dict(hashes)
        # An unknown name costs the same work as a known one, so that time does not tell which names exist.
        known = next(iter(self._hashes.values()), PasswordHash(b"", bytes(32)))
        self._nobody = PasswordHash(
            secrets.token_bytes(16), secrets.token_bytes(len(known.digest)), known.n, known.r, known.p
        )

    def admit(self, name: str, password: str) -> bool:
        """Says whether the password is the user's."""
        if not password or len(password) > LONGEST or _CONTROL.search(password):
            return False
        name = unicodedata.normalize("NFC", name)
        fits = self._hashes.get(name, self._nobody).fits(password)
        return fits and name in self._hashes

    def mark(self, name: str) -> bytes:
        """Returns 32 bytes that change with the user's password; nothing for an unknown name."""
        known = self._hashes.get(unicodedata.normalize("NFC", name))
        return hashlib.sha256(known.stored_form().encode("ascii")).digest() if known is not None else b""


class UsersFile:
    """The users of a file at each moment: it is read again when it has changed.

    While the file cannot be read, nobody is a user: one who was removed must not get in because of a slip.

    Raises:
        UserError: the file is wrong at the start.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._seen = _stamp(file)
        self._users = read_users(file)

    def __call__(self) -> Users:
        with self._lock:
            # Before the file is read: a change in between is seen the next time.
            seen = _stamp(self._file)
            if seen != self._seen:
                try:
                    self._users = read_users(self._file)
                except UserError as error:
                    logger.warning("nobody can log in: %s", error)
                    self._users = Users({})
                self._seen = seen
            return self._users


def _stamp(file: Path) -> tuple[int, ...]:
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def read_users(file: Path) -> Users:
    """Reads the file that `add_user` writes.

    Raises:
        UserError: it is missing, open to others, empty, or a line of it is wrong.
    """
    hashes = _read(file)
    if not hashes:
        raise UserError(f"--auth {file}: no user in it; add one with --add-user NAME --auth {file}")
    return Users(hashes)


def add_user(file: Path, name: str, password: str) -> bool:
    """Adds a user to the file, which is made when it is missing; returns False when the name was there.

    The password of a name that was there is replaced.

    Raises:
        UserError: the name, the password or the file.
    """
    name = unicodedata.normalize("NFC", name)
    if not _NAME.fullmatch(name):
        raise UserError(f"--add-user {name!r}: 1 to 64 characters, no space, colon or #")
    if not SHORTEST <= len(password) <= LONGEST:
        raise UserError(f"the password has {len(password)} characters; it needs {SHORTEST} to {LONGEST}")
    if _CONTROL.search(password):
        raise UserError("the password holds control characters; choose another one")
    hashes = _read(file) if is_there(file, "--auth") else {}
    is_new = name not in hashes
    hashes[name] = hash_password(password)
    _write(file, hashes)
    return is_new


def remove_user(file: Path | None, name: str) -> str:
    """Takes a user out of the file, and says what was done.

    Raises:
        UserError: no file, or the name is not in it.
    """
    if file is None:
        raise UserError("--remove-user: name the file of users with --auth FILE")
    name = unicodedata.normalize("NFC", name)
    hashes = _read(file)
    if name not in hashes:
        known = ", ".join(sorted(hashes)) or "nobody"
        raise UserError(f"--remove-user {name!r}: not a user in {file}; in it: {known:.200}")
    del hashes[name]
    _write(file, hashes)
    done = f"removed {name} from {file}"
    return done if hashes else f"{done}, the last user: nobody can log in until --add-user NAME adds one"


def add_user_with_prompt(file: Path | None, name: str, stdin: TextIO) -> str:
    """Adds a user with the password that is asked for, and says what was done.

    Raises:
        UserError: no file, the name, the password.
    """
    if file is None:
        raise UserError("--add-user: name the file of users with --auth FILE")
    is_new = add_user(file, name, _read_password(name, stdin))
    return f"added {name} to {file}" if is_new else f"changed the password of {name} in {file}"


def _read_password(name: str, stdin: TextIO) -> str:
    """Asks for a new password twice on the terminal; without a terminal it is the first line of `stdin`."""
    if not stdin.isatty():
        return stdin.readline().rstrip("\r\n")
    password = getpass.getpass(f"password of {name}: ")
    if getpass.getpass("again: ") != password:
        raise UserError("the two passwords differ; nothing was changed")
    return password


def _read(file: Path) -> dict[str, PasswordHash]:
    try:
        with regular(file).open(encoding="utf-8") as stream:
            _check_mode(file, os.fstat(stream.fileno()))
            lines = stream.read().splitlines()
    except FileNotFoundError:
        raise UserError(f"--auth {file}: no such file; make it with --add-user NAME --auth {file}") from None
    except UnicodeDecodeError:
        raise UserError(f"--auth {file}: not a text file of users") from None
    except OSError as error:
        raise UserError(f"--auth {file}: cannot read it: {error.strerror}") from None
    return dict(
        _entry(file, number, line)
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.startswith("#")
    )


def _check_mode(file: Path, status: os.stat_result) -> None:
    if os.name == "posix" and stat.S_IMODE(status.st_mode) & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise UserError(f"--auth {file}: other users may access it (mode {mode:04o}); run chmod 600 {file}")


def _entry(file: Path, number: int, line: str) -> tuple[str, PasswordHash]:
    problem = UserError(f"--auth {file}: line {number} is not name:scrypt:n:r:p:salt:hash")
    fields = line.strip().split(":")
    if len(fields) != 7 or fields[1] != "scrypt":
        raise problem
    try:
        n, r, p = map(int, fields[2:5])
        entry = PasswordHash(
            base64.b64decode(fields[5], validate=True), base64.b64decode(fields[6], validate=True), n, r, p
        )
    except ValueError:
        raise problem from None
    # Weaker ones are no protection, dearer ones would stall the server.
    power = n & (n - 1) == 0 and 2**14 <= n <= 2**20
    if not (power and 1 <= p <= 16 and r >= 1 and 128 * n * r < _MEMORY):
        raise UserError(f"--auth {file}: line {number}: costs n={n}, r={r}, p={p} are out of bounds")
    if len(entry.salt) < 8 or len(entry.digest) < 16:
        raise problem
    return fields[0], entry


def _write(file: Path, hashes: Mapping[str, PasswordHash]) -> None:
    text = "".join(f"{user}:{entry.stored_form()}\n" for user, entry in hashes.items())
    try:
        write_whole(file, text.encode(), mode=0o600)
    except OSError as error:
        raise UserError(f"--auth {file}: cannot write it: {error.strerror}") from None
