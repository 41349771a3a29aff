"""What a study has found, for scripts and notebooks."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hpsearch.contracts.callbacks import RunSummary
from hpsearch.errors import HpsearchError
from hpsearch.results.stored.best import BestTrial, best_trial
from hpsearch.results.stored.reading import reading_study
from hpsearch.results.terminal.lines import best_lines
from hpsearch.text import in_html

if TYPE_CHECKING:
    import pandas as pd


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
