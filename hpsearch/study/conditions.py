"""Conditions of the `[search]` table: which hyperparameters have a meaning beside which values of others.

    [search.when."train.optimizer = sgd"]
    "train.momentum" = { low = 0.5, high = 0.99 }

A condition names lists of choices: `FIELD = VALUE`, `FIELD = VALUE or VALUE`, several of them joined by `and`. A
field may be sampled from different values under conditions that exclude each other; its entry then spans them all
(`Entry.cases` has them apart), so that whatever looks at a field as a whole need not know of conditions.
"""

import json
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import combinations, product
from typing import Any

from hpsearch.errors import nearest
from hpsearch.study.search import Case, Choices, Entry, FloatRange, IntRange, Label, parse_entry, written
from hpsearch.study.section import Section
from hpsearch.study.sentences import FieldErrors, field_errors

Search = Mapping[str, Entry]
When = Mapping[str, Sequence[Label]]

WHEN = "when"
"""The key of `[search]` below which the conditions stand."""

_EXAMPLE = '[search.when."train.optimizer = sgd"]'


def parse_search(raw: Mapping[str, Any]) -> dict[str, Entry]:
    """Turns the `[search]` table into one entry for each field, those of conditional ones with their cases.

    Raises:
        FieldErrors: entries and conditions that are wrong.
    """
    wrong: list[tuple[str, str]] = []
    found: dict[str, list[tuple[str, Any, Entry]]] = {}
    for place, name, condition, entry in _written_entries(raw):
        try:
            parsed = parse_entry(name, entry)
            found.setdefault(name, []).append((place, condition, parsed))
        except ValueError as error:
            wrong += field_errors(error, _entry_type(entry)).below(place).found
    entries: dict[str, Entry] = {}
    for name, cases in found.items():
        try:
            entries[name] = _spanning([entry for _, _, entry in cases])
        except ValueError as error:
            wrong.append((cases[-1][0], str(error)))
    if wrong:
        raise FieldErrors(wrong)
    spans = dict(entries)
    for name, cases in found.items():
        if len(cases) > 1 and any(condition is None for _, condition, _ in cases):
            wrong.append(
                (cases[-1][0], "is in [search] as well, which samples it in every trial; remove one")
            )
            continue
        resolved = []
        for place, condition, entry in cases:
            try:
                if condition is not None:
                    resolved.append(Case(when=_resolved(condition, spans), entry=entry))
            except ValueError as error:
                wrong.append((place.removesuffix(f".{name}"), str(error)))
        if resolved:  # in an order of their own, whichever was written first
            resolved.sort(key=str)
            span = _spanning([case.entry for case in resolved])
            entries[name] = span.model_copy(update={"cases": tuple(resolved)})
    wrong = wrong or list(_contradictions(entries))
    if wrong:
        raise FieldErrors(dict.fromkeys(wrong))
    return entries


def _written_entries(raw: Mapping[str, Any]) -> Iterator[tuple[str, str, Any, Any]]:
    """Yields place, field, condition and entry: of those below `when`, and of those stored with their cases."""
    for name, entry in raw.items():
        if name == WHEN:
            continue
        if isinstance(entry, Mapping) and "cases" in entry:
            if not _are_stored(entry["cases"]):
                raise FieldErrors([(f"{name}.cases", f"unknown key; write conditions as {_EXAMPLE}")])
            yield from ((name, name, case["when"], case["entry"]) for case in entry["cases"])
        else:
            yield name, name, None, entry
    tables = raw.get(WHEN, {})
    if not isinstance(tables, Mapping):
        raise FieldErrors(
            [(WHEN, f"must hold a table for each condition, such as {_EXAMPLE}, got {tables!r}")]
        )
    for condition, table in tables.items():
        place = f'{WHEN}."{condition}"'
        if not isinstance(table, Mapping) or not table:
            raise FieldErrors([(place, f"must be a table of hyperparameters, got {table!r}")])
        yield from ((f"{place}.{name}", name, condition, entry) for name, entry in table.items())


def _are_stored(cases: Any) -> bool:
    return isinstance(cases, list | tuple) and all(
        isinstance(case, Mapping) and case.keys() == {"when", "entry"} and isinstance(case["when"], Mapping)
        for case in cases
    )


def _entry_type(raw: Any) -> type[Section]:
    return Choices if isinstance(raw, Mapping) and "choices" in raw else FloatRange


def _spanning(entries: Sequence[Entry]) -> Entry:
    """Returns the entry that holds all values of several.

    Raises:
        ValueError: they are of different kinds, which a database cannot keep under one name.
    """
    first = entries[0]
    if len(entries) == 1:
        return first
    if len({type(entry) for entry in entries}) > 1:
        raise ValueError(
            "is a list, a range of whole numbers or a range of numbers in one condition, and something else in "
            "another; write the same kind in each"
        )
    if isinstance(first, Choices):
        choices = [choice for entry in entries if isinstance(entry, Choices) for choice in entry.choices]
        return Choices(choices=tuple({json.dumps(choice): choice for choice in choices}.values()))
    ranges = [entry for entry in entries if not isinstance(entry, Choices)]
    if len({entry.log for entry in ranges}) > 1:
        raise ValueError(
            "is logarithmic in one condition and not in another; write log = true in each or in none"
        )
    low, high = min(entry.low for entry in ranges), max(entry.high for entry in ranges)
    kind = IntRange if isinstance(first, IntRange) else FloatRange
    return kind.model_validate({"low": low, "high": high, "log": first.log})


def _resolved(condition: Any, search: Search) -> dict[str, tuple[Label, ...]]:
    """Returns the values at which a condition holds, by field.

    Raises:
        ValueError: it cannot be read, or is about something that no trial has.
    """
    if isinstance(condition, Mapping):  # stored
        return {name: tuple(values) for name, values in condition.items() if _named(name, search)}
    found: dict[str, tuple[Label, ...]] = {}
    for clause in str(condition).split(" and "):
        name, equals, values = (part.strip() for part in clause.partition("="))
        if not (name and equals and values):
            raise ValueError(
                f'"{clause}" is not a condition; write FIELD = VALUE, such as train.optimizer = sgd'
            )
        entry = _named(name, search)
        if name in found:
            raise ValueError(f"names {name} twice; join its values, as in {name} = VALUE or VALUE")
        named = {_choice(name, entry, text.strip()) for text in values.split(" or ")}
        found[name] = tuple(sorted(named, key=written))
    return {name: found[name] for name in sorted(found)}


def _named(name: str, search: Search) -> Choices:
    """Returns the choices of a field that a condition is about.

    Raises:
        ValueError: it has none.
    """
    if name not in search:
        raise ValueError(
            f"{name} is not searched, so that it has one value in all trials; {nearest(name, search)}"
        )
    entry = search[name]
    if not isinstance(entry, Choices):
        raise ValueError(f"{name} is a range; write it as a list of choices, of which a condition names some")
    return entry


def _choice(name: str, entry: Choices, text: str) -> Label:
    """Returns the choice that a condition names: a text with or without quotes, or any other value of TOML."""
    values: list[Any] = []
    with suppress(tomllib.TOMLDecodeError):  # a text without quotes
        values.append(tomllib.loads(f"value = {text}")["value"])
    for value in (*values, text):
        try:
            return entry.encode(value)
        except ValueError as error:
            sentence = str(error)
    raise ValueError(f"{name} = {sentence}; no trial has it")


def _contradictions(search: Search) -> Iterator[tuple[str, str]]:
    """Yields the fields whose conditions depend on themselves, can never hold, or can hold together."""
    for name in search:
        if circle := _circle(search, name):
            sentence = f"{' depends on '.join(circle)}; remove one of these conditions"
            yield name, sentence
            return
    for name, entry in search.items():
        needs = [requirements(search, case.when) for case in entry.cases]
        for case, need in zip(entry.cases, needs, strict=True):
            empty = [parent for parent, values in need.items() if not values]
            if empty:
                sentence = (
                    f"can never hold, as its fields need different values of {empty[0]}; change or remove it"
                )
                yield f'{WHEN}."{case}"', sentence
        for (one, a), (other, b) in combinations(zip(entry.cases, needs, strict=True), 2):
            if not any(set(a[parent]).isdisjoint(b[parent]) for parent in a.keys() & b.keys()):
                sentence = (
                    f'is sampled twice where "{other}" holds as well; let the conditions exclude each other, or '
                    "remove one"
                )
                yield f'{WHEN}."{one}".{name}', sentence


def _parents(search: Search, name: str) -> set[str]:
    return {parent for case in search[name].cases for parent in case.when}


def _circle(search: Search, start: str) -> list[str]:
    """Returns the fields from one to itself, each of which depends on the next; empty if there is no such way."""
    ways, seen = [[start]], set[str]()
    while ways:
        way = ways.pop()
        for parent in sorted(_parents(search, way[-1])):
            if parent == start:
                return [*way, start]
            if parent not in seen:
                seen.add(parent)
                ways.append([*way, parent])
    return []


def requirements(search: Search, when: When) -> dict[str, list[Label]]:
    """Returns the values that a condition needs, with those that the fields which it is about need themselves."""
    found: dict[str, list[Label]] = {}
    todo = [when]
    while todo:
        for name, values in todo.pop().items():
            found[name] = [value for value in found.get(name, list(values)) if value in values]
            if len(search[name].cases) == 1:
                todo.append(search[name].cases[0].when)
    return found


def in_order(search: Search) -> list[str]:
    """Returns the fields as they are sampled: by name, those that others depend on first."""
    depths: dict[str, int] = {}

    def depth(name: str) -> int:
        if name not in depths:
            depths[name] = 1 + max((depth(parent) for parent in _parents(search, name)), default=-1)
        return depths[name]

    return sorted(search, key=lambda name: (depth(name), name))


def holds(when: When, hparams: Mapping[str, Any]) -> bool:
    """Says whether a condition holds beside hyperparameters as Optuna stores them."""
    return all(name in hparams and hparams[name] in values for name, values in when.items())


def entry_beside(entry: Entry, hparams: Mapping[str, Any]) -> Entry | None:
    """Returns what a field is sampled from beside others' values; None where it has no meaning."""
    if not entry.cases:
        return entry
    return next((case.entry for case in entry.cases if holds(case.when, hparams)), None)


def meaningful(search: Search, hparams: Mapping[str, Any]) -> dict[str, Entry]:
    """Returns what a trial's fields are sampled from, those that have a meaning beside its hyperparameters."""
    found: dict[str, Entry] = {}
    kept: dict[str, Any] = {}
    for name in in_order(search):
        entry = entry_beside(search[name], kept)
        if entry is not None:
            found[name] = entry
            if name in hparams:
                kept[name] = hparams[name]
    return found


def labels_of(whole: Entry, entry: Choices) -> tuple[Label, ...]:
    """Returns one case's choices as Optuna stores those of the whole field."""
    if not isinstance(whole, Choices) or whole.choices == entry.choices:
        return entry.labels()
    known = {json.dumps(choice): label for choice, label in zip(whole.choices, whole.labels(), strict=True)}
    return tuple(known[json.dumps(choice)] for choice in entry.choices)


def ends_of(whole: Entry, entry: Entry) -> list[Any]:
    """Returns all choices of an entry, or the ends of its range, as Optuna stores them."""
    return list(labels_of(whole, entry) if isinstance(entry, Choices) else dict.fromkeys(entry.extremes()))


def at_ends(search: Search) -> Iterator[dict[str, Label]]:
    """Yields each choice and each end of a range, with what must be chosen beside it."""
    for name, entry in search.items():
        for case in entry.cases or (Case(when={}, entry=entry),):
            for beside in product(*case.when.values()):
                context = _with_ancestors(search, dict(zip(case.when, beside, strict=True)))
                yield from ({**context, name: value} for value in ends_of(entry, case.entry))


def _with_ancestors(search: Search, chosen: Mapping[str, Label]) -> dict[str, Label]:
    """Returns chosen values after those without which they would have no meaning."""
    found = dict(chosen)
    for name in chosen:
        for case in search[name].cases:
            if isinstance(case.entry, Choices) and chosen[name] in labels_of(search[name], case.entry):
                first = {parent: values[0] for parent, values in case.when.items()}
                found = _with_ancestors(search, first) | found
                break
    return found


def filled(
    search: Search, chosen: Mapping[str, Label], pick: Callable[[str, list[Any]], Any]
) -> dict[str, Label]:
    """Returns a whole trial around some values.

    Args:
        chosen: values that count where they have a meaning.
        pick: chooses among the ends of any other field.
    """
    found: dict[str, Label] = {}
    for name in in_order(search):
        entry = entry_beside(search[name], found)
        if entry is None:
            continue
        ends = ends_of(search[name], entry)
        fits = name in chosen and (not isinstance(entry, Choices) or chosen[name] in ends)
        found[name] = chosen[name] if fits else pick(name, ends)
    return found


def deciding(search: Search) -> dict[str, Choices]:
    """Returns the fields that conditions are about, in the order in which they are sampled."""
    names = {name for entry in search.values() for case in entry.cases for name in case.when}
    found = ((name, search[name]) for name in in_order(search))
    return {name: entry for name, entry in found if name in names and isinstance(entry, Choices)}


def branches(search: Search) -> Iterator[tuple[dict[str, Label], dict[str, Entry]]]:
    """Yields all that the deciding fields can be together, with what is sampled beside them."""
    decided: list[dict[str, Label]] = [{}]
    for name, whole in deciding(search).items():
        more: list[dict[str, Label]] = []
        for chosen in decided:
            entry = entry_beside(whole, chosen)
            labels = labels_of(whole, entry) if isinstance(entry, Choices) else ()
            more += [{**chosen, name: label} for label in labels] or [chosen]
        decided = more
    for chosen in decided:
        yield chosen, {name: one for name, one in meaningful(search, chosen).items() if name not in chosen}


def grid_size(search: Search) -> int:
    """Returns the number of combinations of a space without continuous ranges."""
    return sum(math.prod(entry.size or 1 for entry in rest.values()) for _, rest in branches(search))


def faults(search: Search, point: Mapping[str, Any]) -> Iterator[str]:
    """Yields what keeps some given values from being those of a trial, one sentence each."""
    for name in point:
        if name not in search:
            yield f"{name} is not searched; {nearest(name, search)}"
            continue
        stored = {parent: _stored(search, parent, point) for parent in _parents(search, name) & point.keys()}
        entry = entry_beside(search[name], stored)
        if entry is None:
            cases = " or ".join(f'"{case}"' for case in search[name].cases)
            yield f"{name} has a meaning only where {cases}; add what is missing, or remove {name}"
            continue
        try:
            entry.encode(point[name])
        except ValueError as error:
            yield f"{name} = {error}; change it, or [search]"


def _stored(search: Search, name: str, point: Mapping[str, Any]) -> Label:
    try:
        return search[name].encode(point[name])
    except ValueError:  # which is told of the field itself
        return None
