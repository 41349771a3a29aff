"""How near `hpsearch check` comes to the time that `hpsearch run` takes, on the shipped studies.

    python tests/benchmarks/estimate.py [STUDY ...] [--data-root FOLDER] [--trials N] [--workers N]

Each study is checked, run and checked again, in a new run folder: on a machine that others use too, the two
estimates show how much its pace has changed meanwhile. The ratio is the mean of both estimates to the time of the
whole command. Photographs for day_night are painted; Fashion-MNIST needs --data-root. On two idle cores all take
about four minutes.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
HPSEARCH = (sys.executable, "-m", "hpsearch")
STUDIES = ("digits", "day_night", "fashion_mnist")
"""Those with a loop of hpsearch's own; a training function is not run by `check`."""


def seconds(clock: str) -> int:
    """Returns the seconds of h:mm:ss or m:ss."""
    total = 0
    for piece in clock.split(":"):
        total = 60 * total + int(piece)
    return total


def hpsearch(*arguments: str) -> tuple[str, float]:
    """Returns what a command prints, and how long it takes."""
    began = time.monotonic()
    done = subprocess.run([*HPSEARCH, *arguments], capture_output=True, text=True, check=True)
    return done.stdout, time.monotonic() - began


def estimate(study: Path, flags: list[str]) -> tuple[int, int]:
    """Returns what `check` expects, and what it says for the case that no trial is stopped early."""
    text, _ = hpsearch("check", str(study), *flags)
    found = re.search(
        r"^estimate: about ([\d:]+).*?(?:; ([\d:]+) if no trial is stopped early)?$", text, re.MULTILINE
    )
    assert found is not None, text
    return seconds(found[1]), seconds(found[2] or found[1])


def measure(name: str, folder: Path, root: Path | None, trials: int | None, workers: int) -> str:
    """Returns one row of the table."""
    text = (ROOT / "studies" / f"{name}.toml").read_text(encoding="utf-8")
    if trials is not None:
        text = re.sub(r"(?m)^trials = \d+", f"trials = {trials}", text)
    study = folder / f"{name}.toml"
    study.write_text(text, encoding="utf-8")
    flags = ["--run-folder", str(folder / name), "--workers", str(workers)]
    flags += ["--data-root", str(root)] if root else []
    before, most = estimate(study, flags)
    told, truth = hpsearch("run", str(study), *flags)
    after, _ = estimate(study, flags)
    epochs = re.search(r"are finished \([\d:]+, ([\d,]+) epochs\)", told)
    ratio = (before + after) / 2 / truth
    shown = epochs[1] if epochs else "?"
    return f"{name:14} {before:8} {after:8} {truth:8.0f} {ratio:7.2f} {most:8} {shown:>8}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="*", default=list(STUDIES))
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--trials", type=int)
    parser.add_argument("--workers", type=int, default=1)
    wanted = parser.parse_args()
    print(f"{'study':14} {'before':>8} {'after':>8} {'truth':>8} {'ratio':>7} {'at most':>8} {'epochs':>8}")
    for name in wanted.studies:
        with tempfile.TemporaryDirectory(prefix="hpsearch-estimate-") as made:
            folder, root = Path(made), wanted.data_root
            if name == "day_night":
                root = folder / "photos"
                subprocess.run([sys.executable, str(ROOT / "tests" / "scenes.py"), str(root)], check=True)
            print(measure(name, folder, root, wanted.trials, wanted.workers), flush=True)


if __name__ == "__main__":
    main()
