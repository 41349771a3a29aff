"""What calibration by a validation part gains and costs, where the truth is known.

    python -m tests.benchmarks.temperature [--repeats 40]

Draws logits whose softmax is the truth, and gives them to the calibration multiplied by a factor, as a model that is
too certain (above 1) or too doubtful would. One line for each size of the validation part: how much the temperature
changes the logarithmic loss on fresh images (below 0 is a gain), the mean over all models, of those that were right
(factor 1), and the worst of any model, beside what the images alone would have chosen.
"""

import argparse
from collections.abc import Callable
from itertools import product
from math import log

import torch
from torch import Tensor
from torch.nn import functional

from hpsearch.training.calibration import temperature

FACTORS = (0.33, 0.5, 0.7, 1.0, 1.5, 2.0, 4.0)
SPREADS = (1.0, 2.0, 4.0, 8.0, 16.0)
SIZES = (12, 31, 100, 500, 2000)
GRID = torch.linspace(log(0.05), log(20), 121).exp().tolist()


def drawn(images: int, classes: int, spread: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns logits whose softmax is the truth, and classes drawn from it."""
    logits = spread * torch.randn(images, classes, generator=generator, dtype=torch.float64)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


def by_images_alone(logits: Tensor, targets: Tensor) -> float:
    """Returns the temperature of the lowest loss."""
    return min(GRID, key=lambda heat: functional.cross_entropy(logits / heat, targets).item())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=40)
    repeats = parser.parse_args().repeats
    generator = torch.Generator().manual_seed(1)
    rules: dict[str, Callable[[Tensor, Tensor], float]] = {"ours": temperature, "alone": by_images_alone}
    print("images  rule   mean     factor 1  worst")
    for size in SIZES:
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in rules}
        for classes, spread, factor in product((2, 10), SPREADS, FACTORS):
            fresh, targets = drawn(2_000, classes, spread, generator)
            errors = (fresh.argmax(1) != targets).double().mean().item()
            changes: dict[str, list[float]] = {name: [] for name in rules}
            for _ in range(max(2, repeats * 12 // size)):
                logits, own = drawn(size, classes, spread, generator)
                for name, rule in rules.items():
                    heat = rule(factor * logits, own)
                    after, before = (
                        functional.cross_entropy(factor * fresh / one, targets).item() for one in (heat, 1.0)
                    )
                    changes[name].append(after - before)
            for name, values in changes.items():
                found[name].append((sum(values) / len(values), factor, errors))
        for name, rows in found.items():
            right = [change for change, factor, _ in rows if factor == 1]
            worst = max(rows)
            print(
                f"{size:6}  {name:5}  {sum(row[0] for row in rows) / len(rows):+.4f}  {sum(right) / len(right):+.4f}   "
                f"{worst[0]:+.4f} (factor {worst[1]:g}, {worst[2]:.0%} errors)",
                flush=True,
            )


if __name__ == "__main__":
    main()
