"""The split into train, val and test: seeded, stratified by class, the same for every trial and worker.

Legend: N samples, K classes, G groups, P parts.
"""

from dataclasses import dataclass

import numpy as np

from hpsearch.errors import DataError
from hpsearch.study.data import Split
from hpsearch.text import counted
from hpsearch.training.data.catalogue import FREE, PARTS, TEST, TRAIN, VAL, Array, Catalogue


@dataclass(frozen=True, slots=True)
class Rows:
    """Which samples make up the parts.

    Attributes:
        train: in an order of which every beginning is stratified, so that subsets are prefixes.
        shares: for each row of `train`, ascending: it belongs to the subsets that are larger than this.
    """

    train: Array
    val: Array
    test: Array
    shares: Array


def joined(rows: Rows) -> Rows:
    """Returns the split whose training part has the validation part's samples too, behind its own."""
    extra = np.ones(len(rows.val), rows.shares.dtype)
    train, shares = np.concatenate([rows.train, rows.val]), np.concatenate([rows.shares, extra])
    return Rows(train, rows.val[:0], rows.test, shares)


def count_below(shares: Array, share: float) -> int:
    """Returns how many rows belong to a subset of this share."""
    return int(np.searchsorted(shares, share)) if share < 1 else len(shares)


def split(catalogue: Catalogue, spec: Split) -> Rows:
    """Splits the samples; official parts are kept.

    Raises:
        DataError: a part, or a class in a part, would be empty.
    """
    parts = assign(catalogue, spec)
    check(catalogue, parts, spec)
    train = np.flatnonzero(parts == TRAIN)
    order, shares = subset_order(strata(catalogue)[train], np.random.default_rng([spec.seed, 1]))
    return Rows(train[order], np.flatnonzero(parts == VAL), np.flatnonzero(parts == TEST), shares)


def strata(catalogue: Catalogue) -> Array:
    """Returns what the parts are balanced by, int64 of shape [N]: the class; nothing for regression."""
    if catalogue.classes:
        return catalogue.targets
    return np.zeros(len(catalogue), np.int64)


def assign(catalogue: Catalogue, spec: Split) -> Array:
    """Returns the part of every sample, int8 of shape [N]."""
    parts = catalogue.parts.copy()
    if not spec.official_test:
        parts[:] = FREE
    free = np.flatnonzero((parts == FREE) | (parts == TRAIN))
    wanted = _wanted(parts, spec)
    labels = strata(catalogue)[free]
    generator = np.random.default_rng([spec.seed, 0])
    if catalogue.groups is None:
        parts[free] = _by_class(labels, wanted, generator)
    else:
        _check_groups(catalogue, catalogue.groups, parts)
        parts[free] = _by_group(labels, catalogue.groups[free], wanted, generator)
    return parts


def _wanted(parts: Array, spec: Split) -> list[tuple[int, float]]:
    """Returns the parts that the source leaves open, each with its share of the free samples."""
    given = set(np.unique(parts).tolist())
    shares = {TRAIN: spec.train, VAL: spec.val, TEST: spec.test}
    open_parts = [part for part in shares if part == TRAIN or part not in given]
    total = sum(shares[part] for part in open_parts)
    return [(part, shares[part] / total) for part in open_parts if shares[part] > 0]


def _by_class(labels: Array, wanted: list[tuple[int, float]], generator: np.random.Generator) -> Array:
    """Cuts every class in the wanted shares, in random order."""
    counts_K = np.bincount(labels)
    result = np.full(len(labels), TRAIN, np.int8)
    taken_K = np.zeros(len(counts_K), np.int64)
    order = generator.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    starts_K = np.cumsum(counts_K) - counts_K
    for part, share in wanted[1:]:
        for label, count in enumerate(_quota(counts_K, share)):
            start = starts_K[label] + taken_K[label]
            result[order[start : start + count]] = part
            taken_K[label] += count
    return result


def _quota(counts_K: Array, share: float) -> Array:
    """Returns how many of each class a part gets: the share by largest remainders, and at least one."""
    exact_K = counts_K * share
    quota_K = np.floor(exact_K).astype(np.int64)
    missing = round(float(exact_K.sum())) - int(quota_K.sum())
    quota_K[np.argsort(quota_K - exact_K, kind="stable")[:missing]] += 1
    return np.where(counts_K > 0, np.maximum(quota_K, 1), 0)


def _by_group(
    labels: Array, groups: Array, wanted: list[tuple[int, float]], generator: np.random.Generator
) -> Array:
    """Gives whole groups, the largest first, each to the part that then lies nearest to what it should be."""
    _, members = np.unique(groups, return_inverse=True)
    counts_GK = np.zeros((members.max(initial=-1) + 1, labels.max(initial=0) + 1))
    np.add.at(counts_GK, (members, labels), 1)
    total_K = np.maximum(counts_GK.sum(0), 1)
    shares_P = np.array([share for _, share in wanted])
    filled_PK = np.zeros((len(wanted), len(total_K)))
    choice_G = np.zeros(len(counts_GK), np.int64)
    order = generator.permutation(len(counts_GK))
    for group in order[np.argsort(-counts_GK.sum(1)[order], kind="stable")]:
        # Relative to what is wanted: a small part is filled as willingly as a large one.
        after_PK = (filled_PK + counts_GK[group]) / total_K / shares_P[:, None]
        before_PK = filled_PK / total_K / shares_P[:, None]
        cost_P = (((after_PK - 1) ** 2 - (before_PK - 1) ** 2) * shares_P[:, None]).sum(1)
        choice_G[group] = np.argmin(cost_P)
        filled_PK[choice_G[group]] += counts_GK[group]
    return np.array([part for part, _ in wanted], np.int8)[choice_G][members]


def _check_groups(catalogue: Catalogue, groups: Array, parts: Array) -> None:
    fixed = np.isin(parts, (VAL, TEST))
    torn = np.intersect1d(groups[fixed], groups[~fixed])
    if len(torn):
        row = int(np.flatnonzero(groups == torn[0])[0])
        raise DataError(
            f"data.split.group_by: the data's own test or validation part tears {len(torn)} groups apart, "
            f"among them that of {catalogue.name(row)}; set official_test = false to make a split of your own"
        )


def check(catalogue: Catalogue, parts: Array, spec: Split) -> None:
    """Refuses a split that leaves a part, or a class in a part, empty.

    Raises:
        DataError: names the part, the class and its number of images.
    """
    needed = [TRAIN, VAL] + ([TEST] if spec.test > 0 or (parts == TEST).any() else [])
    totals_K = np.bincount(strata(catalogue))
    why = "groups" if catalogue.groups is not None else "images"
    for part in needed:
        rows = parts == part
        if not rows.any():
            held = len(parts) if catalogue.groups is None else len(np.unique(catalogue.groups))
            raise DataError(
                f"data.split leaves the {PARTS[part]} part empty: {held} {why} are too few for "
                f"train = {spec.train:g}, val = {spec.val:g}, test = {spec.test:g}; add some or change the "
                f"shares{_or_regression(catalogue)}"
            )
        counts_K = np.bincount(strata(catalogue)[rows], minlength=len(totals_K))
        official = part == TEST and spec.official_test and (catalogue.parts == TEST).any()
        if catalogue.classes and not official and (counts_K == 0).any():
            label = int(np.flatnonzero(counts_K == 0)[0])
            raise DataError(
                f'data.split leaves class "{catalogue.classes[label]}" ({counted(int(totals_K[label]), "image")}) '
                f"without any image in the {PARTS[part]} part; it has too few {why}: add some, remove the "
                f"class, or change the shares{_or_regression(catalogue)}"
            )


def describe_shares(catalogue: Catalogue, rows: Rows, spec: Split) -> tuple[str, ...]:
    """Says so where the parts, or a class in them, are far from the shares that were asked for.

    Far is more than a tenth, and than one image, off for a part; for a class more than half, or the one image
    that each part gets of a class which is too small for it.
    """
    given = catalogue.parts if spec.official_test else np.full_like(catalogue.parts, FREE)
    wanted = _wanted(given, spec)
    shares_P = np.array([share for _, share in wanted])
    held = {TRAIN: rows.train, VAL: rows.val, TEST: rows.test}
    labels = strata(catalogue)
    width = labels.max(initial=0) + 1
    met_PK = np.array([np.bincount(labels[held[part]], minlength=width) for part, _ in wanted])
    met_P, asked_PK = met_PK.sum(1), shares_P[:, None] * met_PK.sum(0)
    asked_P, off_PK = asked_PK.sum(1), abs(met_PK - asked_PK)
    off_K = ((off_PK > np.maximum(1, asked_PK / 2)) | ((asked_PK <= 0.5) & (met_PK == 1))).any(0)
    if not off_K.any() and (abs(met_P - asked_P) <= np.maximum(1, asked_P / 10)).all():
        return ()
    names = "/".join(PARTS[part] for part, _ in wanted)
    said = f"data.split asks for {_percent(shares_P)} % ({names}) and the parts hold {_percent(met_P / met_P.sum())} %"
    if not catalogue.classes or not off_K.any():
        return (f"{said}{_why_off(catalogue)}",)
    worst = int(np.argmax(np.where(off_K, (off_PK / np.maximum(asked_PK, 0.1)).max(0), -1)))
    count, each = int(met_PK[:, worst].sum()), "/".join(map(str, met_PK[:, worst]))
    is_ = "is" if off_K.sum() == 1 else "are"
    what = "too small for" if catalogue.groups is None else "far from"
    return (
        f"{said}{_why_off(catalogue)}; {off_K.sum()} of {len(catalogue.classes)} classes {is_} {what} these shares, "
        f'such as "{catalogue.classes[worst]}", whose {count} images are split {each}',
    )


def describe_missing(catalogue: Catalogue, rows: Rows) -> tuple[str, ...]:
    """Says so where the data's own test part lacks a class, which `check` lets pass: nobody else can mend it."""
    counts_K = (
        np.bincount(catalogue.targets[rows.test], minlength=len(catalogue.classes))
        if catalogue.classes
        else ()
    )
    missing = [name for name, count in zip(catalogue.classes, counts_K, strict=True) if not count]
    if not missing or not len(rows.test):
        return ()
    such = f'class "{missing[0]}"' if len(missing) == 1 else f'{len(missing)} classes, such as "{missing[0]}"'
    return (
        f"the data's own test part has no image of {such} ({len(missing)} of {len(catalogue.classes)} classes), so "
        "that the test says nothing of how they are told from the others",
    )


def describe_subset(count: int, total: int, share: float) -> tuple[str, ...]:
    """Says so where a subset, of which each class has at least one image, is far from the share asked for."""
    if abs(count - share * total) <= max(1, share * total / 10):
        return ()
    asked, met = _percent(np.array([share])), _percent(np.array([count / total]))
    return (
        f"data.subset asks for {asked} % and holds {met} % of the training part, {count} of {total} images, since "
        "whole images are taken of each class, and at least one",
    )


def _percent(shares: Array) -> str:
    return "/".join(f"{round(100 * share, 1):g}" for share in shares.tolist())


def _why_off(catalogue: Catalogue) -> str:
    if catalogue.groups is None:
        return ""
    sizes = np.unique(catalogue.groups, return_counts=True)[1]
    each = f"up to {sizes.max()}" if sizes.min() < sizes.max() else f"{sizes.max()}"
    return f", since {counted(len(sizes), 'group')} of {each} images stay whole"


def _or_regression(catalogue: Catalogue) -> str:
    """Returns a further remedy where all classes are numbers, such as ages."""
    if not catalogue.classes or not all(name.isdecimal() for name in catalogue.classes):
        return ""
    return (
        f"; if the labels {catalogue.classes[0]} to {catalogue.classes[-1]} measure something, set "
        'data.task = "regression"'
    )


def subset_order(labels: Array, generator: np.random.Generator) -> tuple[Array, Array]:
    """Returns an order of the rows in which every beginning is stratified, and the share where each begins.

    The j-th of a class's n rows, drawn at random, begins at share (j + 1/2) / n, the first at 0. So a subset
    of share s holds round(s n) of each class, but at least one, and is part of every larger one.
    """
    shuffled = generator.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts_K = np.bincount(labels)
    starts_K = np.cumsum(counts_K) - counts_K
    place = np.arange(len(labels)) - starts_K[labels[by_class]]
    share = np.where(place == 0, 0.0, (place + 0.5) / counts_K[labels[by_class]])
    order = np.lexsort((np.argsort(shuffled)[by_class], share))
    return by_class[order], share[order]
