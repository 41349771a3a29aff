"""What a trial takes beside what it reaches, and the limits that a study may set to it.

The model's size, its multiplications and its latency are known when it is built, before an epoch is trained; the
seconds grow while it trains.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BUILT = ("parameters", "macs", "latency_ms")
"""Known when a model is built: its weights; the multiply-accumulate operations for one image; the milliseconds that the
trial's own device takes for one image."""

SECONDS = "seconds"
"""Of training, validation and checkpoints, all epochs so far."""

TAKEN = (*BUILT, SECONDS)

_LIMIT = re.compile(r"\s*(<=?)\s*(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)\s*")


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that a trial may take.

    Attributes:
        strict: whether even `most` is too much.
    """

    most: float
    strict: bool

    @classmethod
    def of(cls, text: Any) -> "Limit":
        """Returns the limit that a study file writes as "< 1e6" or "<= 1e6".

        Raises:
            ValueError: it is written otherwise.
        """
        match = _LIMIT.fullmatch(text) if isinstance(text, str) else None
        if match is None or not 0 < float(match[2]) < math.inf:
            raise ValueError(f'{text!r} is not a limit; write "< 1e6" or "<= 1e6", with a number above 0')
        return cls(float(match[2]), match[1] == "<")

    def allows(self, value: float) -> bool:
        """Says whether a trial may take so much; NaN it may not."""
        return value < self.most or (value == self.most and not self.strict)

    def excess(self, value: float) -> float:
        """Returns how far a value that is not allowed lies above the limit, as the logarithm of their ratio.

        Above 0, as Optuna wants it of a constraint that is violated.
        """
        ratio = value / self.most
        return math.log(ratio) if 1 < ratio < math.inf else 1e-9 if ratio == 1 else 1e9


def taken(attrs: Mapping[str, Any]) -> dict[str, float]:
    """Returns what a trial takes, as far as its user attributes tell."""
    found = {name: attrs.get(name) for name in TAKEN}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
