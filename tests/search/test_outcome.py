import math
import random
from collections.abc import Sequence
from datetime import datetime, timedelta

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpsearch.contracts.trial import StopKind
from hpsearch.search.outcome import Course, Scoreboard, constraints, decide, score
from hpsearch.study.direction import Direction
from hpsearch.study.stopping import OutcomeSwitch

nan, inf = math.nan, math.inf
COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
FINISHED, STOPPED, PRUNER, DIVERGED, INFEASIBLE, MEMORY, STUDY_END, ERROR = StopKind


def board_of(scores: Sequence[float | None], direction: Direction = "minimize") -> Scoreboard:
    board = Scoreboard(direction)
    for value in scores:
        board.add(value, COMPLETE)
    return board


SIX = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


@pytest.mark.parametrize(
    ("kind", "value", "switch", "expected"),
    [
        # A record is COMPLETE whatever ended the trial, unless that took too much.
        *[
            (kind, 0.05, switch, PRUNED if kind is INFEASIBLE else COMPLETE)
            for kind in StopKind
            for switch in ("auto", "pruned", "complete")
        ],
        (FINISHED, 0.9, "auto", COMPLETE),
        (FINISHED, 0.9, "pruned", COMPLETE),
        # Competitive among six: 0.3 has two better, 0.4 has three (just half), 0.45 has four.
        (STOPPED, 0.3, "auto", COMPLETE),
        (STOPPED, 0.4, "auto", COMPLETE),
        (STOPPED, 0.45, "auto", PRUNED),
        (STOPPED, 0.3, "pruned", PRUNED),
        (STOPPED, 0.9, "complete", COMPLETE),
        # A tie with the best is no record.
        (STOPPED, 0.1, "pruned", PRUNED),
        (PRUNER, 0.1, "complete", PRUNED),
        (PRUNER, 0.2, "auto", PRUNED),
        (DIVERGED, 0.2, "complete", PRUNED),
        (MEMORY, 0.2, "complete", PRUNED),
        (STUDY_END, 0.2, "complete", PRUNED),
        (ERROR, 0.2, "complete", FAIL),
        # Without a finite score nothing can be COMPLETE.
        *[(kind, None, "complete", FAIL if kind is ERROR else PRUNED) for kind in StopKind],
        (FINISHED, nan, "complete", PRUNED),
        (FINISHED, -inf, "complete", PRUNED),
    ],
)
def test_the_outcome_table(
    kind: StopKind, value: float | None, switch: OutcomeSwitch, expected: TrialState
) -> None:
    assert decide(kind, value, board_of(SIX), switch) is expected


@pytest.mark.parametrize("kind", StopKind)
def test_the_first_finite_score_is_complete(kind: StopKind) -> None:
    board = Scoreboard("minimize")
    for _ in range(9):
        board.add(None, PRUNED)
    assert decide(kind, 99.0, board, "pruned") is (PRUNED if kind is INFEASIBLE else COMPLETE)


@pytest.mark.parametrize(
    ("scores", "value", "expected"),
    [
        ((0.1, 0.2, 0.3, 0.4), 9.0, True),  # four are finished
        ((0.1, 0.2, 0.3, 0.4, 0.5), 0.3, True),  # two of five are better
        ((0.1, 0.2, 0.3, 0.4, 0.5), 0.35, False),  # three of five are better
        ((0.2, 0.2, 0.2, 0.2, 0.2), 0.2, True),  # ties count for the trial
        ((0.2, 0.2, 0.2, 0.2, 0.2), 0.3, False),
        ((0.1, 0.4, None, nan, inf), 0.3, True),  # five are finished, one of two scores is better
        ((0.1, 0.2, None, nan, inf), 0.3, False),  # both are better
        ((0.1, 0.2), None, False),
        ((0.1, 0.2), nan, False),
    ],
)
def test_competitive(scores: Sequence[float | None], value: float | None, expected: bool) -> None:
    board = board_of(scores)
    assert board.is_competitive(value) is expected
    assert board.finished == len(scores)


def test_directions_mirror_each_other() -> None:
    board = board_of((0.1, 0.2, 0.3, 0.4, 0.5), "maximize")
    assert board.best == 0.5
    assert board.is_unbeaten(0.6)
    assert not board.is_unbeaten(0.5)
    assert board.is_competitive(0.3)
    assert not board.is_competitive(0.25)


def test_only_complete_trials_become_the_best() -> None:
    board = Scoreboard("minimize")
    assert board.best is None
    # As in a study that other tools have written to: a pruned trial holds the best score.
    board.add(0.1, PRUNED)
    assert board.best is None
    assert board.is_unbeaten(0.3)
    board.add(0.3, COMPLETE)
    board.add(0.2, FAIL)
    assert board.best == 0.3
    assert board.is_unbeaten(0.25)
    assert board.finished == 3


@pytest.mark.parametrize(
    ("values", "direction", "expected"),
    [
        ([0.5, 0.3, 0.4], "minimize", (0.3, 2)),
        ([0.5, 0.3, 0.5], "maximize", (0.5, 1)),
        ([0.3, 0.2, 0.2], "minimize", (0.2, 2)),
        ([nan, 0.7, nan, 0.6], "minimize", (0.6, 4)),
        ([-inf, 0.7, inf], "minimize", (0.7, 2)),
        ([inf, 0.7], "maximize", (0.7, 2)),
        ([0.0], "maximize", (0.0, 1)),
        ([nan, inf], "minimize", None),
        ([], "minimize", None),
    ],
)
def test_score(values: list[float], direction: Direction, expected: tuple[float, int] | None) -> None:
    assert score(values, direction) == expected


@pytest.mark.parametrize("kind", StopKind)
@pytest.mark.parametrize("state", [COMPLETE, PRUNED, FAIL])
def test_only_pruned_trials_are_marked_infeasible(kind: StopKind, state: TrialState) -> None:
    broken = {MEMORY: {"memory": 1.0}, INFEASIBLE: {"macs": 0.5}} if state is PRUNED else {}
    assert constraints(kind, state, {"macs": 0.5}) == broken.get(kind, {})


values = st.lists(st.integers(-3, 3).map(float) | st.sampled_from([nan, inf, -inf]), max_size=4)
endings = st.lists(st.tuples(st.sampled_from(StopKind), values), max_size=25)


@settings(max_examples=60, deadline=None)
@given(
    endings,
    st.sampled_from(["auto", "pruned", "complete"]),
    st.sampled_from(["minimize", "maximize"]),
)
def test_no_finished_trial_is_better_than_the_best_value(
    trials: list[tuple[StopKind, list[float]]], switch: OutcomeSwitch, direction: Direction
) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction=direction)
    board = Scoreboard(direction)
    reached: list[float] = []
    for kind, curve in trials:
        trial = study.ask()
        for epoch, value in enumerate(curve, start=1):
            trial.report(value, epoch)
        found = score(curve, direction)
        value = None if found is None else found[0]
        state = decide(kind, value, board, switch)
        for name, excess in constraints(kind, state, {"macs": 0.5}).items():
            trial.set_constraint(name, excess)
        study.tell(trial, value if state is COMPLETE else None, state=state)
        board.add(value, state)
        if value is not None and kind is not INFEASIBLE:
            reached.append(value)
        if reached:
            best = min(reached) if direction == "minimize" else max(reached)
            assert study.best_value == board.best == best


@pytest.mark.parametrize("restarted", [False, True])
def test_a_paused_trial_that_breaks_a_limit_later_reached_nothing(restarted: bool) -> None:
    def trial(number: int, score: float, state: TrialState, **attrs: object) -> FrozenTrial:
        made = create_trial(state=state, user_attrs={"score": score, "best_at": 1.0, **attrs})
        made.number = number
        return made

    course = Course("minimize")
    course.add(trial(1, 0.5, TrialState.PRUNED))
    if not restarted:
        course.add(trial(0, 0.1, TrialState.RUNNING, paused=1))
        assert course.best == 0.1
    course.add(trial(0, 0.1, TrialState.PRUNED, stop_reason="infeasible"))
    assert course.best == 0.5


@settings(deadline=None)  # a busy machine may stall for longer
@given(st.lists(st.tuples(st.integers(0, 3) | st.none(), st.booleans()), max_size=12), st.randoms())
def test_the_trials_since_the_best_are_counted_in_whatever_order_they_are_read(
    trials: list[tuple[int | None, bool]], order: random.Random
) -> None:
    """A trial's score, and whether it has finished; a paused one counts with its score alone."""
    course, began = Course("minimize"), datetime(2026, 1, 1)
    records = []
    for number, (value, ended) in enumerate(trials):
        moment = began + timedelta(seconds=number)
        attrs = {"score": value, "best_at": moment.timestamp() - 0.5, "device_seconds": 2.0}
        state = TrialState.PRUNED if ended else TrialState.RUNNING
        record = create_trial(state=state, user_attrs=attrs)
        record.number, record.datetime_complete = number, moment if ended else None
        records.append(record)
    order.shuffle(records)
    for record in records:
        course.add(record)
    scores = [value for value, _ in trials if value is not None]
    first = next((n for n, (value, _) in enumerate(trials) if scores and value == min(scores)), -1)
    assert course.best == (min(scores) if scores else None)
    assert course.since_best == sum(ended for _, ended in trials[first + 1 :])
    assert course.device_seconds({0: 1.0, 99: 5.0}) == 2.0 * len(trials) + (1.0 if not trials else 0.0) + 5.0
