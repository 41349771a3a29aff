"""What the dashboard does before somebody looks: it reads the newest studies, and puts graphs in order."""

import contextlib
import threading

import optuna

from hpsearch.results.dashboard.graph_order import ORDER
from hpsearch.results.dashboard.serve import Access, ArtifactFolder, Dashboard, Refreshed
from hpsearch.store.connection import open_storage
from tests.results.requests import ask
from tests.results.stored import make_study


def points(trial):
    return [point["value"] for point in trial["intermediate_values"]]


def test_the_newest_studies_are_read_before_somebody_asks(tmp_path):
    """Their trials are in memory: they are shown after the rows are gone, until the dashboard looks again."""
    url = f"sqlite:///{tmp_path}/hpsearch.db"
    for number in range(7):
        make_study(url, f"s{number}")
    app = Refreshed(open_storage(url, readonly=True), ArtifactFolder(tmp_path / "artifacts"))
    app.warm()
    storage = open_storage(url)
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM trial_intermediate_values")
    shown = {n: points(ask(app, f"/api/studies/{n}").json["trials"][1]) for n in range(1, 8)}
    assert shown == {n: [0.8, 0.2, 0.3] if n > 2 else [] for n in range(1, 8)}
    storage.engine.dispose()
    app.storage.engine.dispose()


def test_it_serves_while_it_warms_and_ends_in_the_middle(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path}/hpsearch.db"
    for number in range(3):
        make_study(url, f"s{number}")
    begun, go_on = threading.Event(), threading.Event()
    with contextlib.closing(Dashboard(url, tmp_path, Access(port=0))) as dashboard:
        inner = dashboard._app._app
        warmed = []

        def slow(environ, start_response):
            if threading.current_thread().name == "warm":
                warmed.append(environ["PATH_INFO"])
                begun.set()
                assert go_on.wait(60)
            return inner(environ, start_response)

        monkeypatch.setattr(dashboard._app, "_app", slow)
        thread = dashboard.warm()
        assert begun.wait(60)
        assert len(ask(dashboard._app, "/api/studies").json["study_summaries"]) == 3
    go_on.set()
    thread.join(60)
    assert not thread.is_alive()
    assert warmed == ["/api/studies/3"]


def test_graphs_stand_in_the_order_of_the_report(tmp_path):
    url = f"sqlite:///{tmp_path}/hpsearch.db"
    make_study(url, "s")
    storage = open_storage(url)
    study = optuna.load_study(study_name="s", storage=storage)
    names = ["zebra", *reversed(ORDER), "ant"]
    for name in names:
        storage.set_study_system_attr(study._study_id, f"dashboard:plot_data:{name}:0", "{}")
    app = Refreshed(open_storage(url, readonly=True), ArtifactFolder(tmp_path / "artifacts"))
    shown = [graph["id"] for graph in ask(app, "/api/studies/1").json["plotly_graph_objects"]]
    assert shown == [*ORDER, "ant", "zebra"]
    storage.engine.dispose()
    app.storage.engine.dispose()
