"""The commands that begin and end work: run, check, stop."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpsearch.cli.options import (
    Allow,
    DataRoot,
    ExecutorName,
    Gpus,
    GpusPerTrial,
    JsonEvents,
    LeaseSeconds,
    Quiet,
    RunFolderOption,
    Share,
    Storage,
    StorageFile,
    StorageTimeout,
    StudyArgument,
    WorkerCount,
    WorkersPerGpu,
    allowed,
    app,
    given_study,
    import_paths,
    repeat,
    storage_url,
    study_name,
)
from hpsearch.errors import UserError
from hpsearch.text import in_lines, say

if TYPE_CHECKING:
    from hpsearch.study.specification import StudySpec


@app.command()
def run(
    study: StudyArgument,
    storage: Storage = None,
    storage_file: StorageFile = None,
    run_folder: RunFolderOption = Path("runs"),
    data_root: DataRoot = None,
    gpus: Gpus = "auto",
    workers: WorkerCount = None,
    workers_per_gpu: WorkersPerGpu = 1,
    gpus_per_trial: GpusPerTrial = 1,
    share: Share = "time",
    executor: ExecutorName = "local",
    allow: Allow = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Finished trials in all; overrides the file.")
    ] = None,
    timeout: Annotated[str | None, typer.Option(help="Such as 90s or 2h; overrides the file.")] = None,
    storage_timeout: StorageTimeout = 600.0,
    lease_seconds: LeaseSeconds = 60.0,
    quiet: Quiet = False,
    as_json: JsonEvents = False,
) -> None:
    """Run a study, or go on with it: until its trials are finished."""
    from hpsearch.contracts.executor import Workers
    from hpsearch.results.terminal.display import choose_display
    from hpsearch.service.launch import RunOptions, launch
    from hpsearch.study.file import with_limits

    url = storage_url(storage, storage_file, run_folder)
    given = given_study(study)
    spec = given if given is not None else _stored(study, url, data_root)
    spec = with_limits(spec, trials, timeout, source="flags")
    options = RunOptions(
        storage=url,
        run_folder=run_folder,
        data_root=data_root,
        workers=Workers(gpus, workers, workers_per_gpu, gpus_per_trial),
        share=share,
        executor=executor,
        allow=allowed(given, allow),
        import_paths=import_paths(study),
        storage_timeout=storage_timeout,
        lease_seconds=lease_seconds,
    )
    again = repeat(storage, storage_file, run_folder)
    with (
        choose_display(quiet=quiet, as_json=as_json, repeat=again, storage=url) as display,
        launch(spec, options) as launched,
    ):
        # Only now, while the workers import torch: this process has as much to import.
        from hpsearch.results.dashboard.publisher import Publisher
        from hpsearch.service.run import drive

        summary = drive(launched, [display, Publisher(url, run_folder)])
    if quiet and summary.exit_status == 1:
        none = "" if summary.best else ", and none was COMPLETE"
        say(*in_lines(f"error: {summary.study}: {summary.reason}{none}").split("\n"), err=True)
    raise typer.Exit(summary.exit_status)


@app.command()
def check(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="A study file.")] = None,
    data_root: DataRoot = None,
    run_folder: RunFolderOption = Path("runs"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[int | None, typer.Option(min=1, help="Number of workers of the later run.")] = None,
    executor: ExecutorName = "local",
    dtypes: Annotated[bool, typer.Option("--dtypes", help="Show which number types the device has.")] = False,
) -> None:
    """Check a study file: data, model, a few batches, the time."""
    began = time.monotonic()
    from hpsearch.results.terminal import check_lines
    from hpsearch.service.launch import make_folder

    if study is None and not dtypes:
        raise UserError("check: name a study file, or give --dtypes")
    if dtypes:
        check_lines.print_dtypes(device)
    if study is not None:
        from hpsearch.contracts.executor import Workers
        from hpsearch.executors.choose import make_executor
        from hpsearch.files.run_folder import RunFolder
        from hpsearch.study.file import load_study_file
        from hpsearch.training.imports import look_in

        spec = load_study_file(study)
        look_in([str(Path(study).absolute().parent)], spec.objects())
        cache = run_folder / "cache"
        if spec.data.dataset != "none" and not spec.data.cache:
            make_folder(cache)
        runs = make_executor(executor, RunFolder(run_folder, spec.study.name))
        count = len(runs.places(Workers(workers=workers), spec.train.threads, "time"))
        runs.close(0.0)
        check_lines.print_check(spec, data_root, cache, device, count, began)


@app.command()
def stop(
    study: StudyArgument,
    storage: Storage = None,
    storage_file: StorageFile = None,
    run_folder: RunFolderOption = Path("runs"),
) -> None:
    """Ask a study's drivers, on any machine, to stop warmly."""
    from hpsearch.results.stored.status import request_stop

    name = study_name(study) or study
    count = request_stop(name, storage_url(storage, storage_file, run_folder), run_folder)
    if count == 0:
        say(f'study "{name}" is not being run')
    else:
        say(f'asked {count} driver{"s" * (count > 1)} of "{name}" to stop; running trials are checkpointed')


def _stored(study: str, url: str, data_root: str | None) -> "StudySpec":
    """Returns the specification that the database has of a study."""
    from hpsearch.results.stored.reading import open_study
    from hpsearch.service.opening import is_ours, stored_specification
    from hpsearch.study.file import refuse_foreign_places

    opened = open_study(study, url)
    attrs = opened.user_attrs
    if not is_ours(attrs):
        raise UserError(f'study "{study}" was not made by hpsearch and cannot be run; give a study file')
    spec = stored_specification(attrs, opened.study_name)
    refuse_foreign_places(spec, data_root)
    return spec
