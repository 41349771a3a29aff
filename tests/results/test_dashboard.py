"""`hpsearch dashboard` on real databases and over real HTTP, beside Optuna's own command."""

import contextlib
import io
import signal
import socket
import threading
from functools import partial
from pathlib import Path

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, upload_artifact

from hpsearch.__main__ import run as command
from hpsearch.contracts.executor import Workers
from hpsearch.errors import StudyNotFound, UserError
from hpsearch.results.dashboard.accounts import add_user, read_users
from hpsearch.results.dashboard.serve import Access, ArtifactFolder, Dashboard, Refreshed
from hpsearch.service.launch import RunOptions
from hpsearch.service.run import run
from hpsearch.store.connection import open_storage
from tests.results.requests import ask, basic, ours, stock, until
from tests.results.stored import make_study, specification
from tests.service.curves import CurveExecutor, Script

NAME, PASSWORD = "zoë", "pässwörd 1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run folder with a study, an artifact of it, and a file of users."""
    folder = tmp_path_factory.mktemp("runs")
    study = make_study(f"sqlite:///{folder}/hpsearch.db", "shown")
    page = folder / "page.html"
    page.write_text("<script>alert(1)</script>")
    (folder / "artifacts").mkdir()
    upload_artifact(
        artifact_store=FileSystemArtifactStore(folder / "artifacts"),
        file_path=str(page),
        study_or_trial=study,
    )
    add_user(folder / "users", NAME, PASSWORD)
    return folder


@pytest.fixture(scope="module")
def plain(folder):
    with ours("--run-folder", folder) as server:
        yield server


@pytest.fixture(scope="module")
def locked(folder):
    arguments = ("--run-folder", folder, "--read-only", "--auth", folder / "users", "--proxy", "127.0.0.1")
    with ours(*arguments) as server:
        yield server


def test_it_serves_page_bundle_studies_and_trials(plain):
    page = plain.ask("/dashboard/studies/1")
    assert page.status == 200
    assert b"/static/bundle.js" in page.body
    bundle = plain.ask("/static/bundle.js", Accept_Encoding="gzip")
    assert bundle.status == 200
    assert len(bundle.body) > 10**6
    assert [study["study_name"] for study in plain.json("/api/studies")["study_summaries"]] == ["shown"]
    trials = plain.json("/api/studies/1")["trials"]
    assert [trial["state"] for trial in trials] == ["Complete", "Complete", "Pruned", "Fail", "Running"]
    assert [point["value"] for point in trials[1]["intermediate_values"]] == [0.8, 0.2, 0.3]


def test_the_cards_say_what_a_study_is_and_how_far(tmp_path):
    url = f"sqlite:///{tmp_path}/hpsearch.db"
    make_study(url, "ours")
    optuna.create_study(study_name="<b>", storage=url).optimize(
        lambda trial: trial.suggest_float("x", 1, 1), 1
    )
    optuna.create_study(study_name="two", storage=url, directions=["minimize"] * 2)
    damaged = make_study(url, "later")
    damaged.set_user_attr("specification", '{"of": "a later version"}')
    app = Refreshed(open_storage(url, readonly=True), ArtifactFolder(tmp_path / "artifacts"))
    assert ask(app, "/hpsearch/cards").json == {
        "1": [
            "cnn on digits",
            "4 of 4 trials finished, best validation loss 0.2, not confirmed",
            "not running, last changed now",
        ],
        "2": ["1 trial finished, best value 1", "not running, last changed now"],
        "3": ["0 trials finished", "not running, no trial has begun"],
        "4": ["4 trials finished, best validation loss 0.2", "not running, last changed now"],
    }
    app.storage.engine.dispose()


def test_a_client_that_accepts_no_encoding_is_served(plain):
    with contextlib.closing(socket.create_connection(("127.0.0.1", plain.port))) as connection:
        connection.sendall(b"GET /static/bundle.js HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
        assert connection.recv(15).endswith(b"200 OK")


def test_an_artifact_is_served_to_our_own_pages_without_its_scripts(plain):
    (artifact,) = plain.json("/api/studies/1")["artifacts"]
    answer = plain.ask(f"/artifacts/1/{artifact['artifact_id']}", Origin="https://evil.example")
    assert answer.body == b"<script>alert(1)</script>"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


TRICKS = [
    "/static/../_app.py",
    "/static/..%2f_app.py",
    "/static/%2e%2e/_app.py",
    "/static/..%5c_app.py",
    "/static//etc/passwd",
    "/static/%2fetc%2fpasswd",
    "/static/../../../../../../../../etc/passwd",
    "/artifacts/1/../users",
    "/artifacts/1/..%2fusers",
    "/artifacts/1/..%2f..%2fhpsearch.db",
    "/../users",
    "/dashboard%00/../users",
    "//static/../_app.py",
    "//artifacts/1/../../users",
    "/static/%2e%2e%2f%2e%2e%2f%2e%2e%2fetc/passwd",
    "/static/%252e%252e/_app.py",
    "/static/....//_app.py",
    "/artifacts/1/%2e%2e/users",
    "/artifacts//users",
]


@pytest.mark.parametrize("path", TRICKS)
def test_paths_lead_nowhere_else(plain, locked, path):
    answer = plain.ask(path)
    assert answer.status in (403, 404)
    assert not [word for word in (b"create_app", b"root:", b"scrypt") if word in answer.body]
    assert locked.ask(path).status == 401
    assert locked.ask(path, Authorization=basic(NAME, PASSWORD)).status in (403, 404)


CHANGES = [
    ("POST", "/api/studies", b'{"study_name": "new", "directions": ["minimize"]}'),
    ("DELETE", "/api/studies/1", b"{}"),
    ("POST", "/api/studies/1/rename", b'{"study_name": "renamed"}'),
    ("PUT", "/api/studies/1/note", b'{"version": 1, "body": "x"}'),
    ("POST", "/api/trials/5/tell", b'{"state": "Fail"}'),
    ("POST", "/api/trials/5/user-attrs", b'{"user_attrs": {"a": 1}}'),
    ("POST", "/api/artifacts/1", b'{"file": "data:text/plain;base64,AA==", "filename": "a"}'),
    ("POST", "/incompatible-rdb-schema", b""),
]


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
def test_changes_that_must_not_be_are_refused_and_change_nothing(plain, locked, folder, method, path, body):
    before = state_of(folder)
    kind = {"Content_Type": "application/json"}
    right = basic(NAME, PASSWORD)
    assert plain.ask(path, method, body, **kind, Origin="https://evil.example").status == 403
    assert plain.ask(path, method, body, **kind, Sec_Fetch_Site="cross-site").status == 403
    assert plain.ask(path, method, body, **kind, Host="evil.example").status == 421
    assert locked.ask(path, method, body, **kind).status == 401
    assert locked.ask(path, method, body, **kind, Authorization=right).status == 403
    assert state_of(folder) == before


def state_of(folder):
    storage = open_storage(f"sqlite:///{folder}/hpsearch.db", readonly=True)
    studies = [(s.study_name, s.user_attrs, s.system_attrs) for s in storage.get_all_studies()]
    trials = [(t.state, t.user_attrs) for t in storage.get_all_trials(1)]
    storage.engine.dispose()
    return studies, trials, sorted(path.name for path in (folder / "artifacts").iterdir())


def test_a_note_can_be_saved_from_our_own_page(plain):
    origin = f"http://127.0.0.1:{plain.port}"
    body = b'{"version": 1, "body": "a *note*"}'
    headers = {"Content_Type": "application/json", "Origin": origin, "Sec_Fetch_Site": "same-origin"}
    assert plain.ask("/api/studies/1/note", "PUT", body, **headers).status == 204
    assert plain.json("/api/studies/1")["note"]["body"] == "a *note*"


WRONG = [
    (name, password)
    for name in ("", NAME, "eve", "x" * 3000)
    for password in ("", "wrong", "пароль", "x" * 5000)
]


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_over_http_wrong_credentials_are_served_nothing(locked, case):
    # The proxy that is believed here names another client each time, so that no delay begins.
    answer = locked.ask("/api/studies", Authorization=basic(*WRONG[case]), X_Forwarded_For=f"10.1.0.{case}")
    assert answer.status == 401
    assert b"shown" not in answer.body


def test_over_http_a_login_opens_everything_for_reading(locked):
    right = basic(NAME, PASSWORD)
    answer = locked.ask("/api/studies", Authorization=right, X_Forwarded_Proto="https")
    assert answer.status == 200
    assert "Secure" in answer.headers["Set-Cookie"]
    cookie = answer.headers["Set-Cookie"].partition(";")[0]
    for path in ("/dashboard", "/api/meta", "/api/studies/1", "/csv/1", "/static/bundle.js", "/favicon.ico"):
        assert locked.ask(path, Authorization=right, Cookie=cookie, Accept_Encoding="gzip").status == 200


def test_over_http_failures_delay_one_client_behind_the_proxy_alone(locked):
    wrong = basic(NAME, "wrong")
    statuses = [
        locked.ask("/api/meta", Authorization=wrong, X_Forwarded_For="192.0.2.7").status for _ in range(4)
    ]
    assert statuses == [401, 401, 401, 429]
    right = basic(NAME, PASSWORD)
    assert locked.ask("/api/meta", Authorization=right, X_Forwarded_For="192.0.2.7").status == 429
    assert locked.ask("/api/meta", Authorization=right, X_Forwarded_For="192.0.2.8").status == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "somewhere.example", ""])
def test_other_hosts_need_a_login(folder, host):
    with pytest.raises(UserError, match="--auth FILE"):
        Access(host=host)
    assert Access(host=host, auth=folder / "users").auth


def test_a_proxy_needs_a_login():
    with pytest.raises(UserError, match="--auth FILE"):
        Access(proxy="127.0.0.1")
    with pytest.raises(UserError, match="--proxy caddy: not an IP address"):
        Access(auth=Path("users"), proxy="caddy")


def test_without_tls_in_front_it_warns(folder):
    url = f"sqlite:///{folder}/hpsearch.db"
    for host, proxy, warned in (
        ("0.0.0.0", None, True),
        ("0.0.0.0", "10.0.0.1", False),
        ("127.0.0.1", None, False),
    ):
        access = Access(host=host, port=0, auth=folder / "users", proxy=proxy)
        with contextlib.closing(Dashboard(url, folder, access)) as dashboard:
            assert any("TLS" in warning for warning in dashboard.warnings) == warned


def test_no_large_body_is_taken_before_the_login(folder, plain, locked):
    with ours("--run-folder", folder, "--auth", folder / "users") as server:
        for port, answer in ((plain.port, b""), (locked.port, b"413"), (server.port, b"413")):
            with contextlib.closing(socket.create_connection(("127.0.0.1", port), timeout=60)) as connection:
                head = f"POST /api/studies HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {10 * 2**20}\r\n"
                connection.sendall(head.encode() + b"\r\n")
                if not answer:
                    connection.settimeout(1)  # this one waits for the body
                    with pytest.raises(TimeoutError):
                        connection.recv(12)
                else:
                    assert connection.recv(12)[9:] == answer


def test_300_idle_connections_keep_nobody_out(locked):
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", locked.port))) for _ in range(300)]
        for connection in idle[::2]:
            connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        assert locked.ask("/api/studies", Authorization=basic(NAME, PASSWORD)).status == 200


def test_over_http_the_commands_for_users_hold_at_once(folder, tmp_path, monkeypatch, capsys):
    file, old, new = tmp_path / "users", "first password", "second password"
    for name in ("ada", "eve"):
        add_user(file, name, old)
    with ours("--run-folder", folder, "--auth", file) as server:
        cookie = server.ask("/api/meta", Authorization=basic("ada", old)).headers["Set-Cookie"]

        def status(name, password):
            return server.ask("/api/meta", Authorization=basic(name, password), Cookie=cookie).status

        assert (status("ada", old), status("eve", old)) == (200, 200)
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{new}\n"))
        assert command(["dashboard", "--auth", str(file), "--add-user", "ada"]) == 0
        assert (status("ada", old), status("ada", new), status("eve", old)) == (401, 200, 200)
        assert command(["dashboard", "--auth", str(file), "--remove-user", "ada"]) == 0
        assert (status("ada", new), status("eve", old)) == (401, 200)
        assert command(["dashboard", "--auth", str(file), "--remove-user", "ada"]) == 2
        assert "not a user in" in capsys.readouterr().err


def test_a_port_in_use_and_a_host_that_is_not_ours_are_said_in_a_sentence(folder, plain):
    url = f"sqlite:///{folder}/hpsearch.db"
    with pytest.raises(UserError, match=f"--port {plain.port}: Address already in use"):
        Dashboard(url, folder, Access(port=plain.port))
    with pytest.raises(UserError, match=r"--host 192\.0\.2\.1"):
        Dashboard(url, folder, Access(host="192.0.2.1", port=0, auth=folder / "users"))


def test_a_missing_database_says_what_to_do(tmp_path):
    with pytest.raises(StudyNotFound, match="hpsearch run"):
        Dashboard(f"sqlite:///{tmp_path}/none.db", tmp_path)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_ends_it_with_status_0(folder):
    with ours("--run-folder", folder) as server:
        assert server.ask("/api/meta").status == 200
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 0
        assert "Traceback" not in server.process.stderr.read()


def test_the_command_adds_users(tmp_path, monkeypatch, capsys):
    arguments = ["dashboard", "--add-user", "ada"]
    assert command(arguments) == 2
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert command([*arguments, "--auth", str(tmp_path / "users")]) == 2
    assert "0 characters" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO("a password\n"))
    assert command([*arguments, "--auth", str(tmp_path / "users")]) == 0
    assert "added ada" in capsys.readouterr().out
    assert read_users(tmp_path / "users").admit("ada", "a password")


def test_a_study_that_takes_the_number_of_a_deleted_one_is_shown_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("hpsearch.results.dashboard.serve._LOOK_EVERY", 0.0)
    url = f"sqlite:///{tmp_path}/s.db"
    make_study(url, "again")
    app = Refreshed(open_storage(url, readonly=True), ArtifactFolder(tmp_path / "artifacts"))
    assert len(ask(app, "/api/studies/1").json["trials"]) == 5
    storage = open_storage(url)
    storage.delete_study(1)
    study = optuna.create_study(storage=storage, study_name="again")
    study.optimize(lambda trial: trial.suggest_float("x", 5, 6), n_trials=2)
    assert study._study_id == 1
    shown = ask(app, "/api/studies/1").json
    assert [trial["params"][0]["name"] for trial in shown["trials"]] == ["x", "x"]
    assert [space["name"] for space in shown["union_search_space"]] == ["x"]
    storage.engine.dispose()
    app.storage.engine.dispose()


def test_on_every_database_a_trial_that_ends_is_shown_whole(database_url):
    make_study(database_url, "s")
    app = Refreshed(open_storage(database_url, readonly=True), ArtifactFolder(Path("nowhere")))
    assert ask(app, "/api/studies/1").json["trials"][4]["state"] == "Running"
    storage = open_storage(database_url)
    study = optuna.load_study(study_name="s", storage=storage)
    number = study.trials[4]._trial_id
    storage.set_trial_user_attr(number, "fit", "good")
    storage.set_trial_intermediate_value(number, 2, 0.5)
    study.tell(4, 0.5)
    trial = until(lambda: shown_complete(app, 4))
    assert {attr["key"]: attr["value"] for attr in trial["user_attrs"]} == {"fit": "good"}
    assert [point["value"] for point in trial["intermediate_values"]] == [0.7, 0.5]
    storage.engine.dispose()
    app.storage.engine.dispose()


def shown_complete(app, number):
    trial = ask(app, "/api/studies/1").json["trials"][number]
    return trial if trial["state"] == "Complete" else None


class Held(CurveExecutor):
    """Plays curves, and holds back what trial 5 says after its second epoch until it is released."""

    def __init__(self):
        super().__init__(lambda run: Script((0.9, 0.5 - 0.01 * run.number, 0.6)))
        self.released = threading.Event()

    def receive(self, timeout):
        if not self.released.wait(timeout):
            held = [m for m in self.messages if getattr(m, "number", 0) == 5 and getattr(m, "epoch", 0) == 3]
            passed = [message for message in self.messages if message not in held]
            self.messages.clear()
            self.messages.extend(held)
            return passed
        return super().receive(timeout)


def test_both_dashboards_show_a_study_while_it_runs_and_after(tmp_path):
    url = f"sqlite:///{tmp_path}/hpsearch.db"
    spec = specification("live", trials=8)
    spec = spec.model_copy(update={"train": spec.train.model_copy(update={"epochs": 3})})
    executor, seen, problems = Held(), {}, []

    def watch():
        try:
            until(lambda: has_study(url))
            app = Refreshed(open_storage(url, readonly=True), ArtifactFolder(tmp_path / "artifacts"))
            with stock(url) as other:
                asked = {"ours": partial(ask, app), "stock": other.ask}
                for name, get in asked.items():
                    seen[name] = until(lambda get=get: at_trial_five(get("/api/studies/1").json))
                seen["card"] = until(lambda: running(ask(app, "/hpsearch/cards").json["1"]))
                executor.released.set()
                for name, get in asked.items():
                    seen[name, "after"] = until(lambda get=get: ended(get("/api/studies/1").json))
            app.storage.engine.dispose()
        except BaseException as problem:
            problems.append(problem)
        finally:
            executor.released.set()

    thread = threading.Thread(target=watch)
    thread.start()
    options = RunOptions(storage=url, run_folder=tmp_path, workers=Workers(gpus="none", workers=1))
    summary = run(spec, options, (), executor)
    thread.join()
    assert not problems, problems
    assert sum(summary.counts.values()) == 8
    after = Refreshed(open_storage(url, readonly=True), ArtifactFolder(tmp_path / "artifacts"))
    assert ask(after, "/hpsearch/cards").json["1"][-1] == "complete, last changed now"
    after.storage.engine.dispose()
    what, far, standing = seen["card"]
    assert (what, standing) == ("cnn on digits", "running on 1 worker")
    assert far.startswith("5 of 8 trials finished, best validation loss 0.46")
    for name in ("ours", "stock"):
        during, after = seen[name]["trials"], seen[name, "after"]["trials"]
        assert [trial["state"] for trial in during[:5]] == [trial["state"] for trial in after[:5]]
        assert points(during[5]) == [0.9, 0.45]
        assert [points(trial) for trial in after] == [[0.9, 0.5 - 0.01 * n, 0.6] for n in range(8)]
        for trial in after:
            keys = {attr["key"] for attr in trial["user_attrs"]}
            assert {"score", "best_epoch", "stop_reason", "fit", "train_loss", "device"} <= keys
    assert seen["ours", "after"]["trials"] == seen["stock", "after"]["trials"]


def running(lines):
    return lines if "running on" in lines[-1] else None


def has_study(url):
    with contextlib.suppress(StudyNotFound):
        storage = open_storage(url, readonly=True)
        names = [study.study_name for study in storage.get_all_studies()]
        storage.engine.dispose()
        return names == ["live"]
    return False


def at_trial_five(shown):
    trials = shown["trials"]
    return shown if len(trials) > 5 and len(trials[5]["intermediate_values"]) == 2 else None


def ended(shown):
    states = [trial["state"] for trial in shown["trials"]]
    return shown if len(states) == 8 and "Running" not in states else None


def points(trial):
    return [point["value"] for point in trial["intermediate_values"]]
