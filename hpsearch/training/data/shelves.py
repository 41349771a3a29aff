"""Decoded pictures that the cache holds already, found by their content.

What a picture decodes to depends on its file's content, the size and the channels alone. So an entry keeps,
beside its images, the hashes of their files, and whoever builds another entry of the same form takes from it
what both have: after a change of some files, or another split, only what is new is decoded.

Legend: n pictures, C channels, H height, W width.
"""

from pathlib import Path

import numpy as np

from hpsearch.training.data.cache import Cache, open_array
from hpsearch.training.data.catalogue import HASH_BYTES, Array, Size

VERSION = 2
"""Raised when images are decoded, or kept, in another way."""


def form(kind: str, size: Size, channels: int, tag: str = "") -> str:
    """Returns what the names of all entries with images of one form have in common.

    Args:
        tag: what sets them apart from bytes that were cut to their size.
    """
    return f"{kind}{VERSION}{tag}-{channels}x{size[0]}x{size[1]}"


class Shelves:
    """All pictures of one form that lie in the cache.

    Args:
        entries: how the keys of the entries begin.
    """

    def __init__(self, cache: Cache, form: str, entries: str = "*") -> None:
        found = list(filter(None, map(_open, cache.entries(f"{entries}-{form}-*"))))
        self._pictures = [pictures for _, pictures in found]
        self._ends = np.cumsum([len(pictures) for pictures in self._pictures])
        self._hashes = np.concatenate([np.empty((0, HASH_BYTES), np.uint8), *(hashes for hashes, _ in found)])
        keys = _keys(self._hashes)
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]

    def find(self, hashes: Array) -> Array:
        """Returns the place of each content, to be handed to `take`; -1 for those that are not here."""
        if not len(self._sorted):
            return np.full(len(hashes), -1)
        nearest = np.searchsorted(self._sorted, _keys(hashes)).clip(max=len(self._sorted) - 1)
        places = self._order[nearest]
        return np.where((self._hashes[places] == hashes).all(1), places, -1)

    def take(self, places: Array) -> Array:
        """Returns pictures of shape [n, C, H, W], n > 0."""
        owners = np.searchsorted(self._ends, places, side="right")
        taken = np.empty((len(places), *self._pictures[0].shape[1:]), self._pictures[0].dtype)
        for owner in np.unique(owners):
            mine = owners == owner
            pictures = self._pictures[owner]
            taken[mine] = pictures[places[mine] - (self._ends[owner] - len(pictures))]
        return taken


def _open(entry: Path) -> tuple[Array, Array] | None:
    try:
        return np.asarray(open_array(entry / "hashes.npy")), open_array(entry / "images.npy")
    except FileNotFoundError:  # taken away meanwhile
        return None


def _keys(hashes: Array) -> Array:
    """Returns the first half of each hash as a number."""
    return np.ascontiguousarray(hashes[:, :8]).view(np.uint64).reshape(-1)
