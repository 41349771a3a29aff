"""`hpsearch check --executor slurm`: a worker on the cluster finds what a run needs, or it is said what is missing."""

import os
from pathlib import Path

import pytest

from hpsearch.__main__ import run as command
from tests.slurm import Slurm

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]

STUDY = """
[study]
trials = 2
[data]
dataset = "{dataset}"
root = "data"
[model]
name = "mlp"
[search]
learning_rate = [0.1, 0.2]
"""


def check(tmp_path: Path, *flags: str, dataset: str = "digits") -> int:
    (tmp_path / "s.toml").write_text(STUDY.format(dataset=dataset))
    place = ["--run-folder", str(tmp_path / "runs"), "--executor", "slurm", "--jobs", "1", "--gpus", "none"]
    return command(["check", str(tmp_path / "s.toml"), *place, *flags])


def test_a_worker_is_tried(slurm: Slurm, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path) == 0
    said = capfd.readouterr().out
    assert f"; it shares {tmp_path / 'runs'}" in said
    assert "was ready on cpu after" in said
    assert slurm.jobs() == {}
    assert list((tmp_path / "runs" / "s" / "dial").iterdir()) == []


def test_a_folder_that_is_not_shared_is_named(
    slurm: Slurm, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The job runs where another folder lies at the place of the run folder, as on a machine of its own."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "runs").mkdir()
    hide = tmp_path / "python"
    hide.write_text(
        f"#!/bin/bash\nexec unshare --mount bash -c 'mount --bind {tmp_path}/empty {tmp_path}/runs && exec \"$@\"' "
        f'x {os.path.realpath("/bin/bash")} -c \'exec "$@"\' x "$HPSEARCH_TEST_PYTHON" "$@"\n'
    )
    hide.chmod(0o755)
    import sys

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HPSEARCH_TEST_PYTHON", sys.executable)
        patch.setattr(sys, "executable", str(hide))
        assert check(tmp_path) == 2
    said = capfd.readouterr().err
    assert f"--run-folder: a worker elsewhere did not come to use {tmp_path / 'runs'}: job " in said
    assert "choose a --run-folder on a file system that the cluster's nodes share" in said
    assert slurm.jobs() == {}
