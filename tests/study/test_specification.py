"""A study's own rules: hparams put in their places, durations, directions, the largest number of epochs."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from hpsearch.study.file import digest, load_study_file, parse_study, stored_form
from hpsearch.study.search import SEARCHABLE, Choices, FloatRange, IntRange
from hpsearch.study.specification import StudySpec
from hpsearch.study.train import ModelSpec, TrainSpec

STUDIES = Path(__file__).parents[2] / "studies"


def study(search: str, rest: str = "", data: str = "") -> StudySpec:
    text = f'{rest}\n[data]\ndataset = "digits"\n{data}\n[search]\n{search}'
    return parse_study(tomllib.loads(text))


def value_at(spec: Any, path: str) -> Any:
    for part in path.split("."):
        spec = spec[part] if isinstance(spec, dict) else getattr(spec, part)
    return spec


@pytest.mark.parametrize(
    ("search", "hparams", "place", "value"),
    [
        ("learning_rate = [0.1]", {"learning_rate": 0.1}, "train.learning_rate", 0.1),
        ("batch_size = [16]", {"batch_size": 16}, "train.batch_size", 16),
        ('batch_size = ["full", 2]', {"batch_size": "full"}, "train.batch_size", "full"),
        ("epochs = { low = 1, high = 9 }", {"epochs": 7}, "train.epochs", 7),
        ('"train.beta2" = { low = 0, high = 0.9 }', {"train.beta2": 0.5}, "train.beta2", 0.5),
        ('"data.image_size" = [8, 16]', {"data.image_size": 16}, "data.image_size", 16),
        ('"model.freeze" = [[], ["a.*"]]', {"model.freeze": '["a.*"]'}, "model.freeze", ("a.*",)),
        ('"model.freeze" = [[], ["a.*"]]', {"model.freeze": "[]"}, "model.freeze", ()),
        ('"model.args.width" = [8, 16]', {"model.args.width": 8}, "model.args.width", 8),
        ('"function.x" = [{ b = 1, a = 2 }]', {"function.x": '{"a": 2, "b": 1}'}, "function.x.b", 1),
    ],
)  # fmt: skip
def test_hparams_go_to_their_places(search: str, hparams: dict[str, Any], place: str, value: Any) -> None:
    spec = study(search)
    placed = spec.with_hparams(hparams)
    assert value_at(placed, place) == value
    assert type(value_at(placed, place)) is type(value)
    assert placed.search == spec.search


def test_a_transforms_parameter_is_found_by_the_transforms_name() -> None:
    spec = study(
        '"data.augment.elastic.alpha" = { low = 10, high = 50 }\n'
        '"data.augment.crop.padding" = { low = 0, high = 4 }',
        data='augment = [{ name = "crop" }, { name = "elastic" }]',
    )  # fmt: skip
    placed = spec.with_hparams({"data.augment.elastic.alpha": 12.5, "data.augment.crop.padding": 1})
    assert placed.data.augment[1].model_dump()["alpha"] == 12.5
    assert placed.data.augment[0].model_dump()["padding"] == 1


def test_a_whole_augmentation_is_put_before_the_parameter_of_a_transform() -> None:
    spec = study('"data.augment.flip.p" = [0.1, 0.9]\n"data.augment" = [[{ name = "flip" }]]',
                 data='augment = [{ name = "flip" }]')  # fmt: skip
    placed = spec.with_hparams({"data.augment.flip.p": 0.9, "data.augment": '[{"name": "flip"}]'})
    assert placed.data.augment[0].p == 0.9


def test_a_field_of_a_stage_is_found_by_the_stages_name() -> None:
    spec = study(
        '"train.stages.head.epochs" = { low = 0.1, high = 0.5 }\n"train.stages.all.rate" = [0.1, 1.0]\n'
        '"train.stages" = [["head", "all"], ["head", { name = "all", rate = 0.5 }]]',
        rest='[train]\nstages = ["head", "all"]\nepochs = 40',
    )
    hparams = {"train.stages.head.epochs": 0.25, "train.stages": '["head", "all"]'}
    placed = spec.with_hparams(hparams | {"train.stages.all.rate": 0.1}).train
    assert [stage.model_dump() for stage in placed.stages] == [
        {"name": "head", "epochs": 0.25, "rate": 1.0},
        {"name": "all", "epochs": None, "rate": 0.1},
    ]
    found = [placed.stage_at(epoch) for epoch in (0, 1, 10, 11, 40)]
    assert [stage and stage.name for stage in found] == ["head", "head", "head", "all", "all"]
    assert spec.written("train.stages.all.rate") == 1.0


@pytest.mark.parametrize(
    ("epochs", "head", "after"),
    [(10, None, 2), (2, None, 1), (3, 0.9, 2), (10, 3, 3), (10, 2.6, 3), (10, 0.01, 1)],
)
def test_the_last_stage_begins(epochs: int, head: float | None, after: int) -> None:
    stages = [{"name": "head"} | ({} if head is None else {"epochs": head}), "all"]
    assert TrainSpec.model_validate({"epochs": epochs, "stages": stages}).last_stage_after == after


@pytest.mark.parametrize(
    ("hparams", "words"),
    [
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"train.optimizer": "adm"}, "adam"),
        ({"model.args.a.b": 1}, 'no table "a"'),
    ],
)
def test_wrong_hparams_are_refused(hparams: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        study("learning_rate = [0.1]").with_hparams(hparams)


@pytest.mark.parametrize(
    ("search", "kind"),
    [
        ("learning_rate = { low = 1, high = 10 }", FloatRange),
        ("epochs = { low = 1, high = 10 }", IntRange),
        ('"model.args.width" = { low = 1, high = 10 }', IntRange),
        ('"model.args.dropout" = { low = 0.0, high = 1 }', FloatRange),
        ('"model.args.width" = { low = 2, high = 10, step = 2 }', IntRange),
        ('"data.augment.elastic.alpha" = { low = 1, high = 10 }', FloatRange),
        ('"data.augment.crop.padding" = { low = 1, high = 10 }', IntRange),
        ("batch_size = [1, 2]", Choices),
    ],
)
def test_a_range_is_whole_where_its_field_is(search: str, kind: type) -> None:
    spec = study(search, data='augment = [{ name = "elastic" }, { name = "crop" }]')
    assert [type(entry) for entry in spec.search.values()] == [kind]


@pytest.mark.parametrize(
    ("search", "rest", "most"),
    [
        ("learning_rate = [0.1]", "", 20),
        ("learning_rate = [0.1]", "[train]\nepochs = 3", 3),
        ("epochs = { low = 2, high = 9 }", "", 9),
        ("epochs = [30, 4]", "", 30),
    ],
)
def test_the_largest_number_of_epochs(search: str, rest: str, most: int) -> None:
    assert study(search, rest).max_epochs == most


@pytest.mark.parametrize(
    ("written", "seconds"), [('"90s"', 90), ('"1.5h"', 5400), ('"2d"', 172800), ("7", 7), ('" 3 m "', 180)]
)
def test_durations(written: str, seconds: float) -> None:
    assert study("epochs = [1]", f"[study]\ntimeout = {written}").study.timeout == seconds


@pytest.mark.parametrize(
    ("section", "better"),
    [
        ("", "minimize"),
        ('metric = "val_macro_f1"', "maximize"),
        ('metric = "x"\ndirection = "maximize"\n[train]\nfunction = "m:f"', "maximize"),
    ],
)  # fmt: skip
def test_directions(section: str, better: str) -> None:
    assert study("epochs = [1]", f"[study]\n{section}").study.better == better


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_study_of_the_project_is_valid(path: Path) -> None:
    assert load_study_file(path).search


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("train.class_weights", "balanced"),
        ("train.ema_decay", 0.9),
        ("train.clip_norm", 1.0),
        ("train.micro_batch", 4),
        ("train.steps_per_epoch", 10),
        ("model.unfreeze_after", 2),
        ("model.weights", "nets/a.safetensors"),
        ("data.image_size", 16),
        ("data.channels", 1),
    ],
)
def test_what_may_be_off_is_searched_off_too(name: str, other: Any) -> None:
    table, field = name.split(".")

    def with_field(value: dict[str, Any]) -> dict[str, Any]:
        data = {"data": {"dataset": "digits"}}
        return data | {table: data.get(table, {}) | value, "search": {name: ["none", other]}}

    tree = with_field({field: other})
    spec = parse_study(tree)
    assert value_at(spec.with_hparams({name: "none"}), name) is None
    assert value_at(spec.with_hparams({name: other}), name) == other
    assert spec.search[name].labels() == ("none", other)  # type: ignore[union-attr]
    assert parse_study(json.loads(stored_form(spec))) == spec
    plain = parse_study(with_field({field: "none"}))
    assert value_at(plain, name) is None
    assert digest(plain) == digest(parse_study(with_field({})))


def test_the_docstrings_say_what_is_not_searchable() -> None:
    fixed = TrainSpec.model_fields.keys() - {name.removeprefix("train.") for name in SEARCHABLE}
    assert fixed == {"loss", "metrics", "args", "tf32", "compile", "threads", "function"}
    assert TrainSpec.__doc__ is not None
    assert all(f"`{name}`" in TrainSpec.__doc__ for name in fixed)
    assert ModelSpec.model_fields.keys() - {name.removeprefix("model.") for name in SEARCHABLE} == {"args"}


def test_accuracy_is_understood_as_what_the_error_leaves() -> None:
    tables = {"data": {"dataset": "digits"}, "search": {"learning_rate": [0.1]}}
    study = {"metric": "accuracy", "direction": "maximize", "target_value": 0.95}
    spec = parse_study(tables | {"study": study, "early_stopping": {"metric": "val_acc"}})
    assert (spec.study.metric, spec.study.better, spec.study.target_value) == ("val_error", "minimize", 0.05)
    assert spec.early_stopping.metric == "val_error"
    assert parse_study(tables | {"study": {"metrics": ["acc", "macs"]}}).study.metrics == (
        "val_error",
        "macs",
    )


def test_accuracy_of_ones_own_loop_or_metric_stays_what_it_is() -> None:
    search = {"search": {"learning_rate": [0.1]}}
    study = {"study": {"metric": "accuracy", "direction": "maximize", "target_value": 0.95}}
    own = parse_study(search | study | {"train": {"function": "a:b"}})
    assert (own.study.metric, own.study.target_value) == ("accuracy", 0.95)
    metrics = {"val_acc": {"build": "a:b", "direction": "maximize"}}
    ours = parse_study(
        search
        | {"data": {"dataset": "digits"}, "study": {"metric": "val_acc"}, "train": {"metrics": metrics}}
    )
    assert (ours.study.metric, ours.study.better) == ("val_acc", "maximize")
