"""The commands that begin and end work: run, check, stop."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpsearch.cli.options import (
    Allow,
    DataRoot,
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
    app,
    is_study_file,
    repeat,
    storage_url,
    study_name,
)
from hpsearch.errors import UserError

if TYPE_CHECKING:
    from hpsearch.spec.study import StudySpec


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
    from hpsearch.results.display import choose_display
    from hpsearch.service.launch import RunOptions, launch
    from hpsearch.service.places import Workers

    url = storage_url(storage, storage_file, run_folder)
    spec, from_database = _specification(study, url)
    spec = _override(spec, trials, timeout)
    options = RunOptions(
        storage=url,
        run_folder=run_folder,
        data_root=data_root,
        workers=Workers(gpus, workers, workers_per_gpu, gpus_per_trial),
        share=share,
        # A row of a database must not become code here; a study file was chosen by the user.
        allow=tuple(allow or ()) if from_database else None,
        import_paths=tuple(dict.fromkeys([str(Path(study).absolute().parent), os.getcwd()])),
        storage_timeout=storage_timeout,
        lease_seconds=lease_seconds,
    )
    again = repeat(storage, storage_file, run_folder)
    with (
        choose_display(quiet=quiet, as_json=as_json, repeat=again) as display,
        launch(spec, options) as launched,
    ):
        # Only now, while the workers import torch: this process has as much to import.
        from hpsearch.results.publish import Publisher
        from hpsearch.service.run import drive

        summary = drive(launched, [display, Publisher(url, run_folder)])
    if quiet and summary.exit_status == 1:
        none = "" if summary.best else ", and none was COMPLETE"
        typer.echo(f"error: {summary.study}: {summary.reason}{none}", err=True)
    raise typer.Exit(summary.exit_status)


@app.command()
def check(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="A study file.")] = None,
    data_root: DataRoot = None,
    run_folder: RunFolderOption = Path("runs"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[int | None, typer.Option(min=1, help="Number of workers of the later run.")] = None,
    dtypes: Annotated[bool, typer.Option("--dtypes", help="Show which number types the device has.")] = False,
) -> None:
    """Check a study file: data, model, a few batches, the time."""
    from hpsearch.results import check_print
    from hpsearch.service.launch import make_folder

    if study is None and not dtypes:
        raise UserError("check: name a study file, or give --dtypes")
    if dtypes:
        check_print.print_dtypes(device)
    if study is not None:
        spec, _ = _specification(study, url="")
        sys.path[:0] = [str(Path(study).absolute().parent), os.getcwd()]
        cache = run_folder / "cache"
        if spec.data.dataset != "none" and not spec.data.cache:
            make_folder(cache)
        check_print.print_check(spec, data_root, cache, device, workers)


@app.command()
def stop(
    study: StudyArgument,
    storage: Storage = None,
    storage_file: StorageFile = None,
    run_folder: RunFolderOption = Path("runs"),
) -> None:
    """Ask a study's drivers, on any machine, to stop warmly."""
    from hpsearch.results.status import request_stop

    name = study_name(study) or study
    count = request_stop(name, storage_url(storage, storage_file, run_folder), run_folder)
    if count == 0:
        typer.echo(f'study "{name}" is not being run')
    else:
        typer.echo(
            f'asked {count} driver{"s" * (count > 1)} of "{name}" to stop; running trials are checkpointed'
        )


def _specification(study: str, url: str) -> tuple["StudySpec", bool]:
    """Returns a study's specification, and whether it came from the database rather than from a file."""
    from hpsearch.spec.load import load_study_file

    if is_study_file(study) or not url:
        return load_study_file(study), False
    from hpsearch.results.reading import open_study
    from hpsearch.search.opening import is_ours, stored_specification

    opened = open_study(study, url)
    attrs = opened.user_attrs
    if not is_ours(attrs):
        raise UserError(f'study "{study}" was not made by hpsearch and cannot be run; give a study file')
    return stored_specification(attrs, opened.study_name), True


def _override(spec: "StudySpec", trials: int | None, timeout: str | None) -> "StudySpec":
    from hpsearch.spec.load import parse_study

    tree: dict[str, Any] = spec.model_dump()
    given = {"trials": trials, "timeout": timeout}
    tree["study"] |= {key: value for key, value in given.items() if value is not None}
    return parse_study(tree, source="flags")
