"""Objects of the user's own modules, named in a study file as `my_package.nets:build`."""

import importlib
from collections.abc import Callable, Collection
from typing import Any

from hpsearch.errors import DataError, ModelError, UserError, nearest


def import_object(
    reference: str, allow: Collection[str] | None = None, field: str = "model.name"
) -> Callable[..., Any]:
    """Imports the function or class that a field of a study file names.

    A specification may come from a database, which a team shares: a row in a table must not become code on
    this machine. So only modules that the process was started with may be named, unless the study file is the
    user's own.

    Args:
        reference: `package.module:name`; the name may have dots (`module:Class.method`).
        allow: top-level modules that may be imported; None trusts all.
        field: the study file's field, for the messages.

    Raises:
        DataError, ModelError: by the field's table; no such form, not allowed, not found, or not callable. An
            exception while the module is imported is its cause.
    """
    error = DataError if field.startswith("data.") else ModelError
    where = f'{field} = "{reference}"'
    module_name, colon, path = reference.partition(":")
    if not colon or not all(part.isidentifier() for part in [*module_name.split("."), *path.split(".")]):
        raise error(f"{where}: write package.module:function, such as my_package.nets:build")
    top = module_name.partition(".")[0]
    if allow is not None and top not in allow:
        raise error(f"{where}: the module {top} may not be imported here; allow it with --allow {top}")
    found = _import_module(module_name, where, error)
    for name in path.split("."):
        if not hasattr(found, name):
            known = [known for known in dir(found) if known[0] != "_" and callable(getattr(found, known))]
            raise error(f'{where}: {module_name} has no "{name}"; {nearest(name, known)}')
        found = getattr(found, name)
    if not callable(found):
        raise error(f"{where} is {type(found).__name__}, which cannot be called; name a function or a class")
    return found  # type: ignore[no-any-return]


def _import_module(name: str, where: str, error: type[UserError]) -> Any:
    """Imports a module; tells a module that is not there from one that fails while it is imported."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name is not None and f"{name}.".startswith(f"{missing.name}."):
            raise error(
                f"{where}: there is no module {missing.name}; start hpsearch in the folder that holds it, "
                "or install it"
            ) from missing
        raise error(f"{where}: {name} imports {missing.name}, which is not installed") from missing
    except Exception as failure:
        raise error(f"{where}: importing {name} failed: {type(failure).__name__}: {failure}") from failure
