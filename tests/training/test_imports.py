"""Objects of the user's own modules."""

import sys
from collections import OrderedDict
from pathlib import Path

import pytest

from hpsearch.errors import DataError, ModelError, UserError
from hpsearch.training.imports import import_object


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
        ("users_nets:biuld", r'users_nets has no "biuld"; did you mean "build"'),
        ("users_nets:number", "is int, which cannot be called"),
        ("missing_nets:build", "there is no module missing_nets; start hpsearch in the folder"),
        ("users_nets.inner:build", r"there is no module users_nets\.inner|failed"),
        ("broken_nets:build", "importing broken_nets failed: ZeroDivisionError: division by zero"),
        ("needy_nets:build", "needy_nets imports a_library_that_nobody_has, which is not installed"),
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
