"""Images that lie in files as arrays: digits, the MNIST family, NumPy files, stacks of particles.

A file is opened by a function that its kind names, so that what is kept between readings is a path and not
the array with the test images in it.
"""

import gzip
import importlib.util
import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from hpsearch.errors import DataError, refusing
from hpsearch.training.data import pixels
from hpsearch.training.data.catalogue import (
    FREE,
    TEST,
    Array,
    Catalogue,
    Progress,
    Request,
    Size,
    Source,
    counted,
    find_extremes,
    find_flawed,
    hash_rows,
)
from hpsearch.training.data.labels import to_targets

_CHUNK_BYTES = 32 << 20
_MOST = float(np.finfo(np.float32).max)
_RATIO = 1_040  # no packer of zip or gzip makes more out of one byte


class ArrayImages:
    """Images that lie one after the other in the arrays of some files.

    Args:
        opener: name in OPENERS of the function that opens a file.
        members: path, name of the array within, and number of images.
        rows: which images, counted through all members; None for all.
        source: number type of the arrays.
    """

    kind = "arrays"

    def __init__(
        self,
        opener: str,
        members: Sequence[tuple[str, str, int]],
        layout: str,
        channels: int,
        size: Sequence[int],
        dtype: str,
        rows: Array | Sequence[int] | None = None,
        source: str = "uint8",
        resize: str = "crop",
    ) -> None:
        self.channels = channels
        self.size: Size = (size[0], size[1])
        self.dtype = dtype
        self.source = source
        self.tag = "" if resize == "crop" else resize
        self._resize = resize
        self._opener = opener
        self._members = [(path, name, count) for path, name, count in members]
        self._layout = layout
        self._rows = None if rows is None else np.asarray(rows, np.int64)

    def __len__(self) -> int:
        return sum(self.counts) if self._rows is None else len(self._rows)

    @property
    def counts(self) -> list[int]:
        """Numbers of images in the arrays."""
        return [count for *_, count in self._members]

    def take(self, rows: Array) -> "ArrayImages":
        chosen = rows if self._rows is None else self._rows[rows]
        return ArrayImages(**(self.fields() | {"rows": chosen}))

    def chunks(self, size: Size, channels: int) -> Iterator[Array]:
        rows = np.arange(len(self)) if self._rows is None else self._rows
        ends = np.cumsum([0, *self.counts])
        arrays: dict[int, Array] = {}
        step = self._step(size, channels)
        for start in range(0, len(rows), step):
            wanted = rows[start : start + step]
            owners = np.searchsorted(ends, wanted, side="right") - 1
            for first, last in _runs(owners):
                owner = int(owners[first])
                if owner not in arrays:
                    path, name, _ = self._members[owner]
                    arrays[owner] = OPENERS[self._opener](path, name)
                chunk = arrays[owner][wanted[first:last] - ends[owner]]
                yield self._prepare(chunk, size, channels)

    def _step(self, size: Size, channels: int) -> int:
        """Returns how many images to hold at once, as they are and as they are wanted."""
        most = max(self.channels * self.size[0] * self.size[1], channels * size[0] * size[1])
        return max(1, _CHUNK_BYTES // (4 * most))

    def _prepare(self, chunk: Array, size: Size, channels: int) -> Array:
        stored = pixels.to_stored(pixels.channels_first(chunk, self._layout), self.dtype)
        return pixels.resize(pixels.to_channels(stored, channels), size, self._resize)

    def fields(self) -> dict[str, Any]:
        return {
            "opener": self._opener,
            "members": self._members,
            "layout": self._layout,
            "channels": self.channels,
            "size": self.size,
            "dtype": self.dtype,
            "rows": None if self._rows is None else self._rows.tolist(),
            "source": self.source,
            "resize": self._resize,
        }


def _runs(owners: Array) -> Iterator[tuple[int, int]]:
    """Yields the stretches of equal values."""
    edges = np.flatnonzero(np.diff(owners)) + 1
    yield from pairwise([0, *edges.tolist(), len(owners)])


def scan(
    opener: str,
    members: Sequence[tuple[str, str]],
    request: Request,
    layout: str = "",
) -> tuple[ArrayImages, Array, str, Array | None, Array | None]:
    """Reads arrays once to learn their shape, type and content.

    Args:
        layout: of the arrays, where the study has no say in it.

    Returns:
        the images, their hashes, a sentence on the layout found, which are flawed, and the extremes of each.

    Raises:
        DataError: a file is corrupt, or the arrays do not fit each other.
    """
    arrays = [OPENERS[opener](path, name) for path, name in members]
    if not sum(len(array) for array in arrays if array.ndim):
        raise DataError(f"{_named(members[0])} holds no images; save some")
    where = _named(members[0])
    found = pixels.find_layout(arrays[0].shape, layout or request.spec.layout, where)
    for array, member in zip(arrays, members, strict=True):
        if array.shape[1:] != arrays[0].shape[1:] or array.dtype != arrays[0].dtype:
            raise DataError(
                f"{_named(member)} holds {array.dtype} images of shape "
                f"{list(array.shape[1:])} and {where} {arrays[0].dtype} ones of "
                f"{list(arrays[0].shape[1:])}; bring them into one form"
            )
    if not np.issubdtype(arrays[0].dtype, np.number) and arrays[0].dtype != bool:
        raise DataError(f"{where} holds {arrays[0].dtype} where images should be; save numbers")
    pixels.refuse_complex(arrays[0].dtype, where)
    channels, size = pixels.measure(arrays[0].shape, found)
    if not channels * size[0] * size[1]:
        raise DataError(f"{where} holds images of {size[1]} x {size[0]} pixels; save them again")
    hashes, low, high, flawed, extremes = _measure(arrays, found, request.progress)
    pixels.refuse_lost(low, high, f"{where}: the images")
    dtype = pixels.stored_type(arrays[0].dtype, low, high)
    counted = [(path, name, len(array)) for (path, name), array in zip(members, arrays, strict=True)]
    note = f"images are {arrays[0].dtype} arrays in the layout {found}, kept as {dtype}"
    source, resize = str(arrays[0].dtype.name), request.spec.resize
    images = ArrayImages(opener, counted, found, channels, size, dtype, source=source, resize=resize)
    return images, hashes, note, flawed, extremes if dtype == "float32" else None


def _named(member: tuple[str, str]) -> str:
    return f"data.root: {' '.join(filter(None, member))}"


def _measure(
    arrays: Sequence[Array], layout: str, progress: Progress | None
) -> tuple[Array, float, float, Array | None, Array]:
    hashes, flawed, extremes, low, high = [], [], [], np.inf, -np.inf
    chunks = (chunk for array in arrays for chunk in pixels.slices(array, _CHUNK_BYTES))
    for chunk in counted(chunks, sum(map(len, arrays)), progress):
        hashes.append(hash_rows(pixels.channels_first(chunk, layout)))
        flawed.append(np.zeros(len(chunk), bool))
        extremes.append(find_extremes(chunk))
        ends = float(extremes[-1][:, 0].min()), float(extremes[-1][:, 1].max())
        if not all(abs(end) <= _MOST for end in ends):  # also where one is NaN
            flawed[-1] = find_flawed(chunk)
            sound = chunk[~flawed[-1]]
            ends = float(sound.min(initial=np.inf)), float(sound.max(initial=-np.inf))
        low, high = min(low, ends[0]), max(high, ends[1])
    found = np.concatenate(flawed)
    return np.concatenate(hashes), low, high, found if found.any() else None, np.concatenate(extremes)


def read_idx(path: str, _: str = "") -> Array:
    """Reads an idx file, packed or not: two zero bytes, type, number of axes, big-endian sizes, values.

    Raises:
        DataError: the file is corrupt.
    """
    size = Path(path).stat().st_size * (_RATIO if path.endswith(".gz") else 1)
    with (
        refusing(lambda why: DataError(f"data.root: {path} is corrupt ({why}); fetch it again")),
        gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file,
    ):
        magic = file.read(4)
        if len(magic) < 4 or magic[:3] != b"\0\0\x08":
            raise ValueError("it is not an idx file of bytes")
        shape = tuple(np.frombuffer(file.read(4 * magic[3]), ">i4", magic[3]).tolist())
        wanted = _bytes_of(shape, np.dtype(np.uint8), size)
        values = np.frombuffer(file.read(wanted + 1), np.uint8)
        if values.size != wanted:
            more = "more than " if values.size > wanted else ""
            count = min(values.size, wanted)
            raise ValueError(f"{more}{count} values for the shape {list(shape)}")
        return values.reshape(shape)


def _bytes_of(shape: Sequence[int], dtype: np.dtype[Any], most: int) -> int:
    """Returns the size of an array that a header tells of, before any memory is taken for it.

    Args:
        most: bytes that the file can hold.

    Raises:
        ValueError: it cannot be true.
    """
    if dtype.hasobject:
        raise ValueError("it holds Python objects, or something else")
    if any(side < 0 for side in shape):
        raise ValueError(f"the shape {list(shape)} is negative")
    size = math.prod(shape) * dtype.itemsize
    if size > most:
        raise ValueError(f"it is too short for {dtype} of the shape {list(shape)}, or was damaged")
    return size


def read_digits(path: str, _: str = "") -> Array:
    """Reads the pixels of scikit-learn's digits: 8 x 8, whole numbers from 0 to 16, as sixteenths.

    float32 holds sixteenths exactly, which bytes would not.
    """
    return (digits_table(path)[:, :64].astype(np.float32) / 16).reshape(-1, 8, 8)


def digits_table(path: str) -> Array:
    """Reads the rows of scikit-learn's digits: 64 pixels and the digit."""
    text = gzip.decompress(Path(path).read_bytes())
    return np.array(text.replace(b"\n", b",").rstrip(b",").split(b","), dtype=np.float64).reshape(-1, 65)


def read_npy(path: str, _: str = "") -> Array:
    """Maps a .npy file into memory.

    Raises:
        DataError: the file is corrupt.
    """
    with refusing(_unreadable(path, ".npy", "save it again")):
        with open(path, "rb") as file:
            shape, dtype = _npy_header(file)
            _bytes_of(shape, dtype, Path(path).stat().st_size)
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def read_npz(path: str, name: str) -> Array:
    """Reads one array of an .npz file.

    Raises:
        DataError: the file is corrupt.
    """
    with refusing(_unreadable(path, ".npz", "save it again")), zipfile.ZipFile(path) as archive:
        member = archive.getinfo(name if name in archive.NameToInfo else f"{name}.npy")
        if member.file_size > member.compress_size * _RATIO + _CHUNK_BYTES:
            raise ValueError(f"{name} claims {member.file_size} bytes, which were never packed into it")
        with archive.open(member) as file:
            shape, dtype = _npy_header(file)
            _bytes_of(shape, dtype, member.file_size)
        with archive.open(member) as file:
            array: Array = np.lib.format.read_array(file, allow_pickle=False)
    return array


def npz_names(path: str) -> list[str]:
    """Returns the names of the arrays in an .npz file.

    Raises:
        DataError: it is none.
    """
    with refusing(_unreadable(path, ".npz", "save it with numpy.savez")), zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def _unreadable(path: str, kind: str, remedy: str) -> Callable[[str], DataError]:
    return lambda why: DataError(
        f"data.root: {path} could not be read as a numeric {kind} file ({why}); {remedy}"
    )


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def read_mrc(path: str, _: str = "") -> Array:
    """Maps a stack of particle images, [N, H, W] or a single image, into memory.

    Raises:
        DataError: the file is corrupt, or the package that reads it is not installed.
    """
    try:
        import mrcfile
    except ImportError as error:
        raise DataError(
            'data.dataset "mrc" needs the package mrcfile: install it with pip install "hpsearch[mrc]"'
        ) from error
    with refusing(
        lambda why: DataError(f"data.root: {path} could not be read as an MRC file ({why}); write it again")
    ):
        _refuse_long_header(Path(path))
        with mrcfile.mmap(path, mode="r") as stack:
            array: Array = stack.data
    return array[None] if array.ndim == 2 else array


def _refuse_long_header(path: Path) -> None:
    """Refuses an extended header that is longer than the file, before mrcfile takes memory for it.

    Raises:
        ValueError: it is longer; other faults of the header are left to mrcfile.
    """
    with path.open("rb") as file:
        header = file.read(216)
    order: Literal["little", "big"] = "big" if header[212:213] == b"\x11" else "little"
    extended = int.from_bytes(header[92:96], order, signed=True)
    if extended > path.stat().st_size:
        raise ValueError(f"its extended header claims {extended} bytes, more than the file has")


OPENERS: dict[str, Callable[[str, str], Array]] = {
    "digits": read_digits,
    "idx": read_idx,
    "npy": read_npy,
    "npz": read_npz,
    "mrc": read_mrc,
}


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
    targets, classes = to_targets(digits, request.spec.wanted_task, f"data.root: {path}", _NUMERALS)
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
    targets, classes = to_targets(values, request.spec.wanted_task, f"data.root: {train_y}", known)
    parts = np.repeat(np.array([FREE, TEST], np.int8), [len(part) for part in labels])
    return Catalogue(images, targets, classes, parts, hashes)
