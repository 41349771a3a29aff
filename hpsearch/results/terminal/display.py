"""What `hpsearch run` shows: a live picture, plain lines, or JSON, all fed by the same callbacks."""

import io
import json
import logging
import math
import sys
import time
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hpsearch.contracts.callbacks import (
    Callback,
    FinishedTrial,
    RunningTrial,
    RunSummary,
    Standing,
    StudyInfo,
    WorkerNews,
)
from hpsearch.contracts.trial import EpochResult
from hpsearch.results.terminal.progress import (
    ASCII_BLOCKS,
    BLOCKS,
    Progress,
    closing_lines,
    counts_text,
    duration,
    ended_line,
    hparams_text,
    number,
    opening_lines,
    sparkline,
)
from hpsearch.text import LineFormatter, at_words, counted, in_lines, one_line, plain, write_at_once

if TYPE_CHECKING:
    from hpsearch.results.stored.best import BestTrial

REFRESH = 0.5  # seconds between two pictures: drawing takes the driver some milliseconds
PLAIN_REPORT = 60.0  # seconds after which plain output says how things stand, when nothing else was said
LOADING_REPORT = 10.0  # seconds between two lines of plain output while images are read
WIDTH = 100  # characters of the picture in a notebook
MOST_ROWS = 16  # running trials shown at once


class Display(Callback):
    """Shows a run from `with` to its end, by whatever cause; this one shows nothing (`--quiet`)."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the terminal as it was."""

    def on_launch(self, study: str, workers: int) -> None:
        """The workers have been started; this process, too, has imports of some seconds before it."""


class _ProgressDisplay(Display):
    """Shows how the run stands, which it keeps up to date, in words.

    Args:
        again: see `closing_lines`.
        storage: URL of the database, from which the study's answer is read at the end.
    """

    def __init__(self, again: str | None, clock: Callable[[], float], storage: str) -> None:
        self.progress = Progress(clock)
        self._again = again
        self._clock = clock
        self._storage = storage

    def on_epoch(self, trial: RunningTrial, result: EpochResult) -> None:
        self.progress.on_epoch(trial, result)

    def on_trial_interrupted(self, number: int) -> None:
        self.progress.on_trial_interrupted(number)

    def on_trial_paused(self, trial: RunningTrial) -> None:
        self.progress.on_trial_paused(trial)

    def on_standing(self, standing: Standing) -> None:
        self.progress.on_standing(standing)

    def on_message(self, text: str) -> None:
        self._say(text)

    def on_study_end(self, summary: RunSummary) -> None:
        self.progress.on_study_end(summary)
        self._say(*_closing_lines(summary, self.progress, self._again, self._storage))

    def _say(self, *lines: str) -> None:
        raise NotImplementedError


class LiveDisplay(_ProgressDisplay):
    """A picture that is drawn anew: progress bar, running trials with sparklines, the best, the counts.

    Messages and log records scroll by above it.
    """

    def __init__(
        self,
        console: Console | None = None,
        again: str | None = "",
        clock: Callable[[], float] = time.monotonic,
        storage: str = "",
    ) -> None:
        super().__init__(again, clock, storage)
        self.console = console or Console()
        self._drawn = -math.inf
        # Rich's own needs ipywidgets in a notebook.
        notebook = self.console.is_jupyter
        self._live = Cell() if notebook else Live(console=self.console, auto_refresh=False, transient=True)
        self._log = _ConsoleHandler(self.console)
        self._handlers: list[logging.Handler] = []

    def __enter__(self) -> Self:
        self._live.start()
        root = logging.getLogger()
        self._handlers, root.handlers = root.handlers, [self._log]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.getLogger().handlers = self._handlers
        self._live.stop()

    def on_launch(self, study: str, workers: int) -> None:
        self._live.update(Text(f"{one_line(study)}: {counted(workers, 'worker')} starting ..."), refresh=True)

    def on_study_start(self, info: StudyInfo) -> None:
        self.progress.on_study_start(info)
        self.progress.answer = _confirmed_before(info, self._storage)
        self._say(*opening_lines(info))
        self._draw(at_once=True)

    def on_worker(self, news: WorkerNews) -> None:
        self.progress.on_worker(news)
        if news.kind in ("exit", "waiting"):
            self._say(f"worker {news.worker}: {news.text}")
        self._draw()

    def on_trial_start(self, trial: RunningTrial) -> None:
        self.progress.on_trial_start(trial)
        self._draw()

    def on_epoch(self, trial: RunningTrial, result: EpochResult) -> None:
        super().on_epoch(trial, result)
        self._draw()

    def on_trial_end(self, trial: FinishedTrial) -> None:
        self.progress.on_trial_end(trial)
        if not self.progress.was_left_paused(trial):  # the counts tell of these: at the end they are many
            self._say(ended_line(trial, self.progress))
        self._draw()

    def on_tick(self) -> None:
        self._draw()

    def on_study_end(self, summary: RunSummary) -> None:
        self._live.update(Text(""))
        self._live.stop()
        super().on_study_end(summary)

    def _say(self, *lines: str) -> None:
        for line in lines:
            _print(self.console, in_lines(line))

    def _draw(self, at_once: bool = False) -> None:
        if at_once or self._clock() - self._drawn >= REFRESH:
            self._drawn = self._clock()
            self._live.update(picture(self.progress, self.console), refresh=True)


class Cell:
    """The live picture in a notebook: one output below the cell, replaced again and again."""

    def __init__(self) -> None:
        self._shown: Any = None

    def start(self) -> None:
        """The picture appears with its first update."""
        # Optuna's progress bar, which is never shown, asks for ipywidgets as soon as it is imported.
        warnings.filterwarnings("ignore", "IProgress not found")

    def update(self, picture: RenderableType, refresh: bool = True) -> None:
        from IPython.display import HTML, display

        console = Console(
            file=io.StringIO(), record=True, width=WIDTH, force_jupyter=False, force_terminal=True
        )
        console.print(picture)
        html = HTML(console.export_html(inline_styles=True, code_format="<pre>{code}</pre>"))
        if self._shown is None:
            self._shown = display(html, display_id=True)
        else:
            self._shown.update(html)

    def stop(self) -> None:
        """The last picture stays."""


class PlainDisplay(_ProgressDisplay):
    """One line per event, for files and pipes."""

    def __init__(
        self,
        output: TextIO | None = None,
        again: str | None = "",
        clock: Callable[[], float] = time.monotonic,
        storage: str = "",
    ) -> None:
        super().__init__(again, clock, storage)
        self._output = output or sys.stdout
        self._said = clock()

    def on_study_start(self, info: StudyInfo) -> None:
        self.progress.on_study_start(info)
        self._say(*opening_lines(info))

    def on_worker(self, news: WorkerNews) -> None:
        if news.kind != "loading" or self._clock() - self._said >= LOADING_REPORT:
            self._say(f"worker {news.worker}: {news.text}")

    def on_trial_start(self, trial: RunningTrial) -> None:
        self.progress.on_trial_start(trial)
        resumed = f" resumes after epoch {len(trial.curve)}" if trial.curve else " begins"
        name, why = self.progress.trial_name(trial), f" ({trial.why})" if trial.why else ""
        self._say(f"{name}{resumed} on worker {trial.worker}{why}: {hparams_text(trial.hparams)}")

    def on_trial_paused(self, trial: RunningTrial) -> None:
        super().on_trial_paused(trial)
        name, epochs = self.progress.trial_name(trial), len(trial.curve)
        self._say(f"{name} is paused after epoch {epochs} and may be resumed")

    def on_trial_end(self, trial: FinishedTrial) -> None:
        self.progress.on_trial_end(trial)
        self._say(f"[{self.progress.finished}/{self.progress.total}] {ended_line(trial, self.progress)}")

    def on_tick(self) -> None:
        if self._clock() - self._said < PLAIN_REPORT:
            return
        epochs = ", ".join(
            f"{self.progress.trial_name(trial)} epoch {len(trial.curve)}/{trial.epochs}"
            for trial in self.progress.running.values()
        )
        self._say(f"[{self.progress.finished}/{self.progress.total}] {epochs or 'no trial is running'}")

    def _say(self, *lines: str) -> None:
        self._said = self._clock()
        write_at_once(self._output, "".join(f"{in_lines(line)}\n" for line in lines))


class JsonDisplay(Display):
    """One JSON object per line and event; the last one, `study_end`, is the summary with the study's answer."""

    def __init__(self, output: TextIO | None = None, storage: str = "") -> None:
        self._output = output or sys.stdout
        self._storage = storage

    def on_study_start(self, info: StudyInfo) -> None:
        self._write("study_start", info)

    def on_worker(self, news: WorkerNews) -> None:
        self._write("worker", news)

    def on_trial_start(self, trial: RunningTrial) -> None:
        self._write("trial_start", trial)

    def on_epoch(self, trial: RunningTrial, result: EpochResult) -> None:
        self._write("epoch", result)

    def on_trial_interrupted(self, number: int) -> None:
        self._write("trial_interrupted", {"number": number})

    def on_trial_paused(self, trial: RunningTrial) -> None:
        self._write("trial_paused", {"number": trial.number, "epoch": len(trial.curve)})

    def on_trial_end(self, trial: FinishedTrial) -> None:
        self._write("trial_end", trial)

    def on_message(self, text: str) -> None:
        self._write("message", {"text": text})

    def on_study_end(self, summary: RunSummary) -> None:
        best = _read_answer(summary, self._storage)
        answer = None if best is None else best.answer
        self._write("study_end", {**plain(summary), "answer": answer})

    def _write(self, event: str, record: Any) -> None:
        write_at_once(self._output, json.dumps({"event": event, **plain(record)}) + "\n")


class _ConsoleHandler(logging.Handler):
    """Lets warnings scroll by above the live picture instead of tearing it."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(LineFormatter())
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        _print(self._console, self.format(record))


def _print(console: Console, text: str) -> None:
    # Rich's own wrapping would break paths and the commands that are to be copied.
    console.print(at_words(text, console.width), markup=False, highlight=False, soft_wrap=True)


def choose_display(
    *,
    quiet: bool,
    as_json: bool,
    again: str | None = "",
    output: TextIO | None = None,
    storage: str = "",
) -> Display:
    """Returns the display for the flags and the output at hand; `again` and `storage` are for its last lines."""
    if as_json:
        return JsonDisplay(output, storage)
    if quiet:
        return Display()
    console = Console(file=output)
    if console.is_terminal or console.is_jupyter:
        return LiveDisplay(console, again, storage=storage)
    return PlainDisplay(output, again, storage=storage)


def _closing_lines(summary: RunSummary, progress: Progress, again: str | None, storage: str) -> list[str]:
    """Returns what a run says at its end, with the study's answer, which a confirmation may have given."""
    from hpsearch.results.terminal.lines import run_lines

    best = None if progress.repeats else _read_answer(summary, storage)
    answer = None if best is None else run_lines(progress.metric, best)
    return closing_lines(
        summary,
        again,
        answer,
        progress.repeats,
        metric=progress.metric,
        confirmed=progress.answer,
        has_own_code=progress.spec is not None and bool(progress.spec.objects()),
    )


def _confirmed_before(info: StudyInfo, storage: str) -> str:
    """Returns the confirmed trial of a study that is resumed, in words; "" without one."""
    if storage and info.best is not None and not info.spec.is_confirmation:
        from hpsearch.results.terminal.lines import read_confirmed_words

        return read_confirmed_words(info.spec.study.name, storage)
    return ""


def _read_answer(summary: RunSummary, storage: str) -> "BestTrial | None":
    if not storage or summary.best is None:  # importing Optuna would delay the start of the workers
        return None
    from hpsearch.results.terminal.lines import read_answer

    return read_answer(summary, storage)


def picture(progress: Progress, console: Console) -> RenderableType:
    """Returns the whole live picture."""
    parts = [_bar(progress), _text(counts_text(progress.states, progress.stop_reasons), style="dim")]
    if progress.loading is not None:
        parts.append(_loading_bar(progress.loading))
    parts += [_text(line, style="green") for line in progress.best_lines()]
    if progress.running:
        parts.append(_running_table(progress, console.options.ascii_only))
    return Group(*parts)


def _text(text: str, style: str = "") -> Text:
    return Text(one_line(text), style=style)


def _bar(progress: Progress) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    seconds = progress.seconds_left
    left = "..." if seconds is None else f"about {duration(seconds)} left" if seconds else "almost finished"
    grid.add_row(
        _text(progress.name, style="bold"),
        Text(f"{progress.finished}/{progress.total} trials"),
        ProgressBar(total=max(1, progress.total), completed=progress.finished, width=30),
        Text(f"{duration(progress.elapsed)}, {left}"),
    )
    return grid


def _loading_bar(news: WorkerNews) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_row(
        _text(f"worker {news.worker} {news.text}"),
        ProgressBar(total=max(1, news.total), completed=news.done, width=30),
    )
    return grid


def _running_table(progress: Progress, ascii_only: bool) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim", pad_edge=False)
    for name in ("worker", "trial", "epoch", "train loss", *_shown(progress.metric)):
        table.add_column(_text(name), justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    trials = sorted(progress.running.values(), key=lambda trial: (trial.worker, trial.number))
    for trial in trials[:MOST_ROWS]:
        table.add_row(*_running_row(trial, progress, ASCII_BLOCKS if ascii_only else BLOCKS))
    if len(trials) > MOST_ROWS:
        table.add_row("", f"and {len(trials) - MOST_ROWS} more")
    return table


def _shown(metric: str) -> list[str]:
    """Returns the metrics of the table: the validation loss, which stops trials early, and the study's own."""
    return list(dict.fromkeys(["val_loss", metric]))


def _running_row(trial: RunningTrial, progress: Progress, blocks: str) -> list[str]:
    metric = progress.metric
    last = trial.curve[-1].metrics if trial.curve else {}
    values = [result.metrics.get(metric, math.nan) for result in trial.curve]
    return [
        str(trial.worker),
        progress.trial_name(trial).removeprefix("trial "),
        f"{len(trial.curve)}/{trial.epochs}",
        number(last.get("train_loss")),
        *(number(last.get(name)) for name in _shown(metric)),
        sparkline(values, blocks=blocks),
    ]
