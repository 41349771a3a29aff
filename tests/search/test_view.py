"""The study in memory: what samplers see, repeatable asks, the cap."""

import itertools
import math
from random import Random

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from hpsearch.contracts.trial import QUEUED
from hpsearch.search import sampler as module
from hpsearch.search.sampler import grid_values, seen_by_sampler
from hpsearch.search.space import distributions
from hpsearch.search.view import BEST_SHOWN, NEWEST_SHOWN, StudyView
from hpsearch.study import parse_study
from hpsearch.testing.policy_contract import CONDITIONAL, assert_in_space

SEARCH = {
    "learning_rate": {"low": 1e-4, "high": 1.0, "log": True},
    "batch_size": [16, 32, 64],
    "epochs": {"low": 5, "high": 50},
}


def spec_of(search=SEARCH, **tables):
    return parse_study({"study": {"name": "s"}, "data": {"dataset": "digits"}, "search": search, **tables})


def finished(view, number, params, score, kind="finished", state=TrialState.COMPLETE):
    trial = create_trial(
        state=state,
        value=score if state is not TrialState.FAIL else None,
        params=params,
        distributions=view.space,
        user_attrs={"score": score, "stop_reason": kind, "epochs_run": 3},
        intermediate_values={1: 2.0, 2: 1.0},
    )
    trial.number = number
    return trial


def run(view, count):
    """Asks and ends `count` trials whose score is the distance of the learning rate from 0.1."""
    asked = []
    for _ in range(count):
        number = view.next_number
        params = view.ask(number)
        score = abs(math.log10(params["learning_rate"]) + 1)
        view.replace(finished(view, number, params, score))
        asked.append(params)
    return asked


@pytest.mark.parametrize("sampler", ["tpe", "gp", "qmc", "random"])
def test_asks_depend_on_seed_and_history_alone(sampler):
    spec = spec_of(sampler={"name": sampler, "startup_trials": 5})
    whole = StudyView(spec)
    asked = run(whole, 12)
    again = StudyView(spec)
    for number, params in enumerate(asked[:8]):
        again.add(finished(again, number, params, abs(math.log10(params["learning_rate"]) + 1)))
    assert run(again, 4) == asked[8:]


def test_tpe_samples_what_optuna_itself_samples():
    """Our TPE returns the known space instead of inferring it; the samples must be the same."""
    from hpsearch.search.sampler import derived_seed

    view = StudyView(spec_of(sampler={"name": "tpe", "startup_trials": 5}))
    plain = optuna.create_study()
    for number in range(15):
        plain.sampler = optuna.samplers.TPESampler(seed=derived_seed(0, number), n_startup_trials=5)
        theirs = plain.ask(fixed_distributions=view.space)
        ours = view.ask(number)
        assert ours == theirs.params
        score = abs(math.log10(ours["learning_rate"]) + 1)
        plain.tell(theirs, score)
        view.replace(finished(view, number, ours, score))


def test_another_seed_gives_other_samples():
    first, second = (StudyView(spec_of(study={"name": "s", "seed": seed})) for seed in (0, 1))
    assert first.ask(0) != second.ask(0)


def test_qmc_is_more_even_than_random():
    """Sobol's first 16 points put one in each sixteenth of every axis; random points leave holes."""
    search = {"learning_rate": {"low": 0.0001, "high": 1.0}, "train.momentum": {"low": 0.0, "high": 0.96}}
    view = StudyView(spec_of(search, sampler={"name": "qmc"}))
    points = [view.ask(number)["train.momentum"] for number in range(16)]
    assert len({int(value / 0.06) for value in points}) == 16


def test_the_grid_is_made_once_for_all_asks(monkeypatch):
    made = []
    monkeypatch.setattr(module.random, "Random", lambda seed: made.append(seed) or Random(seed))
    view = StudyView(spec_of({"batch_size": [16, 32, 64]}, sampler={"name": "grid"}))
    assert {view.ask(number)["batch_size"] for number in range(3)} == {16, 32, 64}
    assert made == [0]


@pytest.mark.parametrize(
    "values", [[range(3), ["a", "b"], [1.5, 2.5, 3.5, 4.5]], [["only"]], [range(7), range(1)]]
)
def test_a_grid_has_every_combination_in_the_order_of_the_shuffled_list(values):
    """A study that began when the whole list was made goes through the same points."""
    expected = list(itertools.product(*values))
    Random(7).shuffle(expected)
    grid = module.Grid([dict(enumerate(values))], 7)
    points = [tuple(grid.point(number)[axis] for axis in range(len(values))) for number in range(grid.size)]
    assert points == expected
    assert grid.point(grid.size) == grid.point(0)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ([1, 2], (1, 2)),
        ({"low": 1, "high": 7, "step": 3}, [1, 4, 7]),
        ({"low": 1, "high": 4, "log": True}, [1, 2, 3, 4]),
    ],
)
def test_grid_values(entry, expected):
    spec = spec_of({"epochs": entry} if not isinstance(entry, list) else {"batch_size": entry})
    [distribution] = distributions(spec.search).values()
    assert list(grid_values(distribution)) == list(expected)
    assert next(iter(spec.search.values())).size == len(expected)


@pytest.mark.parametrize(
    ("state", "score", "broken", "expected"),
    [
        (TrialState.COMPLETE, 0.5, {}, (TrialState.COMPLETE, 0.5)),
        (TrialState.PRUNED, 0.5, {}, (TrialState.COMPLETE, 0.5)),
        (TrialState.PRUNED, None, {}, (TrialState.PRUNED, None)),
        (TrialState.PRUNED, None, {"memory": 1.0}, (TrialState.PRUNED, None)),
        (TrialState.PRUNED, 0.9, {"macs": 0.5}, (TrialState.PRUNED, None)),
        (TrialState.FAIL, 0.5, {}, (TrialState.FAIL, None)),
    ],
)
def test_what_the_sampler_is_told(state, score, broken, expected):
    seen = seen_by_sampler(state, score, broken, 3.0, "tpe")
    assert (seen.state, seen.value) == expected
    assert seen.broken == broken


def test_gp_is_told_the_worst_score_where_there_is_none():
    seen = seen_by_sampler(TrialState.PRUNED, None, {}, 3.0, "gp")
    assert (seen.state, seen.value) == (TrialState.COMPLETE, 3.0)


def test_the_sampler_learns_from_out_of_memory():
    """A batch that never fits must be chosen rarely once the sampler has seen it fail."""
    view = StudyView(spec_of(sampler={"name": "tpe", "startup_trials": 6}))
    chosen = []
    for number in range(60):
        params = view.ask(number)
        chosen.append(params["batch_size"])
        score = abs(math.log10(params["learning_rate"]) + 1)
        if params["batch_size"] == 64:
            record = finished(view, number, params, None, "out_of_memory", TrialState.PRUNED)
        else:
            record = finished(view, number, params, score)
        view.replace(record)
    assert chosen[20:].count(64) <= 8


def test_samplers_and_pruners_are_shown_the_best_and_the_newest():
    view = StudyView(spec_of())
    params = {"learning_rate": 0.1, "batch_size": 16, "epochs": 9}
    for number in range(1300):
        view.add(finished(view, number, params, float(number)))
    view.ask(1300)
    shown = [t.number for t in view._study.get_trials(deepcopy=False)]
    assert shown == [*range(BEST_SHOWN), *range(1301 - NEWEST_SHOWN, 1301)]
    assert view.best.number == 0


def test_of_equal_trials_the_first_is_the_best_whichever_ends_first():
    view = StudyView(spec_of())
    params = [view.ask(number) for number in range(3)]
    for number, best in ((2, 2), (0, 0), (1, 0)):
        view.replace(finished(view, number, params[number], 0.25))
        assert view.best.number == best


def conditional(sampler, trials=20, **tables):
    spec = spec_of(CONDITIONAL, sampler={"name": sampler}, study={"name": "s", "trials": trials}, **tables)
    return StudyView(spec)


@pytest.mark.parametrize(("sampler", "count"), [("tpe", 300), ("random", 300), ("qmc", 64)])
def test_of_300_trials_none_has_a_field_without_a_meaning(sampler, count):
    view = conditional(sampler)
    seen = set()
    for number in range(count):
        params = view.ask(number)
        trial = create_trial(
            state=TrialState.COMPLETE,
            value=params["learning_rate"] + params.get("train.momentum", 0.7),
            params=params,
            distributions=view.space.of(params),
            user_attrs={"score": params["learning_rate"], "stop_reason": "finished", "epochs_run": 3},
        )
        trial.number = number
        assert_in_space(trial, view)
        view.replace(trial)
        seen |= params.keys()
    assert seen == view.space.keys()


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_conditional_asks_depend_on_seed_and_history_alone(sampler):
    def asked(view, numbers):
        for number in numbers:
            params = view.ask(number)
            record = {"score": params["learning_rate"], "stop_reason": "finished", "epochs_run": 3}
            trial = create_trial(
                value=record["score"], params=params, distributions=view.space.of(params), user_attrs=record
            )
            trial.number = number
            view.replace(trial)
            yield trial

    whole = list(asked(conditional(sampler), range(25)))
    again = conditional(sampler)
    for trial in whole[:15]:
        again.add(trial)
    assert [t.params for t in asked(again, range(15, 25))] == [t.params for t in whole[15:]]


def test_tpe_learns_each_case_from_the_trials_in_which_it_held():
    """Weight decay has another range, and another best value, under each schedule."""
    view, off = conditional("tpe"), {"cosine": [], "constant": []}
    for number in range(100):
        schedule, best = (("cosine", -4.8), ("constant", -1.2))[number % 2]
        queued = create_trial(state=TrialState.WAITING, system_attrs={QUEUED: {"train.schedule": schedule}})
        queued.number = number
        view.add(queued)
        params = view.ask(number)
        assert params["train.schedule"] == schedule
        score = abs(math.log10(params["train.weight_decay"]) - best)
        trial = create_trial(
            value=score,
            params=params,
            distributions=view.space.of(params),
            user_attrs={"score": score, "stop_reason": "finished", "epochs_run": 3},
        )
        trial.number = number
        view.replace(trial)
        off[schedule].append(score)
    for schedule, found in off.items():
        assert sum(found[30:]) / 20 < 0.5, schedule  # 0.7 at random, 1.8 if both are one


def test_a_grid_goes_through_every_trial_of_a_conditional_space_once():
    search = {
        "batch_size": [16, 32],
        "train.optimizer": ["sgd", "adam"],
        "when": {
            "train.optimizer = sgd": {"train.momentum": [0.5, 0.7, 0.9], "train.nesterov": [True, False]},
            "train.nesterov = false": {"train.clip_norm": [0.1, 0.2]},
        },
    }
    spec = spec_of(search, sampler={"name": "grid"})
    view = StudyView(spec)
    asked = [frozenset(view.ask(number).items()) for number in range(spec.grid_size)]
    assert len(set(asked)) == len(asked) == view.sampling.grid.size == 2 * (1 + 3 * (1 + 2))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"train.optimizer": "sgd", "train.momentum": 0.6}, ""),
        ({"train.momentum": 0.6}, 'train.momentum has a meaning only where "train.optimizer = sgd"'),
        ({"train.optimizer": "adam", "train.momentum": 0.6}, "train.momentum has a meaning only where"),
        ({"train.schedule": "cosine", "train.weight_decay": 0.05}, "0.05 is not in 1e-05 to 0.001"),
    ],
)
def test_queued_values_need_a_meaning(values, words):
    view = conditional("tpe")
    queued = create_trial(state=TrialState.WAITING, system_attrs={QUEUED: values})
    queued.number = 0
    view.add(queued)
    assert words in view.misfits.get(0, "")
    assert bool(words) == (0 in view.misfits)
    if not words:
        assert view.ask(0).items() >= values.items()
