"""NVIDIA's multi-process service: a stand-in for its control program notes how it is called."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpsearch.contracts.executor import WorkerPlace
from hpsearch.errors import DeviceError, UserError
from hpsearch.executors.local import worker_environment
from hpsearch.executors.mps import CONTROL, LOGS, PIPES, shared

CONTROL_PROGRAM = """#!{python}
import json, os, sys
names = ("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
with open({log!r}, "a") as file:
    call = {{name: os.environ.get(name) for name in names}}
    file.write(json.dumps({{"arguments": sys.argv[1:], "input": sys.stdin.read(), **call}}) + "\\n")
if {status}:
    print("no GPU\\nhere")
sys.exit({status})
"""

TWO_ON_ONE = [WorkerPlace(0, ("1",), 1, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}), WorkerPlace(1, ("1",))]
Control = Callable[..., tuple[dict[str, str], Callable[[], list[dict[str, Any]]]]]


@pytest.fixture
def control(tmp_path: Path) -> Control:
    """Installs the stand-in; returns an environment with it, and what reads the calls so far."""

    def install(status: int = 0) -> tuple[dict[str, str], Callable[[], list[dict[str, Any]]]]:
        programs, log = tmp_path / "bin", tmp_path / "calls"
        programs.mkdir()
        program = programs / CONTROL
        program.write_text(CONTROL_PROGRAM.format(python=sys.executable, log=str(log), status=status))
        program.chmod(0o755)

        def calls() -> list[dict[str, Any]]:
            return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

        return {"PATH": str(programs), "HOME": "/h"}, calls

    return install


def test_the_service_runs_in_the_runs_own_folder_and_the_workers_find_it(
    control: Control, tmp_path: Path
) -> None:
    environ, calls = control()
    environ["CUDA_VISIBLE_DEVICES"] = "1,3"
    with shared("nvidia-mps", TWO_ON_ONE, tmp_path / "mps", environ) as places:
        (started,) = calls()
        assert started["arguments"] == ["-d"]
        # Shown only some GPUs, the service would count them anew and "1" would mean the second of them.
        assert started["CUDA_VISIBLE_DEVICES"] is None
        assert started["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
        for place in places:
            seen = worker_environment(place, environ)
            assert (seen[PIPES], seen[LOGS]) == (started[PIPES], started[LOGS])
            assert seen["CUDA_VISIBLE_DEVICES"] == "1"
        assert Path(started[PIPES]).is_dir()
        assert (tmp_path / "mps") in Path(started[LOGS]).parents
        assert len(started[PIPES]) < 100  # a socket's path holds 107 characters
    stopped = calls()[1]
    assert (stopped["arguments"], stopped["input"].split()[0]) == ([], "quit")
    assert stopped[PIPES] == started[PIPES]


def test_a_clean_end_leaves_nothing_and_a_failed_run_its_logs_alone(control: Control, tmp_path: Path) -> None:
    environ, calls = control()
    with shared("nvidia-mps", TWO_ON_ONE, tmp_path / "mps", environ):
        pass
    assert list((tmp_path / "mps").iterdir()) == []
    with pytest.raises(KeyError), shared("nvidia-mps", TWO_ON_ONE, tmp_path / "mps", environ):
        raise KeyError
    (left,) = (tmp_path / "mps").iterdir()
    names = {path.name for path in left.iterdir()}
    assert names - {"pipe"} == {"log"}, "the pipes are elsewhere where the path is long"
    with shared("nvidia-mps", TWO_ON_ONE, tmp_path / "mps", environ):
        pass
    assert len(calls()) == 6, "nothing was left over to be stopped"


def test_a_folder_that_cannot_be_made_is_named(control: Control, tmp_path: Path) -> None:
    environ, _ = control()
    (tmp_path / "mps").write_text("a file")
    with (
        pytest.raises(UserError, match=r"--run-folder: .*mps.* cannot be made: Not a directory; choose"),
        shared("nvidia-mps", TWO_ON_ONE, tmp_path / "mps", environ),
    ):
        raise AssertionError("nothing may begin")


def test_it_is_stopped_when_the_run_fails(control: Control, tmp_path: Path) -> None:
    environ, calls = control()
    with (
        pytest.raises(ZeroDivisionError),
        shared("nvidia-mps", TWO_ON_ONE, tmp_path / "mps", environ),
    ):
        raise ZeroDivisionError
    assert [call["input"].split() for call in calls()] == [[], ["quit", "-t", "5"]]


@pytest.mark.parametrize("depth", [1, 12])
def test_what_a_killed_driver_left_is_stopped_by_the_next(
    control: Control, tmp_path: Path, depth: int
) -> None:
    environ, calls = control()
    folder = tmp_path.joinpath(*["a long name"] * depth)
    with shared("nvidia-mps", TWO_ON_ONE, folder, environ):
        (left,) = folder.iterdir()
        record = dead(left)
        with shared("nvidia-mps", TWO_ON_ONE, folder, environ):
            quits = [call for call in calls() if call["input"].startswith("quit")]
            assert [call[PIPES] for call in quits] == [record["pipes"]]
            assert not left.exists()


def dead(folder: Path, **other: str) -> dict[str, Any]:
    """Lets a service's folder say that its driver is a process that has ended; returns what it says."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    record: dict[str, Any] = json.loads((folder / "driver.json").read_text()) | {"pid": gone.pid} | other
    (folder / "driver.json").write_text(json.dumps(record))
    return record


@pytest.mark.parametrize("host", ["here", "elsewhere"])
def test_the_services_of_other_drivers_are_left_alone(control: Control, tmp_path: Path, host: str) -> None:
    environ, calls = control()
    folder = tmp_path / "mps"
    with shared("nvidia-mps", TWO_ON_ONE, folder, environ):
        (first,) = folder.iterdir()
        if host == "elsewhere":  # where a process that has ended here may well live
            dead(first, host="another machine")
        with shared("nvidia-mps", TWO_ON_ONE, folder, environ):
            pipes = [call[PIPES] for call in calls()]
            assert [call["arguments"] for call in calls()] == [["-d"], ["-d"]]
            assert pipes[0] != pipes[1]
            assert Path(pipes[0]).is_dir()


@pytest.mark.parametrize(
    ("share", "places", "environ"),
    [
        ("time", TWO_ON_ONE, {}),
        ("nvidia-mps", TWO_ON_ONE, {PIPES: "/tmp/theirs"}),
        ("nvidia-mps", [WorkerPlace(0, ("0",)), WorkerPlace(1, ("1",))], {}),
    ],
    ids=["by turns", "the user's own service", "a GPU each"],
)
def test_it_is_not_started_where_it_is_of_no_use(
    control: Control, tmp_path: Path, share: str, places: list[WorkerPlace], environ: dict[str, str]
) -> None:
    found, calls = control()
    with shared(share, places, tmp_path / "mps", {**found, **environ}) as ready:
        assert ready == places
    assert calls() == []
    assert not (tmp_path / "mps").exists()


@pytest.mark.parametrize(
    ("share", "places", "status", "sentence"),
    [
        ("mps", TWO_ON_ONE, 0, '--share: "mps" is unknown; choose time or nvidia-mps'),
        ("nvidia-mps", [WorkerPlace(0)], 0, "no GPU is in use"),
        ("nvidia-mps", TWO_ON_ONE, 3, f"{CONTROL} -d ended with status 3: no GPU here; see "),
        ("nvidia-mps", TWO_ON_ONE, None, f"{CONTROL} is not on the PATH; it comes with NVIDIA's driver"),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(
    control: Control,
    tmp_path: Path,
    share: str,
    places: list[WorkerPlace],
    status: int | None,
    sentence: str,
) -> None:
    environ = {"PATH": str(tmp_path)} if status is None else control(status)[0]
    with (
        pytest.raises(DeviceError, match=r"--share") as error,
        shared(share, places, tmp_path / "mps", environ),
    ):
        pass
    assert sentence in str(error.value)


def test_the_command_says_so_before_anything_is_opened(tmp_path: Path) -> None:
    study = tmp_path / "s.toml"
    study.write_text('[data]\ndataset = "digits"\n[search]\nlearning_rate = { low = 0.1, high = 1.0 }\n')
    command = [sys.executable, "-m", "hpsearch", "run", str(study), "--gpus", "none"]
    command += ["--run-folder", str(tmp_path / "runs"), "--share", "nvidia-mps"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ}, check=False)
    assert done.returncode == 2
    assert "--share nvidia-mps: no GPU is in use; leave the flag out on the CPU" in done.stderr
    assert not (tmp_path / "runs").exists()
