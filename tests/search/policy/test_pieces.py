"""Where pieces end, and how trials of different lengths are compared."""

import numpy as np
import pytest

from hpsearch.search.policy.pieces import Pieces, are_stretched, epochs_of
from hpsearch.study import parse_study
from hpsearch.testing.policy_contract import FIXED, SEARCH, study


@pytest.mark.parametrize(
    ("by_share", "growth", "first", "epochs", "expected"),
    [
        (False, 3, 1, 1, (1,)),
        (False, 3, 1, 3, (1, 3)),
        (False, 3, 1, 27, (1, 3, 9, 27)),
        (False, 3, 1, 28, (1, 3, 9, 27, 28)),
        (False, 2, 4, 20, (4, 8, 16, 20)),
        (False, 2, 4, 3, (3,)),
        (False, 1.6, 1, 10, (1, 2, 3, 4, 7, 10)),
        (True, 2, 1, 80, (10, 20, 40, 80)),
        (True, 2, 1, 3, (1, 2, 3)),
        (True, 2, 1, 1, (1,)),
        (True, 2, 6, 20, (10, 20)),
        (True, 2, 9, 10, (10,)),
    ],
)
def test_cuts(by_share, growth, first, epochs, expected):
    assert Pieces(by_share, growth, 100, first).cuts(epochs) == expected


def test_rungs_by_share_are_counted_from_the_end():
    pieces = Pieces(True, 2, 100)
    assert [pieces.rung(pieces.cuts(80), place) for place in range(4)] == [-4, -3, -2, -1]
    assert [pieces.rung(pieces.cuts(3), place) for place in range(3)] == [-3, -2, -1]


@pytest.mark.parametrize(
    ("by_share", "epoch", "epochs", "other", "expected"),
    [(True, 2, 16, 8, 1), (True, 12, 100, 4, 1), (True, 3, 8, 20, 8), (False, 3, 8, 20, 3)],
)
def test_how_far_another_trial_must_come_to_be_as_far(by_share, epoch, epochs, other, expected):
    assert Pieces(by_share, 2, 100).as_far(epoch, epochs, other) == expected


@pytest.mark.parametrize("by_share", [False, True])
def test_time_grows_to_one(by_share):
    epochs = np.arange(1, 51)
    time = Pieces(by_share, 2, 50).time(epochs.astype(float), np.full(50, 50))
    assert (np.diff(time) > 0).all()
    assert time[-1] == 1


@pytest.mark.parametrize(
    ("search", "schedule", "expected"),
    [
        (SEARCH, "cosine", True),
        (SEARCH, "constant", False),
        (SEARCH, "plateau", False),
        (SEARCH, "wsd", False),
        (FIXED, "cosine", False),
        ({**SEARCH, "train.schedule": ["constant", "one_cycle"]}, "constant", True),
        ({**SEARCH, "train.schedule": ["constant", "plateau"]}, "cosine", False),
        ({**SEARCH, "epochs": [7]}, "cosine", False),
    ],
)
def test_which_studies_are_stretched(search, schedule, expected):
    assert are_stretched(study(search, train={"function": "a:b", "schedule": schedule})) is expected


@pytest.mark.parametrize(
    ("hparams", "last", "expected"),
    [({}, None, 9), ({"epochs": 5}, None, 5), ({"epochs": 5}, 3, 3), ({"train.last_epoch": 2}, None, 2)],
)
def test_epochs_of_a_trial(hparams, last, expected):
    train = {"function": "a:b", "epochs": 9, **({} if last is None else {"last_epoch": last})}
    assert epochs_of(study(train=train), hparams) == expected


@pytest.mark.parametrize(
    ("stages", "search", "expected"),
    [
        (["head", "all"], {}, True),
        ([{"name": "head", "epochs": 2}, "all"], {}, False),
        ([{"name": "head", "epochs": 2}, "all"], {"train.stages.head.epochs": [0.3, 2]}, True),
        (["head"], {}, False),
        ([], {"train.stages": [[], ["head", "all"]]}, True),
    ],
)
def test_a_first_stage_that_is_a_share_of_the_epochs_stretches_too(stages, search, expected):
    epochs = {"epochs": {"low": 5, "high": 20}}
    tree = {
        "study": {"name": "staged"},
        "data": {"dataset": "digits"},
        "train": {"schedule": "wsd", "stages": stages},
        "search": epochs | search,
    }
    assert are_stretched(parse_study(tree)) is expected
    assert not are_stretched(parse_study(tree | {"train": {"schedule": "wsd"}, "search": epochs}))
