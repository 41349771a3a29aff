"""The order of a study's graphs on its page in the dashboard.

optuna-dashboard 0.21 collects their names in a set, so that they stand in another order after each start.
"""

import functools
from typing import Any

from optuna_dashboard import _app

ORDER = (
    "learning-curves",
    "best-by-trials",
    "best-by-epochs",
    "best-by-seconds",
    "map",
    "batch-size-curves",
    "loss-by-seconds",
    "fit-diagnosis",
    "fit-by-epochs",
    "stop-reasons",
    "pieces",
    "workers",
)
"""The ids of our charts, as `hpsearch.results.plots.charts` returns them; a test compares the two."""


def in_order() -> None:
    """Makes the dashboard of this process show our graphs in `ORDER`, and after them all others by name."""
    found = _app.get_plotly_graph_objects
    if hasattr(found, "__wrapped__"):  # done before
        return

    @functools.wraps(found)
    def ordered(system_attrs: dict[str, Any]) -> dict[str, str]:
        return dict(sorted(found(system_attrs).items(), key=lambda graph: _place(graph[0])))

    _app.get_plotly_graph_objects = ordered


def _place(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)
