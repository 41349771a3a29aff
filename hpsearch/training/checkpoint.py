"""Checkpoints of running trials: one folder per attempt, the newest whole one is resumed.

    trials/00013/attempt-2/
      checkpoint.json              for people and for the next attempt: epoch, curve, best epoch, versions
      latest.json                  the same of a later epoch, not yet forced to the disk
      state-00007.pt               weights, optimizer, schedule ... as tensors and plain values
      best-00005.safetensors       the best epoch's weights, written when they improved
    trials/00013/onward/           the checkpoint before the cooldown, from which a longer trial can continue

The JSON is the commit point: it names the tensor files with their sizes and check sums, and it is replaced in
one step after they are on the disk. Whatever a crash leaves half done is therefore never taken: it is not
named, or it does not fit its check sum. No two attempts share a folder, so an orphan can spoil nothing.

Bringing files to the disk (fsync) takes 5-20 ms, as long as a short epoch. So it is done once a second at
most: checkpoints between are written to `latest.json` without it, beside the last one on the disk. A process
that dies costs nothing then either; a power cut costs a second of training.

Nothing here is ever unpickled: the state is read with `weights_only=True`, weights are safetensors.
"""

import io
import json
import logging
import math
import pickle
import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpsearch.contracts.trial import EpochResult, Origin, TrialRun
from hpsearch.errors import CheckpointError, HpsearchError
from hpsearch.files.atomic import link, replaced, sync_file, sync_folder, write_whole
from hpsearch.files.run_folder import ONWARD, attempt_folder
from hpsearch.study.file import digest
from hpsearch.training.weights import read_weights, save_weights

logger = logging.getLogger(__name__)

ON_DISK, LATEST = "checkpoint.json", "latest.json"
SYNC_EVERY = 1.0  # seconds
DAMAGE = (OSError, HpsearchError, ValueError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError)


@dataclass(frozen=True, slots=True)
class Best:
    """The best epoch so far.

    Attributes:
        weights: the model's state of that epoch, on any device; never changed afterwards.
        metadata: what a fresh process needs to rebuild the model, kept in the file's header.
    """

    epoch: int
    value: float
    weights: Mapping[str, Tensor]
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All that a trial needs to continue.

    Attributes:
        curve: the results of all epochs so far, in order.
        state: nested dicts and lists of tensors, numbers, texts and None.
    """

    curve: tuple[EpochResult, ...]
    state: Mapping[str, Any]
    best: Best | None = None
    attempt: int = 0

    @property
    def epoch(self) -> int:
        return self.curve[-1].epoch


class Checkpoints:
    """Owns the checkpoint folder of one attempt at a trial.

    Args:
        versions: of Python, torch and so on; written down for people.
    """

    def __init__(self, run: TrialRun, versions: Mapping[str, str] | None = None) -> None:
        self.folder = attempt_folder(Path(run.folder), run.attempt)
        self._run = run
        self._digest = digest(run.spec)
        self._versions = dict(versions or {})
        self._best: tuple[int, dict[str, Any]] | None = None
        self._on_disk: set[str] = set()
        self._synced_at = -math.inf
        self._saved_at = time.monotonic()
        self.epoch = 0
        """The last epoch that a whole checkpoint of this attempt holds; 0 without one."""

    def due(self, every_seconds: float) -> bool:
        """Returns whether so much time has passed since the last checkpoint (or the attempt's start)."""
        return time.monotonic() - self._saved_at >= every_seconds

    @property
    def weights(self) -> str | None:
        """The path of the best epoch's weights as last saved by this attempt."""
        return None if self._best is None else str(self.folder / self._best[1]["name"])

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint; the one before stays whole until this one is.

        Raises:
            CheckpointError: it cannot be written, for example because the disk is full.
        """
        sync = time.monotonic() - self._synced_at >= SYNC_EVERY
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            names = self._write(checkpoint, sync)
        except OSError as error:
            self._clear_debris()
            raise CheckpointError(self._complaint(checkpoint.epoch, error)) from error
        self.epoch, self._saved_at = checkpoint.epoch, time.monotonic()
        if sync:
            self._synced_at, self._on_disk = self._saved_at, names
        self._remove_all_but(names | self._on_disk)

    def _write(self, checkpoint: Checkpoint, sync: bool) -> set[str]:
        """Writes a checkpoint's files and then its record; returns their names."""
        files = {
            "state": self._write_state(checkpoint),
            "best": self._write_best(checkpoint.best) if checkpoint.best else None,
        }
        names = {entry["name"] for entry in files.values() if entry}
        record = json.dumps(self._record(checkpoint, files), indent=1).encode()
        if not sync:
            write_whole(self.folder / LATEST, record, sync=False)
            return names | {LATEST}
        for name in names:
            sync_file(self.folder / name)
        sync_folder(self.folder)
        write_whole(self.folder / ON_DISK, record)
        sync_folder(self.folder)
        return names | {ON_DISK}

    def save_best(self, best: Best) -> None:
        """Writes the best epoch's weights alone, unless a file of this attempt holds them.

        Raises:
            CheckpointError: they cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            entry = self._write_best(best)
            sync_file(self.folder / entry["name"])
            sync_folder(self.folder)
        except OSError as error:
            self._clear_debris()
            raise CheckpointError(self._complaint(best.epoch, error)) from error

    def newest(self) -> Checkpoint | None:
        """Returns the newest whole checkpoint over all attempts at this trial, else of the trial that it continues."""
        found = newest(Path(self._run.folder), self._digest)
        if found is None and self._run.origin is not None:
            return _inherited(self._run, self._run.origin)
        return found

    def set_aside(self) -> None:
        """Keeps the checkpoint that was saved last beside the later ones, for a longer trial to continue from.

        Raises:
            CheckpointError: it cannot be kept.
        """
        target = self.folder.parent / ONWARD
        try:
            target.mkdir(parents=True, exist_ok=True)
            for path in sorted(self.folder.iterdir(), key=lambda path: path.name in (ON_DISK, LATEST)):
                with replaced(target / path.name, sync=False) as beside:
                    link(path, beside)
        except OSError as error:
            raise CheckpointError(self._complaint(self.epoch, error)) from error

    def _write_state(self, checkpoint: Checkpoint) -> dict[str, Any]:
        buffer = io.BytesIO()
        torch.save(dict(checkpoint.state), buffer)
        path = self.folder / f"state-{checkpoint.epoch:05d}.pt"
        write_whole(path, buffer.getbuffer(), sync=False)
        return _entry(path, buffer.getbuffer())

    def _write_best(self, best: Best) -> dict[str, Any]:
        if self._best is None or self._best[0] != best.epoch:
            path = self.folder / f"best-{best.epoch:05d}.safetensors"
            save_weights(path, best.weights, dict(best.metadata), sync=False)
            self._best = best.epoch, _entry(path, path.read_bytes())
        return self._best[1]

    def _record(self, checkpoint: Checkpoint, files: Mapping[str, Any]) -> dict[str, Any]:
        best = checkpoint.best
        return {
            "study": self._run.study,
            "trial": self._run.number,
            "attempt": self._run.attempt,
            "epoch": checkpoint.epoch,
            "metric": self._run.spec.study.metric,
            "best_epoch": best.epoch if best else None,
            "best_value": _to_json(best.value) if best else None,
            "digest": self._digest,
            "hparams": dict(self._run.hparams),
            "versions": self._versions,
            "files": dict(files),
            "curve": [_result_to_json(result) for result in checkpoint.curve],
        }

    def _complaint(self, epoch: int, error: OSError) -> str:
        kept = f"epoch {self.epoch} of this attempt" if self.epoch else "that of an earlier attempt, if any"
        return (
            f"trial {self._run.number}: the checkpoint of epoch {epoch} cannot be written to {self.folder}: "
            f"{error.strerror or error}. The last whole checkpoint ({kept}) is intact; free some space there and "
            "run the study again, and the trial resumes from it"
        )

    def _clear_debris(self) -> None:
        """Removes what a failed attempt to save left behind, so that it does not fill the disk further."""
        records = [_read_record(self.folder / commit) for commit in (ON_DISK, LATEST)]
        named = [entry["name"] for record in records if record for entry in record["files"].values() if entry]
        if self._best is not None and self._best[1]["name"] not in named:
            self._best = None
        self._remove_all_but({ON_DISK, LATEST, *named})

    def _remove_all_but(self, names: set[str]) -> None:
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.name not in names:
                path.unlink(missing_ok=True)


def newest(trial_folder: Path, expected_digest: str) -> Checkpoint | None:
    """Returns the newest whole checkpoint of a trial over all its attempts, or None.

    Those of another specification and damaged ones are passed over with a reason in the log.
    """
    for commit, record in _candidates(trial_folder):
        if record["digest"] != expected_digest:
            logger.warning("%s: skipped, it belongs to another specification", commit)
            continue
        try:
            return _load(commit.parent, record)
        except DAMAGE as error:
            logger.warning("%s: skipped, it is damaged: %s", commit, error)
    return None


def epochs_in(folder: Path) -> int | None:
    """Returns the last epoch of the checkpoint that was set aside in a folder; None without a readable one."""
    found = _in_order(folder / name for name in (ON_DISK, LATEST))
    return found[0][1]["epoch"] if found else None


def _inherited(run: TrialRun, origin: Origin) -> Checkpoint:
    """Returns the checkpoint of the trial that another one continues, as epochs of the latter.

    Raises:
        CheckpointError: it is not there, or damaged.
    """
    reason = "there is none"
    for commit, record in _in_order(Path(origin.folder) / name for name in (ON_DISK, LATEST)):
        try:
            found = _load(commit.parent, record)
        except DAMAGE as error:
            reason = f"it is damaged: {error}"
            continue
        curve = (replace(one, number=run.number, attempt=0, last=False) for one in found.curve)
        return replace(found, curve=tuple(curve), attempt=0)
    raise CheckpointError(
        f"trial {run.number}: the checkpoint of trial {origin.number}, which it continues, cannot be read from "
        f"{origin.folder}: {reason}; run `hpsearch continue` again"
    )


def _candidates(trial_folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Returns the readable commit files, highest epoch first; of two alike, the later attempt."""
    return _in_order(path for name in (ON_DISK, LATEST) for path in trial_folder.glob(f"attempt-*/{name}"))


def _in_order(paths: Iterable[Path]) -> list[tuple[Path, dict[str, Any]]]:
    found = [(path, _read_record(path)) for path in sorted(paths)]
    whole = [(path, record) for path, record in found if record is not None]
    return sorted(whole, key=lambda pair: (pair[1]["epoch"], pair[1]["attempt"]), reverse=True)


def _read_record(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        missing = {"epoch", "attempt", "digest", "files", "curve"} - record.keys()
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        logger.warning("%s: skipped, it cannot be read: %s", path, error)
        return None
    if missing:
        logger.warning("%s: skipped, it lacks %s", path, ", ".join(sorted(missing)))
        return None
    return dict(record)


def _load(folder: Path, record: Mapping[str, Any]) -> Checkpoint:
    state = _checked(folder, record["files"]["state"])
    best = None
    if (entry := record["files"]["best"]) is not None:
        _checked(folder, entry)
        weights, metadata = read_weights(folder / entry["name"])
        best = Best(record["best_epoch"], float(record["best_value"]), weights, metadata)
    return Checkpoint(
        curve=tuple(_result_from_json(result) for result in record["curve"]),
        state=torch.load(io.BytesIO(state), map_location="cpu", weights_only=True),
        best=best,
        attempt=record["attempt"],
    )


def _entry(path: Path, content: bytes | memoryview) -> dict[str, Any]:
    return {"name": path.name, "bytes": len(content), "crc32": zlib.crc32(content)}


def _checked(folder: Path, entry: Mapping[str, Any]) -> bytes:
    """Returns a file's content.

    Raises:
        CheckpointError: it is not what was written.
    """
    path = folder / str(entry["name"])
    content = path.read_bytes()
    if _entry(path, content) != dict(entry):
        raise CheckpointError(f"{path.name} does not fit its check sum ({len(content)} bytes)")
    return content


def _result_to_json(result: EpochResult) -> dict[str, Any]:
    metrics = {name: _to_json(value) for name, value in result.metrics.items()}
    return asdict(replace(result, metrics={})) | {"metrics": metrics}


def _result_from_json(record: Mapping[str, Any]) -> EpochResult:
    metrics = {name: float(value) for name, value in record["metrics"].items()}
    return EpochResult(**{**record, "metrics": metrics})


def _to_json(value: float) -> float | str:
    """JSON has no NaN and no infinities; as texts every reader takes them, and `float` reads them back."""
    return value if math.isfinite(value) else repr(value)
