"""What an import loads: torch takes seconds, so nothing heavy comes with the package or the command line."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import hpsearch
from hpsearch import errors

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "torchvision", "optuna", "pandas", "sqlalchemy", "sklearn", "plotly", "rich", "pydantic")


@pytest.mark.parametrize(
    ("statement", "light"),
    [
        ("import hpsearch", HEAVY),
        ("import hpsearch.cli", HEAVY),
        ("import hpsearch.__main__", HEAVY),
        ("import hpsearch; hpsearch.load_study_file", ("torch", "optuna", "pandas")),
        ("import hpsearch; hpsearch.Callback", ("torch", "optuna", "pandas")),
        (
            "import hpsearch; hpsearch.run; hpsearch.StudyResult; hpsearch.StudyFile",
            ("torch", "optuna", "pandas"),
        ),
        (
            "import hpsearch; hpsearch.Patience; hpsearch.FinishedTrial; hpsearch.UserError",
            ("torch", "pandas"),
        ),
        ("import hpsearch; hpsearch.EarlyStoppingPruner", ("torch", "pandas")),
        (
            "import hpsearch.service.worker, hpsearch.training.build",
            ("triton", "scipy", "sklearn", "torchvision", "optuna", "pandas"),
        ),
    ],
)
def test_imports_stay_light(statement: str, light: tuple[str, ...]) -> None:
    code = f"import sys; {statement}; print(*[name for name in {light!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", hpsearch.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(hpsearch, name) is not None


def test_the_documentation_names_every_public_name_and_no_other() -> None:
    text = (ROOT / "studies" / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## In Python$(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    named = set(
        re.findall(
            r"`(?:hpsearch\.)?(\w+)`", "\n".join(re.findall(r"^\| (`.*?) \|", section[1], re.MULTILINE))
        )
    )
    assert named == set(hpsearch.__all__) - {"__version__"}


def test_the_types_are_shipped() -> None:
    assert (ROOT / "hpsearch" / "py.typed").is_file()
    assert "py.typed" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_all_errors_are_public() -> None:
    raised = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert raised <= set(hpsearch.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'nothing'"):
        hpsearch.nothing  # noqa: B018


def test_the_driver_never_imports_torch(tmp_path):
    """Also not by unpickling what a worker sends: the messages must be of plain types."""
    code = (
        "import sys; from hpsearch.__main__ import main\n"
        f"sys.argv = ['hpsearch', 'run', {str(ROOT / 'studies' / 'digits.toml')!r}, '--trials', '1', '--quiet',"
        f" '--workers', '1', '--gpus', 'none', '--run-folder', {str(tmp_path)!r}]\n"
        "try: main()\n"
        "except SystemExit as left: print('status', left.code, 'torch' in sys.modules)\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "status 0 False", shown.stdout + shown.stderr


@pytest.mark.parametrize("words", [["status"], ["best"], ["list"], ["status", "--json"]], ids=" ".join)
def test_looking_loads_only_the_databases_driver(tmp_path, words):
    from tests.results.stored import make_study

    make_study(f"sqlite:///{tmp_path}/hpsearch.db", "one")
    heavy = ("optuna", "sqlalchemy", "alembic", "pandas", "numpy", "torch", "asyncio")
    code = (
        f"import sys; from hpsearch.__main__ import run; status = run({[*words, '--run-folder', str(tmp_path)]!r})\n"
        f"print('loaded', status, *[name for name in {heavy!r} if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "loaded 0", shown.stdout
