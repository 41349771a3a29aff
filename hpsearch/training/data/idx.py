"""Sets that come with the machine or as four well-known files: digits, MNIST and its family."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from hpsearch.errors import DataError
from hpsearch.training.data.arrays import digits_table, read_idx, scan
from hpsearch.training.data.catalogue import FREE, TEST, Catalogue, Request, Source
from hpsearch.training.data.labels import to_targets

_NUMERALS = tuple("0123456789")

CLASSES = {
    "MNIST": _NUMERALS,
    "FashionMNIST": (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    "KMNIST": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
}
"""Sets whose files are read without torchvision, packed as they are or unpacked."""

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def _digits_file(request: Request) -> Path:
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise DataError('data.dataset "digits" comes with scikit-learn, which is not installed; install it')
    # The package itself is not imported: that takes 2 s.
    return Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"


def _read_digits(request: Request) -> Catalogue:
    path = str(_digits_file(request))
    images, hashes, *_ = scan("digits", [(path, "")], request, "HW")
    digits = digits_table(path)[:, 64]
    targets, classes = to_targets(digits, request.spec.task, f"data.root: {path}", _NUMERALS)
    return Catalogue(images, targets, classes, np.full(len(digits), FREE, np.int8), hashes)


DIGITS = Source(files=lambda request: [_digits_file(request)], read=_read_digits)


def idx_files(request: Request) -> list[Path] | None:
    """Returns the four files of a set of the MNIST family, or None if they are not there."""
    name = request.spec.dataset
    for folder in (request.root / name / "raw", request.root / "raw", request.root):
        found = [_packed_or_not(folder / file) for file in FILES]
        if all(found):
            return [path for path in found if path]
    return None


def _packed_or_not(path: Path) -> Path | None:
    packed = path.with_name(path.name + ".gz")
    return next((file for file in (path, packed) if file.is_file()), None)


def read_idx_set(request: Request, files: Iterable[Path]) -> Catalogue:
    """Reads a set of the MNIST family, with its official test part."""
    train_x, train_y, test_x, test_y = map(str, files)
    images, hashes, *_ = scan("idx", [(train_x, ""), (test_x, "")], request, "HW")
    labels = [read_idx(train_y), read_idx(test_y)]
    known = CLASSES[request.spec.dataset]
    values = np.concatenate(labels)
    if len(values) != len(images) or values.max(initial=0) >= len(known):
        raise DataError(
            f"data.root: {train_y} and {test_y} hold {len(values)} labels up to {values.max(initial=0)} for "
            f"{len(images)} images of {len(known)} classes; fetch the files again"
        )
    targets, classes = to_targets(values, request.spec.task, f"data.root: {train_y}", known)
    parts = np.repeat(np.array([FREE, TEST], np.int8), [len(part) for part in labels])
    return Catalogue(images, targets, classes, parts, hashes)
