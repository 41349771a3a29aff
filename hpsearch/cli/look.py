"""The commands that look at studies: status, best, list, dashboard."""

import json
from pathlib import Path
from typing import Annotated

import typer

from hpsearch.cli.options import (
    Json,
    OptionalStudy,
    RunFolderOption,
    Storage,
    StorageFile,
    app,
    storage_url,
    study_name,
)


@app.command()
def status(
    study: OptionalStudy = None,
    storage: Storage = None,
    storage_file: StorageFile = None,
    run_folder: RunFolderOption = Path("runs"),
    as_json: Json = False,
) -> None:
    """Show a study's counts, its drivers and their workers."""
    from hpsearch.results.display import plain
    from hpsearch.results.looks import status_lines
    from hpsearch.results.status import study_status
    from hpsearch.results.tables import open_study

    url = storage_url(storage, storage_file, run_folder)
    name = study_name(study) or open_study(None, url).study_name
    found = study_status(name, url, run_folder)
    typer.echo(json.dumps(plain(found)) if as_json else "\n".join(status_lines(found)))


@app.command()
def best(
    study: OptionalStudy = None,
    storage: Storage = None,
    storage_file: StorageFile = None,
    run_folder: RunFolderOption = Path("runs"),
    as_json: Json = False,
) -> None:
    """Show the best trial: hyperparameters, score and weights."""
    from hpsearch.results.display import plain
    from hpsearch.results.looks import best_lines
    from hpsearch.results.tables import best_trial, metric_name, open_study

    opened = open_study(study_name(study), storage_url(storage, storage_file, run_folder))
    found = best_trial(opened)
    if found is None:
        typer.echo(f'study "{opened.study_name}" has no COMPLETE trial yet', err=True)
        raise typer.Exit(1)
    lines = best_lines(opened.study_name, metric_name(opened), found)
    typer.echo(json.dumps(plain(found)) if as_json else "\n".join(lines))


@app.command()
def dashboard(
    storage: Storage = None,
    storage_file: StorageFile = None,
    run_folder: RunFolderOption = Path("runs"),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8080,
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Serve optuna-dashboard on all studies, also while they run."""
    from hpsearch.results.dashboard import Dashboard

    served = Dashboard(storage_url(storage, storage_file, run_folder), run_folder, host, port)
    typer.echo(f"dashboard at {served.address} (Ctrl-C ends it)")
    served.serve(open_browser)


@app.command("list")
def list_command(
    storage: Storage = None,
    storage_file: StorageFile = None,
    run_folder: RunFolderOption = Path("runs"),
    as_json: Json = False,
) -> None:
    """List all studies with their counts, best, age and size."""
    from hpsearch.results.display import plain
    from hpsearch.results.listing import list_studies
    from hpsearch.results.looks import list_lines

    rows = list_studies(storage_url(storage, storage_file, run_folder), run_folder)
    typer.echo(json.dumps(plain(rows)) if as_json else "\n".join(list_lines(rows)))
