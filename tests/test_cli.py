"""The command line, through the console entry point and on real databases."""

import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pandas as pd
import pytest
from PIL import Image

import hpsearch
from hpsearch import __main__ as entry_point
from hpsearch.__main__ import run
from hpsearch.service.signals import Signalled
from hpsearch.store.connection import open_storage
from tests.results.stored import make_study

ROOT = Path(__file__).parents[1]
COMMANDS = (
    "init", "auto", "import", "schema", "run", "check", "confirm", "refit", "continue", "worker", "status", "best",
    "list", "report", "compare", "dashboard", "predict", "export", "stop", "delete",
)  # fmt: skip

Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Invoke:
    """Runs a command line in an empty folder; returns its status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("HPSEARCH_")]:
        monkeypatch.delenv(name)

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        status = run([str(argument) for argument in arguments])
        return status, *capfd.readouterr()

    return call


@pytest.fixture
def studies(invoke: Invoke, tmp_path: Path) -> Path:
    """A default database with the studies `one` and `two`, in the folder where commands run."""
    (tmp_path / "runs").mkdir()
    for name in ("one", "two"):
        make_study(f"sqlite:///{tmp_path}/runs/hpsearch.db", name, weights=f"runs/{name}/w.safetensors")
    return tmp_path


def make_foreign_study(folder: Path, name: str) -> None:
    """Adds a study that hpsearch did not make, whose name may be anything."""
    storage = open_storage(f"sqlite:///{folder}/runs/hpsearch.db")
    study = optuna.create_study(study_name=name, storage=storage)
    study.add_trial(optuna.trial.create_trial(value=1.0))
    storage.engine.dispose()


def entry(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hpsearch", *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=60)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "ulimit -u"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (MemoryError(), "out of memory"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/x/y"),
            "the disk is full; free some space (/x/y)",
        ),
        (OSError(errno.EFBIG, "File too large"), "ulimit -f"),
    ],
)
def test_what_the_machine_has_no_more_of_is_no_bug(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, said: str
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("hpsearch.__main__.app", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    status, out, err = invoke("list")
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert said in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.glob("hpsearch-bug-*.txt")) == []


def test_a_signal_that_a_library_makes_another_error_of_is_no_bug(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        try:
            entry_point._leave(signal.SIGTERM, None)
        except Signalled as left:
            raise ValueError("no schema") from left

    monkeypatch.setattr(entry_point, "came", [])
    monkeypatch.setattr(entry_point, "app", interrupted)
    assert invoke("list") == (128 + signal.SIGTERM, "", "")


LIMITED = """
import resource, sys
kind, most = sys.argv[1].split("=")
resource.setrlimit(getattr(resource, kind), (int(most), int(most)))
from hpsearch.__main__ import run
sys.exit(run(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("limit", "command"),
    [
        ("RLIMIT_NOFILE=7", "run digits.toml"),
        ("RLIMIT_NOFILE=5", "report one"),
        ("RLIMIT_FSIZE=0", "run digits.toml --run-folder other"),
        ("RLIMIT_FSIZE=0", "export one --output x.csv"),
    ],
)
@pytest.mark.timeout(300)
def test_a_limit_of_the_machine_is_one_sentence_and_nothing_is_lost(
    studies: Path, limit: str, command: str
) -> None:
    shutil.copy(ROOT / "studies" / "digits.toml", studies)
    before = {path: path.read_bytes() for path in studies.rglob("*.db")}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, limit, *command.split()],
        capture_output=True,
        text=True,
        cwd=studies,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=240,
    )
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "bug" not in done.stderr
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("command", ["list", "export one --epochs", "best one"])
@pytest.mark.parametrize("reader", ["true", "head -c 1"])
@pytest.mark.timeout(300)
def test_no_command_minds_a_reader_that_goes_away(studies: Path, command: str, reader: str) -> None:
    script = f'"{sys.executable}" -m hpsearch {command} | {reader}'
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, cwd=studies, env=env, timeout=240
    )
    assert done.stderr == ""


def test_nothing_is_imported_from_the_current_folder(tmp_path: Path) -> None:
    for name in ("typer", "optuna", "queue", "signal", "errno", "logging"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('it was executed')")
    done = entry("list", cwd=tmp_path)
    assert "executed" not in done.stderr
    assert done.stderr.startswith("error: there are no studies yet") or done.returncode == 0


@pytest.mark.parametrize("seconds", [0.3, 0.8, 1.5])
def test_a_run_that_has_just_begun_answers_sigterm(tmp_path: Path, seconds: float) -> None:
    shutil.copy(ROOT / "studies" / "digits.toml", tmp_path)
    command = [sys.executable, "-m", "hpsearch", "run", "digits.toml", "--workers", "1"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(seconds)  # whatever it is at
        process.terminate()
        _, err = process.communicate(timeout=10)
    assert process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)
    assert "Traceback" not in err


DESTROYED = """
import os, runpy, signal, sys, time
import hpsearch.service.signals

set_timer = signal.setitimer

def set_slowly(*timer):
    signal.setitimer = set_timer
    set_timer(*timer)
    time.sleep({slow})

signal.setitimer = set_slowly

class Thing:
    def __del__(self):
        os.kill(os.getpid(), {number})
        time.sleep(1)

def late(arguments):
    Thing()
    time.sleep(30)

import hpsearch.cli
hpsearch.cli.app = lambda arguments, **_: late(arguments)
sys.argv = ["hpsearch", "list"]
runpy.run_module("hpsearch", run_name="__main__")
"""


@pytest.mark.parametrize("slow", [0.0, 0.1])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_within_a_destructor_ends_the_command(
    tmp_path: Path, number: signal.Signals, slow: float
) -> None:
    """Python ignores what is raised there, and prints it with its traceback; a busy machine may be slow to do so."""
    command = [sys.executable, "-c", DESTROYED.format(number=int(number), slow=slow)]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=25,
    )
    assert done.returncode in (128 + number, -number), done.stderr
    if number != signal.SIGINT:
        assert not done.stderr


CLOSED = """
import os, runpy, sys
import sqlalchemy
import hpsearch.cli

def closing(arguments, **_):
    engine = sqlalchemy.create_engine("sqlite://", poolclass=sqlalchemy.POOL)
    engine.dialect.do_close = lambda connection: os.kill(os.getpid(), NUMBER)
    engine.connect().close()
    engine.dispose()

hpsearch.cli.app = closing
sys.argv = ["hpsearch", "list"]
runpy.run_module("hpsearch", run_name="__main__")
"""


@pytest.mark.parametrize("pool", ["NullPool", "QueuePool", "StaticPool"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_connection_closes_is_no_error(
    tmp_path: Path, number: signal.Signals, pool: str
) -> None:
    """SQLAlchemy logs whatever comes then, with its traceback, and raises it again."""
    script = CLOSED.replace("NUMBER", str(int(number))).replace("POOL", pool)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (128 + number, "")


def test_an_error_that_is_its_own_cause_is_shown() -> None:
    error = ValueError("broken")
    error.__cause__ = error
    record = logging.makeLogRecord({"exc_info": (ValueError, error, None)})
    assert entry_point._is_error(record)
    error.__cause__ = Signalled()
    assert not entry_point._is_error(record)


OWN_NET = """
import os, signal, torch

def stop(here):
    if here == PLACE:
        os.kill(os.getpid(), signal.SIGTERM)

stop("import")

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)

    def forward(self, images):
        stop("forward")
        return self.layer(images.flatten(1))

def build():
    stop("build")
    return Net()
"""


@pytest.mark.parametrize("place", ["import", "build", "forward"])
def test_a_signal_in_the_midst_of_code_of_the_users_own_is_not_its_fault(tmp_path: Path, place: str) -> None:
    (tmp_path / "nets.py").write_text(f"PLACE = {place!r}\n{OWN_NET}")
    (tmp_path / "own.toml").write_text(
        '[data]\ndataset = "digits"\n[model]\nname = "nets:build"\n[search]\nlearning_rate = [0.1]\n'
    )
    done = entry("check", "own.toml", cwd=tmp_path)
    assert (done.returncode, done.stderr.strip()) == (128 + signal.SIGTERM, "")


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_every_command_in_one_line(arguments: list[str], tmp_path: Path) -> None:
    done = entry(*arguments, cwd=tmp_path)
    listed = [line for line in done.stdout[done.stdout.index("Start:") :].splitlines() if line]
    assert done.returncode == 0
    assert tuple(line.split()[0] for line in listed if line.startswith("  ")) == COMMANDS
    assert [line for line in listed if not line.startswith("  ")] == [
        "Start:",
        "Run:",
        "Look:",
        "Use:",
        "Manage:",
    ]
    assert not [line for line in listed if line.endswith("...")]


def test_the_version(invoke: Invoke) -> None:
    assert invoke("--version") == (0, f"hpsearch {hpsearch.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("best", "one", "--save", ""), "--save"),
        (("best", "one", "--save="), "--save"),
        (("init", ""), "init"),
        (("predict", "--", ""), "--"),
    ],
)
def test_an_empty_argument_is_not_the_current_folder(
    invoke: Invoke, arguments: tuple[str, ...], named: str
) -> None:
    status, output, error = invoke(*arguments)
    assert (status, output) == (2, "")
    assert error.startswith(
        f"error: {named}: got an empty argument, perhaps from an unset variable; give a value, or"
    )


@pytest.mark.parametrize(
    ("command", "usage"),
    [("run", "STUDY"), ("status", "[STUDY]"), ("compare", "STUDY..."), ("predict", "STUDY PICTURE...")],
)
def test_usage_lines_are_plain(invoke: Invoke, command: str, usage: str) -> None:
    assert invoke(command, "--help")[1].splitlines()[0] == f"Usage: hpsearch {command} [OPTIONS] {usage}"


@pytest.mark.parametrize("option", ["--n-trials", "--n-trials=0"])
def test_optunas_names_of_options_are_understood(invoke: Invoke, option: str) -> None:
    status, _, error = invoke("run", "x.toml", option, *([] if "=" in option else ["0"]))
    assert status == 2
    assert "--trials" in error
    assert "'0'" in error


def test_a_missing_study_file_through_the_console(tmp_path: Path) -> None:
    shutil.copy(ROOT / "studies" / "digits.toml", tmp_path)
    done = entry("run", "digts.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith('error: digts.toml: no such study file; did you mean "digits.toml"?')
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_goes_away_is_no_error(studies: Path) -> None:
    command = f'"{sys.executable}" -m hpsearch export one --epochs | true; exit ${{PIPESTATUS[0]}}'
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=studies, env=env, timeout=60
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "status"),
    [("export one", 0), ("list", 0), ("delete one", 1), ("dashboard --add-user x --auth users", 2)],
)
def test_streams_that_the_caller_has_closed(
    studies: Path, monkeypatch: pytest.MonkeyPatch, command: str, status: int
) -> None:
    monkeypatch.setenv("TMPDIR", str(studies))
    done = subprocess.run(
        f"{sys.executable} -m hpsearch {command} <&- >&-",
        shell=True,
        cwd=studies,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == status, done.stderr
    assert "bug" not in done.stderr
    assert list(studies.glob("hpsearch-bug-*")) == []


def test_what_nobody_has_foreseen_is_a_sentence_and_a_file(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise KeyError("momentum") from ValueError("postgresql://ann:secret@host/db")

    monkeypatch.setattr("hpsearch.__main__.app", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    status, out, err = invoke("list")
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert "bug of hpsearch" in err
    [report] = tmp_path.glob("hpsearch-bug-*.txt")
    assert str(report) in err
    text = report.read_text()
    assert "Traceback" in text
    assert "secret" not in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(invoke: Invoke, command: str) -> None:
    status, output, _ = invoke(command, "--help")
    assert status == 0
    assert output.startswith(f"Usage: hpsearch {command}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--y"], ["hpsearch run", "--y", "hpsearch run --help"]),
        (["run"], ["hpsearch run", "STUDY"]),
        (["runn"], ["runn", "run", "hpsearch --help"]),
        (["run", "x.toml", "--workers", "k"], ["--workers", "'k'"]),
        (["run", "x.toml", "--workers=0"], ["--workers", "'0'", "1"]),
        (["run", "x.toml", "--trials", "0"], ["--trials", "'0'"]),
        (
            ["run", "x.toml", "--lease-seconds", "nan"],
            ["'--lease-seconds': must be greater than or equal to 1, got 'nan'"],
        ),
        (
            ["run", "good.toml", "--run-folder", "r\udce9"],
            ["r\\udce9/hpsearch.db': this is not UTF-8; rename"],
        ),
        (["run", "nothing.toml"], ["nothing.toml: no such study file"]),
        (["run", "bad.toml"], ["bad.toml: study.trials: must be at least 1, got 0"]),
        (["run", "good.toml", "--timeout", "2 weeks"], ["error: --timeout: ", '"2 weeks"', '"2h"']),
        (["run", "good.toml", "--storage", "nosql://x"], ["nosql"]),
        (["run", "good.toml", "--storage", "a.db", "--storage-file", "b"], ["--storage-file", "only one"]),
        (["run", "good.toml", "--gpus", "99"], ["--gpus", "99"]),
        (["run", "one"], ["no studies"]),
        (["check"], ["name a study file"]),
        (["check", "bad.toml"], ["bad.toml: study.trials"]),
        (
            ["check", "good.toml", "--run-folder", "good.toml/x"],
            ["--run-folder: good.toml/x", "made or written"],
        ),
        (["status", "one"], ["no studies"]),
        (["best", "--storage", "postgresql://me:secret@127.0.0.1:1/x"], ["127.0.0.1"]),
        (["export", "--format", "xls"], ["--format", '"xls"', "csv"]),
        (["export", "-o", "a.xls"], ["--output", "a.xls", ".csv"]),
        (["list", "--storage-file", "nothing"], ["--storage-file", "nothing"]),
        (["dashboard"], ["no studies"]),
        (["dashboard", "--port", "70000"], ["--port", "'70000'"]),
        (["delete", "one", "--yes"], ["no studies"]),
        (["stop", "one"], ["no studies"]),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    invoke: Invoke, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    search = '[data]\ndataset = "digits"\n[search]\nlearning_rate = [0.1]\n'
    (tmp_path / "good.toml").write_text(search, encoding="utf-8")
    (tmp_path / "bad.toml").write_text(f"[study]\ntrials = 0\n{search}", encoding="utf-8")
    status, output, error = invoke(*arguments)
    assert status == 2, error
    assert output == ""
    assert error.startswith("error: ")
    assert len(error.strip().splitlines()) == 1
    assert "secret" not in error
    for word in words:
        assert word in error


@pytest.mark.parametrize("command", ["status", "best", "export", "stop", "delete"])
def test_a_study_that_is_not_there_names_the_nearest(invoke: Invoke, studies: Path, command: str) -> None:
    status, _, error = invoke(command, "onne")
    assert status == 2
    assert 'no study "onne"' in error
    assert 'did you mean "one"?' in error


@pytest.mark.parametrize("command", ["list", "status nope", "best nope", "export nope", "delete nope"])
def test_a_study_whose_name_is_no_text_breaks_nothing(invoke: Invoke, studies: Path, command: str) -> None:
    storage = open_storage(f"sqlite:///{studies}/runs/hpsearch.db")
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE studies SET study_name = x'ff' WHERE study_name = 'two'")
    storage.engine.dispose()
    status, _, err = invoke(*command.split())
    assert status == (0 if command == "list" else 2)
    assert "bug" not in err


def test_best(invoke: Invoke, studies: Path) -> None:
    status, output, _ = invoke("best", "one")
    assert status == 0
    assert output.splitlines() == [
        "one: trial 1, val_loss 0.2 at epoch 2 of 3, not confirmed",
        "  learning_rate = 0.01",
        "  batch_size = full",
        "  val_error: 0.25",
        "  fit: good",
        "  stop_reason: early_stopping",
        "  device: cpu",
        "weights: runs/one/w.safetensors",
    ]
    status, output, _ = invoke("best", "one", "--json")
    assert json.loads(output)["hparams"] == {"learning_rate": 0.01, "batch_size": "full"}


def test_best_of_several_studies_needs_a_name(invoke: Invoke, studies: Path) -> None:
    status, _, error = invoke("best")
    assert status == 2
    assert "name one of them: one, two" in error


def test_a_study_file_stands_for_its_name(invoke: Invoke, studies: Path) -> None:
    text = '[data]\ndataset = "digits"\n[search]\nlearning_rate = [0.1]\n'
    (studies / "two.toml").write_text(text, encoding="utf-8")
    assert invoke("best", "two.toml")[1].startswith("two: trial 1")


@pytest.mark.parametrize("command", ["status", "best", "export", "delete"])
def test_a_name_may_have_a_slash(invoke: Invoke, studies: Path, command: str) -> None:
    make_foreign_study(studies, "proj/exp1")
    (studies / "proj" / "exp1").mkdir(parents=True)
    status, _, error = invoke(command, "proj/exp1", *(["--yes"] if command == "delete" else []))
    assert (status, error) == (0, "")


def test_a_path_may_have_another_ending(invoke: Invoke, studies: Path) -> None:
    text = '[data]\ndataset = "digits"\n[study]\nname = "two"\n[search]\nlearning_rate = [0.1]\n'
    (studies / "file").write_text(text, encoding="utf-8")
    assert invoke("best", "./file")[1].startswith("two: trial 1")


@pytest.mark.parametrize("name", ["../../escaped", "/nowhere/escaped", "proj/exp1", "cache"])
def test_no_study_leads_its_report_out_of_the_run_folder(invoke: Invoke, studies: Path, name: str) -> None:
    make_foreign_study(studies, name)
    before = set(studies.parent.rglob("report.html"))  # of other tests
    status, output, error = invoke("report", name)
    assert (status, output) == (2, "")
    assert error.startswith(f'error: study "{name}" has no folder of its own')
    assert error.endswith("give --output FILE\n")
    assert set(studies.parent.rglob("report.html")) == before
    assert invoke("report", name, "--out", "r.html")[:2] == (0, "r.html\n")


def test_a_report_of_no_study_names_the_nearest(invoke: Invoke, studies: Path) -> None:
    make_foreign_study(studies, "proj/exp1")
    status, output, error = invoke("report", "proj/exp2")
    assert (status, output) == (2, "")
    assert error.startswith('error: no study "proj/exp2"')
    assert "proj/exp1" in error


def test_the_list(invoke: Invoke, studies: Path) -> None:
    status, output, _ = invoke("list")
    head, *rows = output.splitlines()
    assert status == 0
    assert head.split() == [
        "study", "finished", "complete", "pruned", "fail", "paused", "running", "best", "changed", "size",
    ]  # fmt: skip
    assert sorted(row.split()[0] for row in rows) == ["one", "two"]
    assert rows[0].split()[1:] == [
        "4/4",
        "2",
        "1",
        "1",
        "0",
        "1",
        "val_loss",
        "0.2",
        "not",
        "confirmed",
        "now",
        "0",
        "B",
    ]
    assert {row["name"] for row in json.loads(invoke("list", "--json")[1])} == {"one", "two"}


@pytest.mark.parametrize(
    ("given", "environ", "proposed"),
    [
        ((), {}, "`hpsearch confirm one` first"),
        (("--storage", "a b/x.db"), {}, "`hpsearch confirm one --storage 'a b/x.db'` first"),
        (
            (
                "--storage",
                "a b/x.db",
                "--run-folder",
                "a b",
                "--data-root",
                "d",
                "--allow",
                "m",
                "--allow",
                "n",
            ),
            {},
            "`hpsearch confirm one --storage 'a b/x.db' --run-folder 'a b' --data-root d --allow m --allow n` first",
        ),
        (
            ("--run-folder", "a b", "--storage", "a b/x.db"),
            {"HPSEARCH_RUNS": "a b"},
            "one --storage 'a b/x.db'` first",
        ),
        (
            ("--run-folder", "a b", "--storage", "a b/x.db"),
            {"HPSEARCH_RUNS": "c"},
            "x.db' --run-folder 'a b'` first",
        ),
    ],
)
def test_a_proposed_command_can_be_copied(
    invoke: Invoke,
    studies: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: tuple[str, ...],
    environ: dict[str, str],
    proposed: str,
) -> None:
    (studies / "a b").mkdir()
    shutil.copy(studies / "runs" / "hpsearch.db", studies / "a b" / "x.db")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    status, _, error = invoke("refit", "one", *given)
    assert status == 2
    assert proposed in error


def test_only_what_a_proposed_command_takes_is_carried(invoke: Invoke, tmp_path: Path) -> None:
    place = tmp_path / "my photos"
    for kind in range(2):
        (place / str(kind)).mkdir(parents=True)
        for number in range(9):
            Image.new("RGB", (32, 32), (120 * kind, 20 * number, 0)).save(place / str(kind) / f"{number}.png")
    status, output, _ = invoke("init", place, "--minutes", "0.1", "--run-folder", "r", "--output", "a b.toml")
    assert status == 0
    assert output.splitlines()[-1] == "wrote a b.toml; next: hpsearch run 'a b.toml' --run-folder r"


def test_the_status_of_a_study_that_nobody_runs(invoke: Invoke, studies: Path) -> None:
    status, output, _ = invoke("status", "one")
    assert status == 0
    assert output.splitlines() == [
        "one: 4 of 4 trials finished, 2 COMPLETE, 1 PRUNED, 1 FAIL, 1 interrupted",
        "best val_loss: 0.2, not confirmed",
        "not running: no driver",
    ]
    assert invoke("stop", "one")[1] == 'study "one" is not running\n'


def test_export_to_stdout_and_to_a_file(invoke: Invoke, studies: Path) -> None:
    status, output, _ = invoke("export", "one")
    assert status == 0
    assert output.splitlines()[0].startswith("trial,state,score,best_epoch")
    assert len(output.splitlines()) == 6
    assert invoke("export", "one", "--epochs", "-o", studies / "e.parquet")[0] == 0
    assert len(pd.read_parquet(studies / "e.parquet")) == 8


def test_delete_asks_first(invoke: Invoke, studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (studies / "answer").open("w+") as answer:
        answer.write("n\n")
        answer.seek(0)
        monkeypatch.setattr(sys, "stdin", answer)
        status, output, _ = invoke("delete", "one")
    assert status == 1
    assert 'Delete study "one" with 5 trials?' in output
    assert invoke("best", "one")[0] == 0
    assert invoke("delete", "one", "--yes")[0] == 0
    assert invoke("best", "one")[0] == 2
    assert invoke("best", "two")[0] == 0


@pytest.mark.parametrize(
    "way", ["flag", "file", "HPSEARCH_STORAGE", "HPSEARCH_STORAGE_FILE", "HPSEARCH_RUNS", "folder"]
)
def test_ways_to_name_the_database(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    database = tmp_path / "else" / "hpsearch.db"
    database.parent.mkdir()
    make_study(f"sqlite:///{database}", "one")
    (tmp_path / "url").write_text(f"sqlite:///{database}\n", encoding="utf-8")
    arguments = {
        "flag": ["--storage", database],
        "file": ["--storage-file", tmp_path / "url"],
        "folder": ["--run-folder", database.parent],
    }.get(way, [])
    environment = {
        "HPSEARCH_STORAGE": f"sqlite:///{database}",
        "HPSEARCH_STORAGE_FILE": str(tmp_path / "url"),
        "HPSEARCH_RUNS": str(database.parent),
    }
    if way in environment:
        monkeypatch.setenv(way, environment[way])
    assert invoke("best", *arguments)[1].startswith("one: trial 1")


LONG = "a" * 300
"""A name that no file system takes."""


@pytest.mark.parametrize(
    ("data", "model", "message"),
    [
        (
            f'dataset = "folder"\nroot = "{LONG}"',
            "",
            f"data.root: {LONG} cannot be used: File name too long; name",
        ),
        (
            f'dataset = "npz"\nroot = "{LONG}"',
            "",
            f"data.root: {LONG} cannot be used: File name too long; name",
        ),
        (
            f'dataset = "mnist"\nroot = "{LONG}"',
            "",
            f"data.root: {LONG} cannot be used: File name too long; name",
        ),
        (
            f'dataset = "folder"\nroot = "."\nlabels = "{LONG}"\nfile_column = "a"\nlabel_column = "b"',
            "",
            f"data.labels: {LONG} cannot be used: File name too long; name",
        ),
        (f'dataset = "digits"\ncache = "{LONG}"', "", "data.cache: cannot write"),
        ('dataset = "digits"', f'weights = "{LONG}"', "File name too long; name a file of weights"),
        (
            'dataset = "digits"',
            'weights = "/etc"',
            'model.weights = "/etc": Is a directory; name a file of weights',
        ),
    ],
)
def test_a_path_that_the_system_refuses_is_said_by_its_field(
    invoke: Invoke, tmp_path: Path, data: str, model: str, message: str
) -> None:
    (tmp_path / "s.toml").write_text(
        f"[study]\ntrials = 1\n[data]\n{data}\nimage_size = 8\n[model]\n{model}\n[search]\nlearning_rate = [0.1]\n"
    )
    status, _, err = invoke("check", "s.toml", "--workers", 1)
    assert (status, message in err) == (2, True), err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["init", LONG], f"FOLDER: {LONG} cannot be used: File name too long"),
        (["init", ".", "-o", f"{LONG}.toml"], f"--output: {LONG}.toml cannot be used: File name too long"),
        (["auto", ".", "-o", f"{LONG}.toml"], f"--output: {LONG}.toml cannot be used: File name too long"),
        (["predict", LONG, "p.png"], f'no study "{LONG}"'),
        (["compare", "one", "two", "--html", LONG], f"--html: cannot write {LONG}: File name too long"),
        (["check", f"x/{LONG}"], f"x/{LONG}: no such study file"),
    ],
)
def test_a_path_of_a_command_that_the_system_refuses_is_a_sentence(
    invoke: Invoke, studies: Path, arguments: list[str], message: str
) -> None:
    status, _, err = invoke(*arguments)
    assert (status, message in err) == (2, True), err
