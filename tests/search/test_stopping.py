"""Expected epochs are worked out by hand from Prechelt (1998); the arithmetic stands beside each curve."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch.search.stopping import (
    AnyOf,
    Criterion,
    Curve,
    GeneralizationLoss,
    LastStage,
    Overfit,
    Patience,
    ProgressQuotient,
    StopReason,
    Up,
    WarmUp,
    build,
    generalization_loss,
    training_progress,
    warmup_epochs,
)
from hpsearch.study.stopping import CriterionTable, EarlyStopping

nan, inf = math.nan, math.inf


def first_stop(criterion: Criterion, val: Sequence[float], train: Sequence[float] = ()) -> int | None:
    for epoch in range(1, len(val) + 1):
        reason = criterion.judge(Curve(tuple(val[:epoch]), tuple(train[:epoch])))
        if reason is not None:
            assert reason.epoch == epoch
            return epoch
    return None


@pytest.mark.parametrize(
    ("patience", "min_delta", "val", "expected"),
    [
        # Best at epoch 2, then 3 epochs without improvement: 3, 4, 5.
        (3, 0.0, [1.0, 0.5, 0.6, 0.7, 0.55, 0.6], 5),
        # Epoch 4 improves just in time and starts the count anew: 5, 6, 7.
        (3, 0.0, [1.0, 0.6, 0.7, 0.5, 0.6, 0.6, 0.6], 7),
        (3, 0.0, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5], None),
        # Equal is no improvement: flat from epoch 1, so epochs 2, 3, 4.
        (3, 0.0, [0.5, 0.5, 0.5, 0.5], 4),
        (3, 0.0, [0.0, 0.0, 0.0, 0.0], 4),
        (1, 0.0, [0.5], None),
        (1, 0.0, [0.5, 0.5], 2),
        (1, 0.0, [], None),
        # Steps of 0.125 against the last improvement of more than 0.25: 1 - 0.625 = 0.375 at epoch 4.
        (3, 0.25, [1.0, 0.875, 0.75, 0.625, 0.625], None),
        # The same with patience 2: epochs 2 (0.125) and 3 (0.25, not more than 0.25) do not count.
        (2, 0.25, [1.0, 0.875, 0.75, 0.625], 3),
        # Losses that are not finite improve nothing: best at epoch 1, then 2, 3, 4.
        (3, 0.0, [0.5, nan, -inf, inf], 4),
        # From the start: 3 epochs without any improvement at all.
        (3, 0.0, [nan, nan, nan], 3),
        # NaN, then a first finite loss, which improves: 3, 4.
        (2, 0.0, [nan, 5.0, 6.0, 6.0], 4),
        (2, 0.0, [-1.0, -2.0, -1.5, -1.9], 4),
    ],
)
def test_patience(patience: int, min_delta: float, val: list[float], expected: int | None) -> None:
    assert first_stop(Patience(patience, min_delta), val) == expected


@pytest.mark.parametrize(
    ("alpha", "val", "expected"),
    [
        # E_opt = 0.8. GL(3) = 100 (0.83/0.8 - 1) = 3.75; GL(4) = 100 (0.85/0.8 - 1) = 6.25 > 5.
        (5.0, [1.0, 0.8, 0.83, 0.85], 4),
        (10.0, [1.0, 0.8, 0.83, 0.85], None),
        # Not "at least": GL(2) = 100 (1.25/1 - 1) = 25 exactly, no more than 25.
        (25.0, [1.0, 1.25], None),
        (24.9, [1.0, 1.25], 2),
        # A spike and back: fires at the spike, GL(2) = 100.
        (5.0, [1.0, 2.0, 0.5], 2),
        (5.0, [0.5, 0.5, 0.5], None),
        (5.0, [0.7], None),
        (5.0, [], None),
        # E_opt = 0: nothing lost while at 0, everything above is infinitely worse.
        (5.0, [0.0, 0.0, 0.0], None),
        (5.0, [1.0, 0.0, 1e-9], 3),
        # Negative: GL(2) = 100 (-1.98 + 2)/2 = 1; GL(3) = 100 (-1.8 + 2)/2 = 10.
        (5.0, [-2.0, -1.98, -1.8], 3),
        # NaN and inf are infinitely worse than a finite E_opt, and nothing where none is finite.
        (5.0, [1.0, nan], 2),
        (5.0, [1.0, inf], 2),
        (5.0, [1.0, -inf], 2),
        (5.0, [nan, inf, nan], None),
        # E_opt skips the NaN: GL(3) = 100 (1.1 - 1)/1 = 10.
        (5.0, [nan, 1.0, 1.1], 3),
    ],
)
def test_generalization_loss(alpha: float, val: list[float], expected: int | None) -> None:
    assert first_stop(GeneralizationLoss(alpha), val) == expected


@pytest.mark.parametrize(
    ("val", "expected"),
    [([1.0, 0.8, 0.85], 6.25), ([2.0, 2.5], 25.0), ([3.0], 0.0), ([0.0, 1.0], inf), ([-4.0, -3.0], 25.0)],
)
def test_generalization_loss_in_percent(val: list[float], expected: float) -> None:
    assert generalization_loss(val) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("strip", "expected"),
    [
        # mean 0.8, min 0.6: 1000 (0.8/0.6 - 1) = 333.33
        ([1.0, 0.9, 0.8, 0.7, 0.6], 1000 / 3),
        # mean 0.48, min 0.46: 1000 (0.48/0.46 - 1) = 43.478
        ([0.5, 0.49, 0.48, 0.47, 0.46], 1000 * 0.02 / 0.46),
        ([0.5, 0.5], 0.0),
        ([0.0, 0.0], 0.0),
        ([0.1, 0.0], inf),
        ([0.1, nan], inf),
        # mean -1.5, min -2: 1000 (-1.5 + 2)/2 = 250
        ([-1.0, -2.0], 250.0),
    ],
)
def test_training_progress_in_per_mille(strip: list[float], expected: float) -> None:
    assert training_progress(strip) == pytest.approx(expected)


FALLING = [1.0, 0.9, 0.8, 0.7, 0.6, 0.50, 0.49, 0.48, 0.47, 0.46]


@pytest.mark.parametrize(
    ("alpha", "strip", "val", "train", "expected"),
    [
        # t=5: E_opt 0.8, GL = 100 (1.0/0.8 - 1) = 25, P = 333.33, GL/P = 0.075.
        # t=10: GL = 100 (1.2/0.8 - 1) = 50, P = 43.478, GL/P = 1.15 > 0.75.
        (0.75, 5, [1.0, 0.9, 0.8, 0.9, 1.0, 1.0, 1.0, 1.0, 1.0, 1.2], FALLING, 10),
        (1.2, 5, [1.0, 0.9, 0.8, 0.9, 1.0, 1.0, 1.0, 1.0, 1.0, 1.2], FALLING, None),
        (0.07, 5, [1.0, 0.9, 0.8, 0.9, 1.0, 1.0, 1.0, 1.0, 1.0, 1.2], FALLING, 5),
        # Back to the best at the end of the strip: GL = 0 whatever happened inside.
        (0.75, 5, [1.0, 0.9, 0.8, 5.0, 0.8, 5.0, 5.0, 5.0, 5.0, 0.8], FALLING, None),
        # No progress (P = 0): any generalization loss is too much, none is not. GL(2) = 100, GL(4) = 200.
        (0.75, 2, [1.0, 1.0, 1.0, 3.0], [0.5, 0.5, 0.5, 0.5], 4),
        (0.75, 2, [1.0, 1.0, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5], None),
        (0.75, 2, [0.0, 0.0], [0.0, 0.0], None),
        # A training loss that is not finite or reaches 0 is infinite progress.
        (0.75, 2, [1.0, 2.0], [0.5, nan], None),
        (0.75, 2, [1.0, 2.0], [0.5, 0.0], None),
        (0.75, 2, [1.0, nan], [0.5, nan], None),
        # GL infinite, P = 1000 (0.75/0.5 - 1) = 500.
        (0.75, 2, [1.0, nan], [1.0, 0.5], 2),
        # One epoch is no strip of two; a strip of one has P = 0.
        (0.75, 2, [1.0], [1.0], None),
        (0.75, 1, [1.0, 1.1], [1.0, 0.5], 2),
        (0.75, 2, [], [], None),
    ],
)
def test_progress_quotient(
    alpha: float, strip: int, val: list[float], train: list[float], expected: int | None
) -> None:
    assert first_stop(ProgressQuotient(alpha, strip), val, train) == expected


@pytest.mark.parametrize(
    ("strip", "successive", "val", "expected"),
    [
        # Strip ends 2, 4, 6: 0.5 < 0.6 < 0.7, two rises; what lies between does not matter.
        (2, 2, [1.0, 0.5, 0.1, 0.6, 9.0, 0.7], 6),
        # Ends 0.5, 0.6, 0.6, 0.7, 0.8: the equal pair breaks the row; two rises at 10.
        (2, 2, [1.0, 0.5, 1.0, 0.6, 1.0, 0.6, 1.0, 0.7, 1.0, 0.8], 10),
        # Ends 3, 6: one rise, E_va(6) = 0.6 > E_va(3) = 0.5. No earlier, as there is no E_va(0).
        (3, 1, [0.4, 0.4, 0.5, 0.4, 0.4, 0.6], 6),
        (1, 3, [1.0, 1.1, 1.2, 1.3], 4),
        (1, 3, [1.0, 1.1, 1.2, 1.1, 1.3, 1.4, 1.5], 7),
        (1, 1, [0.5, 0.5, 0.5], None),
        (1, 1, [0.0, 0.0], None),
        (1, 1, [0.5], None),
        (1, 1, [], None),
        # NaN is above every finite loss and equal to the next NaN.
        (1, 1, [0.5, nan], 2),
        (1, 2, [0.5, nan, nan, inf], None),
        (1, 2, [0.5, 0.6, nan], 3),
        (1, 1, [-inf, 0.5], None),
    ],
)
def test_up(strip: int, successive: int, val: list[float], expected: int | None) -> None:
    assert first_stop(Up(strip, successive), val) == expected


@pytest.mark.parametrize(
    ("epochs", "val", "train", "expected"),
    [
        # Validation rises at 3, 4, 5 while training falls all along: three in a row at 5.
        (3, [1.0, 0.8, 0.81, 0.82, 0.83], [1.0, 0.9, 0.8, 0.7, 0.6], 5),
        # Training stands still at epoch 4: a new row from 5 on, complete at 6.
        (2, [1.0, 0.8, 0.81, 0.82, 0.83, 0.84], [1.0, 0.9, 0.8, 0.8, 0.7, 0.6], 6),
        # Both rise: divergence, not over-fitting.
        (2, [1.0, 1.1, 1.2, 1.3], [1.0, 1.1, 1.2, 1.3], None),
        (2, [0.5, 0.5, 0.5], [0.5, 0.5, 0.5], None),
        (2, [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], None),
        (1, [0.5], [0.5], None),
        (1, [], [], None),
        # A NaN validation loss is a rise, a NaN training loss is no fall.
        (1, [0.5, nan], [0.5, 0.4], 2),
        (1, [0.5, 0.6], [0.5, nan], None),
    ],
)
def test_overfit(epochs: int, val: list[float], train: list[float], expected: int | None) -> None:
    assert first_stop(Overfit(epochs), val, train) == expected


def test_the_first_of_several_criteria_wins() -> None:
    # gl(50) fires at epoch 3 (GL = 60), patience(3) at epoch 4; patience(2) at epoch 3 too.
    val = [1.0, 1.1, 1.6, 1.0]
    gl = GeneralizationLoss(50.0)
    assert first_stop(AnyOf((Patience(3), gl)), val) == 3
    both = Curve((1.0, 1.1, 1.6))
    first, second = AnyOf((Patience(2), gl)).judge(both), AnyOf((gl, Patience(2))).judge(both)
    assert first is not None
    assert second is not None
    assert (first.criterion, second.criterion) == ("patience", "gl")


def test_a_warm_up_delays_and_keeps_the_curve() -> None:
    # patience(2) would fire at 3; after 4 epochs of warm-up it fires at 5, since epoch 1 is still the best.
    assert first_stop(WarmUp(Patience(2), 4), [1.0] * 6) == 5
    assert first_stop(WarmUp(Patience(2), 6), [1.0] * 6) is None


def test_the_last_stage_is_judged_by_its_own_epochs() -> None:
    # The first stage ends at 0.2; what follows is worse, and falls.
    curve = [0.3, 0.2, 0.2, 0.2, 0.9, 0.8, 0.7, 0.7, 0.7]
    assert first_stop(Patience(2), curve) == 4
    assert first_stop(WarmUp(Patience(2), 4), curve) == 5
    assert first_stop(LastStage(Patience(2), 4), curve) == 9
    assert first_stop(LastStage(Patience(2), 9), curve) is None
    assert first_stop(LastStage(GeneralizationLoss(5.0), 4), [*curve, 0.8]) == 10
    reason = LastStage(Patience(2), 4).judge(Curve(tuple(curve)))
    assert reason is not None
    assert "since 0.7 at epoch 7" in reason.detail


def test_a_reason_is_a_readable_sentence() -> None:
    assert Patience(2, 0.01).judge(Curve((0.5, 0.25, 0.3, 0.3))) == StopReason(
        "patience",
        4,
        "the validation loss has not improved by more than 0.01 since 0.25 at epoch 2, for 2 epochs",
    )
    gl = GeneralizationLoss(5.0).judge(Curve((0.8, 0.85)))
    assert gl == StopReason("gl", 2, "the validation loss is 6.25 % above its lowest, more than 5 %")
    lost = Patience(2).judge(Curve((nan, nan)))
    assert lost is not None
    assert lost.detail == "the validation loss has not improved since the start, for 2 epochs"


@pytest.mark.parametrize(
    ("criterion", "sentence"),
    [
        (Patience(2), "val_dice has not improved since 0.8 at epoch 1, for 2 epochs"),
        (GeneralizationLoss(5.0), "val_dice is 25 % below its highest, more than 5 %"),
        (Up(1, 2), "val_dice fell over each of the last 2 strips of 1 epochs"),
        (Overfit(2), "the training loss fell and val_dice fell in each of the last 2 epochs"),
    ],
)
def test_of_what_is_better_the_higher_it_is_the_direction_is_right(
    criterion: Criterion, sentence: str
) -> None:
    reason = criterion.judge(Curve((-0.8, -0.7, -0.6), (0.3, 0.2, 0.1), "val_dice", negated=True))
    assert reason is not None
    assert reason.detail == sentence


@pytest.mark.parametrize("criterion", [ProgressQuotient(), Overfit(), AnyOf((Patience(9), Overfit()))])
def test_a_missing_training_loss_is_said(criterion: Criterion) -> None:
    assert criterion.needs_train_loss
    assert WarmUp(criterion, 3).needs_train_loss
    with pytest.raises(ValueError, match="needs the training loss of every epoch"):
        criterion.judge(Curve((1.0,)))


def test_a_curve_is_whole() -> None:
    with pytest.raises(ValueError, match=r"as many training losses as validation losses \(2\), got 1"):
        Curve((1.0, 0.9), (1.0,))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Patience(0), "patience must be at least 1, got 0"),
        (lambda: Patience(1, nan), "min_delta must be at least 0, got nan"),
        (lambda: GeneralizationLoss(0.0), "alpha must be above 0, got 0.0"),
        (lambda: ProgressQuotient(-1.0), "alpha must be above 0, got -1.0"),
        (lambda: ProgressQuotient(1.0, 0), "strip must be at least 1, got 0"),
        (lambda: Up(0, 1), "strip must be at least 1, got 0"),
        (lambda: Up(1, 0), "successive must be at least 1, got 0"),
        (lambda: Overfit(0), "epochs must be at least 1, got 0"),
        (lambda: AnyOf(()), "number of criteria must be at least 1, got 0"),
        (lambda: WarmUp(Patience(1), -1), "epochs must be at least 0, got -1"),
    ],
)
def test_wrong_parameters_are_refused(make: object, sentence: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=sentence):
        make()


@pytest.mark.parametrize(
    ("early_stopping", "expected"),
    [
        (EarlyStopping(), Patience(8)),
        (EarlyStopping(criterion="none", warmup=5), None),
        (EarlyStopping(criterion="gl"), GeneralizationLoss(5.0)),
        (EarlyStopping(criterion="pq"), ProgressQuotient(0.75, 5)),
        (EarlyStopping(criterion="up", successive=2), Up(5, 2)),
        (EarlyStopping(criterion="overfit"), Overfit(5)),
        (EarlyStopping(warmup=3), WarmUp(Patience(8), 3)),
        # 0.25 of 30 epochs = 7.5, rounded up.
        (EarlyStopping(warmup=0.25), WarmUp(Patience(8), 8)),
        (
            EarlyStopping(
                criterion=(CriterionTable(name="gl", alpha=9.0), CriterionTable(name="up")), warmup=0.5
            ),
            WarmUp(AnyOf((GeneralizationLoss(9.0), Up(5, 3))), 15),
        ),
    ],
)
def test_build(early_stopping: EarlyStopping, expected: Criterion | None) -> None:
    assert build(early_stopping, epochs=30) == expected


@pytest.mark.parametrize(
    ("warmup", "epochs", "expected"), [(0.07, 100, 7), (0.01, 5, 1), (0.0, 9, 0), (7, 5, 7)]
)
def test_warmup_shares(warmup: float, epochs: int, expected: int) -> None:
    assert warmup_epochs(warmup, epochs) == expected


losses = st.floats(-10, 10) | st.sampled_from([nan, inf, -inf, 0.0, 1.0])
curves = st.lists(st.tuples(losses, losses), max_size=30).map(
    lambda pairs: Curve(tuple(val for val, _ in pairs), tuple(train for _, train in pairs))
)
simple = st.one_of(
    st.builds(Patience, st.integers(1, 9), st.just(0.0)),
    st.builds(GeneralizationLoss, st.floats(0.1, 50)),
    st.builds(ProgressQuotient, st.floats(0.1, 5), st.integers(1, 6)),
    st.builds(Up, st.integers(1, 4), st.integers(1, 4)),
    st.builds(Overfit, st.integers(1, 6)),
)
criteria = st.one_of(
    simple, st.builds(lambda some: AnyOf(tuple(some)), st.lists(simple, min_size=1, max_size=3))
)


@settings(deadline=None)  # a busy machine may stall for longer
@given(criteria, curves)
def test_judging_depends_on_the_curve_alone(criterion: Criterion, curve: Curve) -> None:
    fresh = criterion.judge(curve)
    for epoch in range(len(curve.val)):
        criterion.judge(Curve(curve.val[:epoch], curve.train[:epoch]))
    assert criterion.judge(curve) == fresh


@settings(deadline=None)  # a busy machine may stall for longer
@given(criteria, curves, st.floats(-10, 10))
def test_no_criterion_stops_a_trial_at_a_new_best_epoch(
    criterion: Criterion, curve: Curve, by: float
) -> None:
    finite = [loss for loss in curve.val if math.isfinite(loss)]
    record = min(finite, default=0.0) - abs(by) - 0.01
    assert criterion.judge(Curve((*curve.val, record), (*curve.train, 0.5))) is None


@settings(deadline=None)  # a busy machine may stall for longer
@given(criteria, curves, st.integers(0, 20))
def test_after_the_warm_up_the_criterion_itself_judges(
    criterion: Criterion, curve: Curve, epochs: int
) -> None:
    expected = criterion.judge(curve) if len(curve.val) > epochs else None
    assert WarmUp(criterion, epochs).judge(curve) == expected


@settings(deadline=None)  # a busy machine may stall for longer
@given(st.lists(simple, min_size=1, max_size=4), curves)
def test_several_criteria_stop_where_the_earliest_does(several: list[Criterion], curve: Curve) -> None:
    stops = [first_stop(criterion, curve.val, curve.train) for criterion in several]
    earliest = min((stop for stop in stops if stop is not None), default=None)
    assert first_stop(AnyOf(tuple(several)), curve.val, curve.train) == earliest


@settings(deadline=None)  # a busy machine may stall for longer
@given(st.integers(1, 6), st.floats(0, 3), st.lists(losses, max_size=40))
def test_patience_equals_a_counter(patience: int, min_delta: float, val: list[float]) -> None:
    best, waited, expected = inf, 0, None
    for epoch, loss in enumerate(val, start=1):
        improved = math.isfinite(loss) and loss < best - min_delta
        best, waited = (loss, 0) if improved else (best, waited + 1)
        if waited == patience:
            expected = epoch
            break
    assert first_stop(Patience(patience, min_delta), val) == expected


@settings(deadline=None)  # a busy machine may stall for longer
@given(simple, curves, st.sampled_from([0.25, 2.0, 8.0]))
def test_criteria_do_not_depend_on_the_unit_of_the_loss(
    criterion: Criterion, curve: Curve, unit: float
) -> None:
    # Powers of two scale floats exactly.
    scaled = Curve(tuple(unit * loss for loss in curve.val), tuple(unit * loss for loss in curve.train))
    assert first_stop(criterion, scaled.val, scaled.train) == first_stop(criterion, curve.val, curve.train)
