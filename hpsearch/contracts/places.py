"""How many workers are wanted, where one of them runs, and how a cluster is asked for them."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Workers:
    """How many workers, and on what; the flags of `hpsearch run`.

    Attributes:
        gpus: "auto" (all there are, otherwise the CPU), "all", "none", or a list such as "0,2" of positions
            among the visible GPUs, UUIDs or MIG names.
        workers: number of workers, at most one per GPU share; None: one per GPU share, or one per `threads`
            cores.
    """

    gpus: str = "auto"
    workers: int | None = None
    workers_per_gpu: int = 1
    gpus_per_trial: int = 1


@dataclass(frozen=True, slots=True)
class Cluster:
    """How workers elsewhere are started and find their driver; the flags of `hpsearch run`.

    Attributes:
        listen: HOST or HOST:PORT of this machine, where workers dial the driver; "" leaves it to the executor.
        partition: of Slurm.
        slurm: further parameters of `sbatch`, as in "time=2:00:00".
        address: of a Ray cluster.
        tls: whether what is said between this machine and workers elsewhere is encrypted.
        reconnect: seconds for which worker and driver look for each other after a break of the network.
    """

    listen: str = ""
    partition: str | None = None
    slurm: tuple[str, ...] = ()
    address: str = "auto"
    tls: bool = False
    reconnect: float = 600.0


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """Where a worker runs: its number among this driver's workers, what it may see and use.

    Attributes:
        worker: from 0; a worker that is started again keeps its number.
        gpus: names (indices, UUIDs, MIG names) that go into the worker's CUDA_VISIBLE_DEVICES; empty: CPU.
        threads: CPU threads.
        env: further environment variables.
        host: the machine, where it is known before the worker runs; its `Ready` says it in any case.
    """

    worker: int
    gpus: tuple[str, ...] = ()
    threads: int = 1
    env: Mapping[str, str] = field(default_factory=dict)
    host: str = ""
