"""The attributes by which hpsearch knows its studies and trials in a database that others use too."""

import uuid
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from hpsearch.contracts.trial import StopKind
from hpsearch.errors import StorageError, StudyFileError
from hpsearch.study.file import parse_study, stored_tree
from hpsearch.study.specification import StudySpec
from hpsearch.text import one_line

GOALS = "goals"
"""User attribute of a study with several goals: the names of those beside its metric."""

SPECIFICATION = "specification"
"""The study's user attribute that makes it one of hpsearch's."""
TOKEN = "hpsearch:token"
"""The study's system attribute that tells it from all others; a copy of a study has it too."""
MARK = "hpsearch:study"
"""The trial's system attribute that makes it the study's own: the study's token."""
ENDED = "ended"
"""The study's user attribute: which of its own limits ended it, as a sentence; "" once it continues."""
LEARNT = "learnt_from"
"""The study's user attribute: of each study that `hpsearch import` has taken trials from, how many, and how many were
left out for which reason."""
EXPECTED = "expected"
"""The study's user attribute: what its best trial is expected to come to when trained anew (`search.expectation`)."""
SAMPLE = "hpsearch:sample_picture:"
"""How the study's system attributes begin that hold training images as trials see them, PNG files in base64."""
ARTIFACT = "artifacts:"
"""How Optuna's attributes begin that describe artifacts."""
ATTEMPT = "hpsearch:attempt"
"""A restored trial's system attribute: the attempts that were made before the database lost it."""
PAUSED_LEASE = "paused"
"""The owner of a paused trial's lease: it is no orphan, and any driver may resume it (`Ledger.resume`)."""


def is_artifact(name: str) -> bool:
    """Says whether a name from the database can be an artifact's file: it must lead nowhere else."""
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False


def is_ours(attrs: Mapping[str, Any]) -> bool:
    """Says by a study's user attributes whether hpsearch made it: whether they hold its specification."""
    stored = attrs.get(SPECIFICATION)
    return isinstance(stored, str) and stored.startswith("{")


def is_confirmation(attrs: Mapping[str, Any]) -> bool:
    """Says by a study's user attributes whether `hpsearch confirm` made it; its name alone does not tell.

    Read without validation, as another version may have stored the specification.
    """
    try:
        tree = stored_tree(attrs[SPECIFICATION])
        return tree["sampler"]["name"] == "points" and "train.repeat" in tree["search"]
    except (KeyError, TypeError, ValueError):
        return False


def stored_specification(attrs: Mapping[str, Any], name: str) -> StudySpec:
    """Returns the specification that is stored with a study, under the name that the study has now.

    Raises:
        StudyFileError: it was stored by another version, or the study was given a name that hpsearch cannot use.
    """
    try:
        tree = stored_tree(attrs[SPECIFICATION])
        tree["study"]["name"] = name
    except (KeyError, TypeError, ValueError) as error:
        raise StudyFileError(f'study "{name}": its stored specification cannot be read: {error}') from None
    return parse_study(tree, source=f'study "{name}"')


class _StoredAttributes(BaseModel, strict=True):
    """What our attributes of a trial hold. Those that are not here are only shown; a curve that is none is left out."""

    score: FiniteFloat | None = None
    best_epoch: int | None = None
    best_at: FiniteFloat | None = None
    epochs_run: int = 0
    stop_reason: Annotated[StopKind, Field(strict=False)] = StopKind.FINISHED
    metrics_at_best: dict[str, Any] = {}
    seconds: FiniteFloat | None = None
    start_seconds: FiniteFloat | None = None
    device_seconds: FiniteFloat | None = None
    samples_per_second: FiniteFloat | None = None
    attempt: int = 1
    paused: int | None = None
    pauses: int = 0
    pieces: list[Annotated[list[int], Field(min_length=2, max_length=2)]] = []
    why: list[str] = []


def check_record(study: str, number: int, attrs: Mapping[str, Any]) -> None:
    """Refuses a trial of a study's own whose attributes somebody has edited.

    Raises:
        StorageError: naming the trial, the attribute, what it holds and the remedy.
    """
    try:
        _StoredAttributes.model_validate(attrs)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        key = str(wrong["loc"][0])
        raise StorageError(
            f'study "{study}": trial {number}: its attribute {key} is damaged: {one_line(repr(attrs[key]), 80)}: '
            f"{wrong['msg']}; restore the database from a backup, or correct the attribute"
        ) from None
