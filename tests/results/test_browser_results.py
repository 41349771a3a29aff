"""A study in a real browser: the report without a network, the dashboard with what was published."""

from pathlib import Path

import pytest
from safetensors.numpy import load_file

from hpsearch.results.confirm.confirm import confirm
from hpsearch.results.dashboard import publisher
from hpsearch.results.dashboard.publisher import Publisher
from hpsearch.results.report import build_report, write_report
from hpsearch.testing.in_process import InProcessExecutor
from tests.browser import opened_page
from tests.results.digits import searched
from tests.results.requests import ours
from tests.results.searches import record_of, search, url_in

pytestmark = pytest.mark.browser

ALL = "document.querySelectorAll('[id^=\"user-defined-plot:\"].js-plotly-plot')"
POINTS = """
[...document.querySelectorAll('.js-plotly-plot')].map(plot => [
  plot.id, plot.data.map(trace => [trace.name, Array.from(trace.x ?? []), Array.from(trace.y ?? [])])])
"""
LEGENDS = "document.querySelectorAll('.js-plotly-plot .legend').length"
COVERED = """
[...document.querySelectorAll('.js-plotly-plot')].filter(plot => {
  const legend = plot.querySelector('.legend');
  if (legend === null) return false;
  const box = legend.getBoundingClientRect();
  return [...plot.querySelectorAll('.gtitle, .xtitle, .nsewdrag')].some(other => {
    const they = other.getBoundingClientRect();
    return box.left < they.right && they.left < box.right && box.top + 1 < they.bottom && they.top + 1 < box.bottom;
  });
}).map(plot => plot.id)
"""
PUBLISHED = {
    "learning-curves", "best-by-trials", "best-by-epochs", "best-by-seconds", "map", "batch-size-curves",
    "loss-by-seconds", "fit-diagnosis", "fit-by-epochs", "stop-reasons", "workers",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shown")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publisher, "AT_END", 60.0)
        search(folder, callbacks=(Publisher(url_in(folder), folder / "runs"),))
    return folder


def stored_curves(folder: Path) -> dict[str, list[float]]:
    """Returns the curves of the best ten trials under the names of their lines."""
    curves = {}
    for trial in record_of(folder).ranked[:10]:
        name = f"trial {trial.number}: {trial.score:.4g}"
        curves[name] = trial.attrs["val_loss"]
        curves[f"{name}, training"] = trial.attrs["train_loss"]
    return curves


def check_curves(traces: list, folder: Path) -> None:
    drawn = {name: y for name, _, y in traces}
    for name, curve in stored_curves(folder).items():
        assert drawn[name] == curve
    for name, x, y in traces:
        assert len(x) == len(y), name


def test_the_report_opens_without_a_network(chromium, folder: Path, tmp_path: Path) -> None:
    (out,) = write_report(build_report("s", url_in(folder)), tmp_path / "r.html")
    with opened_page(chromium, offline=True) as (page, trouble):
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(out.as_uri())
        page.wait_for_function("window.charts_drawn")
        plots = dict(page.evaluate(POINTS))
        assert trouble.errors == []
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        assert len(plots) == 11
        check_curves(plots["chart-learning-curves"], folder)
        best = plots["chart-best-by-trials"][-1]
        assert best[2][-1] == record_of(folder).best.score
        assert page.locator("#ranking tbody tr").count() == len(record_of(folder).ranked)


def test_the_report_of_a_confirmation_shows_its_pictures(chromium, tmp_path: Path) -> None:
    options = searched(tmp_path)
    outcome = confirm("small", options, executor=InProcessExecutor())
    (out,) = write_report(build_report("small", options.storage), tmp_path / "r.html")
    wrong = outcome.stored["most_wrong"]
    with opened_page(chromium, offline=True) as (page, trouble):
        page.goto(out.as_uri())
        page.wait_for_function("window.charts_drawn")
        for section, count in (("the-data", 8), ("confirmation-and-the-test-part", len(wrong))):
            images = f"[...document.querySelectorAll('#{section} .pictures img')]"
            assert page.evaluate(f"{images}.map(i => i.naturalWidth)") == [8] * count != []
            assert page.evaluate(f"{images}.map(i => i.width)") == [160] * count
        assert page.get_by_text(f"the models say {wrong[0]['predicted']} with").first.is_visible()
        marked = page.locator("td[style*='rgba(0, 114, 178']").all_inner_texts()
        counts = outcome.stored["confusion"]["counts"]
        assert marked == [str(row[place]) for place, row in enumerate(counts) if row[place]]
        assert trouble.errors == []


def test_no_title_is_covered_by_a_legend(chromium, folder: Path, tmp_path: Path) -> None:
    """As they are drawn, in a window in which two charts stand side by side."""
    (out,) = write_report(build_report("s", url_in(folder)), tmp_path / "r.html")
    with opened_page(chromium, offline=True, viewport={"width": 1100, "height": 900}) as (page, _):
        page.goto(out.as_uri())
        page.wait_for_function("window.charts_drawn")
        assert page.evaluate(LEGENDS) > 0
        assert page.evaluate(COVERED) == []


def test_on_a_telephone_a_long_legend_leaves_the_plot_its_width(
    chromium, folder: Path, tmp_path: Path
) -> None:
    (out,) = write_report(build_report("s", url_in(folder)), tmp_path / "r.html")
    with opened_page(chromium, offline=True, viewport={"width": 420, "height": 900}) as (page, _):
        page.goto(out.as_uri())
        page.wait_for_function("window.charts_drawn")
        width = "document.querySelector('#chart-learning-curves .bglayer').getBoundingClientRect().width"
        assert page.evaluate(width) > 250
        assert page.evaluate(COVERED) == []


def test_the_dashboard_shows_what_was_published(chromium, folder: Path, tmp_path: Path) -> None:
    with (
        ours("--storage", url_in(folder), "--run-folder", folder / "runs") as server,
        opened_page(chromium, accept_downloads=True) as (page, trouble),
    ):
        home = f"http://127.0.0.1:{server.port}/dashboard/studies/1"
        page.goto(home)
        page.wait_for_function(f"{ALL}.length == {len(PUBLISHED)}")
        plots = {name.removeprefix("user-defined-plot:"): traces for name, traces in page.evaluate(POINTS)}
        assert plots.keys() >= PUBLISHED
        check_curves(plots["learning-curves"], folder)
        line = plots["best-by-trials"][-1]
        assert line[2][-1] == record_of(folder).best.score
        with page.expect_download() as download:
            page.locator("a[href^='/artifacts/1/']").first.click()
        download.value.save_as(tmp_path / "best.safetensors")
        assert load_file(tmp_path / "best.safetensors")["number"] == [record_of(folder).best.number]
        page.goto(f"{home}/note")
        page.get_by_text("How to read it").first.wait_for()
        assert trouble.errors == []
