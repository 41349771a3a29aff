"""How optimistic a search's best value is: searches with `studies/digits.toml`, each confirmed.

    python -m tests.benchmarks.optimism --searches 10 --trials 32 --folder FOLDER

Each search has its own seed, and so its own initial weights, data order and proposals; the data and their
parts are the same. Printed: for each search its best validation loss, the mean of that configuration trained
anew, the difference, which is the optimism, and what was to be expected (`hpsearch.search.expectation`) with its
80 % interval; then the mean optimism with its 95 % interval over the searches (above 0, searches promise too
much), how often the 80 % interval holds the confirmed value, how often the first of `--top` is still the best, by
the search's values and by the expected ones, and how the report words it. The test part stays closed.

What is finished stays in FOLDER: the same command goes on where an earlier one was broken off, and searches
nothing twice. Without a folder everything is thrown away at the end.

    python -m tests.benchmarks.optimism --small 120 --searches 10

Ways to choose among random configurations on so many images for training and validation, drawn anew for each search:
by one validation part of a fifth, by `data.split.folds = 5`, and by one part with `confirm --folds 5` of the three
best. All spend `--trainings` trainings of a model to its end, so that folds see a fifth of the configurations. What is
chosen is trained on all images, as `refit` does, up to the epoch that was best; its error on the other 1,600 or so is
the mean of two trainings. Each configuration is trained once on each fold; then 200 orders of them, and each fold as
the one part, are replayed. Printed: by search the mean and the worst error of each way; then their means with standard
errors, and the differences from the first way over the same searches.
"""

import argparse
import json
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from hpsearch.contracts.engine import Engine
from hpsearch.contracts.executor import Workers
from hpsearch.contracts.trial import EpochResult, TrialRun
from hpsearch.errors import StudyNotFound
from hpsearch.results.confirm.confirm import confirm
from hpsearch.results.confirm.statistics import summarize
from hpsearch.results.stored.answer import SUMMARY
from hpsearch.results.stored.reading import reading_study
from hpsearch.search.expectation import Expectation, expect
from hpsearch.service.launch import RunOptions
from hpsearch.service.run import run
from hpsearch.store.connection import open_storage
from hpsearch.store.study_data import DataRecord
from hpsearch.study import StudySpec, parse_study
from hpsearch.study.file import load_study_file
from hpsearch.training.build import build_engine

STUDY = Path(__file__).parents[2] / "studies" / "digits.toml"


@dataclass(frozen=True, slots=True)
class Wanted:
    searches: int
    trials: int
    top: int
    repeats: int
    workers: int


@dataclass(frozen=True, slots=True)
class Found:
    """What one search and its confirmation gave; `seconds` is None where it was finished before."""

    promised: float
    optimism: float
    stays: bool
    expected: Expectation
    first_expected_stays: bool
    findings: tuple[str, ...]
    seconds: tuple[float, float] | None


def arguments() -> tuple[Wanted, Path | None]:
    parser = argparse.ArgumentParser(description="The optimism of searches on the digits.")
    parser.add_argument("--searches", type=int, default=10)
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--top", type=int, default=3, help="configurations confirmed in each search")
    parser.add_argument("--repeats", type=int, default=5, help="trainings of each configuration")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--small", type=int, metavar="IMAGES", help="compare ways to choose on so few images")
    parser.add_argument("--trainings", type=int, default=40, help="of single models, for each way")
    parser.add_argument("--folder", type=Path, help="where all is kept, so that it can be gone on with")
    given = parser.parse_args()
    if given.small:
        small(given.small, given.searches, given.trainings)
        sys.exit()
    return Wanted(given.searches, given.trials, given.top, given.repeats, given.workers), given.folder


FOLDS, EPOCHS, TOP, REFITS = 5, 15, 3, 2
WAYS = ("one part", "folds", "one part, then folds")


def small(images: int, searches: int, trainings: int) -> None:
    torch.set_num_threads(1)
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for seed in range(searches):
        with tempfile.TemporaryDirectory() as place:
            val, test = small_curves(images, seed, trainings, Path(place))
        for way, outcome in replayed(val, test, trainings, np.random.default_rng(seed)).items():
            found[way].append(outcome)
        shown = (f"{way} {rows[-1][0]:.2%}, worst {rows[-1][1]:.2%}" for way, rows in found.items())
        print(f"seed {seed}: {'; '.join(shown)}", flush=True)
    plain = [mean for mean, _ in found[WAYS[0]]]
    for way, rows in found.items():
        means = [mean for mean, _ in rows]
        apart = [one - other for one, other in zip(means, plain, strict=True)]
        one, gain = summarize(means), summarize(apart)
        error, spread = (100 * (each.std or 0) / each.n**0.5 for each in (one, gain))
        print(
            f"{way}: test error {100 * one.mean:.2f} % (standard error {error:.2f}), worst search "
            f"{max(worst for _, worst in rows):.2%}; against {WAYS[0]} {100 * gain.mean:+.2f} ({spread:.2f}), from "
            f"{100 * min(apart):+.2f} to {100 * max(apart):+.2f}"
        )


def small_curves(images: int, seed: int, trainings: int, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns validation losses by configuration, fold and epoch, and test errors by configuration and epoch."""
    x, y = load_digits(return_X_y=True)
    x, rng = (x.reshape(-1, 8, 8) * 15.9).astype(np.uint8), np.random.default_rng(seed)
    some = train_test_split(np.arange(len(y)), train_size=images, stratify=y, random_state=seed)
    np.savez(folder / "some.npz", x=x[some[0]], y=y[some[0]])
    np.savez(folder / "whole.npz", x_train=x[some[0]], y_train=y[some[0]], x_val=x[some[1]], y_val=y[some[1]])
    tree: dict[str, Any] = {
        "study": {"name": "small", "seed": seed},
        "model": {"name": "mlp"},
        "train": {"optimizer": "adamw", "epochs": EPOCHS},
        "checkpoint": {"every_seconds": 1e6},
        "search": {
            "learning_rate": {"low": 1e-4, "high": 0.1, "log": True},
            "batch_size": [8, 16, 32],
            "model.args.dropout": {"low": 0.0, "high": 0.7},
            "train.weight_decay": {"low": 1e-5, "high": 1.0, "log": True},
            "train.label_smoothing": {"low": 0.0, "high": 0.3},
        },
    }
    split = {"train": 0.8, "val": 0.2, "test": 0.0}
    data = {"dataset": "npz", "root": str(folder / "some.npz"), "split": {**split, "folds": FOLDS}}
    folds = parse_study({**tree, "data": data})
    whole = parse_study(
        {**tree, "data": {"dataset": "npz", "root": str(folder / "whole.npz"), "split": split}}
    )
    engines = [
        build_engine(one, torch.device("cpu"), cache=str(folder / "cache"))[0] for one in (folds, whole)
    ]

    def curve(engine: Engine, number: int, spec: StudySpec, metric: str) -> list[float]:
        engine.admit(TrialRun("small", number, 1, {}, spec, str(folder / "trial")))
        epochs = [engine.step()[0] for _ in range(EPOCHS)]
        engine.clear()
        return [float(one.metrics[metric]) for one in epochs if isinstance(one, EpochResult)]

    val, test = [], []
    for number in range(trainings):
        hparams = {
            "learning_rate": float(10 ** rng.uniform(-4, -1)),
            "batch_size": int(rng.choice([8, 16, 32])),
            "model.args.dropout": float(rng.uniform(0, 0.7)),
            "train.weight_decay": float(10 ** rng.uniform(-5, 0)),
            "train.label_smoothing": float(rng.uniform(0, 0.3)),
        }
        alone = folds.with_hparams(hparams).each_fold()
        val.append([curve(engines[0], number, one, "val_loss") for one in alone])
        refits = range(number * REFITS, number * REFITS + REFITS)
        again = [curve(engines[1], refit, whole.with_hparams(hparams), "val_error") for refit in refits]
        test.append(np.mean(again, 0))
    return np.array(val), np.array(test)


def replayed(
    val: np.ndarray, test: np.ndarray, trainings: int, rng: np.random.Generator
) -> dict[str, tuple[float, float]]:
    """Returns by way the mean and the worst test error of what it chooses, over orders and parts."""
    mean, found = val.mean(1), dict[str, list[float]]({way: [] for way in WAYS})
    for _ in range(200):
        order = rng.permutation(trainings)
        few = order[: trainings // FOLDS]
        best = few[mean[few].min(1).argmin()]
        found["folds"].append(test[best, mean[best].argmin()])
        for part in range(FOLDS):
            losses = val[:, part]
            best = order[losses[order].min(1).argmin()]
            found["one part"].append(test[best, losses[best].argmin()])
            some = order[: trainings - TOP * FOLDS]
            first = some[np.argsort(losses[some].min(1))[:TOP]]
            best = first[val[first].min(2).mean(1).argmin()]
            epoch = int(np.median(val[best].argmin(1)))
            found["one part, then folds"].append(test[best, epoch])
    return {way: (float(np.mean(errors)), float(np.max(errors))) for way, errors in found.items()}


def study(seed: int, wanted: Wanted) -> StudySpec:
    tree = load_study_file(STUDY).model_dump()
    # The trials are part of the name: another number of them is another search.
    tree["study"] |= {"name": f"digits-{wanted.trials}-{seed}", "trials": wanted.trials, "seed": seed}
    return parse_study(tree, source=str(STUDY))


def options_in(folder: Path, workers: int) -> RunOptions:
    return RunOptions(
        storage=f"sqlite:///{folder.absolute()}/optimism.db",
        run_folder=folder / "runs",
        workers=Workers(gpus="none", workers=workers),
    )


def search(seed: int, wanted: Wanted, options: RunOptions) -> Found:
    spec = study(seed, wanted)
    earlier = stored_summary(spec.study.name, options.storage)
    if is_whole(earlier, wanted):
        return found_in(spec, options.storage, earlier, None)
    begun = time.perf_counter()
    if run(spec, options).can_go_on:
        sys.exit(f"search {seed} was interrupted; the same command goes on with it")
    searched = time.perf_counter()
    outcome = confirm(spec.study.name, options, top=wanted.top, seeds=wanted.repeats, test=False)
    if outcome.confirmation is None:
        sys.exit(f"search {seed}: {outcome.message}")
    seconds = searched - begun, time.perf_counter() - searched
    return found_in(spec, options.storage, dict(outcome.stored), seconds)


def stored_summary(name: str, url: str) -> dict:
    try:
        with reading_study(name, url) as opened:
            return json.loads(opened.attrs.get(SUMMARY, "{}"))
    except StudyNotFound:
        return {}


def is_whole(summary: dict, wanted: Wanted) -> bool:
    return summary.get("seeds") == wanted.repeats and len(summary["optimism"]) == wanted.top


def found_in(spec: StudySpec, url: str, summary: dict, seconds: tuple[float, float] | None) -> Found:
    rows = {row["trial"]: row for row in summary["optimism"]}
    means = {trial: row["search"] + row["mean"] for trial, row in rows.items()}
    expected = expectations(spec, url, list(rows))
    first = min(expected, key=lambda trial: expected[trial].value)
    row = rows[summary["search_first"]]
    return Found(
        promised=row["search"],
        optimism=row["mean"],
        stays=summary["first_stays_first"],
        expected=expected[summary["search_first"]],
        first_expected_stays=first == min(means, key=means.__getitem__),
        findings=tuple(one["finding"] for one in summary["findings"]),
        seconds=seconds,
    )


def expectations(spec: StudySpec, url: str, numbers: list[int]) -> dict[int, Expectation]:
    """Returns what is expected of trials of a search that has ended."""
    study = optuna.load_study(study_name=spec.study.name, storage=open_storage(url))
    data, trials = DataRecord(), study.get_trials(deepcopy=False)
    data.load(study.user_attrs)
    found = {number: expect(spec, trials, trials[number], data.facts) for number in numbers}
    return {number: one for number, one in found.items() if one is not None}


def line(seed: int, found: Found) -> str:
    spent = (
        f"search {found.seconds[0]:.0f} s, confirmation {found.seconds[1]:.0f} s" if found.seconds else "kept"
    )
    return (
        f"seed {seed}: best {found.promised:.4f}, confirmed {found.promised + found.optimism:.4f}, optimism "
        f"{found.optimism:+.4f}, expected {found.expected.value:.4f} ({found.expected.low:.4f} to "
        f"{found.expected.high:.4f}), first {'stays' if found.stays else 'changes'} ({spent})"
    )


def report(all_found: list[Found], wanted: Wanted) -> list[str]:
    total = summarize([found.optimism for found in all_found])
    share = total.mean / summarize([found.promised for found in all_found]).mean
    spread = f", std {total.std:.4f}" if total.std is not None else ""
    interval = f"{total.low:+.4f} to {total.high:+.4f}" if total.low is not None else "-"
    stayed = sum(found.stays for found in all_found)
    confirmed = [found.promised + found.optimism for found in all_found]
    bias = sum(found.expected.value for found in all_found) / sum(confirmed) - 1
    held = sum(
        one.expected.low <= mean <= one.expected.high for one, mean in zip(all_found, confirmed, strict=True)
    )
    return [
        f"{total.n} searches of {wanted.trials} trials; {wanted.top} configurations x {wanted.repeats} repeats each",
        f"torch {torch.__version__}, CPU, {wanted.workers} workers",
        f"mean optimism of val_loss {total.mean:+.4f} ({share:+.0%} of the promised value){spread}, 95 % "
        f"interval over the searches {interval}",
        f"the expected value is {bias:+.0%} off the confirmed one; its 80 % interval holds that in {held} of {total.n}",
        f"the search's best is still the best in {stayed} of {total.n}; of the same configurations, the one with the "
        f"best expected value in {sum(found.first_expected_stays for found in all_found)}",
        "",
        "the report of the last search says:",
        *(f"  * {finding}" for finding in all_found[-1].findings),
    ]


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    wanted, folder = arguments()
    all_found = []
    with tempfile.TemporaryDirectory() if folder is None else nullcontext(folder) as place:
        Path(place).mkdir(parents=True, exist_ok=True)
        options = options_in(Path(place), wanted.workers)
        for seed in range(wanted.searches):
            all_found.append(search(seed, wanted, options))
            print(line(seed, all_found[-1]), flush=True)
    print("\n".join(report(all_found, wanted)))


if __name__ == "__main__":
    main()
