"""The commands that write and remove files: export, delete."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from hpsearch.cli.options import (
    OptionalStudy,
    RunFolderOption,
    Storage,
    StorageFile,
    StudyArgument,
    app,
    storage_url,
    study_name,
)
from hpsearch.errors import UserError
from hpsearch.text import one_line, say


@app.command()
def export(
    study: OptionalStudy = None,
    storage: Storage = None,
    storage_file: StorageFile = None,
    run_folder: RunFolderOption = Path("runs"),
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File; without it, stdout.")] = None,
    kind: Annotated[
        str | None, typer.Option("--format", help="csv, parquet or json; by default the suffix.")
    ] = None,
    epochs: Annotated[bool, typer.Option("--epochs", help="One row per epoch, not per trial.")] = False,
    whole: Annotated[
        bool, typer.Option("--study", help="The whole study as one JSON: attributes, trials, epochs.")
    ] = False,
) -> None:
    """Write the trials, or their epochs, as CSV, Parquet or JSON."""
    from hpsearch.results.commands.export import choose_format, encode, write
    from hpsearch.results.stored.document import encode_study, whole_study
    from hpsearch.results.stored.frames import epochs_frame, trials_frame
    from hpsearch.results.stored.reading import reading_study

    chosen = "json" if whole and kind is None and output is None else choose_format(kind, output)
    if whole and (epochs or chosen != "json"):
        other = "--epochs" if epochs else f"the format {chosen}"
        raise UserError(
            f"--study: a whole study is one JSON file, which {other} does not go with; leave that out"
        )
    with reading_study(study_name(study), storage_url(storage, storage_file, run_folder)) as opened:
        if whole:
            content = encode_study(whole_study(opened))
        else:
            content = encode(epochs_frame(opened) if epochs else trials_frame(opened, run_folder), chosen)
    if output is not None:
        write(content, output)
    elif chosen == "parquet" and sys.stdout.isatty():
        raise UserError("--format parquet: a terminal cannot show it; give --output FILE")
    elif sys.stdout.isatty():  # a program reads what is true, a person what is harmless
        say(*content.decode().split("\n")[:-1])
    else:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()


@app.command()
def delete(
    study: StudyArgument,
    storage: Storage = None,
    storage_file: StorageFile = None,
    run_folder: RunFolderOption = Path("runs"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a study with its confirmation, weights and artifacts."""
    from hpsearch.results.commands.delete import delete_study, deletion_text, deletion_warnings, plan_deletion

    url = storage_url(storage, storage_file, run_folder)
    deletion = plan_deletion(study_name(study) or study, url, run_folder)
    for warning in deletion_warnings(deletion):
        say(f"warning: {warning}", err=True)
    if not yes and not typer.confirm(one_line(f"Delete {deletion_text(deletion)}?")):
        raise typer.Exit(1)
    delete_study(deletion, url)
    say(f"deleted {deletion_text(deletion)}")
