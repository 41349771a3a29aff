"""The commands that make use of what was found: predict, export."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from hpsearch.cli.options import (
    Allow,
    Json,
    OptionalStudy,
    Search,
    StorageFlags,
    allowed,
    command,
    import_paths,
    named,
    study_name,
)
from hpsearch.errors import UserError
from hpsearch.text import counted, plain, say


@command()
def predict(
    study: Annotated[
        str,
        typer.Argument(
            metavar="STUDY", help="A study, a folder that `best --save` wrote, or a .safetensors file."
        ),
    ],
    pictures: Annotated[
        list[str], typer.Argument(metavar="PICTURE", help="Picture files, or folders of them.")
    ],
    store: StorageFlags = StorageFlags(),
    top: Annotated[int, typer.Option(min=1, metavar="N", help="Classes shown for each picture.")] = 5,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="P", help="Probability from which a picture gets a label, where it may have several."
        ),
    ] = None,
    prepare: Annotated[
        str | None,
        typer.Option(
            metavar="FUNCTION",
            help="Function that prepares a picture of your own data, such as my_data:prepare.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the table to a .csv or .json file."),
    ] = None,
    search: Search = False,
    allow: Allow = None,
    as_json: Json = False,
) -> None:
    """Classify picture files with a study's best model.

    Each picture that can be read gets an answer; the others get an error in the output and are named on stderr. The
    exit status is 0 if all were read, 1 if any was not, and 2 if nothing could begin, for example after a wrong option.
    """
    from hpsearch.results.commands.models import load_best_model
    from hpsearch.results.commands.predict import (
        choose_encoder,
        pictures_in,
        predict_files,
        prediction_lines,
        unread_lines,
        write_predictions,
    )
    from hpsearch.results.stored.reading import reading_study
    from hpsearch.training.imports import look_in

    if output is not None:
        choose_encoder(output)  # before the pictures are judged
    # A file of weights is not a study file, though it may be written with a slash as well.
    file = study if study.endswith(".toml") else None
    (_, given), url = named(file), store.url()
    if given is not None:
        with reading_study(given.study.name, url, given):
            pass
    names = allowed(given, allow)
    look_in(import_paths(file), [*names, *filter(None, [prepare])])
    model = load_best_model(
        study if given is None else given.study.name, url, names, search, store.run_folder
    )
    if answer := model.metadata.get("answer"):
        say(f"{model.metadata['study']}: {answer}", err=True)
    found = predict_files(model, pictures_in(pictures), top, prepare, threshold)
    if output is not None:
        write_predictions(found, output)
        say(f"wrote {output}: {counted(len(found), 'picture')}")
    elif as_json:
        typer.echo(json.dumps([plain(one) for one in found]))
    else:
        say(*prediction_lines(found, top))
    if unread := unread_lines(found):
        say(*unread, err=True)
        raise typer.Exit(1)


@command()
def export(
    study: OptionalStudy = None,
    store: StorageFlags = StorageFlags(),
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="File to write; stdout by default.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="FORMAT", help="csv, parquet or json; by default what the file's suffix says."
        ),
    ] = None,
    epochs: Annotated[bool, typer.Option("--epochs", help="One row per epoch, not per trial.")] = False,
    whole: Annotated[
        bool, typer.Option("--whole", help="Everything as one JSON: attributes, trials, epochs.")
    ] = False,
) -> None:
    """Write the trials, or their epochs, as CSV, Parquet or JSON."""
    from hpsearch.files.atomic import write_output
    from hpsearch.results.commands.export import choose_format, encode
    from hpsearch.results.stored.document import encode_study, whole_study
    from hpsearch.results.stored.frames import epochs_frame, trials_frame
    from hpsearch.results.stored.reading import reading_study

    chosen = "json" if whole and kind is None and output is None else choose_format(kind, output)
    if whole and (epochs or chosen != "json"):
        other = "--epochs" if epochs else f"the format {chosen}"
        raise UserError(
            f"--whole: a whole study is one JSON file, which cannot be combined with {other}; leave that out"
        )
    with reading_study(study_name(study), store.url()) as opened:
        if whole:
            content = encode_study(whole_study(opened))
        else:
            content = encode(
                epochs_frame(opened) if epochs else trials_frame(opened, store.run_folder), chosen
            )
    if output is not None:
        write_output(output, content, "--output")
    elif chosen == "parquet" and sys.stdout.isatty():
        raise UserError("--format parquet: a terminal cannot show it; give --output FILE")
    elif sys.stdout.isatty():  # a program reads what is true, a person what is harmless
        say(*content.decode().split("\n")[:-1])
    else:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
