"""The dashboard's requests that would break a study of hpsearch are refused; Optuna's own studies take them."""

import json

import optuna
import pytest

from hpsearch.results.dashboard.serve import ArtifactFolder, Refreshed
from hpsearch.store.connection import open_storage
from hpsearch.store.identity import DriverIdentity
from hpsearch.store.ledger import Ledger
from tests.results.requests import ask
from tests.results.stored import make_study

OURS, THEIRS = 1, 2  # numbers of the studies


@pytest.fixture
def url(tmp_path):
    """A database with a study of ours (trials 1 to 5, the last of which runs) and one of Optuna's (trial 6)."""
    url = f"sqlite:///{tmp_path}/s.db"
    make_study(url, "ours")
    storage = open_storage(url)
    optuna.create_study(storage=storage, study_name="theirs").ask()
    storage.engine.dispose()
    return url


@pytest.fixture
def app(url, tmp_path):
    app = Refreshed(open_storage(url, readonly=True), ArtifactFolder(tmp_path / "artifacts"))
    yield app
    app.storage.engine.dispose()


def send(app, path, method="POST", **body):
    text = json.dumps(body).encode()
    return ask(app, path, method, body=text, CONTENT_TYPE="application/json", CONTENT_LENGTH=str(len(text)))


def stored(url):
    storage = open_storage(url, readonly=True)
    studies = {s.study_name: s.user_attrs for s in storage.get_all_studies()}
    trials = [(t.state, t.values, t.user_attrs) for t in storage.get_all_trials(OURS)]
    storage.engine.dispose()
    return studies, trials


TELL = {"state": "Complete", "values": [0.001]}


@pytest.mark.parametrize(
    "path",
    [
        "/api/trials/{}/tell",
        "/api/trials/{}/tell/",
        "/api/trials/{}/tell///",
        "/api/trials/00{}/tell",
        "/api/trials/{}/te\xffll",  # the dashboard's router drops what is not UTF-8
        "/\xffapi/trials/{}/tell",
        "/api/trials/{}/tell".replace("{}", "Ù¥"),  # the Arabic digit 5, as WSGI hands on UTF-8
    ],
)
def test_a_trial_of_ours_is_not_ended_by_hand(app, url, path):
    before = stored(url)
    answer = send(app, path.format(5), **TELL)
    assert answer.status == 403
    assert "hpsearch stop ours" in answer.json["reason"]
    assert stored(url) == before


@pytest.mark.parametrize("trial", [1, 5])
def test_attributes_of_our_trials_are_not_changed(app, url, trial):
    before = stored(url)
    answer = send(app, f"/api/trials/{trial}/user-attrs", user_attrs={"score": 0.0})
    assert answer.status == 403
    assert "write a note" in answer.json["reason"]
    assert stored(url) == before


def test_a_study_of_ours_keeps_its_name(app, url):
    before = stored(url)
    answer = send(app, f"/api/studies/{OURS}/rename", study_name="renamed")
    assert answer.status == 403
    assert "run folder" in answer.json["reason"]
    assert stored(url) == before


def test_a_study_of_ours_is_deleted_only_while_nobody_runs_it(app, url):
    storage = open_storage(url)
    ledger = Ledger(storage, DriverIdentity.here())
    ledger.register(OURS)
    answer = send(app, f"/api/studies/{OURS}", "DELETE")
    assert answer.status == 403
    assert "hpsearch stop ours" in answer.json["reason"]
    assert "ours" in stored(url)[0]
    ledger.unregister()
    storage.engine.dispose()
    assert send(app, f"/api/studies/{OURS}", "DELETE").status == 204


def test_a_study_of_optunas_own_may_be_changed(app, url):
    assert send(app, "/api/trials/6/user-attrs", user_attrs={"a": 1}).status == 204
    assert send(app, "/api/trials/6/tell", **TELL).status == 204
    assert send(app, f"/api/studies/{THEIRS}/rename", study_name="renamed").status == 201
    assert "renamed" in stored(url)[0]


def test_notes_may_be_written_everywhere(app):
    for path in ("/api/studies/1/note", "/api/studies/1/5/note", "/api/studies/2/note"):
        assert send(app, path, "PUT", version=1, body="x").status == 204


def test_what_is_not_there_is_answered_by_the_dashboard_itself(app):
    assert send(app, "/api/trials/99/tell", **TELL).status == 404
    assert send(app, "/api/studies/99", "DELETE").status in (404, 500)


def test_what_ails_the_database_is_a_sentence(app, url, caplog):
    storage = open_storage(url)
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE studies RENAME TO gone")
    storage.engine.dispose()
    answer = send(app, "/api/studies", study_name="new", directions=["minimize"])
    assert answer.status == 404
    assert "was damaged or replaced: no such table: studies" in answer.json["reason"]
    assert "Traceback" not in caplog.text
    assert "File " not in caplog.text
