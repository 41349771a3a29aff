"""Charts against what is stored: every point, every count; figures that plotly and matplotlib take."""

import json
import re
from dataclasses import replace
from pathlib import Path

import plotly.graph_objects as go
import pytest
from matplotlib.figure import Figure

from hpsearch.results.plots import charts
from hpsearch.results.plots.chart import Mark, log_ticks, thin, wants_log
from hpsearch.results.plots.history import best_so_far, seconds_used, timeline
from hpsearch.results.plots.interactive import figure
from hpsearch.results.plots.outcomes import fit_by_epochs, fit_diagnosis, stop_reasons
from hpsearch.results.plots.space import hparam_map, loss_by_seconds
from hpsearch.results.plots.static import draw, draw_figure, write_pngs
from hpsearch.results.report.page import WIDE
from hpsearch.results.stored.study import StudyRecord, TrialRecord
from hpsearch.study.file import stored_form
from tests.results.searches import digits_spec, record_of, search


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> StudyRecord:
    folder = tmp_path_factory.mktemp("plots")
    search(folder)
    return record_of(folder)


def chart_of(record: StudyRecord, name: str):
    return next(chart for chart in charts(record) if chart.id == name)


def trial(number: int, score: float | None, state: str = "COMPLETE", **attrs) -> TrialRecord:
    attrs = {"epochs_run": 2, "stop_reason": "finished", "seconds": 1.0, "fit": "good"} | attrs
    curve = () if score is None else (score + 1, score)
    hparams = {"learning_rate": 0.1 * (number + 1), "batch_size": 16, "epochs": 2}
    return TrialRecord(
        number, number, state, score, hparams, curve, curve, 10.0 * number, 10.0 * number + 10, attrs
    )


def study(*trials: TrialRecord, better: str = "minimize") -> StudyRecord:
    return StudyRecord("s", "val_loss", better, None, trials)


def test_learning_curves_are_the_stored_epochs(record: StudyRecord) -> None:
    drawn = {s.name: s for s in chart_of(record, "learning-curves").series}
    for one in record.ranked[:10]:
        name = f"trial {one.number}: {one.score:.4g}"
        assert drawn[name].y == tuple(one.attrs["val_loss"])
        assert drawn[f"{name}, training"].y == tuple(one.attrs["train_loss"])
        star = drawn[f"trial {one.number}, best epoch"]
        assert (star.x, star.y) == ((one.best_epoch,), (one.score,))
    stopped = {n for n in drawn if n.endswith(("early stopping", "pruner"))}
    early = [t for t in record.ranked[:10] if t.stop_reason in ("early_stopping", "pruner")]
    assert len(stopped) == len(early) > 0


def test_learning_curves_mark_where_the_last_stage_begins() -> None:
    spec = digits_spec(
        train={"epochs": 3, "stages": ["head", "all"]},
        search={"learning_rate": [0.1], "train.stages.head.epochs": [1, 2]},
    )
    trials = [trial(0, 0.5), trial(1, 0.6), trial(2, 0.7)]
    own = [{"learning_rate": 0.1, "train.stages.head.epochs": epochs} for epochs in (1, 2, 1.5)]
    record = StudyRecord(
        "s",
        "val_loss",
        "minimize",
        spec,
        tuple(replace(one, hparams=hparams) for one, hparams in zip(trials, own, strict=True)),
    )
    chart = chart_of(record, "learning-curves")
    marked = {one.name: (one.x, one.y) for one in chart.series if "the head alone" in one.name}
    assert marked == {
        "trial 0, last epoch of the head alone": ((1,), (1.5,)),
        "trial 1, last epoch of the head alone": ((2,), (0.6,)),
    }
    assert "a diamond marks the last epoch of the head alone" in chart.caption
    assert "diamond" not in chart_of(study(trial(0, 0.5)), "learning-curves").caption


def test_the_best_line_never_gets_worse_and_ends_at_the_best(record: StudyRecord) -> None:
    for cost in ("trials", "epochs", "seconds"):
        line = chart_of(record, f"best-by-{cost}").series[-1]
        assert line.y[-1] == record.best.score
        assert list(line.y) == sorted(line.y, reverse=True)
        assert list(line.x) == sorted(line.x)
    assert chart_of(record, "best-by-trials").series[-1].x[-1] == len(record.finished)
    assert chart_of(record, "best-by-epochs").series[-1].x[-1] == sum(t.epochs_run for t in record.finished)


def test_every_scored_trial_is_a_point(record: StudyRecord) -> None:
    points = [s for s in best_so_far(record, "trials").series if s.mark is Mark.POINTS]
    drawn = {(x, y) for s in points for x, y in zip(s.x, s.y, strict=True)}
    scored = {(float(i), t.score) for i, t in enumerate(record.finished, start=1) if t.score is not None}
    assert drawn == scored


def test_a_study_that_maximizes_rises() -> None:
    rising = study(trial(0, 0.5), trial(1, 0.4), trial(2, 0.9), better="maximize")
    line = best_so_far(rising, "trials").series[-1]
    assert (line.x, line.y) == ((1.0, 3.0), (0.5, 0.9))
    assert rising.best.number == 2


def test_hours_without_training_are_left_out() -> None:
    first, second = trial(0, 0.5), replace(trial(1, 0.4), started=1000.0, ended=1005.0)
    assert seconds_used(study(first, second)) == [10.0, 15.0]


def test_bars_count_every_finished_trial(record: StudyRecord) -> None:
    for chart in (stop_reasons(record), fit_by_epochs(record)):
        counted = sum(sum(s.x) for s in chart.series)
        assert counted == sum(t.epochs_run > 0 or chart.id == "stop-reasons" for t in record.finished)
    reasons = stop_reasons(record)
    errors = next(s for s in reasons.series if s.name == "FAIL")
    assert errors.x[reasons.y.labels.index("error")] == 1


def test_the_map_has_log_axes_where_the_search_has(record: StudyRecord) -> None:
    chart = hparam_map(record)
    assert chart.x.log
    assert chart.x.title == "learning rate"
    assert set(chart.y.labels) <= {"16", "64", "full"}
    whole, cut, star = chart.series
    for points, state in ((whole, "COMPLETE"), (cut, "PRUNED")):
        own = [t for t in record.ranked if t.state == state]
        assert sorted(points.x) == sorted(t.hparams["learning_rate"] for t in own)
        assert sorted(points.scale.values) == sorted(t.score for t in own)
        assert len(points.x) == len(points.y) == len(points.sizes) == len(points.hover)
    assert star.x == (record.best.hparams["learning_rate"],)
    assert whole.scale.low == cut.scale.low == record.best.score
    assert (whole.scale.in_margin, cut.scale.in_margin) == (True, False)


def test_pruned_trials_are_crosses_wherever_trials_are_points(record: StudyRecord) -> None:
    pruned = {t.score for t in record.ranked if t.state == "PRUNED"}
    assert pruned
    for name in ("best-by-trials", "best-by-seconds", "loss-by-seconds"):
        points = [s for s in chart_of(record, name).series if s.mark is Mark.POINTS]
        assert {y for s in points if s.symbol == "x" for y in s.y} == pruned
        assert {y for s in points if s.symbol != "x" for y in s.y}.isdisjoint(pruned)
    assert {s.name: s.symbol for s in hparam_map(record).series}["PRUNED"] == "x"


def test_a_single_epoch_is_told_as_one(record: StudyRecord) -> None:
    told = [text for chart in charts(record) for series in chart.series for text in series.hover or ()]
    assert any(re.search(r"\b1 epoch\b", text) for text in told)
    assert not any(re.search(r"\b1 epochs", text) for text in told)


def test_what_the_page_draws_wide_is_there(record: StudyRecord) -> None:
    assert set(WIDE) - {"pieces"} <= {chart.id for chart in charts(record)}  # none was paused in this one


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.06, None, 2.3], [0.05, 0.1, 0.2, 0.5, 1, 2, 5]),
        ([3.0, 3.0], [2, 5]),
        ([1e-4, 1.0], [1e-4, 1e-3, 1e-2, 1e-1, 1]),
        ([1e-9, 1e3], [1e-9, 1e-7, 1e-5, 1e-3, 1e-1, 1e1, 1e3]),
        ([None, -1.0], []),
    ],
)
def test_a_log_axis_has_labels_that_can_be_read(values: list[float | None], ticks: list[float]) -> None:
    assert log_ticks(values) == pytest.approx(ticks)


def test_both_pictures_of_a_log_axis_have_the_same_labels(record: StudyRecord) -> None:
    chart = chart_of(record, "learning-curves")
    drawn = Figure().add_subplot()
    draw(chart, drawn)
    assert chart.y.log
    labels = [text.get_text() for text in drawn.get_yticklabels()]
    assert figure(chart)["layout"]["yaxis"]["ticktext"] == labels
    assert labels
    assert "$" not in "".join(labels)


def test_no_legend_lies_on_the_data(record: StudyRecord) -> None:
    for chart in charts(record):
        legend = figure(chart)["layout"]["legend"]
        assert legend["orientation"] == "v" or (legend["yref"], legend["y"]) == ("container", 0)
        picture = draw_figure(chart)
        picture.draw_without_rendering()
        box = picture.axes[0].get_window_extent()
        assert not any(box.overlaps(legend.get_window_extent()) for legend in picture.legends)
        assert any(text.get_text().startswith(chart.caption[:20]) for text in picture.texts)


def test_the_timeline_has_one_bar_per_trial_within_its_time(record: StudyRecord) -> None:
    chart = timeline(record)
    bars = [(s.x[i], s.x[i + 1]) for s in chart.series for i in range(0, len(s.x), 3)]
    assert len(bars) == len(record.finished)
    begin = min(t.started for t in record.finished)
    unit = {"seconds": 1, "minutes": 60, "hours": 3600}[chart.x.title.split()[0]]
    assert max(end for _, end in bars) * unit <= max(t.ended for t in record.finished) - begin
    assert all(start <= end for start, end in bars)


@pytest.mark.parametrize(
    ("trials", "missing", "count"),
    [
        ([trial(0, 0.5)], {"batch-size-curves"}, 10),
        ([trial(0, None, "FAIL", stop_reason="error", epochs_run=0)],
         {"learning-curves", "best-by-trials", "map", "fit-diagnosis", "loss-by-seconds"}, 2),
        ([trial(0, 0.5, seconds=None)], {"loss-by-seconds"}, 9),
        ([replace(trial(0, 0.5), train=())], {"fit-diagnosis"}, 9),
        ([replace(trial(0, 0.5), state="RUNNING")], {"learning-curves", "workers", "stop-reasons"}, 0),
    ],
)  # fmt: skip
def test_charts_without_data_are_left_out(trials: list[TrialRecord], missing: set[str], count: int) -> None:
    drawn = {chart.id for chart in charts(study(*trials))}
    assert missing.isdisjoint(drawn)
    assert len(drawn) == count


def test_three_thousand_trials_stay_small() -> None:
    many = study(*(trial(n, 1.0 + (n * 7919 % 3000) / 3000) for n in range(3000)))
    drawn = charts(many)
    assert max(len(json.dumps(figure(chart))) for chart in drawn) < 150_000
    assert len(chart_of(many, "learning-curves").series) <= 40
    assert chart_of(many, "best-by-trials").series[-1].y[-1] == 1.0


def test_plotly_takes_every_figure_and_draws_without_webgl(record: StudyRecord) -> None:
    for chart in charts(record):
        drawn = go.Figure(figure(chart))
        assert len(drawn.data) == len(chart.series)
        assert all(trace.type in ("scatter", "bar") for trace in drawn.data)
        json.dumps(figure(chart), allow_nan=False)


def test_png_files_are_drawn_without_a_browser(record: StudyRecord, tmp_path: Path) -> None:
    paths = write_pngs(charts(record), tmp_path / "png")
    assert {path.stem for path in paths} == {chart.id for chart in charts(record)}
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000 for path in paths)


def test_fit_diagnosis_draws_the_last_epoch(record: StudyRecord) -> None:
    *points, _ = fit_diagnosis(record).series
    drawn = {(x, y) for s in points for x, y in zip(s.x, s.y, strict=True)}
    ends = {(t.train[-1], t.val[-1]) for t in record.finished if t.train and t.val[-1] is not None}
    assert drawn == {pair for pair in ends if None not in pair}


def test_the_front_of_time_and_loss_is_not_beaten(record: StudyRecord) -> None:
    front = loss_by_seconds(record).series[-1]
    for seconds, score in zip(front.x, front.y, strict=True):
        assert not [t for t in record.ranked if t.seconds <= seconds and t.score < score]


def test_searched_image_sizes_are_told_apart_the_own_size_too() -> None:
    sizes = [("none", 0.3), (16, 0.2), ("none", 0.1)]
    trials = [trial(number, score) for number, (_, score) in enumerate(sizes)]
    for one, (size, _) in zip(trials, sizes, strict=True):
        one.hparams["data.image_size"] = size
    drawn = {s.name: len(s.x) for s in loss_by_seconds(study(*trials)).series[:-1]}
    assert sorted(drawn.values()) == [1, 2]
    assert any("own image size" in name for name in drawn)
    assert any("16 x 16" in name for name in drawn)


@pytest.mark.parametrize(("count", "limit"), [(3, 10), (10, 10), (11, 10), (3000, 500)])
def test_thinning_keeps_both_ends(count: int, limit: int) -> None:
    kept = thin(range(count), limit)
    assert len(kept) == min(count, limit)
    assert (kept[0], kept[-1]) == (0, count - 1)
    assert kept == sorted(set(kept))


@pytest.mark.parametrize(
    ("values", "log"),
    [([1, 2], False), ([0.01, 1], True), ([0, 9], False), ([-1, 9], False), ([None, 1, 50], True), ([], False)],
)  # fmt: skip
def test_a_factor_of_ten_wants_a_log_axis(values: list[float | None], log: bool) -> None:
    assert wants_log(values) is log


@pytest.mark.parametrize(
    ("metric", "losses", "name"),
    [
        ("val_average_precision", True, "trial 0: average precision 0.5"),
        ("val_loss", True, "trial 0: 0.5"),
        ("val_dice", False, "trial 0: 0.5"),
    ],
)
def test_the_legend_names_the_metric_where_curves_show_another(metric: str, losses: bool, name: str) -> None:
    one = replace(trial(0, 0.5), val=(1.0, 0.9), attrs={"val_loss": [1.0, 0.9]} if losses else {})
    record = StudyRecord("s", metric, "maximize", None, (one,))
    assert [s.name for s in chart_of(record, "learning-curves").series if s.in_legend] == [name]


def test_gaps_between_bars_are_not_called_idle_where_trials_were_paused() -> None:
    one = trial(0, 0.5)
    paused = replace(one, number=1, state="RUNNING", attrs={"pauses": 1})
    assert "nothing to train" in timeline(study(one)).caption
    assert "nothing to train" not in timeline(study(one, paused)).caption


def test_graphs_mark_the_confirmed_trial_and_the_searchs_best_as_such() -> None:
    trials = [replace(trial(n, 1.0 + n), attrs={**trial(n, 1.0).attrs, "best_epoch": 2}) for n in range(12)]
    rows = [{"trial": 11, "metric": "val_loss", "n": 2, "mean": 0.5, "interval_95": None}]
    summary = {"study": "s", "metric": "val_loss", "first": 11, "statistics": rows}
    attrs = {"specification": stored_form(digits_spec()), "confirm_summary": json.dumps(summary)}
    turned = replace(study(*trials), attrs=attrs, linked={"s.confirm": {}})
    assert (turned.answer.trial, turned.answer.searched) == (11, 0)

    chart = hparam_map(turned)
    stars = {one.name: one.x for one in chart.series if one.symbol == "star"}
    assert stars == {"confirmed: trial 11": (0.1 * 12,), "best by the search alone: trial 0": (0.1,)}
    assert "trial 11, which is confirmed; the grey one is trial 0" in chart.caption
    curves = chart_of(turned, "learning-curves")
    assert curves.title.endswith("by the search's own values; trial 11 is confirmed")
    assert "trial 11: 12 (confirmed)" in {one.name for one in curves.series}
    for cost in ("trials", "epochs", "seconds"):
        assert "confirmed: trial 11" in {one.name for one in chart_of(turned, f"best-by-{cost}").series}

    alone = replace(turned, by_search=True)
    assert [one.name for one in hparam_map(alone).series if one.symbol == "star"] == ["best: trial 0"]
    same = replace(turned, trials=(replace(trials[11], score=0.5), *trials[:11]))
    assert [one.name for one in hparam_map(same).series if one.symbol == "star"] == ["confirmed: trial 11"]
