"""Pictures that belong together, such as the frames of one film: told by their names, and by how alike they are.

Frames of the same moment in two parts flatter the validation, since one is examined by what the other taught.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from hpsearch.training.data.catalogue import Array
from hpsearch.training.data.labels import counting
from hpsearch.training.data.pictures import Unreadable, decode_all

BY_NAME = r"^(.*?[A-Za-z]?\d+)[-_ ]+[A-Za-z]*\d+\.\w+$"
"""The first number of two, such as e03 of e03-0012.jpg."""

BY_FOLDER = r"^(.+)[/\\]"
BY_BLOCKS = {r"^(.*?)\d{1,2}\.\w+$": 10, r"^(.*?)\d\.\w+$": 4}
"""A hundred or ten numbers in a row, where all pictures of a class are one series; with how many series a class needs.
Larger blocks have fewer edges, at which neighbours are torn apart, but so few would be a coarse split."""

HALF = 0.5
"""Of the difference to a picture of another series: a neighbour that differs by less is nearly the same picture."""

ALIKE = 0.75
"""Share of the pictures, from which on neighbours are taken for the same moment. It was 0.9 and more of frames in which
the camera had moved by up to a fifth of the picture, and 0.2 to 0.4 of scenes in no order."""

_LEAST = 5  # series
_LEAST_OF_CLASS = 3  # one for each part
_LEAST_PICTURES = 3  # of a series, on average
_PAIRS = 120  # that are looked at
_DRAWN = 50  # to find one of another series
_SIDE = (16, 16)


@dataclass(frozen=True, slots=True)
class PictureSeries:
    """What the pictures of one series share.

    Attributes:
        pattern: an expression whose first group is the same in their names.
        count: of the series.
        alike: share of the pictures whose neighbour in the series differs from them less than half as much as a picture
            of the same class in another series does; 0 if none could be compared.
    """

    pattern: str
    count: int
    alike: float

    @property
    def is_alike(self) -> bool:
        """Whether neighbours are nearly the same picture."""
        return self.alike >= ALIKE


def find_series(root: Path, names: Sequence[str], kinds: Sequence[Any]) -> PictureSeries | None:
    """Returns what keeps series together; None if names show none.

    Names with two numbers show some whatever the pictures are. Folders below the classes and names that are merely
    numbered do only where neighbours are nearly the same picture.

    Args:
        names: of the pictures, relative to the root.
        kinds: their classes, of which one series must not be all; equal where there are none.
    """
    for pattern, least in ({BY_FOLDER: _LEAST_OF_CLASS, BY_NAME: _LEAST_OF_CLASS} | BY_BLOCKS).items():
        groups = [match[1] if (match := re.search(pattern, name)) else None for name in names]
        if None in groups or not _fits(groups, kinds, least):  # a study refuses a name that gives no group
            continue
        found = PictureSeries(pattern, len({*groups}), _share_alike(root, names, kinds, groups))
        if found.is_alike or pattern == BY_NAME:
            return found
    return None


def _fits(groups: Sequence[Any], kinds: Sequence[Any], least: int) -> bool:
    """Whether these may be series: not classes, nor single pictures."""
    found = {*zip(kinds, groups, strict=True)}
    of_class = Counter(kind for kind, _ in found)
    return (
        _LEAST <= len({*groups}) <= len(groups) / _LEAST_PICTURES
        and min(of_class.values(), default=0) >= least
    )


def _share_alike(root: Path, names: Sequence[str], kinds: Sequence[Any], groups: Sequence[Any]) -> float:
    """Returns the share of pictures that are nearly the same as their neighbour, of some that are looked at."""
    triples = _triples(names, kinds, groups)
    wanted = sorted({row for triple in triples for row in triple})
    decoded = zip(wanted, decode_all(root, [names[row] for row in wanted], _SIDE, (3, 3)), strict=True)
    small = {row: picture for row, picture in decoded if not isinstance(picture, Unreadable)}
    seen = [
        _distance(small[one], small[other]) < HALF * _distance(small[one], small[far])
        for one, other, far in triples
        if {one, other, far} <= small.keys()
    ]
    return mean(seen) if seen else 0.0


def _triples(names: Sequence[str], kinds: Sequence[Any], groups: Sequence[Any]) -> list[tuple[int, int, int]]:
    """Returns pictures, each with its neighbour in the series and with one of the same class in another series."""
    generator = np.random.default_rng(0)
    of_kind = defaultdict[Any, list[int]](list)
    for row in sorted(range(len(names)), key=lambda row: counting(names[row])):
        of_kind[kinds[row]].append(row)
    pairs = [
        pair for rows in of_kind.values() for pair in pairwise(rows) if groups[pair[0]] == groups[pair[1]]
    ]
    triples = []
    for place in generator.permutation(len(pairs))[:_PAIRS].tolist():
        one, other = pairs[place]
        drawn = generator.permutation(of_kind[kinds[one]])[:_DRAWN].tolist()
        triples += [(one, other, row) for row in drawn if groups[row] != groups[one]][:1]
    return triples


def _distance(one: Array, other: Array) -> float:
    return float(np.abs(np.subtract(one, other, dtype=np.float64)).mean())
