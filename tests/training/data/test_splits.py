"""Splits and subsets: stratified, seeded, nested; groups are not torn apart."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch.errors import DataError
from hpsearch.study.checks import DataFacts
from hpsearch.study.data import Split
from hpsearch.training.data.arrays import ArrayImages
from hpsearch.training.data.catalogue import FREE, TEST, VAL, Catalogue
from hpsearch.training.data.splits import (
    count_below,
    describe_shares,
    describe_subset,
    folded,
    split,
    subset_order,
)

IMAGES = ArrayImages("npy", [], "HW", 1, (2, 2), "uint8")


def catalogue(
    labels: np.ndarray, groups: np.ndarray | None = None, parts: list[int] | None = None
) -> Catalogue:
    count = len(labels)
    return Catalogue(
        IMAGES,
        labels,
        tuple(map(str, range(labels.max() + 1))) if labels.ndim == 1 else (),
        np.array(parts if parts is not None else [FREE] * count, np.int8),
        np.zeros((count, 16), np.uint8),
        groups,
    )


labels_of_three_or_more = st.lists(st.integers(3, 60), min_size=1, max_size=5).map(
    lambda counts: np.random.default_rng(len(counts)).permutation(np.repeat(np.arange(len(counts)), counts))
)


@given(labels=labels_of_three_or_more, seed=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_every_class_is_split_by_the_shares(labels: np.ndarray, seed: int) -> None:
    spec = Split(train=0.7, val=0.2, test=0.1, seed=seed)
    rows = split(catalogue(labels), spec)
    assert sorted(np.concatenate([rows.train, rows.val, rows.test]).tolist()) == list(range(len(labels)))
    counts = np.bincount(labels)
    for part, share in ((rows.train, 0.7), (rows.val, 0.2), (rows.test, 0.1)):
        assert (np.abs(np.bincount(labels[part], minlength=len(counts)) - counts * share) <= 2).all()
        assert (np.bincount(labels[part], minlength=len(counts)) > 0).all()


@given(labels=labels_of_three_or_more, shares=st.lists(st.floats(0.01, 1), min_size=2, max_size=6))
@settings(max_examples=60, deadline=None)
def test_subsets_are_nested_and_stratified(labels: np.ndarray, shares: list[float]) -> None:
    rows = split(catalogue(labels), Split())
    sizes = [count_below(rows.shares, share) for share in sorted(shares)]
    assert sizes == sorted(sizes)  # all are beginnings of the same order, so larger ones hold smaller ones
    assert count_below(rows.shares, 1.0) == len(rows.train)
    for share in shares:
        whole, part = (np.bincount(labels[rows.train[:n]]) for n in (None, count_below(rows.shares, share)))
        assert len(part) == len(whole)
        assert (np.abs(part - np.maximum(whole * share, 1)) <= 1).all()


def test_the_seed_decides() -> None:
    found = catalogue(np.arange(200) % 4)
    one, same, other = (split(found, Split(seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(one.train, same.train)
    assert np.array_equal(one.test, same.test)
    assert not np.array_equal(one.val, other.val)


@pytest.mark.parametrize(
    "labels", [np.arange(300) % 100, np.repeat([0, 1, 2], [997, 3, 50]), np.zeros(77, int)]
)
def test_how_many_samples_a_subset_holds_is_known_before(labels: np.ndarray) -> None:
    order, shares = subset_order(labels, np.random.default_rng(0))
    counts = tuple(np.bincount(labels).tolist())
    facts = DataFacts(len(order), 9, 9, (), 1, 8, 8, "classification", "", class_counts=counts)
    for share in (0.001, 0.01, 0.1, 0.25, 0.29, 0.3, 0.5, 0.7, 0.999, 1.0):
        assert facts.trained(share) == count_below(shares, share)


def test_a_subset_far_from_its_share_is_told() -> None:
    assert describe_subset(100, 1000, 0.1) == describe_subset(105, 1000, 0.1) == ()
    (said,) = describe_subset(100, 1000, 0.02)
    assert said.startswith("data.subset asks for 2 % and holds 10 % of the training part, 100 of 1000 images")


def test_a_subset_of_equal_classes_is_exact() -> None:
    order, shares = subset_order(np.arange(1000) % 10, np.random.default_rng(0))
    assert len(set(order.tolist())) == 1000
    assert int(np.searchsorted(shares, 0.1)) == 100


def test_regression_is_split_without_classes() -> None:
    rows = split(catalogue(np.zeros((100, 2), np.float32)), Split())
    assert [len(part) for part in (rows.train, rows.val, rows.test)] == [80, 10, 10]


@given(
    sizes=st.lists(st.integers(1, 6), min_size=30, max_size=60),
    seed=st.integers(0, 3),
)
@settings(max_examples=40, deadline=None)
def test_groups_are_not_torn_apart(sizes: list[int], seed: int) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    labels = groups % 2
    rows = split(catalogue(labels, groups), Split(train=0.6, val=0.2, test=0.2, seed=seed))
    parts = [set(groups[part].tolist()) for part in (rows.train, rows.val, rows.test)]
    assert parts[0] | parts[1] | parts[2] == set(range(len(sizes)))
    assert sum(map(len, parts)) == len(sizes)
    assert len(rows.val) / len(groups) == pytest.approx(0.2, abs=0.1)


def test_official_parts_are_kept_and_val_is_cut_from_training() -> None:
    parts = [FREE] * 90 + [TEST] * 30
    rows = split(catalogue(np.arange(120) % 3, parts=parts), Split(train=0.8, val=0.1, test=0.1))
    assert rows.test.tolist() == list(range(90, 120))
    assert (len(rows.train), len(rows.val)) == (80, 10)


def test_an_official_validation_part_is_kept() -> None:
    parts = [FREE] * 90 + [VAL] * 30
    rows = split(catalogue(np.arange(120) % 3, parts=parts), Split(train=0.8, val=0.1, test=0.1))
    assert rows.val.tolist() == list(range(90, 120))
    assert (len(rows.train), len(rows.test)) == (80, 10)


@pytest.mark.parametrize(
    ("labels", "groups", "message"),
    [
        ([0] * 20 + [1] * 2, None, 'class "1" .2 images. without any image in the train part'),
        ([0] * 20 + [1] * 20, [0] * 20 + [1] * 20, "the val part empty: 2 groups are too few"),
        ([0] * 40 + [1] * 9, [*range(40), *[50] * 9], 'class "1" .9 images. without any .*too few groups'),
        ([0, 1], None, "part"),
    ],
)
def test_an_empty_part_or_class_is_named(labels: list[int], groups: list[int] | None, message: str) -> None:
    found = catalogue(np.array(labels), None if groups is None else np.array(groups))
    with pytest.raises(DataError, match=rf"data\.split leaves .*{message}"):
        split(found, Split())


def test_an_official_part_that_tears_groups_is_refused() -> None:
    found = catalogue(np.arange(40) % 2, np.arange(40) // 2 % 10, [FREE] * 30 + [TEST] * 10)
    with pytest.raises(DataError, match=r"group_by.*official_test = false"):
        split(found, Split())


EVEN = Split(train=0.6, val=0.2, test=0.2)


@pytest.mark.parametrize(
    ("labels", "groups", "parts", "spec", "words"),
    [
        (
            np.repeat(np.arange(100), 3),
            None,
            None,
            Split(),
            [
                "80/10/10 % (train/val/test)",
                "hold 33.3/33.3/33.3 %; 100 of 100",
                '"0", whose 3 images',
                "1/1/1",
            ],
        ),
        (
            np.repeat([0, 1, 2], [1000, 1000, 3]),
            None,
            None,
            Split(),
            ["hold 79.9/10/10 %; 1 of 3 classes is too small", '"2", whose 3 images are split 1/1/1'],
        ),
        (
            np.repeat(np.arange(50), 4),
            None,
            [FREE, FREE, FREE, TEST] * 50,
            Split(),
            ["88.9/11.1 % (train/val)", "hold 66.7/33.3 %", "whose 3 images are split 2/1"],
        ),
        (
            np.arange(60) % 2,
            np.repeat(np.arange(5), [40, 5, 5, 5, 5]),
            None,
            EVEN,
            ["60/20/20 %", "hold 66.7/16.7/16.7 %, since 5 groups of up to 40 images stay whole"],
        ),
        (
            np.arange(210) % 2,
            np.arange(210) // 35,
            None,
            Split(),
            ["hold 66.7/16.7/16.7 %, since 6 groups of 35 images", "2 of 2 classes are far from", "70/18/17"],
        ),
        (np.repeat(np.arange(10), 180), None, None, Split(), []),
        (np.repeat(np.arange(10), 12), None, None, Split(), []),
        (np.arange(25) % 2, None, None, Split(), []),
        (np.zeros((9, 2), np.float32), None, None, EVEN, []),
        (np.arange(200) % 2, np.arange(200) // 5, None, Split(), []),
    ],
)
def test_the_shares_really_met_are_told_where_they_are_far_from_those_asked(
    labels: np.ndarray, groups: np.ndarray | None, parts: list[int] | None, spec: Split, words: list[str]
) -> None:
    found = catalogue(labels, groups, parts)
    told = describe_shares(found, split(found, spec), spec)
    assert len(told) == bool(words)
    assert all(word in told[0] for word in words)


@given(labels=labels_of_three_or_more, folds=st.integers(2, 3), seed=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_folds_are_stratified_and_leave_the_test_part_alone(
    labels: np.ndarray, folds: int, seed: int
) -> None:
    labels = np.concatenate([labels, labels])  # enough outside the test part
    spec = Split(train=0.7, val=0.2, test=0.1, seed=seed, folds=folds)
    whole = split(catalogue(labels), spec)
    found = folded(catalogue(labels), whole, spec)
    outside = sorted([*whole.train.tolist(), *whole.val.tolist()])
    assert sorted(row for rows in found for row in rows.val.tolist()) == outside
    for rows in found:
        assert sorted([*rows.train.tolist(), *rows.val.tolist()]) == outside
        assert rows.test.tolist() == whole.test.tolist()
        assert sorted(rows.shares.tolist()) == rows.shares.tolist()
    counts_FK = np.array([np.bincount(labels[rows.val], minlength=labels.max() + 1) for rows in found])
    assert np.ptp(counts_FK, axis=0).max() <= 1
    assert np.ptp(counts_FK.sum(1)) <= 1


def test_folds_do_not_tear_groups_apart() -> None:
    rng = np.random.default_rng(1)
    groups, labels = rng.permutation(np.repeat(np.arange(40), 5)), rng.integers(0, 3, 200)
    spec = Split(folds=5, group_by="column:patient")
    data = catalogue(labels, groups)
    whole = split(data, spec)
    found = folded(data, whole, spec)
    assert sorted(row for rows in found for row in rows.val.tolist()) == sorted([*whole.train, *whole.val])
    for rows in found:
        assert not set(groups[rows.val]) & set(groups[rows.train])
        assert len(rows.val) == pytest.approx((len(whole.train) + len(whole.val)) / 5, abs=10)


@pytest.mark.parametrize(
    ("labels", "groups", "folds", "sentence"),
    [
        ([0] * 50 + [1] * 8, None, 8, 'class "1" has 7 images outside the test part, and each fold'),
        ([0.5, 0.2] * 10, None, 19, "the data have 18 images outside the test part"),
        (
            [0, 1] * 60,
            [*range(12)] * 10,
            12,
            r"the data have \d+ groups outside the test part, .* add groups",
        ),
        ([0] * 60 + [1] * 40, [*range(60), *[*range(60, 68)] * 5], 8, r'class "1" has \d groups? outside'),
    ],
)
def test_more_folds_than_images_or_groups_are_refused(
    labels: list[float], groups: list[int] | None, folds: int, sentence: str
) -> None:
    array = np.array(labels)
    data = catalogue(
        array if array.dtype == int else array[:, None], None if groups is None else np.array(groups)
    )
    spec = Split(folds=folds)
    with pytest.raises(DataError, match=rf"data\.split\.folds = {folds}: {sentence}"):
        folded(data, split(data, spec), spec)
