"""An engine of several slots whose trials are formulas: what every engine must do, with nothing of how.

It needs no torch and no data, resumes from checkpoints of its own, and takes trials of one batch size at a
time, as engines do that train several trials in one batched model.
"""

import json
import math
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hpsearch.contracts.trial import EndKind, EpochResult, TrialEnd, TrialRun, TrialStarted
from hpsearch.errors import CheckpointError
from hpsearch.files.atomic import write_whole
from hpsearch.files.run_folder import attempt_folder


@dataclass(slots=True)
class _Slot:
    run: TrialRun
    curve: tuple[EpochResult, ...]
    saved: int

    @property
    def folder(self) -> Path:
        return attempt_folder(Path(self.run.folder), self.run.attempt)


def _nothing(run: TrialRun, epoch: int) -> None: ...


class ReferenceEngine:
    """Trains nothing: a trial's losses fall with its epochs, to a level that its learning rate decides.

    Args:
        capacity: number of slots.
        before: called before each epoch of each trial; what it raises ends that trial, MemoryError as a lack
            of memory.
    """

    def __init__(self, capacity: int = 3, before: Callable[[TrialRun, int], None] = _nothing) -> None:
        self.capacity = capacity
        self._before = before
        self._slots: dict[int, _Slot] = {}

    def fits(self, run: TrialRun) -> bool:
        sizes = {slot.run.spec.train.batch_size for slot in self._slots.values()}
        return len(self._slots) < self.capacity and sizes <= {run.spec.train.batch_size}

    def admit(self, run: TrialRun) -> TrialStarted:
        found = [_read(path) for path in Path(run.folder).glob("attempt-*/checkpoint.json")]
        curve = max(found, key=len, default=())
        self._slots[run.number] = _Slot(run, curve, len(curve))
        return TrialStarted(run.number, run.attempt, curve)

    def step(self, numbers: Collection[int] | None = None) -> list[EpochResult | TrialEnd]:
        chosen = [slot for slot in self._slots.values() if numbers is None or slot.run.number in numbers]
        return [self._epoch(slot) for slot in chosen]

    def evict(self, number: int, kind: EndKind) -> TrialEnd:
        if number not in self._slots:
            raise KeyError(f"trial {number} is in no slot")
        slot = self._slots.pop(number)
        return TrialEnd(number, slot.run.attempt, kind, weights=_save(slot))

    def clear(self) -> None:
        self._slots.clear()

    def close(self) -> None:
        self.clear()

    def _epoch(self, slot: _Slot) -> EpochResult | TrialEnd:
        run, epoch = slot.run, len(slot.curve) + 1
        try:
            self._before(run, epoch)
            slot.curve = (*slot.curve, _result(run, epoch))
            if run.spec.checkpoint.every_seconds == 0:
                _save(slot)
            return slot.curve[-1]
        except Exception as error:
            del self._slots[run.number]
            kinds = {MemoryError: EndKind.OUT_OF_MEMORY, CheckpointError: EndKind.UNSAVED}
            return TrialEnd(run.number, run.attempt, kinds.get(type(error), EndKind.ERROR), detail=str(error))


def _result(run: TrialRun, epoch: int) -> EpochResult:
    loss = abs(math.log10(run.spec.train.learning_rate) + 1) + 0.1 + 1 / epoch
    last = epoch == run.spec.train.ends_after
    metrics = {"train_loss": loss, "val_loss": loss}
    return EpochResult(run.number, run.attempt, epoch, metrics, seconds=0.01, samples=1, last=last)


def _save(slot: _Slot) -> str | None:
    """Writes a trial's checkpoint and weights, unless that is done already; returns the weights' path."""
    if not slot.curve:
        return None
    weights = slot.folder / "best-00001.safetensors"
    try:
        slot.folder.mkdir(parents=True, exist_ok=True)
        if len(slot.curve) > slot.saved:
            slot.curve = (
                *slot.curve[:-1],
                replace(slot.curve[-1], checkpointed=True, checkpoint_seconds=1e-3),
            )
            slot.saved = len(slot.curve)
            record = [asdict(result) for result in slot.curve]
            write_whole(slot.folder / "checkpoint.json", json.dumps(record).encode(), sync=False)
        write_whole(weights, _weights(slot.curve), sync=False)
    except OSError as error:
        raise CheckpointError(
            f"checkpoint of epoch {len(slot.curve)} cannot be written in {slot.folder}: {error.strerror}"
        ) from error
    return str(weights)


def _read(path: Path) -> tuple[EpochResult, ...]:
    return tuple(EpochResult(**result) for result in json.loads(path.read_text(encoding="utf-8")))


def _weights(curve: tuple[EpochResult, ...]) -> bytes:
    """Returns a safetensors file of one number, the best epoch."""
    best = min(curve, key=lambda result: result.metrics["val_loss"]).epoch
    entry: dict[str, Any] = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}
    header = json.dumps({"__metadata__": {"epoch": str(best)}, "best": entry}).encode()
    return len(header).to_bytes(8, "little") + header + bytes([best % 256])
