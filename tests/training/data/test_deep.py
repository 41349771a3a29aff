"""Pictures of more than 8 bits: their values are kept, and one scale holds for the whole data set."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hpsearch.errors import DataError
from hpsearch.study.data import DataSpec
from hpsearch.training.data import TrainingData, load, pixels
from hpsearch.training.data.decode import Form, depth, read_file
from tests.training.data.pictures import noise, save

DEEP = Form(dtype="float32")


def png_of_16_bits(path: Path, pixels_HWC: np.ndarray) -> None:
    """Writes a PNG of 16 bits per channel, which Pillow writes in grey only."""
    height, width, channels = pixels_HWC.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels_HWC)
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def tiff_in_rgb(path: Path, pixels_HWC: np.ndarray, order: str, packed: bool) -> None:
    """Writes a TIFF of 16 bits per channel in one of both byte orders."""
    height, width, channels = pixels_HWC.shape
    data = pixels_HWC.astype(order + "u2").tobytes()
    data = zlib.compress(data) if packed else data
    start = 8 + 2 + 12 * 10 + 4
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, start), (259, 3, 1, 8 if packed else 1),
        (262, 3, 1, 2), (273, 4, 1, start + 2 * channels), (277, 3, 1, channels), (278, 4, 1, height),
        (279, 4, 1, len(data)), (284, 3, 1, 1),
    ]  # fmt: skip
    file = io.BytesIO()
    file.write(b"II*\0" if order == "<" else b"MM\0*")
    file.write(struct.pack(f"{order}IH", 8, len(tags)))
    for tag, kind, count, value in tags:
        inside = (
            struct.pack(f"{order}HH", value, 0)
            if (kind, count) == (3, 1)
            else struct.pack(f"{order}I", value)
        )
        file.write(struct.pack(f"{order}HHI", tag, kind, count) + inside)
    file.write(struct.pack(f"{order}I", 0) + struct.pack(f"{order}{channels}H", *[16] * channels) + data)
    path.write_bytes(file.getvalue())


@pytest.mark.parametrize(
    "write",
    [
        png_of_16_bits,
        lambda path, x: tiff_in_rgb(path, x, "<", packed=False),
        lambda path, x: tiff_in_rgb(path, x, ">", packed=False),
        lambda path, x: tiff_in_rgb(path, x, "<", packed=True),
        lambda path, x: tiff_in_rgb(path, x, ">", packed=True),
    ],
    ids=["png", "tiff little", "tiff big", "packed little", "packed big"],
)
def test_colours_of_16_bits_keep_every_bit(tmp_path: Path, write: Callable[[Path, np.ndarray], None]) -> None:
    x = np.random.default_rng(0).integers(0, 65536, (5, 7, 3)).astype(np.uint16)
    write(tmp_path / "p", x)
    with Image.open(tmp_path / "p") as image:
        assert depth(image) == "uint16"
    assert np.array_equal(read_file(tmp_path / "p", None, 3, form=DEEP), x.transpose(2, 0, 1))


@pytest.mark.parametrize("channels", [2, 4])
def test_transparent_pixels_of_16_bits_are_black(tmp_path: Path, channels: int) -> None:
    x = np.random.default_rng(0).integers(0, 4096, (5, 7, channels)).astype(np.uint16)
    x[..., -1] = 65535
    x[:2, :, -1] = 0
    png_of_16_bits(tmp_path / "p.png", x)
    found = read_file(tmp_path / "p.png", None, channels - 1, form=DEEP)
    expected = np.where(x[..., -1:] == 0, 0, x[..., :-1]).transpose(2, 0, 1)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.array([[990, 1100, 65535]], np.uint16), "uint16"),
        (np.array([[-1000, 0, 3000]], np.int16), "int32"),  # Pillow writes 32 bits
        (np.array([[-(2**20), 0, 2**20]], np.int32), "int32"),
        (np.array([[-0.5, 0.25, 7.0]], np.float32), "float32"),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_grey_values_are_those_of_the_file(
    tmp_path: Path, values: np.ndarray, kind: str, turned: bool
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    Image.fromarray(values).save(tmp_path / "p.tif", exif=exif)
    with Image.open(tmp_path / "p.tif") as image:
        assert depth(image) == kind
    found = read_file(tmp_path / "p.tif", None, 1, form=DEEP)[0]
    assert np.array_equal(found, np.rot90(values, -1) if turned else values)


def folder(root: Path, count: int, make: Callable[[int], np.ndarray], suffix: str = "png") -> Path:
    for number in range(count):
        save(root / "ab"[number % 2] / f"{number:02d}.{suffix}", make(number))
    return root


def camera(number: int, dtype: Any = np.uint16) -> np.ndarray:
    """A picture of a 12-bit camera: values around 1000, the classes 60 apart."""
    x = np.random.default_rng(number).integers(990, 1041, (6, 6))
    return (x + 60 * (number % 2)).astype(dtype)


def loaded(root: Path, **fields: Any) -> TrainingData:
    spec = DataSpec.model_validate({"dataset": "folder", **fields})
    return load(spec, root=str(root), cache=root.parent / "cache")


def at(data: TrainingData, **fields: Any) -> Any:
    return data.at(DataSpec.model_validate({"dataset": "folder", **fields}))


@pytest.mark.parametrize("channels", [None, 3])
def test_12_bits_in_16_are_scaled_by_the_training_part(tmp_path: Path, channels: int | None) -> None:
    data = loaded(folder(tmp_path / "photos", 40, camera), channels=channels)
    prepared = at(data, channels=channels)
    names = sorted((tmp_path / "photos").rglob("*.png"))
    raw = np.stack([np.array(Image.open(names[row])) for row in prepared.train.index.tolist()]).astype(
        np.float32
    )
    low, high = raw.min(), raw.max()
    found = prepared.pixels(prepared.train, slice(None))
    assert found.shape[1] == (channels or 1)
    torch.testing.assert_close(found[:, 0], torch.from_numpy((raw - low) / (high - low)))
    note = f"16-bit images, values {low:g} to {high:g} in the training part, scaled to 0 to 1 for all images"
    assert note in data.facts.notes
    assert prepared.batch(prepared.train, slice(None))[0].std(correction=0).item() == pytest.approx(
        1, abs=1e-3
    )


def test_one_scale_at_every_image_size(tmp_path: Path) -> None:
    data = loaded(folder(tmp_path / "photos", 40, camera))
    full, small = at(data), at(data, image_size=2)
    assert full.preparation.statistics.range == small.preparation.statistics.range
    images = small.batch(small.train, slice(None))[0]
    assert images.mean().item() == pytest.approx(0, abs=1e-4)
    assert images.std(correction=0).item() == pytest.approx(1, abs=1e-3)


def test_a_given_range_counts(tmp_path: Path) -> None:
    data = loaded(folder(tmp_path / "photos", 40, camera), range=[0, 4095])
    prepared = at(data, range=[0, 4095])
    assert torch.equal(prepared.pixels(prepared.val, slice(None)), prepared.val.images * (1 / 4095))
    assert "16-bit images, of which data.range makes 0 black (0) and 4095 white (1)" in data.facts.notes


@pytest.mark.parametrize(
    ("dtype", "suffix", "depths"), [(np.int32, "tif", "32-bit"), (np.float32, "tif", "floating-point")]
)
def test_other_deep_pictures(tmp_path: Path, dtype: Any, suffix: str, depths: str) -> None:
    make = lambda number: camera(number, dtype) - 1500  # noqa: E731  # below zero, as in tomography
    data = loaded(folder(tmp_path / "photos", 40, make, suffix))
    prepared = at(data)
    found = prepared.pixels(prepared.train, slice(None))
    assert (found.min().item(), found.max().item()) == (0, pytest.approx(1))
    assert any(note.startswith(f"{depths} images, values -5") for note in data.facts.notes)


def mixed(number: int) -> np.ndarray:
    bright = noise(number, 6, 6, 1)
    return bright.astype(np.uint16) * 257 if number < 3 else bright


def test_full_16_bits_among_8_become_bytes(tmp_path: Path) -> None:
    data = loaded(folder(tmp_path / "photos", 40, mixed))
    prepared = at(data)
    names = sorted((tmp_path / "photos").rglob("*.png"))
    for image, row in zip(prepared.train.images, prepared.train.index.tolist(), strict=True):
        assert np.array_equal(image[0], noise(int(names[row].stem), 6, 6, 1))
    assert any(
        "3 of 40 pictures have more than 8 bits" in note and "65535 white" in note
        for note in data.facts.notes
    )


def some_deep(number: int) -> np.ndarray:
    return camera(number) if number < 3 else noise(number, 6, 6, 1)


def floats_and_whole(number: int) -> np.ndarray:
    return camera(number, np.float32 if number < 3 else np.int32)


@pytest.mark.parametrize(
    ("make", "suffix", "message"),
    [
        (
            some_deep,
            "png",
            r"a/00\.png is a 16-bit picture \(the highest value .* is 1099\) and a/04\.png an 8-bit",
        ),
        (
            lambda n: camera(n, np.int32) if n < 3 else noise(n, 6, 6, 1),
            "tif",
            r"is a 32-bit picture and .* 8-bit",
        ),
        (
            lambda n: camera(n, np.float32) if n < 3 else noise(n, 6, 6, 1),
            "tif",
            r"floating-point picture \(the",
        ),
        (floats_and_whole, "tif", r"is a floating-point picture and .*tif a 32-bit one.*data\.range"),
    ],
)
def test_pictures_without_a_scale_in_common(
    tmp_path: Path, make: Callable[[int], np.ndarray], suffix: str, message: str
) -> None:
    root = folder(tmp_path / "photos", 40, make, suffix)
    with pytest.raises(DataError, match=message):
        loaded(root)
    data = loaded(root, range=[0, 4095])
    images = at(data, range=[0, 4095])
    deep = images.pixels(images.train, slice(None))[
        images.train.index < 2
    ]  # of the first ones, as files are sorted
    assert deep.mean().item() == pytest.approx(1045 / 4095 if suffix == "tif" else 1015 / 4095, abs=0.03)


def test_another_range_decodes_anew(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos", 40, some_deep)
    one, two = (at(loaded(root, range=[0, high]), range=[0, high]).train for high in (4095, 2000))
    assert not torch.equal(one.images[one.index == 0], two.images[two.index == 0])


@pytest.mark.parametrize(
    "x",
    [
        np.arange(2**30, 2**30 + 60, dtype=np.int64),
        np.linspace(1e9, 1e9 + 60, 60),
    ],
)
def test_differences_that_float32_would_lose_are_refused(tmp_path: Path, x: np.ndarray) -> None:
    np.savez(tmp_path / "set.npz", x=np.tile(x[:, None, None], (1, 2, 2)), y=np.arange(60) % 2)
    with pytest.raises(DataError, match="float32 cannot tell apart; subtract"):
        load(DataSpec(dataset="npz"), root=str(tmp_path / "set.npz"), cache=tmp_path / "cache")


def test_values_that_are_all_equal_do_not_divide_by_zero(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x=np.full((60, 2, 2), 7000, np.uint16), y=np.arange(60) % 2)
    spec = DataSpec(dataset="npz")
    prepared = load(spec, root=str(tmp_path / "set.npz"), cache=tmp_path / "cache").at(spec)
    assert prepared.batch(prepared.train, slice(None))[0].abs().max() == 0


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("crop", [[1, 1], [1, 1]]),
        ("pad", [[0, 0], [1, 1]]),
        ("squash", [[0.5, 1], [0.5, 1]]),
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_rules_of_resizing_worked_by_hand(rule: str, expected: list[list[float]], dtype: str) -> None:
    """A picture twice as wide as high: its edges are cut off, or bars are added, or it is distorted."""
    wide = np.array([[0, 200, 200, 200], [0, 200, 200, 200]], dtype)[None, None]
    if rule == "pad":
        wide = np.full((1, 1, 2, 4), 200, dtype)
        wide[..., 0] = 200
    found = pixels.resize(wide, (2, 2), rule)[0, 0]
    if rule == "pad":
        # One row of the picture, and one above it: black, or the picture's darkest value.
        assert found.tolist() == [[0 if dtype == "uint8" else 200] * 2, [200] * 2]
    else:
        assert found[:, 1].tolist() == [200, 200]
        assert found[0, 0] == pytest.approx(expected[0][0] * 200, abs=35)
    assert found.dtype == dtype


@pytest.mark.parametrize("rule", ["crop", "pad", "squash"])
@pytest.mark.parametrize("size", [(40, 20), (20, 40), (37, 53), (9, 12)])
def test_pictures_and_arrays_are_resized_alike(tmp_path: Path, rule: str, size: tuple[int, int]) -> None:
    """Kept weights resize arrays as training's pictures were: to the value, but for which axis Pillow begins with."""
    photo = noise(1, *size)
    save(tmp_path / "p.png", photo)
    picture = read_file(tmp_path / "p.png", (16, 16), 3, form=Form(rule))
    array = pixels.resize(photo.transpose(2, 0, 1)[None], (16, 16), rule)[0]
    apart = np.abs(picture.astype(int) - array)
    assert apart.max() <= (1 if rule == "squash" and size[0] > size[1] else 0)


def test_each_rule_has_its_own_place_in_the_cache(tmp_path: Path) -> None:
    root = folder(tmp_path / "photos", 24, lambda number: noise(number, 8, 16, 1))
    shown = {
        rule: at(loaded(root, image_size=8, resize=rule), image_size=8, resize=rule).val.images
        for rule in ("crop", "pad", "squash")
    }
    assert (shown["pad"][:, 0, :2] == 0).all()
    assert (shown["pad"][:, 0, 2:6] != 0).any()
    assert not torch.equal(shown["crop"], shown["squash"])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_deep_picture_that_claims_to_be_huge_takes_no_memory() -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(file, "PNG")
    content = bytearray(file.getvalue())
    content[16:24] = struct.pack(">II", 48, 2_000_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    with pytest.raises(
        ValueError, match=r"96,000,000 pixels of more than 8 bits, and at most 90,000,000 can be read"
    ):
        read_file(io.BytesIO(content), (16, 16), 1, form=DEEP)


@pytest.mark.parametrize(("times", "told"), [(16, True), (1, False)])
def test_deep_pictures_of_an_official_part_that_are_far_brighter_are_said(
    tmp_path: Path, times: int, told: bool
) -> None:
    for number in range(40):
        kind, factor = ("test", times) if number >= 30 else ("train", 1)
        x = noise(number, 8, 8, 1).astype(np.uint16) * 16 * factor
        save(tmp_path / "photos" / kind / "ab"[number % 2] / f"{number}.png", x)
    for _ in range(2):  # the second time from the cache
        notes = loaded(tmp_path / "photos").facts.notes
        assert any("far from those of the training part" in note for note in notes) == told
