"""Objects of the user's own modules, named in a study file as `my_package.nets:build`.

Here alone modules are imported by a name that is data, and here alone it is said where they are looked for. A
specification may come from a database, which a team shares, or from a file of weights: a row in a table must not
become code on this machine.
"""

import functools
import hashlib
import importlib
import logging
import os
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

from hpsearch.errors import OF_OWN_CODE, DataError, ModelError, UserError, nearest

logger = logging.getLogger(__name__)


def import_object(
    reference: str, allow: Collection[str] | None = None, field: str = "model.name"
) -> Callable[..., Any]:
    """Imports the function or class that a field of a study file names.

    Args:
        reference: `package.module:name`; the name may have dots (`module:Class.method`).
        allow: what may be used: references as they stand in this machine's own study file, and modules, of
            which functions and classes that they, or modules inside them, define; None trusts all.
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
    modules = None if allow is None or reference in allow else [one for one in allow if ":" not in one]
    top = module_name.partition(".")[0]
    if allow is not None and not is_allowed(reference, allow):
        raise error(f"{where}: the module {top} may not be imported here; allow it with --allow {top}")
    found: Any = _import_module(module_name, where, error)
    for name in path.split("."):
        found = _attribute(found, name, f"{where}: {module_name}", error)
        if modules is not None and not _is_defined_in(found, modules):
            raise error(
                f"{where}: {name} is not a function or a class that {module_name} itself defines, and "
                f"--allow {top} allows no others; name one of these, or this one alone by --allow {reference}"
            )
    if not callable(found):
        raise error(f"{where} is {type(found).__name__}, which cannot be called; name a function or a class")
    return found  # type: ignore[no-any-return]


def is_allowed(reference: str, allow: Collection[str]) -> bool:
    """Says whether the module of a reference may be imported, see `import_object`."""
    return reference in allow or _is_inside(
        reference.partition(":")[0], [one for one in allow if ":" not in one]
    )


def _is_inside(module: str, allowed: Iterable[str]) -> bool:
    """Says whether a module is one of those allowed, or lies in one: not a package's own program."""
    return "__main__" not in module.split(".") and any(f"{module}.".startswith(f"{one}.") for one in allowed)


def _is_defined_in(found: Any, modules: Iterable[str]) -> bool:
    home = getattr(found, "__module__", None)
    own = isinstance(found, FunctionType | MethodType | type)
    return own and isinstance(home, str) and _is_inside(home, modules)


def _attribute(owner: Any, name: str, where: str, error: type[UserError]) -> Any:
    if not hasattr(owner, name):
        known = [known for known in dir(owner) if known[0] != "_" and callable(getattr(owner, known))]
        file = f" ({owner.__file__})" if getattr(owner, "__file__", None) else ""
        raise error(f'{where}{file} has no "{name}"; {nearest(name, known)}')
    return getattr(owner, name)


def _import_module(name: str, where: str, error: type[UserError]) -> ModuleType:
    """Imports a module; tells a module that is not there from one that fails while it is imported."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name is not None and f"{name}.".startswith(f"{missing.name}."):
            raise error(
                f"{where}: there is no module {missing.name}; put it beside the study file, start hpsearch in the "
                "folder that holds it, or install it"
            ) from missing
        raise error(
            f"{where}: {name} imports {missing.name}, which is neither installed nor beside the study file"
        ) from missing
    except OF_OWN_CODE as failure:
        raise error(f"{where}: importing {name} failed: {type(failure).__name__}: {failure}") from failure


def source_digests(references: Iterable[str]) -> dict[str, str]:
    """Returns 16 hexadecimal digits over the source of the module that each reference is in, of those imported."""
    files = {one: getattr(sys.modules.get(one.partition(":")[0]), "__file__", None) for one in references}
    return {
        one: hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
        for one, file in files.items()
        if file is not None and Path(file).is_file()
    }


class _FolderFinder:
    """Finds in one folder the modules that were named, and no others; asked when nobody else knows a module."""

    def __init__(self, folder: str, names: Collection[str]) -> None:
        self.folder = folder
        self.names = frozenset(names)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [self.folder]) if path is None and name in self.names else None


def look_in(folders: Iterable[str], named: Iterable[str]) -> None:
    """Lets the user's own modules be found from now on.

    A study's own folder comes first of all, as that of a program does, and a warning says which library a file
    there hides. Of the current folder, where anything may lie, nothing but the modules named is ever imported, and
    only if they are found nowhere else.

    Args:
        named: modules or references to what they hold.
    """
    for folder in folders:
        if folder not in sys.path:
            sys.path.insert(0, folder)
            warn_of_hidden(folder)
    names = {one.partition(":")[0].partition(".")[0] for one in named}
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _FolderFinder)]
    sys.meta_path.append(_FolderFinder(os.getcwd(), names))


@functools.cache
def warn_of_hidden(folder: str) -> None:
    """Warns once of the modules that a study's folder hides."""
    for sentence in hidden_modules(folder):
        logger.warning("%s", sentence)


def hidden_modules(folder: str) -> list[str]:
    """Returns a sentence on each module in a study's folder that others expect to be another one."""
    elsewhere = [path for path in sys.path if os.path.realpath(path) != os.path.realpath(folder)]
    sentences = []
    for path in sorted(Path(folder).iterdir()) if Path(folder).is_dir() else ():
        name = path.stem if path.suffix == ".py" else path.name if (path / "__init__.py").is_file() else ""
        if name.isidentifier() and name != "test" and (whose := _other_module(name, elsewhere)):
            sentences.append(f"{path} hides {whose} from all that is imported after it; rename it")
    return sentences


def _other_module(name: str, folders: list[str]) -> str:
    """Returns what else goes by a module's name, if anything does."""
    if name in sys.stdlib_module_names:
        return f"Python's own module {name}"
    spec = PathFinder.find_spec(name, folders)
    return f"the library {name} ({spec.origin})" if spec is not None and spec.origin else ""
