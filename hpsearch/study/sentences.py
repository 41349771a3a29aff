"""What pydantic says about a study file, as sentences that name the field, the value and what to do."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from hpsearch.errors import nearest
from hpsearch.study.augment import TRANSFORMS

Located = tuple[str, str]
"""A field's dotted name and the sentence about it."""

_DEEPEST = 20  # tables and lists within each other
_LONGEST_TEXT = 10_000  # characters
_SHOWN_FAULTS = 5


class FieldErrors(ValueError):
    """Wrong fields below the one that is being validated, each with its own sentence."""

    def __init__(self, found: Iterable[Located]) -> None:
        self.found = tuple(found)
        super().__init__("\n".join(": ".join(filter(None, pair)) for pair in self.found))

    def below(self, name: str) -> "FieldErrors":
        """Returns the same errors with `name` in front of each field."""
        return FieldErrors((_join(name, field), sentence) for field, sentence in self.found)


def field_errors(error: ValueError, root: type[BaseModel]) -> FieldErrors:
    """Returns any error of a validator as sentences; pydantic's own are told in our words.

    Args:
        root: the model whose fields the error's locations start from.
    """
    if isinstance(error, FieldErrors):
        return error
    if not isinstance(error, ValidationError):
        return FieldErrors([("", str(error))])
    fields: dict[str, list[Any]] = {}
    for detail in error.errors():
        fields.setdefault(_field(detail["loc"]), []).append(detail)
    return FieldErrors(pair for field, details in fields.items() for pair in _sentences(field, details, root))


def _sentences(field: str, details: list[Any], root: type[BaseModel]) -> list[Located]:
    first = details[0]
    raised = first.get("ctx", {}).get("error")
    if isinstance(raised, FieldErrors):
        return [(_join(field, inner), sentence) for inner, sentence in raised.found]
    if raised is not None:
        return [(field, str(raised))]
    if first["type"] == "extra_forbidden":
        return [
            (field, f"unknown key; {nearest(str(first['loc'][-1]), _fields_at(root, first['loc'][:-1]))}")
        ]
    if first["type"] == "missing":
        return [(field, f"is missing; add {_example(field, root)}")]
    if first["type"] == "literal_error" and len(details) == 1 and isinstance(first["input"], str):
        return [(field, f'"{first["input"]}" is unknown; {nearest(first["input"], _literals(first))}')]
    if first["type"] in ("tuple_type", "list_type") and isinstance(first["input"], Mapping):
        return [(field, f"must be a list of tables, got one; write [[{field}]] with two brackets")]
    wanted = dict.fromkeys(filter(None, map(_wanted, details)))
    if not wanted:  # a kind of error that no field of ours has so far
        return [(field, f"{first['msg']}, got {first['input']!r}")]
    return [(field, f"must be {' or '.join(wanted)}, got {_shown(first['input'])}")]


def _example(field: str, root: type[BaseModel]) -> str:
    info = root.model_fields.get(field)
    is_table = info is not None and _section_in(info.annotation) is not None
    return f"the table [{field}]" if is_table else f"{field.rpartition('.')[2]} = ..."


def _wanted(detail: Any) -> str:
    """Returns what a field takes, to stand after "must be"; empty when unknown."""
    kind, limits = detail["type"], detail.get("ctx", {})
    if kind == "literal_error":
        return " or ".join(f'"{name}"' if not name.isdigit() else name for name in _literals(detail))
    if kind in _LIMITS:
        word, key = _LIMITS[kind]
        limit = limits[key]
        return f"{word} {limit if isinstance(limit, int) else f'{limit:g}'}"
    return next((words for prefix, words in _KINDS.items() if kind.startswith(prefix)), "")


_LIMITS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("below", "lt"),
}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a string in quotes",
    "tuple": "a list",
    "list": "a list",
    "dict": "a table",
    "model": "a table",
    "finite_number": "a finite number",
    "too_short": "longer",
    "too_long": "shorter",
}


def _shown(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _literals(detail: Any) -> list[str]:
    quoted = re.finditer(r"'([^']*)'|\b(\d+)\b", detail["ctx"]["expected"])
    return [match[1] or match[2] for match in quoted]


def _field(location: tuple[Any, ...]) -> str:
    """Returns the dotted name of a location: branches of unions and a transform's index are left out."""
    parts = [part for part in location if not _is_branch(part)]
    named = [
        part
        for position, part in enumerate(parts)
        if not (isinstance(part, int) and position + 1 < len(parts) and parts[position + 1] in TRANSFORMS)
    ]
    return ".".join(map(str, named))


def _is_branch(part: Any) -> bool:
    """Says whether a part of pydantic's location names a branch of a union rather than a field."""
    return isinstance(part, str) and ("[" in part or part in _BRANCHES)


_BRANCHES = {
    "FloatRange", "IntRange", "Choices", "Normalization", "int", "constrained-int", "str", "tuple", "float", "bool",
}  # fmt: skip


def _fields_at(root: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Returns the field names of the section that a location points into."""
    model = root
    for part in location:
        if part in TRANSFORMS:
            model = TRANSFORMS[part]
        elif part in model.model_fields:
            model = _section_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section_in, get_args(annotation))), None)


def _join(outer: str, inner: str) -> str:
    return f"{outer}.{inner}".strip(".")


def check_plain(value: Any) -> Any:
    """Returns a free value as it is.

    Raises:
        ValueError: it holds a date, a time or no finite number, which JSON (and so the database) cannot keep.
    """
    for leaf in _leaves(value):
        if leaf is not None and not isinstance(leaf, str | bool | int | float):
            raise ValueError(f"{leaf!s} is a {type(leaf).__name__}; write it as a string in quotes")
        if isinstance(leaf, float) and not abs(leaf) < float("inf"):
            raise ValueError(f"numbers must be finite, got {leaf}")
    return value


def check_tree(tree: Mapping[Any, Any]) -> None:
    """Refuses what neither a database, nor a file system, nor a number of the machine can keep.

    Raises:
        FieldErrors: tables within tables, whole numbers or texts beyond what is kept; the field is named.
    """
    found: list[Located] = []
    todo: list[tuple[str, Any, int]] = [("", tree, 0)]
    while todo and len(found) < _SHOWN_FAULTS:
        field, value, depth = todo.pop()
        sentence = _oversized(value, depth)
        if sentence:
            found.append((_shortened(field), sentence))
        elif isinstance(value, Mapping):
            faults = [
                _oversized(key, 0)
                if isinstance(key, str)
                else f"must be a string, got {_shown(key)}; put it in quotes"
                for key in value
            ]
            found += [(_shortened(field), f"a key {fault}") for fault in faults if fault][:1]
            todo += [(_join(field, str(key)), inner, depth + 1) for key, inner in value.items()]
        elif isinstance(value, list | tuple):
            todo += [(field, inner, depth + 1) for inner in value]
    if found:
        raise FieldErrors(found)


def _oversized(value: Any, depth: int) -> str:
    """Returns what is wrong with a value's size; empty if nothing is."""
    if isinstance(value, Mapping | list | tuple):
        return f"is nested more than {_DEEPEST} deep; write it flat" if depth > _DEEPEST else ""
    if isinstance(value, int) and abs(value) >= 2**63:
        return f"whole numbers have at most 64 bits, got one of {value.bit_length()}; write a smaller one"
    if isinstance(value, str) and "\0" in value:
        return f"holds a NUL character, got {_shown(value)}; remove it"
    if isinstance(value, str) and len(value) > _LONGEST_TEXT:
        return f"has {len(value):,} characters; write at most {_LONGEST_TEXT:,}"
    return ""


def _shortened(field: str) -> str:
    return field if len(field) <= 80 else f"{field[:77]}..."


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [leaf for inner in value.values() for leaf in _leaves(inner)]
    if isinstance(value, list | tuple):
        return [leaf for inner in value for leaf in _leaves(inner)]
    return [value]
