"""A line between a driver and a worker elsewhere: proven at both ends, numbered, and alive after a network break.

    worker                                       driver
      |  greeting: nonce, proof of the token  -->          a stranger hears nothing and is hung up on
      |  <--  answer: nonce, proof of the token
      |  ENTER: name, session, version, received  -->      from here on every frame carries a proof
      |  <--  WELCOME: received  | LATER | REFUSED
      |  DATA, END  -->                                    numbered, kept until the other end has acknowledged
      |  <--  DATA
      |  <-->  BEAT                                        acknowledges, and shows that the line stands
      |  <--  KILL

A proof is an HMAC with the token, which lies in a file that only its owner can read, over both nonces and a frame's
place in the connection: what was recorded is worth nothing in another connection, or in another place of the same.
What is sent can be read on the way, unless `--tls` encrypts it; it holds a study's settings and its results, no
password and no image.

After a break the worker dials again in the same session. Both say how many messages they have received, and each
sends again what the other lacks: so every message arrives once. Nothing here waits or knows sockets.
"""

import hmac
import json
import os
import secrets
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from enum import IntEnum
from pathlib import Path
from typing import Any

from hpsearch.errors import UserError
from hpsearch.files.atomic import write_whole

BEAT_EVERY = 5.0  # seconds
SILENCE = 20.0  # seconds without a byte after which a connection counts as broken
PATIENCE = 10.0  # seconds that an end has to prove who it is
MOST = 64 << 20  # bytes of a frame, and of a stranger's:
MOST_OF_STRANGERS = 4 << 10

_MAGIC = b"hpsearch dial 1\n"
_NONCE, _PROOF, _HEAD, _NUMBER = 32, 32, 4, 8
GREETING, ANSWER = len(_MAGIC) + _NONCE + _PROOF, _NONCE + _PROOF  # bytes


class LineError(Exception):
    """The other end does not speak as it must; the connection is of no use any more."""


class Kind(IntEnum):
    """What a frame is."""

    ENTER = 1
    WELCOME = 2
    LATER = 3
    REFUSED = 4
    DATA = 5
    END = 6  # of a worker that leaves; the body says whether it was told to by a signal
    BEAT = 7
    KILL = 8


@dataclass(frozen=True, slots=True)
class Token:
    """What a driver and its workers share: a secret, and for how long they look for each other.

    Attributes:
        reconnect: seconds after which a worker without its driver leaves.
        host, pid, started: the driver's process, see `store.identity`.
        certificate: the only one that a worker takes from the driver, see `executors.tls`; "": nothing is encrypted.
    """

    secret: str
    reconnect: float
    host: str = ""
    pid: int = 0
    started: str = ""
    certificate: str = ""

    @property
    def key(self) -> bytes:
        return bytes.fromhex(self.secret)

    def write(self, path: Path) -> None:
        """Writes the token's file, which only its owner can read.

        Raises:
            OSError: it cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(self)).encode(), mode=0o600)


_FIELDS = frozenset(field.name for field in fields(Token))


def read_token(path: Path) -> Token:
    """Reads a token's file.

    Raises:
        UserError: it is not there, not a token, or others can read it.
    """
    where = f"--token-file: {path}"
    try:
        with path.open("rb") as file:
            mode, text = os.fstat(file.fileno()).st_mode & 0o777, file.read(MOST_OF_STRANGERS)
    except OSError as error:
        raise UserError(
            f"{where} cannot be read: {error.strerror}; the driver writes it when it starts and removes it at its "
            "end, and its run folder must be on a file system that this machine shares"
        ) from None
    if mode & 0o077:
        raise UserError(f"{where} can be read by others (mode {mode:03o}); chmod 600 it")
    try:
        found = {str(name): value for name, value in json.loads(text).items() if name in _FIELDS}
        token = Token(**found)  # what another version has written beside is told of when they meet
        if len(token.key) != _NONCE or not token.reconnect >= 0 or not isinstance(token.certificate, str):
            raise ValueError
    except (AttributeError, TypeError, ValueError, RecursionError):
        raise UserError(f"{where} is not a token file; name the one that the driver has written") from None
    return token


def greeting(key: bytes) -> bytes:
    """Returns what a worker says first."""
    nonce = secrets.token_bytes(_NONCE)
    return _MAGIC + nonce + _proof(key, b"greeting", nonce)


def answer(key: bytes, greeted: bytes) -> tuple[bytes, "Channel"]:
    """Returns what a driver answers to a greeting, and its end of the connection.

    Raises:
        LineError: it is not the greeting of one who knows the token.
    """
    nonce = greeted[len(_MAGIC) : -_PROOF]
    if greeted[: len(_MAGIC)] != _MAGIC or not _is(greeted[-_PROOF:], _proof(key, b"greeting", nonce)):
        raise LineError("not a worker of this driver")
    ours = secrets.token_bytes(_NONCE)
    return ours + _proof(key, b"answer", nonce, ours), Channel(key, nonce, ours, is_worker=False)


def answered(key: bytes, greeted: bytes, answer: bytes) -> "Channel":
    """Returns a worker's end of the connection, now that its greeting is answered.

    Raises:
        LineError: it is not the answer of one who knows the token.
    """
    nonce, theirs = greeted[len(_MAGIC) : -_PROOF], answer[:_NONCE]
    if not _is(answer[_NONCE:], _proof(key, b"answer", nonce, theirs)):
        raise LineError("not the driver of this token")
    return Channel(key, nonce, theirs, is_worker=True)


def _proof(key: bytes, *parts: bytes) -> bytes:
    return hmac.digest(key, b"".join(len(part).to_bytes(_NUMBER, "big") + part for part in parts), "sha256")


def _is(given: bytes, wanted: bytes) -> bool:
    return hmac.compare_digest(given, wanted)


class Channel:
    """One end of one connection: frames with their proofs.

    Attributes:
        most: bytes of a frame that the other end may send.
    """

    def __init__(self, key: bytes, worker: bytes, driver: bytes, is_worker: bool) -> None:
        keys = [_proof(key, side, worker, driver) for side in (b"worker", b"driver")]
        self._ours, self._theirs = keys if is_worker else keys[::-1]
        self._sent = self._heard = 0
        self._buffer = bytearray()
        self.most = MOST_OF_STRANGERS

    def seal(self, kind: Kind, body: bytes = b"") -> bytes:
        """Returns a frame's bytes."""
        self._sent += 1
        content = bytes([kind]) + body
        proof = _proof(self._ours, self._sent.to_bytes(_NUMBER, "big"), content)
        return (len(content) + _PROOF).to_bytes(_HEAD, "big") + proof + content

    def feed(self, data: bytes) -> Iterator[tuple[Kind, bytes]]:
        """Yields the frames that are whole now.

        Raises:
            LineError: a frame is too large, or has no proof.
        """
        self._buffer += data
        while len(self._buffer) >= _HEAD:
            length = int.from_bytes(self._buffer[:_HEAD], "big")
            if not _PROOF < length <= self.most:
                raise LineError(f"a frame of {length:,} bytes")
            if len(self._buffer) < _HEAD + length:
                return
            frame = bytes(self._buffer[_HEAD : _HEAD + length])
            del self._buffer[: _HEAD + length]
            self._heard += 1
            wanted = _proof(self._theirs, self._heard.to_bytes(_NUMBER, "big"), frame[_PROOF:])
            if not _is(frame[:_PROOF], wanted):
                raise LineError("a frame without its proof")
            try:
                kind = Kind(frame[_PROOF])
            except ValueError:
                raise LineError(f"a frame of the unknown kind {frame[_PROOF]}") from None
            yield kind, frame[_PROOF + 1 :]


class Session:
    """The numbered messages between a driver and one process of a worker, over all its connections.

    Attributes:
        received: how many messages of the other end have come.
    """

    def __init__(self) -> None:
        self.received = 0
        self._sent = 0
        self._kept: deque[tuple[int, Kind, bytes]] = deque()

    @property
    def is_acknowledged(self) -> bool:
        """Whether all that was sent has arrived."""
        return not self._kept

    def post(self, body: bytes, kind: Kind = Kind.DATA) -> tuple[Kind, bytes]:
        """Numbers a message; returns its frame."""
        self._sent += 1
        self._kept.append((self._sent, kind, body))
        return kind, self._numbered(self._sent, body)

    def beat(self) -> tuple[Kind, bytes]:
        """Returns a frame that acknowledges what has come."""
        return Kind.BEAT, self.received.to_bytes(_NUMBER, "big")

    def take(self, kind: Kind, body: bytes) -> bytes | None:
        """Returns the message in a numbered frame or None if it had come before; notes what it acknowledges.

        Raises:
            LineError: messages are missing before it.
        """
        self.acknowledge(int.from_bytes(body[:_NUMBER], "big"))
        if kind is Kind.BEAT:
            return None
        number = int.from_bytes(body[_NUMBER : 2 * _NUMBER], "big")
        if number > self.received + 1:
            raise LineError(f"message {number} after message {self.received}")
        if number <= self.received:
            return None
        self.received = number
        return body[2 * _NUMBER :]

    def acknowledge(self, count: int) -> None:
        """Forgets the messages that the other end has.

        Raises:
            LineError: it says to have more than was sent.
        """
        if count > self._sent:
            raise LineError(f"{count} messages acknowledged, {self._sent} were sent")
        while self._kept and self._kept[0][0] <= count:
            self._kept.popleft()

    def again(self) -> list[tuple[Kind, bytes]]:
        """Returns the frames of what the other end lacks."""
        return [(kind, self._numbered(number, body)) for number, kind, body in self._kept]

    def _numbered(self, number: int, body: bytes) -> bytes:
        return self.received.to_bytes(_NUMBER, "big") + number.to_bytes(_NUMBER, "big") + body


@dataclass(frozen=True, slots=True)
class Entry:
    """What a worker says of itself when it enters.

    Attributes:
        name: for its executor, which knows by it whose place it takes; "" for any.
        session: names this process of the worker, over all its connections.
        received: how many messages of the driver it has.
        version: of its hpsearch.
    """

    name: str
    session: str
    received: int
    version: str

    def body(self) -> bytes:
        """Returns the body of its frame."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def read(cls, body: bytes) -> "Entry":
        """Returns what a frame says.

        Raises:
            LineError: it says something else.
        """
        fields = read_object(body)
        kinds = {"name": str, "session": str, "received": int, "version": str}
        if fields.keys() != kinds.keys() or not all(type(fields[name]) is kinds[name] for name in kinds):
            raise LineError("an entry with other fields")
        return cls(**fields)


def read_object(body: bytes) -> dict[str, Any]:
    """Returns the JSON object in a frame.

    Raises:
        LineError: it holds something else.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise LineError("a frame that is not JSON") from None
    if not isinstance(found, dict):
        raise LineError("a frame that is not a JSON object")
    return found
