"""The charts of a study. Pure functions: a study's record in, charts (plain values) out."""

from hpsearch.results.plots.chart import Chart
from hpsearch.results.plots.curves import batch_size_curves, learning_curves
from hpsearch.results.plots.front import front_charts
from hpsearch.results.plots.history import COSTS, best_so_far, pieces, timeline
from hpsearch.results.plots.outcomes import fit_by_epochs, fit_diagnosis, stop_reasons
from hpsearch.results.plots.space import hparam_map, loss_by_seconds
from hpsearch.results.stored.study import StudyRecord

__all__ = ["charts"]


def charts(record: StudyRecord) -> list[Chart]:
    """Returns all charts that a study has data for, the most useful first; none before a trial has ended."""
    if not record.finished:
        return []
    found: list[Chart | None] = []
    if record.ranked:
        found += front_charts(record)
        found += [learning_curves(record), *(best_so_far(record, cost) for cost in COSTS)]
        found += [hparam_map(record), batch_size_curves(record), loss_by_seconds(record)]
    found += [
        fit_diagnosis(record),
        fit_by_epochs(record),
        stop_reasons(record),
        pieces(record),
        timeline(record),
    ]
    return [chart for chart in found if chart is not None]
