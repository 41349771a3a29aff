"""Which weights stay on disk, and when a trial's checkpoints may go."""

import json
import logging
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hpsearch.errors import CheckpointError, UserError
from hpsearch.files.artifacts import Artifacts, FolderArtifacts
from hpsearch.files.atomic import write_whole
from hpsearch.files.run_folder import (
    ONWARD,
    OWNER,
    SAMPLES,
    RunFolder,
    attempt_folder,
    read_owner,
    split_entry,
)
from hpsearch.store.url import sqlite_file
from hpsearch.study.direction import Direction, sign
from hpsearch.study.train import CheckpointSpec

logger = logging.getLogger(__name__)

_BEST = re.compile(r"best-.*\.safetensors")


class WeightsKeeper:
    """Keeps the weights of the best trials; deletes checkpoints once the trial's end is in the database.

    It remembers nothing: what is in the folder is held against what is in the database, so that it also
    clears away what a driver has left that was killed before it could.
    """

    def __init__(
        self,
        folder: RunFolder,
        spec: CheckpointSpec,
        better: Direction,
        artifacts: Artifacts | None = None,
    ) -> None:
        self.folder = folder
        self._artifacts = artifacts or FolderArtifacts(folder.home)
        self._spec = spec
        self._sign = sign(better)

    def take_folder(self, token: str, storage: str, others: Mapping[str, str]) -> None:
        """Makes sure that the study's folder is its own: a study of another database may have the same name.

        Files go with their study: those of one that was renamed meanwhile are moved out of its way, and those
        that this one had under its former name are moved here.

        Args:
            token: of the study.
            storage: URL of its database, without a password.
            others: the tokens of the other studies of the database, by their names.

        Raises:
            UserError: the folder holds another study's files, or cannot be written.
        """
        owner = read_owner(self.folder.home)
        renamed = [name for name, other in others.items() if owner is not None and other == owner["token"]]
        if owner is not None and owner["token"] != token and renamed:
            self._move(self.folder.home, self.folder.root / renamed[0])
        elif owner is not None and owner["token"] != token:
            # In the same database only one study has this name, so that the other one was deleted.
            if owner["storage"] != storage and not _is_gone(owner["storage"]):
                raise UserError(
                    f"--run-folder: {self.folder.home} holds the files of another study of this name, in "
                    f"{owner['storage']}; choose another run folder or another name, or delete that study"
                )
            for part in ("trials", "weights", ONWARD):
                shutil.rmtree(self.folder.home / part, ignore_errors=True)
        for home in self.folder.root.glob("*/"):
            left = home.name not in others and home != self.folder.home
            if left and (read_owner(home) or {}).get("token") == token:
                self._move(home, self.folder.home)
        with self._writing(self.folder.owner):
            self.folder.home.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder.owner, json.dumps({"token": token, "storage": storage}).encode())

    def _move(self, home: Path, target: Path) -> None:
        """Moves a study's files from one folder to another, which says last whose they are."""
        try:
            target.mkdir(parents=True, exist_ok=True)
            parts = [path for part in ("trials", "weights", ONWARD) for path in (home / part).glob("*")]
            for path in [*parts, home / SAMPLES, home / OWNER]:
                place = target / path.relative_to(home)
                place.parent.mkdir(exist_ok=True)
                if path.exists() and not place.exists():
                    path.replace(place)
        except OSError as error:
            raise UserError(
                f"--run-folder: the files of a renamed study cannot be moved from {home} to {target}: "
                f"{error.strerror or error}; move them by hand"
            ) from error

    def keep_split(self, cache: Path, digest: str) -> None:
        """Keeps with the study which sample is in which part, as the workers have noted it in the cache.

        Args:
            digest: of the data.

        Raises:
            UserError: the folder cannot be written.
        """
        source = cache / split_entry(digest) / SAMPLES
        if source.is_file():
            with self._writing(self.folder.home / SAMPLES):
                self._artifacts.keep(str(source), SAMPLES)

    @contextmanager
    def _writing(self, target: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"--run-folder: {target} cannot be written: {error.strerror or error}; free some space and "
                "check permissions there, or choose another folder"
            ) from error

    def keep(self, number: int, weights: str | None) -> str | None:
        """Gives a trial's best weights their place beside the other finished trials'; returns the path.

        It is told from the run folder on, which may be moved. They are kept under both names: until the trial's
        end is in the database, its checkpoint must stay whole.

        Args:
            weights: as the engine told; None when its worker died, and then the checkpoint's are taken.

        Raises:
            CheckpointError: they cannot be kept, for want of room or rights.
        """
        target = self.folder.weights(number)
        try:
            weights = weights or self._in_checkpoint(number)
            if weights is None:
                return None
            self._artifacts.keep(weights, self._name(target))
        except OSError as error:
            raise CheckpointError(
                f"trial {number}: its weights cannot be kept in {target}: {error.strerror or error}; its "
                "checkpoint is intact, free some space and run the study again"
            ) from error
        return target.relative_to(self.folder.root).as_posix()

    def keep_onward(self, number: int, is_shared: bool) -> None:
        """Keeps the checkpoint from which a longer trial can continue a trial that has ended.

        Args:
            is_shared: whether all epochs of the trial are as a longer one's, so that the last one will do.

        Raises:
            CheckpointError: it cannot be kept.
        """
        home = self._name(self.folder.trial(number))
        attempts = [int(name[8:]) for name in self._artifacts.names(home) if name.startswith("attempt-")]
        newest = next(
            (one for one in sorted(attempts, reverse=True) if self.has_checkpoint(number, one)), None
        )
        source = f"{home}/{ONWARD}"
        if not self._artifacts.names(source):
            if not is_shared or newest is None:
                return
            source = f"{home}/attempt-{newest}"
        target = self._name(self.folder.onward(number))
        try:
            for name in self._artifacts.names(source):
                self._artifacts.keep(self._artifacts.locate(f"{source}/{name}"), f"{target}/{name}")
        except OSError as error:
            raise CheckpointError(
                f"trial {number}: its checkpoint cannot be kept in {self.folder.onward(number)}: "
                f"{error.strerror or error}; it is intact, free some space and run the study again"
            ) from error

    def has_checkpoint(self, number: int, attempt: int) -> bool:
        """Says whether an attempt at a trial has left a checkpoint here."""
        names = self._artifacts.names(self._name(attempt_folder(self.folder.trial(number), attempt)))
        return any(name.endswith(".json") for name in names)

    def drop_older(self, number: int, attempt: int) -> bool:
        """Deletes a paused trial's checkpoints but for the newest, which has all that is in the older ones.

        Args:
            attempt: the last one at the trial.

        Returns:
            Whether it has left any.
        """
        kept = [one for one in range(attempt, 0, -1) if self.has_checkpoint(number, one)]
        for older in kept[1:]:
            self._artifacts.remove(self._name(attempt_folder(self.folder.trial(number), older)))
        return bool(kept)

    def _in_checkpoint(self, number: int) -> str | None:
        """Returns the weights that the newest attempt with any has left."""
        home = self._name(self.folder.trial(number))
        for attempt in sorted(self._artifacts.names(home), key=lambda name: (len(name), name), reverse=True):
            kept = [n for n in self._artifacts.names(f"{home}/{attempt}") if _BEST.fullmatch(n)]
            if kept:
                newest = max(kept, key=lambda name: (len(name), name))
                return self._artifacts.locate(f"{home}/{attempt}/{newest}")
        return None

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder.home).as_posix()

    def tidy(
        self,
        scores: Mapping[int, float],
        has_ended: Callable[[int], bool],
        shared: Collection[str] = (),
        front: Collection[int] = (),
    ) -> None:
        """Deletes checkpoints of trials that have ended, and all that is kept of those that are not among the best.

        Args:
            scores: of the COMPLETE trials by number; of equal ones the first is the study's best.
            has_ended: says whether a trial's end is in the database. Another driver of this folder may just be
                linking the weights of one that has not.
            shared: weights that copies of the study name too: they stay.
            front: trials whose weights stay with those of the best.
        """
        trials = self._name(self.folder.trials)
        for name in self._artifacts.names(trials):
            if name.isdecimal() and has_ended(int(name)):
                self._artifacts.remove(f"{trials}/{name}")
        if self._spec.keep == "all":
            return
        count = 1 if self._spec.keep == "best" else self._spec.keep
        best = {*sorted(scores, key=lambda number: (self._sign * scores[number], number))[:count], *front}
        for name in self._artifacts.names(ONWARD):
            if name.isdecimal() and int(name) not in best and has_ended(int(name)):
                self._artifacts.remove(f"{ONWARD}/{name}")
        for number, path in self.folder.kept_weights():
            is_shared = not self.folder.names(path).isdisjoint(shared)
            if number not in best and has_ended(number) and not is_shared:
                self._artifacts.remove(self._name(path))


def _is_gone(storage: str) -> bool:
    """Says whether a database is an SQLite file that is not there any more."""
    file = sqlite_file(storage)
    return file is not None and not file.exists()
