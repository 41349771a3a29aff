"""The studies of the project: every file, and every fragment in their README, can be trained."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from hpsearch.__main__ import run as run_command
from hpsearch.errors import DataError, StudyFileError
from hpsearch.results.confirm.confirm import confirm
from hpsearch.results.plots.curves import batch_size_curves
from hpsearch.service.run import run
from hpsearch.study import load_study_file, parse_study
from hpsearch.study.checks import check_study_against, corners
from hpsearch.study.specification import StudySpec
from hpsearch.testing.in_process import InProcessExecutor
from tests.materials import make_materials
from tests.results.digits import options_in
from tests.results.searches import record_of
from tests.scenes import BROKEN, ORIGINAL, TWIN, write_scenes

ROOT = Path(__file__).parents[1]
STUDIES = ROOT / "studies"
README = (STUDIES / "README.md").read_text(encoding="utf-8")

TECHNIQUES: dict[str, tuple[str, ...]] = {
    "the GPU if there is one, tensors to the device": ("Device",),
    "number types, and which exist on which device": ("Number types",),
    "memory shared between NumPy and tensors": (
        "Arrays without copies, height-width-channel or channel first",
    ),
    "height-width-channel against channel-first images": (
        "Arrays without copies, height-width-channel or channel first",
    ),
    "freezing layers": (
        "Freezing layers",
        "In stages",
        "Which layers",
        "Pretrained weights",
        "Published weights",
    ),
    "data sets: folders of photographs, tables of labels, arrays, stacks, one's own": (
        "Photographs in folders",
        "Labels in a table",
        "Several labels of a picture",
        "Your own data set",
        "More pictures than memory",
        "Numbers instead of classes",
        "Stacks of particle images",
    ),
    "more data against more time": ("More data against more time",),
    "train, validation, test": (
        "Train, validation and test",
        "Few pictures: folds",
        "Pictures that belong together",
    ),
    "augmentation": (
        "Augmentation",
        "Augmentation of photographs",
        "How much augmentation",
        "Mixing pictures",
    ),
    "Rescale, RandomCrop, ToTensor": ("Rescale, random crop, to tensor",),
    "image size against cost, progressive resizing": ("Image size against cost", "Progressive resizing"),
    "the loop: epochs, batches, iterations, learning rate": (
        "Gradient steps",
        "Iterations per epoch",
        "On or off",
    ),
    "full batch, mini-batch, single sample, and the picture that compares them": (
        "Full batch, mini-batch, single sample",
    ),
    "losses: 0-1, squared, absolute, logarithmic": ("Losses", "Parts of your own"),
    "labels of doubtful quality": ("Labels of doubtful quality", "Rare classes"),
    "under-fitting, optimum, over-fitting": ("Under-fitting, optimum, over-fitting",),
    "early stopping with different criteria, as a callback": (
        "Early stopping",
        "Early stopping by another metric",
        "Early stopping as a callback",
        "The same criteria in a study of your own",
        "What a stopped trial counts as",
    ),
    "hyperparameter optimisation": (
        "Pausing",
        "Searching as in Optuna",
        "Where a field has a meaning",
        "The commands as functions",
        "Trials that you choose",
        "When the study is enough",
        "Only models that are small or fast enough",
        "Two or three goals",
        "Known-good points first",
        "Longer, from where it ended",
        "Checkpoints, and when a crash is too many",
    ),
    "telling day from night in a photograph": ("Day or night", "A small network for photographs"),
    "comparing models on the test part at the end": (
        "Comparing models at the end",
        "Several models as one",
    ),
}
"""What the service was asked for, and the README's fragments that show it."""


def titled_blocks(kind: str) -> Iterator[tuple[str, str]]:
    """Yields the title (in bold) and the text of every block of a kind in the README."""
    for section in re.split(r"\n(?=\*\*)", README)[1:]:
        title, body = section[2:].split(".**", 1)
        blocks = re.findall(rf"```{kind}\n(.*?)```", body, re.DOTALL)
        yield from ((title, block) for block in blocks)


FRAGMENTS = dict(titled_blocks("toml"))
PROGRAMS = dict(titled_blocks("python"))


def test_every_technique_has_its_fragments() -> None:
    assert len(FRAGMENTS) == README.count("```toml")
    assert len(PROGRAMS) == README.count("```python")
    shown = {title for titles in TECHNIQUES.values() for title in titles}
    assert shown == FRAGMENTS.keys() | PROGRAMS.keys()
    assert len(TECHNIQUES) == 20


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As workers have; more of them wait for each other when several tests share the cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("materials")
    own = {"my_package.pictures": "Your own data set", "my_package.parts": "Parts of your own"}
    make_materials(folder, {module: PROGRAMS[title] for module, title in own.items()})
    return folder


@pytest.fixture
def bench(materials: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that holds what the fragments name, as the current one; imports are undone afterwards."""
    monkeypatch.chdir(materials)
    monkeypatch.setenv("TORCH_HOME", str(materials / "torch"))
    monkeypatch.setattr(sys, "path", [str(materials), *sys.path])
    return materials


def laid_over_digits(fragment: str) -> dict[str, Any]:
    """Returns the digits study with a fragment's keys in place of its own, and its `[search]` if it has one."""
    tree = tomllib.loads((STUDIES / "digits.toml").read_text(encoding="utf-8"))
    for name, table in tomllib.loads(fragment).items():
        whole = name in ("search", "early_stopping", "pruner", "enqueue")
        tree[name] = table if whole else {**tree.get(name, {}), **table}
    return tree


def cut_short(spec: StudySpec) -> StudySpec:
    few = {"epochs": 1, "steps_per_epoch": min(spec.train.steps_per_epoch or 5, 5), "warmup_epochs": 0.0}
    return spec.model_copy(update={"train": spec.train.model_copy(update=few)})


def ends_of(spec: StudySpec) -> list[StudySpec]:
    """Returns the trials at opposite corners of a search space, or the one trial where they hardly differ."""
    found = list(corners(spec, lambda name: name not in ("learning_rate", "epochs")))
    return [corner.spec for corner in (found if len(found) < 3 else [found[0], found[-1]])]


TOLD = {
    "Number types": r"'precision': 'float16'",
    "Arrays without copies, height-width-channel or channel first": r"layout HWC",
    "Photographs in folders": r"classes=\('day', 'night'\), channels=3.*1 unreadable file skipped",
    "Labels in a table": r"train=32, val=4, test=4, classes=\('day', 'night'\)",
    "Several labels of a picture": r"classes=\('0', .* '9'\), .*task='multilabel'.*'val_average_precision'",
    "Pictures that belong together": r"train=24, val=8, test=8",  # evenings of 8 pictures each
    "Your own data set": r"train=3\d\d, .*test=80, .*channels=1, height=12",
    "Numbers instead of classes": r"task='regression'.*'val_mae'",
    "Stacks of particle images": r"train=48, .*classes=\('1', '2'\)",
    "Train, validation and test": r"train=125\d, val=2\d\d, test=2\d\d",
    "Few pictures: folds": r"train=115, val=29, test=1653.*5 folds of 28 to 29 images",
    "Rescale, random crop, to tensor": r"channels=3, height=32, width=32",
    "Pretrained weights": r"weights_file.*pretrained.safetensors \(sha256.*start anew",
    "Published weights": r"height=64.*weights_file.*mobilenet_v3_small-.* start anew",
    "Losses": r"'val_error'",
    "Parts of your own": r"'val_worst_recall'",
    "Labels of doubtful quality": r"'class_errors': .*'confusion'",
}
"""What data, metrics and facts say where a fragment shows in them."""


@pytest.mark.parametrize("title", FRAGMENTS)
def test_every_fragment_trains(title: str, bench: Path, tmp_path: Path) -> None:
    import torch

    from hpsearch.contracts.trial import EndKind, EpochResult, TrialRun
    from hpsearch.training.build import build_engine

    spec = parse_study(laid_over_digits(FRAGMENTS[title]))
    engine, facts = build_engine(spec, torch.device("cpu"), cache=str(bench / "cache"))
    assert facts is not None
    check_study_against(spec, facts)
    for number, trial in enumerate(map(cut_short, ends_of(spec))):
        engine.admit(TrialRun("digits", number, 1, {}, trial, str(tmp_path / str(number))))
        (result,) = engine.step()
        assert isinstance(result, EpochResult), result
        assert result.metrics["val_loss"] > 0
        end = engine.evict(number, EndKind.FINISHED)
        assert end.weights
    engine.close()
    told = f"{facts} {dict(result.metrics)} {dict(end.facts)}"
    assert re.search(TOLD.get(title, ""), told), told


def test_pictures_that_do_not_fit_are_streamed(bench: Path) -> None:
    import torch

    from hpsearch.training.build import build_engine
    from hpsearch.training.data.prepared import StreamedImages
    from hpsearch.training.plain import PlainEngine

    spec = parse_study(laid_over_digits(FRAGMENTS["More pictures than memory"]))
    engine, _ = build_engine(spec, torch.device("cpu"), cache=str(bench / "cache"))
    assert isinstance(engine, PlainEngine)
    assert isinstance(engine._data.at(spec.data).train.images, StreamedImages)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets commands train in this process: a new one imports torch for seconds."""
    monkeypatch.setattr("hpsearch.service.launch.make_executor", lambda *_: InProcessExecutor())


@pytest.mark.usefixtures("in_process")
def test_reasons_for_stopping_come_to_a_callback(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bench / "studies", tmp_path / "studies")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(PROGRAMS["Early stopping as a callback"], names)
    told = capsys.readouterr().out
    assert len(re.findall(r"^trial \d: finished after \d epochs", told, re.MULTILINE)) == 3
    assert names["result"].best is not None


def test_the_criteria_stop_trials_of_other_studies() -> None:
    names: dict[str, Any] = {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    exec(PROGRAMS["The same criteria in a study of your own"], names)
    trials = names["study"].trials
    assert [len(trial.intermediate_values) for trial in trials] == [26] * 4
    assert all(trial.value == 0 for trial in trials)


def test_a_queued_trial_is_the_first_of_the_study_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(PROGRAMS["Trials that you choose"], {})
    tree = laid_over_digits("") | {"study": {"name": "digits", "trials": 1}}
    spec = cut_short(parse_study(tree))
    options = replace(options_in(tmp_path), storage=f"sqlite:///{tmp_path}/digits.db")
    run(spec, options, executor=InProcessExecutor())
    (trial,) = optuna.load_study(study_name="digits", storage=options.storage).trials
    assert trial.params["learning_rate"] == 0.1
    assert trial.params.keys() == spec.search.keys()


def test_batch_sizes_are_drawn_beside_each_other(tmp_path: Path) -> None:
    """From single samples to the whole training part: one line for each in the picture."""
    tree = laid_over_digits(FRAGMENTS["Full batch, mini-batch, single sample"])
    tree |= {"study": {"name": "s", "trials": 4}, "sampler": {"name": "grid"}, "pruner": {"name": "none"}}
    tree["search"] |= {"learning_rate": [0.01]}
    tree["train"] |= {"epochs": 2}
    run(parse_study(tree), options_in(tmp_path), executor=InProcessExecutor())
    chart = batch_size_curves(record_of(tmp_path))
    assert chart is not None
    sizes = [re.match(r"batch size (\w+)", series.name) for series in chart.series]
    assert [size[1] for size in sizes if size] == ["1", "8", "32", "full"]


def test_doubtful_labels_show_in_trials_and_in_the_test(bench: Path, tmp_path: Path) -> None:
    """Photographs of dusk and dawn: errors by class, what is taken for what, and the pictures themselves."""
    tree = laid_over_digits(FRAGMENTS["Labels of doubtful quality"])
    tree |= {"study": {"name": "s", "trials": 2}, "confirm": {"top": 2, "seeds": 2}}
    tree["search"] |= {"learning_rate": [0.003, 0.01], "batch_size": [8]}
    tree |= {"sampler": {"name": "grid"}, "train": tree["train"] | {"epochs": 3}}
    options = options_in(tmp_path)
    run(parse_study(tree), options, executor=InProcessExecutor())
    for trial in record_of(tmp_path).trials:
        assert re.fullmatch(r"none|(day|night): [\d.]+(, (day|night): [\d.]+)?", trial.attrs["class_errors"])
        assert trial.attrs["fit"] in ("underfit", "good", "overfit")
        assert len(re.findall(r"\d+", trial.attrs["confusion"])) == 4
    outcome = confirm("s", options, executor=InProcessExecutor())
    assert outcome.confirmation is not None
    for result in outcome.confirmation.results:
        assert len(result.values("test_error")) == len(result.values("val_loss")) == 2
    details = outcome.confirmation.details
    assert sum(map(sum, details["confusion"])) == 2 * 5  # two models of five pictures
    wrong = [(picture["name"], picture["class"]) for picture in details["wrong"]]
    assert all((bench / "photos" / name).is_file() and name.startswith(kind) for name, kind in wrong)


def test_weights_that_have_changed_are_another_study(bench: Path, tmp_path: Path) -> None:
    from tests.materials import write_weights

    tree = laid_over_digits(FRAGMENTS["Pretrained weights"])
    file = tmp_path / "mine.safetensors"
    shutil.copy(bench / "pretrained.safetensors", file)
    tree["search"] = {"model.weights": ["none", str(file)]}
    tree |= {"study": {"name": "s", "trials": 2}, "sampler": {"name": "grid"}}
    tree["data"] |= {"subset": 0.1}
    tree["train"] |= {"epochs": 1}
    run(parse_study(tree), options_in(tmp_path), executor=InProcessExecutor())
    told = [trial.attrs.get("weights_file") for trial in record_of(tmp_path).trials]
    assert sorted(text is None for text in told) == [False, True]
    write_weights(file)
    run(parse_study(tree), options_in(tmp_path), executor=InProcessExecutor())  # as it was, to the bit
    with file.open("ab") as more:
        more.write(b" ")
    with pytest.raises(DataError, match="the data are not those that the study began with"):
        run(parse_study(tree), options_in(tmp_path), executor=InProcessExecutor())


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
def photos(materials: Path) -> Path:
    return materials / "photos"


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
    assert min(trial.user_attrs["score"] for trial in trials) < 2.0
    assert all("data.augment.brightness.strength" in trial.params for trial in trials)
    assert list(tmp_path.glob("runs/day_night/weights/*.safetensors"))


def test_a_changed_folder_is_noticed(photos: Path, tmp_path: Path) -> None:
    mine = tmp_path / "photos"
    shutil.copytree(photos, mine)
    tree = {
        "study": {"name": "s", "trials": 1, "metric": "val_error"},
        "data": {"dataset": "folder", "root": str(mine), "image_size": 8, "skip_unreadable": True},
        "train": {"epochs": 1, "batch_size": 8},
        "search": {"learning_rate": [0.01]},
    }
    run(parse_study(tree), options_in(tmp_path), executor=InProcessExecutor())
    (trial,) = record_of(tmp_path).trials
    assert trial.score == trial.attrs["metrics_at_best"]["val_error"]
    (mine / "day" / "0000.jpg").unlink()
    tree["study"] |= {"trials": 2}
    with pytest.raises(DataError, match=r"the data are not those that the study began with \(train"):
        run(parse_study(tree), options_in(tmp_path), executor=InProcessExecutor())
    assert len(record_of(tmp_path).trials) == 1


@pytest.mark.usefixtures("in_process")
def test_an_own_loop_from_its_file_to_the_test_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "studies"
    folder.mkdir()
    shutil.copy(STUDIES / "own_loop.py", folder)
    short = (STUDIES / "own_loop.toml").read_text(encoding="utf-8")
    short = short.replace("trials = 16", "trials = 3").replace("high = 20", "high = 6")
    study = str(folder / "own_loop.toml")
    Path(study).write_text(f"{short}\n[confirm]\ntop = 1\nseeds = 2\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the commands put the study's folder in front
    assert run_command(["run", study, "--workers", "1"]) == 0
    trials = finished(tmp_path, "own_loop")
    assert len(trials) == 3
    assert all(0.2 <= trial.params["function.temperature"] <= 5.0 for trial in trials)
    assert min(trial.value for trial in trials if trial.value is not None) < 2.0
    assert run_command(["confirm", study, "--workers", "1"]) == 0
    assert "test_error" in capsys.readouterr().out


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
        (
            {"metric": "val_dice", "direction": "maximize"},
            "val_dice",
            7,
            "; val_dice has not improved since 0.8 at epoch 5",
        ),
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
    assert (words or "") in f"; {summary.best.detail}"


def test_a_metric_for_stopping_that_the_loop_does_not_yield_ends_the_study(tmp_path: Path) -> None:
    tree = {
        "study": {"name": "s", "trials": 1},
        "train": {"function": "tests.training.loops:steady"},
        "search": {"epochs": [12]},
        "early_stopping": {"metric": "val_error"},
    }
    with pytest.raises(StudyFileError, match=r'early_stopping.metric: train.function yields no "val_error"'):
        run(parse_study(tree), options_in(tmp_path), executor=InProcessExecutor())
