"""What the commands share: the application, common flags, and what STUDY and the storage flags mean."""

import os
import shlex
import sys
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from hpsearch.errors import UserError
from hpsearch.text import carry
from hpsearch.version import __version__

if TYPE_CHECKING:
    from hpsearch.contracts.places import Cluster
    from hpsearch.results.terminal.display import Display
    from hpsearch.study.specification import StudySpec

GROUPS = ("start", "run", "look", "use", "manage")
"""The modules of the commands, in the order in which `--help` lists them."""

ALIASES = {"--out": "--output", "--n-trials": "--trials", "--n-jobs": "--workers", "--study": "--whole"}
"""Names that other programs, or older versions, have for options; understood, but not shown."""


class _Groups(TyperGroup):
    """Lists the commands in groups."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, self.commands))
        for group in GROUPS:
            found = [
                (name.ljust(width), command.get_short_help_str(formatter.width))
                for name, command in self.commands.items()
                if getattr(command.callback, "__module__", "").endswith(f".{group}")
            ]
            with formatter.section(group.capitalize()):
                formatter.write_dl(found)


class _Command(TyperCommand):
    """Writes its arguments plainly: STUDY, or [STUDY] where it may be left out."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [
            piece.translate({ord("{"): None, ord("}"): None}) for piece in super().collect_usage_pieces(ctx)
        ]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hpsearch {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="hpsearch",
    cls=_Groups,
    help="Searches the hyperparameters of PyTorch image models: one study file in, a finished search in a "
    "database out.\n\nBegin with: hpsearch run studies/digits.toml",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
)


_TAKEN: dict[str, set[str]] = {}
"""The parameters of each command."""


def _carried(given: Mapping[str, Any], takes: Container[str]) -> str:
    """Returns what a command has to be given too where it is proposed by the one that runs; never a password.

    Args:
        given: to the one that runs.
        takes: the parameters of the other.
    """
    known = {
        "run_folder": os.environ.get("HPSEARCH_RUNS") or "runs",
        "data_root": os.environ.get("HPSEARCH_DATA"),
    }
    flags: list[str] = []
    for name in ("storage", "storage_file", "run_folder", "data_root", "allow"):
        value = given.get(name)
        if name not in takes or not value or str(value) == known.get(name):
            continue
        for one in value if isinstance(value, list) else [value]:
            flags += [f"--{name.replace('_', '-')}", _safe(str(one))]
    return "".join(f" {shlex.quote(flag)}" for flag in flags)


def command(name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Enters a command; of a group such as `StorageFlags` each field is a flag of its own."""

    def enter(function: Callable[..., None]) -> Callable[..., None]:
        parameters = signature(function, eval_str=True).parameters.values()
        kinds: dict[str, Any] = {one.name: one.annotation for one in parameters}
        groups: dict[str, Any] = {name: kind for name, kind in kinds.items() if is_dataclass(kind)}

        @wraps(function)
        def grouped(**given: Any) -> None:
            study = str(given.get("study") or "")
            flags = {verb: _carried(given, takes) for verb, takes in _TAKEN.items()}
            carry(flags, study if study.endswith(".toml") else "")
            for group, kind in groups.items():
                given[group] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
            function(**given)

        shown = [
            flag.replace(kind=Parameter.KEYWORD_ONLY)
            for one in parameters
            for flag in (signature(groups[one.name]).parameters.values() if one.name in groups else [one])
        ]
        _TAKEN[name or function.__name__] = {flag.name for flag in shown}
        grouped.__signature__ = Signature(shown)  # type: ignore[attr-defined] # what typer reads
        app.command(name, cls=_Command)(grouped)
        return function

    return enter


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="A study's name, or its study file.")]
OptionalStudy = Annotated[
    str | None,
    typer.Argument(metavar="STUDY", help="A study's name or file; optional if there is only one."),
]
RunFolderOption = Annotated[
    Path,
    typer.Option(
        "--run-folder",
        metavar="DIR",
        envvar="HPSEARCH_RUNS",
        help="Folder of checkpoints, weights and the database.",
    ),
]


@dataclass(frozen=True, slots=True)
class StorageFlags:
    """Where studies lie."""

    storage: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Database URL, or a path ending in .db [env var: HPSEARCH_STORAGE]"),
    ] = None
    storage_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File that holds the URL; keeps its password out of `ps` [env var: HPSEARCH_STORAGE_FILE]",
        ),
    ] = None
    run_folder: RunFolderOption = Path("runs")

    def url(self) -> str:
        """Returns the storage URL: of the flags, else of the environment, else the database in the run folder.

        Raises:
            StorageError: both flags, or a file that cannot be read.
        """
        from hpsearch.store.url import database_in, read_storage_url

        return read_storage_url(self.storage, self.storage_file, os.environ, database_in(self.run_folder))


@dataclass(frozen=True, slots=True)
class ExecutorFlags:
    """What runs the workers, and how workers elsewhere find their driver."""

    executor: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What runs the workers: local, slurm, ray, dial (you start them by hand), or one that an installed "
            "package adds.",
        ),
    ] = "local"
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST[:PORT]", help="Address of this machine that workers elsewhere can reach."),
    ] = None
    tls: Annotated[bool, typer.Option("--tls", help="Encrypt the connection to workers elsewhere.")] = False
    partition: Annotated[str | None, typer.Option(metavar="NAME", help="Slurm partition.")] = None
    slurm: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Parameter of sbatch, such as time=2:00:00; repeatable."),
    ] = None
    address: Annotated[str, typer.Option(metavar="ADDRESS", help="Address of the Ray cluster.")] = "auto"

    def cluster(self) -> "Cluster":
        """Returns what the flags say of workers elsewhere."""
        from hpsearch.contracts.places import Cluster

        return Cluster(self.listen or "", self.partition, tuple(self.slurm or ()), self.address, self.tls)


@dataclass(frozen=True, slots=True)
class DriverFlags:
    """How long a driver is patient with the database and others with it, and how it shows its run."""

    storage_timeout: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Time that the database may be unreachable.")
    ] = 600.0
    lease_seconds: Annotated[
        float,
        typer.Option(
            min=1, metavar="SECONDS", help="Time after which an unresponsive driver's trials are taken over."
        ),
    ] = 60.0
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per event.")] = False

    def display(self, storage: str = "") -> "Display":
        """Returns what shows the run; see `choose_display`."""
        from hpsearch.results.terminal.display import choose_display

        return choose_display(quiet=self.quiet, as_json=self.as_json, again=typed(), storage=storage)


DataRoot = Annotated[
    str | None,
    typer.Option(
        "--data-root", metavar="DIR", envvar="HPSEARCH_DATA", help="Folder of the data; overrides data.root."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Gpus = Annotated[
    str, typer.Option("--gpus", metavar="LIST", help="GPUs to use: auto, all, none, or a list such as 0,2.")
]
WorkerCount = Annotated[
    int | None,
    typer.Option("--workers", "--jobs", min=1, metavar="N", help="Number of workers; on Slurm, of jobs."),
]
Allow = Annotated[
    list[str] | None,
    typer.Option("--allow", metavar="MODULE", help="Module that a stored study may name; repeatable."),
]
Search = Annotated[
    bool, typer.Option("--search", help="Use the best trial of the search, whatever `confirm` found.")
]
Test = Annotated[bool, typer.Option("--test/--no-test", help="Whether the test data may be used.")]
Price = Annotated[
    float | None,
    typer.Option("--price-per-hour", min=0, metavar="MONEY", help="Price per device hour, to show the cost."),
]


@dataclass(frozen=True, slots=True)
class WorkerFlags:
    """How many workers there are, and which GPUs they have."""

    gpus: Gpus = "auto"
    workers: WorkerCount = None
    workers_per_gpu: Annotated[
        int, typer.Option("--workers-per-gpu", min=1, metavar="N", help="Workers that share a GPU.")
    ] = 1
    gpus_per_trial: Annotated[
        int,
        typer.Option("--gpus-per-trial", min=1, metavar="N", help="GPUs for each trial of your own loop."),
    ] = 1
    share: Annotated[
        str,
        typer.Option(
            "--share", metavar="HOW", help="How workers share a GPU: time (in turns) or nvidia-mps (at once)."
        ),
    ] = "time"


def typed() -> str:
    """Returns the running command as it was typed, without a password."""
    return shlex.join(["hpsearch", *map(_safe, sys.argv[1:])])


def named(study: str | None) -> "tuple[str | None, StudySpec | None]":
    """Returns the name that an argument means, and what its study file says, if it means one."""
    if study is None or not ("." in study or os.sep in study):  # a plain name needs no look
        return study, None
    from hpsearch.study.file import named as look

    return look(study)


def study_name(study: str | None) -> str | None:
    """Returns the name that an argument means: a study file is opened for its name."""
    return named(study)[0]


def allowed(given: "StudySpec | None", allow: list[str] | None) -> tuple[str, ...]:
    """Returns what may be imported by name: what this machine's own study file names, and what --allow does.

    Raises:
        UserError: --allow gives something that is not the name of a module.
    """
    return tuple(dict.fromkeys([*(given.objects() if given is not None else ()), *modules(allow)]))


def modules(allow: list[str] | None) -> tuple[str, ...]:
    """Returns the names that --allow gives.

    Raises:
        UserError: one is not the name of a module.
    """
    from hpsearch.results.commands.arguments import is_module

    for name in allow or ():
        if not is_module(name):
            raise UserError(f'--allow: "{name}" is not the name of a module; write it like my_package.nets')
    return tuple(allow or ())


def import_paths(study: str | None) -> tuple[str, ...]:
    """Returns the folders of a study's own modules: that of its file."""
    from hpsearch.study.file import is_study_file

    return (str(Path(study).absolute().parent),) if study is not None and is_study_file(study) else ()


def _safe(argument: str) -> str:
    if "://" not in argument:
        return argument
    from hpsearch.store.url import redact

    return redact(argument)
