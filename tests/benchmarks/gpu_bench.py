"""What all parts of `tests/benchmarks/gpu.py` share: device, folder, sizes, the clock, and what went wrong."""

import argparse
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpsearch.training import device as devices
from tests.benchmarks.gpu_loops import CASES, Case

BATCHES = (32, 128, 512)
# Of the time limit; a case that has begun is ended, so a part may take a case longer.
SHARES = {"loops": 0.36, "rules": 0.12, "epochs": 0.08, "profile": 0.04, "workers": 0.24, "search": 0.16}
Row = dict[str, Any]
Cases = Iterator[tuple[str, Iterable[Row]]]
"""A part: names, and generators that measure when their rows are asked for."""


class Bench:
    """One run of the benchmark.

    Attributes:
        left_out: cases for which the time was up.
        failed: cases that ended with an exception.
    """

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        self.device = devices.choose(args.device)
        self.cuda = self.device.type == "cuda"
        self.quick, self.rounds = args.quick, 1 if args.quick else 3
        self.cases = {n: _small(case) if args.quick else case for n, case in CASES.items()}
        if self.quick:
            del self.cases["resnet50"]
        self.batches = (32,) if args.quick else BATCHES
        self.batch = 32 if args.quick else 128
        self.ends_at = time.monotonic() + args.limit
        self.part_ends_at = self.ends_at
        self.left_out: list[str] = []
        self.failed: list[str] = []

    def begin(self, part: str, following: list[str]) -> None:
        """Gives a part its share of the time that is left, in proportion to `SHARES`."""
        now = time.monotonic()
        shares = SHARES[part] + sum(SHARES[name] for name in following)
        self.part_ends_at = now + max(0.0, self.ends_at - now) * SHARES[part] / shares

    def late(self, what: str) -> bool:
        """Says whether the part's time is up, and notes what is left out because of it."""
        if time.monotonic() < self.part_ends_at:
            return False
        self.left_out.append(what)
        return True

    def measure(self, part: str, cases: Cases, rows: list[Row]) -> None:
        """Appends a part's rows; a case that fails takes no other's with it."""
        for name, measured in cases:
            if self.late(f"{part}: {name}"):
                continue
            try:
                for row in measured:
                    rows.append(row)
            except Exception:
                self.failed.append(f"{part}: {name}")
                traceback.print_exc()


def _small(case: Case) -> Case:
    return replace(case, samples=192, steps=3)
