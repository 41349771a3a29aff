"""The attributes by which hpsearch knows its studies and trials in a database that others use too."""

import uuid
from collections.abc import Mapping
from typing import Any

from hpsearch.errors import StudyFileError
from hpsearch.study.file import parse_study, stored_tree
from hpsearch.study.specification import StudySpec

SPECIFICATION = "specification"
"""The study's user attribute that makes it one of hpsearch's."""
TOKEN = "hpsearch:token"
"""The study's system attribute that tells it from all others; a copy of a study has it too."""
MARK = "hpsearch:study"
"""The trial's system attribute that makes it the study's own: the study's token."""
ENDED = "ended"
"""The study's user attribute: which of its own limits ended it, as a sentence; "" once it goes on."""
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
