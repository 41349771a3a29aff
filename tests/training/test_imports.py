"""Objects of the user's own modules."""

import sys
from collections import OrderedDict
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import pytest

from hpsearch.errors import DataError, ModelError, UserError
from hpsearch.training.imports import hidden_modules, import_object, look_in


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a fresh module of the user's own."""
    name = "users_nets"
    (tmp_path / f"{name}.py").write_text(
        "number = 3\n\ndef build():\n    return 1\n\n"
        "class Nets:\n    @staticmethod\n    def small():\n        return 2\n"
    )
    (tmp_path / "broken_nets.py").write_text("1 / 0\n")
    (tmp_path / "needy_nets.py").write_text("import a_library_that_nobody_has\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for made in (name, "broken_nets", "needy_nets"):
        monkeypatch.delitem(sys.modules, made, raising=False)
    return name


def test_functions_and_methods_are_found(module: str) -> None:
    assert import_object(f"{module}:build")() == 1
    assert import_object(f"{module}:Nets.small")() == 2
    assert import_object("collections:OrderedDict", ("collections",)) is OrderedDict


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("users_nets", r'data\.dataset = "users_nets": write package\.module:function'),
        ("users_nets:", "write package.module:function"),
        ("../users:build", "write package.module:function"),
        ("users_nets:biuld", r'users_nets \(.*\.py\) has no "biuld"; did you mean "build"'),
        ("users_nets:number", "is int, which cannot be called"),
        ("missing_nets:build", "there is no module missing_nets; put it beside the study file"),
        ("users_nets.inner:build", r"there is no module users_nets\.inner|failed"),
        ("broken_nets:build", "importing broken_nets failed: ZeroDivisionError: division by zero"),
        (
            "needy_nets:build",
            "needy_nets imports a_library_that_nobody_has, which is neither installed nor beside",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_field(module: str, reference: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        import_object(reference, field="data.dataset")


@pytest.mark.usefixtures("module")
def test_a_module_that_is_not_allowed_is_never_imported() -> None:
    with pytest.raises(
        ModelError, match=r"users_nets may not be imported here; allow it with --allow users_nets"
    ):
        import_object("users_nets:build", ("other",))
    assert "users_nets" not in sys.modules


@pytest.mark.parametrize(("field", "error"), [("data.dataset", DataError), ("train.function", ModelError)])
def test_the_error_is_of_the_fields_kind(field: str, error: type[UserError]) -> None:
    with pytest.raises(error, match=field):
        import_object("nothing", field=field)


OWN = """
import functools, subprocess, torch
from collections import OrderedDict, namedtuple
from subprocess import run
from torch.nn import Linear

LOG = []

def build():
    return 1

shell = functools.partial(subprocess.run, shell=True)

class Nets(Linear):
    @classmethod
    def small(cls):
        return 2

    @staticmethod
    def large():
        return 3

    inner = OrderedDict
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `their_nets` with modules that define, and import, functions and classes."""
    package = tmp_path / "their_nets"
    package.mkdir()
    (package / "__init__.py").write_text(OWN + "from their_nets.deep import deep_build\n")
    (package / "deep.py").write_text("def deep_build():\n    return 4\n")
    (package / "__main__.py").write_text("open('RAN', 'w')\ndef build():\n    return 5\n")
    (tmp_path / "their_nets_two.py").write_text("def build():\n    return 6\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for made in [name for name in sys.modules if name.startswith("their_nets")]:
        monkeypatch.delitem(sys.modules, made)
    return tmp_path


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("reference", "allow", "value"),
    [
        ("their_nets:build", "their_nets", 1),
        ("their_nets:Nets.small", "their_nets", 2),
        ("their_nets:Nets.large", "their_nets", 3),
        ("their_nets:deep_build", "their_nets", 4),
        ("their_nets.deep:deep_build", "their_nets", 4),
        ("their_nets.deep:deep_build", "their_nets.deep", 4),
        ("their_nets:OrderedDict", "their_nets:OrderedDict", {}),  # as this machine's study file names it
    ],
)
def test_what_an_allowed_module_defines_can_be_named(reference: str, allow: str, value: Any) -> None:
    assert import_object(reference, (allow,))() == value


@pytest.mark.parametrize(
    ("reference", "allow"),
    [
        ("their_nets:torch.os.system", "their_nets"),
        ("their_nets:subprocess.run", "their_nets"),
        ("their_nets:run", "their_nets"),
        ("their_nets:Linear", "their_nets"),
        ("their_nets:shell", "their_nets"),
        ("their_nets:namedtuple", "their_nets"),
        ("their_nets:LOG.append", "their_nets"),
        ("their_nets:build.__globals__", "their_nets"),
        ("their_nets:build.__globals__.get", "their_nets"),
        ("their_nets:build.__call__", "their_nets"),
        ("their_nets:Nets.inner", "their_nets"),
        ("their_nets:Nets.load_state_dict", "their_nets"),
        ("their_nets:Nets.__subclasses__", "their_nets"),
        ("their_nets:Nets.__class__", "their_nets"),
        ("their_nets:__loader__.load_module", "their_nets"),
        ("their_nets.__main__:build", "their_nets"),
        ("their_nets:build", "their_nets.deep"),
        ("their_nets:deep_build.__globals__", "their_nets:deep_build"),
        ("their_nets:run", "their_nets:build"),
        ("their_nets_two:build", "their_nets"),
    ],
)
def test_what_it_imports_or_leads_to_cannot(own: Path, reference: str, allow: str) -> None:
    with pytest.raises(ModelError, match=r"--allow"):
        import_object(reference, (allow,))
    assert not (own / "RAN").exists()


def test_a_module_that_ends_the_process_gets_a_sentence(own: Path) -> None:
    (own / "their_nets" / "leaves.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(ModelError, match=r"importing their_nets\.leaves failed: SystemExit"):
        import_object("their_nets.leaves:build")


def test_of_the_current_folder_only_what_is_named_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    here, study = tmp_path / "here", tmp_path / "study"
    for folder in (here, study):
        folder.mkdir()
    for name in ("named_one", "unnamed_one", "antigravity"):
        (here / f"{name}.py").write_text("def build():\n    return 'here'\n")
    (study / "named_two.py").write_text("def build():\n    return 'study'\n")
    monkeypatch.chdir(here)
    look_in([str(study)], ["named_one", "named_two:build", "antigravity:build"])
    assert str(here) not in sys.path
    assert import_object("named_one:build")() == "here"
    assert import_object("named_two:build")() == "study"
    assert PathFinder.find_spec("antigravity").origin != str(here / "antigravity.py")
    with pytest.raises(ModelError, match="there is no module unnamed_one; put it beside the study file"):
        import_object("unnamed_one:build")
    look_in([str(study)], ["unnamed_one"])
    assert sys.path.count(str(study)) == 1
    assert import_object("unnamed_one:build")() == "here"


def test_what_a_studys_folder_hides_is_said(tmp_path: Path) -> None:
    for name in ("queue.py", "my_nets.py", "test.py", "not-a-name.py", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "optuna").mkdir()
    (tmp_path / "optuna" / "__init__.py").touch()
    (tmp_path / "torch").mkdir()  # without __init__.py it takes nobody's place
    queue, optuna = sorted(hidden_modules(str(tmp_path)), key=lambda sentence: "optuna " in sentence)
    assert queue == (
        f"{tmp_path}/queue.py hides Python's own module queue from all that is imported after it; rename it"
    )
    assert optuna.startswith(f"{tmp_path}/optuna hides the library optuna (/")
