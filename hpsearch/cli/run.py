"""The commands that train: run, check, confirm, refit, continue."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from hpsearch.cli.options import (
    Allow,
    DataRoot,
    DriverFlags,
    ExecutorFlags,
    Gpus,
    OptionalStudy,
    RunFolderOption,
    Search,
    StorageFlags,
    StudyArgument,
    Test,
    WorkerFlags,
    command,
    modules,
)
from hpsearch.errors import UserError
from hpsearch.text import in_lines, plain, say


def _where(
    store: StorageFlags,
    data_root: str | None,
    fleet: ExecutorFlags,
    allow: list[str] | None,
    driver: DriverFlags,
) -> dict[str, Any]:
    """Returns what all commands that train tell `api` alike."""
    return {
        "executor": fleet.executor,
        "cluster": fleet.cluster(),
        "storage": store.url(),
        "run_folder": store.run_folder,
        "data_root": data_root,
        "allow": modules(allow),
        "storage_timeout": driver.storage_timeout,
        "lease_seconds": driver.lease_seconds,
    }


@command()
def run(
    study: StudyArgument,
    store: StorageFlags = StorageFlags(),
    data_root: DataRoot = None,
    workers: WorkerFlags = WorkerFlags(),
    fleet: ExecutorFlags = ExecutorFlags(),
    allow: Allow = None,
    trials: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Number of finished trials in total; overrides the file."),
    ] = None,
    timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="Time limit, such as 90s or 2h; overrides the file.")
    ] = None,
    at_timeout: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="What running and paused trials do at the time limit: wait (for the next run) or end.",
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="[HOST:]PORT", help="Address where Prometheus can read the run's metrics."),
    ] = None,
    driver: DriverFlags = DriverFlags(),
) -> None:
    """Run a study, or resume it, until its trials are finished."""
    from hpsearch.results.commands import api

    where = _where(store, data_root, fleet, allow, driver)
    summary = api.run(
        study,
        trials=trials,
        timeout=timeout,
        at_timeout=at_timeout,
        metrics=metrics,
        progress=driver.display(where["storage"]),
        **asdict(workers),
        **where,
    ).summary
    assert summary is not None
    if driver.quiet and summary.exit_status == 1:
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
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="Device to check on: auto, cpu or cuda.")
    ] = "auto",
    workers: Annotated[
        int | None,
        typer.Option("--workers", "--jobs", min=1, metavar="N", help="Workers to estimate the time for."),
    ] = None,
    gpus: Gpus = "auto",
    fleet: ExecutorFlags = ExecutorFlags(),
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
            executor=fleet.executor,
            cluster=fleet.cluster(),
            run_folder=run_folder,
            data_root=data_root,
        )
        from hpsearch.results.terminal.check_lines import report_lines  # imports torch, which the check times

        say(*report_lines(found))


@command()
def confirm(
    study: OptionalStudy = None,
    top: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Number of configurations; overrides [confirm].")
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=2, metavar="N", help="Number of seeds for each configuration; overrides [confirm]."),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            min=2, metavar="N", help="Repeat over this many folds of the images instead of over seeds."
        ),
    ] = None,
    test: Test = True,
    store: StorageFlags = StorageFlags(),
    data_root: DataRoot = None,
    workers: WorkerFlags = WorkerFlags(),
    fleet: ExecutorFlags = ExecutorFlags(),
    allow: Allow = None,
    driver: DriverFlags = DriverFlags(),
) -> None:
    """Train the best trials again with other seeds, then test them."""
    from hpsearch.results.commands import api
    from hpsearch.results.confirm.words import confirmation_lines

    outcome = api.confirm(
        study,
        top=top,
        seeds=seeds,
        folds=folds,
        test=test,
        progress=driver.display(),
        **asdict(workers),
        **_where(store, data_root, fleet, allow, driver),
    )
    if outcome.confirmation is None:
        say(outcome.message, err=True)
    elif driver.as_json:
        typer.echo(json.dumps({"event": "confirmation", **outcome.stored}))
    elif not driver.quiet:
        say(*confirmation_lines(outcome.confirmation, outcome.record))
    raise typer.Exit(outcome.exit_status)


@command()
def refit(
    study: OptionalStudy = None,
    search: Search = False,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="N",
            help="Train with this many seeds and take the model with the lowest training loss.",
        ),
    ] = None,
    test: Test = True,
    store: StorageFlags = StorageFlags(),
    data_root: DataRoot = None,
    gpus: Gpus = "auto",
    fleet: ExecutorFlags = ExecutorFlags(),
    allow: Allow = None,
    driver: DriverFlags = DriverFlags(),
) -> None:
    """Train the confirmed trial on training and validation data."""
    from hpsearch.results.commands import api

    outcome = api.refit(
        study,
        search=search,
        seeds=seeds,
        test=test,
        gpus=gpus,
        progress=driver.display(),
        **_where(store, data_root, fleet, allow, driver),
    )
    if outcome.refit is None:
        say(*outcome.lines, err=True)
        raise typer.Exit(outcome.exit_status or 1)
    if driver.as_json:
        typer.echo(json.dumps({"event": "refit", "study": outcome.study, **plain(outcome.refit)}))
    elif not driver.quiet:
        say(*outcome.lines)


@command("continue")
def continue_command(
    epochs: Annotated[
        int, typer.Option(min=1, metavar="N", help="Epochs in all, including those that are trained already.")
    ],
    study: OptionalStudy = None,
    trial: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Trial to continue; by default the best.")
    ] = None,
    search: Search = False,
    store: StorageFlags = StorageFlags(),
    data_root: DataRoot = None,
    gpus: Gpus = "auto",
    fleet: ExecutorFlags = ExecutorFlags(),
    allow: Allow = None,
    driver: DriverFlags = DriverFlags(),
) -> None:
    """Train a finished trial to more epochs, from its checkpoint."""
    from hpsearch.results.commands import api

    outcome = api.continue_trial(
        study,
        epochs=epochs,
        trial=trial,
        search=search,
        gpus=gpus,
        progress=driver.display(),
        **_where(store, data_root, fleet, allow, driver),
    )
    if outcome.trial is None:
        say(*outcome.lines, err=True)
        raise typer.Exit(outcome.exit_status or 1)
    if driver.as_json:
        typer.echo(json.dumps({"event": "continuation", **plain(outcome)}))
    elif not driver.quiet:
        say(*outcome.lines)


@command()
def worker(
    dial: Annotated[
        str, typer.Option("--dial", metavar="HOST:PORT", help="Address of the driver, as it prints it.")
    ],
    token_file: Annotated[
        Path,
        typer.Option("--token-file", metavar="FILE", help="File of the driver's token, as it prints it."),
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
    """Train for a driver on another machine (see run --executor)."""
    from hpsearch.service.dialing import Grant, work

    grant = Grant(token_file, tuple(data_root or ()), tuple(study_folder or ()), modules(allow))
    raise typer.Exit(work(dial, token_file, grant, name, with_parent))
