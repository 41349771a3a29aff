"""Study files read from disk, errors as `FILE: field: sentence`, and the digest that says what a study is."""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hpsearch.errors import StudyFileError, nearest
from hpsearch.spec.sentences import field_errors
from hpsearch.spec.study import SUFFIX, StudySpec

RUN_ONLY = {
    "study": {
        "name", "trials", "max_failures", "max_attempts", "stall_timeout", "grace", "timeout",
        "target_value", "max_epochs_total",
    },
    "data": {"root", "download", "device", "cache", "cache_limit_gb"},
    "checkpoint": {"every_seconds", "keep"},
    "confirm": {"top", "seeds"},
    "sampler": {"points"},
    "fit": {"overfit_rise", "underfit_slope", "underfit_ratio", "least_change"},
}  # fmt: skip
"""Fields outside the digest: they may change between two runs without making trials incomparable."""


def load_study_file(path: str | Path) -> StudySpec:
    """Reads and validates a study file.

    Raises:
        StudyFileError: the file is missing, is no TOML, or has a wrong field; the message says which.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows' Notepad may begin a file with a mark
    except FileNotFoundError:
        beside = sorted(str(p) for p in path.parent.glob("*.toml")) if path.parent.is_dir() else []
        known = f"; {nearest(str(path), beside)}" if beside else ""
        raise StudyFileError(f"{path}: no such study file{known}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyFileError(f"{path}: cannot be read: {error}") from None
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StudyFileError(f"{path}: no valid TOML: {error}") from None
    study = tree.setdefault("study", {})
    # Refused only here: in a study that comes from no file, it is how a missing name is kept.
    if isinstance(study, dict) and study.setdefault("name", path.stem) == "":
        raise StudyFileError(
            f"{path}: study.name: is empty; leave study.name out, and the file's own name counts"
        )
    spec = parse_study(tree, source=str(path))
    if spec.study.name.endswith(SUFFIX):
        raise StudyFileError(f"{path}: {taken_name(spec.study.name)}")
    return spec


def taken_name(name: str) -> str:
    """Returns the sentence that refuses a study of one's own the name of a confirmation."""
    return (
        f'study.name: "{name}" ends in {SUFFIX}, as only the studies that hpsearch confirm makes do; choose another '
        "name (without study.name, the file's own name counts)"
    )


def parse_study(tree: Mapping[str, Any], source: str = "study") -> StudySpec:
    """Validates a study given as nested tables.

    Raises:
        StudyFileError: naming every wrong field, one per line.
    """
    try:
        return StudySpec.model_validate(tree)
    except ValidationError as error:
        found = dict.fromkeys(field_errors(error, StudySpec).found)
        lines = [": ".join(filter(None, (source, field, sentence))) for field, sentence in found]
        raise StudyFileError("\n".join(lines)) from None


def stored_form(spec: StudySpec) -> str:
    """Returns the JSON text that is kept with the study in the database."""
    return json.dumps(spec.model_dump(mode="json"), sort_keys=True)


def digest(spec: StudySpec) -> str:
    """Returns 16 hexadecimal digits over what makes two trials comparable: all but `RUN_ONLY`."""
    text = json.dumps(spec.model_dump(mode="json", exclude=_exclude()), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(stored: StudySpec, given: StudySpec) -> list[str]:
    """Returns one line per comparable field in which two specifications differ."""
    old = dict(_leaves(stored.model_dump(mode="json", exclude=_exclude())))
    new = dict(_leaves(given.model_dump(mode="json", exclude=_exclude())))
    nothing = "(absent)"
    return [
        f"{name}: stored {json.dumps(old.get(name, nothing))}, now {json.dumps(new.get(name, nothing))}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name, nothing) != new.get(name, nothing)
    ]


def _exclude() -> Any:
    return {section: set(fields) for section, fields in RUN_ONLY.items()}


def _leaves(node: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(node, dict) or not node:
        return [(prefix, node)]
    return [leaf for key, value in node.items() for leaf in _leaves(value, f"{prefix}.{key}".lstrip("."))]
