"""`load`: digits and the MNIST family end to end, sizes, channels, batches, and the sealed test part."""

import csv
import gc
import gzip
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from hpsearch.errors import DataError
from hpsearch.study.data import DataSpec, Split
from hpsearch.training.data import TrainingData, load
from hpsearch.training.data.sealed import open_test
from tests.gpu.waiting import no_waiting

DIGITS = DataSpec(dataset="digits")


@pytest.fixture
def shared_root() -> Path:
    root = Path(os.environ.get("HPSEARCH_TEST_DATA", Path(__file__).parents[4] / "shared" / "data"))
    if not (root / "FashionMNIST" / "raw").is_dir():
        pytest.skip(f"needs the files of Fashion-MNIST in {root}/FashionMNIST/raw (HPSEARCH_TEST_DATA)")
    return root


def write_idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


@pytest.fixture
def small_mnist(tmp_path: Path) -> Path:
    """200 training and 40 test images in MNIST's form; the test images are brighter than all others."""
    generator, raw = np.random.default_rng(0), tmp_path / "data" / "MNIST" / "raw"
    for name, count, low in (("train", 200, 0), ("t10k", 40, 200)):
        write_idx(raw / f"{name}-images-idx3-ubyte.gz", generator.integers(low, 256, (count, 6, 6)))
        write_idx(raw / f"{name}-labels-idx1-ubyte.gz", np.arange(count) % 10)
    return tmp_path / "data"


def test_digits_are_scikit_learns_in_sixteenths(tmp_path: Path) -> None:
    original, labels = load_digits(return_X_y=True)
    prepared = load(DIGITS, cache=tmp_path).at(DIGITS)
    for part in (prepared.train, prepared.val):
        pixels = prepared.pixels(part, torch.arange(len(part)))
        expected = torch.tensor(original[part.index], dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
        assert torch.equal(pixels, expected)
        assert torch.equal(part.targets, torch.tensor(labels)[part.index])


def test_digits_facts(tmp_path: Path) -> None:
    facts = load(DIGITS, cache=tmp_path).facts
    assert (facts.train, facts.val, facts.test) == (1437, 180, 180)
    assert facts.classes == tuple("0123456789")
    assert (facts.channels, facts.height, facts.width, facts.task) == (1, 8, 8, "classification")
    assert int(facts.digest, 16) > 0


def test_loading_digits_imports_neither_scikit_learn_nor_torchvision(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from hpsearch.training.data import load;"
        "from hpsearch.study.data import DataSpec;"
        f"load(DataSpec(dataset='digits'), cache=Path({str(tmp_path)!r}));"
        "assert not {'sklearn', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_batches_are_normalized_by_the_training_part(tmp_path: Path) -> None:
    prepared = load(DIGITS, cache=tmp_path).at(DIGITS)
    images, targets = prepared.batch(prepared.train, slice(None))
    assert images.mean().item() == pytest.approx(0, abs=1e-5)
    assert images.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert torch.equal(targets, prepared.train.targets)
    plain = load(DIGITS, cache=tmp_path).at(DataSpec(dataset="digits", normalize=False))
    assert torch.equal(plain.batch(plain.train, slice(None))[0], plain.pixels(plain.train, slice(None)))


@pytest.mark.parametrize("spec", [DIGITS, DataSpec(dataset="digits", channels=3)])
@pytest.mark.parametrize("index", [slice(3, 9), torch.arange(3, 9)])
def test_batches_leave_the_stored_images_alone(
    tmp_path: Path, spec: DataSpec, index: slice | torch.Tensor
) -> None:
    prepared = load(spec, cache=tmp_path).at(spec)
    before = prepared.train.images.clone()
    prepared.pixels(prepared.train, index).fill_(7)
    prepared.batch(prepared.train, index)
    assert torch.equal(before, prepared.train.images)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_batches_have_the_number_type_asked_for(tmp_path: Path, dtype: torch.dtype) -> None:
    prepared = load(DIGITS, cache=tmp_path).at(DIGITS)
    assert prepared.batch(prepared.train, torch.arange(4), dtype)[0].dtype == dtype


def test_normalizing_three_channels(small_mnist: Path, tmp_path: Path) -> None:
    spec = DataSpec(dataset="MNIST", root=str(small_mnist), channels=3)
    prepared = load(spec, cache=tmp_path / "cache").at(spec)
    images, _ = prepared.batch(prepared.train, torch.arange(len(prepared.train)))
    assert images.shape[1] == prepared.channels == len(prepared.mean) == 3
    assert images.mean((0, 2, 3)).tolist() == pytest.approx([0] * 3, abs=1e-5)
    assert torch.equal(images[:, 0], images[:, 2])


def test_an_official_test_part_is_kept(small_mnist: Path, tmp_path: Path) -> None:
    spec = DataSpec(dataset="MNIST", root=str(small_mnist))
    facts = load(spec, cache=tmp_path / "cache").facts
    assert (facts.train + facts.val, facts.test) == (200, 40)
    assert facts.val == pytest.approx(200 / 9, abs=5)
    anew = spec.model_copy(update={"split": Split(official_test=False)})
    facts = load(anew, cache=tmp_path / "cache").facts
    assert facts.test == pytest.approx(24, abs=5)
    assert facts.train + facts.val + facts.test == 240


@pytest.mark.parametrize("below", ["", "MNIST", "MNIST/raw"])
def test_the_root_may_be_the_sets_own_folder(small_mnist: Path, tmp_path: Path, below: str) -> None:
    spec = DataSpec(dataset="MNIST")
    assert load(spec, root=str(small_mnist / below), cache=tmp_path / "cache").facts.test == 40


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"no gzip", bytes])
def test_a_corrupt_file_is_named(small_mnist: Path, tmp_path: Path, name: str, damage: Any) -> None:
    path = small_mnist / "MNIST" / "raw" / name
    path.write_bytes(damage(path.read_bytes()) if damage is not bytes else gzip.compress(b"\0\0\x08\x01abc"))
    with pytest.raises(DataError, match=rf"{name} is corrupt"):
        load(DataSpec(dataset="MNIST"), root=str(small_mnist), cache=tmp_path / "cache")


@pytest.mark.parametrize("name", ["MNIST", "CIFAR10"])
def test_a_missing_root_names_path_flag_and_download(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"nowhere.*--data-root.*download = true"):
        load(DataSpec(dataset=name), root=str(tmp_path / "nowhere"), cache=tmp_path / "cache")


def test_an_unknown_data_set_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match='"FashonMNIST" is unknown; did you mean "FashionMNIST"'):
        load(DataSpec(dataset="FashonMNIST"), cache=tmp_path)


def test_fashion_mnist_from_packed_files_read_only(shared_root: Path, tmp_path: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in (shared_root / "FashionMNIST").rglob("*"))
    spec = DataSpec(dataset="FashionMNIST", subset=0.05)
    data = load(spec, root=str(shared_root), cache=tmp_path)
    prepared = data.at(spec)
    assert (data.facts.train, data.facts.val, data.facts.test) == (53333, 6667, 10000)
    assert data.facts.classes[9] == "Ankle boot"
    assert prepared.train.images.dtype == torch.uint8
    assert prepared.class_counts.tolist() == [267] * 10
    assert before == sorted((p, p.stat().st_mtime_ns) for p in (shared_root / "FashionMNIST").rglob("*"))


def test_image_size_and_split_are_independent(small_mnist: Path, tmp_path: Path) -> None:
    spec = DataSpec(dataset="MNIST", root=str(small_mnist))
    data = load(spec, cache=tmp_path / "cache")
    small = spec.model_copy(update={"image_size": 4, "subset": 0.5})
    full, reduced = data.at(spec), data.at(small)
    assert reduced.train.images.shape[1:] == (1, 4, 4)
    assert torch.equal(full.train.index[: len(reduced.train)], reduced.train.index)
    assert torch.equal(full.val.index, reduced.val.index)
    fresh = load(small, cache=tmp_path / "cache")
    assert torch.equal(fresh.at(small).val.images, reduced.val.images)
    assert fresh.facts.digest == data.facts.digest


def test_resizing_is_antialiased(small_mnist: Path, tmp_path: Path) -> None:
    spec = DataSpec(dataset="MNIST", root=str(small_mnist), image_size=3)
    full = load(spec, cache=tmp_path / "cache").at(spec.model_copy(update={"image_size": None}))
    small = load(spec, cache=tmp_path / "cache").at(spec)
    expected = torch.nn.functional.interpolate(
        full.val.images.float(), (3, 3), mode="bilinear", antialias=True
    )
    # Rounded behind each axis, as Pillow does it.
    assert (small.val.images.float() - expected).abs().max() <= 1


def test_progressive_sizes(small_mnist: Path, tmp_path: Path) -> None:
    spec = DataSpec(dataset="MNIST", root=str(small_mnist), progressive=((0.0, 3), (0.5, 6)))
    prepared = load(spec, cache=tmp_path / "cache").at(spec)
    assert (prepared.height, prepared.val.images.shape[-1]) == (6, 6)
    assert prepared.pixels(prepared.train, torch.arange(5), size=3).shape == (5, 1, 3, 3)
    assert prepared.pixels(prepared.train, torch.arange(5), size=6).shape == (5, 1, 6, 6)
    assert prepared.pixels(prepared.val, torch.arange(5), size=3).shape == (5, 1, 6, 6)


def test_the_split_is_kept_as_indices_under_the_digest(tmp_path: Path) -> None:
    data = load(DIGITS, cache=tmp_path)
    with (tmp_path / f"split-{data.facts.digest}" / "samples.csv").open() as file:
        samples = list(csv.DictReader(file))
    parts = {
        name: [int(row["index"]) for row in samples if row["part"] == name]
        for name in ("train", "val", "test")
    }
    assert sorted(np.concatenate(list(parts.values()))) == list(range(1797))
    prepared = data.at(DIGITS)
    assert parts["train"] == prepared.train.index.tolist()
    assert parts["val"] == prepared.val.index.tolist()
    assert len(parts["test"]) == data.facts.test
    assert [row["label"] for row in samples[:9]] == [
        str(label) for label in prepared.train.targets[:9].tolist()
    ]
    assert len({row["content"] for row in samples}) == 1797


def test_the_next_trial_shares_the_images(tmp_path: Path) -> None:
    data = load(DIGITS, cache=tmp_path)
    one, two = data.at(DIGITS), data.at(DIGITS.model_copy(update={"subset": 0.3}))
    assert one.train.images.data_ptr() == two.train.images.data_ptr()


def test_the_second_load_reads_no_source(small_mnist: Path, tmp_path: Path) -> None:
    spec = DataSpec(dataset="MNIST", root=str(small_mnist))
    first = load(spec, cache=tmp_path / "cache").at(spec)
    for path in (small_mnist / "MNIST" / "raw").iterdir():  # same name, size and time, no content
        stat = path.stat()
        path.write_bytes(bytes(stat.st_size))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert torch.equal(load(spec, cache=tmp_path / "cache").at(spec).train.images, first.train.images)


def test_a_changed_file_is_read_again(small_mnist: Path, tmp_path: Path) -> None:
    spec = DataSpec(dataset="MNIST", root=str(small_mnist))
    before = load(spec, cache=tmp_path / "cache").facts
    raw = small_mnist / "MNIST" / "raw"
    write_idx(raw / "train-labels-idx1-ubyte.gz", (np.arange(200) + 1) % 10)
    assert load(spec, cache=tmp_path / "cache").facts.digest != before.digest


def reachable_tensors(root: Any) -> list[torch.Tensor | np.ndarray]:
    """Returns all tensors and arrays that can be reached from an object, modules and types left aside."""
    seen: dict[int, Any] = {}
    todo = [root]
    while todo:
        item = todo.pop()
        if id(item) in seen or isinstance(item, type | type(sys)):
            continue
        seen[id(item)] = item
        if not callable(item) or hasattr(item, "__self__"):
            todo += gc.get_referents(item)
        if isinstance(item, np.ndarray) and item.base is not None:
            todo.append(item.base)
        if hasattr(item, "__dict__"):
            todo += vars(item).values()
    return [item for item in seen.values() if isinstance(item, torch.Tensor | np.ndarray)]


def test_no_way_leads_from_training_data_to_test_images(small_mnist: Path, tmp_path: Path) -> None:
    # Labels 0 to 9, all test images brighter than any training image can be after this.
    spec = DataSpec(dataset="MNIST", root=str(small_mnist))
    data = load(spec, cache=tmp_path / "cache")
    prepared = data.at(spec)
    data.at(spec.model_copy(update={"image_size": 4}))
    test = open_test(spec, cache=tmp_path / "cache").test.images.numpy()
    bytes_of_test = {image.tobytes() for image in test}

    found = reachable_tensors([data, prepared])
    images = [np.asarray(item) for item in found if item.ndim >= 3 and item.shape[-2:] == (6, 6)]
    assert sum(len(item) for item in images) >= 200, "the walk found not even the training images"
    held = {image.tobytes() for item in images for image in item.reshape(-1, 6, 6)}
    assert not held & bytes_of_test
    # And not behind the tensors either: their storage holds no more than they show.
    whole = prepared.train.images.untyped_storage().nbytes()
    assert whole == (len(prepared.train) + len(prepared.val)) * 36


def test_the_sealed_part_is_the_rest(tmp_path: Path) -> None:
    prepared = load(DIGITS, cache=tmp_path).at(DIGITS)
    sealed = open_test(DIGITS, cache=tmp_path)
    everything = torch.cat([prepared.train.index, prepared.val.index, sealed.test.index])
    assert torch.equal(everything.sort().values, torch.arange(1797))
    assert (sealed.mean, sealed.std) == (prepared.mean, prepared.std)
    original = torch.tensor(load_digits().data, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    assert torch.equal(sealed.pixels(sealed.test, slice(None)), original[sealed.test.index])
    assert len(sealed.test.names) == 180


def test_no_test_part_to_open(tmp_path: Path) -> None:
    spec = DataSpec(dataset="digits", split=Split(train=0.9, val=0.1, test=0.0))
    assert load(spec, cache=tmp_path).facts.test == 0
    with pytest.raises(DataError, match=r"data\.split\.test is 0"):
        open_test(spec, cache=tmp_path)


def test_the_cache_may_lie_elsewhere(tmp_path: Path) -> None:
    spec = DataSpec(dataset="digits", cache=str(tmp_path / "mine"))
    load(spec, cache=tmp_path / "other").at(spec)
    assert (tmp_path / "mine").is_dir()
    assert not (tmp_path / "other").exists()


def test_a_lost_cache_is_made_again(tmp_path: Path) -> None:
    first: TrainingData = load(DIGITS, cache=tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")
    assert load(DIGITS, cache=tmp_path / "cache").facts == first.facts


def test_images_stay_in_host_memory_when_another_worker_was_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, images = load(DIGITS, cache=tmp_path), torch.zeros(4, 1, 8, 8)

    def full(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 KiB")

    monkeypatch.setattr(Tensor, "to", full)
    assert data._to_device(images, must=False) is images
    with pytest.raises(DataError, match=r'data\.device is "gpu" and the images take'):
        data._to_device(images, must=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("where", "kind"), [("auto", "cuda"), ("gpu", "cuda"), ("cpu", "cpu")])
def test_where_images_live(tmp_path: Path, where: str, kind: str) -> None:
    spec = DataSpec.model_validate({"dataset": "digits", "device": where})
    device = torch.device("cuda")
    prepared = load(spec, cache=tmp_path, device=device).at(spec)
    host = load(DIGITS, cache=tmp_path).at(DIGITS)
    index = torch.arange(50)
    images, targets = prepared.batch(prepared.train, index.to(device))
    expected, labels = host.batch(host.train, index)
    assert prepared.train.images.device.type == kind
    assert images.device.type == targets.device.type == "cuda"
    torch.testing.assert_close(images.cpu(), expected)
    assert torch.equal(targets.cpu(), labels)
    (stored,) = prepared.expect(prepared.train, [index.to(device)])
    assert isinstance(stored, Tensor)
    assert stored.device.type == kind
    with no_waiting():
        pixels = prepared.pixels(prepared.train, stored)
    assert torch.equal(pixels.cpu(), host.pixels(host.train, index))


def test_the_parts_of_a_refit_are_those_of_the_search_joined(tmp_path: Path) -> None:
    apart, joined = Split(), Split(join_val=True)
    parts, whole = (load(DIGITS.model_copy(update={"split": one}), cache=tmp_path) for one in (apart, joined))
    assert whole.facts.digest == parts.facts.digest
    assert whole.facts.digests == parts.facts.digests
    assert (whole.facts.train, whole.facts.val) == (parts.facts.train + parts.facts.val, 0)
    two, one = parts.at(DIGITS), whole.at(DIGITS)
    assert sorted(one.train.index.tolist()) == sorted([*two.train.index.tolist(), *two.val.index.tolist()])
    assert one.class_counts.sum() == len(one.train)
    images = load_digits().images[one.train.index.numpy()] / 16
    assert one.mean == pytest.approx([images.mean()], abs=1e-3)
    assert one.mean != two.mean
    spec = DIGITS.model_copy(update={"split": joined})
    sealed = open_test(spec, cache=tmp_path, digest=parts.facts.digest)
    assert sealed.mean == one.mean
    assert sealed.test.index.tolist() == open_test(DIGITS, cache=tmp_path).test.index.tolist()
