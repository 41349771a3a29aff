"""Pictures in files, predicted as the training pictures were read."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from hpsearch.__main__ import run
from hpsearch.results.models import load_best_model
from hpsearch.results.predict import predict, prediction_lines
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
        answer = predict(model, [str(files[index])], top=1)[0]
        assert list(answer.probabilities) == model.classify(data.val.images[place : place + 1])


def test_predictions_and_errors_in_one_table(
    photos: tuple[Path, RunOptions], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, options = photos
    bright = save(tmp_path / "bright.png", noise(5, 30, 20) // 2 + 128)
    (tmp_path / "bad.jpg").write_text("no picture", encoding="utf-8")
    files = [str(bright), str(tmp_path / "bad.jpg"), str(tmp_path / "none.png")]
    model = load_best_model("small", options.storage)
    good, bad, none = predict(model, files)
    assert sum(good.probabilities.values()) == pytest.approx(1)
    assert list(good.probabilities.values()) == sorted(good.probabilities.values(), reverse=True)
    assert (bad.probabilities, none.error) == ({}, "No such file or directory")
    assert "cannot identify image file" in bad.error
    lines = prediction_lines([good, bad])
    assert "%" in lines[1]
    assert "error: cannot identify" in lines[2]
    status = run(["predict", "small", *files, "--storage", options.storage, "--json", "--top", "1"])
    shown = json.loads(capsys.readouterr().out)
    assert status == 1
    assert [len(one["probabilities"]) for one in shown] == [1, 0, 0]
    assert run(["predict", "small", files[0], "--storage", options.storage]) == 0


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
