"""What is shown of paused trials: a study that was interrupted while some of its trials waited to be resumed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpsearch.contracts.executor import Workers
from hpsearch.contracts.trial import WHY
from hpsearch.results.dashboard.notes import study_note
from hpsearch.results.plots import charts
from hpsearch.results.plots.history import pieces
from hpsearch.results.report.content import report, saved_epochs
from hpsearch.results.report.document import Table, Text
from hpsearch.results.stored.frames import trials_frame
from hpsearch.results.stored.reading import reading_study
from hpsearch.results.stored.status import study_status
from hpsearch.results.terminal.lines import list_lines, status_lines
from hpsearch.service.launch import RunOptions
from hpsearch.service.run import run
from hpsearch.store.keys import PAUSED_LEASE
from tests.results.searches import digits_spec, record_of, url_in
from tests.service.curves import CurveExecutor, Script
from tests.service.test_runs import Interrupt


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with trials that are paused, ended, and RUNNING without a driver."""
    folder = tmp_path_factory.mktemp("paused")
    spec = digits_spec(
        study={"policy": "halving", "trials": 30},
        pruner={"name": "none"},
        train={"schedule": "constant"},
        early_stopping={"patience": 2},
    )
    options = RunOptions(url_in(folder), folder / "runs", workers=Workers(gpus="none", workers=1))

    def script(trial: Any) -> Script:
        return Script(tuple(trial.spec.train.learning_rate + abs(epoch - 6) for epoch in range(20)))

    run(spec, options, [Interrupt(40)], CurveExecutor(script))
    return folder


def test_paused_trials_are_told_from_running_ones(folder: Path) -> None:
    record = record_of(folder)
    paused = [trial for trial in record.trials if trial.state == "PAUSED"]
    assert len(paused) > 5
    assert all(trial.attrs["paused"] == trial.epochs_run == len(trial.val) for trial in paused)
    assert all(trial.score == min(v for v in trial.val if v is not None) for trial in paused)
    with reading_study("s", url_in(folder)) as study:
        frame = trials_frame(study)
    assert (frame["state"] == "PAUSED").sum() == len(paused)


def test_status_counts_them_and_names_the_furthest(folder: Path) -> None:
    status = study_status("s", url_in(folder), folder / "runs")
    paused = status.row.paused
    assert status.row.counts["PAUSED"] == len(paused)
    furthest = max(paused, key=lambda number: (paused[number], -number))
    head, row = list_lines([status.row])
    assert row.split()[head.split().index("paused")] == str(len(paused))
    lines = status_lines(status)
    assert f"{len(paused)} PAUSED" in lines[0]
    told = next(line for line in lines if line.startswith("paused, may be resumed: "))
    assert told.startswith(f"paused, may be resumed: trial {furthest} at epoch {paused[furthest]}, ")
    assert told.endswith(f" and {len(paused) - 5} more")


def test_the_note_and_the_report_tell_of_them(folder: Path) -> None:
    record = record_of(folder)
    count = record.count("PAUSED")
    assert f"{count} PAUSED" in study_note(record)
    section = next(one for one in report(record, None).sections if one.title == "Paused and resumed")
    rows = next(block for block in section.blocks if isinstance(block, Table)).rows
    resumed = {trial.number: trial for trial in record.trials if len(trial.why) > 1}
    paused = {trial.number: trial for trial in record.trials if trial.state == "PAUSED"}
    assert "Paused, may be resumed: trial " in study_note(record)
    assert {int(row[0]) for row in rows} == resumed.keys() | paused.keys()
    for number, ends, now, why in rows:
        trial = record.trials[int(number)]
        assert ends == ", ".join(str(epoch) for epoch, _ in trial.pieces)
        assert why == "; ".join(trial.why)
        expected = f"paused at epoch {trial.epochs_run}, may be resumed"
        assert now == (expected if trial.state == "PAUSED" else trial.state)
    text = next(block.text for block in section.blocks if isinstance(block, Text))
    whole = [trial for trial in record.trials if not trial.attrs.get("pauses")]
    left = len(record.trials) - len(resumed) - len(whole)
    assert left > 3
    counts, told = text.split(f"{len(whole)} never paused.")
    assert counts.endswith(f" resumed after a pause, {left} paused and not resumed, ")
    assert told.startswith(" Building trials and reading their checkpoints took 0:")
    assert told.endswith("% of the workers' time. A larger study.first_piece means fewer switches.")


def test_reasons_that_do_not_fit_are_left_out_whole_and_counted(folder: Path) -> None:
    record = record_of(folder)
    why = [f"in the best 1/3 of the trials that reached epoch {2**place}" for place in range(7)]
    trials = [
        replace(record.trials[0], number=number, attrs=record.trials[0].attrs | {WHY: why})
        for number in range(22)
    ]
    section = next(
        one
        for one in report(replace(record, trials=trials), None).sections
        if one.title == "Paused and resumed"
    )
    table = next(block for block in section.blocks if isinstance(block, Table))
    assert {row[3] for row in table.rows} == {f"4 earlier reasons left out; {why[4]}; {why[5]}; {why[6]}"}
    assert table.note.startswith("2 more trials: ")


def test_the_chart_of_pieces_adds_up(folder: Path) -> None:
    record = record_of(folder)
    chart = next(chart for chart in charts(record) if chart.id == "pieces")
    length: dict[int, float] = {}
    for series in chart.series:
        for begin, end, row in zip(series.x[::3], series.x[1::3], series.y[::3], strict=True):
            assert begin is not None
            assert end is not None
            assert row is not None
            length[int(row)] = length.get(int(row), 0) + end - begin
    assert length == {t.number: t.pieces[-1][0] for t in record.trials if t.pieces}
    ends = sorted(x for series in chart.series for x in series.x[1::3] if x is not None)
    assert ends[-1] == sum(length.values())


def test_pieces_that_two_drivers_counted_alike_are_drawn(folder: Path) -> None:
    record = record_of(folder)
    twice = [replace(trial, attrs={**trial.attrs, "pieces": [[1, 0], [3, 1]]}) for trial in record.trials]
    chart = pieces(replace(record, trials=tuple(twice)))
    assert chart is not None
    assert sum(len(series.x) for series in chart.series) == 3 * 2 * len(twice)


def test_epochs_that_the_studys_end_left_out_are_saved(folder: Path) -> None:
    record = record_of(folder)
    ended = replace(
        record.finished[0], attrs={**record.finished[0].attrs, "stop_reason": "study_end", "epochs_run": 2}
    )
    assert saved_epochs(replace(record, trials=(ended,))) == record.planned_epochs(ended) - 2


def test_another_programs_attribute_of_that_name_says_nothing(folder: Path, tmp_path: Path) -> None:
    import optuna

    study = optuna.create_study(study_name="other", storage=f"sqlite:///{tmp_path}/o.db")
    study.ask().set_user_attr("paused", PAUSED_LEASE)
    status = study_status("other", f"sqlite:///{tmp_path}/o.db", tmp_path)
    assert status.row.counts == {"RUNNING": 1}
