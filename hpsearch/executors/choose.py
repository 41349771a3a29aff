"""Which executor runs a study's workers: ours, or one of an installed package, by its name."""

from importlib.metadata import entry_points

from hpsearch.contracts.executor import Executor
from hpsearch.errors import HpsearchError, UserError, nearest
from hpsearch.executors.local import LocalExecutor
from hpsearch.files.run_folder import RunFolder

GROUP = "hpsearch.executors"


def make_executor(name: str, folder: RunFolder) -> Executor:
    """Returns a new executor for a study.

    Args:
        name: "local", or the name of an entry point of the group `hpsearch.executors`.

    Raises:
        UserError: it is not installed, or cannot be loaded.
    """
    if name == "local":
        return LocalExecutor(folder)
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in found:
        raise UserError(f'--executor: "{name}" is not installed; {nearest(name, ["local", *found])}')
    try:
        executor: Executor = found[name].load()(folder)
    except HpsearchError:
        raise
    except Exception as error:
        raise UserError(
            f"--executor {name}: {found[name].value} cannot be loaded: {type(error).__name__}: {error}; update or "
            "reinstall its package"
        ) from error
    return executor
