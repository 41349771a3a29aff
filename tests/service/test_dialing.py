"""A worker that dials uses no files and no code but those it was started with, whatever its driver says.

The other direction, a worker that says what it may not, is in `tests/executors/test_dial.py`.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpsearch.contracts.executor import WorkerPlace
from hpsearch.contracts.messages import FromWorker, SetupFailed, TrialRun, WorkerExit, WorkerSetup
from hpsearch.contracts.places import Cluster
from hpsearch.errors import UserError
from hpsearch.executors.dial import DialExecutor
from hpsearch.files.run_folder import RunFolder
from hpsearch.service.dialing import Grant
from hpsearch.study import StudySpec, parse_study
from hpsearch.testing.executor_contract import make_run

DEADLINE = 120.0  # seconds; the worker imports torch


def spec_of(**tables: dict[str, Any]) -> StudySpec:
    data = {"dataset": "folder", "root": "/data/photos", **tables.pop("data", {})}
    return parse_study({"study": {"name": "s"}, "data": data, "search": {"epochs": [1]}, **tables})


def setup_of(spec: StudySpec, **fields: Any) -> WorkerSetup:
    return WorkerSetup(0, spec, **{"cache": "/runs/cache", **fields})


BESIDE = spec_of(search={"model.weights": ["none"]}, model={"name": "resnet18"})
BESIDE = BESIDE.model_copy(update={"model": BESIDE.model.model_copy(update={"weights": "/etc/x"})})
"""Its weights are not among the choices for them."""

GRANT = Grant(
    Path("/runs/s/dial/1.token"),
    (Path("/data"), Path("own")),
    (Path("/home/study"),),
    ("my_nets", "loops:train"),
)


@pytest.mark.parametrize(
    "setup",
    [
        setup_of(spec_of()),
        setup_of(spec_of(), data_root="/data/../data/others"),
        setup_of(spec_of(data={"root": "own/photos", "labels": "a.csv"})),
        setup_of(spec_of(data={"root": "/elsewhere"}), data_root=os.path.abspath("own")),
        setup_of(spec_of(data={"cache": "/runs/cache/mine"})),
        setup_of(spec_of(model={"name": "resnet18", "weights": "/data/w.pth"})),
        setup_of(spec_of(search={"model.weights": ["none", "imagenet"]}, model={"name": "resnet18"})),
        setup_of(spec_of(), import_paths=("/home/study",)),
    ],
)
def test_what_a_worker_was_started_with_is_used(setup: WorkerSetup) -> None:
    assert GRANT.checked(setup) == replace(setup, allow=("my_nets", "loops:train"))


@pytest.mark.parametrize(
    ("setup", "field"),
    [
        (setup_of(spec_of(), cache="/etc/cron.d"), "cache"),
        (setup_of(spec_of(), cache="/runs/../etc"), "cache"),
        (setup_of(spec_of(), cache="/runs2/cache"), "cache"),
        (setup_of(spec_of(), data_root="/etc"), "data.root"),
        (setup_of(spec_of(), data_root="/data/../etc"), "data.root"),
        (setup_of(spec_of(data={"root": "/"})), "data.root"),
        (setup_of(spec_of(data={"root": "photos"})), "data.root"),
        (setup_of(spec_of(data={"root": None})), "data.root"),
        (setup_of(spec_of(data={"labels": "../../etc/passwd"})), "data.labels"),
        (setup_of(spec_of(data={"labels": "/etc/passwd"})), "data.labels"),
        (setup_of(spec_of(data={"cache": "/var/spool"})), "data.cache"),
        (setup_of(spec_of(model={"name": "resnet18", "weights": "/root/.ssh/id"})), "model.weights"),
        (
            setup_of(spec_of(search={"model.weights": ["none", "/etc/x"]}, model={"name": "resnet18"})),
            "model.weights",
        ),
        (setup_of(spec_of(), import_paths=("/home/study", "/tmp")), "the study's folder"),
        (setup_of(spec_of(), import_paths=("/home/study/../other",)), "the study's folder"),
        (setup_of(spec_of(), import_paths=("/home/study/runs/left",)), "the study's folder"),
        (setup_of(spec_of(data={"dataset": "loops:others"})), "the study's own code"),
        (setup_of(BESIDE), "model.weights"),
    ],
)
def test_files_that_a_worker_was_not_started_with_are_refused(setup: WorkerSetup, field: str) -> None:
    with pytest.raises(
        UserError, match=rf'^{field}: the driver says ".*", which this worker was not started with'
    ):
        GRANT.checked(setup)


@pytest.mark.parametrize(
    ("folder", "spec"),
    [
        ("/runs/s/trials/../../../etc", spec_of()),
        ("/etc", spec_of()),
        ("/runs/other/trials/00001", spec_of()),
        ("/runs/s/weights", spec_of()),
        ("/runs/s/trials/00001", spec_of(data={"root": "/etc"})),
        ("/runs/s/trials/00001", spec_of(model={"name": "resnet18", "weights": "/root/x.pth"})),
    ],
)
def test_a_trial_leads_to_no_other_files(folder: str, spec: StudySpec) -> None:
    GRANT.checked(setup_of(spec_of()))
    GRANT.checked(TrialRun("s", 1, 1, {}, spec_of(), "/runs/s/trials/00001"))
    with pytest.raises(UserError, match="which this worker was not started with"):
        GRANT.checked(TrialRun("s", 1, 1, {}, spec, folder))


def test_links_are_followed_where_the_worker_was_led_to_them(tmp_path: Path) -> None:
    """The token was named by another path to the same folder."""
    (tmp_path / "runs" / "s" / "dial").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    grant = Grant(tmp_path / "link" / "s" / "dial" / "1.token")
    digits = parse_study({"study": {"name": "s"}, "data": {"dataset": "digits"}, "search": {"epochs": [1]}})
    grant.checked(WorkerSetup(0, digits, cache=str(tmp_path / "runs" / "cache")))


def test_what_lies_above_where_a_link_leads_is_not_below_the_link(tmp_path: Path) -> None:
    """As text, `data/photos/../secret` is below `data`; the system goes through the link first."""
    for name in ("data", "big/photos", "big/secret"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data" / "photos").symlink_to(tmp_path / "big" / "photos")
    grant = Grant(Path("/runs/s/dial/1.token"), (tmp_path / "data",))
    grant.checked(setup_of(spec_of(data={"root": str(tmp_path / "data" / "photos")})))
    with pytest.raises(UserError, match=r"data\.root: the driver says"):
        grant.checked(setup_of(spec_of(data={"root": str(tmp_path / "data" / "photos" / ".." / "secret")})))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "evil.py").write_text(
        f"open({str(tmp_path / 'RAN')!r}, 'w')\ndef train(trial): yield {{}}\n"
    )
    return RunFolder(tmp_path, "s")


class Attacker:
    """A driver that has the token and says what it likes to a worker that was started for something else."""

    def __init__(self, folder: RunFolder, honest: WorkerSetup) -> None:
        self.executor = DialExecutor(folder, Cluster(reconnect=20.0))
        self.executor.start(WorkerPlace(0), honest)
        words = self.executor.arguments(self.executor.remotes[0])
        self.executor.remotes[0].session = type(self.executor.remotes[0].session)()
        with (folder.root / "worker.log").open("wb") as log:
            self.worker = subprocess.Popen(
                [sys.executable, "-P", "-m", "hpsearch", *words],
                stdin=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        self.log = folder.root / "worker.log"

    def says(self, *messages: WorkerSetup | TrialRun) -> FromWorker:
        """Returns what came of it in the end."""
        for message in messages:
            self.executor.send(0, message)  # type: ignore[arg-type]
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            for heard in self.executor.receive(0.1):
                if isinstance(heard, SetupFailed | WorkerExit):
                    return heard
        raise AssertionError(self.log.read_text())


@pytest.fixture
def attacker(folder: RunFolder) -> Iterator[Attacker]:
    run = make_run(folder.root)
    one = Attacker(
        folder,
        WorkerSetup(0, run.spec, device="cpu", cache=str(folder.cache), allow=("hpsearch.testing.loops",)),
    )
    yield one
    one.worker.kill()
    one.worker.wait()
    one.executor.close(0.0)


def test_a_worker_says_at_both_ends_what_it_refuses(attacker: Attacker, folder: RunFolder) -> None:
    setup = WorkerSetup(0, make_run(folder.root).spec, device="cpu", cache="/etc/cron.d", allow=None)
    left = attacker.says(setup)
    assert isinstance(left, WorkerExit)
    assert left.blameless
    said = 'cache: the driver says "/etc/cron.d", which this worker was not started with; a worker that may use it is'
    assert said in left.reason
    assert attacker.worker.wait(DEADLINE) == 2
    assert f"error: {said}" in attacker.log.read_text()
    assert "--allow hpsearch.testing.loops" in shlex.join(attacker.worker.args)  # type: ignore[arg-type]


@pytest.mark.parametrize("paths", [(), ("study",)], ids=["a module", "a folder of modules"])
def test_code_that_a_worker_was_not_started_with_is_not_imported(
    attacker: Attacker, folder: RunFolder, paths: tuple[str, ...]
) -> None:
    """The driver allows everything; the module lies in the folder that it names, or is Python's own."""
    spec = make_run(folder.root).spec
    named = "evil:train" if paths else "os:system"
    other = spec.model_copy(update={"train": spec.train.model_copy(update={"function": named})})
    where = tuple(str(folder.root / path) for path in paths)
    said = attacker.says(WorkerSetup(0, other, "cpu", None, str(folder.cache), where, allow=None))
    assert isinstance(said, WorkerExit)
    assert "which this worker was not started with" in said.reason
    assert not (folder.root / "RAN").exists()


def test_a_trial_outside_the_run_folder_is_not_trained(
    attacker: Attacker, folder: RunFolder, tmp_path: Path
) -> None:
    run = make_run(folder.root)
    setup = WorkerSetup(0, run.spec, device="cpu", cache=str(folder.cache), allow=None)
    left = attacker.says(setup, replace(run, folder=str(tmp_path / "elsewhere")))
    assert isinstance(left, WorkerExit)
    assert "folder of trial 0: the driver says" in left.reason
    assert not (tmp_path / "elsewhere").exists()
