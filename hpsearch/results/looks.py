"""Studies, workers and the best trial as lines for a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from hpsearch.results.delete import Deletion
from hpsearch.results.listing import StudyRow
from hpsearch.results.progress import counted, counts_text, duration, hparam, number
from hpsearch.results.reading import BestTrial
from hpsearch.results.status import DriverStatus, StudyStatus, WorkerStatus


def columns(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Returns a table as lines, columns as wide as their longest cell."""
    cells = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def list_lines(rows: Sequence[StudyRow]) -> list[str]:
    """Returns one line per study; a confirmation is indented below its search."""
    head = ("study", "finished", "complete", "pruned", "fail", "running", "best", "changed", "size")
    return columns(head, map(_list_row, rows))


def _list_row(row: StudyRow) -> list[str]:
    states = [str(row.counts.get(state, 0)) for state in ("COMPLETE", "PRUNED", "FAIL", "RUNNING")]
    best = f"{row.metric} {number(row.best)}" if row.best is not None else "-"
    finished = f"{row.finished}/{row.total}" if row.total is not None else str(row.finished)
    name = row.name if row.confirms is None else f"  {row.name}"
    return [name, finished, *states, best, age(row.changed or row.started), size(row.size)]


def status_lines(status: StudyStatus) -> list[str]:
    """Returns a study's counts and the tables of its drivers and workers."""
    row = status.row
    total = f" of {row.total}" if row.total is not None else ""
    lines = [
        f"{row.name}: {row.finished}{total} trials finished, {counts_text(row.counts, {})}",
        f"best {row.metric}: {number(row.best)}",
    ]
    if row.foreign:
        lines.append(f"{counted(row.foreign, 'trial')} of another program, left out of all this")
    if not status.drivers:
        return [*lines, "no driver: nobody is running this study"]
    for driver in status.drivers:
        lines += ["", _driver_line(driver), *_worker_lines(driver)]
    return lines


def _driver_line(driver: DriverStatus) -> str:
    state = "" if driver.state == "alive" else f", {driver.state.upper()}"
    return f"driver {driver.host} process {driver.pid}, seen {duration(driver.silence)} ago{state}"


def _worker_lines(driver: DriverStatus) -> list[str]:
    head = ("worker", "device", "memory", "state", "trial", "epoch", "since", "attempt")
    lines = columns(head, map(_worker_row, driver.workers)) if driver.workers else ["no workers yet"]
    return [f"  {line}" for line in lines]


def _worker_row(worker: WorkerStatus) -> list[str]:
    at_work = worker.trial is not None
    return [
        str(worker.worker),
        worker.device,
        f"{worker.memory_mb:.0f} MB" if worker.memory_mb is not None else "-",
        worker.phase,
        str(worker.trial) if at_work else "-",
        f"{worker.epoch}/{worker.epochs}" if at_work else "-",
        duration(worker.seconds),
        str(worker.attempt) if worker.attempt is not None else "-",
    ]


def best_lines(study: str, metric: str, best: BestTrial) -> list[str]:
    """Returns the best trial: score, hyperparameters, facts, weights."""
    epochs = f" at epoch {best.best_epoch} of {best.attrs.get('epochs_run')}" if best.best_epoch else ""
    at_best = best.attrs.get("metrics_at_best")
    # Another program's study may mean something else by this name.
    found = at_best.items() if isinstance(at_best, Mapping) else ()
    others = {name: value for name, value in found if isinstance(value, int | float)}
    return [
        f"{study}: trial {best.number}, {metric} {number(best.value)}{epochs}",
        *(f"  {name} = {hparam(value)}" for name, value in best.hparams.items()),
        *(f"  {name}: {number(value)}" for name, value in others.items() if name != metric),
        *(
            f"  {name}: {best.attrs[name]}"
            for name in ("fit", "stop_reason", "device")
            if best.attrs.get(name)
        ),
        f"weights: {best.weights or 'not kept'}",
    ]


def deletion_text(deletion: Deletion) -> str:
    """Returns what would go, for a question and an answer."""
    parts = [f'study "{deletion.name}" with {deletion.trials} trials']
    if deletion.folder is not None:
        parts.append(f"{deletion.folder} ({size(deletion.size)})")
    if deletion.artifacts:
        parts.append(counted(len(deletion.artifacts), "artifact"))
    if deletion.openings:
        parts.append(f"the record of {counted(deletion.openings, 'opening')} of the test part")
    text = ", ".join(parts)
    return text if deletion.linked is None else f"{text}; its confirmation: {deletion_text(deletion.linked)}"


def deletion_warnings(deletion: Deletion) -> list[str]:
    """Returns what stays although it bears the study's name."""
    both = [one for one in (deletion, deletion.linked) if one is not None]
    shared = [
        f'{one.shared} stays: a copy of the study "{one.name}" in the database names weights in it'
        for one in both
        if one.shared is not None
    ]
    return shared + [
        f'{one.foreign} stays: nothing in it says that it belongs to this study "{one.name}" and not to one '
        "of another database; remove it by hand if nobody needs it"
        for one in both
        if one.foreign is not None
    ]


def age(moment: datetime | None) -> str:
    """Returns how long ago something was."""
    if moment is None:
        return "-"
    seconds = (datetime.now(UTC) - moment).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return "now"


def size(count: float) -> str:
    """Returns bytes as a person reads them."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
