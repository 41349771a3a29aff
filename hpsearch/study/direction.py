"""Which of two values is better, the only place where minimising and maximising differ; with several goals, of points.

A point holds one value for each goal, lower is better. Those that no other one beats are the Pareto front.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

Direction = Literal["minimize", "maximize"]
Point = tuple[float, ...]


def sign(direction: str) -> float:
    """Returns what values are multiplied by so that the least is the best."""
    return -1.0 if direction == "maximize" else 1.0


def is_better(direction: str, value: float, other: float) -> bool:
    """Says whether a value is strictly better than another."""
    return sign(direction) * value < sign(direction) * other


def best(direction: str, values: Iterable[float]) -> float:
    """Returns the best of some values."""
    return min(values, key=lambda value: sign(direction) * value)


def covers(one: Point, other: Point) -> bool:
    """Says whether a point is at least as good as another in every goal."""
    return all(mine <= yours for mine, yours in zip(one, other, strict=True))


def beats(one: Point, other: Point) -> bool:
    """Says whether a point is at least as good as another in every goal, and better in one."""
    return one != other and covers(one, other)


def front(points: Mapping[int, Point]) -> list[int]:
    """Returns the keys of the points that no other beats, the best in the first goal first; of equal ones the first.

    >>> front({0: (1.0, 9.0), 1: (2.0, 3.0), 2: (2.0, 4.0), 3: (1.0, 9.0)})
    [0, 1]
    """
    found: list[int] = []
    # Whatever beats a point, or is equal to it and comes first, stands before it in this order.
    for key in sorted(points, key=lambda key: (points[key], key)):
        if not any(covers(points[kept], points[key]) for kept in found):
            found.append(key)
    return found
