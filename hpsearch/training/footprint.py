"""What a model takes, measured when it is built: weights, multiplications, and the time for one image."""

import time
from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn

WARM_UP, LEAST, ENOUGH = 3, 10, 0.05
"""Images before the clock counts; then at least so many, and so many seconds."""
MOST = 1_000


def measure(
    names: Collection[str], model: nn.Module, predict: Callable[[Tensor], Tensor], image: Tensor
) -> dict[str, float]:
    """Returns what a model takes, by the names of `hpsearch.study.footprint.BUILT`; it changes nothing of it.

    Args:
        predict: the model as it is validated; in evaluation mode.
        image: a batch of one, [1, channels, height, width], on the model's device.
    """
    found: dict[str, float] = {}
    with torch.no_grad():
        if "parameters" in names:
            found["parameters"] = sum(parameter.numel() for parameter in model.parameters())
        if "macs" in names:
            from torch.utils.flop_counter import FlopCounterMode  # loads Triton, a tenth of a worker's start

            with FlopCounterMode(display=False) as counter:
                model(image)
            found["macs"] = counter.get_total_flops() // 2  # a multiplication and an addition each
        if "latency_ms" in names:
            found["latency_ms"] = 1e3 * _latency(predict, image)
    return {name: found[name] for name in names}


def _latency(predict: Callable[[Tensor], Tensor], image: Tensor) -> float:
    """Returns the median time for one image, in seconds."""
    for _ in range(WARM_UP):
        _timed(predict, image)
    times: list[float] = []
    while len(times) < MOST and (len(times) < LEAST or sum(times) < ENOUGH):
        times.append(_timed(predict, image))
    return sorted(times)[len(times) // 2]


def _timed(predict: Callable[[Tensor], Tensor], image: Tensor) -> float:
    began = time.perf_counter()
    predict(image)
    if image.device.type == "cuda":
        torch.cuda.synchronize(image.device)
    return time.perf_counter() - began
