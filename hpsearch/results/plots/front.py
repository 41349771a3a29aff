"""What a better score costs in each of the study's other goals."""

from hpsearch.results.plots.chart import GREY, ORANGE, RED, Axis, Chart, Mark, Series, thin, wants_log
from hpsearch.results.plots.history import about
from hpsearch.results.stored.study import StudyRecord, TrialRecord

MOST_POINTS = 500


def front_charts(record: StudyRecord) -> list[Chart]:
    """Draws the metric against each other goal, with the trials of the front; nothing for one goal."""
    return [_against(record, name) for name in record.goals] if record.front else []


def _against(record: StudyRecord, name: str) -> Chart:
    best = sorted(record.front, key=lambda trial: trial.taken[name])
    numbers = {trial.number for trial in best}
    others = [t for t in record.ranked if t.number not in numbers and name in t.taken]
    shown = thin(others, MOST_POINTS)
    whole, cut = ([t for t in shown if (t.state == "COMPLETE") is complete] for complete in (True, False))
    values = [trial.taken[name] for trial in (*best, *shown)]
    return Chart(
        id=f"front-{name.replace('_', '-')}",
        title=f"Score against {name.replace('_', ' ')}",
        caption="The line joins the front: trials that no other one beats in all goals. None of them was cut by "
        "comparison with others. A cross is a trial that was.",
        x=Axis(name.replace("_", " "), log=wants_log(values)),
        y=Axis(record.metric, log=wants_log([trial.score for trial in (*best, *shown)])),
        series=(
            _points("other trials", whole, name, GREY, "circle"),
            _points("PRUNED", cut, name, ORANGE, "x"),
            _points("the front", best, name, RED, "diamond"),
            Series(
                "the front",
                tuple(trial.taken[name] for trial in best),
                tuple(trial.score for trial in best),
                Mark.LINE,
                RED,
                in_legend=False,
            ),
        ),
    )


def _points(name: str, trials: list[TrialRecord], goal: str, color: str, symbol: str) -> Series:
    return Series(
        name,
        tuple(trial.taken[goal] for trial in trials),
        tuple(trial.score for trial in trials),
        Mark.POINTS,
        color,
        symbol=symbol,
        sizes=(9.0 if symbol == "diamond" else 7.0,),
        hover=tuple(about(trial) for trial in trials),
    )
