"""The commands that make something of a search: confirm its best trials, predict with its best model."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from hpsearch.cli.options import (
    Allow,
    DataRoot,
    Gpus,
    GpusPerTrial,
    Json,
    JsonEvents,
    LeaseSeconds,
    OptionalStudy,
    Quiet,
    RunFolderOption,
    Share,
    Storage,
    StorageFile,
    StorageTimeout,
    WorkerCount,
    WorkersPerGpu,
    allowed_modules,
    app,
    import_paths,
    repeat,
    storage_url,
    study_name,
)


@app.command()
def confirm(
    study: OptionalStudy = None,
    top: Annotated[int | None, typer.Option(min=1, help="Configurations; overrides [confirm].")] = None,
    seeds: Annotated[int | None, typer.Option(min=2, help="Repeats of each; overrides [confirm].")] = None,
    test: Annotated[
        bool, typer.Option("--test/--no-test", help="Open the test part, or leave it closed.")
    ] = True,
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
    storage_timeout: StorageTimeout = 600.0,
    lease_seconds: LeaseSeconds = 60.0,
    quiet: Quiet = False,
    as_json: JsonEvents = False,
) -> None:
    """Train the best trials anew with other seeds, then test them."""
    from hpsearch.results.confirm.confirm import confirm as confirm_study
    from hpsearch.results.confirm.words import confirmation_lines
    from hpsearch.results.display import choose_display
    from hpsearch.results.publish import Publisher
    from hpsearch.service.launch import RunOptions
    from hpsearch.service.places import Workers

    options = RunOptions(
        storage=storage_url(storage, storage_file, run_folder),
        run_folder=run_folder,
        data_root=data_root,
        workers=Workers(gpus, workers, workers_per_gpu, gpus_per_trial),
        share=share,
        allow=allowed_modules(study, allow),
        import_paths=import_paths(study),
        storage_timeout=storage_timeout,
        lease_seconds=lease_seconds,
    )
    sys.path[:0] = options.import_paths
    again = repeat(storage, storage_file, run_folder)
    publisher = Publisher(options.storage, run_folder)
    with choose_display(quiet=quiet, as_json=as_json, repeat=again) as display:
        outcome = confirm_study(
            study_name(study), options, top=top, seeds=seeds, test=test, callbacks=[display, publisher]
        )
    if outcome.confirmation is not None:
        publisher.publish(outcome.record.name)  # the search's note tells of the confirmation
    if outcome.confirmation is None:
        typer.echo(outcome.message, err=True)
    elif as_json:
        typer.echo(json.dumps({"event": "confirmation", **outcome.stored}))
    elif not quiet:
        typer.echo("\n".join(confirmation_lines(outcome.confirmation, outcome.record)))
    raise typer.Exit(outcome.exit_status)


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
    allow: Allow = None,
    as_json: Json = False,
) -> None:
    """Classify picture files with a study's best model."""
    from hpsearch.results.display import plain
    from hpsearch.results.models import load_best_model
    from hpsearch.results.predict import predict as predict_files
    from hpsearch.results.predict import prediction_lines

    is_study_file = study.endswith(".toml")
    sys.path[:0] = import_paths(study if is_study_file else None)
    name = (study_name(study) or study) if is_study_file else study
    url = storage_url(storage, storage_file, run_folder)
    model = load_best_model(name, url, allowed_modules(study, allow), run_folder)
    found = predict_files(model, pictures, top)
    typer.echo(json.dumps([plain(one) for one in found]) if as_json else "\n".join(prediction_lines(found)))
    if any(one.error for one in found):
        raise typer.Exit(1)
