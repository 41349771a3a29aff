"""The displays, driven with the records that the driver sends, and what then stands in the terminal."""

import io
import json
import logging
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from hpsearch.contracts.callbacks import (
    FinishedTrial,
    RunningTrial,
    RunSummary,
    Standing,
    StudyInfo,
    WorkerNews,
)
from hpsearch.contracts.trial import EpochResult
from hpsearch.results.terminal.display import (
    Display,
    JsonDisplay,
    LiveDisplay,
    PlainDisplay,
    choose_display,
    picture,
)
from hpsearch.results.terminal.progress import (
    Progress,
    closing_lines,
    duration,
    opening_lines,
    sparkline,
)
from hpsearch.study import parse_study
from tests.results.stored import specification

INFO = StudyInfo(
    spec=specification("digits"),
    total=4,
    finished={"COMPLETE": 1},
    storage="sqlite:///runs/hpsearch.db",
    folder="runs/digits",
    workers=("worker 0: cpu x1", "worker 1: cpu x1"),
)
HPARAMS = {"learning_rate": 0.012345678, "batch_size": 16}


def running(number: int, losses: list[float], worker: int = 0) -> RunningTrial:
    curve = tuple(
        EpochResult(number, 1, epoch, {"train_loss": loss / 2, "val_loss": loss})
        for epoch, loss in enumerate(losses, start=1)
    )
    return RunningTrial(number, 1, worker, HPARAMS, epochs=10, since=0.0, curve=curve)


def finished(
    number: int, state: str = "COMPLETE", score: float | None = 0.25, best: bool = True
) -> FinishedTrial:
    return FinishedTrial(
        number=number,
        state=state,
        stop_reason="early_stopping" if state != "FAIL" else "error",
        score=score,
        best_epoch=3,
        epochs_run=7,
        hparams=HPARAMS,
        attrs={"fit": "good"},
        detail="no improvement for 4 epochs",
        is_best=best,
        weights="runs/digits/weights/trial-00002.safetensors",
    )


def summary(**changes: Any) -> RunSummary:
    made = RunSummary(
        study="digits",
        reason="all 4 trials are finished",
        counts={"COMPLETE": 3, "PRUNED": 1},
        stop_reasons={"finished": 1, "early_stopping": 3},
        best=finished(2),
        seconds=83.0,
        exit_status=0,
        epochs=40,
    )
    return replace(made, **changes)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def drive(display: Display) -> None:
    """One run: two trials begin, one trains two epochs and ends, one fails, the run ends."""
    with display:
        display.on_study_start(INFO)
        display.on_worker(WorkerNews(0, "ready", "ready on cpu"))
        display.on_worker(WorkerNews(1, "exit", "killed by SIGKILL"))
        display.on_trial_start(running(2, []))
        display.on_trial_start(running(3, [], worker=1))
        for losses in ([0.9], [0.9, 0.3]):
            trial = running(2, losses)
            display.on_epoch(trial, trial.curve[-1])
        display.on_message("the database is away [x]")
        display.on_trial_end(finished(2))
        display.on_trial_end(finished(3, "FAIL", None, best=False))
        display.on_tick()
        display.on_study_end(summary())


def shown(progress: Progress, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, record=True)
    console.print(picture(progress, console))
    return console.export_text()


def test_the_picture_shows_what_runs_and_what_is_best() -> None:
    clock = Clock()
    progress = Progress(clock)
    progress.on_study_start(INFO)
    progress.on_trial_start(running(2, []))
    progress.on_trial_start(running(5, [2.0, 1.0, 0.5, 0.25], worker=1))
    clock.now = 100.0
    progress.on_trial_end(finished(2))
    text = shown(progress)
    assert "digits" in text
    assert "2/4 trials" in text
    assert "2 COMPLETE; stop reasons: early_stopping 1" in text
    assert "best: trial 2, val_loss 0.25 at epoch 3" in text
    assert "learning_rate=0.01235 batch_size=16" in text
    row = next(line.split() for line in text.splitlines() if "4/10" in line)
    assert row == ["1", "5", "4/10", "0.125", "0.25", "█▄▂▁"]
    # 1.4 of the 3 trials that were open took 100 s, so 1.6 take 114 s.
    assert "1:40, about 1:54 left" in text


def test_the_picture_of_many_workers_stays_on_one_screen() -> None:
    progress = Progress()
    progress.on_study_start(INFO)
    for number in range(40):
        progress.on_trial_start(running(number, [1.0], worker=number))
    lines = shown(progress).splitlines()
    assert "and 24 more" in lines[-1]
    assert len(lines) < 24


def test_the_reading_of_images_has_a_bar_of_its_own() -> None:
    progress = Progress()
    progress.on_study_start(INFO)
    progress.on_worker(WorkerNews(1, "loading", "reads images: 1,200 of 6,000", 1200, 6000))
    assert "worker 1 reads images: 1,200 of 6,000 ━" in shown(progress)
    progress.on_worker(WorkerNews(1, "ready", "ready on cpu"))
    assert "reads images" not in shown(progress)


@pytest.mark.parametrize(
    "end",
    [
        lambda progress: progress.on_trial_start(running(2, [], worker=1)),
        lambda progress: progress.on_worker(WorkerNews(1, "loading", "reads images", 6000, 6000)),
        lambda progress: progress.on_worker(WorkerNews(1, "exit", "killed by SIGKILL")),
    ],
)
def test_the_bar_of_a_worker_that_reads_for_a_trial_goes_with_the_reading(
    end: Callable[[Progress], None],
) -> None:
    progress = Progress()
    progress.on_study_start(INFO)
    progress.on_worker(WorkerNews(1, "loading", "reads images: 1,200 of 6,000", 1200, 6000))
    progress.on_trial_start(running(3, [], worker=0))
    assert "reads images" in shown(progress)
    end(progress)
    assert "reads images" not in shown(progress)


def test_plain_lines_tell_of_it_now_and_then() -> None:
    output, clock = io.StringIO(), Clock()
    display = PlainDisplay(output, clock=clock)
    for done in range(100):
        clock.now = done
        display.on_worker(WorkerNews(0, "loading", f"reads images: {done} of 100", done, 100))
    assert output.getvalue().count("reads images") == 9


def test_nothing_is_estimated_before_a_trial_has_ended() -> None:
    progress = Progress()
    progress.on_study_start(INFO)
    progress.on_trial_start(running(2, [1.0]))
    assert progress.seconds_left is None


def test_where_trials_are_paused_the_estimate_counts_those_that_have_begun() -> None:
    """20 of 80 trials in 10 s, whatever was resumed beside them: the 59 behind the one that trains take 29.5 s."""
    clock = Clock()
    progress = Progress(clock)
    progress.on_study_start(replace(INFO, spec=specification("s", policy="auto"), total=80, finished={}))
    assert progress.seconds_left is None
    for number in range(20):
        progress.on_trial_start(running(number, []))
        progress.on_trial_paused(running(number, [1.0]))
    progress.on_trial_start(running(3, [1.0]))
    progress.on_trial_end(finished(3))
    progress.on_standing(Standing({"COMPLETE": 1}, {}, None, paused=19))
    progress.on_trial_start(running(20, []))
    clock.now = 10.0
    assert progress.seconds_left == 29.5
    progress.on_standing(Standing({"COMPLETE": 1}, {}, None, paused=78))
    assert progress.seconds_left == 0.0
    assert "0:10, almost finished" in shown(progress)


def test_no_more_is_left_than_the_study_may_take() -> None:
    clock = Clock()
    progress = Progress(clock)
    progress.on_study_start(replace(INFO, spec=specification("s", timeout=60), total=1000))
    progress.on_trial_start(running(2, []))
    clock.now = 20.0
    progress.on_trial_end(finished(2))
    assert progress.seconds_left == 40.0


def test_a_terminal_lists_trials_as_they_end_but_for_those_that_were_left_paused() -> None:
    output = io.StringIO()
    with LiveDisplay(Console(file=output, width=100, force_terminal=True, color_system=None)) as display:
        display.on_study_start(replace(INFO, spec=specification("s", policy="auto")))
        display.on_trial_end(finished(2))
        display.on_trial_end(replace(finished(3, "PRUNED"), stop_reason="pruner"))
    assert "trial 2 COMPLETE after 7 epochs, val_loss 0.25 at epoch 3, the best so far" in output.getvalue()
    assert "trial 3" not in output.getvalue()


def test_a_trial_that_was_left_paused_is_not_called_the_best_so_far() -> None:
    """It may be the best of those that have ended, while better ones are paused."""
    output = io.StringIO()
    with PlainDisplay(output) as display:
        display.on_study_start(replace(INFO, spec=specification("s", policy="auto")))
        display.on_trial_end(replace(finished(3), stop_reason="pruner"))
        display.on_trial_end(finished(2))
    first, second = output.getvalue().splitlines()[-2:]
    assert "trial 3 COMPLETE" in first
    assert "the best so far" not in first
    assert "the best so far" in second


def test_a_terminal_breaks_sentences_between_words_and_no_command() -> None:
    output = io.StringIO()
    command = "  hpsearch confirm digits --storage sqlite:////a/long/path/of/a/database.db"
    with LiveDisplay(Console(file=output, width=40, force_terminal=True, color_system=None)) as display:
        display.on_message("what the configuration can be expected to come to, with an interval")
        display.on_message(command)
        logging.getLogger("hpsearch.x").warning("the database cannot be reached and is tried again later")
    lines = re.sub(r"\x1b\[[?\d]*\w", "", output.getvalue()).splitlines()
    assert "what the configuration can be expected" in lines
    assert "  to come to, with an interval" in lines
    assert command in lines
    assert "  tried again later" in lines


def test_the_live_display_ends_with_the_summary_and_gives_logging_back() -> None:
    output = io.StringIO()
    console = Console(file=output, width=100, force_terminal=True, color_system=None)
    before = list(logging.getLogger().handlers)
    drive(LiveDisplay(console))
    text = output.getvalue()
    assert "the database is away [x]" in text
    assert "worker 1: killed by SIGKILL" in text
    assert "trial 3 FAIL after 7 epochs" in text
    assert "best: trial 2, val_loss 0.25 at epoch 3 of 7, not confirmed, fit: good" in text
    assert "weights: runs/digits/weights/trial-00002.safetensors" in text
    assert logging.getLogger().handlers == before


def test_a_terminal_is_not_blank_while_workers_start() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with LiveDisplay(console) as display:
        display.on_launch("digits\x1b[2J", 2)
        assert isinstance(console.file, io.StringIO)
        assert ": 2 workers starting ..." in console.file.getvalue()
        assert "\x1b[2J" not in console.file.getvalue()


def test_warnings_go_through_the_live_display() -> None:
    output = io.StringIO()
    with LiveDisplay(Console(file=output, width=100, force_terminal=True, color_system=None)):
        logging.getLogger("hpsearch.x").warning("trial 3: %s", "something odd")
    assert "trial 3: something odd" in output.getvalue()


def test_the_live_display_draws_no_more_often_than_it_should() -> None:
    clock = Clock()
    output = io.StringIO()
    display = LiveDisplay(
        Console(file=output, width=100, force_terminal=True, color_system=None), clock=clock
    )
    with display:
        display.on_study_start(INFO)
        trial = running(2, [1.0])
        size = len(output.getvalue())
        for _ in range(100):
            display.on_epoch(trial, trial.curve[-1])
        assert len(output.getvalue()) == size
        clock.now = 1.0
        display.on_tick()
        assert "1/10" in output.getvalue()[size:]


def test_plain_output_has_one_line_per_event() -> None:
    output = io.StringIO()
    drive(PlainDisplay(output))
    lines = output.getvalue().splitlines()
    assert lines[0] == (
        "digits: 4 trials, 1 of them finished before; sqlite:///runs/hpsearch.db; files in runs/digits"
    )
    assert "trial 2 begins on worker 0: learning_rate=0.01235 batch_size=16" in lines
    assert (
        "[2/4] trial 2 COMPLETE after 7 epochs, val_loss 0.25 at epoch 3, the best so far "
        "(early_stopping: no improvement for 4 epochs)" in lines
    )
    assert any(line.startswith("[3/4] trial 3 FAIL after 7 epochs, val_loss -") for line in lines)
    assert not any("\x1b" in line for line in lines)


def test_plain_output_speaks_up_when_it_was_long_silent() -> None:
    clock = Clock()
    output = io.StringIO()
    display = PlainDisplay(output, clock=clock)
    display.on_study_start(INFO)
    display.on_trial_start(running(2, [1.0, 2.0]))
    said = output.getvalue()
    clock.now = 59.0
    display.on_tick()
    assert output.getvalue() == said
    clock.now = 61.0
    display.on_tick()
    assert output.getvalue().removeprefix(said) == "[1/4] trial 2 epoch 2/10\n"


def test_a_resumed_trial_says_so() -> None:
    output = io.StringIO()
    PlainDisplay(output).on_trial_start(running(2, [1.0, 2.0]))
    assert "trial 2 resumes after epoch 2 on worker 0" in output.getvalue()


def test_json_is_one_object_per_event_without_nan() -> None:
    output = io.StringIO()
    display = JsonDisplay(output)
    drive(display)
    trial = running(2, [math.nan])
    display.on_epoch(trial, trial.curve[-1])

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    events = [json.loads(line, parse_constant=refuse) for line in output.getvalue().splitlines()]
    assert [event["event"] for event in events] == [
        "study_start", "worker", "worker", "trial_start", "trial_start", "epoch", "epoch", "message",
        "trial_end", "trial_end", "study_end", "epoch",
    ]  # fmt: skip
    assert events[0]["spec"]["study"]["name"] == "digits"
    assert events[8]["hparams"] == HPARAMS
    assert events[10]["best"]["number"] == 2
    assert events[10]["exit_status"] == 0
    assert events[11]["metrics"] == {"train_loss": None, "val_loss": None}


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    drive(choose_display(quiet=True, as_json=False))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("quiet", "as_json", "kind"),
    [
        (False, False, PlainDisplay),
        (True, False, Display),
        (False, True, JsonDisplay),
        (True, True, JsonDisplay),
    ],
)
def test_the_display_suits_the_output(quiet: bool, as_json: bool, kind: type) -> None:
    assert type(choose_display(quiet=quiet, as_json=as_json, output=io.StringIO())) is kind


AGAIN = "hpsearch run digits.toml --data-root d"


def test_a_study_that_goes_on_shows_what_it_has_found_before() -> None:
    progress = Progress()
    progress.on_study_start(replace(INFO, stop_reasons={"early_stopping": 1}, best=finished(0)))
    text = shown(progress)
    assert "best: trial 0, val_loss 0.25" in text
    assert "1 COMPLETE; stop reasons: early_stopping 1" in text


def test_another_metric_stands_beside_the_validation_loss() -> None:
    spec = INFO.spec.model_copy(update={"study": INFO.spec.study.model_copy(update={"metric": "val_error"})})
    progress = Progress()
    progress.on_study_start(replace(INFO, spec=spec))
    progress.on_trial_start(running(5, [2.0]))
    assert "train loss  val_loss  val_error" in shown(progress)


@pytest.mark.parametrize(
    ("changes", "words", "missing"),
    [
        (
            {},
            [
                "hpsearch confirm digits --storage x.db",
                "hpsearch report digits --storage x.db",
                "(1:23, 40 epochs)",
            ],
            "hpsearch run",
        ),
        ({"can_go_on": True}, ["hpsearch run digits.toml --data-root d    # resumes it"], "no trial"),
        (
            {"can_go_on": True, "lost": True, "damaged": "my runs/hpsearch.db"},
            [
                "mkdir -p 'my runs/damaged' && mv 'my runs/hpsearch.db'* 'my runs/damaged'",
                "hpsearch run digits.toml --data-root d    # resumes it",
            ],
            "no trial",
        ),
        ({"best": None, "counts": {"RUNNING": 2}, "can_go_on": True}, ["best: none yet"], "stop_detail"),
        ({"best": None, "exit_status": 1}, ["best: none", "hpsearch export digits"], "hpsearch confirm"),
        ({"reason": "all ended:\nKilled"}, ["digits: all ended (1:23"], "Killed"),
        (
            {"lost": True, "can_go_on": True},
            ["hpsearch run digits.toml --data-root d    # resumes it"],
            "confirm ",
        ),
        ({"study": "two words"}, ["hpsearch confirm 'two words' --storage x.db"], "no trial"),
    ],
)
def test_the_end_says_what_to_do_next(
    changes: dict[str, Any], words: list[str], missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "hpsearch.text._CARRIED", dict.fromkeys(("confirm", "report", "export"), " --storage x.db")
    )
    told = "\n".join(closing_lines(summary(**changes), AGAIN))
    for word in words:
        assert word in told
    assert missing not in told


def test_the_end_says_what_the_best_value_is_worth() -> None:
    shown = "\n".join(closing_lines(summary(), metric="val_loss"))
    assert "best: trial 2, val_loss 0.25 at epoch 3 of 7, not confirmed, fit: good" in shown
    assert "  hpsearch confirm digits" in shown
    known = closing_lines(summary(), metric="val_loss", confirmed="trial 1, confirmed")
    assert "  hpsearch refit digits" in known
    assert "confirm digits" not in "".join(known)
    assert "best: trial 1, confirmed" in known
    assert "best by the search alone: trial 2, val_loss 0.25 at epoch 3 of 7, fit: good" in known


@pytest.mark.parametrize(("has_own_code", "named"), [(True, "'my studies/own.toml'"), (False, "digits")])
def test_a_study_with_code_of_its_own_is_named_by_its_file(
    has_own_code: bool, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpsearch.text._FILE", ["my studies/own.toml"])
    assert f"  hpsearch confirm {named}" in closing_lines(summary(), has_own_code=has_own_code)


def test_a_run_that_failed_before_any_trial_was_finished_leaves_the_word_to_its_error() -> None:
    nothing = summary(failed=True, best=None, counts={"RUNNING": 1}, can_go_on=True)
    assert closing_lines(nothing) == []
    assert closing_lines(summary(failed=True))


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], ""),
        ([1.0], "▁"),
        ([1.0, 1.0], "▁▁"),
        ([1.0, 2.0, 3.0], "▁▅█"),
        ([3.0, math.nan, 1.0], "█x▁"),
        ([math.nan, math.inf], "xx"),
        ([100.0, 1.0, 0.01], "█▄▁"),
        ([-100.0, 1.0, 0.01], "▁██"),
        (list(range(100)), "▁▁▂▂▂▃▃▃▃▄▄▄▅▅▅▆▆▆▆▇▇▇██"),
    ],
)
def test_sparklines(values: list[float], line: str) -> None:
    assert sparkline(values) == line


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01")]
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_one_trial_on_one_worker_is_singular() -> None:
    first, second = opening_lines(replace(INFO, total=1, finished={}, workers=("worker 0: cpu x1",)))
    assert first.startswith("digits: 1 trial; ")
    assert second == "1 worker: worker 0: cpu x1"


def test_how_many_models_a_trial_trains_is_said_of_the_search_alone() -> None:
    def said(**split: Any) -> list[str]:
        tree = {
            "study": {"name": "x"},
            "data": {"dataset": "digits", "split": split},
            "search": {"learning_rate": [0.1, 0.2]},
        }
        return opening_lines(replace(INFO, spec=parse_study(tree, source="x")))

    assert "each trial trains 5 models side by side, and its metrics are their means" in said(folds=5)
    for split in ({}, {"folds": 5, "fold": 2}):
        assert "side by side" not in " ".join(said(**split))
