"""The command line: each command reads its flags, calls one function and prints.

Nothing heavy is imported before a command runs: torch, Optuna and pandas take seconds, `--help` must not.
"""

from hpsearch.cli import files, look, tell, use, work
from hpsearch.cli.options import app

__all__ = ["app", "files", "look", "tell", "use", "work"]

# In the order in which a newcomer meets them, not in that of the modules.
_ORDER = (
    "run",
    "check",
    "status",
    "best",
    "confirm",
    "predict",
    "report",
    "compare",
    "export",
    "dashboard",
    "list",
    "stop",
    "delete",
)


def _place(name: str) -> int:
    return _ORDER.index(name) if name in _ORDER else len(_ORDER)


app.registered_commands.sort(
    key=lambda command: _place(str(command.name or getattr(command.callback, "__name__", "")))
)
