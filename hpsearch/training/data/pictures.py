"""Pictures in files: looked at once, decoded in parallel, once at each size, and kept in the cache."""

import base64
import io
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from hpsearch.errors import DataError
from hpsearch.training.data.cache import Cache, read_json, whole, write_array, write_json
from hpsearch.training.data.catalogue import (
    HASH_BYTES,
    Array,
    Progress,
    Size,
    digest,
    hash_rows,
    ranks_of,
    told,
)
from hpsearch.training.data.decode import (
    BYTES,
    Form,
    depth,
    in_order,
    is_grey,
    open_picture,
    read_file,
    upright_size,
    values,
)
from hpsearch.training.data.pixels import to_channels
from hpsearch.training.data.store import Shelves, form

logger = logging.getLogger(__name__)


def as_png(image: Tensor, side: int) -> str:
    """Returns an image of [C, H, W] in [0, 1] as a PNG file in base64, its longer side at most so many pixels."""
    if len(image) not in (1, 3):  # no colours: microscopes' channels and the like
        image = image[:1]
    longest = max(image.shape[1:])
    if longest > side:
        size = [max(1, round(one * side / longest)) for one in image.shape[1:]]
        image = functional.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
    pixels = image.mul(255).round_().clamp_(0, 255).to(torch.uint8)
    file = io.BytesIO()
    array = pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)
    Image.fromarray(array.contiguous().numpy()).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


_THREADS = min(16, os.cpu_count() or 1)
_LARGE_THREADS = 4  # for pictures at their full size
_CHUNK_BYTES = 32 << 20

KIND = "files"


class FileImages:
    """Pictures in files, taken from the cache where they lie there decoded.

    Args:
        root: of the names; absolute.
        hashes: of the files' contents, uint8 of shape [N, HASH_BYTES].
        channels: 1 if all are grey, else 3.
        size: the one that the study asks for, or the pictures' own.
        source: number types of the files' values.
    """

    kind = KIND

    def __init__(
        self,
        cache: Cache,
        root: str,
        names: Sequence[str],
        hashes: Array,
        channels: int,
        size: Sequence[int],
        resize: str = "crop",
        dtype: str = "uint8",
        range: Sequence[float] | None = None,
        source: str = "uint8",
    ) -> None:
        self.channels = channels
        self.size: Size = (size[0], size[1])
        self.dtype = dtype
        self.source = source
        self.form = Form(resize, dtype, None if range is None else (range[0], range[1]))
        self._cache = cache
        self._root = root
        self._names = names
        self._hashes = hashes

    def __len__(self) -> int:
        return len(self._names)

    def take(self, rows: Array) -> "FileImages":
        names = [self._names[row] for row in rows.tolist()]
        fields = self.fields() | {"hashes": self._hashes[rows], "names": names}
        return FileImages(self._cache, **fields)

    @property
    def tag(self) -> str:
        return self.form.tag

    def chunks(self, size: Size, channels: int) -> Iterator[Array]:
        held = [
            Shelves(self._cache, form(KIND, size, kept, self.tag))
            for kept in dict.fromkeys((channels, self.channels))
        ]
        places = [shelves.find(self._hashes) for shelves in held]
        missing = np.flatnonzero(np.all([place < 0 for place in places], axis=0))
        wanted = (self._names[row] for row in missing.tolist())
        fresh = decode_all(Path(self._root), wanted, size, (self.channels, channels), self.form)
        step = max(1, _CHUNK_BYTES // (np.dtype(self.dtype).itemsize * channels * size[0] * size[1]))
        for start in range(0, len(self), step):
            stop = min(start + step, len(self))
            chunk = np.empty((stop - start, channels, *size), self.dtype)
            todo = np.ones(len(chunk), bool)
            for shelves, place in zip(held, places, strict=True):
                here = todo & (place[start:stop] >= 0)
                if here.any():
                    chunk[here] = to_channels(shelves.take(place[start:stop][here]), channels)
                todo &= ~here
            for row in np.flatnonzero(todo):
                chunk[row] = _still_there(next(fresh))
            yield chunk

    def fields(self) -> dict[str, Any]:
        return {
            "root": self._root,
            "channels": self.channels,
            "size": self.size,
            "resize": self.form.resize,
            "dtype": self.dtype,
            "range": self.form.range,
            "source": self.source,
        }


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A picture that cannot be decoded, and why."""

    path: Path
    reason: str


def decode_all(
    root: Path, names: Iterable[str], size: Size, channels: tuple[int, int], form: Form = BYTES
) -> Iterator[Array | Unreadable]:
    """Yields pictures of shape [C, H, W] in order.

    Args:
        channels: to decode, and to keep: grey is made of colour, so that it is the same whoever asks for it.
    """
    with ThreadPoolExecutor(1) as large:
        yield from in_order(partial(_decode, root, size, channels, form, large), names, _THREADS)


def _decode(
    root: Path, size: Size, channels: tuple[int, int], form: Form, large: Executor, name: str
) -> Array | Unreadable:
    try:
        picture = read_file(root / name, size, channels[0], large, form)
    except Exception as error:
        return Unreadable(root / name, why_unreadable(error))
    kept: Array = to_channels(picture[None], channels[1])[0]
    return kept


def _still_there(picture: Array | Unreadable) -> Array:
    if isinstance(picture, Unreadable):
        raise DataError(
            f"data.root: {picture.path} could be read before and cannot be now: {picture.reason}; put it back, "
            "or begin a new study without it"
        )
    return picture


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of a picture before it is decoded.

    Attributes:
        content: hash of its file.
        depth: number type of its values.
    """

    content: bytes
    size: Size
    grey: bool
    depth: str


def read_headers(root: Path, names: Sequence[str], progress: Progress | None) -> list[Header | str]:
    """Reads all files once; those that are no pictures give the reason."""
    return list(told(in_order(partial(_read_header, root), names, _THREADS), len(names), progress))


def _read_header(root: Path, name: str) -> Header | str:
    path = root / name
    if not path.is_file():  # a pipe would not be read to an end
        return "it is a link to a file that is not there" if path.is_symlink() else "it is not a regular file"
    try:
        with path.open("rb") as file:
            content = file_digest(file, partial(blake2b, digest_size=HASH_BYTES)).digest()
            file.seek(0)
            with Image.open(file) as image:
                return Header(content, upright_size(image), is_grey(image), depth(image))
    except Exception as error:
        return why_unreadable(error)


def why_unreadable(error: Exception) -> str:
    """Returns why a picture cannot be read; damaged files make Pillow raise whatever its decoders stumble on."""
    if isinstance(error, UnidentifiedImageError):
        return "it is empty, or no picture of a known kind"
    return str(error) or type(error).__name__


def highest_value(root: Path, names: Sequence[str], enough: float) -> float:
    """Returns the highest value of deep pictures; stops looking at one that reaches `enough`."""
    highest = 0.0
    for name in names:
        try:
            with open_picture(root / name) as image:
                highest = max(highest, float(values(image, root / name).max()))
        except Exception:  # damaged: decoding all pictures will say so
            continue
        if highest >= enough:
            break
    return highest


def decode_new(
    cache: Cache,
    root: Path,
    names: Sequence[str],
    hashes: Array,
    size: Size,
    channels: tuple[int, int],
    progress: Progress | None,
    decoded: Form = BYTES,
) -> dict[str, str]:
    """Decodes what the cache does not hold into an entry `decoded-...`, from which parts take their images.

    Args:
        channels: to decode, and to keep.
        decoded: what the pictures become.

    Returns:
        the names of those that cannot be decoded, with the reasons.

    Raises:
        DataError: the cache has no room for the pictures.
    """
    common = form(KIND, size, channels[1], decoded.tag)
    lacking = np.flatnonzero(Shelves(cache, common).find(hashes) < 0)
    _, first = np.unique(_whole(hashes[lacking]), return_index=True)
    rows = lacking[np.sort(first)]
    if not len(rows):
        return {}

    def build(folder: Path) -> None:
        kept, reasons = hashes[rows], {}
        blank = np.zeros((channels[1], *size), decoded.dtype)

        def pictures() -> Iterator[Array]:
            results = decode_all(root, (names[row] for row in rows.tolist()), size, channels, decoded)
            for place, result in enumerate(told(results, len(rows), progress)):
                if isinstance(result, Unreadable):
                    reasons[kept[place].tobytes().hex()] = result.reason
                    kept[place] = 0
                yield blank if isinstance(result, Unreadable) else result

        write_array(folder / "images.npy", (len(rows), channels[1], *size), decoded.dtype, pictures())
        write_array(folder / "hashes.npy", kept.shape, "uint8", [kept])
        write_json(folder / "reasons.json", reasons)

    weight = np.dtype(decoded.dtype).itemsize * channels[1] * size[0] * size[1] * (len(rows) + len(names))
    entry = cache.entry(f"decoded-{common}-{digest(hashes[rows])}", build, weight)
    with whole(entry):
        reasons: dict[str, str] = dict(read_json(entry / "reasons.json"))
    bad = {row: reasons.get(hashes[row].tobytes().hex()) for row in lacking.tolist()} if reasons else {}
    return {names[row]: reason for row, reason in bad.items() if reason is not None}


def _whole(hashes: Array) -> Array:
    return np.ascontiguousarray(hashes).view(f"V{HASH_BYTES}").reshape(-1)


def has_fresh(cache: Cache, size: Size, kept: int, tag: str) -> bool:
    """Whether pictures of this form were decoded that may not be in the entry of a part yet."""
    return bool(cache.entries(f"decoded-{form(KIND, size, kept, tag)}-*"))


def drop_copies(cache: Cache, size: Size, kept: int, tag: str) -> None:
    """Takes away what was decoded and lies in the entries of parts by now."""
    common = form(KIND, size, kept, tag)
    parts = Shelves(cache, common, "images")
    for entry in cache.entries(f"decoded-{common}-*"):
        try:
            hashes = np.load(entry / "hashes.npy")
        except FileNotFoundError:  # another process was first
            continue
        if (parts.find(hashes[hashes.any(1)]) >= 0).all():
            cache.remove(entry)


def hash_pixels(images: FileImages, kept: int, root: Path, names: Sequence[str], hashes: Array) -> Array:
    """Returns the hashes of the files, but those with the same pixels have that of the first of them.

    Files with the same picture differ where it was saved as PNG and as BMP, or with other metadata. What differs at
    the study's size differs; what is equal there may only have become so (two photographs of 8 x 8 pixels), so these
    few are compared at their full size. A JPEG much larger than the study's size and its copy in another format are
    not found: the decoder shrinks the one in a way that it cannot shrink the other.

    Args:
        images: decoded at their size and with `kept` channels, in the cache.
        names, hashes: of the files, in the same order.
    """
    small = ranks_of(np.concatenate([hash_rows(chunk) for chunk in images.chunks(images.size, kept)]))
    _, first, files = np.unique(ranks_of(hashes), return_index=True, return_inverse=True)
    alike = np.bincount(small[first])[small[first]] > 1
    chosen = first[alike]  # one of each content
    if not len(chosen):
        return hashes
    with ThreadPoolExecutor(1) as large:
        decode = partial(_digest_whole, root, images, large)
        full = list(in_order(decode, (names[row] for row in chosen.tolist()), _LARGE_THREADS))
    stands_for = np.arange(len(first))
    seen: dict[str, int] = {}
    for place, pixels in zip(np.flatnonzero(alike).tolist(), full, strict=True):
        stands_for[place] = seen.setdefault(pixels, place)
    return np.ascontiguousarray(hashes[first[stands_for[files]]])


def _digest_whole(root: Path, images: FileImages, large: Executor, name: str) -> str:
    """Returns a digest of a picture's own pixels, or its name if they cannot be had: it then has no twin."""
    try:
        picture = read_file(root / name, None, images.channels, large, images.form)
    except (OSError, ValueError, SyntaxError) as error:
        logger.warning("%s is not compared with others at its full size: %s", name, error)
        return name
    return digest(str(picture.shape), np.ascontiguousarray(picture))
