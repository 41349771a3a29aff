"""Studies, workers and the best trial as lines for a terminal."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.cells import cell_len

from hpsearch.contracts.callbacks import RunSummary
from hpsearch.errors import HpsearchError
from hpsearch.results.stored.attributes import origin
from hpsearch.results.stored.best import BestTrial, best_trial
from hpsearch.results.stored.listing import StudyRow
from hpsearch.results.stored.reading import reading_study
from hpsearch.results.stored.status import DriverStatus, StudyStatus, WorkerStatus
from hpsearch.results.terminal.progress import amount, counts_text, duration, hparam, number
from hpsearch.text import counted, one_line

MOST_PAUSED = 5

logger = logging.getLogger(__name__)


def columns(head: Sequence[str], rows: Iterable[Sequence[str]], most: int = 60) -> list[str]:
    """Returns a table as lines, columns as wide as their longest cell.

    Args:
        most: characters of a cell; the last of a row may be longer.
    """
    cells = [[*(one_line(cell, most) for cell in inner), one_line(last)] for *inner, last in (head, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in cells
    ]


def list_lines(rows: Sequence[StudyRow]) -> list[str]:
    """Returns one line per study; a confirmation is indented below its search."""
    head = ("study", "finished", "complete", "pruned", "fail", "paused", "running", "best", "changed", "size")
    return [*columns(head, map(_list_row, rows)), *(note for row in rows for note in row.notes)]


def _list_row(row: StudyRow) -> list[str]:
    shown = ("COMPLETE", "PRUNED", "FAIL", "PAUSED", "RUNNING")
    states = [str(row.counts.get(state, 0)) for state in shown]
    finished = f"{row.finished}/{row.total}" if row.total is not None else str(row.finished)
    name = row.name if row.confirms is None else f"  {row.name}"
    return [name, finished, *states, _best_cell(row), age(row.changed or row.started), size(row.size)]


def _best_cell(row: StudyRow) -> str:
    """Returns the best value and one word on what it is worth."""
    return "-" if row.best is None else f"{row.metric} {number(row.value)} {row.status}".rstrip()


def status_lines(status: StudyStatus, price: float | None = None) -> list[str]:
    """Returns a study's counts, what it has cost, and the tables of its drivers and workers.

    Args:
        price: of a device's hour.
    """
    row = status.row
    total = f" of {row.total}" if row.total is not None else ""
    is_running = any(driver.state == "alive" for driver in status.drivers)
    # A plain Optuna study's may be training, of which no driver of ours tells.
    interrupted = 0 if is_running or row.total is None else row.counts.get("RUNNING", 0)
    word = f", {row.status}" if row.status and row.value is not None else ""
    lines = [
        f"{row.name}: {row.finished}{total} trials finished, {counts_text(row.counts, {}, interrupted)}",
        f"best {row.metric}: {number(row.value)}{word}",
    ]
    lines += filter(None, [row.expected, *row.notes])
    if row.paused:
        lines.append(paused_line(row.paused))
    if row.foreign:
        lines.append(f"{counted(row.foreign, 'trial')} of another program, not counted here")
    if spent := status.cost.rows(price):
        lines.append(f"cost so far: {', '.join(f'{name} {amount}' for name, amount in spent)}")
    if row.ended and not is_running:
        lines.append(row.ended)
    if not status.drivers:
        return [*lines, "not running: no driver"]
    for driver in status.drivers:
        lines += ["", _driver_line(driver), *_worker_lines(driver)]
    return lines


def paused_line(paused: Mapping[int, int]) -> str:
    """Returns which trials are paused, by number, and after which epoch."""
    furthest = sorted(paused, key=lambda trial: (-paused[trial], trial))[:MOST_PAUSED]
    shown = ", ".join(f"trial {trial} at epoch {paused[trial]}" for trial in furthest)
    more = f" and {len(paused) - MOST_PAUSED} more" if len(paused) > MOST_PAUSED else ""
    return f"paused, may be resumed: {shown}{more}"


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
    """Returns a study's answer: score, what confirms it, hyperparameters, facts, weights."""
    at_best = best.attrs.get("metrics_at_best")
    # Another program's study may mean something else by this name.
    found = at_best.items() if isinstance(at_best, Mapping) else ()
    others = {name: value for name, value in found if isinstance(value, int | float)}
    searched = best.answer.of_search
    return [
        f"{study}: {headline(metric, best)}",
        *(f"  {name} = {hparam(value)}" for name, value in best.hparams.items()),
        *_promise(metric, best),
        *(f"  {name}{searched}: {number(value)}" for name, value in others.items() if name != metric),
        *(
            f"  {name}{searched}: {best.attrs[name]}"
            for name in ("fit", "stop_reason", "device")
            if best.attrs.get(name)
        ),
        *closing_words(best),
        *front_lines(best),
    ]


def front_lines(best: BestTrial) -> list[str]:
    """Returns the front of a study with several goals as a table; nothing for one goal."""
    if not best.front:
        return []
    goals, names = [*best.front[0].values], sorted({name for one in best.front for name in one.hparams})
    rows = [
        [
            str(one.number),
            number(one.values[goals[0]]),
            *(amount(one.values[goal]) for goal in goals[1:]),
            *(hparam(one.hparams.get(n, "-")) for n in names),
        ]
        for one in best.front
    ]
    return [
        "",
        "no other trial beats these in all goals (--trial N shows one):",
        *columns(["trial", *goals, *names], rows),
    ]


def read_answer(summary: RunSummary, url: str) -> BestTrial | None:
    """Returns a study's answer at the end of a run; None without one, and when the database does not give it."""
    try:
        with reading_study(summary.study, url) as opened:
            return best_trial(opened, Path(summary.folder).parent)
    except HpsearchError as error:
        logger.warning("whether the study is confirmed could not be read: %s", error)
        return None


def read_confirmed_words(study: str, url: str) -> str:
    """Returns which trial confirms a study, in words; "" without one, and when the database does not give it."""
    try:
        with reading_study(study, url) as opened:
            best = best_trial(opened)
            metric = opened.metric
    except HpsearchError as error:
        logger.warning("whether the study is confirmed could not be read: %s", error)
        return ""
    return headline(metric, best) if best is not None and best.answer.confirmed is not None else ""


def run_lines(metric: str, best: BestTrial) -> list[str]:
    """Returns a study's answer as a run tells it at its end."""
    fit = f", fit{best.answer.of_search}: {best.attrs['fit']}" if best.attrs.get("fit") else ""
    return [
        f"best: {headline(metric, best)}{fit}",
        *(f"  {name} = {hparam(value)}" for name, value in best.hparams.items()),
        *_promise(metric, best),
        *closing_words(best),
        *front_lines(best),
    ]


def headline(metric: str, best: BestTrial) -> str:
    """Returns which trial is the answer, its value, and what that is worth."""
    if best.answer.confirmed is not None:
        return f"trial {best.number}, {best.answer.text}"
    found = f"{_found(metric, best)}{best.answer.of_search}"
    return ", ".join(filter(None, (f"trial {best.number}, {found}", best.answer.status)))


def _found(metric: str, best: BestTrial) -> str:
    epochs = f" at epoch {best.best_epoch} of {best.attrs.get('epochs_run')}" if best.best_epoch else ""
    return f"{metric} {number(best.search_value)}{epochs}"


def _promise(metric: str, best: BestTrial) -> list[str]:
    return [f"  in the search: {_found(metric, best)}"] if best.answer.confirmed is not None else []


def closing_words(best: BestTrial) -> list[str]:
    """Returns what must be known beside the answer, and whose weights are handed out."""
    whose = best.weights_of
    plain = whose is None or whose.text == f"trial {best.number}"
    said = [] if plain or whose is None else [f"weights of {whose.text}"]
    began = (f"{name}: {words}" for name, words in origin(best.attrs))
    return [*best.answer.sentences(), *began, *said, f"weights: {best.weights or 'not kept'}"]


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
