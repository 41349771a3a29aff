"""Which executor runs a study's workers: ours, or one of an installed package, by its name."""

from importlib.metadata import entry_points

from hpsearch.contracts.executor import Executor
from hpsearch.contracts.places import Cluster
from hpsearch.errors import HpsearchError, UserError, nearest
from hpsearch.executors.local import LocalExecutor
from hpsearch.files.run_folder import RunFolder

GROUP = "hpsearch.executors"


def make_executor(name: str, folder: RunFolder, cluster: Cluster | None = None) -> Executor:
    """Returns a new executor for a study.

    Args:
        name: one of `OURS`, or the name of an entry point of the group `hpsearch.executors`.

    Raises:
        UserError: it is not installed, cannot be loaded, or does not know what the cluster is asked for.
    """
    cluster = cluster or Cluster()
    if name in OURS:
        _refuse_unheeded(name, cluster)
        return _ours(name, folder, cluster)
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in found:
        raise UserError(f'--executor: "{name}" is not installed; {nearest(name, [*OURS, *found])}')
    _refuse_unheeded(name, cluster)
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


def _refuse_unheeded(name: str, cluster: Cluster) -> None:
    for flag, heeded in HEEDED.items():
        if name not in heeded and getattr(cluster, flag) != getattr(Cluster(), flag):
            names = " or ".join([", ".join(heeded[:-1]), heeded[-1]] if heeded[1:] else heeded)
            raise UserError(f"--{flag}: only with --executor {names}, and this is {name}; leave it out")


OURS = ("local", "dial", "slurm", "ray")


def _ours(name: str, folder: RunFolder, cluster: Cluster) -> Executor:
    """Returns one of `OURS`; only what is wanted is imported."""
    match name:
        case "dial":
            from hpsearch.executors.dial import DialExecutor

            return DialExecutor(folder, cluster)
        case "slurm":
            from hpsearch.executors.slurm import SlurmExecutor

            return SlurmExecutor(folder, cluster)
        case "ray":
            from hpsearch.executors.ray import RayExecutor

            return RayExecutor(folder, cluster)
        case _:
            return LocalExecutor(folder)


HEEDED = {
    "listen": ["slurm", "ray", "dial"],
    "tls": ["slurm", "ray", "dial"],
    "partition": ["slurm"],
    "slurm": ["slurm"],
    "address": ["ray"],
}
"""Which executors heed what a cluster is asked for."""

CLUSTERS = ("slurm", "ray")
"""Those that ask a scheduler for places, which others may want too."""
