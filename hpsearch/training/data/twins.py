"""The same picture in files that differ: saved as PNG and as BMP, or with other metadata.

What differs at the study's size differs; what is equal there may only have become so (two photographs of 8 x 8
pixels), so these few are compared at their full size. A JPEG much larger than the study's size and its copy in
another format are not found: the decoder shrinks the one in a way that it cannot shrink the other.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from hpsearch.training.data.catalogue import Array, digest, hash_rows, ranks_of
from hpsearch.training.data.decode import read_file
from hpsearch.training.data.pictures import FileImages
from hpsearch.training.data.threads import in_order

logger = logging.getLogger(__name__)

_THREADS = 4


def hash_pixels(images: FileImages, kept: int, root: Path, names: Sequence[str], hashes: Array) -> Array:
    """Returns the hashes of the files, but those with the same pixels have that of the first of them.

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
        decode = partial(_decode, root, images, large)
        full = list(in_order(decode, (names[row] for row in chosen.tolist()), _THREADS))
    stands_for = np.arange(len(first))
    seen: dict[str, int] = {}
    for place, pixels in zip(np.flatnonzero(alike).tolist(), full, strict=True):
        stands_for[place] = seen.setdefault(pixels, place)
    return np.ascontiguousarray(hashes[first[stands_for[files]]])


def _decode(root: Path, images: FileImages, large: Executor, name: str) -> str:
    """Returns a digest of a picture's own pixels, or its name if they cannot be had: it then has no twin."""
    try:
        picture = read_file(root / name, None, images.channels, large, images.form)
    except (OSError, ValueError, SyntaxError) as error:
        logger.warning("%s is not compared with others at its full size: %s", name, error)
        return name
    return digest(str(picture.shape), np.ascontiguousarray(picture))
