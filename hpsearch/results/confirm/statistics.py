"""What repeated trainings say: means with their intervals, and which differences are more than luck.

A mean over R trainings and N images has two sources of luck: which seeds were drawn, and which images. With y_ri for
training r and image i, and the mean squares MS of a two-way layout (Searle, Casella and McCulloch 1992), the mean's
variance is estimated by

    V = MS_seeds / RN + max(0, MS_images - MS_rest) / RN, at least MS_images / RN

whose first term is the variance of the trainings' means over R, all that a t-interval over the seeds knows of.
V has (R - 1) V RN / MS_seeds degrees of freedom: R - 1 where the seeds decide, many where the images do. (Those of
Satterthwaite rise with the square; with two seeds their intervals held the truth in down to 85 of 100 studies.)
`tests.benchmarks.intervals` measures the coverage.

Over the K folds of a cross-validation the trainings share most of their images, so that S^2 / K, by the variance S^2 of
the folds' means, may be too small. Nadeau and Bengio (2003) estimate the mean's variance by (1/K + n_val/n_train) S^2,
here (1/K + 1/(K - 1)) S^2, with K - 1 degrees of freedom.

Legend: R trainings (repeats, seeds), N images, K folds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from hpsearch.study.direction import sign

CERTAINTY = 0.95
RESAMPLES = 1_000
_AT_ONCE = 2_000_000  # numbers drawn by the bootstrap at the same time

Values = NDArray[np.float64]
"""What each image gave in each training, of shape [R, N]; the mean over the images is a training's metric."""

Range = tuple[float, float]
SHARE: Range = (0.0, 1.0)
POSITIVE: Range = (0.0, math.inf)
ANY: Range = (-math.inf, math.inf)


@dataclass(frozen=True, slots=True)
class Summary:
    """A sample's mean with what is known of it.

    Attributes:
        std: the sample's standard deviation (n - 1); None for one value.
        low, high: 95 % interval of the mean; None where nothing varies, or too little is known.
        images: how many images the interval covers the choice of; 0 if it covers new seeds alone.
        trainings: what the values differ in, "seeds" or "folds"; in folds are other images, and a seed of its own.
    """

    n: int
    mean: float
    std: float | None = None
    low: float | None = None
    high: float | None = None
    images: int = 0
    trainings: str = "seeds"

    @property
    def covers(self) -> str:
        """What luck the interval covers, in words; empty without an interval."""
        if self.low is None:
            return ""
        both = f"{self.trainings} and images"
        return both if self.images and self.n > 1 else "images" if self.images else self.trainings


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two configurations over equal repeats, and over the same images where they are known.

    Attributes:
        one, other: their trials in the search.
        difference: of the mean of `one` minus that of `other`, over the n common repeats, with its interval.
        p: two-sided: how likely luck alone gives such a difference.
        p_holm: corrected by Holm (1979) for the number of comparisons.
    """

    one: int
    other: int
    difference: Summary
    p: float
    p_holm: float

    @property
    def is_real(self) -> bool:
        """Whether luck alone would hardly give it, all comparisons considered."""
        return self.p_holm < 1 - CERTAINTY


@dataclass(frozen=True, slots=True)
class _Spread:
    """How far a mean may lie from the truth.

    Attributes:
        variance: of the mean.
        freedom: degrees of freedom of the variance.
    """

    variance: float
    freedom: float

    @property
    def quantile(self) -> float:
        return float(stats.t.ppf((1 + CERTAINTY) / 2, self.freedom))

    @property
    def half(self) -> float:
        """Half the width of the symmetric interval."""
        return self.quantile * math.sqrt(self.variance)

    def p(self, mean: float) -> float:
        """Returns the two-sided p that the mean is truly 0; 1 where nothing varies."""
        return (
            float(2 * stats.t.sf(abs(mean) / math.sqrt(self.variance), self.freedom))
            if self.variance
            else 1.0
        )


def overlap_of(folds: int) -> float:
    """Returns what the shared images of the folds' training parts add to 1/K; 0 where there are no folds."""
    return 1 / (folds - 1) if folds > 1 else 0.0


def summarize(
    values: Sequence[float],
    possible: Range = ANY,
    images: Values | None = None,
    folds: int = 0,
    pooled: int = 0,
) -> Summary:
    """Returns mean, standard deviation and interval.

    The interval covers new seeds, and other images of the same kind where it is known what each image gave. Of
    shares it is Wilson's (1927) for as many independent images as have the same variance, of other metrics a
    bootstrap over the images (by t, Efron and Tibshirani 1993, chapter 12) joined with Student's over the seeds.
    It ends where values are possible. Where nothing varies there is none, but for shares of images: 0 errors in N
    images say that few are to be expected, not none.

    Args:
        possible: values of the metric.
        images: of the same repeats.
        folds: of the cross-validation whose trainings these are; 0 if they are of different seeds.
        pooled: images that the folds were validated on, all together, each in one fold.

    Raises:
        ValueError: no values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("there are no values to summarize")
    mean = math.fsum(values) / n
    std = math.sqrt(_variance(np.asarray(values))) if n > 1 else None
    trainings, overlap = "folds" if folds else "seeds", overlap_of(folds)
    if images is None or images.shape[1] < 2:
        spread, count = _by_seeds(values, overlap), 0
    else:
        spread, count = _by_both(images, overlap), images.shape[1]
    if (count or pooled) and possible == SHARE:
        low, high = _wilson(mean, spread, count or pooled)
    elif not spread.variance:
        return Summary(n, mean, std, trainings=trainings)
    elif images is not None and count:
        low, high = _bootstrapped(mean, spread, images.mean(0))
    else:
        low, high = mean - spread.half, mean + spread.half
    return Summary(n, mean, std, max(low, possible[0]), min(high, possible[1]), count, trainings)


def _by_seeds(values: Sequence[float], overlap: float = 0.0) -> _Spread:
    n = len(values)
    return _Spread(_variance(np.asarray(values)) * (1 / n + overlap) if n > 1 else 0.0, max(1, n - 1))


def _variance(values: Values) -> float:
    """Returns the sample variance; 0 for values that differ in their last bits only, as sums of equal ones do."""
    variance = float(values.var(ddof=1))
    return variance if variance > (1e-12 * float(np.abs(values).max())) ** 2 else 0.0


def _by_both(images: Values, overlap: float = 0.0) -> _Spread:
    """Returns the spread of the mean of all over other seeds and other images, see the head of this module."""
    r, n = images.shape
    per_image = images.mean(0)
    by_images = _variance(per_image) / n  # MS_images / RN
    if r == 1:
        return _Spread(by_images, n - 1)
    per_seed = images.mean(1)
    by_seeds = _variance(per_seed) * (1 / r + overlap)  # MS_seeds / RN
    rest = float(((images - per_image - per_seed[:, None] + images.mean()) ** 2).sum())
    both = rest / ((r - 1) * (n - 1)) / (r * n)  # MS_rest / RN
    alone = max(0.0, by_images - both)
    variance = max(by_seeds + alone, by_images)
    freedom = (r - 1) * variance / by_seeds if by_seeds else math.inf
    return _Spread(variance, min(max(r - 1.0, freedom), r * n))


def _wilson(share: float, spread: _Spread, count: int) -> Range:
    """Returns Wilson's interval for as many images as would vary like this, for all of them if nothing varies."""
    share = min(max(share, 0.0), 1.0)
    z2 = float(stats.norm.ppf((1 + CERTAINTY) / 2)) ** 2
    half = spread.half
    effective = share * (1 - share) * z2 / half**2 if half and 0 < share < 1 else float(count)
    middle = (share + z2 / (2 * effective)) / (1 + z2 / effective)
    wide = math.sqrt(z2 * share * (1 - share) / effective + (z2 / (2 * effective)) ** 2) / (
        1 + z2 / effective
    )
    return middle - wide, middle + wide


def _bootstrapped(mean: float, spread: _Spread, per_image: Values) -> Range:
    """Returns the interval whose images' part is bootstrapped by t, which follows the losses' long tail."""
    n = len(per_image)
    error = float(per_image.std()) / math.sqrt(n)
    if not error:
        return mean - spread.half, mean + spread.half
    rng, found = np.random.default_rng(0), []
    for _ in range(math.ceil(RESAMPLES * n / _AT_ONCE)):
        drawn = per_image[rng.integers(0, n, (min(RESAMPLES, max(1, _AT_ONCE // n)), n))]
        errors = np.maximum(drawn.std(1) / math.sqrt(n), 1e-3 * error)
        found.append((drawn.mean(1) - per_image.mean()) / errors)
    low, high = np.quantile(np.concatenate(found), [(1 - CERTAINTY) / 2, (1 + CERTAINTY) / 2]) * error
    # What is not the images' luck, in squares of half a width.
    seeds = max(0.0, spread.half**2 - (float(stats.norm.ppf((1 + CERTAINTY) / 2)) * error) ** 2)
    return mean - math.sqrt(seeds + high**2), mean + math.sqrt(seeds + low**2)


def difference(
    values: Sequence[float], possible: Range = ANY, images: Values | None = None, folds: int = 0
) -> tuple[Summary, float]:
    """Returns the mean of paired differences with its interval, and the two-sided p that it is truly 0.

    Args:
        values: differences of two configurations by repeat.
        possible: values of the metric itself.
        images: differences by repeat and image.
        folds: see `summarize`.
    """
    n = len(values)
    plain, overlap = summarize(values, folds=folds), overlap_of(folds)
    if n < 2:
        return plain, 1.0
    if images is None or images.shape[1] < 2:
        spread, count = _by_seeds(values, overlap), 0
    else:
        spread, count = _by_both(images, overlap), images.shape[1]
        if possible == SHARE:
            # Half a pair more in each way to differ (Agresti and Min 2005): no image that differs proves nothing.
            more = spread.variance + 1 / (count + 2) ** 2
            freedom = spread.freedom * more / spread.variance if spread.variance else count
            spread = _Spread(more, freedom)
    if not spread.variance:
        return Summary(n, plain.mean, plain.std, trainings=plain.trainings), 1.0
    widest = possible[1] - possible[0]
    low, high = max(plain.mean - spread.half, -widest), min(plain.mean + spread.half, widest)
    return Summary(n, plain.mean, plain.std, low, high, count, plain.trainings), spread.p(plain.mean)


def holm(ps: Sequence[float]) -> list[float]:
    """Returns p-values corrected for their number: the i-th smallest of m times m - i + 1, never falling."""
    corrected = [1.0] * len(ps)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = highest
    return corrected


def compare(
    values: Mapping[int, Mapping[int, float]],
    possible: Range = ANY,
    images: Mapping[int, Mapping[int, Values]] | None = None,
    folds: int = 0,
) -> list[Comparison]:
    """Compares all pairs of configurations over the repeats that both have; fewer than 2 are no pair.

    Args:
        values: by configuration, then by repeat.
        images: what each image gave, [N], by the same; used where both have all common repeats of as many images.
        folds: see `summarize`.
    """
    pairs = []
    for one, other in combinations(values, 2):
        common = sorted(values[one].keys() & values[other].keys())
        differences = [values[one][repeat] - values[other][repeat] for repeat in common]
        if len(differences) >= 2:
            mine, others = (stacked((images or {}).get(key, {}), common) for key in (one, other))
            known = mine is not None and others is not None and mine.shape == others.shape
            paired = mine - others if known and mine is not None and others is not None else None
            pairs.append((one, other, *difference(differences, possible, paired, folds)))
    corrected = holm([p for *_, p in pairs])
    return [Comparison(*pair, p_holm) for pair, p_holm in zip(pairs, corrected, strict=True)]


def stacked(images: Mapping[int, Values], repeats: Sequence[int]) -> Values | None:
    """Returns what each image gave as [R, N], or None if a repeat lacks it or has other images."""
    rows = [images[repeat] for repeat in repeats if repeat in images]
    whole = len(rows) == len(repeats) > 0 and len({len(row) for row in rows}) == 1
    return np.stack(rows).astype(np.float64) if whole else None


def optimism(search: float, confirmed: Sequence[float], better: str, folds: int = 0) -> Summary:
    """Returns by how much a search's value was optimistic: above 0, the confirmed mean is worse.

    That is confirmed mean minus the search's value where less is better, the other way round where more is.
    The search's value is one number, and both are over the same validation images, so the interval is that of the
    confirmed mean over new seeds.

    Args:
        folds: see `summarize`; these are other validation images, which the interval covers too.
    """
    return summarize([sign(better) * (value - search) for value in confirmed], folds=folds)
