"""Tables of labels as people have them: names with a prefix, and a column that says which part a picture is in."""

from pathlib import Path
from typing import Any

import pytest

from hpsearch.errors import DataError, StudyFileError
from hpsearch.results.commands.proposal import propose
from hpsearch.study import DataSpec, parse_study
from hpsearch.training.data import TrainingData, load
from hpsearch.training.data.assembly import assemble, open_cache
from hpsearch.training.data.inspection import Labels, inspect_folder
from tests.training.data.pictures import noise, save

PARTS = ("train", "train", "val", "test")


def write(root: Path, prefix: str = "/mnt/scans/", parts: tuple[str, ...] = PARTS, count: int = 24) -> Path:
    """Writes pictures, and a table that names them with a prefix."""
    lines = ["path,kind,part"]
    for number in range(count):
        save(root / "a" / f"{number:02d}.png", noise(number, 8, 8))
        lines.append(f"{prefix}a/{number:02d}.png,{'xy'[number % 2]},{parts[number // 2 % len(parts)]}")
    (root / "table.csv").write_text("\n".join(lines), encoding="utf-8")
    return root


def table(root: Path, **fields: Any) -> DataSpec:
    known = {
        "dataset": "folder",
        "root": str(root),
        "labels": "table.csv",
        "file_column": "path",
        "label_column": "kind",
        "split_column": "part",
        "strip": "/mnt/scans",
    }
    return DataSpec.model_validate({**known, **fields})


def loaded(root: Path, **fields: Any) -> TrainingData:
    return load(table(root, **fields), cache=root.parent / "cache")


def test_the_prefix_is_removed_and_the_column_gives_the_parts(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    facts = loaded(root).facts
    assert (facts.train, facts.val, facts.test) == (12, 6, 6)
    assert facts.classes == ("x", "y")
    found = assemble(table(root), None, tmp_path / "cache")
    names = [Path(found.catalogue.name(row)).stem for row in found.rows.test.tolist()]
    assert sorted(map(int, names)) == [number for number in range(24) if number // 2 % 4 == 3]


@pytest.mark.parametrize("strip", ["C:\\scans", "C:\\scans\\", "C:/scans"])
def test_a_prefix_that_windows_wrote_is_removed(tmp_path: Path, strip: str) -> None:
    facts = loaded(write(tmp_path / "set", prefix="C:\\scans\\"), strip=strip).facts
    assert (facts.train, facts.val, facts.test) == (12, 6, 6)


def test_without_a_val_in_the_column_it_is_cut_from_training(tmp_path: Path) -> None:
    root = write(tmp_path / "set", parts=("train", "train", "train", "Test"))
    facts = loaded(root, split={"train": 0.5, "val": 0.5, "test": 0.0}).facts
    assert (facts.train + facts.val, facts.test) == (18, 6)
    assert facts.val == 9


@pytest.mark.parametrize(
    ("fields", "parts", "message"),
    [
        (
            {"strip": "/mnt/other"},
            PARTS,
            r'data\.strip: no name in .*table\.csv begins with "/mnt/other"; the first is',
        ),
        (
            {"strip": None},
            PARTS,
            r"which is not in .* the names are relative to data\.root, and data\.strip says",
        ),
        ({"strip": ""}, PARTS, r"names /mnt/.*, which is not in"),
        ({"split_column": "prat"}, PARTS, r'data\.split_column: .*"prat"'),
        (
            {},
            ("train", "vla"),
            r'data\.split_column: .*row 4 says "vla" in part; known are train, training, val',
        ),
        ({}, ("val", "test"), r"data\.split_column: .*says train of no file in part"),
    ],
)
def test_a_wrong_table_is_refused(
    tmp_path: Path, fields: dict[str, Any], parts: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        loaded(write(tmp_path / "set", parts=parts), **fields)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"dataset": "folder", "split_column": "part"},
            "split_column is about a table of labels, and none is named",
        ),
        ({"dataset": "folder", "strip": "/mnt"}, "strip is about a table of labels"),
    ],
)
def test_a_column_without_a_table_is_refused(data: dict[str, str], message: str) -> None:
    with pytest.raises(StudyFileError, match=message):
        parse_study({"study": {"name": "s"}, "data": data, "search": {"learning_rate": [0.1]}})


def test_data_of_another_kind_refuse_them(tmp_path: Path) -> None:
    (tmp_path / "table.csv").touch()
    with pytest.raises(DataError, match=r"data\.labels"):
        load(DataSpec(dataset="digits", labels="table.csv", strip="/mnt"), cache=tmp_path / "cache")


def test_init_finds_prefix_and_parts(tmp_path: Path) -> None:
    root = write(tmp_path / "set", count=40)
    seen = inspect_folder(root, open_cache(DataSpec(), tmp_path / "cache"))
    assert seen.labels == Labels("table.csv", "path", "kind", "part", "/mnt/scans/")
    assert seen.official
    found = propose(root, 0.01, tmp_path / "cache", workers=1)
    assert 'split_column = "part"' in found.text
    assert (found.facts.train, found.facts.val, found.facts.test) == (20, 10, 10)


def lines(root: Path, name: str, *rows: str) -> None:
    (root / name).write_text("\n".join(("path,kind", *rows)), encoding="utf-8")


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """Pictures in a folder of their own, named without their suffix by three tables."""
    root = tmp_path / "set"
    for number in range(24):
        save(root / "images" / f"{number:02d}.png", noise(number, 8, 8))
    for place, (name, first, last) in enumerate(
        (("train.csv", 0, 14), ("val_labels.csv", 14, 19), ("Test.csv", 19, 24))
    ):
        lines(root, name, *(f"{row:02d},{'xy'[(row + place) % 2]}" for row in range(first, last)))
    return root


TABLES = ("train.csv", "val_labels.csv", "Test.csv")


def test_several_tables_are_the_parts_and_names_are_completed(several: Path) -> None:
    given = table(several, labels=TABLES, prefix="images/", split_column=None, strip=None)
    found = assemble(given, None, several.parent / "cache")
    assert [len(part) for part in (found.rows.train, found.rows.val, found.rows.test)] == [14, 5, 5]
    assert sorted(found.catalogue.name(row) for row in found.rows.test.tolist())[0] == "images/19.png"
    facts = load(given, cache=several.parent / "cache").facts
    assert any("names in train.csv lack their suffix (.png)" in note for note in facts.notes)


def test_tables_that_say_no_part_are_put_together(several: Path) -> None:
    for place, name in enumerate(TABLES):
        (several / name).rename(several / f"batch{place}.csv")
    names = [f"batch{place}.csv" for place in range(3)]
    facts = loaded(several, labels=names, prefix="images/", split_column=None, strip=None).facts
    assert facts.train + facts.val + facts.test == 24
    assert (facts.train, facts.val, facts.test) == (20, 2, 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": ("train.csv", "other.csv")}, r"train\.csv says a part and other\.csv none"),
        ({"labels": ("val_labels.csv", "Test.csv")}, "none of .* is called train"),
        ({"split_column": "kind"}, r'split_column is "kind", and the names of the tables'),
        (
            {"labels": ("train.csv", "train2.csv")},
            r"03\.png is named in .*train\.csv, row 5 and in .*2\.csv, row 2",
        ),
        ({"prefix": None}, r'images/00\.png is there, and prefix = "images/" would find it'),
        ({"prefix": "picture/"}, r"which is not in"),
        ({"labels": ("train.csv", "test_gap.csv")}, r'test_gap\.csv, row 3 has no "kind"'),
    ],
)
def test_tables_that_do_not_fit_are_refused(several: Path, fields: dict[str, Any], message: str) -> None:
    lines(several, "other.csv", "01,x")
    lines(several, "train2.csv", "03,x", "04,y")
    lines(several, "test_gap.csv", "21,x", "22,")
    for path in several.glob("*.csv") if fields.get("prefix", "") is None else ():
        path.write_text(path.read_text().replace(",", ".png,").replace("path.png", "path"))
    given = {"labels": TABLES, "prefix": "images/", "split_column": None, "strip": None} | fields
    with pytest.raises(DataError, match=message):
        loaded(several, **given)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"labels": ["a.csv", "a.csv"]}, '"a.csv" is listed twice'),
        ({"labels": []}, "the list is empty"),
        ({"prefix": "images/"}, "prefix is about a table of labels"),
    ],
)
def test_a_list_of_tables_that_means_nothing_is_refused(data: dict[str, Any], message: str) -> None:
    tree = {"study": {"name": "s"}, "data": {"dataset": "folder", **data}, "search": {"learning_rate": [0.1]}}
    with pytest.raises(StudyFileError, match=message):
        parse_study(tree)


def test_init_finds_several_tables_prefix_and_completion(several: Path) -> None:
    seen = inspect_folder(several, open_cache(DataSpec(), several.parent / "cache"))
    files = ("Test.csv", "train.csv", "val_labels.csv")
    assert seen.labels == Labels(files, "path", "kind", prefix="images/")
    assert seen.official
    found = propose(several, 0.01, several.parent / "cache", workers=1)
    assert 'labels = ["Test.csv", "train.csv", "val_labels.csv"]' in found.text
    assert 'prefix = "images/"' in found.text
    assert (found.facts.train, found.facts.val, found.facts.test) == (14, 5, 5)
