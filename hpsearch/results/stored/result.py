"""What a study has found, for scripts and notebooks."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hpsearch.contracts.callbacks import RunSummary
from hpsearch.errors import HpsearchError, UserError
from hpsearch.results.stored.best import BestTrial, best_trial
from hpsearch.results.stored.reading import reading_study
from hpsearch.results.terminal.lines import best_lines
from hpsearch.text import in_html

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

    from hpsearch.results.plots.chart import Chart


@dataclass(frozen=True, slots=True, repr=False)
class StudyResult:
    """What a study has found, read from its database when asked.

    Attributes:
        summary: of the run that has just ended; None for a study that was opened later.
    """

    name: str
    storage: str = field(repr=False)
    summary: RunSummary | None = None
    run_folder: Path = Path("runs")

    @property
    def best(self) -> BestTrial | None:
        """The study's answer: its confirmed trial, else the search's first; None while no trial is COMPLETE."""
        with reading_study(self.name, self.storage) as study:
            return best_trial(study, self.run_folder)

    @property
    def search_best(self) -> BestTrial | None:
        """What the search alone would pick, whatever a confirmation has found."""
        with reading_study(self.name, self.storage) as study:
            return best_trial(study, self.run_folder, by_search=True)

    def dataframe(self) -> "pd.DataFrame":
        """Returns one row per trial."""
        from hpsearch.results.stored.frames import trials_frame

        with reading_study(self.name, self.storage) as study:
            return trials_frame(study, self.run_folder)

    def epochs(self) -> "pd.DataFrame":
        """Returns one row per epoch of every trial."""
        from hpsearch.results.stored.frames import epochs_frame

        with reading_study(self.name, self.storage) as study:
            return epochs_frame(study)

    def plot_curves(self, top: int = 10) -> "Figure":
        """Returns the learning curves of the best trials as a plotly figure.

        Raises:
            UserError: no trial has ended with a value.
        """
        from hpsearch.results.plots.curves import learning_curves

        with reading_study(self.name, self.storage) as study:
            record = study.record()
        if not record.ranked:
            raise UserError(
                f'study "{self.name}" has no finished trial with a value yet: there is no curve to plot'
            )
        return _drawn(learning_curves(record, top))

    def importances(self) -> "Figure":
        """Returns how much each hyperparameter matters, with 95 % intervals, as a plotly figure.

        Raises:
            UserError: the trials do not tell.
        """
        from hpsearch.results.report.importance import FEWEST, importance_chart

        with reading_study(self.name, self.storage) as study:
            chart = importance_chart(study.record())
        if chart is None:
            raise UserError(
                f'the trials of study "{self.name}" do not tell which hyperparameter matters; let more of them finish '
                f"(at least {FEWEST})"
            )
        return _drawn(chart)

    def __repr__(self) -> str:
        ended = "" if self.summary is None else f", {self.summary.reason.splitlines()[0]}"
        return f"<StudyResult {self.name!r}{ended}>"

    def _repr_html_(self) -> str:
        try:
            with reading_study(self.name, self.storage) as study:
                best = best_trial(study, self.run_folder)
                lines = (
                    best_lines(study.name, study.metric, best)
                    if best
                    else [f"{study.name}: no COMPLETE trial yet"]
                )
        except HpsearchError as error:
            lines = [str(error)]
        return "<br>".join(map(in_html, lines))


def _drawn(chart: "Chart") -> "Figure":
    from plotly.graph_objects import Figure

    from hpsearch.results.plots.interactive import figure

    return Figure(figure(chart))
