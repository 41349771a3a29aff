"""Pictures in files, predicted as the training pictures were read."""

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hpsearch
from hpsearch.__main__ import run
from hpsearch.errors import DataError, ModelError, UserError
from hpsearch.results.commands.models import export_program, load_best_model
from hpsearch.results.commands.predict import predict_files, prediction_lines, unread_lines
from hpsearch.service.launch import RunOptions
from hpsearch.training.data import load
from tests.results.digits import searched, small_spec
from tests.training.data.pictures import day_and_night, noise, save

NIGHTS = {"dataset": "folder", "subset": 1.0, "image_size": 8}


@pytest.fixture(scope="module", params=[None, 1], ids=["colour", "grey"])
def photos(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, RunOptions]:
    """A search on photographs of day and night, in colour or made grey."""
    folder = tmp_path_factory.mktemp("photos")
    day_and_night(folder / "data", 20)
    data = NIGHTS | {"root": str(folder / "data"), "channels": request.param}
    return folder, searched(folder, small_spec(data=data, train={"batch_size": 8, "epochs": 3}))


def test_pictures_are_read_as_in_training(photos: tuple[Path, RunOptions]) -> None:
    folder, options = photos
    model = load_best_model("small", options.storage)
    spec = small_spec(data=NIGHTS | {"root": str(folder / "data"), "channels": model.channels}).data
    data = load(spec, cache=folder / "runs" / "cache").at(spec)
    prepared = model.preparation.take(torch.as_tensor(data.val.images), torch.float32)
    normalized = model.preparation.normalize(prepared, model.mean, model.std)
    assert torch.equal(normalized, data.batch(data.val, slice(None))[0])
    files = sorted((folder / "data").rglob("*.png"))
    for place, index in enumerate(data.val.index.tolist()):
        assert torch.equal(model.read(files[index])[0], data.val.images[place])
        answer = predict_files(model, [str(files[index])], top=1)[0]
        assert list(answer.probabilities) == model.classify(data.val.images[place : place + 1])


def test_predictions_and_errors_in_one_table(
    photos: tuple[Path, RunOptions], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, options = photos
    bright = save(tmp_path / "bright.png", noise(5, 30, 20) // 2 + 128)
    (tmp_path / "bad.jpg").write_text("no picture", encoding="utf-8")
    files = [str(bright), str(tmp_path / "bad.jpg"), str(tmp_path / "none.png")]
    model = load_best_model("small", options.storage)
    good, bad, none = predict_files(model, files)
    assert sum(good.probabilities.values()) == pytest.approx(1)
    assert list(good.probabilities.values()) == sorted(good.probabilities.values(), reverse=True)
    assert (bad.probabilities, none.error) == ({}, "No such file or directory")
    assert "it is empty, or no picture of a known kind" in bad.error
    assert unread_lines([good]) == []
    told = unread_lines([good, *[bad] * 30])
    assert (told[0], told[-1]) == (
        "30 of 31 pictures cannot be read:",
        "  and 10 more, each with its error in the output",
    )
    lines = prediction_lines([good, bad])
    assert "%" in lines[1]
    assert "error: it is empty" in lines[2]
    status = run(["predict", "small", *files, "--storage", options.storage, "--json", "--top", "1"])
    shown = json.loads(capsys.readouterr().out)
    assert status == 1
    assert [len(one["probabilities"]) for one in shown] == [1, 0, 0]
    assert run(["predict", "small", *files[1:], "--storage", options.storage]) == 1  # none of them
    assert run(["predict", "small", files[0], "--storage", options.storage]) == 0


def test_a_folder_becomes_a_table(
    photos: tuple[Path, RunOptions], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, options = photos
    (tmp_path / "new" / "more").mkdir(parents=True)
    for name in ("b.png", "more/a.PNG"):
        save(tmp_path / "new" / name, noise(5, 30, 20))
    (tmp_path / "new" / "bad.jpg").write_text("no picture", encoding="utf-8")
    (tmp_path / "new" / "notes.txt").touch()
    place = ["--storage", options.storage, "--run-folder", str(folder / "runs")]
    words = ["predict", "small", str(tmp_path / "new"), *place]
    output = tmp_path / "answers.csv"
    assert run([*words, "--output", str(output)]) == 1
    told = capsys.readouterr()
    assert f"wrote {output}: 3 pictures" in told.out
    bad = tmp_path / "new" / "bad.jpg"
    assert told.err.splitlines()[-2:] == [
        "1 of 3 pictures cannot be read:",
        f"  {bad}: it is empty, or no picture of a known kind",
    ]
    with output.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["file"]).name for row in rows] == ["b.png", "bad.jpg", "a.PNG"]
    assert list(rows[0]) == ["file", "class", "probability", "class_2", "probability_2", "error"]
    assert {rows[0]["class"], rows[0]["class_2"]} == {"day", "night"}
    assert float(rows[0]["probability"]) + float(rows[0]["probability_2"]) == pytest.approx(1)
    assert (rows[1]["class"], rows[0]["error"]) == ("", "")
    assert "no picture" in rows[1]["error"]
    assert run([*words, "--output", str(tmp_path / "answers.json"), "--top", "1"]) == 1
    found = json.loads((tmp_path / "answers.json").read_text(encoding="utf-8"))
    assert [len(one["probabilities"]) for one in found] == [1, 0, 1]
    assert run([*words, "--output", "answers.xls"]) == 2
    assert "--output: answers.xls ends neither in .csv nor in .json" in capsys.readouterr().err
    bad.unlink()
    assert run([*words, "--output", str(output)]) == 0
    assert "cannot be read" not in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run(["predict", "small", str(tmp_path / "empty"), *place]) == 2
    assert "there are no pictures in" in capsys.readouterr().err


def test_a_name_that_is_not_utf_8_is_written_as_it_is(
    photos: tuple[Path, RunOptions], tmp_path: Path
) -> None:
    folder, options = photos
    picture = os.path.join(tmp_path, os.fsdecode(b"l\xe9.png"))
    save(Path(picture), noise(5, 30, 20))
    words = ["predict", "small", picture, "--storage", options.storage, "--run-folder", str(folder / "runs")]
    assert run([*words, "--output", str(tmp_path / "o.csv")]) == 0
    assert os.fsencode(picture) in (tmp_path / "o.csv").read_bytes()
    assert run([*words, "--output", str(tmp_path / "o.json")]) == 0
    assert json.loads((tmp_path / "o.json").read_text(encoding="utf-8"))[0]["file"] == picture


def test_a_suffix_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["predict", "nowhere", "nothing.png", "--output", "o.xls", "--run-folder", str(tmp_path)]) == 2
    assert "--output: o.xls ends neither in .csv nor in .json" in capsys.readouterr().err


def test_python_may_name_one_picture(photos: tuple[Path, RunOptions], tmp_path: Path) -> None:
    _, options = photos
    picture = save(tmp_path / "p.png", noise(5, 30, 20))
    model = load_best_model("small", options.storage)
    for given in (str(picture), picture, [picture]):
        (found,) = hpsearch.predict(model, given, top=1)
        assert (found.file, len(found.probabilities), found.error) == (str(picture), 1, "")
    with pytest.raises(UserError, match="predict: top must be a whole number of at least 1, got 0"):
        hpsearch.predict(model, picture, top=0)


def test_a_picture_the_wrong_way_up_is_turned(photos: tuple[Path, RunOptions], tmp_path: Path) -> None:
    _, options = photos
    model = load_best_model("small", options.storage)
    upright = Image.fromarray(noise(7, 16, 16))
    upright.save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise when shown
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "b.png", exif=exif)
    assert torch.equal(*(model.read(tmp_path / name) for name in ("a.png", "b.png")))


def test_the_best_is_saved_and_used_on_the_command_line(
    photos: tuple[Path, RunOptions], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, options = photos
    picture = save(tmp_path / "p.png", noise(5, 8, 8))
    assert run(["best", "small", "--storage", options.storage, "--save", str(tmp_path / "out")]) == 0
    assert f"saved {tmp_path / 'out' / 'model.safetensors'}" in capsys.readouterr().out
    assert run(["predict", str(tmp_path / "out"), str(picture)]) == 0
    assert "day" in capsys.readouterr().out
    assert run(["best", "small", "--storage", options.storage, "--torch-export"]) == 2
    assert "--torch-export: give --save DIR" in capsys.readouterr().err


OWN = """
import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

pipeline = v2.Compose([
    v2.ToImage(), v2.CenterCrop(6), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.1] * 3)
])
plain = v2.Compose([v2.ToImage(), v2.CenterCrop(6), v2.ToDtype(torch.float32, scale=True)])

def prepare(picture):
    return pipeline(picture)

def other(picture):
    return plain(picture)

def build(root):
    return ImageFolder(root, transform=prepare)

def named(root):
    data = build(root)
    data.predict = "own_prepared:prepare"
    return data

def in_unit(root):
    data = ImageFolder(root, transform=other)
    data.predict = "own_prepared:other"
    return data

def by_object(root):
    data = ImageFolder(root, transform=pipeline)
    data.predict = pipeline
    return data

def unnamed(root):
    data = build(root)
    data.predict = v2.Compose([prepare])
    return data

def inner(root):
    def prepare_here(picture):
        return pipeline(picture)
    data = build(root)
    data.predict = prepare_here
    return data
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A folder with photographs, and a module whose functions prepare them in their own way."""
    (tmp_path / "own_prepared.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    day_and_night(tmp_path / "data", 20, size=9)
    yield tmp_path
    sys.modules.pop("own_prepared", None)


def own_data(folder: Path, function: str, **fields: Any) -> dict[str, Any]:
    data = {"dataset": f"own_prepared:{function}", "root": str(folder / "data"), "normalize": False}
    return data | {"subset": 1.0} | fields


@pytest.mark.parametrize(
    ("function", "fields"),
    [("build", {"predict": "own_prepared:prepare"}), ("named", {}), ("in_unit", {}), ("by_object", {})],
)
def test_pictures_of_an_own_data_set_are_prepared_by_its_own_rule(
    own: Path, function: str, fields: dict[str, Any]
) -> None:
    data = own_data(own, function, **fields)
    spec = small_spec(data=data, train={"batch_size": 8, "epochs": 2})
    options = searched(own, spec)
    model = load_best_model("small", options.storage, allow=["own_prepared", "own_prepared:pipeline"])
    loaded = load(spec.data, cache=own / "runs" / "cache").at(spec.data)
    files = sorted((own / "data").rglob("*.png"))
    for place, index in enumerate(loaded.val.index.tolist()):
        assert torch.equal(model.read(files[index])[0], loaded.val.images[place])
    images, _ = loaded.batch(loaded.val, slice(None))
    with torch.inference_mode():
        expected = model.to_probabilities(model.model(images))
    found = predict_files(model, [str(files[index]) for index in loaded.val.index.tolist()])
    for one, row in zip(found, expected.tolist(), strict=True):
        assert [one.probabilities[name] for name in model.classes] == pytest.approx(row)
    with pytest.raises(ModelError, match=r"images are 9 x 9 pixels, and those of own_prepared:.* were 6 x 6"):
        model(torch.zeros(1, 3, 9, 9))
    with pytest.raises(ModelError, match="images are uint8, "):
        model(torch.zeros(1, 3, 6, 6, dtype=torch.uint8))
    with pytest.raises(DataError, match="own_prepared may not be imported here; allow it with --allow"):
        predict_files(load_best_model("small", options.storage), [str(files[0])])


def test_a_rule_that_nobody_named_is_not_guessed(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = small_spec(data=own_data(own, "build"), train={"batch_size": 8, "epochs": 1})
    options = searched(own, spec)
    picture = str(own / "data" / "day" / "000.png")
    with pytest.raises(ModelError, match=r"came from own_prepared:build.*--prepare.*data\.predict"):
        predict_files(load_best_model("small", options.storage), [picture])
    command = ["predict", "small", picture, "--storage", options.storage, "--allow", "own_prepared"]
    assert run(command) == 2
    assert "--prepare my_data:prepare" in capsys.readouterr().err
    assert run([*command, "--prepare", "own_prepared:prepare"]) == 0
    capsys.readouterr()
    for name, message in (
        ("os", '--prepare = "os": write package.module:function'),
        ("builtins:len", "--prepare: builtins:len failed with"),
    ):
        assert run([*command, "--prepare", name]) == 2
        shown = capsys.readouterr().err
        assert message in shown
        assert "data.predict" not in shown


@pytest.mark.parametrize(
    ("function", "predict_by", "message"),
    [
        (
            "build",
            "own_prepared:other",
            r"data\.predict: what own_prepared:other makes of .*000\.png is not item 0",
        ),
        ("build", "own_prepared:nothing", r'own_prepared \(.*\) has no "nothing"'),
        (
            "unnamed",
            None,
            'attribute predict \\(Compose\\) that is not at the top of a module.* "my_data:prepare"',
        ),
        (
            "inner",
            None,
            'attribute predict \\(function\\) that is not at the top of a module.* "my_data:prepare"',
        ),
    ],
)
def test_a_rule_is_tried_before_the_training(
    own: Path, function: str, predict_by: str | None, message: str
) -> None:
    spec = small_spec(data=own_data(own, function, predict=predict_by)).data
    with pytest.raises(DataError, match=message):
        load(spec, cache=own / "cache")


def test_only_own_data_have_a_rule_of_their_own(tmp_path: Path) -> None:
    spec = small_spec(data={"predict": "own_prepared:prepare"}).data
    with pytest.raises(DataError, match=r'data\.predict is "own_prepared:prepare".*hpsearch prepares itself'):
        load(spec, cache=tmp_path / "cache")


@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
def test_photographs_that_are_not_square(tmp_path: Path, resize: str) -> None:
    """Only the rule of training shows whether the bright spot is in the middle or at the edge."""
    for number in range(24):
        pixels = noise(number, 16, 32) // 4
        place = (14, 2)[number % 2]
        pixels[4:12, place : place + 5] = 250
        save(tmp_path / "data" / ("edge" if number % 2 else "middle") / f"{number}.png", pixels)
    data = NIGHTS | {"root": str(tmp_path / "data"), "resize": resize, "image_size": 8}
    spec = small_spec(data=data, train={"batch_size": 8, "epochs": 12}, search={"learning_rate": [0.1]})
    options = searched(tmp_path, spec)
    model = load_best_model("small", options.storage)
    files = sorted((tmp_path / "data").rglob("*.png"))
    tensors = torch.stack([torch.from_numpy(np.array(Image.open(file))) for file in files]).permute(
        0, 3, 1, 2
    )
    answers = [
        next(iter(one.probabilities)) for one in predict_files(model, [str(file) for file in files], top=1)
    ]
    assert answers == model.classify(tensors)
    assert np.mean([answer == file.parent.name for answer, file in zip(answers, files, strict=True)]) > 0.8


def test_a_12_bit_camera(tmp_path: Path) -> None:
    for number in range(40):
        values = np.random.default_rng(number).integers(990, 1041, (8, 8)).astype(np.uint16)
        save(
            tmp_path / "data" / "ab"[number % 2] / f"{number:02d}.png", values + np.uint16(60 * (number % 2))
        )
    data = NIGHTS | {"root": str(tmp_path / "data")}
    options = searched(tmp_path, small_spec(data=data, train={"batch_size": 8, "epochs": 4}))
    model = load_best_model("small", options.storage)
    files = [str(file) for file in sorted((tmp_path / "data").rglob("*.png"))]
    found = [next(iter(one.probabilities)) for one in predict_files(model, files)]
    assert found == [Path(file).parent.name for file in files]
    eight = save(tmp_path / "eight.png", noise(1, 8, 8, 1))
    assert "8-bit picture and the model was trained on 16-bit" in predict_files(model, [str(eight)])[0].error
    values = torch.from_numpy(np.stack([np.array(Image.open(file)) for file in files]))[:, None]
    assert model.classify(values) == found
    with pytest.raises(ModelError, match="images are uint8"):
        model(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    export_program(model, tmp_path / "m.pt2")
    program = torch.export.load(tmp_path / "m.pt2").module()
    with torch.inference_mode():
        torch.testing.assert_close(program(values.float()), model(values))
