"""The commands that lead to a study: init, auto, import, schema."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from hpsearch.cli.options import (
    Gpus,
    RunFolderOption,
    StorageFlags,
    StudyArgument,
    WorkerCount,
    command,
    typed,
)
from hpsearch.text import say

Folder = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER", help="Folder of photographs: a folder for each class, or a CSV of labels."
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The study file to write.")]

Seed = Annotated[
    int | None,
    typer.Option(
        min=0, max=2**32 - 1, metavar="N", help="Seed of the study; another one draws other trials."
    ),
]


@command()
def init(
    folder: Folder,
    minutes: Annotated[float, typer.Option(metavar="N", help="Minutes that the search may take.")] = 30.0,
    output: Output = Path("study.toml"),
    workers: WorkerCount = None,
    seed: Seed = None,
    run_folder: RunFolderOption = Path("runs"),
) -> None:
    """Write a study file for a folder of photographs."""
    from hpsearch.results.commands.auto import write_study
    from hpsearch.results.commands.proposal import summary_lines

    say(*summary_lines(write_study(folder, minutes, output, run_folder, workers, seed=seed or 0), output))


@command()
def auto(
    folder: Folder,
    minutes: Annotated[float, typer.Option(metavar="N", help="Minutes for everything together.")] = 30.0,
    output: Output = Path("study.toml"),
    save: Annotated[Path, typer.Option("--save", metavar="DIR", help="Folder to write the model to.")] = Path(
        "model"
    ),
    workers: WorkerCount = None,
    gpus: Gpus = "auto",
    seed: Seed = None,
    store: StorageFlags = StorageFlags(),
) -> None:
    """Make a model from a folder of photographs: all steps in one."""
    from hpsearch.results.commands.auto import Auto

    url = store.url()
    made = Auto(folder, minutes, output, save, url, store.run_folder, workers, gpus, seed, typed())
    raise typer.Exit(made.make())


@command("import")
def import_command(
    source: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Study that the trials come from: hpsearch's or Optuna's own."),
    ],
    study: StudyArgument,
    origin: Annotated[
        str | None,
        typer.Option("--from", metavar="URL", help="Database of that study; by default --storage."),
    ] = None,
    store: StorageFlags = StorageFlags(),
) -> None:
    """Take another study's trials into a study, as its past."""
    from hpsearch.results.commands import api
    from hpsearch.results.commands.imports import import_lines

    url = store.url()
    done = api.import_trials(source, study, origin=origin, storage=url, run_folder=store.run_folder)
    say(*import_lines(done, study))


@command()
def schema() -> None:
    """Print the study file's JSON schema, for editors to check it."""
    from hpsearch.study.schema import schema_text

    sys.stdout.write(schema_text())
