"""Folders of photographs: modes, damage, tables, duplicates, groups, and a cache that two build at once."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torchvision.datasets import ImageFolder

from hpsearch.errors import DataError
from hpsearch.study.data import DataSpec, Split
from hpsearch.training.data import TrainingData, load
from hpsearch.training.data.decode import read_file
from hpsearch.training.data.sealed import open_test
from tests.training.data.pictures import day_and_night, noise, save

FOLDER = DataSpec(dataset="folder", image_size=12)


def loaded(root: Path, **fields: object) -> TrainingData:
    spec = DataSpec.model_validate({"dataset": "folder", **fields})
    return load(spec, root=str(root), cache=root.parent / "cache")


@pytest.mark.parametrize(
    ("names", "order", "told"),
    [
        (["1", "2", "10"], ("1", "10", "2"), 'class 1 is "10" and not "2"; train.class_weights'),
        (["b", "C", "a"], ("C", "a", "b"), 'class 0 is "C" and not "a"'),
        (["x2", "x10", "y"], ("x10", "x2", "y"), 'class 0 is "x10" and not "x2"'),
        (["01", "02", "10"], ("01", "02", "10"), ""),
    ],
)
def test_class_folders_are_in_the_order_of_torchvision(
    tmp_path: Path, names: list[str], order: tuple[str, ...], told: str
) -> None:
    for number, name in enumerate(names * 12):
        save(tmp_path / "photos" / name / f"{number}.png", noise(number))
    assert tuple(ImageFolder(tmp_path / "photos").classes) == order
    facts = loaded(tmp_path / "photos").facts
    assert facts.classes == order
    described = [note for note in facts.notes if "order of" in note]
    assert len(described) == bool(told)
    assert all(told in note for note in described)


def test_class_folders(tmp_path: Path) -> None:
    root = day_and_night(tmp_path / "photos")
    data = loaded(root)
    prepared = data.at(FOLDER)
    assert (data.facts.train, data.facts.val, data.facts.test) == (32, 4, 4)
    assert data.facts.classes == ("day", "night")
    assert (data.facts.channels, data.facts.height) == (3, 12)
    names = sorted(path for path in root.rglob("*.png"))
    for image, target, row in zip(prepared.val.images, prepared.val.targets, prepared.val.index, strict=True):
        assert torch.equal(image, torch.from_numpy(np.array(Image.open(names[row]))).permute(2, 0, 1))
        assert prepared.classes[target] == names[row].parent.name


@pytest.mark.parametrize("val_name", ["val", "valid", None])
def test_official_parts(tmp_path: Path, val_name: str | None) -> None:
    root = tmp_path / "photos"
    for seed, (prefix, count) in enumerate({"train": 18, val_name: 5, "test": 7}.items()):
        if prefix:
            day_and_night(root, count, prefix=prefix, seed=10_000 * seed)
    facts = loaded(root).facts
    assert facts.test == 14
    assert (facts.train, facts.val) == ((36, 10) if val_name else (32, 4))
    assert facts.classes == ("day", "night")


def test_a_class_called_train_is_no_part(tmp_path: Path) -> None:
    for number in range(10):
        for name in ("train", "tram"):
            save(tmp_path / "photos" / name / f"{number}.png", noise(number + len(name) * 100))
    assert loaded(tmp_path / "photos").facts.classes == ("train", "tram")


def two_by_one(mode: str) -> Image.Image:
    """A picture that is bright on the left and dark on the right, in any mode."""
    base = Image.fromarray(np.repeat([[200] * 8 + [40] * 8], 8, 0).astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray(np.asarray(base).astype(np.uint16) * 257)
    if mode == "F":
        return Image.fromarray(np.asarray(base).astype(np.float32) / 255)
    return (
        base.convert("RGB").convert(mode, palette=Image.Palette.ADAPTIVE)
        if mode == "P"
        else base.convert(mode)
    )


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("L", "png"),
        ("RGB", "png"),
        ("P", "png"),
        ("P", "gif"),
        ("RGBA", "png"),
        ("LA", "png"),
        ("I;16", "png"),
        ("I;16", "tif"),
        ("F", "tif"),
        ("CMYK", "tif"),
        ("RGB", "bmp"),
        ("RGB", "webp"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_gives_the_same_bytes(tmp_path: Path, mode: str, suffix: str, channels: int) -> None:
    path = tmp_path / f"picture.{suffix}"
    two_by_one(mode).save(path, **({"lossless": True} if suffix == "webp" else {}))
    pixels = read_file(path, None, channels)
    assert pixels.shape == (channels, 8, 16)
    assert (np.abs(pixels[:, :, :8].astype(int) - 200) <= 1).all()
    assert (np.abs(pixels[:, :, 8:].astype(int) - 40) <= 1).all()


def test_one_bit_pictures(tmp_path: Path) -> None:
    Image.fromarray(np.eye(8, dtype=bool)).save(tmp_path / "one.png")
    assert np.array_equal(read_file(tmp_path / "one.png", None, 1)[0], np.eye(8) * 255)


def test_transparent_pixels_are_black(tmp_path: Path) -> None:
    pixels = np.full((4, 4, 4), 250, np.uint8)
    pixels[:2, :, 3] = 0
    pixels[2:, :, 3] = 255
    save(tmp_path / "clear.png", pixels)
    assert read_file(tmp_path / "clear.png", None, 3)[:, :, 0].tolist() == [[0, 0, 250, 250]] * 3


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_exif_rotation(tmp_path: Path, mode: str) -> None:
    picture = two_by_one(mode)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: what is left comes up
    picture.save(tmp_path / "turned.png", exif=exif)
    pixels = read_file(tmp_path / "turned.png", None, 1)
    assert pixels.shape == (1, 16, 8)
    assert (pixels[0, :8] == 200).all()
    assert (pixels[0, 8:] == 40).all()


@pytest.mark.parametrize("size", [(64, 64), (200, 120), (30, 300)])
def test_resizing_keeps_proportions_and_cuts_the_centre(tmp_path: Path, size: tuple[int, int]) -> None:
    yy, xx = np.mgrid[: size[0], : size[1]]
    centre, radius = (size[0] / 2, size[1] / 2), min(size) / 4
    disc = (((yy - centre[0]) ** 2 + (xx - centre[1]) ** 2) < radius**2).astype(np.uint8) * 255
    save(tmp_path / "disc.png", disc)
    pixels = read_file(tmp_path / "disc.png", (20, 20), 1)[0] > 127
    rows, columns = pixels.any(1).sum(), pixels.any(0).sum()
    assert rows == pytest.approx(10, abs=1)
    assert columns == pytest.approx(10, abs=1)


def test_large_jpegs_are_near_a_full_decode(tmp_path: Path) -> None:
    Image.fromarray(noise(3, 16, 20)).resize((1000, 800)).save(tmp_path / "large.jpg", quality=95)
    pixels = read_file(tmp_path / "large.jpg", (32, 32), 3).astype(float)
    full = Image.open(tmp_path / "large.jpg").resize((40, 32), Image.Resampling.BILINEAR).crop((4, 0, 36, 32))
    assert np.abs(pixels - np.asarray(full).transpose(2, 0, 1)).mean() < 2


def test_grey_folders_have_one_channel(tmp_path: Path) -> None:
    for number in range(12):
        for name in "ab":
            save(tmp_path / "photos" / name / f"{number}.png", noise(number + ord(name), channels=1))
    data = loaded(tmp_path / "photos")
    assert data.facts.channels == 1
    coloured = data.at(FOLDER.model_copy(update={"channels": 3}))
    assert coloured.pixels(coloured.val, slice(0, 2)).shape == (2, 3, 12, 12)


def test_colour_made_grey(tmp_path: Path) -> None:
    data = loaded(day_and_night(tmp_path / "photos"), channels=1)
    prepared = data.at(FOLDER.model_copy(update={"channels": 1}))
    colour = data.at(FOLDER)
    weights = torch.tensor([0.299, 0.587, 0.114])[None, :, None, None]
    expected = (colour.val.images.float() * weights).sum(1, keepdim=True)
    assert data.facts.channels == 1
    assert (prepared.val.images.float() - expected).abs().max() <= 0.51


def test_different_sizes_need_an_image_size(tmp_path: Path) -> None:
    root = day_and_night(tmp_path / "photos")
    save(root / "day" / "large.png", noise(5, 30, 40))
    with pytest.raises(DataError, match=r"data\.image_size is missing.*40 x 30.*image_size = 64"):
        loaded(root)
    assert (loaded(root, image_size=16).facts.height, loaded(root, image_size=16).facts.train) == (16, 33)


@pytest.mark.parametrize("damage", ["half", "text", "empty"])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_an_unreadable_file_is_named_or_skipped(tmp_path: Path, damage: str, suffix: str) -> None:
    root = day_and_night(tmp_path / "photos")
    broken = save(root / "night" / f"broken.{suffix}", noise(9, 12, 12))
    data = broken.read_bytes()
    broken.write_bytes({"half": data[: len(data) // 2], "text": b"hello", "empty": b""}[damage])
    with pytest.raises(DataError, match=rf"broken\.{suffix} cannot be read.*skip_unreadable = true"):
        loaded(root)
    found = loaded(root, skip_unreadable=True)
    assert found.facts.train + found.facts.val + found.facts.test == 40
    assert any(f"1 unreadable file skipped: night/broken.{suffix}" in note for note in found.facts.notes)


def test_a_float_picture_that_is_not_finite_is_named_or_skipped(tmp_path: Path) -> None:
    root = day_and_night(tmp_path / "photos")
    values = noise(9, 12, 12, 1) / np.float32(255)
    values[3, 3] = np.nan
    save(root / "night" / "deep.tiff", values)
    with pytest.raises(
        DataError, match=r"deep\.tiff cannot be read.*NaN or infinite values.*skip_unreadable"
    ):
        loaded(root)
    facts = loaded(root, skip_unreadable=True).facts
    assert facts.train + facts.val + facts.test == 40


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "no images under"),
        (("readme.txt",), "no images under"),
        (("day/1.png", "day/2.png"), 'only the class "day"'),
        (("1.png", "day/2.png"), "1.png lies in no class folder"),
    ],
)
def test_folders_that_are_no_data_set(tmp_path: Path, files: tuple[str, ...], message: str) -> None:
    (tmp_path / "photos").mkdir()
    for number, name in enumerate(files):
        if name.endswith(".png"):
            save(tmp_path / "photos" / name, noise(number))
        else:
            (tmp_path / "photos" / name).write_text("no picture")
    with pytest.raises(DataError, match=message):
        loaded(tmp_path / "photos")


def test_a_missing_folder_names_the_flag(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist.*--data-root"):
        loaded(tmp_path / "nowhere")


def test_labels_from_a_table(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    rows = ["file;label;patient"]
    for number in range(30):
        save(root / "all" / f"{number}.png", noise(number))
        rows.append(f"all/{number}.png;{'cat' if number % 2 else 'dog'};p{number // 3}")
    (root / "labels.csv").write_text("\n".join(rows))
    data = loaded(root, labels="labels.csv", split={"group_by": "column:patient"})
    prepared = data.at(FOLDER)
    assert data.facts.classes == ("cat", "dog")
    assert [prepared.classes[t] for t in prepared.val.targets] == [
        "cat" if row % 2 else "dog" for row in prepared.val.index.tolist()
    ]
    groups = [set((part.index // 3).tolist()) for part in (prepared.train, prepared.val)]
    assert not groups[0] & groups[1]


def test_numbers_from_a_table_are_a_regression(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    lines = ["name,brightness,other"]
    for number in range(20):
        save(root / f"{number}.png", noise(number))
        lines.append(f"{number}.png,{number / 10},{number}")
    (root / "targets.csv").write_text("\n".join(lines))
    fields = {"labels": "targets.csv", "file_column": "name"}
    single = loaded(root, **fields, label_column="brightness").at(FOLDER)
    double = loaded(root, **fields, label_column="brightness,other").at(FOLDER)
    assert (single.task, single.outputs, double.outputs) == ("regression", 1, 2)
    assert single.train.targets.dtype == torch.float32
    torch.testing.assert_close(single.train.targets[:, 0], single.train.index / 10)
    assert single.targets(single.train, slice(0, 2), torch.float64).dtype == torch.float64


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,label\nno.png,1", "names no.png, which is not in"),
        ("name,label\n0.png,1", 'no column "file"'),
        ("file,label\n", "holds no rows"),
        ("file,label\n0.png", "row 2 has 1 field"),
        (None, "there is no file"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, table: str | None, message: str) -> None:
    save(tmp_path / "photos" / "0.png", noise(0))
    if table is not None:
        (tmp_path / "photos" / "labels.csv").write_text(table)
    with pytest.raises(DataError, match=message):
        loaded(tmp_path / "photos", labels="labels.csv")


def test_groups_by_file_name(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for number in range(40):
        for name in ("day", "night"):
            save(root / name / f"scene{number // 4}_{number}.png", noise(number + len(name) * 1000))
    data = loaded(root, split={"train": 0.6, "val": 0.2, "test": 0.2, "group_by": r"scene(\d+)_"})
    prepared = data.at(FOLDER)
    names = sorted(root.rglob("*.png"))
    scenes = [
        {names[row].name.split("_")[0] for row in part.index} for part in (prepared.train, prepared.val)
    ]
    assert not scenes[0] & scenes[1]
    with pytest.raises(DataError, match=r"does not match day/scene0_0\.png"):
        loaded(root, split={"group_by": "patient"})


def with_duplicate(root: Path) -> Path:
    """Makes official parts of which test holds a copy of a training picture."""
    day_and_night(root, 10, prefix="train")
    day_and_night(root, 5, prefix="test", seed=50_000)
    (root / "test" / "day" / "copy.png").write_bytes((root / "train" / "day" / "003.png").read_bytes())
    return root


def test_duplicates_between_parts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = with_duplicate(tmp_path / "photos")
    warned = loaded(root)
    sentence = "1 image is in two parts, such as train/day/003.png"
    assert any(sentence in note and "test/day/copy.png (test)" in note for note in warned.facts.notes)
    assert sentence in caplog.text
    with pytest.raises(DataError, match=rf'on_duplicates is "error" and {sentence}.*"drop" or "warn"'):
        loaded(root, on_duplicates="error")
    dropped = loaded(root, on_duplicates="drop").facts
    assert (dropped.train + dropped.val, dropped.test) == (19, 11)
    assert dropped.digest != warned.facts.digest


def with_twin(root: Path, kind: str) -> Path:
    """Makes two official parts with a picture in both, in files that differ."""
    day_and_night(root, prefix="train")
    day_and_night(root, 5, prefix="test", seed=5000)
    first, twin = root / "train" / "day" / "003.png", root / "test" / "day" / "twin"
    with Image.open(first) as picture:
        if kind == "metadata":
            text = PngInfo()
            text.add_text("camera", "another one")
            picture.save(twin.with_suffix(".png"), pnginfo=text)
        elif kind == "turned":
            exif = Image.Exif()
            exif[0x0112] = 6
            picture.transpose(Image.Transpose.ROTATE_90).save(twin.with_suffix(".png"), exif=exif)
        else:
            picture.save(twin.with_suffix(kind))
    return root


@pytest.mark.parametrize("size", [6, 12, None])
@pytest.mark.parametrize("kind", [".bmp", ".tiff", ".ppm", "metadata", "turned"])
def test_duplicates_are_found_by_their_pixels(tmp_path: Path, kind: str, size: int | None) -> None:
    root = with_twin(tmp_path / "photos", kind)
    with pytest.raises(DataError, match=r"1 image is in two parts.*train/day/003\.png \(.*test/day/twin"):
        loaded(root, on_duplicates="error", image_size=size)
    for _ in range(2):  # the second time from the catalogue
        dropped = loaded(root, on_duplicates="drop", image_size=size).facts
        assert (dropped.train + dropped.val, dropped.test) == (39, 11)


def test_pictures_that_are_alike_only_when_they_are_small_are_no_duplicates(tmp_path: Path) -> None:
    root = day_and_night(tmp_path / "photos", prefix="train")
    day_and_night(root, 5, prefix="test", seed=5000)
    pixels = np.full((64, 64, 3), 100, np.uint8)
    for part, value in (("train", 101), ("test", 102)):
        pixels[40, 40] = value
        save(root / part / "day" / "plain.png", pixels)
    facts = loaded(root, image_size=2, on_duplicates="error").facts
    assert facts.train + facts.val + facts.test == 52


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ("pixels", "images"),
        ("more", "images"),
        ("label", "labels"),
        ("class", "labels"),
        ("split", "split"),
        ("none", None),
    ],
)
def test_a_changed_folder_changes_the_digest(tmp_path: Path, change: str, differs: str | None) -> None:
    root = day_and_night(tmp_path / "photos")
    before, fields = loaded(root).facts, {}
    if change == "pixels":
        save(root / "day" / "003.png", noise(77))
    elif change == "label":
        (root / "day" / "003.png").rename(root / "night" / "x003.png")
    elif change == "class":
        (root / "day").rename(root / "dawn")
    elif change == "more":
        save(root / "day" / "more.png", noise(78))
    elif change == "split":
        fields = {"split": {"seed": 1}}
    else:  # touched, with the same content
        os.utime(root / "day" / "003.png")
    after = loaded(root, **fields).facts
    assert (after.digest == before.digest) == (change == "none")
    changed = [name for name in before.digests if after.digests[name] != before.digests[name]]
    assert next(iter(changed), None) == differs


def test_the_split_is_part_of_the_digest(tmp_path: Path) -> None:
    root = day_and_night(tmp_path / "photos")
    digests = {loaded(root, split=Split(seed=seed).model_dump()).facts.digest for seed in (0, 1, 0)}
    assert len(digests) == 2
    assert loaded(root, image_size=6).facts.digest in digests


def test_another_size_is_decoded_from_the_files(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for number in range(12):
        for name in "ab":
            save(root / name / f"{number}.png", noise(number + ord(name), 48, 48))
    data = loaded(root, image_size=8)
    large = data.at(FOLDER.model_copy(update={"image_size": 48}))
    names = sorted(root.rglob("*.png"))
    row = int(large.val.index[0])
    assert np.array_equal(large.val.images[0], np.asarray(Image.open(names[row])).transpose(2, 0, 1))


def test_the_sealed_part_knows_its_files(tmp_path: Path) -> None:
    root = day_and_night(tmp_path / "photos")
    test = open_test(FOLDER, root=str(root), cache=tmp_path / "cache").test
    for name, image in zip(test.names, test.images, strict=True):
        assert np.array_equal(image, np.asarray(Image.open(root / name)).transpose(2, 0, 1))


def test_two_processes_build_the_same_cache(tmp_path: Path) -> None:
    root = day_and_night(tmp_path / "photos", 40, size=40)
    code = f"""
import sys
from pathlib import Path
from hpsearch.study.data import DataSpec
from hpsearch.training.data import load
sys.stdin.readline()
spec = DataSpec(dataset="folder", image_size=24)
data = load(spec, root={str(root)!r}, cache=Path({str(tmp_path / "cache")!r}))
prepared = data.at(spec)
print(data.facts.digest, int(prepared.train.images.sum()), int(prepared.val.images.sum()))
"""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for worker in workers:  # both wait for this line, and so begin together
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    answers = [worker.communicate(timeout=100)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert answers[0] == answers[1] != ""
    entries = [path.name for path in (tmp_path / "cache").iterdir() if path.name != "locks"]
    assert sorted(name.split("-")[0] for name in entries) == ["catalogue", "images", "images", "split"]


@pytest.mark.parametrize(
    ("labels", "told"),
    [(["c1", "c2", "c10"], 'class 1 is "c10" and not "c2"; train.class_weights'), (["1", "2", "10"], "")],
)
def test_the_order_of_classes_in_a_table_is_said_as_that_of_folders(
    tmp_path: Path, labels: list[str], told: str
) -> None:
    rows = ["file,label"]
    for number in range(36):
        save(tmp_path / "photos" / f"{number}.png", noise(number))
        rows.append(f"{number}.png,{labels[number % 3]}")
    (tmp_path / "photos" / "labels.csv").write_text("\n".join(rows), encoding="utf-8")
    notes = loaded(tmp_path / "photos", labels="labels.csv").facts.notes
    found = [note for note in notes if note.startswith("classes are in the order of their characters")]
    assert [told in note for note in found] == [True] * bool(told)


def test_a_table_of_whole_paths_lists_its_pictures(tmp_path: Path) -> None:
    root, rows = tmp_path / "test" / "photos", ["file,label"]
    for number in range(36):
        save(root / f"{number}.png", noise(number))
        rows.append(f"{root / f'{number}.png'},{'ab'[number % 2]}")
    (root / "labels.csv").write_text("\n".join(rows), encoding="utf-8")
    facts = loaded(root, labels="labels.csv").facts
    assert [note for note in facts.notes if "left out" in note] == []
    assert facts.train + facts.val + facts.test == 36


@pytest.mark.parametrize(("held", "told"), [("ab", ""), ("a", 'no image of class "b" (1 of 2 classes)')])
def test_an_official_test_folder_that_lacks_a_class_is_said(tmp_path: Path, held: str, told: str) -> None:
    for number in range(40):
        save(tmp_path / "photos" / "train" / "ab"[number % 2] / f"{number}.png", noise(number))
    for number in range(40, 50):
        save(tmp_path / "photos" / "test" / held[number % len(held)] / f"{number}.png", noise(number))
    notes = loaded(tmp_path / "photos").facts.notes
    found = [note for note in notes if note.startswith("the data's own test part has ")]
    assert [told in note for note in found] == [True] * bool(told)


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ([(20, 30)], "images are all 30 x 20 pixels, 0 of 20 grey"),
        ([(20, 30), (25, 30)], "images are 30 pixels wide and 20 to 25 high, 0 of 20 grey"),
        ([(20, 30), (25, 31)], "images are 30 to 31 pixels wide and 20 to 25 high, 0 of 20 grey"),
    ],
)
def test_sizes_and_classes_are_told_in_plain_words(
    tmp_path: Path, sizes: list[tuple[int, int]], told: str
) -> None:
    for number in range(20):
        height, width = sizes[number % len(sizes)]
        save(tmp_path / "photos" / "ab"[number // 10] / f"{number}.png", noise(number, height, width))
    notes = loaded(tmp_path / "photos", image_size=8).facts.notes
    assert told in notes
    assert "2 classes of 10 images each" in notes
