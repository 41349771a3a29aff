"""The services as compose.yaml starts them, without Docker: worker, dashboard, Caddy, and what the page says to do.

PostgreSQL, Caddy and Chromium are real; tests/docker/image.py is in place of the containers.
"""

import json
import os
import re
import shutil
import signal
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from sqlalchemy.engine import make_url

from hpsearch.results.dashboard.serve import LARGEST_SHARED_BODY
from tests.browser import opened_page
from tests.databases import fresh_database, stored_trials
from tests.docker.files import DOCKER, PAGE, ROOT, compose, small_study
from tests.docker.image import USER, Image, make_image
from tests.results.requests import DEADLINE, basic, free_port, listens, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LOGIN = {"username": "alice", "password": "correct horse"}
SERVICES = compose()["services"]


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> Iterator[str]:
    with fresh_database("postgresql", tmp_path_factory.mktemp("unused")) as url:
        yield url


@pytest.fixture(scope="module")
def image(database, tmp_path_factory) -> Image:
    """Folders of a machine, as "Up" of the page makes them."""
    folder = tmp_path_factory.mktemp("image")
    made = make_image(folder)
    for place in (folder, *folder.parents[:2]):
        place.chmod(0o755)  # pytest's are their owner's alone
    url = make_url(database).set(drivername="postgresql+psycopg")
    made.add("secrets/storage_url", url.render_as_string(hide_password=False))
    made.add("studies/digits.toml", small_study(2, "{ low = 1, high = 2 }"), mode=0o644)
    return made


@pytest.fixture(scope="module")
def searched(image) -> Image:
    """The same after the worker of compose.yaml has run its study."""
    done = image.run("hpsearch", *SERVICES["worker-cpu"]["command"])
    assert done.returncode == 0, done.stderr
    return image


def finished(database: str) -> dict[int, float | None]:
    trials = stored_trials(database, "digits")
    return {trial.number: trial.value for trial in trials if trial.state.is_finished()}


def test_nothing_can_be_written_but_runs_and_tmp(image):
    places = ["/", "/studies", "/data", "/etc", ROOT, "/run/secrets/storage_url", "/runs", "/tmp"]
    script = 'for place; do if [ -w "$place" ]; then echo "$place"; fi; done; id -u'
    assert image.run("sh", "-c", script, "sh", *places).stdout.split() == ["/runs", "/tmp", str(USER)]


def test_the_worker_of_the_compose_file_finishes_its_study(searched, database):
    assert set(finished(database)) == {0, 1}
    assert {path.lstat().st_uid for path in (searched.folder / "runs").rglob("*")} == {USER}


def test_the_health_check_of_the_image_tells_whether_there_is_a_database(searched):
    assert json.loads(searched.run("hpsearch", "list", "--json").stdout)[0]["name"] == "digits"
    away = searched.run("hpsearch", "list", "--json", "--storage", "postgresql://postgres@127.0.0.1:1/none")
    assert away.returncode == 2


def test_optuna_upgrades_the_storage_as_the_page_says(searched):
    (script,) = re.findall(r"--entrypoint sh worker-cpu -c '(.*)'$", PAGE, re.MULTILINE)
    searched.add(
        "bin/optuna", '#!/bin/sh\nexec python -c "from optuna.cli import main; main()" "$@"\n', mode=0o755
    )
    done = searched.run("sh", "-c", script)
    assert (done.returncode, "up-to-date" in done.stderr) == (0, True), done.stderr


def epochs_until_stopped(image: Image, count: int) -> list[int]:
    """Runs studies/long.toml, sends SIGTERM after so many epochs, and returns all that were told."""
    command = image.command(
        "hpsearch", "run", "/studies/long.toml", "--gpus", "none", "--workers", 1, "--json"
    )
    told: list[int] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as worker:
        assert worker.stdout
        assert worker.stderr
        for line in worker.stdout:
            event = json.loads(line)
            if event["event"] == "epoch":
                assert event["number"] == 0
                told.append(event["epoch"])
                if len(told) == count:
                    worker.send_signal(signal.SIGTERM)  # what `docker compose stop` sends
        assert worker.wait(DEADLINE) == 128 + signal.SIGTERM, worker.stderr.read()
    return told


def test_a_container_that_is_stopped_and_started_loses_no_epoch(image):
    image.add(
        "studies/long.toml",
        small_study(1, "[500]", "long").replace("patience = 8", "patience = 500"),
        mode=0o644,
    )
    before = epochs_until_stopped(image, 3)
    after = epochs_until_stopped(image, 1)
    assert before + after == list(range(1, len(before + after) + 1))


@contextmanager
def running(command: list[str], port: int, log: Path, **environment: str) -> Iterator[None]:
    """Runs a server until SIGTERM, which must end it with status 0."""
    with (
        log.open("w", encoding="utf-8") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | environment) as process,
    ):
        try:
            until(lambda: listens(port) or process.poll() is not None)
            assert process.poll() is None, log.read_text(encoding="utf-8")
            yield
        finally:
            process.terminate()
            status = process.wait(DEADLINE)
    assert status == 0, log.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def dashboard(searched, tmp_path_factory) -> Iterator[int]:
    """The port of the compose file's dashboard, with the user that its add-user made."""
    added = searched.run(
        *SERVICES["add-user"]["entrypoint"], LOGIN["username"], more="users", input=LOGIN["password"] + "\n"
    )
    assert added.returncode == 0, added.stderr
    port = free_port()
    here = {"--host": "127.0.0.1", "--port": str(port), "--proxy": "127.0.0.1"}
    words = list(SERVICES["dashboard"]["command"])
    for flag, value in here.items():
        words[words.index(flag) + 1] = value
    log = tmp_path_factory.mktemp("dashboard") / "log"
    with running(searched.command("hpsearch", *words), port, log):
        yield port


def test_the_health_check_of_the_dashboard_tells_whether_it_serves(searched, dashboard):
    kind, *check = SERVICES["dashboard"]["healthcheck"]["test"]
    assert kind == "CMD"
    for port, status in {dashboard: 0, free_port(): 1}.items():
        done = searched.run(*(word.replace("8080", str(port)) for word in check))
        assert done.returncode == status, done.stderr


@pytest.fixture(scope="module")
def site(dashboard, tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """The address of Caddy before the dashboard, and the certificate that it can be known by."""
    caddy = shutil.which("caddy")
    if caddy is None:
        pytest.skip("no caddy on this machine")
    home, port = tmp_path_factory.mktemp("caddy"), free_port()
    settings = {"HPSEARCH_SITE": f"localhost:{port}", "HPSEARCH_DASHBOARD": f"127.0.0.1:{dashboard}"}
    settings |= {"XDG_DATA_HOME": str(home), "XDG_CONFIG_HOME": str(home)}
    config = ["--config", str(DOCKER / "Caddyfile"), "--adapter", "caddyfile"]
    valid = subprocess.run(
        [caddy, "validate", *config], env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert valid.returncode == 0, valid.stderr
    with running([caddy, "run", *config], port, home / "log", **settings):
        root = home / "caddy/pki/authorities/local/root.crt"  # below /data in the container
        assert re.search(r"caddy:/data/(\S+)", PAGE)[1] == str(root.relative_to(home))
        until(root.exists)
        until(lambda: list((home / "caddy/certificates").rglob("localhost.crt")))
        yield f"https://localhost:{port}", root


def test_caddy_serves_the_dashboard_by_tls_that_its_root_vouches_for(site):
    address, root = site
    trust = ssl.create_default_context(cafile=str(root))
    with pytest.raises(HTTPError, match="401"):
        urlopen(f"{address}/dashboard/", context=trust, timeout=DEADLINE)
    login = {"Authorization": basic(LOGIN["username"], LOGIN["password"])}
    with urlopen(Request(f"{address}/api/studies", headers=login), context=trust, timeout=DEADLINE) as answer:
        assert json.load(answer)["study_summaries"][0]["study_name"] == "digits"
        assert "; Secure" in answer.headers["Set-Cookie"]  # the dashboard believes that it was TLS


@pytest.mark.parametrize(
    ("setting", "policy"),
    [
        ("auto", '"issuers"'),
        ("internal", '"issuers":[{"module":"internal"}]'),
        ("files", '"certificate":"/certificates/site.crt"'),
    ],
)
def test_a_name_inside_the_company_gets_a_certificate(setting, policy):
    caddy = shutil.which("caddy")
    if caddy is None:
        pytest.skip("no caddy on this machine")
    config = ["--config", str(DOCKER / "Caddyfile"), "--adapter", "caddyfile"]
    adapted = subprocess.run(
        [caddy, "adapt", *config],
        env=os.environ | {"HPSEARCH_TLS": setting, "HPSEARCH_SITE": "search.example"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert (policy in adapted) is (setting != "auto")
    assert '"default_sni":"search.example"' in adapted  # who asks by address gets the same


def test_caddy_takes_no_larger_bodies_than_the_dashboard():
    caddy = shutil.which("caddy")
    if caddy is None:
        pytest.skip("no caddy on this machine")
    config = ["--config", str(DOCKER / "Caddyfile"), "--adapter", "caddyfile"]
    adapted = subprocess.run([caddy, "adapt", *config], capture_output=True, text=True, check=True).stdout
    assert f'"max_size":{LARGEST_SHARED_BODY}' in adapted


@pytest.mark.browser
def test_login_and_changes_work_behind_caddy_in_a_browser(site, chromium):
    address, _ = site
    with opened_page(chromium, http_credentials=LOGIN, ignore_https_errors=True) as (page, trouble):
        page.goto(f"{address}/dashboard")
        page.get_by_text("1. digits", exact=True).click()
        page.wait_for_url("**/dashboard/studies/1**")
        page.goto(f"{address}/dashboard/studies/1/trials")
        page.get_by_text("2 Trials", exact=True).wait_for()
        status = page.evaluate(
            """async () => {
                const study = await (await fetch('/api/studies/1')).json();
                const body = JSON.stringify({version: study.note.version + 1, body: 'by TLS'});
                const headers = {'Content-Type': 'application/json'};
                return (await fetch('/api/studies/1/note', {method: 'PUT', headers, body})).status;
            }"""
        )
        assert (status, trouble.errors) == (204, [])
    with opened_page(chromium, http_credentials={**LOGIN, "password": "wrong"}, ignore_https_errors=True) as (
        page,
        _,
    ):
        assert page.goto(f"{address}/dashboard").status == 401


def script(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", DOCKER / name, *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_a_study_that_was_backed_up_and_restored_continues(searched, database, tmp_path):
    programs = ["pg_dump", "dropdb", "createdb", "pg_restore"]
    if missing := [program for program in programs if shutil.which(program) is None]:
        pytest.skip(f"no {', '.join(missing)} on this machine")
    url, runs = make_url(database), searched.folder / "runs"
    place = {
        "PGHOST": url.host or "",
        "PGPORT": str(url.port or 5432),
        "PGUSER": url.username or "",
        "PGPASSWORD": str(url.password or ""),
        "PGDATABASE": url.database or "",
        "RUNS": str(runs),
        "BACKUPS": str(tmp_path),
    }
    before, files = finished(database), contents(runs)
    assert any(name.endswith(".safetensors") for name in files)
    done = script("backup.sh", **place)
    assert done.returncode == 0, done.stderr
    (backup,) = tmp_path.iterdir()
    assert done.stdout.strip() == str(backup)
    for name in ("", "2020-01-01T000000"):
        refused = script("restore.sh", name, **place)
        assert (refused.returncode, backup.name in refused.stderr) == (2, True)
    damaged = shutil.copytree(backup, tmp_path / "damaged") / "runs.tar"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    assert script("restore.sh", "damaged", **place).returncode != 0
    assert finished(database) == before, "nothing is taken away for a backup that is not whole"
    for file in runs.rglob("*.safetensors"):
        file.unlink()
    (runs / "newer").touch()
    done = script("restore.sh", backup.name, **place)
    assert done.returncode == 0, done.stderr
    assert contents(runs) == files
    assert finished(database) == before
    done = searched.run("hpsearch", *SERVICES["worker-cpu"]["command"], "--trials", 3)
    assert done.returncode == 0, done.stderr
    after = finished(database)
    assert set(after) == {0, 1, 2}
    assert {number: after[number] for number in before} == before


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the contents of all files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
