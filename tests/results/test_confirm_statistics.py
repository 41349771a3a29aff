"""The numbers of a confirmation, against hand-worked ones and against scipy's own tests."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from hpsearch.results.confirm.images import possible, read_images, write_images
from hpsearch.results.confirm.plan import Candidate
from hpsearch.results.confirm.statistics import (
    ANY,
    POSITIVE,
    SHARE,
    Values,
    compare,
    difference,
    holm,
    optimism,
    stacked,
    summarize,
)
from hpsearch.results.confirm.summary import Confirmation, Result
from hpsearch.results.confirm.words import findings


def test_a_summary_worked_by_hand() -> None:
    # mean 3, squared deviations 4 + 1 + 0 + 1 + 4 = 10, std sqrt(10 / 4); t(0.975, 4) = 2.7764451
    found = summarize([1, 2, 3, 4, 5])
    half = 2.7764451 * math.sqrt(2.5) / math.sqrt(5)
    assert (found.n, found.mean) == (5, 3.0)
    assert found.std == pytest.approx(math.sqrt(2.5))
    assert (found.low, found.high) == (pytest.approx(3 - half), pytest.approx(3 + half))


def test_one_value_has_no_interval_and_none_is_refused() -> None:
    assert (summarize([2.0]).mean, summarize([2.0]).std, summarize([2.0]).low) == (2.0, None, None)
    with pytest.raises(ValueError, match="no values"):
        summarize([])


@pytest.mark.parametrize("seed", range(5))
def test_interval_and_p_are_those_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.normal(0.1, 0.05, 6), rng.normal(0.13, 0.05, 6)
    test = stats.ttest_rel(one, other)
    low, high = test.confidence_interval(0.95)
    found, p = difference((one - other).tolist())
    assert p == pytest.approx(test.pvalue)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize(
    "values", [[0.5], [0.0, 0.0], [0.25, 0.25, 0.25], [0.1 + 0.2, 0.3], [1 / 36, 1 / 36, 2 / 36 - 1 / 36]]
)
def test_what_never_varies_has_no_interval_and_proves_nothing(values: list[float]) -> None:
    found, p = difference(values)
    assert (found.low, found.high, p) == (None, None, 1.0)
    assert (summarize(values).low, summarize(values, SHARE).covers) == (None, "")


@pytest.mark.parametrize(
    ("ps", "expected"),
    [
        ([], []),
        ([0.04], [0.04]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # 3 * .01; 1 * .04 may not fall below 2 * .03
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
    ],
)
def test_holm_worked_by_hand(ps: Sequence[float], expected: Sequence[float]) -> None:
    assert holm(ps) == pytest.approx(expected)


def test_comparisons_are_over_equal_repeats() -> None:
    values = {7: {0: 0.1, 1: 0.2, 2: 0.3}, 3: {1: 0.5, 2: 0.62, 9: 5.0}, 4: {0: 1.0}}
    (only,) = compare(values)
    assert (only.one, only.other, only.difference.n) == (7, 3, 2)
    assert only.difference.mean == pytest.approx(-0.31)
    assert only.p == only.p_holm == pytest.approx(stats.ttest_rel([0.2, 0.3], [0.5, 0.62]).pvalue)


def test_what_differs_by_more_than_luck_is_real() -> None:
    noise = [0.001, -0.002, 0.0, 0.002, -0.001]
    values = {n: {i: level + n * e for i, e in enumerate(noise)} for n, level in ((1, 0.1), (2, 0.3))}
    values[3] = {i: 0.1 + e for i, e in enumerate(reversed(noise))}
    real = {(found.one, found.other): found.is_real for found in compare(values)}
    assert real == {(1, 2): True, (1, 3): False, (2, 3): True}


@pytest.mark.parametrize(
    ("better", "search", "confirmed", "expected"),
    [("minimize", 0.1, [0.2, 0.4], 0.2), ("maximize", 0.9, [0.8, 0.6], 0.2), ("minimize", 0.3, [0.2], -0.1)],
)
def test_optimism_is_above_zero_when_too_much_was_promised(
    better: str, search: float, confirmed: list[float], expected: float
) -> None:
    assert optimism(search, confirmed, better).mean == pytest.approx(expected)


def images(seeds: int, count: int, error: float, seed: int = 0, alike: float = 2.0) -> Values:
    """Right and wrong answers of trainings that find the same images difficult."""
    rng = np.random.default_rng(seed)
    scores = alike * rng.standard_normal(count) + rng.standard_normal((seeds, count))
    return (scores > stats.norm.ppf(1 - error) * math.hypot(alike, 1)).astype(float)


@pytest.mark.parametrize(
    ("wrong", "count", "low", "high"),
    [  # Wilson (1927) by hand: 0 of n ends at z^2 / (n + z^2), z = 1.959964
        (0, 36, 0.0, 3.841459 / 39.841459),
        (36, 36, 36 / 39.841459, 1.0),
        (5, 100, 0.021543, 0.111750),
    ],
)
def test_equal_answers_of_all_seeds_give_the_interval_of_wilson(
    wrong: int, count: int, low: float, high: float
) -> None:
    answers = np.zeros((3, count))
    answers[:, :wrong] = 1
    found = summarize(answers.mean(1).tolist(), SHARE, answers)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-3), pytest.approx(high, abs=1e-3))
    assert (found.std, found.images, found.covers) == (0.0, count, "seeds and images")


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_one_more_source_of_luck_widens_the_interval(seeds: int) -> None:
    answers = images(seeds, 200, 0.1)
    values = answers.mean(1).tolist()
    found, alone = summarize(values, SHARE, answers), summarize(values, SHARE)
    assert found.low is not None
    assert found.high is not None
    independent = stats.binomtest(int(answers.sum()), answers.size).proportion_ci(method="wilson")
    assert found.high - found.low > independent.high - independent.low
    assert found.covers == ("seeds and images" if seeds > 1 else "images")
    assert alone.covers == ("seeds" if seeds > 1 else "")


def test_equal_losses_of_all_images_have_no_interval() -> None:
    losses = np.full((3, 37), 0.1 + 0.2)
    found = summarize(losses.mean(1).tolist(), POSITIVE, losses)
    assert (found.low, found.covers) == (None, "")


def test_many_images_leave_the_luck_of_the_seeds() -> None:
    rng = np.random.default_rng(0)
    losses = 1 + 0.1 * rng.standard_normal((4, 1)) + 0.01 * rng.standard_normal((4, 5000))
    values = losses.mean(1).tolist()
    both, alone = summarize(values, POSITIVE, losses), summarize(values)
    assert (both.low, both.high) == (pytest.approx(alone.low, rel=1e-3), pytest.approx(alone.high, rel=1e-3))


@pytest.mark.parametrize(
    ("values", "range_", "low", "high"),
    [([0.001, 0.03], SHARE, 0.0, None), ([0.97, 1.0], SHARE, None, 1.0), ([0.1, 2.0], POSITIVE, 0.0, None)],
)
def test_intervals_end_where_values_are_possible(
    values: list[float], range_: tuple[float, float], low: float | None, high: float | None
) -> None:
    found, free = summarize(values, range_), summarize(values)
    assert found.low == (free.low if low is None else low)
    assert found.high == (free.high if high is None else high)


def test_a_long_tail_of_losses_makes_the_interval_lopsided() -> None:
    losses = np.random.default_rng(1).lognormal(-3, 2, 60) * np.array([[0.99], [1.0], [1.01]])
    found = summarize(losses.mean(1).tolist(), POSITIVE, losses)
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low < found.mean < found.high
    assert found.high - found.mean > 1.5 * (found.mean - found.low)


def test_pairs_of_the_same_images_tell_what_unpaired_ones_do_not() -> None:
    one = images(3, 2000, 0.2)
    worse = one.copy()
    worse[:, np.flatnonzero(one.sum(0) == 0)[:60]] = 1
    noise = np.random.default_rng(2).permutation(2000)
    kept = {1: dict(enumerate(one)), 2: dict(enumerate(worse)), 3: dict(enumerate(worse[:, noise]))}
    values = {key: {repeat: row.mean() for repeat, row in rows.items()} for key, rows in kept.items()}
    p = {(found.one, found.other): found.p for found in compare(values, SHARE, kept)}
    assert p[1, 2] < 1e-6 < p[1, 3]
    assert all(found.difference.images == 2000 for found in compare(values, SHARE, kept))


def test_equal_answers_do_not_prove_that_configurations_are_equal() -> None:
    nothing = np.zeros((3, 36))
    found, p = difference([0.0] * 3, SHARE, nothing)
    assert (p, found.mean) == (1.0, 0.0)
    assert found.low == pytest.approx(-stats.t.ppf(0.975, 36) / 38)
    assert found.high == -found.low
    one_image = nothing.copy()
    one_image[:, 0] = 1
    assert difference([1 / 36] * 3, SHARE, one_image)[1] > 0.1  # the same image in all repeats


def test_repeats_over_other_images_are_not_paired() -> None:
    assert stacked({0: np.zeros(5), 1: np.zeros(6)}, [0, 1]) is None
    assert stacked({0: np.zeros(5)}, [0, 1]) is None
    values = {1: {0: 0.1, 1: 0.2}, 2: {0: 0.3, 1: 0.5}}
    (found,) = compare(values, ANY, {1: {0: np.zeros(5), 1: np.zeros(5)}, 2: {0: np.ones(4), 1: np.ones(4)}})
    assert found.difference.images == 0


def test_coverage_and_false_alarms_are_what_they_say() -> None:
    held = alarms = 0
    for study in range(300):
        rng = np.random.default_rng(study)
        difficulty = 2 * rng.standard_normal(100)
        one, other = (
            (difficulty + 0.2 * rng.standard_normal((4, 1)) + rng.standard_normal((4, 100)) > 1.9).astype(
                float
            )
            for _ in range(2)
        )
        truth = stats.norm.sf(1.9 / math.sqrt(4 + 1 + 0.04))
        found = summarize(one.mean(1).tolist(), SHARE, one)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= truth <= found.high
        alarms += difference((one - other).mean(1).tolist(), SHARE, one - other)[1] < 0.05
    assert 0.92 <= held / 300 <= 0.99
    assert alarms / 300 <= 0.06


@pytest.mark.parametrize(
    ("metric", "own_loop", "expected"),
    [
        ("val_error", False, SHARE), ("test_top5_error", True, SHARE), ("test_macro_f1", False, SHARE),
        ("val_mae", False, POSITIVE), ("test_loss", False, POSITIVE), ("val_loss", True, ANY), ("dice", True, ANY),
    ],
)  # fmt: skip
def test_the_possible_values_of_a_metric(metric: str, own_loop: bool, expected: tuple[float, float]) -> None:
    assert possible(metric, own_loop) == expected


def test_what_each_image_gave_is_kept_and_belongs_to_its_metrics(tmp_path: Path) -> None:
    path = tmp_path / "images" / "val-00001.npz"
    assert read_images(path, {"val_loss": 0.2}) == {}
    write_images(path, {"val_loss": np.array([0.1, 0.3]), "val_error": np.array([0.0, 1.0])})
    found = read_images(path, {"val_loss": 0.2, "val_error": 0.1, "val_mae": 0.0})
    assert found.keys() == {"val_loss"}  # the other errors are another study's
    assert found["val_loss"].tolist() == pytest.approx([0.1, 0.3])
    path.write_bytes(path.read_bytes()[:50])
    assert read_images(path, {"val_loss": 0.2}) == {}


def confirmation(results: Sequence[Result], metric: str = "val_loss", **fields: bool) -> Confirmation:
    return Confirmation("s", metric, "minimize", tuple(results), 7, 3, **fields)


def result(trial: int, losses: Sequence[float], kept: Values | None = None, promised: float = 0.1) -> Result:
    validation = {repeat: {"val_loss": loss} for repeat, loss in enumerate(losses)}
    known = {} if kept is None else {"val_loss": dict(enumerate(kept))}
    return Result(Candidate(trial, promised, {}), validation, {}, images=known)


def test_the_words_say_what_intervals_cover_and_what_optimism_compares() -> None:
    rng = np.random.default_rng(0)
    kept = [level + 0.01 * rng.standard_normal((3, 50)) for level in (0.2, 0.5)]
    first, second = (
        result(trial, rows.mean(1).tolist(), rows) for trial, rows in zip((3, 7), kept, strict=True)
    )
    said = "\n".join(findings(confirmation([first, second])))
    assert "the search's best configuration, trial 7, is no longer the best" in said
    assert "the search's best value was optimistic: its optimism is +0.39" in said
    assert "(trial 7, val_loss on the same validation data: 0.1 in the search, 0.49" in said
    assert "trial 3 is significantly better than trial 7 by val_loss: by 0.2" in said
    assert "(paired over 3 repeats and 50 images, p = " in said
    assert (
        "cover new seeds and other images of the same kind, by 50 validation images; those of the optimism"
        in said
    )
    alone = "\n".join(findings(confirmation([result(7, [0.2, 0.21, 0.19])], own_loop=True)))
    assert "the search's best configuration, trial 7, is still the best" in alone
    assert "cover new seeds, not other images" in alone


@pytest.mark.parametrize("metric", ["val_auc", "val_balanced_accuracy", "val_average_precision", "val_ece"])
def test_the_words_say_which_metrics_are_no_means_over_images(metric: str) -> None:
    rows = 0.2 + 0.01 * np.random.default_rng(0).standard_normal((3, 50))
    one = result(7, rows.mean(1).tolist(), rows)
    validation = {repeat: {**found, metric: 0.5 + 0.1 * repeat} for repeat, found in one.validation.items()}
    said = "\n".join(findings(confirmation([replace(one, validation=validation)], metric)))
    assert "other images of the same kind, by 50 validation images" in said
    assert f"those of {metric}, which is not a mean over images, new seeds alone" in said
    assert "not kept" not in said


def test_negative_losses_of_own_loops_are_not_cut_and_constant_ones_are_told() -> None:
    found = confirmation([result(7, [-2.0, -2.5, -3.0], promised=-3.0)], own_loop=True)
    summary = found.summary(found.results[0], "val_loss")
    assert summary is not None
    assert summary.high is not None
    assert summary.high < 0
    same = findings(confirmation([result(7, [0.3, 0.3, 0.3])], own_loop=True))
    assert "trial 7 is the best: val_loss 0.3 in all 3 repeats" in same
