"""What the commands share: the application, common flags, and what STUDY and the storage flags mean."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpsearch.errors import UserError

if TYPE_CHECKING:
    from hpsearch.results.terminal.progress import Repeat
    from hpsearch.study.specification import StudySpec

app = typer.Typer(
    name="hpsearch",
    help="Searches the hyperparameters of PyTorch image models: one study file in, a finished search in a "
    "database out.\n\nBegin with: hpsearch run studies/digits.toml",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
)

StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="A study's name, or its study file.")]
OptionalStudy = Annotated[
    str | None,
    typer.Argument(metavar="[STUDY]", help="A study's name or file; may be left out if there is one."),
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage", metavar="URL", help="Database URL, or a path ending in .db [env: HPSEARCH_STORAGE]"
    ),
]
StorageFile = Annotated[
    Path | None,
    typer.Option(
        "--storage-file",
        metavar="FILE",
        help="File with the URL, which hides it [env: HPSEARCH_STORAGE_FILE]",
    ),
]
RunFolderOption = Annotated[
    Path,
    typer.Option(
        "--run-folder", envvar="HPSEARCH_RUNS", help="Folder of checkpoints, weights and the database."
    ),
]
DataRoot = Annotated[
    str | None,
    typer.Option("--data-root", envvar="HPSEARCH_DATA", help="Folder of the data; overrides data.root."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Gpus = Annotated[str, typer.Option("--gpus", help="auto, all, none, or a list such as 0,2.")]
WorkerCount = Annotated[int | None, typer.Option("--workers", min=1, help="Number of workers.")]
WorkersPerGpu = Annotated[int, typer.Option("--workers-per-gpu", min=1, help="Workers that share a GPU.")]
Share = Annotated[
    str,
    typer.Option("--share", help="How workers share a GPU: time (in turns) or nvidia-mps (at once)."),
]
ExecutorName = Annotated[
    str,
    typer.Option(
        "--executor",
        metavar="NAME",
        help="What runs the workers: local, or one that a package of yours adds.",
    ),
]
GpusPerTrial = Annotated[
    int, typer.Option("--gpus-per-trial", min=1, help="GPUs for each trial of your own loop.")
]
Allow = Annotated[
    list[str] | None,
    typer.Option("--allow", metavar="MODULE", help="Module that a stored study may name; repeatable."),
]
StorageTimeout = Annotated[
    float, typer.Option("--storage-timeout", min=0, help="Seconds that the database may be away.")
]
LeaseSeconds = Annotated[
    float,
    typer.Option(
        "--lease-seconds", min=1, help="Seconds after which a silent driver's trials are taken over."
    ),
]
Search = Annotated[
    bool, typer.Option("--search", help="What the search alone would pick, whatever `confirm` has found.")
]
Test = Annotated[bool, typer.Option("--test/--no-test", help="Open the test part, or leave it closed.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]
JsonEvents = Annotated[bool, typer.Option("--json", help="Print one JSON object per event.")]


def storage_url(option: str | None, file: Path | None, run_folder: Path) -> str:
    """Returns the storage URL: of the flags, else of the environment, else the database in the run folder.

    Raises:
        StorageError: both flags, or a file that cannot be read.
    """
    named = option or file or os.environ.get("HPSEARCH_STORAGE") or os.environ.get("HPSEARCH_STORAGE_FILE")
    if not named:
        return f"sqlite:///{run_folder / 'hpsearch.db'}"
    from hpsearch.store.connection import read_storage_url

    return read_storage_url(option, file, os.environ)


def is_study_file(study: str) -> bool:
    """Says whether a STUDY argument means a file rather than a name, which may have a slash in Optuna."""
    return study.endswith(".toml") or (os.sep in study and Path(study).is_file())


def given_study(study: str | None) -> "StudySpec | None":
    """Returns what a study file says, if the argument means one."""
    if study is None or not is_study_file(study):
        return None
    from hpsearch.study.file import load_study_file

    return load_study_file(study)


def study_name(study: str | None) -> str | None:
    """Returns the name that an argument means: a study file is opened for its name."""
    given = given_study(study)
    return study if given is None else given.study.name


def allowed(given: "StudySpec | None", allow: list[str] | None) -> tuple[str, ...]:
    """Returns what may be imported by name: what this machine's own study file names, and what --allow does.

    Raises:
        UserError: --allow gives something that is not the name of a module.
    """
    for name in allow or ():
        if not all(part.isidentifier() for part in name.replace(":", ".").split(".")):
            raise UserError(f'--allow: "{name}" is not the name of a module; write it as in my_package.nets')
    return tuple(dict.fromkeys([*(given.objects() if given is not None else ()), *(allow or ())]))


def import_paths(study: str | None) -> tuple[str, ...]:
    """Returns the folders of a study's own modules: that of its file."""
    return (str(Path(study).absolute().parent),) if study is not None and is_study_file(study) else ()


def repeat(storage: str | None, storage_file: Path | None, run_folder: Path) -> "Repeat":
    """Returns how the commands must be written that the running one proposes; never with a password."""
    from hpsearch.results.terminal.progress import Repeat

    flags: list[str] = []
    if storage is not None:
        flags += ["--storage", storage]
    if storage_file is not None:
        flags += ["--storage-file", str(storage_file)]
    if run_folder != Path("runs") and "HPSEARCH_RUNS" not in os.environ:
        flags += ["--run-folder", str(run_folder)]
    command = shlex.join(["hpsearch", *map(_safe, sys.argv[1:])])
    return Repeat("".join(f" {shlex.quote(_safe(flag))}" for flag in flags), command)


def _safe(argument: str) -> str:
    if "://" not in argument:
        return argument
    from hpsearch.store.connection import redact

    return redact(argument)
