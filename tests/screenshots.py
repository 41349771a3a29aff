"""Takes the pictures of the README: a search of the digits on the dashboard's pages, and its report.

    python -m tests.screenshots [FOLDER]

It searches in a folder of its own, opens the pages in the system's Chromium and writes PNG files with a palette,
each below 150 kB, to `studies/images/` or FOLDER.
"""

import io
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from hpsearch.contracts.executor import Workers
from hpsearch.results.dashboard.graph_order import ORDER
from hpsearch.results.dashboard.publisher import Publisher
from hpsearch.results.report import build_report, write_report
from hpsearch.service.launch import RunOptions
from hpsearch.service.run import run
from hpsearch.study.file import load_study_file
from tests.browser import _FLAGS, chromium_path
from tests.results.requests import ours
from tests.results.stored import load

STUDY = Path("studies/digits.toml")
LARGEST = 150_000  # bytes of one picture
GRAPHS = "document.querySelectorAll('[id^=\"user-defined-plot:\"].js-plotly-plot')"


def save(page: Any, path: Path) -> None:
    """Writes what a page shows with as many colours as fit into `LARGEST` bytes."""
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    for colors in (256, 128, 64, 32):
        buffer = io.BytesIO()
        picture.quantize(colors, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        if buffer.tell() <= LARGEST:
            path.write_bytes(buffer.getvalue())
            print(f"{path}: {buffer.tell() / 1000:.0f} kB, {colors} colours")
            return
    raise SystemExit(f"{path}: larger than {LARGEST} bytes even with 32 colours; make the window smaller")


def take(browser: Any, runs: Path, folder: Path) -> None:
    """Opens the four pages and saves them."""
    url = f"sqlite:///{runs}/hpsearch.db"
    study = load("digits", url)
    page = browser.new_page(viewport={"width": 1500, "height": 940})
    (report, *_) = write_report(build_report("digits", url), runs / "report.html")
    page.goto(report.as_uri())
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length > 5")
    save(page, folder / "report.png")
    with ours("--storage", url, "--run-folder", runs) as server:
        home = f"http://127.0.0.1:{server.port}/dashboard/studies/1"
        page.goto(home)
        page.wait_for_function(f"() => {GRAPHS}.length == {len(ORDER)}")
        page.locator('[id="user-defined-plot:learning-curves"]').evaluate("plot => plot.scrollIntoView()")
        page.mouse.wheel(0, -90)  # from below the page's head
        page.wait_for_timeout(1500)
        save(page, folder / "dashboard-graphs.png")
        page.goto(f"{home}/note")
        page.get_by_text("How to read it").first.wait_for()
        save(page, folder / "dashboard-note.png")
        page.goto(f"{home}/trials?numbers={study.best_trial.number}")
        page.get_by_text("rank 1").first.wait_for()
        save(page, folder / "dashboard-trial.png")


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "studies/images")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="screenshots-") as runs, sync_playwright() as playwright:
        url = f"sqlite:///{runs}/hpsearch.db"
        options = RunOptions(storage=url, run_folder=Path(runs), workers=Workers(gpus="none", workers=1))
        publisher = Publisher(url, Path(runs))
        run(load_study_file(STUDY), options, [publisher])
        publisher.publish("digits", 60.0)  # as long as it takes here
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=_FLAGS)
        take(browser, Path(runs), folder)
        browser.close()


if __name__ == "__main__":
    main()
