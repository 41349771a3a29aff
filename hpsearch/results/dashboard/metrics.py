"""`hpsearch run --metrics`: what Prometheus reads of a run; docker/grafana.json draws it."""

from collections import Counter as Count
from collections.abc import Mapping
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from hpsearch.contracts.callbacks import (
    FINISHED,
    Callback,
    FinishedTrial,
    Health,
    RunningTrial,
    RunSummary,
    Standing,
    StudyInfo,
)
from hpsearch.contracts.trial import EpochResult
from hpsearch.errors import UserError
from hpsearch.executors.address import split_address
from hpsearch.text import one_line

HOST = "127.0.0.1"  # the page has no login
# Bounds of an epoch's buckets.
SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)

_Figure = TypeVar("_Figure", Counter, Gauge, Histogram)


class Metrics(Callback):
    """Serves a run's figures on a port, from when it is made until `close`.

    Every name begins with `hpsearch_` and has the label `study`. Trials are counted over the whole study, epochs
    and samples in this run.

    Args:
        address: "PORT" or "HOST:PORT"; without a host only this machine can read it.

    Raises:
        UserError: the address cannot be listened on.
    """

    def __init__(self, address: str) -> None:
        host, port = _host_port(address)
        registry = CollectorRegistry()

        def made(kind: type[_Figure], name: str, text: str, *labels: str, **options: Any) -> _Figure:
            return kind(f"hpsearch_{name}", text, ("study", *labels), registry=registry, **options)

        self._study = ""
        self._running: set[int] = set()
        self._trials = made(Gauge, "trials", "Trials by state.", "state")
        self._wanted = made(Gauge, "trials_wanted", "Trials that the study asks for.")
        self._best = made(Gauge, "best_value", "The best value of the study's metric.")
        self._epochs = made(Counter, "epochs", "Epochs trained.")
        self._samples = made(Counter, "samples", "Training samples seen.")
        self._seconds = made(Histogram, "epoch_seconds", "Wall time of an epoch.", buckets=SECONDS)
        self._saving = made(Counter, "checkpoint_seconds", "Wall time spent on checkpoints.")
        peak = "Peak device memory of the last trial."
        self._peak = made(Gauge, "peak_device_memory_bytes", peak, "device")
        workers = "Workers by what they do and where."
        self._workers = made(Gauge, "workers", workers, "phase", "host", "device")
        self._memory = made(Gauge, "worker_memory_bytes", "Resident memory of a worker.", "worker")
        self._latency = made(Gauge, "database_seconds", "Time of the last call to the database.")
        away = "Time since the database stopped answering; 0 while it answers."
        self._away = made(Gauge, "database_unreachable_seconds", away)
        self._unwritten = made(Gauge, "unwritten_results", "Results that wait to be written.")
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"--metrics: cannot listen on {host}:{port}: {reason}; choose another port"
            ) from None

    @property
    def port(self) -> int:
        """The port, also where the address left it to the system (0)."""
        return int(self._server.server_port)

    def close(self) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def on_study_start(self, info: StudyInfo) -> None:
        self._study = info.spec.study.name
        self._wanted.labels(self._study).set(info.total)
        self._count(info.finished)
        self._show_best(info.best)

    def on_standing(self, standing: Standing) -> None:
        self._count(standing.finished, standing.paused)
        self._show_best(standing.best)

    def on_trial_start(self, trial: RunningTrial) -> None:
        self._running.add(trial.number)
        self._show_running()

    def on_trial_interrupted(self, number: int) -> None:
        self._running.discard(number)
        self._show_running()

    def on_trial_paused(self, trial: RunningTrial) -> None:
        self.on_trial_interrupted(trial.number)

    def on_epoch(self, trial: RunningTrial, result: EpochResult) -> None:
        self._epochs.labels(self._study).inc()
        self._samples.labels(self._study).inc(result.samples)
        self._seconds.labels(self._study).observe(result.seconds)
        self._saving.labels(self._study).inc(result.checkpoint_seconds)

    def on_trial_end(self, trial: FinishedTrial) -> None:
        self.on_trial_interrupted(trial.number)
        self._trials.labels(self._study, trial.state).inc()
        if trial.is_best:
            self._show_best(trial)
        peak, device = trial.attrs.get("peak_memory_mb"), trial.attrs.get("device")
        if isinstance(peak, int | float):
            self._peak.labels(self._study, str(device or "")).set(peak * 2**20)

    def on_health(self, health: Health) -> None:
        self._latency.labels(self._study).set(health.latency)
        self._away.labels(self._study).set(health.away_for)
        self._unwritten.labels(self._study).set(health.unwritten)
        self._workers.clear()
        for (phase, host, device), count in Count(
            (w.phase, w.host, w.device) for w in health.workers
        ).items():
            self._workers.labels(self._study, phase, host, device).set(count)
        self._memory.clear()
        for worker in health.workers:
            if worker.memory_mb is not None:
                self._memory.labels(self._study, str(worker.worker)).set(worker.memory_mb * 2**20)

    def on_study_end(self, summary: RunSummary) -> None:
        self._count(summary.counts)
        self._show_best(summary.best)

    def _count(self, counts: Mapping[str, int], paused: int = 0) -> None:
        for state in FINISHED:
            self._trials.labels(self._study, state).set(counts.get(state, 0))
        self._trials.labels(self._study, "PAUSED").set(paused)

    def _show_running(self) -> None:
        self._trials.labels(self._study, "RUNNING").set(len(self._running))

    def _show_best(self, best: FinishedTrial | None) -> None:
        if best is not None and best.score is not None:
            self._best.labels(self._study).set(best.score)


def _host_port(address: str) -> tuple[str, int]:
    try:
        host, port = split_address(address if ":" in address else f":{address}")
    except ValueError:
        host, port = "", None
    if port is None:
        raise UserError(
            f'--metrics: "{one_line(address, 100)}" is neither PORT nor HOST:PORT; for example --metrics 9400'
        )
    return host or HOST, port
