"""Continuing: a longer trial from a finished one's checkpoint, what it is worth, and what becomes of it."""

import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpsearch.__main__ import run as run_command
from hpsearch.contracts.callbacks import Callback
from hpsearch.contracts.executor import Workers
from hpsearch.errors import UserError
from hpsearch.files.run_folder import RunFolder
from hpsearch.results.confirm.confirm import confirm
from hpsearch.results.confirm.continuation import Continued, continue_trial
from hpsearch.results.confirm.refit import refit
from hpsearch.results.stored.listing import list_studies
from hpsearch.results.stored.study import TrialRecord
from hpsearch.service.launch import RunOptions
from hpsearch.service.run import run
from hpsearch.study import StudySpec
from hpsearch.testing.in_process import InProcessExecutor
from tests.databases import at_once, fresh_database, stored_trials
from tests.executors.by_hand import HandExecutor
from tests.results.digits import options_in, searched, small_spec
from tests.results.searches import record_of, url_in


def spec_of(epochs: int = 5, study: dict[str, Any] | None = None, **tables: Any) -> StudySpec:
    tables["train"] = {"epochs": epochs, "schedule": "wsd", "cooldown": 0.4, **tables.get("train", {})}
    tables["search"] = tables.get("search", {"learning_rate": [0.1, 0.001]})
    return small_spec("c", study={"trials": 2, **(study or {})}, **tables)


def lengthened(folder: Path, epochs: int, **wanted: Any) -> Continued:
    return continue_trial("c", options_in(folder), epochs, executor=InProcessExecutor(), **wanted)


def fresh(folder: Path, spec: StudySpec) -> tuple[TrialRecord, ...]:
    folder.mkdir()
    searched(folder, spec)
    return record_of(folder, "c").trials


def test_a_continued_trial_is_what_a_longer_one_would_have_been(tmp_path: Path) -> None:
    searched(tmp_path, spec_of())
    best = record_of(tmp_path, "c").best
    assert best is not None
    found = lengthened(tmp_path, 10)
    assert found.trial == 2, found.lines
    longer = record_of(tmp_path, "c").trials[2]
    whole = fresh(tmp_path / "fresh", spec_of(10))[best.number]
    assert (found.trial, found.continues, found.from_epoch) == (2, best.number, 3)
    assert longer.val == whole.val
    assert longer.val[3:5] != best.val[3:5]  # its cooldown was trained anew
    assert longer.train == whole.train
    assert (longer.state, longer.score, longer.epochs_run) == ("COMPLETE", whole.score, 10)
    assert longer.attrs["seconds"] < sum(longer.attrs["epoch_seconds"])  # what it took itself
    again = lengthened(tmp_path, 10, trial=best.number)
    assert again.trial == 2
    assert len(record_of(tmp_path, "c").trials) == 3


def at_the_same_time(place: int, url: str, folder: Path, epochs: Sequence[int]) -> int | None:
    options = RunOptions(url, folder / "runs", workers=Workers(gpus="none", workers=1))
    return continue_trial("c", options, epochs[place], trial=0, executor=InProcessExecutor()).trial


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("epochs", [(10, 10), (10, 12)], ids=["to the same epoch", "to others"])
def test_continued_twice_at_the_same_time_a_trial_is_entered_once(
    kind: str, epochs: Sequence[int], tmp_path: Path
) -> None:
    longer = sorted({*epochs})
    with fresh_database(kind, tmp_path) as url:
        options = RunOptions(url, tmp_path / "runs", workers=Workers(gpus="none", workers=1))
        run(spec_of(checkpoint={"keep": "all"}), options, executor=InProcessExecutor())
        found = at_once(2, at_the_same_time, url, tmp_path, epochs)
        assert {*found} == {2, 1 + len(longer)}
        trials = stored_trials(url, "c")[2:]
        assert sorted(one.user_attrs["epochs_run"] for one in trials) == longer
        assert len(stored_trials(url, "c.continue")) == len(longer)


def test_workers_that_dial_continue_a_trial(tmp_path: Path) -> None:
    options = replace(searched(tmp_path, spec_of()), executor="dial")
    executor = HandExecutor(RunFolder(tmp_path / "runs", "c.continue"))
    found = continue_trial("c", options, 10, executor=executor)
    assert found.trial == 2, found.lines
    whole = fresh(tmp_path / "fresh", spec_of(10))[found.continues]
    assert record_of(tmp_path, "c").trials[2].epochs_run == whole.epochs_run == 10
    assert record_of(tmp_path, "c").trials[2].score == pytest.approx(whole.score, rel=1e-4)


def test_the_continued_trial_can_be_continued(tmp_path: Path) -> None:
    searched(tmp_path, spec_of())
    source = record_of(tmp_path, "c").best
    assert source is not None
    first = lengthened(tmp_path, 10)
    second = lengthened(tmp_path, 15, trial=first.trial)
    assert (second.trial, second.continues, second.from_epoch) == (3, first.trial, 6)
    longest = record_of(tmp_path, "c").trials[3]
    assert longest.val == fresh(tmp_path / "fresh", spec_of(15))[source.number].val


@pytest.mark.parametrize(
    ("train", "from_epoch"),
    [({"schedule": "constant"}, 3), ({"schedule": "step", "step_every": 2}, 3), ({"schedule": "plateau"}, 3)],
    ids=["constant", "step", "plateau"],
)
def test_without_a_cooldown_it_goes_on_from_the_end(
    tmp_path: Path, train: dict[str, Any], from_epoch: int
) -> None:
    searched(tmp_path, spec_of(3, train=train))
    best = record_of(tmp_path, "c").best
    assert best is not None
    assert lengthened(tmp_path, 6).from_epoch == from_epoch
    whole = fresh(tmp_path / "fresh", spec_of(6, train=train))[best.number]
    assert record_of(tmp_path, "c").trials[2].val == whole.val


def test_repeats_that_are_searched_keep_their_random_numbers(tmp_path: Path) -> None:
    tables: dict[str, Any] = {"search": {"learning_rate": [0.1], "train.repeat": [3, 4]}}
    searched(tmp_path, spec_of(**tables))
    lengthened(tmp_path, 10, trial=1)
    longer, whole = record_of(tmp_path, "c").trials[2], fresh(tmp_path / "fresh", spec_of(10, **tables))
    repeat = longer.hparams["train.repeat"]
    assert longer.val == next(one for one in whole if one.hparams["train.repeat"] == repeat).val


class _Terminate(Callback):
    def on_epoch(self, trial: Any, result: Any) -> None:
        if result.epoch == 6:
            os.kill(os.getpid(), signal.SIGTERM)


def test_an_interrupted_continuation_resumes(tmp_path: Path) -> None:
    searched(tmp_path, spec_of())
    best = record_of(tmp_path, "c").best
    assert best is not None
    stopped = lengthened(tmp_path, 10, callbacks=[_Terminate()])
    assert (stopped.trial, stopped.exit_status) == (None, 128 + signal.SIGTERM)
    assert "continue it again to resume it" in stopped.lines[0]
    assert len(record_of(tmp_path, "c").trials) == 2
    lengthened(tmp_path, 10)
    longer = record_of(tmp_path, "c").trials[2]
    assert longer.val == fresh(tmp_path / "fresh", spec_of(10))[best.number].val
    assert longer.attrs["attempt"] == 2


def test_early_stopping_begins_anew_where_it_continues(tmp_path: Path) -> None:
    # At this learning rate the loss has its best epoch early.
    tables: dict[str, Any] = {
        "train": {"schedule": "constant", "learning_rate": 0.1},
        "search": {"learning_rate": [3.0]},
        "early_stopping": {"patience": 2},
    }
    searched(tmp_path, spec_of(20, **tables))
    [source] = record_of(tmp_path, "c").trials
    assert source.stop_reason == "early_stopping"
    assert source.epochs_run < 18
    lengthened(tmp_path, 30)
    longer = record_of(tmp_path, "c").trials[1]
    assert longer.epochs_run >= source.epochs_run + 2
    assert longer.attrs["stop_detail"].endswith(
        f"(epochs counted from epoch {source.epochs_run} on, where it continues)"
    )
    assert longer.val[: source.epochs_run] == source.val


def test_what_is_said_counted_and_confirmed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spec = spec_of(early_stopping={"criterion": "none"})
    options = searched(tmp_path, spec)
    found = lengthened(tmp_path, 20)
    record = record_of(tmp_path, "c")
    longer = record.trials[2]
    assert record.best is longer
    assert f"trial 2 continues trial {found.continues} after its epoch 3" in found.lines[0]
    assert longer.hparams["epochs"] == 20
    row = next(row for row in list_studies(url_in(tmp_path), tmp_path / "runs") if row.name == "c")
    assert (row.finished, row.total) == (3, 3)
    where = ["--storage", url_in(tmp_path), "--run-folder", str(tmp_path / "runs")]
    assert run_command(["best", "c", *where]) == 0
    shown = capfd.readouterr().out
    assert f"continues: trial {found.continues}, after its epoch 3" in shown
    assert "runs/c/weights/trial-00002.safetensors" in shown
    assert run_command(["report", "c", *where]) == 0
    assert run_command(["export", "c", *where]) == 0
    again = run(spec, options, executor=InProcessExecutor())
    assert again.reason == "all 3 trials are finished"
    outcome = confirm("c", options, top=2, seeds=2, test=False, executor=InProcessExecutor())
    assert outcome.confirmation is not None
    assert {result.candidate.trial for result in outcome.confirmation.results} == {2, found.continues}
    linked = record_of(tmp_path, "c.confirm")
    assert sorted(one.epochs_run for one in linked.trials) == [5, 5, 20, 20]
    if outcome.confirmation.first == 2:
        assert refit("c", options, test=False, executor=InProcessExecutor()).refit.planned == 20  # type: ignore[union-attr]


def test_checkpoints_are_kept_with_the_weights(tmp_path: Path) -> None:
    searched(tmp_path, spec_of())
    folder, best = RunFolder(tmp_path / "runs", "c"), record_of(tmp_path, "c").best
    assert best is not None
    assert [path.name for path in (folder.home / "onward").iterdir()] == [f"{best.number:05d}"]
    other = 1 - best.number
    with pytest.raises(UserError, match=f"trial {other} has no checkpoint to continue from.*checkpoint.keep"):
        lengthened(tmp_path, 10, trial=other)


def test_a_damaged_checkpoint_is_not_taken(tmp_path: Path) -> None:
    searched(tmp_path, spec_of())
    for state in (tmp_path / "runs" / "c" / "onward").glob("*/state-*.pt"):
        state.unlink()
        state.write_bytes(b"no state")
    found = lengthened(tmp_path, 10)
    assert (found.trial, found.exit_status) == (None, 1)
    assert len(record_of(tmp_path, "c").trials) == 2


@pytest.mark.parametrize(
    ("tables", "wanted", "sentence"),
    [
        ({"train": {"schedule": "cosine"}}, {}, 'train.schedule: "cosine" stretches over all'),
        ({"train": {"schedule": "step", "step_every": 0.3}}, {}, 'train.schedule: "step" stretches over all'),
        ({"train": {"cooldown": 1.0}}, {}, "its cooldown covers all its epochs"),
        ({}, {"trial": 7}, 'study "c" has no trial 7; its trials are 0 to 1'),
        ({}, {"epochs": 5}, "was trained for 5 epochs already"),
        ({"train": {"last_epoch": 3}}, {}, "train.last_epoch = 3"),
    ],
    ids=["cosine", "step", "cooldown", "trial", "epochs", "last"],
)
def test_what_cannot_be_continued_is_refused(
    tmp_path: Path, tables: dict[str, Any], wanted: dict[str, Any], sentence: str
) -> None:
    searched(tmp_path, spec_of(**tables))
    with pytest.raises(UserError, match=sentence):
        lengthened(tmp_path, **{"epochs": 10, **wanted})
