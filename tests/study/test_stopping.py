import tomllib
from typing import Any

import pytest
from pydantic import ValidationError

from hpsearch.study.stopping import CriterionTable, EarlyStopping, Pruner


def sentences(error: ValidationError) -> str:
    return "\n".join(entry["msg"] for entry in error.errors())


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ("", [("patience", {"patience": 8, "min_delta": 0.0})]),
        ('criterion = "patience"\npatience = 12', [("patience", {"patience": 12, "min_delta": 0.0})]),
        ('criterion = "gl"', [("gl", {"alpha": 5.0})]),
        ('criterion = "gl"\nalpha = 10', [("gl", {"alpha": 10.0})]),
        ('criterion = "pq"', [("pq", {"alpha": 0.75, "strip": 5})]),
        ('criterion = "up"\nstrip = 3', [("up", {"strip": 3, "successive": 3})]),
        ('criterion = "overfit"\nepochs = 4', [("overfit", {"epochs": 4})]),
        ('criterion = "none"', []),
        (
            'criterion = [{ name = "patience", patience = 8 }, { name = "gl", alpha = 10.0 }]',
            [("patience", {"patience": 8, "min_delta": 0.0}), ("gl", {"alpha": 10.0})],
        ),
    ],
)
def test_both_forms_of_writing_give_tables(toml: str, expected: list[tuple[str, dict[str, Any]]]) -> None:
    tables = EarlyStopping.model_validate(tomllib.loads(toml)).tables()
    assert [(table.name, table.parameters()) for table in tables] == expected


@pytest.mark.parametrize(
    ("toml", "sentence"),
    [
        ("patience = 0", "patience must be at least 1, got 0"),
        ("min_delta = -0.1", "min_delta must be at least 0, got -0.1"),
        ('criterion = "gl"\nalpha = 0', "alpha must be above 0, got 0"),
        ('criterion = "gl"\nalpha = nan', "finite number"),
        ('criterion = "up"\nstrip = 0', "strip must be at least 1, got 0"),
        ('criterion = "up"\nsuccessive = 0', "successive must be at least 1, got 0"),
        ('criterion = "overfit"\nepochs = 0', "epochs must be at least 1, got 0"),
        ("patience = true", "valid integer"),
        ("patience = 8.0", "valid integer"),
        ("warmup = -1", "warmup must be at least 0, got -1"),
        ("warmup = -0.1", "warmup must be at least 0, got -0.1"),
        ("warmup = 3.0", "write warmup = 3 for a number of epochs"),
        (
            'criterion = "patient"',
            "criterion 'patient' is unknown; did you mean \"patience\"? Known: gl, none",
        ),
        ("criterion = 5", "criterion 5 is unknown; known: gl, none, overfit, patience, pq, up"),
        ('criterion = [{ name = "pgl" }]', "name 'pgl' is unknown; did you mean \"gl\"?"),
        ('criterion = [{ name = "none" }]', "name 'none' is unknown"),
        ("criterion = []", 'write criterion = "none"'),
        ('outcome = "fail"', "'auto', 'pruned' or 'complete'"),
        ("pacience = 3", "Extra inputs"),
        (
            "alpha = 5.0",
            'alpha has no effect with criterion = "patience" (it belongs to "gl", "pq"); remove it',
        ),
        ('criterion = "gl"\npatience = 8', 'patience has no effect with criterion = "gl"'),
        ('criterion = "none"\nstrip = 5', 'strip has no effect with criterion = "none"'),
        ('criterion = [{ name = "gl", strip = 5 }]', 'strip has no effect with name = "gl"'),
        ('criterion = "none"\nmetric = "val_error"', 'metric has no effect with criterion = "none"'),
        (
            'criterion = [{ name = "gl" }]\npatience = 8',
            "patience stands beside a list of criteria; write it into the table of its criterion",
        ),
    ],
)
def test_wrong_early_stopping_is_refused_with_a_sentence(toml: str, sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        EarlyStopping.model_validate(tomllib.loads(toml))
    assert sentence in sentences(caught.value)


@pytest.mark.parametrize("mode", ["python", "json"])
@pytest.mark.parametrize(
    "section",
    [
        EarlyStopping(),
        EarlyStopping(criterion="gl"),
        EarlyStopping(criterion="pq", alpha=2.0, warmup=0.25, outcome="pruned"),
        EarlyStopping(criterion="none", warmup=3),
        EarlyStopping(metric="val_error"),
        EarlyStopping(criterion=(CriterionTable(name="gl"), CriterionTable(name="up", strip=2))),
        Pruner(),
        Pruner(name="median", min_trials=3),
        Pruner(name="percentile", percentile=40.0),
        Pruner(name="asha", min_epochs=2),
        Pruner(name="hyperband"),
        Pruner(name="hyperband", max_epochs=50),
    ],
    ids=repr,
)
def test_a_stored_section_reads_back_as_itself(section: EarlyStopping | Pruner, mode: Any) -> None:
    assert type(section).model_validate(section.model_dump(mode=mode)) == section


def test_a_default_that_is_written_out_changes_nothing() -> None:
    assert EarlyStopping(criterion="gl", alpha=5.0).model_dump() == EarlyStopping(criterion="gl").model_dump()
    assert EarlyStopping(metric="val_loss").model_dump() == EarlyStopping().model_dump()
    assert (
        CriterionTable(name="pq", alpha=0.75, strip=5).model_dump() == CriterionTable(name="pq").model_dump()
    )


def test_storing_leaves_out_what_the_choice_does_not_use() -> None:
    assert EarlyStopping().model_dump() == {
        "criterion": "patience",
        "patience": 8,
        "min_delta": 0.0,
        "warmup": 0,
        "outcome": "auto",
    }
    assert Pruner().model_dump() == {"name": "none"}


@pytest.mark.parametrize(
    ("toml", "sentence"),
    [
        ('name = "hyperbnad"', "name 'hyperbnad' is unknown; did you mean \"hyperband\"?"),
        ('name = "median"\nstartup_trials = -1', "startup_trials must be at least 0, got -1"),
        ('name = "median"\nwarmup_epochs = -1', "warmup_epochs must be at least 0, got -1"),
        ('name = "median"\ninterval_epochs = 0', "interval_epochs must be at least 1, got 0"),
        ('name = "median"\nmin_trials = 0', "min_trials must be at least 1, got 0"),
        ('name = "median"\npercentile = 25.0', 'percentile has no effect with name = "median"'),
        ('name = "percentile"\npercentile = 100', "percentile must lie between 0 and 100, got 100"),
        ('name = "asha"\nreduction_factor = 1', "reduction_factor must be at least 2, got 1"),
        ('name = "asha"\nmax_epochs = 9', 'max_epochs has no effect with name = "asha"'),
        ('name = "hyperband"\nmin_epochs = 0', "min_epochs must be at least 1, got 0"),
        (
            'name = "hyperband"\nmin_epochs = 9\nmax_epochs = 3',
            "min_epochs must be at most max_epochs (3), got 9",
        ),
        ("min_epochs = 2", 'min_epochs has no effect with name = "none" (it belongs to "asha", "hyperband")'),
    ],
)
def test_a_wrong_pruner_is_refused_with_a_sentence(toml: str, sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Pruner.model_validate(tomllib.loads(toml))
    assert sentence in sentences(caught.value)
