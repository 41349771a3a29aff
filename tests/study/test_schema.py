"""The study file's schema: what editors accept is what hpsearch accepts, as far as one field at a time says."""

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hpsearch.__main__ import run
from hpsearch.errors import StudyFileError
from hpsearch.study.file import parse_study
from hpsearch.study.schema import SHIPPED, schema_text, study_schema
from tests.test_studies import FRAGMENTS, laid_over_digits

STUDIES = sorted((Path(__file__).parents[2] / "studies").glob("*.toml"))
SCHEMA = study_schema()
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)


def tables(text: str) -> dict[str, Any]:
    known = "" if "[search]" in text else "\n[search]\nlearning_rate = [0.1]"
    return tomllib.loads(text + known)


def test_the_shipped_schema_is_the_one_of_the_sections(capsys: pytest.CaptureFixture[str]) -> None:
    """Written anew by `hpsearch schema > hpsearch/study/study.schema.json`."""
    assert SHIPPED.read_text(encoding="utf-8") == schema_text()
    assert run(["schema"]) == 0
    assert capsys.readouterr().out == schema_text()


def test_it_is_a_schema_of_draft_7() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_every_study_is_valid_and_names_it_first(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    VALIDATOR.validate(tomllib.loads(text))
    word, named = text.splitlines()[0].split()
    assert word == "#:schema"
    assert (path.parent / named).resolve() == SHIPPED


@pytest.mark.parametrize("title", FRAGMENTS)
def test_every_fragment_is_valid(title: str) -> None:
    VALIDATOR.validate(laid_over_digits(FRAGMENTS[title]))


RIGHT = [
    '[study]\ntimeout = "2h"\n[data]\ndataset = "digits"',
    '[data]\ndataset = "digits"\nimage_size = "none"\nrange = [0, 4095]',
    '[data]\ndataset = "digits"\n[train]\nbatch_size = "full"\nclip_norm = "none"',
    '[data]\ndataset = "digits"\n[search]\n"model.args.width" = { low = 8, high = 16 }',
    '[data]\ndataset = "digits"\n[search]\n"train.clip_norm" = ["none", 1.0]\nepochs = { choices = [1, 2] }',
    '[data]\ndataset = "digits"\naugment = [{ name = "crop" }]\n[search]\n"data.augment.crop.padding" = [0, 1]',
    '[data]\ndataset = "digits"\n[early_stopping]\ncriterion = [{ name = "gl", alpha = 2.0 }]',
    '[data]\ndataset = "digits"\n[pruner]\nname = "asha"\nreduction_factor = 4',
]
WRONG = {
    "an unknown table": '[data]\ndataset = "digits"\n[modle]',
    "an unknown field": '[data]\ndataset = "digits"\nsize = 3',
    "no search": None,
    "an empty search": '[data]\ndataset = "digits"\n[search]',
    "a field that is not searchable": '[data]\ndataset = "digits"\n[search]\n"train.loss" = ["mse"]',
    "a range of words": '[data]\ndataset = "digits"\n[search]\n"train.optimizer" = { low = 1, high = 2 }',
    "an unknown choice": '[data]\ndataset = "digits"\n[search]\n"train.optimizer" = ["sdg"]',
    "a choice that is listed twice": '[data]\ndataset = "digits"\n[search]\nbatch_size = [8, 8]',
    "a range without an end": '[data]\ndataset = "digits"\n[search]\nepochs = { low = 1 }',
    "parts of an epoch": '[data]\ndataset = "digits"\n[search]\nepochs = { low = 1, high = 2.5 }',
    "a text for a number": '[data]\ndataset = "digits"\n[train]\nepochs = "5"',
    "a number that is too small": '[data]\ndataset = "digits"\n[train]\nlearning_rate = 0',
    "no duration": '[study]\ntimeout = "two hours"\n[data]\ndataset = "digits"',
    "an unknown transform": '[data]\ndataset = "digits"\naugment = [{ name = "flop" }]',
    "a transform's unknown parameter": '[data]\ndataset = "digits"\naugment = [{ name = "flip", padding = 1 }]',
    "a field of another criterion": '[data]\ndataset = "digits"\n[early_stopping]\ncriterion = "gl"\npatience = 3',
    "a criterion's field beside a list": '[data]\ndataset = "digits"\n[early_stopping]\npatience = 3\n'
    'criterion = [{ name = "gl" }]',
    "a field that no criterion is there for": '[data]\ndataset = "digits"\n[early_stopping]\ncriterion = "none"\n'
    "epochs = 3",
    "patience of nothing": '[data]\ndataset = "digits"\n[early_stopping]\npatience = 0',
    "a field without a pruner": '[data]\ndataset = "digits"\n[pruner]\nmin_epochs = 2',
}


@pytest.mark.parametrize("text", RIGHT)
def test_what_is_right_is_accepted_by_both(text: str) -> None:
    parse_study(tables(text))
    VALIDATOR.validate(tables(text))


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_refused_by_both(name: str) -> None:
    text = WRONG[name]
    tree = {"data": {"dataset": "digits"}} if text is None else tables(text)
    with pytest.raises(StudyFileError):
        parse_study(tree)
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(tree)


def test_fields_are_described_in_their_own_words() -> None:
    table = SCHEMA["$defs"]["TrainSpec"]["properties"]
    assert table["learning_rate"]["description"].startswith("Size of a step against the gradient.")
    assert SCHEMA["$defs"]["Flip"]["properties"]["p"]["description"].startswith("probability that an image")
    assert json.dumps(SCHEMA).count('"description"') > 100
