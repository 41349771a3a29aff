"""How often the intervals of a confirmation hold the truth, and how often it finds differences where there are none.

    python -m tests.benchmarks.intervals --studies 500

Confirmations are simulated, each of R trainings (2 to 10) judged on the same N images (36 to 10,000). Image i has a
difficulty that all trainings meet, training r a quality of its own: with s_ri = base + a_r + b_i + e_ri, all normal, an
image is wrong where s is above 0, its loss is log(1 + exp(s)) and right images are those of its class. The truth is the
mean over infinitely many seeds and images, by quadrature. The spread of b decides how alike two trainings' errors are,
that of a how much seeds differ. The code that is measured is the one that `hpsearch confirm` runs.

Printed for each metric: the share of studies whose 95 % interval holds the truth, with the lowest and the highest share
over the settings, and the same of the interval over seeds alone, which knows nothing of images; then, of two equally
good configurations over the same images and seeds, the share that are called significantly different at 5 %.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from hpsearch.results.confirm.statistics import ANY, POSITIVE, SHARE, Range, difference, summarize

Array = NDArray[np.float64]

REPEATS = (2, 3, 5, 10)
IMAGES = (36, 100, 1_000, 10_000)
ERRORS = (0.002, 0.01, 0.05, 0.2, 0.5)
ALIKE = (1.0, 2.0)  # standard deviation of b; e has 1: two trainings' scores correlate by 1/2 and 4/5
SEEDS = (0.0, 0.03, 0.15)  # standard deviation of a, as a share of that of s: none, usual, wild
LEAST_WRONG = (
    3.0  # expected wrong images from which a setting counts in "lowest": below it shares come in jumps
)


@dataclass(frozen=True, slots=True)
class Setting:
    repeats: int
    images: int
    error: float
    alike: float
    seeds: float

    @property
    def wide(self) -> float:
        """The standard deviation of all scores."""
        return float(np.sqrt((self.alike**2 + 1) / (1 - self.seeds**2)))

    @property
    def base(self) -> float:
        return float(ndtri(self.error)) * self.wide

    def is_discrete(self) -> bool:
        return self.images * self.error < LEAST_WRONG

    def difficulties(self, rng: np.random.Generator) -> Array:
        return self.alike * rng.standard_normal(self.images)

    def scores(self, rng: np.random.Generator, difficulties: Array) -> Array:
        """Returns one study's scores, [R, N]; two configurations share their images' difficulties."""
        qualities = self.seeds * self.wide * rng.standard_normal((self.repeats, 1))
        return self.base + qualities + difficulties + rng.standard_normal((self.repeats, self.images))


def wrong(scores: Array) -> Array:
    return (scores > 0).astype(np.float64)


def loss(scores: Array) -> Array:
    return np.logaddexp(0, scores)


def true_error(setting: Setting) -> float:
    return float(ndtr(setting.base / setting.wide))


def true_loss(setting: Setting) -> float:
    points, weights = np.polynomial.hermite_e.hermegauss(200)
    return float((weights * loss(setting.base + setting.wide * points)).sum() / weights.sum())


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    of: Callable[[Array], Array]
    truth: Callable[[Setting], float]
    possible: Range


METRICS = (Metric("error", wrong, true_error, SHARE), Metric("loss", loss, true_loss, POSITIVE))


@dataclass(frozen=True, slots=True)
class Found:
    """Shares of the studies of one setting."""

    setting: Setting
    held: float
    by_seeds: float
    false_alarms: float
    zero_width: float


def measure(setting: Setting, metric: Metric, studies: int, seed: int) -> Found:
    rng, truth = np.random.default_rng(seed), metric.truth(setting)
    held = by_seeds = alarms = empty = 0
    for _ in range(studies):
        difficulties = setting.difficulties(rng)
        one, other = (metric.of(setting.scores(rng, difficulties)) for _ in range(2))
        values = one.mean(1).tolist()
        found, seeds = summarize(values, metric.possible, one), summarize(values, ANY)
        held += found.low is not None and found.high is not None and found.low <= truth <= found.high
        empty += found.low is None or found.low == found.high
        by_seeds += seeds.low is not None and seeds.high is not None and seeds.low <= truth <= seeds.high
        alarms += difference((one - other).mean(1).tolist(), metric.possible, one - other)[1] < 0.05
    return Found(setting, held / studies, by_seeds / studies, alarms / studies, empty / studies)


def told(name: str, found: Sequence[Found]) -> list[str]:
    smooth = [one for one in found if not one.setting.is_discrete()]
    lowest, highest = min(smooth, key=lambda one: one.held), max(smooth, key=lambda one: one.held)
    inside = np.mean([0.92 <= one.held <= 0.98 for one in smooth])
    mean = {
        key: np.mean([getattr(one, key) for one in found]) for key in ("held", "by_seeds", "false_alarms")
    }
    lines = [
        f"{name}: held in {mean['held']:.1%} of all studies, over seeds alone in {mean['by_seeds']:.1%}; "
        f"no interval or none of any width in {np.mean([one.zero_width for one in found]):.1%}",
        f"  {len(smooth)} settings with {LEAST_WRONG:g} wrong images or more: {inside:.0%} within 92 to 98 %, lowest "
        f"{lowest.held:.1%} {lowest.setting}, highest {highest.held:.1%} {highest.setting}",
        f"  equal configurations called different: {mean['false_alarms']:.1%}, at most "
        f"{max(one.false_alarms for one in found):.1%}",
    ]
    for field in ("repeats", "images", "error", "alike", "seeds"):
        groups: dict[float, list[Found]] = {}
        for one in found:
            groups.setdefault(getattr(one.setting, field), []).append(one)
        shares = (
            f"{value:g}: {np.mean([one.held for one in group]):.1%} "
            f"({np.mean([one.false_alarms for one in group]):.1%})"
            for value, group in groups.items()
        )
        lines.append(f"  held (false alarms) by {field}: {', '.join(shares)}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="The coverage of the intervals of a confirmation.")
    parser.add_argument("--studies", type=int, default=500, help="for each setting")
    parser.add_argument("--images", type=int, nargs="+", default=IMAGES)
    parser.add_argument("--metrics", nargs="+", default=[metric.name for metric in METRICS])
    given = parser.parse_args()
    grid = [Setting(*values) for values in product(REPEATS, given.images, ERRORS, ALIKE, SEEDS)]
    for metric in METRICS:
        if metric.name in given.metrics:
            found = [measure(setting, metric, given.studies, seed) for seed, setting in enumerate(grid)]
            print("\n".join(told(metric.name, found)), flush=True)


if __name__ == "__main__":
    main()
