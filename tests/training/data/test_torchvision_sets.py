"""torchvision's sets as it reads them itself: parts, sizes, the cached catalogue."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hpsearch.errors import DataError
from hpsearch.study.data import DataSpec
from hpsearch.training.data import load, torchvision_sets
from hpsearch.training.data.catalogue import FREE
from hpsearch.training.data.sealed import open_test
from tests.training.data.pictures import day_and_night

SPEC = DataSpec(dataset="Country211", image_size=10)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Country211's folders, a set that torchvision takes without comparing check sums."""
    for number, (part, count) in enumerate({"train": 12, "valid": 4, "test": 5}.items()):
        day_and_night(tmp_path / "data" / "country211", count, prefix=part, seed=10_000 * number, size=14)
    return tmp_path / "data"


def test_official_parts_and_classes(root: Path, tmp_path: Path) -> None:
    facts = load(SPEC, root=str(root), cache=tmp_path / "cache").facts
    assert (facts.train, facts.val, facts.test) == (24, 8, 10)
    assert facts.classes == ("day", "night")
    assert (facts.channels, facts.height) == (3, 10)


def test_images_are_those_of_the_files_also_from_the_cache(root: Path, tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"image_size": None})
    names = [
        p for part in ("train", "valid", "test") for p in sorted((root / "country211" / part).rglob("*.png"))
    ]
    for _ in range(2):
        data = load(SPEC, root=str(root), cache=tmp_path / "cache")
        prepared = data.at(spec)
        for part in (prepared.train, prepared.val):
            for image, row in zip(part.images, part.index.tolist(), strict=True):
                assert np.array_equal(image, np.asarray(Image.open(names[row])).transpose(2, 0, 1))
    sealed = open_test(spec, root=str(root), cache=tmp_path / "cache")
    assert sorted(sealed.test.index.tolist()) == list(range(32, 42))
    assert torch.equal(sealed.test.targets, (sealed.test.index >= 37).long())


def test_a_set_with_other_labels_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="CocoDetection"):
        load(DataSpec(dataset="CocoDetection"), root=str(root), cache=tmp_path / "cache")


def test_emnist_whose_parts_go_by_another_name(tmp_path: Path) -> None:
    raw = tmp_path / "data" / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for part, count in {"train": 470, "test": 94}.items():
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 47
        for kind, array in {"images-idx3": images, "labels-idx1": labels}.items():
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            (raw / f"emnist-balanced-{part}-{kind}-ubyte").write_bytes(head + array.tobytes())
    facts = load(DataSpec(dataset="EMNIST"), root=str(tmp_path / "data"), cache=tmp_path / "cache").facts
    assert (facts.train + facts.val, facts.test) == (470, 94)
    assert len(facts.classes) == 47


def test_every_set_by_name_is_torchvisions_and_has_a_training_part() -> None:
    from torchvision import datasets

    for name in torchvision_sets.names():
        assert name in datasets.__all__
        assert torchvision_sets._parts(name)[0][0] == FREE, name
