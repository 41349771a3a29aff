"""Conditional fields of the search: how they are read, what is refused, what a trial has."""

import itertools
import tomllib

import pytest

from hpsearch.errors import StudyFileError
from hpsearch.study.conditions import branches, meaningful
from hpsearch.study.file import differences, digest, parse_stored, parse_study, stored_form
from hpsearch.study.specification import StudySpec

BASE = """
[data]
dataset = "digits"
[search]
learning_rate = { low = 1e-3, high = 1.0, log = true }
batch_size = [16, 32, 64]
"train.optimizer" = ["sgd", "adam", "adamw"]
"model.name" = ["cnn", "mlp"]
"""
WHEN = """
[search.when."train.optimizer = sgd"]
"train.momentum" = { low = 0.5, high = 0.9 }
"train.nesterov" = [true, false]
[search.when."train.nesterov = false and batch_size = 16 or 64"]
"train.clip_norm" = { low = 0.1, high = 1.0 }
[search.when."model.name = mlp"]
"model.args.hidden" = [[32], [64, 64]]
[search.when."model.name = cnn"]
"model.args.width" = [8, 16]
"""


def study(text: str) -> StudySpec:
    return parse_study(tomllib.loads(BASE + text), "s.toml")


def test_a_trial_has_the_fields_that_have_a_meaning_in_it():
    search = study(WHEN).search
    common = {"learning_rate", "batch_size", "train.optimizer", "model.name"}
    trial = {"train.optimizer": "adam", "model.name": "mlp", "train.nesterov": False, "batch_size": 16}
    assert meaningful(search, trial).keys() == common | {"model.args.hidden"}
    trial |= {"train.optimizer": "sgd", "model.name": "cnn"}
    sgd = {"train.momentum", "train.nesterov", "model.args.width"}
    assert meaningful(search, trial).keys() == common | sgd | {"train.clip_norm"}
    assert meaningful(search, {**trial, "batch_size": 32}).keys() == common | sgd
    assert meaningful(search, {**trial, "train.nesterov": True}).keys() == common | sgd


def test_a_field_may_be_sampled_from_different_values_under_conditions_that_exclude_each_other():
    spec = study(
        '[search.when."train.optimizer = sgd"]\n"train.weight_decay" = { low = 1e-5, high = 1e-3 }\n'
        '[search.when."train.optimizer = adam or adamw"]\n"train.weight_decay" = { low = 1e-4, high = 0.5 }'
    )
    whole = spec.search["train.weight_decay"]
    assert (whole.low, whole.high) == (1e-5, 0.5)
    entry = meaningful(spec.search, {"train.optimizer": "adamw"})["train.weight_decay"]
    assert (entry.low, entry.high) == (1e-4, 0.5)


def test_conditions_are_stored_and_read_again():
    spec = study(WHEN)
    again = parse_stored(stored_form(spec))
    assert again.search == spec.search
    assert digest(again) == digest(spec)


def test_the_order_in_which_conditions_are_written_changes_nothing():
    tables = [
        '[search.when."model.name = mlp"]\n"model.args.width" = [64, 32]\n',
        '[search.when."model.name = cnn"]\n"model.args.width" = [16, 8]\n',
    ]
    one, other = study("".join(tables)), study("".join(reversed(tables)))
    assert digest(one) == digest(other) == digest(parse_stored(stored_form(one)))
    assert one.search["model.args.width"].choices == (16, 8, 64, 32)
    assert parse_stored(stored_form(one)).search == one.search == other.search


def test_the_digest_tells_conditions_apart_and_not_how_they_are_written():
    spec = study(WHEN)
    tables = WHEN.replace("train.optimizer = sgd", 'train.optimizer="sgd"', 1).split("[search")[1:]
    other_order = "".join(f"[search{table}" for table in reversed(tables))
    other_order = other_order.replace("nesterov = false and batch_size = 16 or 64", "x").replace("\\", "")
    other_order = other_order.replace("train.x", "batch_size = 64 or 16 and train.nesterov = false")
    other_order = other_order.replace('"train.optimizer="sgd""', "'train.optimizer=\"sgd\"'")
    assert digest(study(other_order)) == digest(spec)
    changed = study(WHEN.replace("= sgd", "= sgd or adam"))
    assert digest(changed) != digest(spec)
    assert any("search.train.momentum.cases" in line for line in differences(spec, changed))
    flat = study('"train.momentum" = { low = 0.5, high = 0.9 }')
    assert digest(flat) != digest(study(WHEN.partition('"train.nesterov"')[0]))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            '[search.when."train.schedule = step"]\n"train.step_gamma" = [0.1, 0.5]',
            'search.when."train.schedule = step": train.schedule is not searched',
        ),
        (
            '[search.when."train.optimizer = adamx"]\n"train.beta2" = [0.9, 0.99]',
            "train.optimizer = 'adamx' is not in the list 'sgd', 'adam', 'adamw'; no trial has it",
        ),
        ('[search.when."batch_size = 17"]\nepochs = [3]', "batch_size = '17' is not in the list 16, 32, 64"),
        ('[search.when."learning_rate = 0.1"]\nepochs = [3]', "learning_rate is a range; write it as a list"),
        ('[search.when."batch_size"]\nepochs = [3]', '"batch_size" is not a condition; write FIELD = VALUE'),
        (
            '[search.when."batch_size = 16 and batch_size = 32"]\nepochs = [3]',
            "names batch_size twice; join its values, as in batch_size = VALUE or VALUE",
        ),
        (
            '[search.when."train.nesterov = true"]\n"train.schedule" = ["wsd"]\n'
            '[search.when."train.schedule = wsd"]\n"train.nesterov" = [true, false]',
            "train.schedule depends on train.nesterov depends on train.schedule; remove one",
        ),
        (
            '[search.when."batch_size = 16"]\n"train.momentum" = [0.5]\n'
            '[search.when."train.optimizer = sgd"]\n"train.momentum" = [0.9]',
            'when."batch_size = 16".train.momentum: is sampled twice where "train.optimizer = sgd" holds as well',
        ),
        (
            '[search.when."batch_size = 16"]\n"train.optimizer" = ["sgd"]',
            'when."batch_size = 16".train.optimizer: is in [search] as well',
        ),
        (
            '[search.when."batch_size = 16"]\n"train.nesterov" = [true, false]\n'
            '[search.when."batch_size = 32 and train.nesterov = true"]\n"train.momentum" = [0.9]',
            "can never hold, as its fields need different values of batch_size",
        ),
        (
            '[search.when."model.name = cnn"]\n"train.weight_decay" = { low = 1e-5, high = 1e-3, log = true }\n'
            '[search.when."model.name = mlp"]\n"train.weight_decay" = { low = 1e-5, high = 1e-3 }',
            "is logarithmic in one condition and not in another",
        ),
        (
            '[search.when."model.name = cnn"]\n"train.weight_decay" = [1e-5, 1e-3]\n'
            '[search.when."model.name = mlp"]\n"train.weight_decay" = { low = 1e-5, high = 1e-3 }',
            "write the same kind in each",
        ),
        ('[search.when."batch_size = 16"]\n"train.loss" = ["mse"]', "train.loss: is not searchable"),
        ('[search.when."batch_size = 16"]\nepochs = { low = 9, high = 3 }', "low = 9 is above high = 3"),
        ('[search.when."batch_size = 16"]', "must be a table of hyperparameters, got {}"),
        ("when = 3", "search.when: must hold a table for each condition"),
        (
            '"train.momentum" = { low = 0.1, high = 0.9, cases = 3 }',
            "cases: unknown key; write conditions as",
        ),
        (
            '[search.when."batch_size = 16"]\n"train.momentum" = { low = 0.1, high = 1.5 }',
            "search.batch_size and search.train.momentum: must be below 1, got 1.5",
        ),
        (
            '[search.when."batch_size = 16"]\n"train.momentum" = [0.5]\n[sampler]\nname = "gp"',
            'sampler.name: "gp" samples fields that every trial has, but train.momentum has a condition',
        ),
        (
            '[search.when."batch_size = 16"]\n"train.momentum" = { low = 0.5, high = 0.9 }\n'
            '[sampler]\nname = "grid"',
            "learning_rate, train.momentum is continuous",
        ),
        (
            '[search.when."train.optimizer = sgd"]\n"train.momentum" = [0.5, 0.9]\n'
            '[[enqueue]]\n"train.momentum" = 0.5',
            'train.momentum has a meaning only where "train.optimizer = sgd"; add what is missing, or remove',
        ),
        (
            '[search.when."train.optimizer = sgd"]\n"train.momentum" = [0.5, 0.9]\n'
            '[[enqueue]]\n"train.momentum" = 0.7\n"train.optimizer" = "sgd"',
            "enqueue.0: train.momentum = 0.7 is not in the list 0.5, 0.9",
        ),
    ],
)
def test_what_no_trial_could_follow_is_refused(text, sentence):
    with pytest.raises(StudyFileError) as caught:
        study(text)
    assert sentence in str(caught.value)


def test_the_branches_of_a_grid_are_all_trials_once():
    spec = parse_study(
        {
            "data": {"dataset": "digits"},
            "sampler": {"name": "grid"},
            "study": {"trials": 100},
            "search": {
                "batch_size": [16, 32, 64],
                "train.optimizer": ["sgd", "adam"],
                "when": {
                    "train.optimizer = sgd": {"train.momentum": [0.5, 0.9], "train.nesterov": [True, False]},
                    "train.nesterov = false": {"train.clip_norm": [0.1, 0.2, 0.3]},
                },
            },
        }
    )
    found = [
        frozenset({**chosen, **dict(zip(rest, values, strict=True))}.items())
        for chosen, rest in branches(spec.search)
        for values in itertools.product(*(entry.labels() for entry in rest.values()))
    ]
    assert len(found) == len(set(found)) == spec.grid_size == spec.total_trials == 3 * (1 + 2 * (1 + 3))


def test_where_a_field_is_not_sampled_it_is_what_the_study_says():
    spec = study(WHEN)
    trial = {"learning_rate": 0.1, "batch_size": 16, "train.optimizer": "adam", "model.name": "cnn"}
    assert spec.with_hparams({**trial, "model.args.width": 8}).train.momentum == spec.train.momentum
    assert spec.values_of("train.momentum") == [0.5, 0.9]
    assert spec.values_of("train.nesterov") == [True, False]
    conditional = study('[search.when."batch_size = 16"]\nepochs = { low = 3, high = 9 }')
    assert conditional.max_epochs == conditional.train.epochs == 20
