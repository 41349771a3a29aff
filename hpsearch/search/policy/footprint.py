"""What models are going to take that have not been built: guessed from those that were.

The logarithm of what a model takes is fitted by a parabola along each axis of the cube: sizes are about products of
powers of widths and depths, and what they do not depend on comes out flat.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RIDGE = 1e-3
"""Weight of the squared coefficients, which are drawn to 0, per known model."""


def guess(known: Array, values: Array, units: Array) -> Array:
    """Returns what models take at some places.

    Args:
        known: places of models that were built, [N, width] with N of at least 1.
        values: what these take, [N, K], not negative.
        units: places [M, width].

    Returns:
        [M, K].
    """
    logs = np.log(np.maximum(values, 1e-9))
    middle = logs.mean(0)
    features, at = (np.hstack([x - 0.5, (x - 0.5) ** 2]) for x in (known, units))
    center = features.mean(0)
    features, at = features - center, at - center
    weights = np.linalg.solve(
        features.T @ features + RIDGE * len(known) * np.eye(features.shape[1]), features.T @ (logs - middle)
    )
    found: Array = np.exp(np.clip(middle + at @ weights, -700, 700))
    return found
