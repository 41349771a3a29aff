"""What the data decide about a study, and the corners of a search space."""

from typing import Any

import pytest

from hpsearch.errors import StudyFileError
from hpsearch.study.checks import DataFacts, check_study_against, corners, reported
from hpsearch.study.file import parse_study
from hpsearch.study.specification import METRICS, ON_DEMAND, StudySpec

TEN = tuple("0123456789")
DIGITS = DataFacts(1437, 180, 180, TEN, 1, 8, 8, "classification", "a1")
NIGHT = DataFacts(80, 10, 10, ("day", "night"), 3, 32, 48, "classification", "b2")
NUMBERS = DataFacts(80, 10, 10, (), 1, 16, 16, "regression", "c3")


def study(search: dict[str, Any] | None = None, **tables: Any) -> StudySpec:
    data = {"dataset": "digits"} | tables.pop("data", {})
    return parse_study({"data": data, "search": search or {"epochs": [1]}, **tables})


@pytest.mark.parametrize(
    ("facts", "names"),
    [
        (DIGITS, {"val_loss", "val_error", "val_top5_error", "val_macro_f1", *ON_DEMAND}),
        (NIGHT, {"val_loss", "val_error", "val_macro_f1", *ON_DEMAND}),
        (NUMBERS, {"val_loss", "val_mae"}),
    ],
)
def test_reported_metrics(facts: DataFacts, names: set[str]) -> None:
    assert set(reported(facts)) == names
    assert names < METRICS.keys()


def test_a_subset_holds_one_sample_of_each_class_at_least() -> None:
    few = DataFacts(
        68, 7, 7, tuple("abcdefg"), 1, 8, 8, "classification", "d4", class_counts=(9, 9, 10, 10, 10, 10, 10)
    )
    assert [few.trained(share) for share in (0.02, 0.3, 1.0)] == [7, 21, 68]
    check_study_against(study(data={"subset": 0.02}, train={"batch_size": 7}), few)
    with pytest.raises(
        StudyFileError, match=r"8 is larger than the training part of 7 samples that data\.subset"
    ):
        check_study_against(study(data={"subset": 0.02}, train={"batch_size": 8}), few)


CROP = [{"name": "crop", "padding": 20}]


@pytest.mark.parametrize(
    ("facts", "search", "tables", "words"),
    [
        (
            DIGITS,
            {},
            {"study": {"metric": "val_mae"}},
            ['study.metric = "val_mae"', "10 classes", "val_error"],
        ),
        (NIGHT, {}, {"study": {"metric": "val_top5_error"}}, ["study.metric", "2 classes", "val_macro_f1"]),
        (NUMBERS, {}, {"study": {"metric": "val_error"}, "train": {"loss": "mse"}}, ["numbers", "val_mae"]),
        (
            NIGHT,
            {},
            {"early_stopping": {"metric": "val_top5_error"}},
            ['early_stopping.metric = "val_top5_error"', "2 classes"],
        ),
        (NUMBERS, {}, {}, ['train.loss = "cross_entropy" is for classes', "mse, l1, huber"]),
        (NUMBERS, {}, {"train": {"loss": "l1", "label_smoothing": 0.1}}, ["train.label_smoothing is for"]),
        (
            NUMBERS,
            {"train.label_smoothing": {"low": 0.0, "high": 0.2}},
            {"train": {"loss": "l1"}},
            ["search: with train.label_smoothing = 0.2: ", "train.label_smoothing is for classes"],
        ),
        (
            NUMBERS,
            {"train.class_weights": ["balanced"]},
            {"train": {"loss": "l1"}},
            ["train.class_weights is for classes"],
        ),
        (NIGHT, {}, {"train": {"class_weights": [1.0, 2.0, 3.0]}}, ["train.class_weights", "the 2 classes"]),
        (
            NIGHT,
            {"train.class_weights": ["balanced", [1.0, 3.0], [1.0] * 3]},
            {},
            ["search: with train.class_weights = [1.0, 1.0, 1.0]: ", "the 2 classes"],
        ),
        (DIGITS, {}, {"data": {"augment": CROP}}, ["crop.padding is 20", "8 pixels", "less than 8"]),
        (
            DIGITS,
            {"data.augment.crop.padding": {"low": 0, "high": 8}},
            {"data": {"augment": CROP}},
            ["search: with data.augment.crop.padding = 8: ", "less than 8"],
        ),
        (NIGHT, {"data.image_size": [32, 16]}, {"data": {"augment": CROP}}, ["data.image_size = 16", "16"]),
        (
            NIGHT,
            {"data.augment.crop.padding": [2, 10], "data.image_size": [64, 8]},
            {"data": {"augment": CROP}},
            ["with data.augment.crop.padding = 10, data.image_size = 8: "],
        ),
        (
            NIGHT,
            {},
            {"data": {"progressive": [[0.0, 16], [0.5, 32]], "augment": CROP}},
            ["images are 16 pixels"],
        ),
        (DIGITS, {"batch_size": [16, 5000]}, {}, ["search.batch_size: 5000 is larger", "1437"]),
        (
            DIGITS,
            {"data.subset": [0.1, 1.0]},
            {"train": {"batch_size": 150}},
            ["train.batch_size: 150", "144 samples that data.subset = 0.1 leaves of 1437"],
        ),
    ],
)
def test_what_the_data_do_not_suit_is_refused(
    facts: DataFacts, search: dict[str, Any], tables: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(StudyFileError) as caught:
        check_study_against(study(search, **tables), facts)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("facts", "search", "tables"),
    [
        (DIGITS, {}, {"study": {"metric": "val_top5_error"}}),
        (NUMBERS, {}, {"study": {"metric": "val_mae"}, "train": {"loss": "huber"}}),
        (NIGHT, {"train.class_weights": ["balanced", [0.0, 1.0]]}, {}),
        (NIGHT, {"data.image_size": [32, 64]}, {"data": {"augment": CROP}}),
        (DIGITS, {}, {"data": {"augment": [{"name": "crop", "padding": 20, "p": 0.0}]}}),
        (DIGITS, {}, {"train": {"batch_size": "full"}}),
        (NIGHT, {}, {"early_stopping": {"metric": "val_error"}}),
        (NUMBERS, {}, {"train": {"function": "m:f"}, "study": {"metric": "x", "direction": "minimize"}}),
    ],
)
def test_what_the_data_suit_is_not_refused(
    facts: DataFacts, search: dict[str, Any], tables: dict[str, Any]
) -> None:
    check_study_against(study(search, **tables), facts)


def test_every_end_is_a_corner_and_so_are_all_last_ones_together() -> None:
    spec = study(
        {
            "learning_rate": {"low": 0.1, "high": 0.2},
            "model.args.blocks": {"low": 1, "high": 3},
            "model.freeze": [[], ["a.*"], ["b.*"]],
            "model.name": ["cnn"],
        }
    )
    found = [(dict(c.named), c.spec.model) for c in corners(spec, lambda name: name.startswith("model."))]
    assert [(m.args["blocks"], m.freeze) for _, m in found] == [
        (1, ()), (3, ()), (1, ("a.*",)), (1, ("b.*",)), (3, ("b.*",)),
    ]  # fmt: skip
    assert [named for named, _ in found][1:4:2] == [{"model.args.blocks": 3}, {"model.freeze": '["b.*"]'}]
    last = list(corners(spec, lambda name: True))[-1]
    assert last.where == 'search: with learning_rate = 0.2, model.args.blocks = 3, model.freeze = ["b.*"]: '
    assert [corner.where for corner in corners(spec, lambda name: False)] == [""]
