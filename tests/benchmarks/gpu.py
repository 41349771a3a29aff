"""What a GPU gets out of hpsearch, and what it could: one command, a table, JSON.

    python -m tests.benchmarks.gpu [--json FILE] [--only loops,rules,epochs,profile,workers,search]
                                   [--limit 450] [--root FOLDER]
    python -m tests.benchmarks.gpu --device cpu --quick      checks the code, measures nothing worth keeping

Parts, in this order; each has its share of the limit and of what the parts before it left over. What is cut off
is named:
    loops     samples/s of the plain engine beside a bare loop (goal 90 %) and the common loop (goal 5x)
    rules     number types, memory order, cuDNN's choice, CUDA graphs and torch.compile, each on and off
    epochs    shares of validation and checkpoint in an epoch; how often the host waits for the device
    profile   the kernels that take most of an epoch's time
    workers   1, 2, 4 and 8 worker processes on one GPU: samples/s in all, and memory
    search    `hpsearch run` of 50 trials beside plain Optuna with a DataLoader loop, one process

Random images, but for the search if --root names the folder of FashionMNIST/; contestants take turns; medians
over the rounds after one of warm-up; CUDA events.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpsearch.training import device as devices
from tests.benchmarks.gpu_bench import Bench, Cases, Row
from tests.benchmarks.gpu_fleet import search, workers
from tests.benchmarks.gpu_parts import epochs, loops, profile, rules

PARTS: dict[str, Callable[[Bench], Cases]] = {
    "loops": loops, "rules": rules, "epochs": epochs, "profile": profile, "workers": workers, "search": search
}  # fmt: skip


def main() -> int:
    """Measures the parts asked for; returns 1 if something of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--loaders", type=int, default=4, help="workers of the DataLoaders")
    parser.add_argument("--limit", type=float, default=450.0, help="seconds for all parts together")
    parser.add_argument("--root", type=Path, help="folder of FashionMNIST/, for the search")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    facts = {"device": devices.describe(devices.choose(args.device)), **devices.versions()}
    print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
    found: dict[str, Any] = {"facts": facts, "quick": args.quick}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, Path(folder))
        found["left_out"], found["failed"] = bench.left_out, bench.failed
        parts = args.only.split(",")
        for place, name in enumerate(parts):
            began = time.monotonic()
            rows: list[Row] = []
            found[name] = rows
            bench.begin(name, parts[place + 1 :])
            bench.measure(name, PARTS[name](bench), rows)
            print(f"\n{name} ({time.monotonic() - began:.0f} s)", flush=True)
            show(rows)
            if args.json:
                args.json.write_text(json.dumps(found, indent=1))
    if bench.left_out:
        print("\nleft out:", "; ".join(bench.left_out))
    if bench.failed:
        print("\nfailed:", "; ".join(bench.failed), file=sys.stderr)
    return 1 if bench.failed else 0


def show(rows: list[Row]) -> None:
    """Prints rows as a table; one that lacks a column leaves it empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, *([_cell(row.get(name)) for name in columns] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    for line in lines:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)), flush=True)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


if __name__ == "__main__":
    sys.exit(main())
