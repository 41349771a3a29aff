"""A study's specification in the database: what comes out is what was written."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial

from hpsearch.errors import DigestMismatch
from hpsearch.service.opening import DIGEST, open_study
from hpsearch.store.connection import open_storage
from hpsearch.store.keys import SPECIFICATION
from hpsearch.study import digest, parse_stored, parse_study, stored_form
from hpsearch.study.specification import StudySpec

PATTERNS = {"3.*": 1.0, "*": 0.001}
CHOICES = [{"b": 1.0, "a": 2.0}, {"a": 2.0, "b": 1.0}]


def spec(
    patterns: Mapping[str, float] = PATTERNS,
    points: int = 0,
    choices: Sequence[Mapping[str, float]] = CHOICES,
) -> StudySpec:
    entry = {"hparams": {"train.lr_multipliers": json.dumps(CHOICES[0])}, "attrs": {"note": "x" * 40}}
    return parse_study(
        {
            "study": {"name": "s"},
            "data": {"dataset": "digits"},
            "train": {"lr_multipliers": patterns},
            "function": {"z": {"y": 1, "x": [{"w": 1, "v": 2}]}, "a": 1},
            "search": {"train.lr_multipliers": choices},
            "sampler": {"name": "points", "points": [entry] * points} if points else {},
        }
    )


@contextmanager
def opened(url: str) -> Iterator[RDBStorage]:
    storage = open_storage(url)
    yield storage
    storage.engine.dispose()


def drive(written: StudySpec, url: str) -> None:
    """Opens a study as a driver does."""
    open_study(written, url, ["cpu"]).storage.engine.dispose()


def read(url: str) -> StudySpec:
    with opened(url) as storage:
        attrs = storage.get_study_user_attrs(storage.get_study_id_from_name("s"))
    assert len(json.dumps(attrs[SPECIFICATION])) < 65_000  # a column of MySQL
    found = parse_stored(attrs[SPECIFICATION])
    assert attrs[DIGEST] == digest(found)
    return found


@pytest.mark.parametrize("points", [0, 1, 800])
def test_a_specification_is_stored_as_it_was_written(database_url: str, points: int) -> None:
    written = spec(points=points)
    drive(written, database_url)
    assert read(database_url) == written
    assert repr(read(database_url).model_dump()) == repr(written.model_dump())  # the order of keys too


def test_patterns_in_another_order_are_another_study(database_url: str) -> None:
    drive(spec(), database_url)
    _begin_a_trial(database_url)
    with pytest.raises(
        DigestMismatch, match=r'train\.lr_multipliers: stored \{"3\.\*": 1\.0, "\*": 0\.001\}, now'
    ):
        drive(spec(dict(reversed(PATTERNS.items()))), database_url)
    drive(spec(), database_url)


def test_a_study_of_version_0_1_0_takes_the_order_of_its_file(database_url: str) -> None:
    written = spec(choices=CHOICES[:1])
    drive(written, database_url)
    _begin_a_trial(database_url)
    with opened(database_url) as storage:
        study_id = storage.get_study_id_from_name("s")
        tree = json.loads(stored_form(written))
        storage.set_study_user_attr(study_id, SPECIFICATION, json.dumps(tree, sort_keys=True))
    drive(written, database_url)
    assert list(read(database_url).train.lr_multipliers) == list(PATTERNS)


def _begin_a_trial(url: str) -> None:
    with opened(url) as storage:
        trial = create_trial(state=TrialState.FAIL)
        storage.create_new_trial(storage.get_study_id_from_name("s"), template_trial=trial)
