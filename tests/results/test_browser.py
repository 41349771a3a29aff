"""The dashboard in a real browser."""

import pytest
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from playwright.sync_api import Error

from hpsearch.results.dashboard.accounts import add_user
from tests.browser import opened_page
from tests.results.requests import ours
from tests.results.stored import make_study

pytestmark = pytest.mark.browser

LOGIN = {"username": "zoë", "password": "pässwörd 1"}


@pytest.fixture(scope="module")
def server(tmp_path_factory, chromium):
    folder = tmp_path_factory.mktemp("runs")
    study = make_study(f"sqlite:///{folder}/hpsearch.db", "shown")
    page = folder / "page.html"
    page.write_text("<p>an artifact</p><script>alert(document.cookie)</script>")
    (folder / "artifacts").mkdir()
    upload_artifact(
        artifact_store=FileSystemArtifactStore(folder / "artifacts"),
        file_path=str(page),
        study_or_trial=study,
    )
    add_user(folder / "users", LOGIN["username"], LOGIN["password"])
    with ours("--run-folder", folder, "--auth", folder / "users") as server:
        yield server


# Each drawn trace by its name, from the page's own plot data.
TRACES = """() => Object.fromEntries([...document.querySelectorAll('.js-plotly-plot')].flatMap(
    plot => (plot.data ?? []).map(trace => [trace.name.trim(), Array.from(trace.y ?? [])])))"""


def test_after_login_the_study_opens_and_lists_its_trials(server, chromium):
    address = f"http://127.0.0.1:{server.port}"
    with opened_page(chromium, http_credentials=LOGIN) as (page, trouble):
        page.goto(f"{address}/")
        card = page.locator("a", has_text="1. shown")
        card.get_by_text("4 of 4 trials finished, best validation loss 0.2, not confirmed").wait_for()
        assert "cnn on digits\n" in card.inner_text()
        page.get_by_text("1. shown", exact=True).click()
        page.wait_for_url("**/dashboard/studies/1**")
        page.wait_for_function(f"() => 'trial #1' in ({TRACES})()")
        traces = page.evaluate(TRACES)
        assert traces["Objective 0 of shown"] == [0.5, 0.2, 2]
        assert traces["trial #0"] == [0.9, 0.5]
        assert traces["trial #1"] == [0.8, 0.2, 0.3]
        assert traces["trial #4 (running)"] == [0.7]
        page.goto(f"{address}/dashboard/studies/1/trials")
        page.get_by_text("5 Trials", exact=True).wait_for()
        for number in range(5):
            page.get_by_text(f"Trial {number}", exact=True).first.wait_for()
        assert trouble.errors == []


def test_a_note_is_saved_and_is_there_after_a_reload(server, chromium):
    with opened_page(chromium, http_credentials=LOGIN) as (page, trouble):
        page.goto(f"http://127.0.0.1:{server.port}/dashboard/studies/1/note")
        status = page.evaluate(
            "fetch('/api/studies/1/note', {method: 'PUT', headers: {'Content-Type': 'application/json'}, "
            "body: JSON.stringify({version: 1, body: 'written by the page'})}).then(answer => answer.status)"
        )
        assert status == 204
        page.reload()
        page.get_by_text("written by the page").first.wait_for()
        assert trouble.errors == []


def test_without_a_password_nothing_is_shown(server, chromium):
    refused = pytest.raises(Error, match="ERR_INVALID_AUTH_CREDENTIALS")
    with opened_page(chromium) as (page, _), refused:
        page.goto(f"http://127.0.0.1:{server.port}/dashboard")


def test_with_a_wrong_password_nothing_is_shown(server, chromium):
    with opened_page(chromium, http_credentials={**LOGIN, "password": "wrong"}) as (page, _):
        assert page.goto(f"http://127.0.0.1:{server.port}/dashboard").status == 401
        assert "optuna" not in page.content().lower()


def test_an_artifact_is_shown_and_its_script_is_not_run(server, chromium):
    with opened_page(chromium, http_credentials=LOGIN) as (page, trouble):
        page.goto(f"http://127.0.0.1:{server.port}/dashboard")
        artifact = page.evaluate(
            "fetch('/api/studies/1').then(a => a.json()).then(s => s.artifacts[0].artifact_id)"
        )
        page.goto(f"http://127.0.0.1:{server.port}/artifacts/1/{artifact}")
        page.get_by_text("an artifact").wait_for()
        assert not [error for error in trouble.errors if error.startswith("dialog")]
        assert [error for error in trouble.errors if "script" in error.lower()]  # the policy's refusal


def test_another_sites_page_cannot_change_anything(server, chromium):
    with opened_page(chromium, http_credentials=LOGIN) as (page, _):
        page.goto(f"http://127.0.0.1:{server.port}/dashboard")  # logged in from here on
        page.route(
            "http://evil.test/", lambda route: route.fulfill(body="<p>evil</p>", content_type="text/html")
        )
        page.goto("http://evil.test/")
        page.evaluate(
            """address => fetch(address, {
                method: 'POST', mode: 'no-cors', credentials: 'include',
                body: JSON.stringify({study_name: 'evil', directions: ['minimize']}),
            }).catch(() => null)""",
            f"http://127.0.0.1:{server.port}/api/studies",
        )
        page.goto(f"http://127.0.0.1:{server.port}/dashboard")
        found = page.evaluate("fetch('/api/studies').then(answer => answer.json())")
        assert [study["study_name"] for study in found["study_summaries"]] == ["shown"]
