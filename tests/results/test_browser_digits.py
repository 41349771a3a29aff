"""A real search of the digits in a real browser: every point on the page is one of the database."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import hpsearch
from hpsearch.results.dashboard import publisher
from hpsearch.results.dashboard.graph_order import ORDER
from hpsearch.results.dashboard.publisher import Publisher
from hpsearch.service.run import run
from tests.browser import opened_page
from tests.results.digits import options_in, small_spec
from tests.results.expected import expected
from tests.results.requests import ours
from tests.results.searches import url_in
from tests.results.stored import load
from tests.results.test_models import LOSS

pytestmark = [pytest.mark.browser, pytest.mark.slow]

DRAWN = tuple(name for name in ORDER if name != "pieces")  # of a study without pauses
DATA = {"dataset": "digits", "subset": 0.3}
PLOTS = """() => [...document.querySelectorAll('[id^="user-defined-plot:"].js-plotly-plot')].map(plot => [
    plot.id.slice('user-defined-plot:'.length),
    plot.data.map(t => [t.name, t.mode ?? t.type, Array.from(t.x ?? []), Array.from(t.y ?? [])])])"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine trials by a worker process, of which some finish and some are cut.

    What the sampler proposes ends otherwise on another processor, so the first two are given: a rate at which
    the loss falls in every epoch, and one that no processor survives.
    """
    folder = tmp_path_factory.mktemp("digits")
    spec = small_spec(
        "digits",
        study={"trials": 9, "seed": 0},
        data=DATA,
        enqueue=[
            {"learning_rate": 0.02, "batch_size": 64, "epochs": 4},
            {"learning_rate": 1e6, "batch_size": 16, "epochs": 10},
        ],
        search={
            "learning_rate": {"low": 1e-3, "high": 1e6, "log": True},
            "batch_size": [16, 64],
            "epochs": {"low": 4, "high": 10},
        },
        sampler={"name": "random"},
        early_stopping={"patience": 3},
        pruner={"name": "median", "startup_trials": 3},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publisher, "AT_END", 60.0)  # a machine that is busy with other tests
        summary = run(spec, options_in(folder), [Publisher(url_in(folder), folder / "runs")])
    assert summary.exit_status == 0
    return folder


@pytest.fixture(scope="module")
def server(folder: Path):
    with ours("--storage", url_in(folder), "--run-folder", folder / "runs") as server:
        yield server


def test_every_point_of_every_graph_is_stored(chromium, folder: Path, server) -> None:
    trials = load("digits", url_in(folder)).trials
    with opened_page(chromium) as (page, trouble):
        page.goto(f"http://127.0.0.1:{server.port}/dashboard/studies/1")
        page.wait_for_function(f"() => ({PLOTS})().length == {len(DRAWN)}")
        drawn = page.evaluate(PLOTS)
        assert trouble.errors == []
    assert [name for name, _ in drawn] == list(DRAWN)
    for graph, wanted in expected(trials).items():
        traces = {name: (mode, x, y) for name, mode, x, y in dict(drawn)[graph]}
        assert traces.keys() == wanted.keys(), graph
        for name, points in wanted.items():
            mode, x, y = traces[name]
            found = list(zip(map(as_stored, x), map(as_stored, y), strict=True))
            if graph == "workers":
                check_spans(found, points)
            elif graph == "best-by-seconds":  # sums of times, in another order of adding
                check_near(found, points, mode)
            else:
                assert in_order(found, mode) == in_order(points, mode), (graph, name)


def as_stored(coordinate: Any) -> Any:
    """JavaScript writes a number of 2**53 or more, such as a diverged loss, as an integer's digits."""
    return float(coordinate) if isinstance(coordinate, int) else coordinate


def in_order(points: list, mode: str) -> list:
    """Returns points in the order in which they matter: a line's as they are, others in any."""
    return [tuple(point) for point in (points if mode == "lines" else sorted(points))]


def check_near(found: list, points: list, mode: str) -> None:
    for one, other in zip(in_order(found, mode), in_order(points, mode), strict=True):
        assert one == (pytest.approx(other[0], abs=1e-4), other[1])


def check_spans(found: list, points: list) -> None:
    """A bar is a begin, an end, a gap; a sliver of 4 % is left at either end."""
    spans = [point for point in found if point != (None, None)]
    assert len(found) == len(spans) * 3 // 2
    for (start, row), (end, _), begun, ended in zip(
        spans[::2], spans[1::2], points[::2], points[1::2], strict=True
    ):
        inset = 0.04 * (ended[0] - begun[0])
        assert (start, end, row) == pytest.approx((begun[0] + inset, ended[0] - inset, 0), abs=1e-5)


def test_the_search_was_varied_enough_to_be_worth_looking_at(folder: Path) -> None:
    trials = load("digits", url_in(folder)).trials
    assert len(trials) == 9
    assert {trial.state.name for trial in trials} >= {"COMPLETE", "PRUNED"}
    assert {trial.user_attrs["stop_reason"] for trial in trials} >= {"finished", "diverged"}


def test_the_notes_show_the_best_and_how_to_load_it(chromium, folder: Path, server) -> None:
    best = load("digits", url_in(folder)).best_trial
    home = f"http://127.0.0.1:{server.port}/dashboard/studies/1"
    with opened_page(chromium) as (page, trouble):
        page.goto(f"{home}/note")
        page.get_by_text(f"Best so far: trial {best.number}").first.wait_for()
        page.get_by_text("hpsearch.load_best_model").first.wait_for()
        assert url_in(folder) in page.content()
        page.goto(f"{home}/trials?numbers={best.number}")
        page.get_by_text(f"Trial {best.number}: rank 1").first.wait_for()
        assert trouble.errors == []


def test_the_downloaded_weights_give_the_stored_validation_loss(
    chromium, folder: Path, server, tmp_path: Path
) -> None:
    best = load("digits", url_in(folder)).best_trial
    file = tmp_path / "downloaded.safetensors"
    with opened_page(chromium, accept_downloads=True) as (page, trouble):
        page.goto(f"http://127.0.0.1:{server.port}/dashboard/studies/1")
        with page.expect_download() as download:
            page.locator("a[href^='/artifacts/1/']").first.click()
        download.value.save_as(file)
        assert download.value.suggested_filename == f"digits-trial-{best.number:05d}.safetensors"
        assert trouble.errors == []
    code = LOSS.replace("subset=0.2", f"subset={DATA['subset']}")
    command = [sys.executable, "-c", code, str(file), str(folder / "runs" / "cache")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(answer.stdout) == best.value
    one = hpsearch.load_best_model(file).state_dict()
    other = hpsearch.load_best_model("digits", storage=url_in(folder)).state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
