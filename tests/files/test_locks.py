"""Temporary folders that end with their processes, however these end."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from hpsearch.files import locks
from hpsearch.files.locks import temporary_folder

HOLD = (
    "import sys; from hpsearch.files.locks import temporary_folder\n"
    "with temporary_folder('hpsearch-test') as folder: print(folder, flush=True); sys.stdin.read()"
)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("killed", [True, False])
def test_what_a_killed_process_left_goes_with_the_next_folder_and_a_living_ones_stays(temporary, killed):
    holder = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    left = Path(holder.stdout.readline().decode().strip())
    (left / "checkpoint").write_text("large")
    old = time.time() - 2 * locks._YOUNG
    os.utime(left, (old, old))
    if killed:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with temporary_folder("hpsearch-test") as folder:
        assert Path(folder).is_dir()
        assert left.exists() != killed
    assert not Path(folder).exists()
    holder.kill()
    holder.communicate()


def test_a_folder_that_has_just_been_made_is_left_alone(temporary):
    (temporary / "hpsearch-test-new").mkdir()
    with temporary_folder("hpsearch-test"):
        assert (temporary / "hpsearch-test-new").is_dir()
