"""Every path below the run folder, in one place."""

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
        samples.csv                          which sample is in which part of the data
        weights/trial-00012.safetensors      kept weights of finished trials
        images/test-00012.npz                what each image gave in a confirmation, for its intervals
        trials/00013/attempt-1/              checkpoints of running trials, deleted after their end
        logs/worker-0.log                    what workers wrote to stderr
        logs/worker-0.2.log                  the same of another driver that runs beside the first
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
        return self.home / "study.json"

    @property
    def trials(self) -> Path:
        return self.home / "trials"

    def trial(self, number: int) -> Path:
        """Returns the folder that holds all attempts' checkpoints of a trial."""
        return self.trials / f"{number:05d}"

    def weights(self, number: int) -> Path:
        """Returns where a finished trial's best weights are kept."""
        return self.home / "weights" / f"trial-{number:05d}.safetensors"

    def images(self, part: str, number: int) -> Path:
        """Returns where it is kept what each image of a part gave with a trial's weights."""
        return self.home / "images" / f"{part}-{number:05d}.npz"

    def kept_weights(self) -> list[tuple[int, Path]]:
        """Returns the numbers of the trials whose weights are kept here, and where."""
        found = (self.home / "weights").glob("trial-*.safetensors")
        numbered = [(path.stem.removeprefix("trial-"), path) for path in found]
        return sorted((int(number), path) for number, path in numbered if number.isdecimal())

    def worker_log(self, worker: int, driver: int = 1) -> Path:
        """Returns the log of a worker; `driver` counts those that share this folder at the same time."""
        return self.home / "logs" / f"worker-{worker}{f'.{driver}' if driver > 1 else ''}.log"


SAMPLES = "samples.csv"


def split_entry(digest: str) -> str:
    """Returns the name of the folder in the cache whose `SAMPLES` says which sample is in which part."""
    return f"split-{digest}"


def attempt_folder(trial_folder: Path, attempt: int) -> Path:
    """Returns where one attempt at a trial writes; no two attempts share a file."""
    return trial_folder / f"attempt-{attempt}"
