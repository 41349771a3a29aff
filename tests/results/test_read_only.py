"""A run folder that may only be read: an archive, a read-only mount, another user's."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from tests.results.stored import make_study

AS_ANYBODY = (
    ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"] if os.getuid() == 0 else []
)
"""To root all files are writable, unless this right is taken away."""

needs_setpriv = pytest.mark.skipif(
    bool(AS_ANYBODY) and shutil.which("setpriv") is None, reason="root without setpriv (util-linux)"
)
ENV = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture(params=["closed", "log left by a killed process", "in use"])
def archive(request):
    """A run folder in which nobody may write."""
    folder = Path(tempfile.mkdtemp(prefix="hpsearch-archive-"))
    runs = folder / "runs"
    (runs / "s" / "weights").mkdir(parents=True)
    (runs / "s" / "weights" / "trial-00001.safetensors").write_bytes(b"weights")
    make_study(f"sqlite:///{runs}/hpsearch.db", "s", weights="s/weights/trial-00001.safetensors")
    with closing(sqlite3.connect(runs / "hpsearch.db")) as connection:
        if request.param != "closed":  # as long as it is open, the log stays
            note = "INSERT INTO study_user_attributes (study_id, key, value_json) VALUES (1, 'note', '1')"
            connection.execute(note)
            connection.commit()
            if request.param == "log left by a killed process":
                for name in ("hpsearch.db", "hpsearch.db-wal"):
                    shutil.copyfile(runs / name, runs / f"copy-{name}")
    for copy in runs.glob("copy-*"):
        copy.replace(runs / copy.name.removeprefix("copy-"))
    (runs / "hpsearch.db-shm").unlink(missing_ok=True)
    held = sqlite3.connect(runs / "hpsearch.db") if request.param == "in use" else None
    if held is not None:
        held.execute("PRAGMA user_version = 7")
        held.commit()
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield runs
    if held is not None:
        held.close()
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(folder)


@needs_setpriv
def test_everything_can_be_read(archive):
    out = Path(tempfile.mkdtemp())
    script = f"""
import sys
from hpsearch.__main__ import run
place = ["--run-folder", {str(archive)!r}]
for words in (["list"], ["status", "s"], ["best", "s"], ["export", "s"], ["export", "s", "--epochs"]):
    assert run([*words, *place]) == 0, words
assert run(["report", "s", *place]) == 0
assert run(["report", "s", "--storage", "sqlite:///{archive}/hpsearch.db", "--output", "{out}/r.html"]) == 0
from pathlib import Path
from hpsearch.results.dashboard.serve import Dashboard, Access
from tests.results.requests import ask
made = Dashboard("sqlite:///{archive}/hpsearch.db", Path({str(archive)!r}), Access(port=0))
assert "is read-only" in made.warnings[0], made.warnings
new = ask(made._server.app, "/api/studies", "POST", b"{{}}")
assert (new.status, b"read-only" in new.body) == (403, True), new
made.close()
"""
    ended = subprocess.run(
        [*AS_ANYBODY, sys.executable, "-c", script],
        cwd=out,
        text=True,
        capture_output=True,
        check=False,
        env=ENV,
    )
    written = sorted(path.name for path in out.iterdir())
    shutil.rmtree(out)
    assert ended.returncode == 0, ended.stderr
    assert written == ["r.html", "report.html"]
    assert "s: 4 of 4 trials finished" in ended.stdout
    assert f"weights: {archive}/s/weights/trial-00001.safetensors" in ended.stdout


@needs_setpriv
@pytest.mark.parametrize(
    ("command", "flag"), [("init photos", "--output"), ("auto photos --output a.toml", "--save")]
)
def test_what_may_not_be_written_is_refused_before_the_work(tmp_path: Path, command: str, flag: str) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    place = tmp_path / "closed" / "inner" / "made.toml"
    words = [*AS_ANYBODY, sys.executable, "-m", "hpsearch", *command.split(), flag, str(place)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=ENV, check=False)
    closed = f"{flag}: {place} cannot be written, since nothing may be written to {tmp_path / 'closed'}; name another"
    assert (done.returncode, closed in done.stderr) == (2, True), done.stderr
