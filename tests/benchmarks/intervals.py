"""How often the intervals of a confirmation hold the truth, and how often it finds differences where there are none.

    python -m tests.benchmarks.intervals --studies 500
    python -m tests.benchmarks.intervals --folds --studies 500

Confirmations are simulated, each of R trainings (2 to 10) judged on the same N images (36 to 10,000). Image i has a
difficulty that all trainings meet, training r a quality of its own: with s_ri = base + a_r + b_i + e_ri, all normal, an
image is wrong where s is above 0, its loss is log(1 + exp(s)) and right images are those of its class. The truth is the
mean over infinitely many seeds and images, by quadrature. The spread of b decides how alike two trainings' errors are,
that of a how much seeds differ. The code that is measured is the one that `hpsearch confirm` runs.

Printed for each metric: the share of studies whose 95 % interval holds the truth, with the lowest and the highest share
over the settings, and the same of the interval over seeds alone, which knows nothing of images; then, of two equally
good configurations over the same images and seeds, the share that are called significantly different at 5 %.

With `--folds` confirmations over folds are simulated, with models that are trained: what the folds' training parts
share decides how far the interval must reach. Classes are normal clouds in ten dimensions; a model is the nearest mean
of each class, the nearest neighbour (which changes most with its images), or a ridge regression, on a random half of
the dimensions as its seed. The truth is the mean error, and squared error, of a model of as many other images, over all
studies. Beside the interval of `hpsearch confirm` stand that over the folds as if they were independent, and Bayle et
al.'s (2020), normal with the pooled variance of the images.
"""

import argparse
import math
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


CLASSES, DIMENSIONS, NEW = 3, 10, 400
LEARNERS = ("mean", "neighbour", "ridge")


@dataclass(frozen=True, slots=True)
class Cut:
    """A setting of a confirmation over folds."""

    folds: int
    images: int
    apart: float
    learner: str


def shares(cut: Cut, rng: np.random.Generator, centers: Array, train: tuple[Array, Array], x: Array) -> Array:
    """Trains a model and returns its scores of each class, as shares of about 1, [N, K]."""
    seen = rng.permutation(DIMENSIONS)[: DIMENSIONS // 2]
    images, labels = train[0][:, seen], train[1].astype(int)
    if cut.learner == "ridge":
        wide = np.column_stack([images, np.ones(len(images))])
        weights = np.linalg.solve(wide.T @ wide + np.eye(wide.shape[1]), wide.T @ np.eye(CLASSES)[labels])
        return np.asarray(np.column_stack([x[:, seen], np.ones(len(x))]) @ weights)
    known = images
    if cut.learner == "mean":
        known = np.stack([images[labels == label].mean(0) for label in range(CLASSES)])
        labels = np.arange(CLASSES)
    nearest = ((x[:, seen][:, None] - known[None]) ** 2).sum(2).argmin(1)
    return np.asarray(np.eye(CLASSES)[labels[nearest]])


def each_image(scores: Array, labels: Array) -> dict[str, Array]:
    """Returns what each image gives."""
    own = np.eye(CLASSES)[labels.astype(int)]
    error = (scores.argmax(1) != labels).astype(np.float64)
    return {"error": error, "squared error": ((scores - own) ** 2).sum(1)}


def drawn(cut: Cut, rng: np.random.Generator, centers: Array, count: int) -> tuple[Array, Array]:
    labels = np.arange(count) % CLASSES
    return cut.apart * centers[labels] + rng.standard_normal((count, DIMENSIONS)), labels.astype(np.float64)


def one_study(cut: Cut, rng: np.random.Generator, centers: Array) -> list[dict[str, list[Array]]]:
    """Returns what each image gave by metric and fold, of two equally good configurations, and on new images."""
    x, y = drawn(cut, rng, centers, cut.images)
    new = drawn(cut, rng, centers, NEW)
    fold_N = np.arange(cut.images) // CLASSES % cut.folds
    found: list[dict[str, list[Array]]] = [{}, {}, {}, {}]
    for fold in range(cut.folds):
        left = fold_N == fold
        for place in range(2):
            model_rng = np.random.default_rng(rng.integers(2**63))
            scores = shares(cut, model_rng, centers, (x[~left], y[~left]), np.concatenate([x[left], new[0]]))
            held = int(left.sum())
            for of, one in ((0, each_image(scores[:held], y[left])), (2, each_image(scores[held:], new[1]))):
                for name, values in one.items():
                    found[of + place].setdefault(name, []).append(values)
    return found


def over_folds(cut: Cut, studies: int, seed: int) -> dict[str, dict[str, float]]:
    """Returns by metric the shares of the studies in which each interval holds the truth, and its mean width."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(0).standard_normal((CLASSES, DIMENSIONS))
    made = [one_study(cut, rng, centers) for _ in range(studies)]
    found = {}
    for metric, possible in (("error", SHARE), ("squared error", POSITIVE)):
        truth = float(np.mean([np.mean(one[2 + place][metric]) for one in made for place in range(2)]))
        counts: dict[str, list[float]] = {}
        for own, other, test, other_test in made:
            means, others = ([float(values.mean()) for values in one[metric]] for one in (own, other))
            every = np.concatenate(own[metric])
            middle, bayle = float(np.mean(means)), 1.96 * float(every.std()) / math.sqrt(len(every))
            folds = summarize(means, possible, folds=cut.folds, pooled=len(every))
            independent = summarize(means, possible)
            tested = summarize(
                [float(one.mean()) for one in test[metric]], possible, np.stack(test[metric]), cut.folds
            )
            paired = np.stack(test[metric]) - np.stack(other_test[metric])
            ends = {
                "held": (folds.low, folds.high),
                "as if independent": (independent.low, independent.high),
                "Bayle": (middle - bayle, middle + bayle),
                "test": (tested.low, tested.high),
            }
            for name, (low, high) in ends.items():
                inside = low is not None and high is not None and low <= truth <= high
                counts.setdefault(name, []).append(inside)
                counts.setdefault(f"width, {name}", []).append((high or 0.0) - (low or 0.0))
            apart = [a - b for a, b in zip(means, others, strict=True)]
            counts.setdefault("false alarms", []).append(
                difference(apart, possible, folds=cut.folds)[1] < 0.05
            )
            counts.setdefault("false alarms as if independent", []).append(difference(apart)[1] < 0.05)
            alarm = difference(paired.mean(1).tolist(), possible, paired, cut.folds)[1] < 0.05
            counts.setdefault("false alarms, test", []).append(alarm)
        found[metric] = {name: float(np.mean(values)) for name, values in counts.items()}
    return found


def told_of_folds(studies: int) -> None:
    grid = [Cut(*values) for values in product((3, 5, 10), (60, 150, 300), (0.3, 0.8), LEARNERS)]
    found = {cut: over_folds(cut, studies, seed) for seed, cut in enumerate(grid)}
    for metric in ("error", "squared error"):
        print(f"{metric}, {len(grid)} settings of {studies} studies: mean, lowest and highest")
        for name in next(iter(found.values()))[metric]:
            values = {cut: one[metric][name] for cut, one in found.items()}
            low, high = (pick(values, key=values.__getitem__) for pick in (min, max))
            print(
                f"  {name}: {np.mean(list(values.values())):.3f}, {values[low]:.3f} {low}, {values[high]:.3f} {high}"
            )
        for field in ("folds", "images", "learner"):
            groups: dict[str, list[float]] = {}
            for cut, one in found.items():
                groups.setdefault(str(getattr(cut, field)), []).append(one[metric]["held"])
            print(
                f"  held by {field}: {', '.join(f'{key}: {np.mean(each):.3f}' for key, each in groups.items())}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description="The coverage of the intervals of a confirmation.")
    parser.add_argument("--studies", type=int, default=500, help="for each setting")
    parser.add_argument("--images", type=int, nargs="+", default=IMAGES)
    parser.add_argument("--metrics", nargs="+", default=[metric.name for metric in METRICS])
    parser.add_argument("--folds", action="store_true", help="over folds instead of seeds")
    given = parser.parse_args()
    if given.folds:
        told_of_folds(given.studies)
        return
    grid = [Setting(*values) for values in product(REPEATS, given.images, ERRORS, ALIKE, SEEDS)]
    for metric in METRICS:
        if metric.name in given.metrics:
            found = [measure(setting, metric, given.studies, seed) for seed, setting in enumerate(grid)]
            print("\n".join(told(metric.name, found)), flush=True)


if __name__ == "__main__":
    main()
