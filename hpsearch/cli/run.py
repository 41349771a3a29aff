"""The commands that train: run, check, confirm, refit, continue."""

import json
from pathlib import Path
from typing import Annotated

import typer

from hpsearch.cli.options import (
    Address,
    Allow,
    DataRoot,
    ExecutorName,
    Gpus,
    GpusPerTrial,
    JsonEvents,
    LeaseSeconds,
    Listen,
    OptionalStudy,
    Partition,
    Quiet,
    RunFolderOption,
    Search,
    Share,
    Slurm,
    Storage,
    StorageFile,
    StorageTimeout,
    StudyArgument,
    Test,
    Tls,
    WorkerCount,
    WorkersPerGpu,
    cluster,
    command,
    modules,
    repeat,
    storage_url,
)
from hpsearch.errors import UserError
from hpsearch.text import in_lines, plain, say


@command()
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
    listen: Listen = None,
    tls: Tls = False,
    partition: Partition = None,
    slurm: Slurm = None,
    address: Address = "auto",
    allow: Allow = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Number of finished trials in total; overrides the file.")
    ] = None,
    timeout: Annotated[str | None, typer.Option(help="For example 90s or 2h; overrides the file.")] = None,
    at_timeout: Annotated[
        str | None,
        typer.Option(help="What running and paused trials then do: wait (for the next run) or end."),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="[HOST:]PORT", help="Address where Prometheus can read the run's figures."),
    ] = None,
    storage_timeout: StorageTimeout = 600.0,
    lease_seconds: LeaseSeconds = 60.0,
    quiet: Quiet = False,
    as_json: JsonEvents = False,
) -> None:
    """Run a study, or resume it, until its trials are finished."""
    from hpsearch.results.commands import api
    from hpsearch.results.terminal.display import choose_display

    url, again = storage_url(storage, storage_file, run_folder), repeat(storage, storage_file, run_folder)
    summary = api.run(
        study,
        trials=trials,
        timeout=timeout,
        at_timeout=at_timeout,
        workers=workers,
        gpus=gpus,
        workers_per_gpu=workers_per_gpu,
        gpus_per_trial=gpus_per_trial,
        share=share,
        executor=executor,
        cluster=cluster(listen, partition, slurm, address, tls),
        storage=url,
        run_folder=run_folder,
        data_root=data_root,
        allow=modules(allow),
        storage_timeout=storage_timeout,
        lease_seconds=lease_seconds,
        metrics=metrics,
        progress=choose_display(quiet=quiet, as_json=as_json, repeat=again, storage=url),
    ).summary
    assert summary is not None
    if quiet and summary.exit_status == 1:
        waits = summary.can_go_on and summary.counts.get("PAUSED", 0)
        remedy = "; run it again, or end what is paused with --at-timeout end" if waits else ""
        none = "" if summary.best else f", and none was COMPLETE{remedy}"
        say(*in_lines(f"error: {summary.study}: {summary.reason}{none}").split("\n"), err=True)
    raise typer.Exit(summary.exit_status)


@command()
def check(
    study: Annotated[str | None, typer.Argument(metavar="STUDY", help="A study file.")] = None,
    data_root: DataRoot = None,
    run_folder: RunFolderOption = Path("runs"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[
        int | None, typer.Option("--workers", "--jobs", min=1, help="Workers to estimate the time for.")
    ] = None,
    gpus: Gpus = "auto",
    executor: ExecutorName = "local",
    listen: Listen = None,
    tls: Tls = False,
    partition: Partition = None,
    slurm: Slurm = None,
    address: Address = "auto",
    dtypes: Annotated[bool, typer.Option("--dtypes", help="Show which number types the device has.")] = False,
) -> None:
    """Check a study file: data, model, a few batches, the time."""
    if study is None and not dtypes:
        raise UserError("check: name a study file, or give --dtypes")
    from hpsearch.results.commands import api

    if dtypes:
        from hpsearch.results.terminal.check_lines import dtype_lines

        say(*dtype_lines(device))
    if study is not None:
        found = api.check(
            Path(study),
            workers=workers,
            device=device,
            gpus=gpus,
            executor=executor,
            cluster=cluster(listen, partition, slurm, address, tls),
            run_folder=run_folder,
            data_root=data_root,
        )
        from hpsearch.results.terminal.check_lines import report_lines  # imports torch, which the check times

        say(*report_lines(found))


@command()
def confirm(
    study: OptionalStudy = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Number of configurations; overrides [confirm].")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=2, help="Number of repeats of each; overrides [confirm].")
    ] = None,
    test: Test = True,
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
    listen: Listen = None,
    tls: Tls = False,
    partition: Partition = None,
    slurm: Slurm = None,
    address: Address = "auto",
    allow: Allow = None,
    storage_timeout: StorageTimeout = 600.0,
    lease_seconds: LeaseSeconds = 60.0,
    quiet: Quiet = False,
    as_json: JsonEvents = False,
) -> None:
    """Train the best trials again with other seeds, then test them."""
    from hpsearch.results.commands import api
    from hpsearch.results.confirm.words import confirmation_lines
    from hpsearch.results.terminal.display import choose_display

    again = repeat(storage, storage_file, run_folder)
    outcome = api.confirm(
        study,
        top=top,
        seeds=seeds,
        test=test,
        workers=workers,
        gpus=gpus,
        workers_per_gpu=workers_per_gpu,
        gpus_per_trial=gpus_per_trial,
        share=share,
        executor=executor,
        cluster=cluster(listen, partition, slurm, address, tls),
        storage=storage_url(storage, storage_file, run_folder),
        run_folder=run_folder,
        data_root=data_root,
        allow=modules(allow),
        storage_timeout=storage_timeout,
        lease_seconds=lease_seconds,
        progress=choose_display(quiet=quiet, as_json=as_json, repeat=again),
    )
    if outcome.confirmation is None:
        say(outcome.message, err=True)
    elif as_json:
        typer.echo(json.dumps({"event": "confirmation", **outcome.stored}))
    elif not quiet:
        say(*confirmation_lines(outcome.confirmation, outcome.record))
    raise typer.Exit(outcome.exit_status)


@command()
def refit(
    study: OptionalStudy = None,
    search: Search = False,
    test: Test = True,
    storage: Storage = None,
    storage_file: StorageFile = None,
    run_folder: RunFolderOption = Path("runs"),
    data_root: DataRoot = None,
    gpus: Gpus = "auto",
    executor: ExecutorName = "local",
    listen: Listen = None,
    tls: Tls = False,
    partition: Partition = None,
    slurm: Slurm = None,
    address: Address = "auto",
    allow: Allow = None,
    storage_timeout: StorageTimeout = 600.0,
    lease_seconds: LeaseSeconds = 60.0,
    quiet: Quiet = False,
    as_json: JsonEvents = False,
) -> None:
    """Train the confirmed trial on training and validation data."""
    from hpsearch.results.commands import api
    from hpsearch.results.terminal.display import choose_display

    again = repeat(storage, storage_file, run_folder)
    outcome = api.refit(
        study,
        search=search,
        test=test,
        gpus=gpus,
        executor=executor,
        cluster=cluster(listen, partition, slurm, address, tls),
        storage=storage_url(storage, storage_file, run_folder),
        run_folder=run_folder,
        data_root=data_root,
        allow=modules(allow),
        storage_timeout=storage_timeout,
        lease_seconds=lease_seconds,
        progress=choose_display(quiet=quiet, as_json=as_json, repeat=again),
    )
    if outcome.refit is None:
        say(*outcome.lines, err=True)
        raise typer.Exit(outcome.exit_status or 1)
    if as_json:
        typer.echo(json.dumps({"event": "refit", "study": outcome.study, **plain(outcome.refit)}))
    elif not quiet:
        say(*outcome.lines)


@command("continue")
def continue_command(
    epochs: Annotated[
        int, typer.Option(min=1, help="Epochs of the longer trial, with those that are trained.")
    ],
    study: OptionalStudy = None,
    trial: Annotated[
        int | None, typer.Option(min=0, metavar="NUMBER", help="The trial; by default the best.")
    ] = None,
    search: Search = False,
    storage: Storage = None,
    storage_file: StorageFile = None,
    run_folder: RunFolderOption = Path("runs"),
    data_root: DataRoot = None,
    gpus: Gpus = "auto",
    executor: ExecutorName = "local",
    listen: Listen = None,
    tls: Tls = False,
    partition: Partition = None,
    slurm: Slurm = None,
    address: Address = "auto",
    allow: Allow = None,
    storage_timeout: StorageTimeout = 600.0,
    lease_seconds: LeaseSeconds = 60.0,
    quiet: Quiet = False,
    as_json: JsonEvents = False,
) -> None:
    """Train a finished trial to more epochs, from its checkpoint."""
    from hpsearch.results.commands import api
    from hpsearch.results.terminal.display import choose_display

    again = repeat(storage, storage_file, run_folder)
    outcome = api.continue_trial(
        study,
        epochs=epochs,
        trial=trial,
        search=search,
        gpus=gpus,
        executor=executor,
        cluster=cluster(listen, partition, slurm, address, tls),
        storage=storage_url(storage, storage_file, run_folder),
        run_folder=run_folder,
        data_root=data_root,
        allow=modules(allow),
        storage_timeout=storage_timeout,
        lease_seconds=lease_seconds,
        progress=choose_display(quiet=quiet, as_json=as_json, repeat=again),
    )
    if outcome.trial is None:
        say(*outcome.lines, err=True)
        raise typer.Exit(outcome.exit_status or 1)
    if as_json:
        typer.echo(json.dumps({"event": "continuation", **plain(outcome)}))
    elif not quiet:
        say(*outcome.lines)


@command()
def worker(
    dial: Annotated[
        str, typer.Option("--dial", metavar="HOST:PORT", help="Address of the driver, as it says it.")
    ],
    token_file: Annotated[
        Path, typer.Option("--token-file", metavar="FILE", help="File of the driver's token, as it says it.")
    ],
    data_root: Annotated[
        list[Path] | None,
        typer.Option("--data-root", metavar="DIR", help="Data that the driver may name; repeatable."),
    ] = None,
    study_folder: Annotated[
        list[Path] | None,
        typer.Option("--study-folder", metavar="DIR", help="Folder of the study's own modules; repeatable."),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", metavar="MODULE", help="Module that the driver may name; repeatable."),
    ] = None,
    name: Annotated[str, typer.Option("--name", hidden=True)] = "",
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
) -> None:
    """Train for a driver elsewhere that was started with --executor."""
    from hpsearch.service.dialing import Grant, work

    grant = Grant(token_file, tuple(data_root or ()), tuple(study_folder or ()), modules(allow))
    raise typer.Exit(work(dial, token_file, grant, name, with_parent))
