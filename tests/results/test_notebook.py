"""Notebooks: the example in `studies/` is executed, and results draw themselves."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from hpsearch.contracts.messages import TrialRun
from hpsearch.errors import UserError
from hpsearch.results.stored.result import StudyResult
from hpsearch.results.terminal.display import choose_display
from tests.results.searches import digits_spec, search, url_in
from tests.service.curves import Script

STUDIES = Path(__file__).parents[2] / "studies"


def outputs(notebook: Any, cell: int) -> dict[str, str]:
    """Returns what a cell shows, the last of each kind."""
    shown: dict[str, str] = {}
    for output in notebook.cells[cell].outputs:
        assert output.output_type != "error"
        if output.output_type == "stream":
            shown[output.name] = shown.get(output.name, "") + output.text
        else:
            shown |= output.data
    return shown


def by_rate(run: TrialRun) -> Script:
    """Curves that fall to what the learning rate allows."""
    off = abs(math.log10(run.spec.train.learning_rate) + 1)
    return Script(tuple(off + 1 / epoch for epoch in range(1, run.spec.train.epochs + 1)))


@pytest.mark.slow
def test_the_notebook_shows_a_live_picture_and_figures(tmp_path: Path) -> None:
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    import nbformat
    from nbclient import NotebookClient

    shutil.copy(STUDIES / "digits.toml", tmp_path)
    notebook = nbformat.read(STUDIES / "digits.ipynb", as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        cell.source = cell.source.replace("trials=16", "trials=2, workers=1, gpus='none'")
    pictures: list[str] = []

    class Client(NotebookClient):  # type: ignore[misc]
        def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
            if msg["msg_type"] in ("display_data", "update_display_data"):
                pictures.append(msg["content"]["data"].get("text/html", ""))
            return super().process_message(msg, cell, cell_index)

    Client(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert any("1/2 trials" in picture for picture in pictures), "the picture followed the run"
    run = outputs(notebook, 1)
    assert "&lt;StudyResult" in run["text/html"] or "digits: trial" in run["text/html"]
    assert "ipywidgets" not in run.get("stderr", "")
    figure = outputs(notebook, 3)["application/vnd.plotly.v1+json"]
    assert "Learning curves" in figure["layout"]["title"]["text"]  # type: ignore[index]
    assert "do not tell which hyperparameter matters" in outputs(notebook, 5)["text/plain"]
    assert "learning_rate" in outputs(notebook, 6)["text/html"]
    assert "SavedModel" in outputs(notebook, 8)["text/plain"]


def test_results_are_drawn(tmp_path: Path) -> None:
    spec = digits_spec(
        study={"trials": 40, "max_attempts": 1}, sampler={"name": "random"}, pruner={"name": "none"}
    )
    search(tmp_path, spec, script=by_rate)
    result = StudyResult("s", url_in(tmp_path))
    curves = result.plot_curves(top=3)
    assert "the best 3 trials" in curves.layout.title.text
    assert result.best is not None
    assert any(f"trial {result.best.number}:" in (trace.name or "") for trace in curves.data)
    figure = result.importances()
    assert figure.layout.yaxis.ticktext[-1] == "learning_rate"
    (points,) = [trace for trace in figure.data if trace.mode == "markers"]
    assert list(points.x) == sorted(points.x)
    assert 0 < points.x[-1] <= 1


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    search(tmp_path, digits_spec(study={"trials": 3, "max_attempts": 1}))
    with pytest.raises(UserError, match="do not tell which hyperparameter matters; let more of them finish"):
        StudyResult("s", url_in(tmp_path)).importances()


def test_elsewhere_than_in_a_notebook_nothing_changes() -> None:
    assert type(choose_display(quiet=False, as_json=False)).__name__ == "PlainDisplay"
