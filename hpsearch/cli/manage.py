"""The commands that stop and remove studies: stop, delete."""

from typing import Annotated

import typer

from hpsearch.cli.options import (
    StorageFlags,
    StudyArgument,
    command,
    study_name,
)
from hpsearch.text import counted, one_line, say


@command()
def stop(
    study: StudyArgument,
    store: StorageFlags = StorageFlags(),
) -> None:
    """Stop a study gracefully, on all machines."""
    from hpsearch.results.stored.status import request_stop

    name = study_name(study) or study
    count = request_stop(name, store.url(), store.run_folder)
    if count == 0:
        say(f'study "{name}" is not running')
    else:
        say(f'asked {counted(count, "driver")} of "{name}" to stop; running trials are checkpointed')


@command()
def delete(
    study: StudyArgument,
    store: StorageFlags = StorageFlags(),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete a study with its confirmation, weights and artifacts."""
    from hpsearch.results.commands.delete import delete_study, deletion_text, deletion_warnings, plan_deletion

    url = store.url()
    deletion = plan_deletion(study_name(study) or study, url, store.run_folder)
    for warning in deletion_warnings(deletion):
        say(f"warning: {warning}", err=True)
    if not yes and not typer.confirm(one_line(f"Delete {deletion_text(deletion)}?")):
        raise typer.Exit(1)
    delete_study(deletion, url)
    say(f"deleted {deletion_text(deletion)}")
