"""What `auto` does with points that were given."""

import pytest
from optuna.trial import TrialState, create_trial

from hpsearch.contracts.trial import QUEUED
from hpsearch.search.policy.build import build_policy
from hpsearch.search.policy.contract import Continue, Decision, New, Pause, Policy, Resume
from hpsearch.search.view import StudyView
from hpsearch.testing.policy_contract import spec_of

EPOCHS = 8
POINTS = ({"learning_rate": 1e-2, "epochs": EPOCHS}, {"learning_rate": 1e-3, "epochs": EPOCHS})


def given_two(name: str = "auto") -> tuple[StudyView, Policy]:
    """Returns a study whose first two trials were given, and run."""
    view = StudyView(spec_of())
    policy = build_policy(name, view)
    for number, point in enumerate(POINTS):
        queued = create_trial(state=TrialState.WAITING, system_attrs={QUEUED: point})
        queued.number = number
        view.add(queued)
        policy.add(queued)
    for number in range(len(POINTS)):
        policy.start(number)
    return view, policy


def train(view: StudyView, policy: Policy, number: int, value: float) -> list[Decision]:
    """Trains a trial until it is paused, or to its end; returns what was decided."""
    decided: list[Decision] = []
    while len(decided) < EPOCHS and not any(isinstance(one, Pause) for one in decided):
        epoch = 1 + len(view.reported(number))
        view.report(number, epoch, value)
        decided.append(policy.report(number, epoch, value))
    return decided


def test_the_first_is_trained_to_its_end_however_it_begins() -> None:
    view, policy = given_two()
    assert isinstance(train(view, policy, 1, value=0.1)[-1], Pause)
    decided = train(view, policy, 0, value=5.0)
    assert len(decided) == EPOCHS
    assert all(isinstance(one, Continue) for one in decided)


def test_after_its_worker_was_lost_it_is_resumed_before_all() -> None:
    view, policy = given_two()
    view.report(0, 1, 5.0)
    policy.report(0, 1, 5.0)
    assert policy.begin() != Resume(0, "the first of the given points is trained to its end")  # it runs
    view.restart(0)
    assert view.is_queued(0)


def test_where_a_trial_has_come_to_its_end_none_is_preferred() -> None:
    view, policy = given_two()
    ended = create_trial(
        state=TrialState.COMPLETE,
        value=0.5,
        params=view.params(1),
        distributions={name: view.space[name] for name in view.params(1)},
        intermediate_values=dict.fromkeys(range(1, EPOCHS + 1), 0.5),
        user_attrs={"score": 0.5, "stop_reason": "finished"},
    )
    ended.number = 1
    view.replace(ended)
    policy.finish(ended)
    assert isinstance(train(view, policy, 0, value=5.0)[-1], Pause)
    assert isinstance(policy.begin(), New)


@pytest.mark.parametrize(
    ("kind", "state"), [("error", TrialState.FAIL), ("out_of_memory", TrialState.PRUNED)]
)
@pytest.mark.parametrize("restarted", [False, True])
def test_one_that_failed_leaves_the_next_to_be_trained_to_its_end(
    kind: str, state: TrialState, restarted: bool
) -> None:
    view, policy = given_two()
    hparams = [view.params(number) for number in range(len(POINTS))]
    stored = [
        create_trial(
            state=one,
            params=params,
            distributions={name: view.space[name] for name in params},
            user_attrs={"stop_reason": kind} if one.is_finished() else {},
            system_attrs={QUEUED: point},
        )
        for one, params, point in zip((state, TrialState.RUNNING), hparams, POINTS, strict=True)
    ]
    for number, trial in enumerate(stored):
        trial.number = number
    if restarted:
        view = StudyView(view.spec)
        policy = build_policy("auto", view)
        for trial in stored:
            view.add(trial)
            policy.add(trial)
    else:
        view.replace(stored[0])
        policy.finish(stored[0])
    assert all(isinstance(one, Continue) for one in train(view, policy, 1, value=5.0))


@pytest.mark.parametrize("name", ["halving", "screen"])
def test_what_is_published_acts_as_published(name: str) -> None:
    view, policy = given_two(name)
    assert isinstance(train(view, policy, 0, value=5.0)[-1], Pause)
