"""From a folder of photographs to a study file, and from there to a model folder."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from PIL import Image

from hpsearch.__main__ import run
from hpsearch.errors import DataError, HpsearchError
from hpsearch.results.commands import auto
from hpsearch.results.commands.auto import BESIDE, SEARCH, fitting, training_seconds, write_study
from hpsearch.results.commands.predict import Prediction, write_predictions
from hpsearch.results.commands.proposal import propose, summary_lines, trials_in_all_time
from hpsearch.results.stored.reading import read_study
from hpsearch.study import DataSpec, load_study_file, parse_study
from hpsearch.study.schema import study_schema
from hpsearch.training.data.assembly import open_cache
from hpsearch.training.data.inspection import Labels, inspect_folder
from tests.materials import write_published, write_snapshots
from tests.scenes import write_clips, write_scenes

pytestmark = pytest.mark.usefixtures("torch_home")


@pytest.fixture(autouse=True)
def one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In an empty folder, with one thread, as workers have."""
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_scenes(tmp_path / "photos", count=60)
    return tmp_path / "photos"


def paint(folder: Path, **counts: int) -> Path:
    """Writes plain pictures, so many of each class."""
    for place, (kind, count) in enumerate(counts.items()):
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            colour = (60 * place, number % 256, 3 * number % 256)
            Image.new("RGB", (40, 32), colour).save(folder / kind / f"{number:03d}.png")
    return folder


def look(folder: Path) -> Any:
    return inspect_folder(folder, open_cache(DataSpec(), folder.parent / "cache"))


def test_class_folders_are_looked_at(photos: Path) -> None:
    seen = look(photos)
    assert (seen.pictures, seen.labels, seen.official, seen.grey) == (62, None, False, False)
    assert seen.classes == {"day": 30, "night": 32}
    assert 48 <= seen.side < 160


def test_a_table_of_labels_is_found_by_its_columns(photos: Path, tmp_path: Path) -> None:
    write_snapshots(tmp_path)
    seen = look(tmp_path / "snapshots")
    assert seen.labels == Labels("labels.csv", "picture", "what")
    assert seen.classes == {"day": 20, "night": 20}
    found = propose(tmp_path / "snapshots", 1, tmp_path / "cache", workers=1)
    assert found.facts.classes == ("day", "night")
    assert "# split.group_by" in found.text  # e00-d0000.jpg, e00-d0005.jpg ...


def test_a_table_of_something_else_is_left_alone(photos: Path) -> None:
    with (photos / "prices.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["what", "costs"], ["film", "3"], ["flash", "9"]])
    assert look(photos).labels is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("picture,what\np0.png,a\np1\0.png,b\n", "holds a NUL character in line 3"),
        ('picture,what\np0.png,a\n"p1.png,b\n', "is there a stray quotation mark?"),
        ("picture,what,what\np0.png,a,a\np1.png,b,b\n", 'has two columns called "what"; rename one'),
        ("picture,what\n", "holds no rows"),
        ("", "holds no rows"),
        (f"picture,what\np0.png,a\np1.png,{'b' * 200_000}\n", "field larger than field limit"),
        ("picture,what\nq0.png,a\nq1.png,b\n", "no column of set/labels.csv names pictures in set"),
        (
            "picture,what\np0.png,a\np1.png,b\n",
            'beside "picture" no column of set/labels.csv has labels that repeat',
        ),
    ],
)
def test_why_a_table_was_passed_over_is_said(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "set").mkdir()
    for name in ("p0.png", "p1.png"):
        Image.new("RGB", (40, 32)).save(tmp_path / "set" / name)
    (tmp_path / "set" / "labels.csv").write_text(content, encoding="utf-8")
    with pytest.raises(
        DataError, match=r"labels.csv.*\. Without a table: .* lies in no class folder"
    ) as caught:
        look(Path("set"))
    assert reason in str(caught.value)


def test_an_official_test_part_is_kept(tmp_path: Path) -> None:
    for part, count in (("train", 20), ("test", 6)):
        paint(tmp_path / "set" / part, red=count, blue=count)
    assert look(tmp_path / "set").official
    found = propose(tmp_path / "set", 1, tmp_path / "cache", workers=1)
    assert found.facts.test == 12
    assert "the pictures' own test part is used" in found.text


def table(folder: Path, header: str, *rows: str) -> None:
    (folder / "metadata.csv").write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")


def test_class_folders_count_more_than_a_table_of_something_else(photos: Path) -> None:
    names = [path.relative_to(photos) for path in sorted(photos.rglob("*.jpg"))]
    table(
        photos,
        "file,camera",
        *(f"{name},{('canon', 'nikon')[place % 2]}" for place, name in enumerate(names)),
    )
    assert look(photos).labels is None


@pytest.mark.parametrize("known", ["dx", "diagnosis", "Label"])
def test_of_several_columns_one_that_is_called_as_labels_are_is_taken(tmp_path: Path, known: str) -> None:
    folder = paint(tmp_path / "set", red=6, blue=6)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*.png"))
    rows = (f"{name},{('a', 'b', 'c')[place % 3]},{place % 2}" for place, name in enumerate(files))
    table(folder, f"image,{known},sex", *rows)
    assert look(folder).labels == Labels("metadata.csv", "image", known)


def test_several_columns_that_may_be_the_labels_are_refused(tmp_path: Path) -> None:
    folder = paint(tmp_path / "set", pictures=12)
    rows = (f"pictures/{place:03d}.png,{place % 3},{place % 2}" for place in range(12))
    table(folder, "image,finding,sex", *rows)
    with pytest.raises(
        DataError,
        match=r'any of the columns "finding" of metadata.csv, "sex" of metadata.csv may be the labels; name the right '
        'one "label"',
    ):
        look(folder)


def test_a_table_that_windows_wrote_is_found_and_its_labels_are_told(tmp_path: Path) -> None:
    folder = paint(tmp_path / "set", pictures=40)
    rows = (f"C:\\data\\pictures\\{place:03d}.png,{('a', 'b')[place % 2]}" for place in range(40))
    table(folder, "image,finding", *rows)
    found = propose(folder, 1, tmp_path / "cache", workers=1)
    assert found.seen.labels == Labels("metadata.csv", "image", "finding", strip="C:/data/")
    assert "  labels: column finding of metadata.csv" in summary_lines(found, Path("study.toml"))


def test_a_column_of_yes_and_no_with_a_slip_of_the_pen_is_told(tmp_path: Path) -> None:
    folder = paint(tmp_path / "set", pictures=40)
    rows = [
        [f"pictures/{place:03d}.png", *(str(place // 2**bit % 2) for bit in range(3))] for place in range(40)
    ]
    rows[16][3] = "O"
    table(
        folder, "image,cat,dog,cow,kilos", *(",".join([*row, str(place)]) for place, row in enumerate(rows))
    )
    found = propose(folder, 1, tmp_path / "cache", workers=1)
    assert found.seen.labels is not None
    assert found.seen.labels.columns == ("cat", "dog")
    said = 'column cow is left out: "O" in row 18 is neither 0 nor 1; correct it if the column is a label'
    assert found.seen.labels.left_out == (said,)
    assert f"  {said}" in summary_lines(found, Path("s.toml"))
    assert f"# {said}" in found.text.splitlines()


@pytest.mark.parametrize(
    "answers",
    [
        [Prediction("{}", {"red": 0.9, "blue": 0.1})],
        [Prediction("{}", {"red": 0.9, "blue": 0.1}, labels=("red",))],
        [Prediction("{}", {}, values=(0.5, 1.5))],
    ],
)
def test_answers_of_a_model_are_no_labels(tmp_path: Path, answers: list[Prediction]) -> None:
    folder = paint(tmp_path / "set", pictures=12)
    files = [f"pictures/{place:03d}.png" for place in range(12)]
    write_predictions([replace(answers[0], file=file) for file in files], folder / "answers.csv")
    with pytest.raises(DataError, match=r'only the class "pictures"'):
        propose(folder, 1, tmp_path / "cache", workers=1)
    for file in files:
        (folder / file).rename(folder / Path(file).name)
    write_predictions([replace(answers[0], file=Path(file).name) for file in files], folder / "answers.csv")
    with pytest.raises(DataError, match=r"answers.csv holds answers of `hpsearch predict`, not labels"):
        look(folder)


def test_the_number_of_workers_goes_by_the_gpus_that_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = paint(tmp_path / "set", red=9, blue=9)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "nvidia-smi").write_text('#!/bin/sh\nfor n in 0 1 2; do echo "GPU $n: H (UUID: GPU-$n)"; done\n')
    (tools / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for gpus, count in (("auto", "3 workers"), ("1", "1 worker"), ("2,0", "2 workers")):
        text = propose(folder, 1, tmp_path / "cache", gpus=gpus).text
        assert f"{count} can train about" in " ".join(text.replace("# ", "").split())
    assert run(["auto", str(folder), "--gpus", "9", "--run-folder", str(tmp_path / "runs")]) == 2


def test_numbers_as_labels_become_a_study_of_numbers(tmp_path: Path) -> None:
    folder = paint(tmp_path / "set", pictures=40)
    table(folder, "image,y", *(f"pictures/{place:03d}.png,{place % 10 + 0.5}" for place in range(40)))
    found = propose(folder, 1, tmp_path / "cache", workers=1)
    spec = parse_study(tomllib.loads(found.text))
    assert spec.train.loss == "mse"
    assert "40 photographs, whose labels are numbers." in found.text
    write_published("mobilenet_v3_small", tmp_path / "torch")
    tuned = parse_study(tomllib.loads(propose(folder, 60, tmp_path / "cache", workers=2).text))
    assert (tuned.model.weights, tuned.train.loss) == ("imagenet", "mse")


@pytest.mark.parametrize(
    ("header", "found"),
    [("image,y", "y"), ("image,angle", "angle"), ("image,y,age", "y"), ("image,angle,dose", "")],
)
def test_a_column_of_numbers_that_never_repeat_is_one_of_labels(
    tmp_path: Path, header: str, found: str
) -> None:
    """It is called as labels are, or the only one beside the names."""
    folder = paint(tmp_path / "set", pictures=12)
    columns = header.count(",")
    rows = (",".join([f"pictures/{place:03d}.png", *[f"{place + 0.37}"] * columns]) for place in range(12))
    table(folder, header, *rows)
    assert look(folder).labels == (Labels("metadata.csv", "image", found) if found else None)


def test_the_folder_in_which_the_classes_lie_is_named(tmp_path: Path) -> None:
    paint(tmp_path / "set" / "data" / "pictures", red=9, blue=9)
    with pytest.raises(
        DataError, match=r'only the class "data".*if those in data/pictures are the classes, name \S+set/data'
    ):
        propose(tmp_path / "set", 1, tmp_path / "cache", workers=1)


def test_the_same_picture_under_two_labels_is_told(tmp_path: Path) -> None:
    folder = paint(tmp_path / "set", red=20, blue=20)
    shutil.copy(folder / "red" / "003.png", folder / "blue" / "again.png")
    found = propose(folder, 1, tmp_path / "cache", workers=1)
    told = [note for note in found.facts.notes if "several labels" in note]
    assert told == [
        "1 image has several labels, such as blue/again.png (blue) and red/003.png (red), which are the same image; "
        "remove the wrong ones"
    ]


def test_that_copies_were_left_out_is_said_where_nothing_else_is_left(tmp_path: Path) -> None:
    for kind in ("red", "blue"):
        (tmp_path / "set" / kind).mkdir(parents=True)
        for number in range(12):
            Image.new("RGB", (40, 32)).save(tmp_path / "set" / kind / f"{number}.png")
    with pytest.raises(
        DataError, match=r'images are in two parts, .* and data.on_duplicates = "drop" leaves them out; then'
    ):
        propose(tmp_path / "set", 1, tmp_path / "cache", workers=1)


def test_a_folder_with_accents_gives_its_letters_to_the_study(tmp_path: Path) -> None:
    found = propose(paint(tmp_path / "Café à côté", red=9, blue=9), 1, tmp_path / "cache", workers=1)
    assert found.name == "Cafe-a-cote"


def test_what_keeps_series_together_only_waits_to_be_uncommented(photos: Path, tmp_path: Path) -> None:
    write_snapshots(tmp_path)
    found = propose(tmp_path / "snapshots", 1, tmp_path / "cache", workers=1)
    said = "the names look like series: split.group_by in s.toml keeps each together"
    assert any(said in line for line in summary_lines(found, Path("s.toml")))
    spec = parse_study(tomllib.loads(found.text.replace("# split.group_by", "split.group_by")))
    assert found.seen.series is not None
    assert spec.data.split.group_by == found.seen.series.pattern
    table = tmp_path / "snapshots" / "labels.csv"
    Image.new("RGB", (40, 32)).save(tmp_path / "snapshots" / "alone.png")
    table.write_text(table.read_text().rstrip() + "\nalone.png,day,1\n")
    assert look(tmp_path / "snapshots").series is None


@pytest.mark.parametrize(
    ("renamed", "together"),
    [
        ("{kind}/{clip}_{frame:04d}.jpg", "{kind}/{clip}"),
        ("{kind}/{clip}/{frame:04d}.jpg", "{kind}/{clip}"),
        (
            "{kind}/{kind}1_{clip[4]}{frame}0.jpg",
            "{kind}/{kind}1_{clip[4]}",
        ),  # one film a class, in hundreds
        ("{kind}/{kind}_{clip[4]}{frame}.jpg", "{kind}/{kind}_{clip[4]}"),  # in tens
    ],
)
def test_frames_that_are_nearly_the_same_stay_together(tmp_path: Path, renamed: str, together: str) -> None:
    write_clips(tmp_path / "films", clips=10 if "[4]" in renamed else 6)
    expected = set()
    for file in sorted((tmp_path / "films").rglob("*.jpg")):
        clip, frame = file.stem.split("_")
        parts = {"kind": file.parent.name, "clip": clip, "frame": int(frame)}
        new = tmp_path / "set" / renamed.format(**parts)
        new.parent.mkdir(parents=True, exist_ok=True)
        file.rename(new)
        expected.add(together.format(**parts))
    found = propose(tmp_path / "set", 1, tmp_path / "cache", workers=1)
    assert found.is_grouped
    pattern = parse_study(tomllib.loads(found.text)).data.split.group_by
    assert pattern is not None
    names = [str(file.relative_to(tmp_path / "set")) for file in (tmp_path / "set").rglob("*.jpg")]
    assert {match[1] for name in names if (match := re.search(pattern, name))} == expected
    said = f"neighbours in {len(expected)} series are nearly the same picture"
    assert said in " ".join(found.text.split())
    assert any(said in line for line in summary_lines(found, Path("s.toml")))


def test_names_alone_keep_nothing_together(tmp_path: Path) -> None:
    write_clips(tmp_path / "films", alike=False)
    found = propose(tmp_path / "films", 1, tmp_path / "cache", workers=1)
    assert not found.is_grouped
    assert "# split.group_by = " in found.text
    for file in (tmp_path / "films").rglob("*.jpg"):
        file.rename(file.with_name(f"{file.parent.name}_{file.stem[4]}{file.stem[-1]}.jpg"))
    assert look(tmp_path / "films").series is None


def test_a_class_is_no_series(tmp_path: Path) -> None:
    """Each class is called like a series; within, no picture is like its neighbour."""
    for number in range(6):
        (tmp_path / "set" / f"cat{number}").mkdir(parents=True)
        for place in range(12):
            colour = (53 * place % 256, 97 * place % 256, 40 * number)
            Image.new("RGB", (40, 32), colour).save(
                tmp_path / "set" / f"cat{number}" / f"cat{number}_{place:03d}.png"
            )
    assert look(tmp_path / "set").series is None


def test_series_that_no_split_can_keep_together_are_told(tmp_path: Path) -> None:
    """Each film shows two classes, and the table gives its frames to two parts."""
    write_clips(tmp_path / "films")
    rows = []
    for file in sorted((tmp_path / "films").rglob("*.jpg")):
        part = "test" if file.stem.endswith("7") else "train"
        rows.append([str(file.relative_to(tmp_path / "films")), file.parent.name, part])
    with (tmp_path / "films" / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "label", "part"], *rows])
    found = propose(tmp_path / "films", 1, tmp_path / "cache", workers=1)
    assert not found.is_grouped
    said = "but no split into parts with all classes keeps them together"
    assert said in " ".join(found.text.replace("# ", "").split())
    assert any(said in line for line in summary_lines(found, Path("s.toml")))


def test_rare_classes_get_a_metric_and_a_weight(tmp_path: Path) -> None:
    found = propose(paint(tmp_path / "set", red=60, blue=12), 0.05, tmp_path / "cache", workers=1)
    spec = parse_study(tomllib.loads(found.text))
    assert spec.study.metric == "val_macro_f1"
    assert "train.sampling" in spec.search
    assert "of the pictures for training, 42 are of the commonest class and 8 of the rarest" in " ".join(
        found.text.replace("# ", "").split()
    )
    even = propose(paint(tmp_path / "even", red=30, blue=30), 1, tmp_path / "cache", workers=1)
    assert parse_study(tomllib.loads(even.text)).study.metric == "val_loss"


def test_the_proposal_gives_reasons_and_is_a_study(photos: Path, tmp_path: Path) -> None:
    found = propose(photos, 2, tmp_path / "cache", workers=2)
    tree = tomllib.loads(found.text)
    jsonschema.Draft7Validator(study_schema()).validate(tree)
    spec = parse_study(tree)
    assert (spec.study.name, spec.study.timeout, spec.model.name, spec.model.weights) == (
        "photos",
        120,
        "cnn",
        None,
    )
    assert spec.data.image_size in (32, 48, 64, 96)
    assert spec.data.image_size == found.network.side
    longest = max(tree["search"]["epochs"].values())
    assert (
        spec.study.trials * longest > 4 * found.network.epochs / found.folds
    )  # so that the time is the limit
    assert "# 1 unreadable file skipped: night/broken.jpg" in found.text
    assert "resnet18 are not on this machine and cannot be downloaded" in " ".join(found.text.split("\n# "))
    assert max(len(line) for line in found.text.splitlines() if "http" not in line) <= 118


@pytest.mark.parametrize("workers", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("minutes", [3, 10, 30])
def test_the_longest_trial_leaves_time_for_what_follows(workers: int, minutes: float) -> None:
    """Half of the time is searched; the longest trial is then refitted, and in longer searches confirmed."""
    searched = SEARCH * (60 * minutes - BESIDE)
    longest = searched * workers / trials_in_all_time(workers, searched / 60)
    rest = fitting(60 * minutes - BESIDE - searched, longest, longest, workers)
    assert rest is not None
    assert rest.refit
    assert bool(rest.top) == (minutes >= 10)


def test_longer_time_allows_larger_pictures(photos: Path, tmp_path: Path) -> None:
    short, long = (propose(photos, minutes, tmp_path / "cache", workers=1) for minutes in (0.05, 600))
    assert short.network.side < long.network.side
    assert long.network.epochs >= 120


def test_few_pictures_are_folded_where_there_is_time(photos: Path, tmp_path: Path) -> None:
    found, quick = (propose(photos, minutes, tmp_path / "cache", workers=1) for minutes in (600, 0.05))
    spec = parse_study(tomllib.loads(found.text))
    assert (found.folds, spec.data.split.folds, spec.checkpoint.keep) == (5, 5, "best")
    assert "few pictures: one validation part would choose by luck" in " ".join(found.text.split())
    assert "5 folds: each trial trains so many models, one for each" in summary_lines(found, Path("s.toml"))
    assert (quick.folds, parse_study(tomllib.loads(quick.text)).data.split.folds) == (1, None)
    assert "folds" not in quick.text


def test_many_pictures_or_few_of_a_class_are_not_folded(tmp_path: Path) -> None:
    many = propose(paint(tmp_path / "many", red=190, blue=190), 600, tmp_path / "cache", workers=1)
    rare = propose(paint(tmp_path / "rare", red=40, blue=4), 600, tmp_path / "cache", workers=1)
    assert (many.folds, rare.folds) == (1, 1)


def test_published_weights_on_the_machine_are_taken(photos: Path, tmp_path: Path) -> None:
    write_published("mobilenet_v3_small", tmp_path / "torch")
    found = propose(photos, 60, tmp_path / "cache", workers=2)
    spec = parse_study(tomllib.loads(found.text))
    assert (spec.model.name, spec.model.weights, spec.data.channels) == ("mobilenet_v3_small", "imagenet", 3)
    assert dict(spec.train.lr_multipliers) == {"classifier.3.*": 10.0}
    assert spec.data.image_size is not None
    assert spec.data.image_size >= 64


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["photos", "--minutes", "0"], "--minutes: must be above 0 and at most 525,600 (a year), got 0"),
        (["photos", "--minutes", "nan"], "--minutes: must be above 0 and at most 525,600 (a year), got nan"),
        (["photos", "--minutes", "inf"], "--minutes: must be above 0 and at most 525,600 (a year), got inf"),
        (
            ["photos", "--minutes", "1e300"],
            "--minutes: must be above 0 and at most 525,600 (a year), got 1e+300",
        ),
        (["photos", "--output", "taken.toml"], "--output: taken.toml already exists; remove it"),
        (["photos", "--output", "study.txt"], '--output: "study.txt" does not end in .toml'),
        (["photos", "--output", "taken.toml/s.toml"], "taken.toml is a file; name another place"),
        (["nowhere"], "/nowhere does not exist; name the folder of the photographs"),
        (["taken.toml"], "FOLDER: taken.toml is a file; name the folder that it lies in"),
        (["alone"], 'holds only the class "red"'),
        (["broken"], "none of the 2 pictures"),
    ],
)
def test_what_cannot_be_proposed_is_refused(
    photos: Path, tmp_path: Path, given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken.toml").touch()
    paint(tmp_path / "alone", red=9)
    for name in ("red", "blue"):
        (tmp_path / "broken" / name).mkdir(parents=True)
        (tmp_path / "broken" / name / "a.jpg").write_bytes(b"no picture")
    assert run(["init", *given]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "study.toml").exists()


def test_names_of_any_letters_become_a_study_file(tmp_path: Path) -> None:
    names = ("a\x1b[2Jb", "c\x7fd", 'e"\\\n#')
    root = tmp_path / "del\x7f"
    paint(root, **dict.fromkeys(names, 12))
    found = propose(root, 1, tmp_path / "cache", workers=1)
    assert parse_study(tomllib.loads(found.text)).data.root == str(root)
    assert found.facts.classes == tuple(sorted(names))


def test_a_column_of_any_letters_becomes_a_study_file(photos: Path, tmp_path: Path) -> None:
    write_snapshots(tmp_path)
    table = tmp_path / "snapshots" / "labels.csv"
    rows = [line.split(",")[:2] for line in table.read_text().replace("what", "wh\x7fat", 1).splitlines()]
    table.write_text("\n".join(map(",".join, rows)))
    found = propose(tmp_path / "snapshots", 1, tmp_path / "cache", workers=1)
    assert parse_study(tomllib.loads(found.text)).data.label_column == "wh\x7fat"


def test_a_folder_whose_name_is_not_utf_8_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = os.fsdecode(b"lat\xe9")
    paint(tmp_path / name, red=9, blue=9)
    assert run(["init", name]) == 2
    assert "lat\\udce9 is not UTF-8, as all in a study file has to be; rename" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["photos", "--minutes", "nan"], "--minutes: must be above 0 and at most 525,600 (a year), got nan"),
        (
            ["nowhere"],
            "FOLDER: nowhere is not the folder of study.toml, which already exists and has data.root = ph",
        ),
    ],
)
def test_a_study_file_of_another_folder_is_not_taken(
    tmp_path: Path, given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study.toml").write_text(STUDY, encoding="utf-8")
    assert run(["auto", *given]) == 2
    assert message in capsys.readouterr().err


def test_a_class_of_one_picture_is_refused_by_the_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="red"):
        write_study(paint(tmp_path / "set", red=1, blue=30), 1, tmp_path / "study.toml", tmp_path / "runs")


START = 12.0  # seconds until a run trains


@pytest.mark.parametrize(
    ("left", "once", "workers", "expected"),
    [
        (1000.0, 10.0, 2, (3, 3)),
        (80.0, 10.0, 2, (2, 3)),
        (70.0, 10.0, 2, (1, 3)),
        (55.0, 10.0, 2, (1, 2)),
        (30.0, 10.0, 2, (0, 0)),  # the refit alone
        (55.0, 10.0, 1, (0, 0)),
        (20.0, 10.0, 2, None),
        (80.0, 10.0, 8, (3, 3)),
    ],
)
def test_as_much_is_confirmed_as_fits(
    left: float, once: float, workers: int, expected: tuple[int, int] | None
) -> None:
    rest = fitting(left, once, once, workers, START)
    assert (rest and (rest.top, rest.repeats)) == expected
    if rest is not None:
        assert rest.refit
        assert rest.seconds <= left


def confirmed(*arguments: float, start: float = START) -> int | None:
    """Returns how many repeats fit, with two workers."""
    rest = fitting(*arguments, 2, start)
    return None if rest is None else rest.top * rest.repeats


def test_a_machine_that_starts_slowly_confirms_less() -> None:
    assert confirmed(110.0, 10.0, 10.0) == 9
    assert confirmed(100.0, 10.0, 10.0, start=30.0) == 3
    assert confirmed(104.0, 10.0, 10.0, start=90.0) == 0
    assert confirmed(100.0, 10.0, 10.0, start=90.0) is None


def test_a_refit_that_ends_at_an_early_epoch_leaves_time_to_confirm() -> None:
    assert confirmed(80.0, 10.0, 10.0) == 6
    assert confirmed(90.0, 10.0, 0.5) == 9


def test_without_a_refit_there_is_more_to_confirm_or_nothing() -> None:
    rest = fitting(55.0, 10.0, None, 2, START)
    assert rest is not None
    assert ((rest.top, rest.repeats), rest.refit) == ((2, 3), False)
    assert fitting(20.0, 10.0, None, 2, START) is None


def test_folds_are_the_repeats_of_each_configuration() -> None:
    rest = fitting(80.0, 10.0, 10.0, 2, folds=5)
    assert rest is not None
    assert (rest.top, rest.repeats) == (1, 5)
    alone = fitting(60.0, 10.0, 10.0, 2, folds=5)
    assert alone is not None
    assert (alone.top, alone.repeats) == (0, 0)


STUDY = """
[study]
name = "views"
trials = 3
[data]
dataset = "folder"
root = "photos"
image_size = 16
skip_unreadable = true
on_duplicates = "drop"
augment = "photo"
[model]
args = { width = 4, hidden = 8 }
[train]
batch_size = 16
[search]
learning_rate = { low = 1e-3, high = 1e-1, log = true }
epochs = [1, 2]
[sampler]
name = "random"
"""


@pytest.mark.slow
@pytest.mark.parametrize("split", ["", "split.folds = 3\n"])
def test_one_command_makes_a_model_folder(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], split: str
) -> None:
    """With a study file that is there already, so that a few short trials are enough."""
    text = STUDY.replace("image_size", f"{split}image_size")
    (tmp_path / "study.toml").write_text(text, encoding="utf-8")
    assert run(["auto", "photos", "--minutes", "20", "--workers", "1", "--gpus", "none"]) == 0
    shown = capfd.readouterr().out
    heads = [line.split()[1] for line in shown.splitlines() if line.startswith("== ")]
    assert heads == ["init", "check", "run", "confirm", "refit", "report", "model"]
    assert {path.name for path in (tmp_path / "model").iterdir()} >= {
        "model.safetensors",
        "model.json",
        "model.md",
    }
    assert (tmp_path / "runs" / "views" / "report.html").is_file()
    record = read_study("views", f"sqlite:///{tmp_path}/runs/hpsearch.db")
    assert record.answer.refit is not None
    assert training_seconds(record) > 0
    assert run(["predict", "model", str(next((photos / "day").glob("*.jpg")))]) == 0
    assert "day" in capfd.readouterr().out


@pytest.mark.slow
def test_models_of_folds_are_not_handed_out_where_there_is_no_time_for_one_of_all_pictures(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(auto, "SLACK", inf)
    text = STUDY.replace("image_size", "split.folds = 3\nimage_size")
    (tmp_path / "study.toml").write_text(text, encoding="utf-8")
    assert run(["auto", "photos", "--minutes", "2", "--workers", "1", "--gpus", "none"]) == 1
    out, err = capfd.readouterr()
    assert "no time to train one on all; run hpsearch refit study.toml --search" in err
    assert (tmp_path / "runs" / "views" / "report.html").is_file()
    assert "== model" not in out
    assert not (tmp_path / "model").exists()
    assert run(["refit", "views", "--search", "--gpus", "none"]) == 0
    assert run(["best", "views", "--save", "model"]) == 0
    assert (tmp_path / "model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_ctrl_c_during_the_confirmation_ends_the_command(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY, encoding="utf-8")
    flags = ["--minutes", "20", "--workers", "1", "--gpus", "none"]
    command = [sys.executable, "-m", "hpsearch", "auto", "photos", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        shown = ""
        for line in process.stdout:
            shown += line
            if line.startswith("trial 0, repeat 0 begins"):
                process.send_signal(signal.SIGINT)
        assert process.wait() == 128 + signal.SIGINT
    assert "confirm again to resume" in shown
    assert f"next: hpsearch auto photos {' '.join(flags)}    # continues where this call stopped" in shown
    assert "hpsearch run views" not in shown
    assert "== report" not in shown
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_what_does_not_fit_into_the_time_is_left_out(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study.toml").write_text(STUDY, encoding="utf-8")
    assert run(["auto", "photos", "--minutes", "0.2", "--workers", "1", "--gpus", "none"]) in (0, 1)
    out, err = capfd.readouterr()
    nothing = "there is too little time to confirm the best trial; do it later: hpsearch confirm study.toml"
    assert nothing in out or "no trial finished in time" in err
    assert "== confirm" not in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("worth", "told"), [(auto.WORTH, "the search continues"), (inf, "the trials end with what they have")]
)
def test_trials_that_never_finish_make_a_model_all_the_same(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    worth: float,
    told: str,
) -> None:
    monkeypatch.setattr(auto, "WORTH", worth)
    long = STUDY.replace("epochs = [1, 2]", "epochs = [100_000]").replace(
        "trials = 3", "trials = 500\nmax_paused = 500"
    )
    without_end = long.replace('[sampler]\nname = "random"', '[early_stopping]\ncriterion = "none"')
    (tmp_path / "study.toml").write_text(without_end, encoding="utf-8")
    assert run(["auto", "photos", "--minutes", "1.5", "--workers", "1", "--gpus", "none"]) == 0
    out, _ = capfd.readouterr()
    assert f"too few to train a trial again: {told}" in out
    assert "there is too little time to confirm the best trial" in out
    record = read_study("views", f"sqlite:///{tmp_path}/runs/hpsearch.db")
    assert record.best is not None  # though no trial came to its end
    assert all(trial.is_finished for trial in record.trials)
    assert (tmp_path / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize("ending", ["confirm", "refit", "continue"])
def test_a_folder_that_is_called_like_a_part_of_a_study_names_one_all_the_same(
    tmp_path: Path, ending: str
) -> None:
    folder = paint(tmp_path / f"cats.{ending}", red=9, blue=9)
    write_study(folder, 1, tmp_path / "study.toml", tmp_path / "runs", workers=1)
    assert load_study_file(tmp_path / "study.toml").study.name == f"cats-{ending}"


def test_auto_refuses_a_file_in_the_models_place_before_it_begins(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").write_text("mine", encoding="utf-8")
    for place in (tmp_path / "model", tmp_path / "model" / "inner"):
        assert run(["auto", str(photos), "--output", str(tmp_path / "a.toml"), "--save", str(place)]) == 2
        assert f"--save: {place} " in capfd.readouterr().err
    assert not (tmp_path / "a.toml").exists()


def test_what_is_known_to_do_well_comes_first(photos: Path, tmp_path: Path) -> None:
    spec = parse_study(tomllib.loads(propose(photos, 2, tmp_path / "cache", workers=2).text))
    longest = spec.search["epochs"].high  # type: ignore[union-attr]
    assert [(point["learning_rate"], point["epochs"]) for point in spec.enqueue] == [(1e-3, longest)] * 2
    assert [point["data.augment"] for point in spec.enqueue] == [[], "photo"]
    assert all(point.keys() == spec.search.keys() for point in spec.enqueue)


def test_another_seed_is_written_into_the_file(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    init = ["init", str(photos), "--minutes", "1", "--workers", "1", "--run-folder", str(tmp_path / "runs")]
    for seed in ("0", "7"):
        assert run([*init, "--seed", seed, "--output", str(tmp_path / f"{seed}.toml")]) == 0
    assert load_study_file(tmp_path / "7.toml").study.seed == 7
    assert "seed" not in (tmp_path / "0.toml").read_text(encoding="utf-8").split("[data]")[0]
    auto = ["auto", str(photos), "--output", str(tmp_path / "7.toml"), "--run-folder", str(tmp_path / "runs")]
    capfd.readouterr()
    assert run([*auto, "--seed", "8"]) == 2
    told = capfd.readouterr().err
    assert told.endswith("already exists and has 7; leave it out, or name another file with --output\n")


def test_the_study_file_of_an_earlier_call_is_taken_as_it_is(photos: Path, tmp_path: Path) -> None:
    write_study(photos, 1, tmp_path / "study.toml", tmp_path / "runs", workers=1)
    spec = load_study_file(tmp_path / "study.toml")
    assert spec.data.root == str(photos)
    shutil.rmtree(photos)
    with pytest.raises(HpsearchError, match="already exists"):
        write_study(photos, 1, tmp_path / "study.toml", tmp_path / "runs")
