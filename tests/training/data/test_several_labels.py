"""Images that may have several labels, or none: tables of them, and a split that keeps the rare ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpsearch.errors import DataError, StudyFileError
from hpsearch.results.commands.proposal import propose
from hpsearch.study import DataSpec, parse_study
from hpsearch.study.data import Split
from hpsearch.training.data import TrainingData, load
from hpsearch.training.data.arrays import ArrayImages
from hpsearch.training.data.assembly import assemble, open_cache
from hpsearch.training.data.catalogue import FREE, Catalogue
from hpsearch.training.data.inspection import inspect_folder
from hpsearch.training.data.splits import folded, split
from tests.materials import write_mosaics
from tests.training.data.pictures import noise, save

DIGITS = tuple("0123456789")


@pytest.fixture(scope="module")
def mosaics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several") / "mosaics"
    write_mosaics(folder, 150)
    return folder


def loaded(root: Path, **fields: Any) -> TrainingData:
    known = {"dataset": "folder", "root": str(root), "labels": "labels.csv", "label_column": "digits"}
    return load(DataSpec.model_validate(known | fields), cache=root.parent / "cache")


def test_joined_names_and_columns_of_0_and_1_say_the_same(mosaics: Path) -> None:
    joined = loaded(mosaics, label_separator="|")
    columns = [f"has_{digit}" for digit in DIGITS]
    listed = loaded(mosaics, label_column=columns, task="multilabel")
    assert joined.facts.task == listed.facts.task == "multilabel"
    assert joined.facts.classes == DIGITS
    assert listed.facts.classes == tuple(columns)
    assert np.array_equal(joined.training_targets.numpy(), listed.training_targets.numpy())
    assert joined.facts.class_counts == tuple(int(count) for count in joined.training_targets.sum(0))
    assert any("labels an image on average" in note and "without any" in note for note in joined.facts.notes)


def notes_of(folder: Path, *labels: str) -> tuple[str, ...]:
    """Returns what is noted of 36 pictures that are labelled by turns."""
    rows = ["file,label"]
    for number in range(36):
        save(folder / f"{number}.png", noise(number))
        rows.append(f"{number}.png,{labels[number % len(labels)]}")
    (folder / "labels.csv").write_text("\n".join(rows), encoding="utf-8")
    return tuple(loaded(folder, label_column="label", label_separator="|").facts.notes)


def test_labels_of_as_many_images_are_not_told_apart_by_their_counts(tmp_path: Path) -> None:
    notes = notes_of(tmp_path / "photos", "a|b", "b|c", "a|c")
    assert "3 labels, each of 24 images; 2 labels an image on average" in notes


def test_the_order_of_labels_is_said_of_labels(tmp_path: Path) -> None:
    notes = notes_of(tmp_path / "photos", "c1|c1", "c2|c1", "c10|c1")
    (said,) = [note for note in notes if "in the order of their characters" in note]
    assert said.startswith("labels are in the order")
    assert 'label 1 is "c10" and not "c2"' in said


def test_the_column_of_parts_is_kept(mosaics: Path) -> None:
    facts = loaded(mosaics, label_separator="|", split_column="part").facts
    assert (facts.train, facts.val, facts.test) == (90, 30, 30)


def test_the_split_on_record_names_the_labels(mosaics: Path) -> None:
    spec = DataSpec(
        dataset="folder", root=str(mosaics), labels="labels.csv", label_column="digits", label_separator="|"
    )
    found = assemble(spec, None, mosaics.parent / "cache").catalogue
    rows = dict(line.split(",")[:2] for line in (mosaics / "labels.csv").read_text().splitlines()[1:])
    assert all(found.labels_of(row) == rows[found.name(row)] for row in range(len(found)))


def tabled(root: Path, text: str) -> Path:
    for name in "abcdefgh":
        save(root / f"{name}.png", noise(ord(name), 8, 8))
    (root / "labels.csv").write_text(text, encoding="utf-8")
    return root


ROWS = "file,x,y,z\n" + "".join(
    f"{name}.png,{place % 2},{1 - place // 4},1\n" for place, name in enumerate("abcdefgh")
)
COLUMNS = {"label_column": "x,y,z", "task": "multilabel"}


@pytest.mark.parametrize(
    ("text", "fields", "message"),
    [
        (
            ROWS.replace("b.png,1", "b.png,-1"),
            COLUMNS,
            r'the label "x" of b\.png is "-1", neither 0 nor 1; correct',
        ),
        (ROWS.replace("b.png,1", "b.png,"), COLUMNS, r'row 3 has no "x"'),
        (ROWS.replace(",1\n", ",0\n"), COLUMNS, r'no image has the label "z"; remove its column'),
        (
            ROWS,
            {"label_column": "x", "task": "multilabel"},
            "each image has one value; name a column of 0 and 1",
        ),
        (
            "file,label\n" + "".join(f"{n}.png,x\n" for n in "abcdefgh"),
            {"label_separator": "|"},
            "only the label x",
        ),
        (
            "file,label\n" + "".join(f"{n}.png,\n" for n in "abcdefgh"),
            {"label_separator": "|"},
            "holds no labels",
        ),
    ],
)
def test_labels_that_cannot_be_read_are_refused(
    tmp_path: Path, text: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        loaded(tabled(tmp_path / "set", text), **{"label_column": "label"} | fields)


def test_columns_of_0_and_1_without_a_task_stay_numbers_and_that_is_said(tmp_path: Path) -> None:
    facts = loaded(tabled(tmp_path / "set", ROWS), label_column="x,y,z").facts
    assert facts.task == "regression"
    assert any('data.task = "multilabel"' in note for note in facts.notes)


def test_columns_of_which_one_is_true_are_classes_by_their_names(tmp_path: Path) -> None:
    text = "file,cat,dog\n" + "".join(
        f"{name}.png,{('True,False', 'False,True')[place % 2]}\n" for place, name in enumerate("abcdefgh")
    )
    root = tabled(tmp_path / "set", text)
    facts = loaded(
        root, label_column="cat,dog", task="classification", split={"train": 0.5, "val": 0.25, "test": 0.25}
    ).facts
    assert (facts.task, facts.classes) == ("classification", ("cat", "dog"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"label_separator": "|"}, "label_separator is about a table of labels"),
        (
            {"labels": "l.csv", "label_column": "a,b", "label_separator": "|"},
            "label_column names 2; remove one",
        ),
        (
            {"labels": "l.csv", "label_separator": "|", "task": "regression"},
            'task is "regression"; remove one',
        ),
    ],
)
def test_fields_that_exclude_each_other_are_refused(data: dict[str, Any], message: str) -> None:
    tree = {"study": {"name": "s"}, "data": {"dataset": "folder", **data}, "search": {"learning_rate": [0.1]}}
    with pytest.raises(StudyFileError, match=message):
        parse_study(tree)


def test_class_folders_have_no_several_labels(tmp_path: Path) -> None:
    for name in "abcd":
        save(tmp_path / "set" / name / "1.png", noise(ord(name), 8, 8))
    with pytest.raises(DataError, match=r"list the labels of each image in a CSV named by data\.labels"):
        load(
            DataSpec(dataset="folder", root=str(tmp_path / "set"), task="multilabel"),
            cache=tmp_path / "cache",
        )


def catalogue(hot_NK: np.ndarray, groups: np.ndarray | None = None) -> Catalogue:
    count, labels = hot_NK.shape
    return Catalogue(
        ArrayImages("npy", [], "HW", 1, (2, 2), "uint8"),
        hot_NK.astype(np.float32),
        tuple(f"l{place}" for place in range(labels)),
        np.full(count, FREE, np.int8),
        np.zeros((count, 16), np.uint8),
        groups,
    )


@pytest.mark.parametrize("seed", range(8))
def test_rare_labels_are_in_every_part_and_common_ones_in_their_share(seed: int) -> None:
    rng = np.random.default_rng(seed)
    hot_NK = rng.random((400, 8)) < np.array([0.6, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01])
    hot_NK[:3, 7], hot_NK[3:, 7] = True, False
    rows = split(catalogue(hot_NK), Split(train=0.7, val=0.15, test=0.15, seed=seed))
    parts = {"train": rows.train, "val": rows.val, "test": rows.test}
    assert sorted(np.concatenate([*parts.values()]).tolist()) == list(range(400))
    for name, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
        counts_K = hot_NK[parts[name]].sum(0)
        assert (counts_K > 0).all()
        asked_K = share * hot_NK.sum(0)
        assert (np.abs(counts_K - asked_K) <= np.maximum(2, 0.1 * asked_K)).all()


def test_a_label_of_two_images_is_for_training(tmp_path: Path) -> None:
    hot_NK = np.random.default_rng(0).random((60, 3)) < 0.5
    hot_NK[:, 2] = np.arange(60) < 2
    rows = split(catalogue(hot_NK), Split(train=0.6, val=0.2, test=0.2))
    assert hot_NK[rows.train, 2].sum() == 2


def test_groups_of_several_labels_stay_whole_and_balanced() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 5)
    hot_NK = rng.random((300, 4)) < np.array([0.5, 0.3, 0.2, 0.0]) + 0.02
    rows = split(catalogue(hot_NK, groups), Split(train=0.6, val=0.2, test=0.2))
    assert not {*groups[rows.train]} & {*groups[rows.val]}
    assert abs(len(rows.val) - 60) <= 10
    assert (np.abs(hot_NK[rows.val].mean(0) - hot_NK.mean(0)) < 0.08).all()


@pytest.mark.parametrize("tied", [False, True])
def test_folds_of_several_labels_share_every_label(tied: bool) -> None:
    rng = np.random.default_rng(0)
    hot_NK = rng.random((203, 4)) < np.array([0.6, 0.3, 0.1, 0.0]) + 0.03
    data = catalogue(hot_NK, np.arange(203) // 3 if tied else None)
    spec = Split(train=0.7, val=0.1, test=0.2, folds=5)
    found = folded(data, split(data, spec), spec)
    counts_FK = np.array([hot_NK[rows.val].sum(0) for rows in found])
    assert np.ptp([len(rows.val) for rows in found]) <= (6 if tied else 3)
    assert np.ptp(counts_FK, axis=0).max() <= (6 if tied else 2)
    assert tied or (counts_FK > 0).all()


def test_a_small_subset_keeps_every_label(mosaics: Path) -> None:
    whole = loaded(mosaics, label_separator="|")
    small = whole.at(DataSpec(dataset="folder", root=str(mosaics), subset=0.2, image_size=None))
    assert 20 <= len(small.train) <= 35
    assert (small.class_counts > 0).all()


def test_init_proposes_joined_labels(mosaics: Path) -> None:
    seen = inspect_folder(mosaics, open_cache(DataSpec(), mosaics.parent / "cache"))
    assert seen.labels is not None
    assert (seen.labels.task, seen.labels.columns) == (
        "multilabel",
        tuple(f"has_{digit}" for digit in DIGITS),
    )
    assert len(seen.classes) == 10
    found = propose(mosaics, 0.01, mosaics.parent / "cache", workers=1)
    for line in ('task = "multilabel"', 'loss = "binary_cross_entropy"', 'metric = "val_average_precision"'):
        assert line in found.text
    assert found.facts.task == "multilabel"


@pytest.mark.parametrize(
    ("header", "values", "separator"),
    [
        (
            "tags",
            [
                "haze primary",
                "clear",
                "clear road primary",
                "haze",
                "clear",
                "clear primary",
                "haze road",
                "road",
            ],
            " ",
        ),
        ("labels", ["cat;dog", "cat", "dog", "", "cat;bird", "bird", "cat", "dog"], ";"),
        ("label", ["cat|dog", "cat", "dog", "cat", "cat|bird", "bird", "cat", "dog"], "|"),
        ("label", ["white cat", "cat", "dog", "cat", "white cat", "dog", "cat", "dog"], None),
    ],
)
def test_init_sees_what_stands_between_labels(
    tmp_path: Path, header: str, values: list[str], separator: str | None
) -> None:
    rows = "".join(f"{name}.png,{value}\n" for name, value in zip("abcdefgh", values, strict=True))
    root = tabled(tmp_path / "set", f"file,{header}\n{rows}")
    seen = inspect_folder(root, open_cache(DataSpec(), tmp_path / "cache"))
    assert seen.labels is not None
    assert (seen.labels.label_column, seen.labels.separator) == (header, separator)
