"""The commands that make something of a search: confirm its best trials, refit the confirmed one, predict."""

import json
from pathlib import Path
from typing import Annotated

import typer

from hpsearch.cli.options import (
    Allow,
    DataRoot,
    ExecutorName,
    Gpus,
    GpusPerTrial,
    Json,
    JsonEvents,
    LeaseSeconds,
    OptionalStudy,
    Quiet,
    RunFolderOption,
    Search,
    Share,
    Storage,
    StorageFile,
    StorageTimeout,
    Test,
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
from hpsearch.text import say


@app.command()
def confirm(
    study: OptionalStudy = None,
    top: Annotated[int | None, typer.Option(min=1, help="Configurations; overrides [confirm].")] = None,
    seeds: Annotated[int | None, typer.Option(min=2, help="Repeats of each; overrides [confirm].")] = None,
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
    allow: Allow = None,
    storage_timeout: StorageTimeout = 600.0,
    lease_seconds: LeaseSeconds = 60.0,
    quiet: Quiet = False,
    as_json: JsonEvents = False,
) -> None:
    """Train the best trials anew with other seeds, then test them."""
    from hpsearch.contracts.executor import Workers
    from hpsearch.results.confirm.confirm import confirm as confirm_study
    from hpsearch.results.confirm.words import confirmation_lines
    from hpsearch.results.dashboard.publisher import Publisher
    from hpsearch.results.terminal.display import choose_display
    from hpsearch.service.launch import RunOptions

    given = given_study(study)
    options = RunOptions(
        storage=storage_url(storage, storage_file, run_folder),
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
    publisher = Publisher(options.storage, run_folder)
    with choose_display(quiet=quiet, as_json=as_json, repeat=again) as display:
        outcome = confirm_study(
            study_name(study),
            options,
            given=given,
            top=top,
            seeds=seeds,
            test=test,
            callbacks=[display, publisher],
        )
    if outcome.confirmation is not None:
        publisher.publish(outcome.record.name)  # the search's note tells of the confirmation
    if outcome.confirmation is None:
        say(outcome.message, err=True)
    elif as_json:
        typer.echo(json.dumps({"event": "confirmation", **outcome.stored}))
    elif not quiet:
        say(*confirmation_lines(outcome.confirmation, outcome.record))
    raise typer.Exit(outcome.exit_status)


@app.command()
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
    allow: Allow = None,
    storage_timeout: StorageTimeout = 600.0,
    lease_seconds: LeaseSeconds = 60.0,
    quiet: Quiet = False,
    as_json: JsonEvents = False,
) -> None:
    """Train the confirmed trial on training and validation part."""
    from hpsearch.contracts.executor import Workers
    from hpsearch.results.confirm.refit import refit as refit_study
    from hpsearch.results.dashboard.publisher import Publisher
    from hpsearch.results.terminal.display import choose_display, plain
    from hpsearch.service.launch import RunOptions

    given = given_study(study)
    options = RunOptions(
        storage=storage_url(storage, storage_file, run_folder),
        run_folder=run_folder,
        data_root=data_root,
        workers=Workers(gpus, 1),
        executor=executor,
        allow=allowed(given, allow),
        import_paths=import_paths(study),
        storage_timeout=storage_timeout,
        lease_seconds=lease_seconds,
    )
    again = repeat(storage, storage_file, run_folder)
    publisher = Publisher(options.storage, run_folder)
    with choose_display(quiet=quiet, as_json=as_json, repeat=again) as display:
        outcome = refit_study(
            study_name(study),
            options,
            given=given,
            search=search,
            test=test,
            callbacks=[display, publisher],
        )
    if outcome.refit is None:
        say(*outcome.lines, err=True)
        raise typer.Exit(outcome.exit_status or 1)
    publisher.publish(outcome.study)  # the search's note tells of the refit
    if as_json:
        typer.echo(json.dumps({"event": "refit", "study": outcome.study, **plain(outcome.refit)}))
    elif not quiet:
        say(*outcome.lines)


@app.command()
def predict(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="A study, a folder of `best --save`, or a .safetensors.")
    ],
    pictures: Annotated[list[str], typer.Argument(metavar="PICTURE ...", help="Picture files.")],
    storage: Storage = None,
    storage_file: StorageFile = None,
    run_folder: RunFolderOption = Path("runs"),
    top: Annotated[int, typer.Option(min=1, help="Classes shown for each picture.")] = 5,
    prepare: Annotated[
        str | None, typer.Option(help="What prepares a picture of your own data, as my_data:prepare.")
    ] = None,
    search: Search = False,
    allow: Allow = None,
    as_json: Json = False,
) -> None:
    """Classify picture files with a study's best model."""
    from hpsearch.results.commands.models import load_best_model
    from hpsearch.results.commands.predict import predict as predict_files
    from hpsearch.results.commands.predict import prediction_lines
    from hpsearch.results.stored.reading import open_study
    from hpsearch.results.terminal.display import plain
    from hpsearch.training.imports import look_in

    # A file of weights is not a study file, though it may be written with a slash as well.
    file = study if study.endswith(".toml") else None
    given, url = given_study(file), storage_url(storage, storage_file, run_folder)
    if given is not None:
        open_study(given.study.name, url, given)
    names = allowed(given, allow)
    look_in(import_paths(file), [*names, *filter(None, [prepare])])
    model = load_best_model(study if given is None else given.study.name, url, names, search, run_folder)
    if answer := model.metadata.get("answer"):
        say(f"{model.metadata['study']}: {answer}", err=True)
    found = predict_files(model, pictures, top, prepare)
    if as_json:
        typer.echo(json.dumps([plain(one) for one in found]))
    else:
        say(*prediction_lines(found))
    if any(one.error for one in found):
        raise typer.Exit(1)
