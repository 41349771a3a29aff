"""Which of two values is better: the only place where minimising and maximising differ."""

from collections.abc import Iterable
from typing import Literal

Direction = Literal["minimize", "maximize"]


def sign(direction: str) -> float:
    """Returns what values are multiplied by so that the least is the best."""
    return -1.0 if direction == "maximize" else 1.0


def is_better(direction: str, value: float, other: float) -> bool:
    """Says whether a value is strictly better than another."""
    return sign(direction) * value < sign(direction) * other


def best(direction: str, values: Iterable[float]) -> float:
    """Returns the best of some values."""
    return min(values, key=lambda value: sign(direction) * value)
