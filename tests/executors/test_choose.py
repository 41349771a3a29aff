"""`--executor NAME` finds executors that other packages bring."""

import pytest

from hpsearch.__main__ import run as command
from hpsearch.contracts.executor import Workers
from hpsearch.contracts.places import Cluster
from hpsearch.errors import UserError
from hpsearch.executors.choose import make_executor
from hpsearch.executors.local import LocalExecutor
from hpsearch.files.run_folder import RunFolder
from hpsearch.service.launch import RunOptions
from hpsearch.service.run import run
from tests.service.test_driver import spec_of

PACKAGE = """
from hpsearch.contracts.executor import WorkerPlace
from tests.service.curves import CurveExecutor, falling

class Pretended(CurveExecutor):
    def places(self, wanted, threads, share):
        return [WorkerPlace(number, host="far away") for number in range(7)]

def make(folder):
    print(f"made for {folder.study}")
    return Pretended(falling)

def broken(folder):
    raise ImportError("libslurm.so is missing")
"""


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    """Installs a package that brings two executors."""
    site = tmp_path / "site"
    info = site / "pretend-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pretend\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[hpsearch.executors]\npretend = pretend_executor:make\nbroken = pretend_executor:broken\n"
    )
    (site / "pretend_executor.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(site))


@pytest.mark.parametrize(("trials", "workers", "expected"), [(8, None, 7), (3, None, 3), (3, 7, 7)])
def test_a_study_runs_on_an_executor_of_another_package(tmp_path, capsys, trials, workers, expected):
    """With as many workers as there are places, but where nobody says how many, with no more than there are trials."""
    options = RunOptions(
        f"sqlite:///{tmp_path}/s.db", tmp_path, executor="pretend", workers=Workers("none", workers)
    )
    told = []
    summary = run(spec_of(study={"trials": trials}), options, [Told(told)])
    assert (summary.exit_status, len(told)) == (0, expected)
    assert "made for s" in capsys.readouterr().out


class Told:
    """Notes the workers; a callback needs no base."""

    def __init__(self, told):
        self._told = told

    def __getattr__(self, name):
        return lambda *_: None

    def on_study_start(self, info):
        self._told.extend(info.workers)


def test_local_is_built_in(tmp_path):
    executor = make_executor("local", RunFolder(tmp_path, "s"))
    assert isinstance(executor, LocalExecutor)
    (place,) = executor.places(Workers("none", 1), 1, "time")
    assert place.host


def test_an_unknown_executor_lists_the_known_ones(tmp_path):
    with pytest.raises(UserError, match=r'"pretent" is not installed; did you mean "pretend"\? Known: '):
        make_executor("pretent", RunFolder(tmp_path, "s"))


def test_an_executor_that_cannot_be_loaded_says_why(tmp_path):
    with pytest.raises(
        UserError, match=r"--executor broken: pretend_executor:broken .* libslurm\.so is missing"
    ):
        make_executor("broken", RunFolder(tmp_path, "s"))


@pytest.mark.parametrize(
    ("name", "cluster", "words"),
    [
        (
            "local",
            {"partition": "gpu"},
            "--partition: only with --executor slurm, and this is local; leave it out",
        ),
        ("ray", {"slurm": ("time=1",)}, "--slurm: only with --executor slurm, and this is ray"),
        ("dial", {"address": "head:6379"}, "--address: only with --executor ray, and this is dial"),
        ("local", {"tls": True}, "--tls: only with --executor slurm, ray or dial, and this is local"),
        ("local", {"listen": "here"}, "--listen: only with --executor slurm, ray or dial, and this is local"),
        (
            "pretend",
            {"listen": "here"},
            "--listen: only with --executor slurm, ray or dial, and this is pretend",
        ),
    ],
)
def test_flags_of_another_executor_are_refused(tmp_path, name, cluster, words):
    with pytest.raises(UserError) as refused:
        make_executor(name, RunFolder(tmp_path, "s"), Cluster(reconnect=5.0, **cluster))
    assert words in str(refused.value)


def test_every_command_that_starts_workers_knows_the_flag(tmp_path, capsys):
    study = tmp_path / "s.toml"
    study.write_text(
        '[study]\ntrials = 2\n[data]\ndataset = "digits"\n[search]\nlearning_rate = [0.1, 0.2]\n'
    )
    place = ["--run-folder", str(tmp_path / "runs"), "--executor", "nowhere"]
    for name in ("run", "check"):
        assert command([name, str(study), *place]) == 2
        assert '--executor: "nowhere" is not installed' in capsys.readouterr().err
    assert command(["check", str(study), *place[:-1], "pretend"]) == 0
    assert "with 7 workers" in capsys.readouterr().out
