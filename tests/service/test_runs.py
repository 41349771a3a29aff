"""What a whole run leaves behind: tables that can be repeated, weights that are there."""

from pathlib import Path

from hpsearch.results.reading import best_trial, reading_study
from hpsearch.service.launch import RunOptions
from hpsearch.service.places import Workers
from hpsearch.service.run import run
from hpsearch.spec import parse_study
from hpsearch.spec.folders import attempt_folder
from hpsearch.spec.trial import TrialRun
from tests.service.curves import CurveExecutor, Script


def options_in(folder: Path, workers: int = 1) -> RunOptions:
    return RunOptions(
        storage=f"sqlite:///{folder}/s.db",
        run_folder=folder / "runs",
        workers=Workers(gpus="none", workers=workers),
    )


def test_the_best_of_equal_trials_has_its_weights(tmp_path: Path) -> None:
    """Trial 1 ends before trial 0 with the same score, as happens with errors and several workers."""

    def script(trial: TrialRun) -> Script:
        folder = attempt_folder(Path(trial.folder), trial.attempt)
        folder.mkdir(parents=True)
        (folder / "best-00001.safetensors").write_text(f"of trial {trial.number}")
        return Script((0.25,) * (3 - 2 * trial.number))

    spec = parse_study(
        {
            "study": {"name": "s", "trials": 2},
            "data": {"dataset": "digits"},
            "search": {"learning_rate": {"low": 1e-4, "high": 1.0}},
            "early_stopping": {"criterion": "none"},
        }
    )
    options = options_in(tmp_path, workers=2)
    executor = CurveExecutor(script)
    best = run(spec, options, executor=executor).best
    assert executor.log[-1][0] == 0, "trial 0 was to end last"
    assert best is not None
    assert best.number == 0
    assert Path(best.weights).read_text() == "of trial 0"
    with reading_study("s", options.storage) as study:
        found = best_trial(study)
    assert found is not None
    assert (found.number, found.weights) == (best.number, best.weights)
