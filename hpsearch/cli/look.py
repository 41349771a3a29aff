"""The commands that show what there is: status, best, list, report, compare, dashboard."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from hpsearch.cli.options import (
    Allow,
    DataRoot,
    Gpus,
    Json,
    OptionalStudy,
    Price,
    Search,
    StorageFlags,
    Test,
    allowed,
    command,
    import_paths,
    modules,
    named,
    study_name,
)
from hpsearch.errors import UserError
from hpsearch.text import plain, say


@command()
def status(
    study: OptionalStudy = None,
    store: StorageFlags = StorageFlags(),
    price_per_hour: Price = None,
    as_json: Json = False,
) -> None:
    """Show a study's counts, its drivers and their workers."""
    from hpsearch.results.stored.status import study_status
    from hpsearch.results.terminal.lines import status_lines

    found = study_status(study_name(study), store.url(), store.run_folder)
    if as_json:
        typer.echo(json.dumps(plain(found)))
    else:
        say(*status_lines(found, price_per_hour))


@command()
def best(
    study: OptionalStudy = None,
    store: StorageFlags = StorageFlags(),
    as_json: Json = False,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="DIR", help="Write the model and model.json there.")
    ] = None,
    torch_export: Annotated[
        bool,
        typer.Option("--torch-export", help="With --save: also export a program that runs without hpsearch."),
    ] = False,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="With --save: also export to ONNX, which runs without PyTorch.")
    ] = False,
    search: Search = False,
    trial: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="Use this COMPLETE trial, such as one on the front of several goals."
        ),
    ] = None,
    ensemble: Annotated[
        int | None,
        typer.Option(min=2, metavar="N", help="Join up to N kept models: the mean of their answers."),
    ] = None,
    average: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="N",
            help="Join up to N models that started from the same weights: the mean of theirs.",
        ),
    ] = None,
    test: Test = True,
    data_root: DataRoot = None,
    gpus: Gpus = "auto",
    allow: Allow = None,
) -> None:
    """Show the best trial: hyperparameters, score and weights."""
    if trial is not None and (search or ensemble is not None or average is not None):
        raise UserError("--trial: cannot be combined with --search, --ensemble or --average; leave one out")
    if (torch_export or onnx) and save is None:
        flag = "--torch-export" if torch_export else "--onnx"
        raise UserError(f"{flag}: give --save DIR, where the program is written")
    if ensemble is not None or average is not None:
        if (ensemble is not None and average is not None) or torch_export or onnx or as_json or search:
            raise UserError(
                "--ensemble, --average: give one of them, without --torch-export, --onnx, --json or --search"
            )
        from hpsearch.results.commands import api
        from hpsearch.results.commands.models import save_joined
        from hpsearch.results.confirm.ensemble import joined_lines

        joined = api.join(
            study,
            ensemble=ensemble,
            average=average,
            test=test,
            gpus=gpus,
            storage=store.url(),
            run_folder=store.run_folder,
            data_root=data_root,
            allow=modules(allow),
        )
        say(*joined_lines(joined))
        for path in [] if save is None else save_joined(joined, save):
            say(f"saved {path}")
        return
    from hpsearch.results.stored.best import best_trial
    from hpsearch.results.stored.reading import reading_study
    from hpsearch.results.terminal.lines import best_lines

    wanted, given = named(study)
    url = store.url()
    # What is only shown may be another study of that name; what is loaded may not.
    with reading_study(wanted, url, given if save is not None else None) as opened:
        name, metric, found = opened.name, opened.metric, best_trial(opened, store.run_folder, search, trial)
    if found is None:
        say(f'study "{name}" has no COMPLETE trial yet', err=True)
        raise typer.Exit(1)
    if as_json:
        typer.echo(json.dumps(plain(found)))
    else:
        say(*best_lines(name, metric, found))
    if save is not None:
        from hpsearch.results.commands.models import save_best
        from hpsearch.training.imports import look_in

        names = allowed(given, allow)
        look_in(import_paths(study), names)
        files = save_best(
            name,
            url,
            save,
            store.run_folder,
            export=torch_export,
            onnx=onnx,
            allow=names,
            search=search,
            trial=trial,
        )
        for path in files:
            say(f"saved {path}", err=as_json)


@command("list")
def list_command(
    store: StorageFlags = StorageFlags(),
    as_json: Json = False,
) -> None:
    """List all studies with their counts, best, age and size."""
    from hpsearch.results.stored.listing import list_studies
    from hpsearch.results.terminal.lines import list_lines

    rows = list_studies(store.url(), store.run_folder)
    if as_json:
        typer.echo(json.dumps(plain(rows)))
    else:
        say(*list_lines(rows))


@command()
def report(
    study: OptionalStudy = None,
    store: StorageFlags = StorageFlags(),
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File to write; by default report.html in the study's folder.",
        ),
    ] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Write Markdown instead of HTML.")] = False,
    png: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw the graphs as PNG files into this folder too.")
    ] = None,
    search: Search = False,
    price_per_hour: Price = None,
) -> None:
    """Write a report: best, ranking, graphs, importance, cost."""
    from hpsearch.results.commands import api

    url = store.url()
    for path in api.report(
        study,
        output,
        markdown=as_markdown,
        png=png,
        storage=url,
        run_folder=store.run_folder,
        search=search,
        price_per_hour=price_per_hour,
    ):
        say(path)


@command()
def compare(
    studies: Annotated[list[str], typer.Argument(metavar="STUDY", help="Two or more names or study files.")],
    store: StorageFlags = StorageFlags(),
    page_file: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with the curves too.")
    ] = None,
    search: Search = False,
) -> None:
    """Compare studies: their best trials and their cost."""
    from hpsearch.results.report.compare import comparison, comparison_lines, read_studies

    url = store.url()
    records = read_studies([study_name(study) or study for study in studies], url, search)
    say(*comparison_lines(records))
    if page_file is not None:
        from hpsearch.files.atomic import write_output
        from hpsearch.results.report.page import page

        write_output(page_file, page(comparison(records)).encode(), "--html")
        say("", page_file)


@command()
def dashboard(
    store: StorageFlags = StorageFlags(),
    host: Annotated[
        str,
        typer.Option(metavar="HOST", help="Address to listen on; any but a loopback address needs --auth."),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", help="Port; 0 takes a free one.")
    ] = 8080,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the dashboard in the browser.")] = False,
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse every change.")] = False,
    auth: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File of the users who may log in.")
    ] = None,
    add_user: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Add a user, or change a password, in the file of --auth, and exit."
        ),
    ] = None,
    remove_user: Annotated[
        str | None, typer.Option(metavar="NAME", help="Remove a user from the file of --auth, and exit.")
    ] = None,
    proxy: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Address of the TLS proxy in front, whose X-Forwarded headers are trusted.",
        ),
    ] = None,
) -> None:
    """Serve optuna-dashboard for all studies, even while they run."""
    if add_user is not None:
        from hpsearch.results.dashboard import accounts

        say(accounts.add_user_with_prompt(auth, add_user, sys.stdin))
        return
    if remove_user is not None:
        from hpsearch.results.dashboard import accounts

        say(accounts.remove_user(auth, remove_user))
        return
    from hpsearch.results.dashboard.serve import Access, Dashboard

    access = Access(host=host, port=port, auth=auth, proxy=proxy, read_only=read_only)
    served = Dashboard(store.url(), store.run_folder, access)
    for warning in served.warnings:
        say(f"warning: {warning}", err=True)
    served.serve(open_browser, ready=lambda: say(f"dashboard at {served.address} (Ctrl-C ends it)"))
