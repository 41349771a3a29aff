"""What `hpsearch check` prints."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hpsearch.results.commands.check import CheckResult, Estimate, Probe, check_study
from hpsearch.results.terminal.lines import columns
from hpsearch.results.terminal.progress import duration, hparam, number
from hpsearch.study.checks import KINDS, DataFacts
from hpsearch.study.specification import LIMITS, StudySpec
from hpsearch.text import counted, one_line
from hpsearch.training import device as devices


def check_shown(
    spec: StudySpec,
    data_root: str | None,
    cache: Path,
    device: str,
    workers: int,
    began: float,
    shown: bool = True,
) -> CheckResult:
    """Checks a study and shows meanwhile how far its images are read.

    Args:
        workers: how many the run will have.
    """
    # On stderr, and only where somebody looks: what is printed may go into a file.
    with Progress(*_COLUMNS, console=Console(stderr=True, quiet=not shown), transient=True) as bar:
        task = bar.add_task("reading images", visible=False)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=True)

        def waits(text: str) -> None:
            bar.console.print(f"check {text}")

        return check_study(spec, data_root, cache, device, workers, progress, waits, began)


def told(shown: bool) -> Callable[[str], None]:
    """Returns what shows, once each, what a check waits for."""
    console, said = Console(stderr=True, quiet=not shown), set[str]()

    def tell(text: str) -> None:
        if text not in said:
            said.add(text)
            console.print(one_line(f"check: {text}"), markup=False)

    return tell


_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


def _point(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {hparam(value)}" for name, value in point.items())


def dtype_lines(device: str) -> list[str]:
    """Returns which number types a device has, each tried by a real sum, product and training step."""
    chosen = devices.choose(device)
    head = ("type", "bits", "sum", "matrix product", "training")
    rows = [
        [
            kind.name,
            str(kind.bits),
            *("yes" if able else "no" for able in (kind.add, kind.matmul, kind.train)),
        ]
        for kind in devices.supported_dtypes(chosen)
    ]
    return [f"number types of {chosen}:", *_indented(columns(head, rows))]


def report_lines(report: CheckResult) -> list[str]:
    """Returns a check's report: data, space, probes, estimate."""
    spec = report.spec
    place = ", ".join(filter(None, (report.device, report.precision)))
    lines = [f"{spec.study.name}: {counted(spec.total_trials, 'trial')} on {place}", ""]
    lines += (
        _data_lines(report.data) if report.data is not None else ["data: supplied by the training function"]
    )
    lines += [f"  {sentence}" for sentence in spec.data.split.each_trial]
    if spec.sampler.name == "grid":
        tried = "all" if spec.trials >= spec.grid_size else f"{spec.trials:,} of them"
        lines += ["", f"grid: {spec.grid_size:,} points; study.trials tries {tried}"]
    lines += [
        "",
        "search space:",
        *_indented(columns(("hyperparameter", "values", "drawn as"), report.space)),
        "",
    ]
    if spec.enqueue:
        lines += ["tried first:", *_indented([_point(point) for point in spec.enqueue]), ""]
    if report.probes:
        head = ("model", "batch", "image", "parameters", "memory", "step", "validation")
        lines += ["trained:", *_indented(columns(head, map(_probe_row, report.probes))), ""]
    else:
        lines += [f"train.function: {spec.train.function} was found; it is not run by this check", ""]
    if report.estimate is not None:
        lines.append(_estimate_line(report, report.estimate))
    if report.elsewhere:
        lines.append(report.elsewhere)
    return [*lines, "the study is OK"]


def _estimate_line(report: CheckResult, estimate: Estimate) -> str:
    trials, workers = report.spec.total_trials, report.workers
    low, high = map(duration, estimate.span)
    span = f" ({low} to {high})" if low != high else ""
    most = "up to " if any(getattr(report.spec.study, name) is not None for name in LIMITS) else ""
    line = (
        f"estimate: about {duration(estimate.expected)}{span} for {most}{counted(trials, 'trial')} with "
        f"{counted(workers, 'worker')}, start-up included"
    )
    if estimate.most <= estimate.expected:
        return line
    return f"{line}; {duration(estimate.most)} if no trial is stopped early"


def _data_lines(data: DataFacts) -> list[str]:
    classes = (
        f"{counted(len(data.classes), *KINDS[data.task])} ({_listed(data.classes)})"
        if data.classes
        else data.task
    )
    return [
        f"data: {data.train} training, {data.val} validation and {data.test} test images of "
        f"{data.channels} x {data.height} x {data.width}, {classes}",
        *(f"  {note}" for note in data.notes),
    ]


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 10 else f"{', '.join(names[:10])}, ..."


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _probe_row(probe: Probe) -> list[str]:
    channels, height, width = probe.image
    return [
        probe.model,
        str(probe.batch),
        f"{channels} x {height} x {width}",
        f"{probe.parameters:,}" if probe.parameters is not None else "-",
        f"{number(probe.memory_mb)} MB" if probe.memory_mb is not None else "-",
        f"{number(probe.step_seconds * 1000)} ms",
        f"{number(probe.eval_seconds * 1000)} ms",
    ]
