"""Every path below the run folder, in one place."""

import json
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of one study.

    runs/
      hpsearch.db                            the default database
      cache/                                 decoded images, shared by all studies
      artifacts/                             what the dashboard offers for download
      fashion-mnist/
        study.json                           whose folder it is: the study's token and database
        unsaved-20260131-120000-4711.jsonl   trials that the database has lost; the next run brings them back
        samples.csv                          which sample is in which part of the data
        weights/trial-00012.safetensors      kept weights of finished trials
        images/test-00012.npz                what each image gave in a confirmation, for its intervals
        trials/00013/attempt-1/              checkpoints of running trials, deleted after their end
        trials/00013/onward/                 the checkpoint from which a longer trial can continue this one
        onward/00012/                        the same of finished trials whose weights are kept
        logs/worker-0.log                    what workers wrote to stderr
        logs/worker-0.2.log                  the same of another driver that runs beside the first
        logs/worker-0.4711.log               the same of a worker that was Slurm's job 4711
        logs/dashboard.log                   why graphs could not be finished after the end of a run
        dial/5f0c3a91.token                  what workers elsewhere prove themselves with to a driver
    """

    root: Path
    study: str

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def home(self) -> Path:
        return self.root / self.study

    @property
    def owner(self) -> Path:
        return self.home / OWNER

    def unsaved(self) -> list[Path]:
        """Returns the files that hold what the database has lost, the oldest first."""
        return sorted(self.home.glob("unsaved-*.jsonl"))

    @property
    def trials(self) -> Path:
        return self.home / "trials"

    def trial(self, number: int) -> Path:
        """Returns the folder that holds all attempts' checkpoints of a trial."""
        return self.trials / f"{number:05d}"

    def onward(self, number: int) -> Path:
        """Returns where the checkpoint is kept from which a finished trial can be continued."""
        return self.home / ONWARD / f"{number:05d}"

    def origin(self, number: int) -> Path:
        """Returns where the checkpoint of a search's trial lies that trials of this study continue."""
        return self.trials / f"from-{number:05d}"

    def weights(self, number: int) -> Path:
        """Returns where a finished trial's best weights are kept."""
        return self.home / "weights" / f"trial-{number:05d}.safetensors"

    def images(self, part: str, number: int) -> Path:
        """Returns where it is kept what each image of a part gave with a trial's weights."""
        return self.home / "images" / f"{part}-{number:05d}.npz"

    def names(self, path: Path) -> set[str]:
        """Returns by what a trial's attribute may name a file of the run folder, today or by older versions."""
        return {str(path), str(path.absolute()), path.relative_to(self.root).as_posix()}

    def find_weights(self, number: int, named: object, token: str | None = None) -> Path | None:
        """Returns where a finished trial's weights are on this machine, None if they are not.

        Args:
            named: as stored with the trial: a path below the run folder, or one from the root on by an older
                version, which is wrong once the folder was moved.
            token: of the study: a folder that says it is another study's is left alone.
        """
        if not named or not isinstance(named, str):
            return None
        path = Path(named)
        if ".." in path.parts:
            return None
        below = self.root / path  # `path` itself, if that begins at the root
        own = self.weights(number) if Path(self.study).name == self.study else below
        homes = {below: self.root / path.parts[0], own: self.home}
        return next((one for one, home in homes.items() if _is_of(home, token) and os.path.isfile(one)), None)

    def kept_weights(self) -> list[tuple[int, Path]]:
        """Returns the numbers of the trials whose weights are kept here, and where."""
        found = (self.home / "weights").glob("trial-*.safetensors")
        numbered = [(path.stem.removeprefix("trial-"), path) for path in found]
        return sorted((int(number), path) for number, path in numbered if number.isdecimal())

    def job_log(self, worker: int, job: str) -> Path:
        """Returns the log of a worker that runs as a job of a scheduler."""
        return self.home / "logs" / f"worker-{worker}.{job}.log"

    @property
    def dashboard_log(self) -> Path:
        """Where it stands why graphs could not be finished after the end of a run."""
        return self.home / "logs" / "dashboard.log"

    def dial_token(self, driver: str) -> Path:
        """Returns the file of a driver's token, which the workers that dial it read too."""
        return self.home / "dial" / f"{driver[:8]}.token"

    def worker_log(self, worker: int, driver: int = 1) -> Path:
        """Returns the log of a worker; `driver` counts those that share this folder at the same time."""
        return self.home / "logs" / f"worker-{worker}{f'.{driver}' if driver > 1 else ''}.log"


def read_owner(home: Path) -> dict[str, str] | None:
    """Returns whose a study's folder is, its `token` and its database (`storage`); None if it does not say."""
    try:
        owner = json.loads((home / OWNER).read_text(encoding="utf-8"))
        return {"token": str(owner["token"]), "storage": str(owner["storage"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_of(home: Path, token: str | None) -> bool:
    owner = read_owner(home)
    return owner is None or token is None or owner["token"] == token


OWNER = "study.json"
SAMPLES = "samples.csv"
ONWARD = "onward"
"""The folder of checkpoints from which a longer trial can continue: of a running trial, and of the finished ones."""


def split_entry(digest: str) -> str:
    """Returns the name of the folder in the cache whose `SAMPLES` says which sample is in which part."""
    return f"split-{digest}"


def attempt_folder(trial_folder: Path, attempt: int) -> Path:
    """Returns where one attempt at a trial writes; no two attempts share a file."""
    return trial_folder / f"attempt-{attempt}"
