"""Study files read from disk, errors as `FILE: field: sentence`, and the digest that says what a study is."""

import base64
import hashlib
import json
import os
import re
import sys
import tomllib
import zlib
from collections.abc import Mapping
from functools import lru_cache, reduce
from itertools import takewhile
from operator import getitem
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hpsearch.errors import DigestMismatch, StudyFileError, nearest
from hpsearch.files.paths import regular
from hpsearch.study.search import FREE_PREFIXES
from hpsearch.study.sentences import FieldErrors, check_tree, field_errors
from hpsearch.study.specification import StudySpec, linked_suffix
from hpsearch.text import one_line

RUN_ONLY = {
    "study": {
        "name", "trials", "max_failures", "max_attempts", "stall_timeout", "recovery_timeout", "grace",
        "timeout", "at_timeout", "target_value", "patience_trials", "improvement", "max_epochs_total",
        "max_device_hours", "max_paused", "warm_start", "license",
    },
    "data": {"root", "download", "device", "predict", "cache", "cache_limit_gb"},
    "checkpoint": {"every_seconds", "keep"},
    "confirm": {"top", "seeds"},
    "sampler": {"points"},
    "fit": {"overfit_rise", "overfit_gap", "underfit_slope", "underfit_ratio", "least_change"},
}  # fmt: skip
"""Fields outside the digest: they may change between two runs without making trials incomparable."""

LATER: dict[str, Any] = {
    "study.policy": "sampled",
    "study.first_piece": 1,
    "study.require": {},
    "study.metrics": [],
    "data.resize": "crop",
    "data.range": None,
    "data.split_column": None,
    "data.strip": None,
    "data.prefix": None,
    "data.label_separator": None,
    "data.split.folds": None,
    "data.split.fold": None,
    "data.split.join_val": False,
    "train.last_epoch": None,
    "train.cooldown": 0.2,
    "train.sampling": "shuffled",
    "train.layer_decay": 1.0,
    "train.stages": [],
    "train.metrics": {},
    "train.args": {"optimizer": {}, "schedule": {}, "loss": {}, "metrics": {}},
}
"""Fields that came after version 0.1.0, with their defaults: a study that leaves them there keeps its digest."""

PATTERNS = "train.lr_multipliers"
"""The one table of ours in which the order of the keys has a meaning: the first pattern that matches counts."""

_PACKED = "zlib"
_LONGEST = 30_000  # characters; quotes and backslashes take two bytes each in the database
_LONGEST_FILE = 4 * 2**20  # characters
_LARGEST = 64 * 2**20  # bytes of a text that a database may ask us to unpack


def load_study_file(path: str | Path) -> StudySpec:
    """Reads and validates a study file.

    Raises:
        StudyFileError: the file is missing, is no TOML, or has a wrong field; the message says which.
    """
    if not isinstance(path, str | os.PathLike):
        raise StudyFileError(
            f"a study must be a file's path, a study or its tables, got {one_line(repr(path), 80)}"
        )
    path = Path(path)
    try:
        with regular(path).open(
            encoding="utf-8-sig"
        ) as file:  # Windows' Notepad may begin a file with a mark
            text = file.read(_LONGEST_FILE + 1)
    except FileNotFoundError:
        found = path.parent.glob("*.toml") if path.parent.is_dir() else ()
        beside = sorted(str(one) for one in found if one.name != "pyproject.toml")
        known = f"; {nearest(str(path), beside)}" if beside else ""
        raise StudyFileError(f"{path}: no such study file{known}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyFileError(f"{path}: cannot be read: {error}") from None
    if len(text) > _LONGEST_FILE:
        raise StudyFileError(f"{path}: has more than {_LONGEST_FILE:,} characters and cannot be a study file")
    try:
        tree = tomllib.loads(text)
    except RecursionError:
        raise StudyFileError(f"{path}: lists or tables are nested too deep; write them flat") from None
    except ValueError as error:  # of TOML, of a date, or of a number with thousands of digits
        if line := _line_of_digits(text):
            raise StudyFileError(
                f"{path}: line {line}: a number has thousands of digits; write a smaller one"
            ) from None
        raise StudyFileError(f"{path}: not valid TOML: {error}") from None
    study = tree.setdefault("study", {})
    # Refused only here: in a study that comes from no file, it is how a missing name is kept.
    if isinstance(study, dict) and study.setdefault("name", path.stem) == "":
        raise StudyFileError(
            f"{path}: study.name: is empty; leave study.name out, and the file's own name counts"
        )
    spec = parse_study(tree, source=str(path))
    if linked_suffix(spec.study.name):
        raise StudyFileError(f"{path}: {taken_name(spec.study.name)}")
    return spec


def _line_of_digits(text: str) -> int | None:
    """Returns the line of a number with more digits than Python reads; None without one."""
    most = sys.get_int_max_str_digits()
    found = re.search(rf"\d(?:_?\d){{{most}}}", text) if most else None
    return None if found is None else text.count("\n", 0, found.start()) + 1


def is_study_file(study: str) -> bool:
    """Says whether a text means a study file rather than a name, which may have a slash in Optuna."""
    return study.endswith(".toml") or (os.sep in study and os.path.isfile(study))


def as_study(study: StudySpec | Mapping[str, Any] | str | Path) -> StudySpec:
    """Returns a study that is given as such, as its tables, or as the path of its file.

    Raises:
        StudyFileError: the file or a field is wrong, or the tables give no name.
    """
    if isinstance(study, StudySpec):
        return study
    if not isinstance(study, Mapping):
        return load_study_file(study)
    spec = parse_study(study)
    if not spec.study.name:
        raise StudyFileError('study.name: is missing; write {"study": {"name": "..."}, ...}')
    return spec


def named(study: StudySpec | Mapping[str, Any] | str | Path | None) -> tuple[str | None, StudySpec | None]:
    """Returns a study's name, and what its file or its tables say, if they are given."""
    if study is None or (isinstance(study, str) and not is_study_file(study)):
        return study, None
    given = as_study(study)
    return given.study.name, given


def taken_name(name: str) -> str:
    """Returns the sentence that refuses a study of one's own the name of a confirmation or a refit."""
    suffix = linked_suffix(name)
    assert suffix is not None
    return (
        f'study.name: "{name}" ends in {suffix}, as only the studies that hpsearch {suffix[1:]} makes do; choose '
        "another name (without study.name, the file's own name counts)"
    )


def parse_study(tree: Mapping[str, Any], source: str = "study") -> StudySpec:
    """Validates a study given as nested tables.

    Raises:
        StudyFileError: naming every wrong field, one per line.
    """
    try:
        check_tree(tree)
        return StudySpec.model_validate(_with_policy(tree))
    except (ValidationError, FieldErrors) as error:
        found = dict.fromkeys(field_errors(error, StudySpec).found)
        lines = [": ".join(filter(None, (source, field, sentence))) for field, sentence in found]
        raise StudyFileError("\n".join(lines)) from None


def _with_policy(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """Gives a file that names a sampler or a pruner the policy that asks them.

    So it does to one with a training function, which may keep no checkpoints to resume a trial from, and to a
    study that was stored when no policy paused trials.
    """
    study, train = tree.get("study", {}), tree.get("train", {})
    if not isinstance(study, Mapping) or not isinstance(train, Mapping) or "policy" in study:
        return tree
    if not tree.keys() & {"sampler", "pruner"} and train.get("function") is None:
        return tree
    return {**tree, "study": {**study, "policy": "sampled"}}


def with_limits(
    spec: StudySpec,
    trials: int | None = None,
    timeout: str | float | None = None,
    at_timeout: str | None = None,
) -> StudySpec:
    """Returns a study with another number of trials, another time or another end; None leaves what it says.

    Raises:
        StudyFileError: what no study may say.
    """
    tree: dict[str, Any] = spec.model_dump()
    given = {"trials": trials, "timeout": timeout, "at_timeout": at_timeout}
    given = {key: value for key, value in given.items() if value is not None}
    tree["study"] |= given
    try:
        return parse_study(tree, "")
    except StudyFileError as error:  # of a field that the file may lack: it was given as an option
        text = re.sub(
            rf"\bstudy\.({'|'.join(given)}):", lambda found: f"--{found[1].replace('_', '-')}:", str(error)
        )
        raise StudyFileError(text) from None


def stored_form(spec: StudySpec) -> str:
    """Returns the JSON text that is kept with the study in the database, in the order in which it was written.

    A long one is compressed: MySQL's columns end at 64 KiB, which the points of a large confirmation exceed.
    """
    text = json.dumps(spec.model_dump(mode="json"))
    if len(text) <= _LONGEST:
        return text
    return json.dumps({_PACKED: base64.b64encode(zlib.compress(text.encode())).decode()})


def stored_tree(text: str) -> dict[str, Any]:
    """Returns the nested tables that `stored_form` has written.

    Raises:
        ValueError: the text is something else.
    """
    try:
        tree = json.loads(text)
        if isinstance(tree, dict) and tree.keys() == {_PACKED}:
            unpacker = zlib.decompressobj()
            tree = json.loads(unpacker.decompress(base64.b64decode(tree[_PACKED]), _LARGEST))
    except (zlib.error, TypeError, RecursionError) as error:
        raise ValueError(f"the specification is damaged: {error}") from None
    if not isinstance(tree, dict):
        raise ValueError("the specification is not a table")
    return tree


def parse_stored(text: str) -> StudySpec:
    """Validates a study that `stored_form` has written.

    Raises:
        StudyFileError: it is damaged, or another version wrote it; the message names every wrong field.
    """
    if not isinstance(text, str):
        raise StudyFileError("stored specification: not a text")
    return _parse_stored(text)


@lru_cache(maxsize=256)  # the dashboard's cards read all studies again and again; a specification is frozen
def _parse_stored(text: str) -> StudySpec:
    try:
        tree = stored_tree(text)
    except ValueError as error:
        raise StudyFileError(f"stored specification: {error}") from None
    return parse_study(tree, "stored specification")


def digest(spec: StudySpec) -> str:
    """Returns 16 hexadecimal digits over what makes two trials comparable: all but `RUN_ONLY`.

    The order of keys counts where it has a meaning, and only if it is not that of the alphabet, so that studies
    which began before it counted keep their digest.
    """
    tree = _comparable(spec)
    text = json.dumps(tree, sort_keys=True)
    orders = [list(table) for table in _pattern_tables(tree)]
    if any(order != sorted(order) for order in orders):
        text += json.dumps(orders)
    own = {name: value for name, value in _ordered(tree).items() if PATTERNS not in name}
    if json.dumps(own) != json.dumps(own, sort_keys=True):
        text += json.dumps(own)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def as_resumed(stored: StudySpec, given: StudySpec) -> StudySpec:
    """Returns a study as it is resumed: with the points that it has already, and under the policy with which it began.

    A policy that the file names counts. Points that were added meanwhile, by a call at the same time, keep their
    places, and those given come behind them.
    """
    study, sampler = given.study, given.sampler
    if study.policy is None:
        study = study.model_copy(update={"policy": stored.study.policy})
    places = zip(stored.sampler.points, sampler.points, strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], places))
    if behind := stored.sampler.points[same:]:
        new = (point for point in sampler.points[same:] if point not in behind)
        points = (*stored.sampler.points, *new)
        sampler = sampler.model_copy(update={"points": points})
        study = study.model_copy(update={"trials": len(points)})
    return given.model_copy(update={"study": study, "sampler": sampler})


def is_same_study(stored_text: str, spec: StudySpec) -> bool:
    """Says whether a stored specification and a given one make comparable trials."""
    stored = parse_stored(stored_text)
    spec = as_resumed(stored, spec)
    tree = stored_tree(stored_text)
    if list(tree) == sorted(tree):  # Up to version 0.1.0 all keys were sorted, and their own order was lost.
        spec = parse_study(json.loads(json.dumps(spec.model_dump(mode="json"), sort_keys=True)))
    return digest(stored) == digest(spec)


def refuse_other(stored: Any, given: StudySpec) -> None:
    """Makes sure that a database has a study as this machine's own study file has it.

    Args:
        stored: what the database has as its specification; None for a study of another program.

    Raises:
        DigestMismatch: the two differ, or the stored one cannot be read; the message shows in what.
    """
    name = given.study.name
    if not isinstance(stored, str):
        raise DigestMismatch(
            f'study "{name}" was not made by hpsearch; look at it by its name, not by a study file'
        )
    if not is_same_study(stored, given):
        lines = "\n".join(f"  {line}" for line in differences(parse_stored(stored), given))
        raise DigestMismatch(
            f'study "{name}" in the database differs from that of the study file; restore these fields, or '
            f"look at it by its name:\n{lines}"
        )


def refuse_foreign_places(spec: StudySpec, data_root: str | None) -> None:
    """Makes sure that a specification out of a database lets nothing be written above the current folder.

    Raises:
        StudyFileError: naming the field.
    """
    into = spec.data.root if spec.data.download and data_root is None else None
    for field, place, remedy in (
        ("data.cache", spec.data.cache, "start it with its study file"),
        ("data.root", into, "start it with its study file, or give --data-root"),
    ):
        if place is not None and not Path(os.path.abspath(place)).is_relative_to(Path.cwd()):
            raise StudyFileError(
                f'study "{spec.study.name}": {field} = "{place}" comes from the database, and files would be written '
                f"there; {remedy}"
            )


def lost_order(stored_text: str, name: str) -> str:
    """Returns the warning that a stored specification does not tell the order of keys; "" where none matters.

    Up to version 0.1.0 all keys were stored in alphabetical order.
    """
    tree = stored_tree(stored_text)
    several = {field: value for field, value in _ordered(tree).items() if _has_order(value)}
    if list(tree) != sorted(tree) or not several:
        return ""
    return (
        f'study "{name}": {", ".join(several)}: an older version stored the keys in alphabetical order, so that '
        f"training uses them in this order: {json.dumps(list(several.values()))[1:-1]}; if that is not the order of "
        "the study file, give the study file instead of the name"
    )


def differences(stored: StudySpec, given: StudySpec) -> list[str]:
    """Returns one line per comparable field in which two specifications differ."""
    trees = [_comparable(spec) for spec in (stored, as_resumed(stored, given))]
    old, new = (dict(_leaves(tree)) for tree in trees)
    nothing = "(absent)"
    found = {
        name: (old.get(name, nothing), new.get(name, nothing))
        for name in old.keys() | new.keys()
        if old.get(name, nothing) != new.get(name, nothing)
    }
    old, new = map(_ordered, trees)
    for name in old.keys() & new.keys():
        if old[name] == new[name] and json.dumps(old[name]) != json.dumps(new[name]):
            found[name] = (old[name], new[name])
    return [
        f"{name}: stored {json.dumps(was)}, now {json.dumps(now)}"
        for name, (was, now) in sorted(found.items())
    ]


def _comparable(spec: StudySpec) -> dict[str, Any]:
    tree = spec.model_dump(
        mode="json", exclude={section: set(fields) for section, fields in RUN_ONLY.items()}
    )
    del tree["track"]
    del tree["enqueue"]  # which trials come first makes none incomparable; points may be added later
    tree["study"]["policy"] = spec.policy
    for name, default in LATER.items():
        *path, field = name.split(".")
        section = reduce(getitem, path, tree)
        if section[field] == default:
            del section[field]
    return tree


def _pattern_tables(tree: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [
        tree["train"][PATTERNS.removeprefix("train.")],
        *tree["search"].get(PATTERNS, {}).get("choices", ()),
    ]


def _ordered(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns by name the values in which the order of keys has a meaning.

    These are the patterns and what the user's own code is given: a builder's `**layers` are in the order in which
    they were written. Only a training function is given one value at a time.
    """
    names = [tree["model"]["name"], *tree["search"].get("model.name", {}).get("choices", ())]
    found = {PATTERNS: tree["train"][PATTERNS.removeprefix("train.")]}
    if any(":" in str(name) for name in names):
        found["model.args"] = tree["model"]["args"]
    found |= {f"train.args.{part}": args for part, args in tree["train"].get("args", {}).items() if args}
    found |= {f"function.{name}": value for name, value in sorted(tree["function"].items())}
    for name, entry in sorted(tree["search"].items()):
        if "choices" in entry and name.startswith((PATTERNS, *FREE_PREFIXES)):
            found[f"search.{name}.choices"] = entry["choices"]
    return found


def _has_order(value: Any) -> bool:
    """Says whether there is a table of several keys in a value."""
    if isinstance(value, Mapping):
        return len(value) > 1 or any(map(_has_order, value.values()))
    return isinstance(value, list | tuple) and any(map(_has_order, value))


def _leaves(node: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(node, dict) or not node or prefix == PATTERNS:
        return [(prefix, node)]
    return [leaf for key, value in node.items() for leaf in _leaves(value, f"{prefix}.{key}".lstrip("."))]
