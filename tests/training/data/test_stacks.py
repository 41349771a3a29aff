"""Arrays that people save: .npz, .npy and .mrc, in both layouts, with labels of all kinds."""

import tracemalloc
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from hpsearch.errors import DataError
from hpsearch.study.data import DataSpec
from hpsearch.training.data import TrainingData, load
from hpsearch.training.data.arrays import ArrayImages, read_mrc
from hpsearch.training.data.assembly import assemble
from hpsearch.training.data.sealed import open_test

LABELS = np.arange(60) % 3
GROUPED = {"split": {"group_by": "column:p"}}


def loaded(root: Path, dataset: str = "npz", **fields: Any) -> TrainingData:
    spec = DataSpec.model_validate({"dataset": dataset, **fields})
    return load(spec, root=str(root), cache=root.parent / "cache")


def images(*shape: int, dtype: str = "uint8") -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 256, shape)
    return values.astype(dtype) if dtype == "uint8" else (values / 255).astype(dtype)


@pytest.mark.parametrize(
    ("shape", "layout", "found", "form"),
    [
        ((60, 8, 9), "auto", "HW", (1, 8, 9)),
        ((60, 8, 9, 3), "auto", "HWC", (3, 8, 9)),
        ((60, 3, 8, 9), "auto", "CHW", (3, 8, 9)),
        ((60, 8, 9, 1), "auto", "HWC", (1, 8, 9)),
        ((60, 3, 4, 4), "auto", "CHW", (3, 4, 4)),
        ((60, 3, 3, 3), "HWC", "HWC", (3, 3, 3)),
        ((60, 7, 8, 9), "CHW", "CHW", (7, 8, 9)),
    ],
)
def test_layouts(
    tmp_path: Path, shape: tuple[int, ...], layout: str, found: str, form: tuple[int, int, int]
) -> None:
    x = images(*shape)
    np.savez(tmp_path / "set.npz", x=x, y=LABELS)
    data = loaded(tmp_path / "set.npz", layout=layout)
    prepared = data.at(DataSpec(dataset="npz"))
    facts = data.facts
    assert (facts.channels, facts.height, facts.width) == form
    assert any(f"layout {found}" in note for note in facts.notes)
    first = x[prepared.val.index[0]]
    expected = first[None] if found == "HW" else first.transpose(2, 0, 1) if found == "HWC" else first
    assert np.array_equal(prepared.val.images[0], expected)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((60, 3, 3, 3), "set data.layout"),
        ((60, 9, 9, 9), "set data.layout"),
        ((60, 64), "must be"),
        ((60, 2, 2, 2, 2), "must be"),
    ],
)
def test_shapes_that_are_no_images(tmp_path: Path, shape: tuple[int, ...], message: str) -> None:
    np.savez(tmp_path / "set.npz", x=images(*shape), y=LABELS)
    with pytest.raises(DataError, match=message):
        loaded(tmp_path / "set.npz")


@pytest.mark.parametrize(
    ("x", "stored", "scaled"),
    [
        (np.array([0, 51, 255], np.uint8), torch.uint8, [0, 0.2, 1]),
        (np.array([0, 51, 255], np.int64), torch.uint8, [0, 0.2, 1]),
        (np.array([False, True, True]), torch.uint8, [0, 1, 1]),
        (np.array([0, 0.5, 1], np.float64), torch.float32, [0, 0.5, 1]),
        (np.array([-1, 0, 3], np.float32), torch.float32, [0, 0.25, 1]),
        (np.array([0, 16384, 65536], np.int32), torch.float32, [0, 0.25, 1]),
    ],
)
def test_number_types(tmp_path: Path, x: np.ndarray, stored: torch.dtype, scaled: list[float]) -> None:
    np.savez(tmp_path / "set.npz", x=np.tile(x, (60, 1, 1)), y=LABELS)
    prepared = loaded(tmp_path / "set.npz").at(DataSpec(dataset="npz"))
    pixels = prepared.pixels(prepared.train, torch.arange(2))
    assert prepared.train.images.dtype == stored
    assert pixels[0].flatten().tolist() == pytest.approx(scaled)
    batch, _ = prepared.batch(prepared.train, torch.arange(2))
    assert batch.mean().item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_an_image_that_is_not_finite_is_refused_with_its_part(
    tmp_path: Path, value: float, part: str
) -> None:
    x = images(60, 4, 4, dtype="float64")
    np.savez(tmp_path / "set.npz", x=x, y=LABELS)
    found = assemble(DataSpec(dataset="npz"), str(tmp_path / "set.npz"), tmp_path / "cache")
    row = int(getattr(found.rows, part)[1])
    x[row, 1, 1] = value
    np.savez(tmp_path / "set.npz", x=x, y=LABELS)
    with pytest.raises(DataError, match=f"image {row}, .* in the {part} part holds NaN or infinite"):
        loaded(tmp_path / "set.npz")


def test_a_particle_that_is_not_finite_is_refused_unless_the_table_leaves_it_out(stacks: Path) -> None:
    mrcfile = pytest.importorskip("mrcfile", reason="needs the extra mrc")
    with mrcfile.mmap(stacks / "b.mrcs", mode="r+") as stack:
        stack.data[3, 2, 2] = np.inf
    rows = [f"{n % 20 + 1}@{'a' if n < 20 else 'b'}.mrcs,{n % 3}" for n in range(30)]
    (stacks / "labels.csv").write_text("\n".join(["file,label", *rows]))
    with pytest.raises(DataError, match=r"4@b\.mrcs in the (train|val|test) part holds NaN or infinite"):
        loaded(stacks, "mrc", labels="labels.csv")
    (stacks / "labels.csv").write_text("\n".join(["file,label", *rows[:23], *rows[24:]]))
    facts = loaded(stacks, "mrc", labels="labels.csv").facts
    assert facts.train + facts.val + facts.test == 29


def test_a_group_that_is_missing_is_named(tmp_path: Path) -> None:
    groups = np.arange(60) // 2 * 1.0
    groups[7] = np.nan
    np.savez(tmp_path / "set.npz", x=images(60, 4, 4), y=LABELS, p=groups)
    with pytest.raises(DataError, match=r'"column:p" of .* is nan in row 7'):
        loaded(tmp_path / "set.npz", **GROUPED)


@pytest.mark.parametrize("dataset", ["npz", "npy"])
def test_official_parts(tmp_path: Path, dataset: str) -> None:
    arrays: dict[str, np.ndarray] = {}
    for number, (part, count) in enumerate({"train": 30, "val": 12, "test": 18}.items()):
        arrays[f"x_{part}"] = images(count, 4, 4) // 2 + np.uint8(number)
        arrays[f"y_{part}"] = LABELS[:count]
    root = tmp_path / "set"
    root.mkdir()
    if dataset == "npz":
        np.savez(root / "set.npz", **arrays)
    else:
        for name, array in arrays.items():
            np.save(root / f"{name}.npy", array)
    facts = loaded(root, dataset).facts
    assert (facts.train, facts.val, facts.test) == (30, 12, 18)
    spec = DataSpec.model_validate({"dataset": dataset})
    test = open_test(spec, root=str(root), cache=tmp_path / "cache").test
    assert np.array_equal(test.images[:, 0], arrays["x_test"])


@pytest.mark.parametrize(
    ("labels", "task", "classes", "outputs"),
    [
        (LABELS, "auto", ("0", "1", "2"), 3),
        (LABELS * 5 - 1, "auto", ("-1", "4", "9"), 3),
        (np.array(["a", "b", "c"])[LABELS], "auto", ("a", "b", "c"), 3),
        (LABELS.astype(float), "auto", ("0", "1", "2"), 3),
        (LABELS + 0.5, "auto", (), 1),
        (LABELS, "regression", (), 1),
        (np.stack([LABELS, LABELS], 1), "auto", (), 2),
        (np.stack([LABELS, LABELS], 1), "classification", None, None),
        (LABELS + 0.5, "classification", None, None),
        (np.stack([LABELS, LABELS], 1), "regression", (), 2),
    ],
)
def test_labels(
    tmp_path: Path, labels: np.ndarray, task: str, classes: tuple[str, ...] | None, outputs: int | None
) -> None:
    np.savez(tmp_path / "set.npz", x=images(60, 4, 4), y=labels)
    if classes is None:
        with pytest.raises(DataError, match='task = "regression"'):
            loaded(tmp_path / "set.npz", task=task)
        return
    prepared = loaded(tmp_path / "set.npz", task=task).at(DataSpec(dataset="npz"))
    assert (prepared.classes, prepared.outputs) == (classes, outputs)
    assert prepared.task == ("classification" if classes else "regression")
    assert prepared.train.targets.dtype == (torch.int64 if classes else torch.float32)


@pytest.mark.parametrize(
    ("arrays", "fields", "message"),
    [
        ({"a": images(60, 4, 4)}, {}, "holds a and no images"),
        ({"x": images(60, 4, 4)}, {}, "no labels"),
        ({"x": images(60, 4, 4), "y": LABELS[:50]}, {}, "50 labels for 60 images"),
        ({"x": images(60, 4, 4), "y": np.zeros(60)}, {}, 'only the class "0.0"'),
        ({"x": images(60, 4, 4), "y": np.full(60, np.nan)}, {}, "NaN"),
        ({"x": images(60, 4, 4), "y": np.array(["a", "b"] * 30)}, {"task": "regression"}, "not a number"),
        ({"x": images(60, 4, 4), "y": LABELS}, {"channels": 3, "layout": "CHW"}, None),
        ({"x": images(60, 4, 4, 4), "y": LABELS}, {"channels": 3, "layout": "CHW"}, "data.channels is 3"),
        ({"x": images(0, 4, 4), "y": LABELS[:0]}, {}, "holds no images"),
        ({"x": images(60, 0, 0), "y": LABELS}, {}, r"images of 0 x 0 pixels"),
        ({"x": images(60, 4, 4), "y": np.int64(3)}, {}, "one number where .* should be; save one for each"),
        ({"x": images(60, 4, 4) * 1j, "y": LABELS}, {}, "complex128.*imaginary part.*abs"),
        ({"x": images(60, 4, 4), "y": np.eye(3)[LABELS]}, {}, "one-hot"),
        ({"x": images(60, 4, 4), "y": LABELS, "p": LABELS[:9]}, GROUPED, "60 images and 9 values of p"),
    ],
)
def test_arrays_that_do_not_fit(
    tmp_path: Path, arrays: dict[str, np.ndarray], fields: dict[str, Any], message: str | None
) -> None:
    np.savez(tmp_path / "set.npz", **arrays)
    if message is None:
        assert loaded(tmp_path / "set.npz", **fields).facts.channels == 3
        return
    with pytest.raises(DataError, match=message):
        loaded(tmp_path / "set.npz", **fields)


@pytest.mark.parametrize(("dataset", "name"), [("npz", "set.npz"), ("npy", "x.npy")])
def test_corrupt_files_are_named(tmp_path: Path, dataset: str, name: str) -> None:
    root = tmp_path / "set"
    root.mkdir()
    (root / name).write_bytes(b"no array at all")
    (root / "y.npy").write_bytes(b"")
    with pytest.raises(DataError, match=rf"{name} could not be read as an? "):
        loaded(root, dataset)
    with pytest.raises(DataError, match=r"no \.np. file .*--data-root"):
        loaded(tmp_path / "nowhere", dataset)


def test_groups_from_an_array(tmp_path: Path) -> None:
    patients = np.arange(60) // 4
    np.savez(tmp_path / "set.npz", x=images(60, 4, 4), y=LABELS, patient=patients)
    prepared = loaded(tmp_path / "set.npz", split={"group_by": "column:patient"}).at(DataSpec(dataset="npz"))
    sides = [set(patients[part.index].tolist()) for part in (prepared.train, prepared.val)]
    assert not sides[0] & sides[1]


def test_groups_of_official_parts(tmp_path: Path) -> None:
    arrays: dict[str, np.ndarray] = {}
    for part, first in {"train": 0, "test": 100}.items():
        arrays |= {
            f"x_{part}": images(60, 4, 4),
            f"y_{part}": LABELS,
            f"p_{part}": first + np.arange(60) // 4,
        }
    np.savez(tmp_path / "set.npz", **arrays)
    prepared = loaded(tmp_path / "set.npz", **GROUPED).at(DataSpec(dataset="npz"))
    sides = [set((part.index // 4).tolist()) for part in (prepared.train, prepared.val)]
    assert not sides[0] & sides[1]


def test_the_same_bytes_in_another_form_are_other_images(tmp_path: Path) -> None:
    """Of one cache: layouts, and booleans, which become 0 and 255."""
    values = np.random.default_rng(0).integers(0, 2, (60, 3, 3, 3)).astype(np.uint8)
    np.savez(tmp_path / "bytes.npz", x=values, y=LABELS)
    np.savez(tmp_path / "booleans.npz", x=values.astype(bool), y=LABELS)
    shown = [
        loaded(tmp_path / name, layout=layout).at(DataSpec(dataset="npz")).train.images.sum((2, 3))
        for name, layout in (("bytes.npz", "CHW"), ("bytes.npz", "HWC"), ("booleans.npz", "CHW"))
    ]
    assert not torch.equal(shown[0], shown[1])
    assert torch.equal(shown[0] * 255, shown[2])


def test_small_images_made_large_are_made_piece_by_piece() -> None:
    small = ArrayImages("npy", [], "HW", 1, (2, 2), "uint8", np.arange(10**6))
    assert small._step((4096, 4096), 1) <= 4


def test_npy_with_a_table(tmp_path: Path) -> None:
    np.save(tmp_path / "scans.npy", images(60, 4, 4))
    (tmp_path / "labels.csv").write_text("label\n" + "\n".join("abc"[label] for label in LABELS))
    assert loaded(tmp_path / "scans.npy", "npy", labels="labels.csv").facts.classes == ("a", "b", "c")


@pytest.fixture
def stacks(tmp_path: Path) -> Path:
    """Two stacks of 20 and 10 particle images of which the value is their place, in a folder."""
    mrcfile = pytest.importorskip("mrcfile", reason="needs the extra mrc")
    root = tmp_path / "particles"
    root.mkdir()
    for name, first, count in (("a.mrcs", 0, 20), ("b.mrcs", 20, 10)):
        values = np.arange(first, first + count, dtype=np.float32)[:, None, None]
        with mrcfile.new(root / name) as stack:
            stack.set_data(values + np.linspace(0, 0.5, 36, dtype=np.float32).reshape(6, 6))
            stack.set_image_stack()
    return root


@pytest.mark.parametrize(("order", "stamp"), [("little", b"DD\0\0"), ("big", b"\x11\x11\0\0")])
def test_an_mrc_header_that_lies_about_its_length_takes_no_memory(
    stacks: Path, order: Literal["little", "big"], stamp: bytes
) -> None:
    with (stacks / "a.mrcs").open("r+b") as file:
        file.seek(92)
        file.write((2**28).to_bytes(4, order))
        file.seek(212)
        file.write(stamp)
    tracemalloc.start()
    with pytest.raises(DataError, match="268435456 bytes"):
        read_mrc(str(stacks / "a.mrcs"))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**24


def test_mrc_with_a_csv_in_order(stacks: Path) -> None:
    (stacks / "labels.csv").write_text("label\n" + "\n".join(str(n % 2) for n in range(30)))
    prepared = loaded(stacks, "mrc", labels="labels.csv").at(DataSpec(dataset="mrc"))
    assert torch.equal(prepared.train.images[:, 0, 0, 0], prepared.train.index.float())
    assert torch.equal(prepared.train.targets, prepared.train.index % 2)
    pixels = prepared.pixels(prepared.train, torch.arange(len(prepared.train)))
    assert (pixels.min().item(), pixels.max().item()) == (0, pytest.approx(1))


def test_mrc_with_a_star_file(stacks: Path) -> None:
    rows = [f"{n % 20 + 1:06d}@{'a' if n < 20 else 'b'}.mrcs {n % 3 + 1}" for n in reversed(range(30))]
    lines = ["data_particles", "", "loop_", "_rlnImageName #1", "_rlnClassNumber #2", *rows, ""]
    (stacks / "particles.star").write_text("\n".join(lines))
    fields = {"labels": "particles.star", "label_column": "rlnClassNumber"}
    prepared = loaded(stacks, "mrc", **fields).at(DataSpec(dataset="mrc"))
    assert prepared.classes == ("1", "2", "3")
    place = 29 - prepared.train.index  # the table runs backwards
    assert torch.equal(prepared.train.images[:, 0, 0, 0], place.float())
    assert torch.equal(prepared.train.targets, place % 3)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("label\n1\n2", "2 rows for 30 images"),
        ("file,label\n1@c.mrcs,1", "names c.mrcs, which is not among the stacks"),
        ("file,label\n11@b.mrcs,1", "holds images 1 to 10"),
        ("file,label\nb.mrcs,1", "holds 10 images; write"),
        ("file,label\n1@b.mrcs,1\n000001@b.mrcs,2", "names 000001@b.mrcs in rows 2 and 3"),
    ],
)
def test_mrc_tables_that_do_not_fit(stacks: Path, table: str, message: str) -> None:
    (stacks / "labels.csv").write_text(table)
    with pytest.raises(DataError, match=message):
        loaded(stacks, "mrc", labels="labels.csv")
    with pytest.raises(DataError, match=r"data\.labels is missing"):
        loaded(stacks, "mrc")


def test_complex_stacks_are_refused(stacks: Path) -> None:
    mrcfile = pytest.importorskip("mrcfile", reason="needs the extra mrc")
    with mrcfile.new(stacks / "a.mrcs", overwrite=True) as stack:
        stack.set_data(np.ones((20, 6, 6), np.complex64))
    (stacks / "b.mrcs").unlink()
    (stacks / "labels.csv").write_text("label\n" + "\n".join(str(n % 2) for n in range(20)))
    with pytest.raises(DataError, match=r"a\.mrcs holds complex64.*imaginary part"):
        loaded(stacks, "mrc", labels="labels.csv")


UNIT = np.random.default_rng(0).random((60, 6, 6))
OTHER = np.random.default_rng(1).random((60, 6, 6))
NOT_ONE = "cannot have one scale"
FAR = "far from those of the training part"


@pytest.mark.parametrize(
    ("train", "test", "fields", "told"),
    [
        (UNIT.astype("f4"), OTHER.astype("f4") * 255, {}, NOT_ONE),
        (UNIT * 4095, OTHER, {}, NOT_ONE),
        (UNIT * 4095, OTHER * 255, {}, NOT_ONE),
        (UNIT * 255, OTHER * 4095, {}, NOT_ONE),
        (UNIT * 255, OTHER * 4095, {"range": [0, 4095]}, FAR),
        ((UNIT * 255).astype("i4"), (OTHER * 4095).astype("i4"), {}, FAR),
        ((UNIT * 4095).astype("i2"), (OTHER * 200).astype("i2"), {}, FAR),
        (UNIT, OTHER * 9, {}, FAR),
        (UNIT * 2 - 1, OTHER * 2 - 1, {}, ""),
        (UNIT, OTHER * 1.5, {}, ""),
        ((UNIT * 255).astype("u1"), (OTHER * 3).astype("u1"), {}, ""),
    ],
)
def test_an_official_part_of_another_scale_is_refused_or_said(
    tmp_path: Path, train: np.ndarray, test: np.ndarray, fields: dict[str, Any], told: str
) -> None:
    y = np.arange(60) % 2
    np.savez(tmp_path / "set.npz", x_train=train, y_train=y, x_test=test, y_test=y)
    if told == NOT_ONE:
        with pytest.raises(
            DataError, match=rf"values of the test part .* training part .* {told}; .*data\.range"
        ):
            loaded(tmp_path / "set.npz", **fields)
        return
    notes = [note for note in loaded(tmp_path / "set.npz", **fields).facts.notes if FAR in note]
    assert [note.startswith("values of the test part ") for note in notes] == [True] * bool(told)


def test_hot_pixels_of_an_official_part_are_no_other_scale(tmp_path: Path) -> None:
    y, test = np.arange(60) % 2, (OTHER * 4095).astype("u2")
    test[::20, 0, 0] = 65535
    np.savez(tmp_path / "set.npz", x_train=(UNIT * 4095).astype("u2"), y_train=y, x_test=test, y_test=y)
    assert not [note for note in loaded(tmp_path / "set.npz").facts.notes if FAR in note]
