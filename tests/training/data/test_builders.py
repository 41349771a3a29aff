"""Data sets that a function of the user's builds, kept or streamed."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hpsearch.errors import DataError
from hpsearch.study.data import DataSpec
from hpsearch.training.data import TrainingData, load
from hpsearch.training.data.objects import ItemImages
from hpsearch.training.data.prepared import StreamedImages
from hpsearch.training.data.sealed import open_test

MODULE = '''
from collections import namedtuple
from pathlib import Path
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset


class Squares(Dataset):
    """Images of one value, their number; labels by thirds."""

    def __init__(self, count, first=0, form="tensor", fixed=True):
        self.count, self.first, self.form, self.fixed = count, first, form, fixed

    def __len__(self):
        return self.count

    def __getitem__(self, item):
        if not 0 <= item < self.count:
            raise IndexError(item)
        value, label = self.first + item, item % 3
        noise = 0 if self.fixed else torch.randint(0, 100, (6, 6)).numpy()
        pixels = (np.full((6, 6), value) + noise).astype(np.uint8)
        if self.form == "tensor":
            return torch.from_numpy(pixels)[None].float() / 255, label
        if self.form == "picture":
            return Image.fromarray(pixels), torch.tensor(label)
        if self.form == "dict":
            return {"image": pixels, "label": label}
        if self.form == "flipped":  # one in four, by NumPy's generator
            pixels[0, 0] = 200
            return Image.fromarray(np.fliplr(pixels) if np.random.rand() < 0.25 else pixels), label
        if self.form == "deep":
            return Image.fromarray(pixels.astype(np.uint16) * 10 + 900), label
        if self.form == "mixed":
            return (pixels if item % 2 else pixels.astype(np.uint16) * 16), label
        if self.form == "twofold":
            return (pixels if item % 2 else pixels.astype(np.float32) / 255), label
        if self.form == "whole floats":
            return pixels.astype(np.float32), label
        if self.form == "complex":
            return pixels * 1j, label
        if self.form == "infinite":
            return np.where(item == 5, np.inf, pixels / 255), label
        if self.form == "float picture":
            return Image.fromarray(np.where(item == 5, np.nan, pixels / 255).astype(np.float32)), label
        if self.form == "failing":
            return (pixels, label) if item != 5 else 1 / 0
        if self.form == "failing late":
            return (pixels, label) if item != 5 or not Path(__file__).with_name("late").exists() else 1 / 0
        if self.form == "regression":
            return pixels, [label + 0.5, 1.0]
        return pixels


def single():
    return Squares(60)

def pictures():
    return {"train": Squares(48, form="picture"), "test": Squares(12, 60, form="picture")}

def named():
    sets = [Squares(36, 0, "dict"), Squares(12, 40, "dict"), Squares(9, 60, "dict")]
    return namedtuple("Sets", "train val test")(*sets)

def pair():
    return Squares(48), Squares(12, 60)

def regression():
    return Squares(60, form="regression")

def unsteady():
    return Squares(60, form="picture", fixed=False)

def unsteady_training():
    sets = unsteady(), Squares(12, 60, "picture"), Squares(12, 80, "picture")
    return dict(zip(("train", "val", "test"), sets))

def unsteady_pair():
    return Squares(60, form="picture", fixed=False), Squares(12, 60, "picture")

def unsteady_test():
    sets = Squares(60, form="picture"), Squares(12, 60, "picture"), Squares(12, 80, "picture", fixed=False)
    return dict(zip(("train", "val", "test"), sets))

def now_and_then():
    data = Squares(60, form="flipped")
    return torch.utils.data.Subset(data, range(60))

def deep():
    return Squares(60, form="deep")

def mixed():
    return Squares(60, form="mixed")

def twofold():
    return Squares(60, form="twofold")

def whole_floats():
    return Squares(60, form="whole floats")

def rooted(root):
    return Squares(int(Path(root).read_text()))

def no_pairs():
    return Squares(60, form="bare")

def wrong():
    return {"training": Squares(60)}

def empty():
    return Squares(0)

def number():
    return 7

def nothing():
    Squares(60)

def no_train():
    return {"train": None, "test": Squares(60)}

def empty_val():
    return {"train": Squares(60), "val": Squares(0)}

def failing():
    return {"train": Squares(60), "test": Squares(30, form="failing")}

def failing_late():
    data = Squares(60, form="failing late")
    data.targets = [item % 3 for item in range(60)]
    return data

def infinite():
    return {"train": Squares(60), "test": Squares(30, form="infinite")}

def infinite_late():
    data = Squares(60, form="infinite")
    data.targets = [item % 3 for item in range(60)]
    return data

def float_pictures():
    return Squares(60, form="float picture")

def broken():
    raise KeyError("no such thing")

def patients():
    data = Squares(60)
    data.patient = torch.arange(60) // 6
    data.names = [f"{item // 6}/{item}.png" for item in range(60)]
    return data

def too_few_patients():
    data = patients()
    data.patient = data.patient[:59]
    return data

def other_test():
    return Squares(60), Squares(12, 70, "whole floats")

class Odd(Squares):
    """Images of noise in colour, one of which is grey or larger."""

    def __init__(self, place, channels, side):
        super().__init__(60)
        self.place, self.channels, self.side = place, channels, side

    def __getitem__(self, item):
        channels, side = (self.channels, self.side) if item == self.place else (3, 6)
        pixels = np.random.default_rng(item).integers(0, 256, (side, side, channels))
        return pixels.astype(np.uint8), item % 3

def grey_first():
    return Odd(0, 1, 6)

def grey_later():
    return Odd(5, 1, 6)

def small_first():
    return Odd(0, 3, 4)

def large_later():
    return Odd(5, 3, 9)

class Rarely(Squares):
    def __getitem__(self, item):
        image, label = super().__getitem__(item)
        image = image + torch.arange(6) / 255
        return (image.flip(2) if torch.rand(()) < 0.02 else image), label

def rarely():
    return {"train": Rarely(150), "val": Squares(9, 160), "test": Squares(9, 180)}

def rarely_judged():
    return {"train": Squares(60), "val": Rarely(120, 60), "test": Squares(9, 200)}

def complex_ones():
    return Squares(60, form="complex")
'''


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "own_squares.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_squares", None)


def loaded(tmp_path: Path, function: str, **fields: Any) -> TrainingData:
    spec = DataSpec.model_validate({"dataset": f"own_squares:{function}", **fields})
    return load(spec, root=fields.get("root"), cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("function", "parts", "dtype"),
    [
        ("single", (48, 6, 6), torch.float32),
        ("pictures", (43, 5, 12), torch.uint8),
        ("pair", (43, 5, 12), torch.float32),
        ("named", (36, 12, 9), torch.uint8),
        ("regression", (48, 6, 6), torch.uint8),
    ],
)
@pytest.mark.parametrize("where", ["auto", "stream"])
def test_forms(
    tmp_path: Path, function: str, parts: tuple[int, int, int], dtype: torch.dtype, where: str
) -> None:
    data = loaded(tmp_path, function, device=where)
    prepared = data.at(DataSpec.model_validate({"dataset": f"own_squares:{function}", "device": where}))
    facts = data.facts
    assert (facts.train, facts.val, facts.test) == pytest.approx(parts, abs=1)
    assert (facts.channels, facts.height, facts.width) == (1, 6, 6)
    assert prepared.train.images.dtype == dtype
    assert isinstance(prepared.train.images, StreamedImages) == (where == "stream")
    pixels = prepared.pixels(prepared.train, torch.arange(7))
    expected = (prepared.train.index[:7].float() / 255)[:, None, None, None]
    torch.testing.assert_close(pixels, expected.expand(-1, 1, 6, 6))
    if function == "regression":
        assert (prepared.task, prepared.outputs) == ("regression", 2)
    else:
        assert torch.equal(prepared.train.targets, prepared.train.index % 3)


def test_what_is_kept_and_what_is_streamed_are_equal(tmp_path: Path) -> None:
    kept, streamed = (
        loaded(tmp_path, "pictures", device=where).at(
            DataSpec.model_validate(
                {"dataset": "own_squares:pictures", "device": where, "image_size": 4, "channels": 3}
            )
        )
        for where in ("cpu", "stream")
    )
    assert torch.equal(kept.train.index, streamed.train.index)
    for part in ("train", "val"):
        one, two = (data.batch(getattr(data, part), slice(1, 4)) for data in (kept, streamed))
        torch.testing.assert_close(one[0], two[0])
        assert torch.equal(one[1], two[1])


@pytest.mark.parametrize("asked", ["as announced", "otherwise"])
def test_streams_read_ahead(tmp_path: Path, asked: str) -> None:
    spec = DataSpec.model_validate({"dataset": "own_squares:pictures", "device": "stream"})
    prepared = loaded(tmp_path, "pictures", device="stream").at(spec)
    order = torch.randperm(len(prepared.train), generator=torch.Generator().manual_seed(0))
    batches = list(order.split(8))
    state = torch.get_rng_state()
    assert list(prepared.expect(prepared.train, batches)) == batches
    for batch in batches if asked == "as announced" else reversed(batches):
        pixels = prepared.pixels(prepared.train, batch)
        torch.testing.assert_close(pixels[:, 0, 0, 0] * 255, prepared.train.index[batch].float())
    assert torch.equal(state, torch.get_rng_state()), "the epoch's own random numbers must not move"


def test_what_does_not_fit_is_streamed(tmp_path: Path) -> None:
    spec = DataSpec.model_validate({"dataset": "own_squares:pictures", "cache_limit_gb": 1e-9})
    prepared = load(spec, cache=tmp_path / "cache").at(spec)
    assert isinstance(prepared.train.images, StreamedImages)
    kept = load(spec.model_copy(update={"device": "cpu"}), cache=tmp_path / "cache")
    with pytest.raises(DataError, match=r"cache_limit_gb is 1e-09.*stream"):
        kept.at(spec)


def test_unsteady_items_of_training_are_only_streamed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'another image each time.*data\.device = "stream" to have'):
        loaded(tmp_path, "unsteady_training")
    one, two = (loaded(tmp_path, "unsteady_training", device="stream") for _ in range(2))
    assert one.facts.digest == two.facts.digest
    spec = DataSpec.model_validate({"dataset": "own_squares:unsteady_training", "device": "stream"})
    prepared = one.at(spec)
    draws = [prepared.pixels(prepared.train, slice(0, 20)) for _ in range(2)]
    assert not torch.equal(*draws)
    assert prepared.mean == two.at(spec).mean, "every worker must normalise alike"


@pytest.mark.parametrize(
    ("function", "device", "message"),
    [
        ("unsteady", "auto", r'"stream" with val and test data sets of their own to have it each epoch'),
        (
            "unsteady",
            "stream",
            r"item \d+ of the train data set, and the validation part is cut out of it: a random",
        ),
        ("unsteady_pair", "stream", r"the validation part is cut out of it.*return \(train, val, test\)"),
        ("unsteady_test", "stream", r"of the test data set: a random transform would change the test loss"),
        ("unsteady_test", "auto", r"of the test data set: a random transform would change the test loss"),
        ("now_and_then", "stream", r"of the train data set, and the validation part is cut out of it"),
        ("now_and_then", "auto", r'"stream" with val and test'),
        ("rarely", "auto", r'item \d+ of the train data set.*"stream" to have it'),
        ("rarely_judged", "stream", r"item \d+ of the val data set: a random"),
    ],
)
def test_no_random_transform_reaches_what_is_judged(
    tmp_path: Path, function: str, device: str, message: str
) -> None:
    with pytest.raises(DataError, match=rf"own_squares:{function} gives another image each time.*{message}"):
        loaded(tmp_path, function, device=device)


@pytest.mark.parametrize(
    ("function", "seed", "message"),
    [
        (
            "grey_first",
            1,
            r"item \d+ of the train data set has 3 channels and the first one 1; set data.channels = 3",
        ),
        ("grey_later", 1, "item 5 of the train data set has 1 channel and the first one 3; set"),
        ("grey_later", 6, "item 5 of the train data set has 1 channel and"),  # in the validation part
        ("grey_later", 8, "item 5 of the train data set has 1 channel and"),  # in the test part
        (
            "small_first",
            1,
            r"image_size is missing: item \d+ of .* is 6 x 6 pixels and the first one 4 x 4; set one",
        ),
        ("large_later", 6, "image_size is missing: item 5 of .* is 9 x 9 pixels and the first one 6 x 6"),
    ],
)
def test_a_stream_whose_items_differ_is_refused_before_the_training(
    tmp_path: Path, function: str, seed: int, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        loaded(tmp_path, function, device="stream", split={"seed": seed})


@pytest.mark.parametrize("fields", [{"channels": 1}, {"channels": 3}, {"channels": 3, "image_size": 5}])
@pytest.mark.parametrize("function", ["grey_first", "grey_later", "small_first", "large_later"])
def test_a_stream_of_different_items_is_prepared_as_images_in_memory(
    tmp_path: Path, function: str, fields: dict[str, int]
) -> None:
    fields = {"image_size": 6} | fields
    shown = []
    for where in ("cpu", "stream"):
        spec = DataSpec.model_validate({"dataset": f"own_squares:{function}", "device": where, **fields})
        prepared = load(spec, cache=tmp_path / "cache").at(spec)
        order = prepared.val.index.argsort()
        shown.append(prepared.batch(prepared.val, order)[0])
    torch.testing.assert_close(*shown)


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        ("single", "the validation and the test part are cut out of the training data set"),
        ("pair", "the validation part is cut out of the training data set"),
        ("named", None),
    ],
)
def test_which_parts_are_cut_out_is_said(tmp_path: Path, function: str, sentence: str | None) -> None:
    notes = [note for note in loaded(tmp_path, function).facts.notes if "cut out" in note]
    assert notes == ([sentence] if sentence else [])


def test_deep_items_keep_their_values(tmp_path: Path) -> None:
    data = loaded(tmp_path, "deep")
    prepared = data.at(DataSpec(dataset="own_squares:deep"))
    index = prepared.train.index
    assert torch.equal(prepared.train.images[:, 0, 0, 0], index * 10.0 + 900)
    low, high = index.min() * 10 + 900, index.max() * 10 + 900
    assert any(
        f"16-bit images, values {low} to {high} in the training part" in note for note in data.facts.notes
    )


def test_bytes_among_floats_in_the_unit_range(tmp_path: Path) -> None:
    prepared = loaded(tmp_path, "twofold").at(DataSpec(dataset="own_squares:twofold"))
    assert torch.allclose(prepared.train.images[:, 0, 0, 0], prepared.train.index / 255)
    with pytest.raises(
        DataError, match=r"item 1 is uint8 and that of item 0 uint16, with values from 0 to 928"
    ):
        loaded(tmp_path, "mixed")
    with pytest.raises(DataError, match="an item's image is uint8 and the first ones were uint16"):
        loaded(tmp_path, "mixed", device="stream", range=[0, 4095])


@pytest.mark.parametrize(
    ("function", "fields"),
    [
        ("pictures", {}),
        ("whole_floats", {}),
        ("single", {"image_size": 4}),
        ("deep", {"channels": 3, "image_size": 4}),
        ("deep", {"range": [0, 4095]}),
    ],
)
def test_a_stream_is_normalised_as_images_in_memory(
    tmp_path: Path, function: str, fields: dict[str, Any]
) -> None:
    """To the last bit, over all training images."""
    kept, streamed = (
        loaded(tmp_path, function, device=where, **fields).at(
            DataSpec.model_validate({"dataset": f"own_squares:{function}", "device": where, **fields})
        )
        for where in ("cpu", "stream")
    )
    assert kept.preparation == streamed.preparation
    for part in ("train", "val"):
        one, two = (data.batch(getattr(data, part), slice(0, 6)) for data in (kept, streamed))
        assert torch.equal(one[0], two[0])


def test_the_root_is_handed_over(tmp_path: Path) -> None:
    (tmp_path / "count.txt").write_text("30")
    assert loaded(tmp_path, "rooted", root=str(tmp_path / "count.txt")).facts.train == 24


def test_the_test_set_is_let_go(tmp_path: Path) -> None:
    data = loaded(tmp_path, "pictures")
    members = data._store.images._members  # type: ignore[attr-defined]
    assert [member.data.first for member in members] == [0]
    spec = DataSpec(dataset="own_squares:pictures")
    sealed = open_test(spec, cache=tmp_path / "cache")
    assert sealed.test.images[:, 0, 0, 0].tolist() == list(range(60, 72))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no_pairs", r"return \(image, label\)"),
        ("wrong", "returned training; return train"),
        ("empty", "no items"),
        ("number", "returned int for train"),
        ("nothing", "returned NoneType for train; it needs __len__"),
        ("no_train", "returned NoneType for train; it needs __len__"),
        ("empty_val", "empty_val returned no items for val; .* leave val out"),
        ("unknown", "own_squares"),
        ("other_test", "values of the test part go from 70 to 81 .* cannot have one scale"),
        (
            "failing",
            r"item 5 of the test data set .*ZeroDivisionError: division by zero \(own_squares\.py, line",
        ),
        ("infinite", r"item 5 of the test data set in the test part holds NaN or infinite values; remove"),
        ("float_pictures", r"image of item 5 cannot be read: it holds NaN or infinite values; remove"),
        ("broken", r"data\.dataset: own_squares:broken failed with KeyError.*own_squares\.py, line"),
        ("complex_ones", "complex128"),
    ],
)
def test_functions_that_build_no_data_set(tmp_path: Path, function: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        loaded(tmp_path, function)


@pytest.mark.parametrize("group_by", ["column:patient", r"^(\d+)/"])
def test_groups_of_own_data_sets(tmp_path: Path, group_by: str) -> None:
    fields = {"split": {"train": 0.6, "val": 0.2, "test": 0.2, "group_by": group_by}}
    prepared = loaded(tmp_path, "patients", **fields).at(DataSpec(dataset="own_squares:patients"))
    sides = [set((part.index // 6).tolist()) for part in (prepared.train, prepared.val)]
    assert not sides[0] & sides[1]


@pytest.mark.parametrize(
    ("function", "group_by", "message"),
    [
        ("single", "column:patient", r'group_by is "column:patient".*train data set.*no attribute "patient"'),
        ("too_few_patients", "column:patient", r"one value for each of its 60 items"),
        ("single", r"(\d+)", r'no attribute "names" with one value for each of its 60 items'),
    ],
)
def test_groups_that_own_data_sets_lack(tmp_path: Path, function: str, group_by: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        loaded(tmp_path, function, split={"group_by": group_by})


def test_the_labels_of_own_data_sets_are_their_own(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'data\.labels is "a\.csv".*own_squares:single.*leave it out'):
        loaded(tmp_path, "single", labels="a.csv")


@pytest.mark.parametrize("ahead", [True, False])
def test_an_item_that_fails_in_a_stream_is_named(tmp_path: Path, ahead: bool) -> None:
    found = loaded(tmp_path, "failing_late", device="stream", split={"seed": 1})._store.images
    assert isinstance(found, ItemImages)
    (tmp_path / "late").touch()
    stream = StreamedImages(found, (6, 6), 1)
    if ahead:
        stream.expect([slice(0, len(stream))])
    with pytest.raises(
        DataError,
        match=r"^data\.dataset: item 5 of the train data set could not be read: ZeroDivisionError.*out$",
    ):
        stream.get(slice(0, len(stream)))


@pytest.mark.parametrize(("part", "seed"), [("train", 1), ("val", 6), ("test", 8)])
def test_an_item_of_a_stream_that_is_not_finite_is_named_before_the_training(
    tmp_path: Path, part: str, seed: int
) -> None:
    steady = loaded(tmp_path, "single", device="cpu", split={"seed": seed})
    held = {"train": steady._index[: steady._train], "val": steady._index[steady._train :]}
    assert next((name for name, rows in held.items() if 5 in rows), "test") == part
    with pytest.raises(DataError, match=r"^data\.dataset: item 5 of the train data set holds NaN"):
        loaded(tmp_path, "infinite_late", device="stream", split={"seed": seed})


@pytest.mark.parametrize("where", ["auto", "stream"])
def test_reading_items_tells_its_progress(tmp_path: Path, where: str) -> None:
    told: list[tuple[int, int]] = []
    spec = DataSpec.model_validate({"dataset": "own_squares:single", "device": where})
    load(spec, cache=tmp_path / "cache", progress=lambda *now: told.append(now)).at(spec)
    assert told[:60] == [(done, 60) for done in range(1, 61)]
    assert told[-1][0] == told[-1][1] == (54 if where == "auto" else 48)


def test_modules_that_are_not_allowed(tmp_path: Path) -> None:
    spec = DataSpec(dataset="own_squares:single")
    with pytest.raises(DataError, match="own_squares"):
        load(spec, cache=tmp_path, allow=("other",))
