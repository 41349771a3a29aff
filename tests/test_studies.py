"""The studies of the project: every file, and every fragment in their README, can be trained."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from hpsearch.errors import StudyFileError
from hpsearch.service.inprocess import InProcessExecutor
from hpsearch.service.run import run
from hpsearch.spec import load_study_file, parse_study
from hpsearch.spec.study import StudySpec
from tests.results.digits import options_in
from tests.scenes import BROKEN, ORIGINAL, TWIN, write_scenes

ROOT = Path(__file__).parents[1]
STUDIES = ROOT / "studies"
README = (STUDIES / "README.md").read_text(encoding="utf-8")


def titled_fragments() -> Iterator[tuple[str, str]]:
    """Yields the title (in bold) and the text of every TOML block of the README."""
    for section in re.split(r"\n(?=\*\*)", README)[1:]:
        title, body = section[2:].split(".**", 1)
        blocks = re.findall(r"```toml\n(.*?)```", body, re.DOTALL)
        yield from ((title, block) for block in blocks)


FRAGMENTS = dict(titled_fragments())


def laid_over_digits(fragment: str) -> dict[str, Any]:
    """Returns the digits study with a fragment's keys in place of its own, and its `[search]` if it has one."""
    tree = tomllib.loads((STUDIES / "digits.toml").read_text(encoding="utf-8"))
    for name, table in tomllib.loads(fragment).items():
        whole = name in ("search", "early_stopping", "pruner")
        tree[name] = table if whole else {**tree.get(name, {}), **table}
    return tree


def test_every_technique_has_one_fragment() -> None:
    assert len(FRAGMENTS) == len(list(titled_fragments())) == README.count("```toml")
    assert len(FRAGMENTS) >= 20
    for title, fragment in FRAGMENTS.items():
        assert tomllib.loads(fragment), title


def trial_of(spec: StudySpec) -> StudySpec:
    """Returns one trial of a study, with the last value of everything that is searched, cut to one epoch."""
    hparams = {
        name: entry.labels()[-1] if hasattr(entry, "labels") else entry.high
        for name, entry in spec.search.items()
        if name != "epochs"
    }
    resolved = spec.with_hparams(hparams)
    few = {"epochs": 1, "steps_per_epoch": resolved.train.steps_per_epoch or 20, "warmup_epochs": 0.0}
    return resolved.model_copy(update={"train": resolved.train.model_copy(update=few)})


@pytest.mark.parametrize("title", FRAGMENTS)
def test_every_fragment_trains(title: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    import torch

    from hpsearch.spec.trial import EndKind, EpochResult, TrialRun
    from hpsearch.training.build import build_engine

    spec = trial_of(parse_study(laid_over_digits(FRAGMENTS[title])))
    cache = tmp_path_factory.getbasetemp() / "cache"
    engine, facts = build_engine(spec, torch.device("cpu"), cache=str(cache))
    assert facts is not None
    assert facts.train > 0
    engine.admit(TrialRun("digits", 0, 1, {}, spec, str(tmp_path)))
    (result,) = engine.step()
    assert isinstance(result, EpochResult), result
    assert result.metrics["val_loss"] > 0
    assert engine.evict(0, EndKind.FINISHED).weights
    engine.close()


def hpsearch(*arguments: object, cwd: Path) -> str:
    """Runs a command line as a user does; returns what it printed."""
    command = [sys.executable, "-m", "hpsearch", *map(str, arguments)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("HPSEARCH_")}
    env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=140)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def finished(folder: Path, name: str) -> list[optuna.trial.FrozenTrial]:
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/runs/hpsearch.db")
    assert all(trial.state.name in ("COMPLETE", "PRUNED") for trial in study.trials)
    return study.trials


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("day_night") / "photos"
    write_scenes(folder, count=48)
    return folder


def test_scenes_are_the_same_for_the_same_seed(photos: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path, count=48)
    names = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.*"))
    assert names == sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    assert len(names) == 48 + 2
    assert all((photos / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)


@pytest.mark.slow
@pytest.mark.timeout(300)  # each runs two or three searches
def test_day_and_night_from_photographs_to_a_model(photos: Path, tmp_path: Path) -> None:
    where = ("--data-root", photos)
    told = hpsearch("check", STUDIES / "day_night.toml", *where, cwd=tmp_path)
    for words in (
        f"1 unreadable file skipped: night/{BROKEN}",
        "day 24, night 25",
        "pixels wide",
        "estimate",
    ):
        assert words in told
    assert re.search(rf"1 image is in two parts, such as night/({TWIN}|{ORIGINAL})", told)
    hpsearch("run", STUDIES / "day_night.toml", *where, "--trials", 3, "--workers", 1, cwd=tmp_path)
    trials = finished(tmp_path, "day_night")
    assert len(trials) == 3
    assert all(trial.value is not None and trial.value < 2.0 for trial in trials)
    assert all("data.augment.brightness.strength" in trial.params for trial in trials)
    assert list(tmp_path.glob("runs/day_night/weights/*.safetensors"))


@pytest.mark.slow
@pytest.mark.timeout(300)  # each runs two or three searches
def test_a_changed_folder_is_noticed(photos: Path, tmp_path: Path) -> None:
    mine = tmp_path / "photos"
    shutil.copytree(photos, mine)
    study = tmp_path / "small.toml"
    study.write_text(
        '[study]\ntrials = 1\nmetric = "val_error"\n'
        '[data]\ndataset = "folder"\nimage_size = 8\nskip_unreadable = true\n'
        "[train]\nepochs = 1\nbatch_size = 8\n[search]\nlearning_rate = [0.01]\n",
        encoding="utf-8",
    )
    hpsearch("run", study, "--data-root", mine, cwd=tmp_path)
    (trial,) = finished(tmp_path, "small")
    assert trial.value == trial.user_attrs["metrics_at_best"]["val_error"]
    (mine / "day" / "0000.jpg").unlink()
    with pytest.raises(AssertionError, match=r"the data are not those that the study began with \(train"):
        hpsearch("run", study, "--data-root", mine, "--trials", 2, cwd=tmp_path)
    assert len(finished(tmp_path, "small")) == 1


@pytest.mark.slow
@pytest.mark.timeout(300)  # each runs two or three searches
def test_an_own_loop_from_its_file_to_the_test_part(tmp_path: Path) -> None:
    folder = tmp_path / "studies"
    folder.mkdir()
    shutil.copy(STUDIES / "own_loop.py", folder)
    short = (STUDIES / "own_loop.toml").read_text(encoding="utf-8")
    short = short.replace("trials = 16", "trials = 3").replace("high = 20", "high = 6")
    (folder / "own_loop.toml").write_text(f"{short}\n[confirm]\ntop = 1\nseeds = 2\n", encoding="utf-8")
    hpsearch("run", folder / "own_loop.toml", "--workers", 1, cwd=tmp_path)
    trials = finished(tmp_path, "own_loop")
    assert len(trials) == 3
    assert all(0.2 <= trial.params["function.temperature"] <= 5.0 for trial in trials)
    assert min(trial.value for trial in trials if trial.value is not None) < 2.0
    told = hpsearch("confirm", folder / "own_loop.toml", "--workers", 1, cwd=tmp_path)
    assert "test_error" in told


def test_studies_are_valid_and_named_in_the_readme() -> None:
    files = sorted(STUDIES.glob("*.toml"))
    assert files
    for path in files:
        assert load_study_file(path).search
        assert f"({path.name})" in README


@pytest.mark.parametrize(
    ("study", "metric", "epochs", "words"),
    [
        ({}, "val_loss", 12, None),
        ({}, "val_error", 5, "val_error has not improved since 0.333333 at epoch 3"),
        ({"metric": "val_dice", "direction": "maximize"}, "val_dice", 7, "-val_dice has not improved"),
        ({"metric": "val_dice", "direction": "maximize"}, "val_error", 5, "val_error has not"),
    ],
)
def test_early_stopping_looks_at_the_metric_that_it_is_given(
    tmp_path: Path, study: dict[str, Any], metric: str, epochs: int, words: str | None
) -> None:
    tree = {
        "study": {"name": "s", "trials": 1, **study},
        "train": {"function": "tests.training.loops:disagrees"},
        "search": {"epochs": [12]},
        "early_stopping": {"patience": 2, "metric": metric},
    }
    summary = run(parse_study(tree), options_in(tmp_path), executor=InProcessExecutor())
    assert summary.best is not None
    assert summary.best.epochs_run == epochs
    assert summary.best.stop_reason == ("early_stopping" if words else "finished")
    assert (words or "") in summary.best.detail


def test_a_metric_for_stopping_that_the_loop_does_not_yield_ends_the_study(tmp_path: Path) -> None:
    tree = {
        "study": {"name": "s", "trials": 1},
        "train": {"function": "tests.training.loops:steady"},
        "search": {"epochs": [12]},
        "early_stopping": {"metric": "val_error"},
    }
    with pytest.raises(StudyFileError, match=r'early_stopping.metric: train.function yields no "val_error"'):
        run(parse_study(tree), options_in(tmp_path), executor=InProcessExecutor())
