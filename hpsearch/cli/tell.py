"""The commands that tell what came of studies: report, compare."""

from pathlib import Path
from typing import Annotated

import typer

from hpsearch.cli.options import (
    OptionalStudy,
    RunFolderOption,
    Search,
    Storage,
    StorageFile,
    app,
    storage_url,
    study_name,
)
from hpsearch.errors import UserError
from hpsearch.text import say


@app.command()
def report(
    study: OptionalStudy = None,
    storage: Storage = None,
    storage_file: StorageFile = None,
    run_folder: RunFolderOption = Path("runs"),
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File; by default report.html in the study's folder."),
    ] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Write Markdown instead of HTML.")] = False,
    png: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw the graphs as PNG files into this folder too.")
    ] = None,
    search: Search = False,
) -> None:
    """Write a report: best, ranking, graphs, importance, cost."""
    from hpsearch.results.report import build_report, write_report
    from hpsearch.results.stored.listing import makes_folder
    from hpsearch.results.stored.reading import reading_study

    url = storage_url(storage, storage_file, run_folder)
    with reading_study(study_name(study), url) as opened:
        name = opened.name
    if out is None and not makes_folder(name):
        raise UserError(
            f'study "{name}" has no folder of its own, as its name would lead elsewhere; give --out FILE'
        )
    default = run_folder / name / f"report{'.md' if as_markdown else '.html'}"
    for path in write_report(build_report(name, url, search), out or default, as_markdown, png):
        say(path)


@app.command()
def compare(
    studies: Annotated[list[str], typer.Argument(metavar="STUDY STUDY ...", help="Names or study files.")],
    storage: Storage = None,
    storage_file: StorageFile = None,
    run_folder: RunFolderOption = Path("runs"),
    page_file: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with the curves too.")
    ] = None,
    search: Search = False,
) -> None:
    """Compare studies: their best, and what it took."""
    from hpsearch.results.report.compare import comparison, comparison_lines, read_studies

    url = storage_url(storage, storage_file, run_folder)
    records = read_studies([study_name(study) or study for study in studies], url, search)
    say(*comparison_lines(records))
    if page_file is not None:
        from hpsearch.results.report import write_text
        from hpsearch.results.report.page import page

        write_text(page(comparison(records)), page_file)
        say("", page_file)
