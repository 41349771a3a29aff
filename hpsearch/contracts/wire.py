"""Messages as JSON, for workers elsewhere: what comes over a network is never unpickled.

Each message is an object with the name of its class (`kind`) and its fields. Whatever is not exactly that is
refused: an unknown kind, a field too many or too few, a value of another type.
"""

import functools
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from hpsearch.contracts.messages import (
    Decision,
    EpochResult,
    FromWorker,
    Loading,
    Ready,
    SetupFailed,
    Shutdown,
    ToWorker,
    TrialEnd,
    TrialRun,
    TrialStarted,
    Usage,
    Waiting,
    WorkerSetup,
)
from hpsearch.errors import StudyFileError

TO_WORKER: dict[str, type] = {kind.__name__: kind for kind in (WorkerSetup, TrialRun, Decision, Shutdown)}
FROM_WORKER: dict[str, type] = {
    kind.__name__: kind
    for kind in (Waiting, Loading, Ready, SetupFailed, TrialStarted, EpochResult, Usage, TrialEnd)
}
"""What a worker itself says: that it has gone, and that places come and go, is its executor's word."""

_FORM = ConfigDict(extra="forbid", strict=True, ser_json_inf_nan="constants")


class WireError(ValueError):
    """What came is not a message."""


def encode(message: ToWorker | FromWorker) -> bytes:
    """Returns a message as a line of JSON."""
    kind = type(message).__name__
    try:
        fields = _adapter(kind).dump_json(message)
    except PydanticSerializationError:  # half characters, as of a file's name that is not UTF-8
        text = json.dumps(_visible(_adapter(kind).dump_python(message)))
        fields = text.encode()
    return b'{"kind":%s,"fields":%s}' % (json.dumps(kind).encode(), fields)


def _visible(value: Any) -> Any:
    """Returns plain values whose half characters are written out, as in caf\\udce9."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_visible(key): _visible(inner) for key, inner in value.items()}
    return [_visible(inner) for inner in value] if isinstance(value, list | tuple) else value


def to_worker(text: bytes) -> ToWorker:
    """Returns the message of a driver.

    Raises:
        WireError: it is none.
    """
    return _decode(text, TO_WORKER)  # type: ignore[no-any-return]


def from_worker(text: bytes) -> FromWorker:
    """Returns the message of a worker.

    Raises:
        WireError: it is none.
    """
    return _decode(text, FROM_WORKER)  # type: ignore[no-any-return]


def _decode(text: bytes, kinds: dict[str, type]) -> Any:
    head, _, rest = text.partition(b',"fields":')
    kind = head.removeprefix(b'{"kind":"').removesuffix(b'"').decode("ascii", "replace")
    if kind not in kinds or not rest.endswith(b"}"):
        raise WireError(f"unknown message {kind[:40]!r}")
    try:
        found = _adapter(kind).validate_json(rest[:-1])
    except (ValidationError, StudyFileError) as error:
        raise WireError(f"{kind}: {error}") from None
    if found is None:
        raise WireError(f"{kind}: has no fields")
    return found


@functools.cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    # Pydantic takes a form for a plain dataclass only by way of a union.
    message: Any = (TO_WORKER | FROM_WORKER)[kind]
    return TypeAdapter(message | None, config=_FORM)
