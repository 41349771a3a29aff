"""What is done to an image: the same with kept weights as in training, and nothing where that cannot be known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hpsearch.errors import ModelError
from hpsearch.study.data import DataSpec
from hpsearch.training.data import Prepared, load
from hpsearch.training.data.preparation import Preparation, from_header
from tests.training.data.pictures import noise, save

BYTES = np.random.default_rng(0).integers(0, 256, (60, 6, 10)).astype(np.uint8)

SETS: dict[str, np.ndarray] = {
    "bytes": BYTES,
    "colours": np.random.default_rng(1).integers(0, 256, (60, 6, 10, 3)).astype(np.uint8),
    "int64 of bytes": BYTES.astype(np.int64),
    "booleans": BYTES > 99,
    "unit floats": BYTES.astype(np.float32) / 255,
    "floats": BYTES.astype(np.float64) / 64 - 2,
    "uint16": BYTES.astype(np.uint16) * 16,
    "int16": BYTES.astype(np.int16) * 10 - 1000,
    "int32": BYTES.astype(np.int32) * 1000,
}


def prepared(tmp_path: Path, name: str, **fields: Any) -> Prepared:
    np.savez(tmp_path / "set.npz", x=SETS[name], y=np.arange(60) % 2)
    spec = DataSpec.model_validate({"dataset": "npz", **fields})
    return load(spec, root=str(tmp_path / "set.npz"), cache=tmp_path / "cache").at(spec)


def stored(data: Prepared) -> Preparation:
    """Returns the preparation as a weights file gives it back."""
    return from_header({name: str(value) for name, value in data.preparation.header().items()})


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"image_size": 4},
        {"image_size": 12, "resize": "pad"},
        {"image_size": 5, "resize": "squash"},
        {"image_size": 4, "normalize": False},
        {"image_size": 8, "range": [0, 4095]},
    ],
    ids=["own size", "crop", "pad", "squash", "not normalised", "range"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kept_weights_prepare_a_data_sets_images_as_training_did(
    tmp_path: Path, name: str, fields: dict[str, Any], dtype: torch.dtype
) -> None:
    if name in ("booleans", "unit floats") and "range" in fields:
        pytest.skip("these have a range already")
    data = prepared(tmp_path, name, **fields)
    known = stored(data)
    assert known.header() == data.preparation.header()
    x = SETS[name] if SETS[name].ndim == 4 else SETS[name][..., None]
    images = torch.from_numpy(x[data.val.index]).permute(0, 3, 1, 2)
    before = images.clone()
    mean, std = (torch.tensor(values)[:, None, None] for values in (known.mean, known.std))
    found = known.normalize(known.take(images, dtype), mean, std)
    expected = data.batch(data.val, slice(None), dtype)[0]
    assert torch.equal(images, before)
    if dtype == torch.float32:
        assert torch.equal(found, expected)
    else:  # bytes that are resized are rounded; floats are kept in float32
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


FULL_SCALE = (torch.arange(60).reshape(1, 1, 6, 10) * 1000).to(torch.uint16)
PHOTO = torch.full((1, 1, 6, 10), 200, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("name", "images", "message"),
    [
        (
            "bytes",
            PHOTO.to(torch.int16),
            r"images are int16 from 200 to 200, .* takes uint8, or floats in \[0, 1\]",
        ),
        ("bytes", PHOTO.to(torch.int32), "int32"),
        ("bytes", PHOTO.to(torch.int64), "int64"),
        ("bytes", PHOTO.to(torch.uint16), "uint16"),
        ("bytes", PHOTO.float(), r"float32 from 200 to 200.*floats in \[0, 1\]"),
        ("bytes", -PHOTO.double() / 255, "float64 from -0.78"),
        ("bytes", PHOTO.float() * torch.nan, "from nan to nan"),
        ("unit floats", PHOTO.float(), "float32 from 200 to 200"),
        ("unit floats", PHOTO.to(torch.int64), "int64"),
        (
            "uint16",
            PHOTO,
            "images are uint8, .* takes uint16, or floats, of the data set's values, where 0 is black and 4080 white",
        ),
        ("uint16", PHOTO.float() / 255, "float32 from 0.784314"),
        ("uint16", torch.full((1, 1, 6, 10), 60_000), "images are int64 from 60000 to 60000"),
        ("uint16", PHOTO.to(torch.int64), "images are int64 from 200 to 200"),
        ("uint16", PHOTO.to(torch.int32) * 16, "images are int32 from 3200 to 3200"),
        ("uint16", PHOTO.float(), "images are float32 from 200 to 200"),
        ("uint16", FULL_SCALE, "images are uint16 from 0 to 59000"),
        ("uint16", FULL_SCALE.float(), "images are float32 from 0 to 59000"),
        ("unit floats", FULL_SCALE.to(torch.int32), "images are int32 from 0 to 59000"),
        ("bytes", (PHOTO.to(torch.int32) * 16).to(torch.uint16), "images are uint16 from 3200 to 3200"),
        ("int64 of bytes", PHOTO.to(torch.int32), "images are int32 from 200 to 200"),
        ("floats", PHOTO.double() * torch.nan, "from nan to nan"),
        ("uint16", torch.full((1, 1, 6, 10), -30_000, dtype=torch.int16), "images are int16 from -30000"),
        ("int16", PHOTO, "uint8"),
        ("int16", PHOTO > 0, "bool"),
        ("floats", PHOTO, "uint8"),
        ("floats", PHOTO.to(torch.int32), "int32"),
        ("floats", PHOTO.float(), "float32 from 200"),
        ("bytes", PHOTO[0], r"shape \[1, 6, 10\]; this model takes \[B, 1, H, W\]"),
    ],
)
def test_images_of_an_unknown_scale_are_refused(
    tmp_path: Path, name: str, images: torch.Tensor, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        stored(prepared(tmp_path, name)).take(images, torch.float32)


@pytest.mark.parametrize(
    ("name", "images", "pixel"),
    [
        ("bytes", PHOTO / 255, 200 / 255),
        ("bytes", PHOTO.half() / 255, 200 / 255),
        ("bytes", PHOTO > 0, 1.0),
        ("int64 of bytes", PHOTO.to(torch.int64), 200 / 255),
        ("unit floats", PHOTO, 200 / 255),
        ("bytes", (PHOTO.to(torch.int32) * 257).to(torch.uint16), 200 / 255),
        ("unit floats", (PHOTO.to(torch.int32) * 257).to(torch.uint16), 200 / 255),
        ("uint16", (PHOTO.to(torch.int32) * 16).to(torch.uint16), 3200 / 4080),
        ("uint16", PHOTO.to(torch.uint16), 200 / 4080),  # of the type of training: as dark as that
        ("uint16", PHOTO.float() * 0, 0.0),
        ("uint16", PHOTO.float() * 16, 3200 / 4080),
        ("uint16", torch.full((1, 1, 6, 10), 200.5) * 16, 3208 / 4080),
        ("floats", torch.tensor(1.5).expand(1, 1, 6, 10), (1.5 + 2) / (255 / 64)),
    ],
)
def test_images_of_a_known_scale(tmp_path: Path, name: str, images: torch.Tensor, pixel: float) -> None:
    found = stored(prepared(tmp_path, name)).take(images, torch.float32)
    assert found.flatten().tolist() == pytest.approx([pixel] * 60, rel=1e-3)


OLD = {"channels": "1", "height": "8", "width": "8", "mean": "[0.5]", "std": "[0.25]"}


@pytest.mark.parametrize(
    "old",
    [
        OLD,
        OLD
        | {
            "stored": "uint8",
            "scale": repr(1 / 255),
            "offset": "0.0",
            "decoded_channels": "1",
            "normalize": "true",
        },
    ],
)
def test_weights_of_before_cover_and_cut(old: dict[str, str]) -> None:
    wide = torch.zeros(1, 1, 8, 16, dtype=torch.uint8)
    wide[..., 4:12] = 255
    assert from_header(old).take(wide, torch.float32).min() == 1
    assert from_header(old).form.resize == "crop"
    deep = from_header(old | {"stored": "float32", "scale": "0.25", "offset": "-1.0"})
    assert deep.take(torch.full((1, 1, 8, 8), 1, dtype=torch.int32), torch.float32).max() == 0.5


def picture(path: Path, kind: str) -> Path:
    values: dict[str, np.ndarray] = {
        "uint8": np.full((6, 10), 200, np.uint8),
        "uint16": np.full((6, 10), 200 * 257, np.uint16),
        "12 bits": np.full((6, 10), 3200, np.uint16),
        "int32": np.full((6, 10), 3200, np.int32),
        "float32": np.full((6, 10), 0.75, np.float32),
        "deep float32": np.full((6, 10), 3200, np.float32),
        "full uint16": np.arange(60, dtype=np.uint16).reshape(6, 10) * 1000,
        "float32 of bytes": np.full((6, 10), 200, np.float32),
        "int32 of bytes": np.full((6, 10), 200, np.int32),
    }
    Image.fromarray(values[kind]).save(path)
    return path


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("bytes", "uint8", 200 / 255),
        ("bytes", "uint16", 200 / 255),
        ("bytes", "12 bits", "a 16-bit picture from 3200 to 3200 and the model was trained on 8-bit images"),
        ("bytes", "int32", "32-bit picture"),
        ("bytes", "int32 of bytes", "32-bit picture from 200 to 200"),
        ("bytes", "float32 of bytes", "a floating-point picture from 200 to 200"),
        ("int64 of bytes", "float32", 191 / 255),
        ("unit floats", "float32 of bytes", "a floating-point picture from 200 to 200"),
        ("unit floats", "12 bits", "a 16-bit picture from 3200 to 3200"),
        ("bytes", "float32", 191 / 255),
        ("unit floats", "uint8", 200 / 255),
        ("unit floats", "uint16", 200 / 255),
        ("unit floats", "float32", 0.75),
        ("uint16", "12 bits", 3200 / 4080),
        ("uint16", "int32", "32-bit picture from 3200 to 3200"),
        (
            "uint16",
            "uint8",
            "it is an 8-bit picture and the model was trained on 16-bit images from 0 to 4080",
        ),
        ("uint16", "float32", "floating-point picture from 0.75 to 0.75 and the model was trained on 16-bit"),
        ("uint16", "deep float32", 3200 / 4080),
        (
            "uint16",
            "full uint16",
            "a 16-bit picture from 0 to 59000 and the model was trained on 16-bit images",
        ),
        ("uint16", "float32 of bytes", "floating-point picture from 200 to 200"),
        ("floats", "float32 of bytes", "floating-point picture from 200 to 200"),
        ("floats", "float32", (0.75 + 2) / (255 / 64)),
        ("floats", "uint8", "8-bit picture and the model was trained on floating-point images"),
    ],
)
def test_pictures_in_files_have_the_scale_of_training(
    tmp_path: Path, name: str, kind: str, expected: float | str
) -> None:
    known = stored(prepared(tmp_path, name))
    path = picture(tmp_path / "p.tif", kind)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            known.read(path)
    else:
        pixels = known.scale(known.read(path).float())
        assert pixels.flatten().tolist() == pytest.approx([expected] * 60, rel=1e-5)


def mixed(number: int) -> np.ndarray:
    return noise(number, 6, 10, 1) if number > 2 else noise(number, 6, 10, 1).astype(np.uint16) * 257


def camera(number: int) -> np.ndarray:
    return noise(number, 9, 12, 1).astype(np.uint16) * 4 + 900


@pytest.mark.parametrize("make", [mixed, camera], ids=["16 among 8 bits", "12 bits"])
@pytest.mark.parametrize(
    "fields", [{}, {"resize": "pad"}, {"channels": 3, "resize": "squash"}, {"range": [0, 9000]}]
)
def test_pictures_of_training_are_read_again_as_they_were(
    tmp_path: Path, make: Any, fields: dict[str, Any]
) -> None:
    for number in range(30):
        save(tmp_path / "photos" / "ab"[number % 2] / f"{number:02d}.png", make(number))
    spec = DataSpec.model_validate({"dataset": "folder", "image_size": 7, **fields})
    data = load(spec, root=str(tmp_path / "photos"), cache=tmp_path / "cache").at(spec)
    names = sorted((tmp_path / "photos").rglob("*.png"))
    for part in (data.train, data.val):
        for place, row in enumerate(part.index.tolist()):
            assert torch.equal(stored(data).read(names[row])[0], part.images[place])


@pytest.mark.parametrize("fields", [{}, {"resize": "pad"}, {"range": [0, 9000]}])
def test_arrays_of_deep_pictures_among_those_of_8_bits(tmp_path: Path, fields: dict[str, Any]) -> None:
    for number in range(30):
        save(tmp_path / "photos" / "ab"[number % 2] / f"{number:02d}.png", mixed(number))
    spec = DataSpec.model_validate({"dataset": "folder", "image_size": 7, **fields})
    data = load(spec, root=str(tmp_path / "photos"), cache=tmp_path / "cache").at(spec)
    known = stored(data)
    deep = torch.from_numpy(np.stack([mixed(0), mixed(1), mixed(2)]))[:, None]
    files = [tmp_path / "photos" / name for name in ("a/00.png", "b/01.png", "a/02.png")]
    expected = torch.cat([known.scale(known.read(path).float()) for path in files])
    # Of deep files the bytes are made before the resizing, as here.
    assert torch.equal(known.take(deep, torch.float32), expected)
    with pytest.raises(ModelError, match="images are int32"):
        known.take(deep.to(torch.int32), torch.float32)


def test_12_bits_are_no_dark_16_bits_among_pictures_of_8(tmp_path: Path) -> None:
    for number in range(30):
        save(tmp_path / "photos" / "ab"[number % 2] / f"{number:02d}.png", mixed(number))
    spec = DataSpec.model_validate({"dataset": "folder"})
    known = stored(load(spec, root=str(tmp_path / "photos"), cache=tmp_path / "cache").at(spec))
    camera_made = save(tmp_path / "p.png", mixed(0) // 16)
    with pytest.raises(ValueError, match=r"a 16-bit picture from .* trained on 16-bit or 8-bit images"):
        known.read(camera_made)
    with pytest.raises(ModelError, match="images are uint16 from"):
        known.take(torch.from_numpy(mixed(0) // 16)[None, None], torch.float32)


@pytest.mark.parametrize("hot", [1, 60])
def test_single_hot_pixels_do_not_make_another_scale(tmp_path: Path, hot: int) -> None:
    known = stored(prepared(tmp_path, "uint16"))
    x = torch.full((1, 1, 60, 100), 2000, dtype=torch.int32)
    x.view(-1)[:hot] = 65535
    assert known.take(x.to(torch.uint16), torch.float32).shape == (1, 1, 6, 10)


def test_one_image_of_another_scale_in_a_batch_is_found(tmp_path: Path) -> None:
    known = stored(prepared(tmp_path, "uint16"))
    batch = torch.full((50, 1, 6, 10), 2000, dtype=torch.int32)
    batch[7] = 32_000
    with pytest.raises(ModelError, match="images are uint16 from 2000 to 32000"):
        known.take(batch.to(torch.uint16), torch.float32)


def test_integers_that_are_no_bytes_are_refused_where_bytes_are_taken(tmp_path: Path) -> None:
    known = stored(prepared(tmp_path, "int64 of bytes"))
    with pytest.raises(ModelError, match="images are int32 from 0 to 4095"):
        known.take(torch.tensor([0, 4095] * 30, dtype=torch.int32).reshape(1, 1, 6, 10), torch.float32)
