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
    return _rows(catalogue, parts, spec)


def _rows(catalogue: Catalogue, parts: Array, spec: Split) -> Rows:
    train = np.flatnonzero(parts == TRAIN)
    order, shares = subset_order(strata(catalogue)[train], np.random.default_rng([spec.seed, 1]))
    return Rows(train[order], np.flatnonzero(parts == VAL), np.flatnonzero(parts == TEST), shares)


def folded(catalogue: Catalogue, whole: Rows, spec: Split) -> tuple[Rows, ...]:
    """Returns the split once for each fold: that is its validation part, and its training part is all other folds.

    Folds are cut of the training and the validation part together: stratified, and groups stay whole. Their sizes
    differ by one at most, as far as groups and several labels allow.

    Raises:
        DataError: the data have a validation part of their own, or are too few.
    """
    folds = spec.folds or 0
    if spec.official_test and (catalogue.parts == VAL).any():
        raise DataError(
            f"data.split.folds = {folds}: the data have a validation part of their own, and folds would cut it up; "
            "remove folds, or set official_test = false to make a split of your own"
        )
    rows = np.sort(np.concatenate([whole.train, whole.val]))
    _check_folds(catalogue, rows, folds)
    fold_N, found = _deal(catalogue, rows, folds, np.random.default_rng([spec.seed, 2])), []
    for fold in range(folds):
        parts = np.full(len(catalogue), -1, np.int8)
        parts[rows] = np.where(fold_N == fold, VAL, TRAIN)
        parts[whole.test] = TEST
        check(catalogue, parts, spec)
        found.append(_rows(catalogue, parts, spec))
    return tuple(found)


def _deal(catalogue: Catalogue, rows: Array, folds: int, generator: np.random.Generator) -> Array:
    """Returns the fold of each of these rows."""
    equal = [(fold, 1 / folds) for fold in range(folds)]
    labels = catalogue.targets[rows] > 0 if catalogue.is_multilabel else strata(catalogue)[rows]
    if catalogue.groups is not None:
        return _by_group(labels, catalogue.groups[rows], equal, generator)
    if catalogue.is_multilabel:
        return _by_labels(labels, equal, generator, np.tile(labels.sum(0) / folds, (folds, 1)))
    order = generator.permutation(len(rows))
    fold_N = np.empty(len(rows), np.int64)
    fold_N[order[np.argsort(labels[order], kind="stable")]] = np.arange(len(rows)) % folds
    return fold_N


def _check_folds(catalogue: Catalogue, rows: Array, folds: int) -> None:
    """Refuses more folds than there are samples, or groups, of a class.

    Raises:
        DataError: names the class.
    """
    groups = catalogue.groups
    what = "image" if groups is None else "group"

    def held(some: Array) -> int:
        return len(some) if groups is None else len(np.unique(groups[some]))

    whose = [("the data have", rows)]
    if catalogue.classes and not catalogue.is_multilabel:  # a label may be missing in a validation part
        labels = catalogue.targets[rows]
        whose += [
            (f'class "{name}" has', rows[labels == place]) for place, name in enumerate(catalogue.classes)
        ]
    for name, some in whose:
        if held(some) < folds:
            raise DataError(
                f"data.split.folds = {folds}: {name} {counted(held(some), what)} outside the test part, and each fold "
                f"needs one; give fewer folds, or add {what}s{_or_regression(catalogue)}"
            )


def strata(catalogue: Catalogue) -> Array:
    """Returns what samples are told apart by, int64 of shape [N]: the class; nothing for regression.

    Of several labels the one that is rarest in all, and a stratum of their own for samples without any.
    """
    if catalogue.is_multilabel:
        rarest_first = np.argsort(catalogue.count(), kind="stable")
        hot_NK = catalogue.targets[:, rarest_first] > 0
        return np.where(hot_NK.any(1), rarest_first[hot_NK.argmax(1)], len(rarest_first))
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
    if catalogue.is_multilabel:
        labels = catalogue.targets[free] > 0
    if catalogue.groups is not None:
        _check_groups(catalogue, catalogue.groups, parts)
        parts[free] = _by_group(labels, catalogue.groups[free], wanted, generator)
    elif catalogue.is_multilabel:
        parts[free] = _by_labels(labels, wanted, generator)
    else:
        parts[free] = _by_class(labels, wanted, generator)
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


def _by_labels(
    hot_NK: Array,
    wanted: list[tuple[int, float]],
    generator: np.random.Generator,
    lacks_PK: Array | None = None,
) -> Array:
    """Gives out the samples of the rarest label first, each to the part that lacks most of it.

    This is iterative stratification (Sechidis et al. 2011). Here a label with as many samples as there are parts has at
    least one in each, as far as the labels beside it allow, and rarer ones are for training.

    Args:
        lacks_PK: how many of each label a part should get, where it is not that.
    """
    shares_P = np.array([share for _, share in wanted])
    counts_K = hot_NK.sum(0, dtype=np.int64)
    if lacks_PK is None:
        lacks_PK = np.zeros((len(wanted), len(counts_K)))
        for place, share in enumerate(shares_P[1:], 1):
            lacks_PK[place] = np.where(counts_K >= len(wanted), _quota(counts_K, share), 0)
        lacks_PK[0] = counts_K - lacks_PK[1:].sum(0)
    lacks_P = shares_P * len(hot_NK)
    choice_N = np.full(len(hot_NK), -1)
    order = generator.permutation(len(hot_NK))
    for label in np.argsort(counts_K, kind="stable"):
        for row in order[hot_NK[order, label] & (choice_N[order] < 0)]:
            part = np.lexsort((lacks_P, lacks_PK[:, label]))[-1]
            choice_N[row] = part
            lacks_PK[part] -= hot_NK[row]
            lacks_P[part] -= 1
    for row in order[choice_N[order] < 0]:  # they have no label
        choice_N[row] = np.argmax(lacks_P)
        lacks_P[choice_N[row]] -= 1
    parts_N: Array = np.array([part for part, _ in wanted], np.int8)[choice_N]
    return parts_N


def _by_group(
    labels: Array, groups: Array, wanted: list[tuple[int, float]], generator: np.random.Generator
) -> Array:
    """Gives whole groups, the largest first, each to the part that then lies nearest to what it should be.

    Args:
        labels: classes of shape [N], or which sample has which label, bool of shape [N, K].
    """
    _, members = np.unique(groups, return_inverse=True)
    width = labels.shape[1] if labels.ndim == 2 else labels.max(initial=0) + 1
    counts_GK = np.zeros((members.max(initial=-1) + 1, width))
    if labels.ndim == 2:
        np.add.at(counts_GK, members, labels)
        counts_GK = np.column_stack([counts_GK, np.bincount(members)])  # samples may have no label
    else:
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
    totals_K = catalogue.count() if catalogue.classes else np.zeros(0, np.int64)
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
        counts_K = catalogue.count(rows) if catalogue.classes else totals_K
        official = part == TEST and spec.official_test and (catalogue.parts == TEST).any()
        if (
            catalogue.is_multilabel and part != TRAIN
        ):  # of a rare label one may have no image: `describe_missing`
            continue
        if catalogue.classes and not official and (counts_K == 0).any():
            label = int(np.flatnonzero(counts_K == 0)[0])
            kind, _ = catalogue.kind
            what = f"the {kind}" if catalogue.is_multilabel else kind
            raise DataError(
                f'data.split leaves {what} "{catalogue.classes[label]}" ({counted(int(totals_K[label]), "image")}) '
                f"without any image in the {PARTS[part]} part; it has too few {why}: add some, remove the "
                f"{kind}, or change the shares{_or_regression(catalogue)}"
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
    met_P = np.array([len(held[part]) for part, _ in wanted])
    met_PK = met_P[:, None]
    if catalogue.classes:
        met_PK = np.array([catalogue.count(held[part]) for part, _ in wanted])
    asked_PK = shares_P[:, None] * met_PK.sum(0)
    asked_P, off_PK = shares_P * met_P.sum(), abs(met_PK - asked_PK)
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
    those = f"{off_K.sum()} of {len(catalogue.classes)} {catalogue.kind[1]} {is_} {what} these shares"
    return (
        f"{said}{_why_off(catalogue)}; {those}, "
        f'such as "{catalogue.classes[worst]}", whose {count} images are split {each}',
    )


def describe_missing(catalogue: Catalogue, rows: Rows) -> tuple[str, ...]:
    """Says so where the data's own test part lacks a class, which `check` lets pass: nobody else can mend it.

    So it does where the validation or the test part lacks a label, of which there may be too few images.
    """
    if not catalogue.classes:
        return ()
    said = []
    parts = (
        (("test", rows.test),)
        if not catalogue.is_multilabel
        else (("validation", rows.val), ("test", rows.test))
    )
    for name, part in parts:
        counts_K = catalogue.count(part)
        missing = [one for one, count in zip(catalogue.classes, counts_K, strict=True) if not count]
        if not missing or not len(part):
            continue
        one, several = catalogue.kind
        such = (
            f'{one} "{missing[0]}"'
            if len(missing) == 1
            else f'{len(missing)} {several}, such as "{missing[0]}"'
        )
        such += f" ({len(missing)} of {len(catalogue.classes)} {several})"
        if catalogue.is_multilabel:
            said.append(f"the {name} part has no image with the {such}, which its metrics leave out")
        else:
            said.append(
                f"the data's own test part has no image of {such}, so that the test says nothing of how they are told "
                "from the others"
            )
    return tuple(said)


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
    if (
        not catalogue.classes
        or catalogue.is_multilabel
        or not all(name.isdecimal() for name in catalogue.classes)
    ):
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
