"""What lies in a folder: parts by any spelling, links, names, files that are left out, tables of labels."""

import os
from pathlib import Path

import pytest

from hpsearch.errors import DataError
from hpsearch.study.checks import DataFacts
from hpsearch.study.data import DataSpec
from hpsearch.training.data import load
from tests.training.data.pictures import day_and_night, noise, save


def facts(root: Path, **fields: object) -> DataFacts:
    spec = DataSpec.model_validate({"dataset": "folder", "image_size": 8, **fields})
    return load(spec, root=str(root), cache=root.parent / "cache").facts


def with_table(root: Path, rows: list[str], count: int = 20, suffix: str = "png") -> Path:
    """Makes pictures `0.png` ... and a table of these rows."""
    for number in range(count):
        saved = save(
            root / f"{number}.jpg" if suffix == "jfif" else root / f"{number}.{suffix}", noise(number)
        )
        saved.rename(saved.with_suffix(f".{suffix}"))
    (root / "labels.csv").write_text("\n".join(["file,label", *rows]))
    return root


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Train", "Valid", "Test"),
        ("training", "validation", "testing"),
        ("TRAIN", "VAL", "Testing"),
        ("Training", None, "test"),
    ],
)
def test_parts_are_known_by_any_spelling(tmp_path: Path, train: str, val: str | None, test: str) -> None:
    root = tmp_path / "photos"
    for seed, (prefix, count) in enumerate({train: 18, val: 5, test: 7}.items()):
        if prefix:
            day_and_night(root, count, prefix=prefix, seed=10_000 * seed)
    found = facts(root)
    assert found.classes == ("day", "night")
    assert (found.train, found.val, found.test) == ((36, 10, 14) if val else (32, 4, 14))


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train/day", "train/night", "test/day", "test/night", "extra/day"), "test, train beside extra"),
        (("Train/day", "Train/night", "extra/day"), "Train beside extra"),
        (("day", "night", "test"), "test beside day, night"),
        (("test/day", "test/night", "val/day"), "test, val and no folder train"),
        (("train/day", "Training/day"), "Training and train, which are one part"),
        (("train", "test"), "test/0.png lies in no class folder"),
        (("day/train", "day/test", "night/train"), "day/test is a part within a class"),
    ],
)
def test_parts_and_classes_are_not_mixed(tmp_path: Path, folders: tuple[str, ...], message: str) -> None:
    for seed, folder in enumerate(folders):
        for number in range(5):
            save(tmp_path / "photos" / folder / f"{number}.png", noise(100 * seed + number))
    with pytest.raises(DataError, match=message):
        facts(tmp_path / "photos")


def test_a_class_called_train_is_mentioned(tmp_path: Path) -> None:
    for name in ("train", "tram"):
        for number in range(10):
            save(tmp_path / "photos" / name / f"{number}.png", noise(number + 100 * len(name)))
    found = facts(tmp_path / "photos")
    assert found.classes == ("train", "tram")
    assert any('the folder "train" is taken for a class' in note for note in found.notes)


def test_a_table_keeps_official_parts(tmp_path: Path) -> None:
    root, rows = tmp_path / "photos", []
    for part, count in {"Train": 16, "test": 6}.items():
        for number in range(count):
            save(root / part / f"{number}.png", noise(number + 100 * len(part)))
            rows.append(f"{part}/{number}.png,{'ab'[number % 2]}")
    (root / "labels.csv").write_text("\n".join(["file,label", *rows]))
    found = facts(root, labels="labels.csv")
    assert (found.train + found.val, found.test) == (16, 6)


def test_links_to_class_folders_are_followed(tmp_path: Path) -> None:
    day_and_night(tmp_path / "elsewhere", 10)
    root = tmp_path / "photos"
    root.mkdir()
    for name in ("day", "night"):
        (root / name).symlink_to(tmp_path / "elsewhere" / name)
    (root / "day" / "again").symlink_to(root)  # a ring, which must not be walked for ever
    found = facts(root)
    assert (found.classes, found.train + found.val + found.test) == (("day", "night"), 20)


def test_a_folder_called_like_a_picture_is_a_folder(tmp_path: Path) -> None:
    root = day_and_night(tmp_path / "photos", 10)
    save(root / "day" / "album.png" / "more.png", noise(999))
    found = facts(root)
    assert found.train + found.val + found.test == 21


def test_a_broken_link_is_an_unreadable_picture(tmp_path: Path) -> None:
    root = day_and_night(tmp_path / "photos", 10)
    (root / "day" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"day/gone\.png cannot be read.*link.*skip_unreadable"):
        facts(root)
    found = facts(root, skip_unreadable=True)
    assert any("1 unreadable file skipped: day/gone.png" in note for note in found.notes)


@pytest.mark.parametrize("place", [b"d\xe4y/1.png", b"day/m\xe4rz.png"])
def test_names_that_are_not_utf8_are_told(tmp_path: Path, place: bytes) -> None:
    root = day_and_night(tmp_path / "photos", 10)
    path = os.path.join(os.fsencode(root), place)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write((root / "day" / "000.png").read_bytes())
    with pytest.raises(DataError, match=r"data\.root: .*\\xe4.*UTF-8; rename"):
        facts(root)


def test_files_of_other_kinds_are_mentioned(tmp_path: Path) -> None:
    root = day_and_night(tmp_path / "photos", 10)
    for name in ("a.heic", "b.heic", "notes.txt"):
        (root / "night" / name).write_text("")
    facts_before = facts(root)
    sentence = "3 files are not pictures by suffix, left out (.heic 2, .txt 1), such as night/a.heic"
    assert any(sentence in note for note in facts_before.notes)
    (root / "day" / "c.heic").write_text("")  # with the catalogue in the cache
    assert any("4 files are not pictures" in note for note in facts(root).notes)
    assert facts(root).digest == facts_before.digest


@pytest.mark.parametrize("suffix", ["jfif", "avif"])
def test_suffixes_that_pillow_reads_are_pictures(tmp_path: Path, suffix: str) -> None:
    for name in ("day", "night"):
        for number in range(6):
            path = tmp_path / "photos" / name / f"{number}.{'jpg' if suffix == 'jfif' else suffix}"
            save(path, noise(number + len(name) * 100)).rename(path.with_suffix(f".{suffix}"))
    assert facts(tmp_path / "photos").classes == ("day", "night")


def test_a_table_may_list_files_of_any_suffix(tmp_path: Path) -> None:
    root = with_table(tmp_path / "photos", [f"{n}.scan,{'ab'[n % 2]}" for n in range(20)], suffix="png")
    for number in range(20):
        (root / f"{number}.png").rename(root / f"{number}.scan")
    before = facts(root, labels="labels.csv")
    assert before.train + before.val + before.test == 20
    save(root / "new.png", noise(77)).rename(root / "3.scan")
    assert facts(root, labels="labels.csv").digest != before.digest


def test_pictures_that_the_table_does_not_list_are_mentioned(tmp_path: Path) -> None:
    root = with_table(tmp_path / "photos", [f"{n}.png,{'ab'[n % 2]}" for n in range(18)])
    found = facts(root, labels="labels.csv")
    sentence = "2 pictures are not in labels.csv and left out, such as 18.png"
    assert any(sentence in note for note in found.notes)
    assert not any("suffix" in note for note in found.notes)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["0.png,", "1.png,a"], r'labels\.csv, row 2 has no "label"; complete'),
        ([",a", "1.png,b"], r'labels\.csv, row 2 has no "file"; complete'),
        (["0.png,a", "1.png,b", "0.png,b"], r'names 0\.png in rows 2 and 4 \("a" and "b"\); keep one'),
        (["0.png,a", "1.png,b", "./0.png,a"], r"names \./0\.png in rows 2 and 4 .*keep one"),
    ],
)
def test_tables_with_gaps_and_contradictions(tmp_path: Path, rows: list[str], message: str) -> None:
    root = with_table(tmp_path / "photos", rows)
    with pytest.raises(DataError, match=message):
        facts(root, labels="labels.csv")


def test_codes_stay_as_they_are_written(tmp_path: Path) -> None:
    root = with_table(tmp_path / "photos", [f"{n}.png,{n % 2 + 9:02d}" for n in range(20)])
    assert facts(root, labels="labels.csv").classes == ("09", "10")


def test_ages_suggest_a_regression(tmp_path: Path) -> None:
    root = with_table(tmp_path / "photos", [f"{n}.png,{20 + n}" for n in range(20)])
    with pytest.raises(DataError, match=r'data\.task = "regression"'):
        facts(root, labels="labels.csv")
    assert facts(root, labels="labels.csv", task="regression").task == "regression"


@pytest.mark.parametrize("content", [b"", b"hello"])
def test_reasons_hold_no_memory_addresses(tmp_path: Path, content: bytes) -> None:
    root = day_and_night(tmp_path / "photos", 10)
    (root / "day" / "broken.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.jpg cannot be read") as caught:
        facts(root)
    assert "0x" not in str(caught.value)
