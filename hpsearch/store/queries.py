"""What is asked of the database: studies, trials, drivers, as plain values.

The tables are Optuna's (version 5) and our own. Other programs may add trials to a study of ours: a colleague's
plain script, a copy by Optuna's means. One rule says what they are (`foreign_trials`): a trial is the study's own
if a driver of hpsearch began it, which the driver marks with the study's token, or if it is queued
(`study.enqueue_trial`), since a driver will begin it. All others are foreign: they are left out of the counts, of
`study.trials`, of the best and of what the sampler sees, and are told apart.
"""

import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from hpsearch.contracts.trial import PAUSED, StopKind
from hpsearch.errors import StudyFileError
from hpsearch.store.identity import DriverIdentity, DriverRow, driver_row
from hpsearch.store.keys import ARTIFACT, MARK, PAUSED_LEASE, SPECIFICATION, TOKEN, is_ours
from hpsearch.store.reader import Reader
from hpsearch.study.conditions import meaningful
from hpsearch.study.direction import Direction
from hpsearch.study.file import parse_stored
from hpsearch.study.search import Entry
from hpsearch.study.specification import CONTINUES, PLANNED, with_planned

FINISHED = ("COMPLETE", "PRUNED", "FAIL")
PAUSED_STATE = "PAUSED"
"""What the state of a RUNNING trial is called that waits to be resumed."""
CURVES = ("train_loss", "val_loss", "epoch_seconds")
"""Trial attributes that hold one value per epoch."""


@dataclass(frozen=True, slots=True)
class StoredStudy:
    """A study without its trials.

    Attributes:
        directions: "minimize" or "maximize", one for each objective.
    """

    study_id: int
    name: str
    directions: tuple[Direction, ...]
    user_attrs: Mapping[str, Any] = field(repr=False)

    @property
    def is_ours(self) -> bool:
        """Whether hpsearch made it."""
        return is_ours(self.user_attrs)


@dataclass(frozen=True, slots=True)
class StoredTrial:
    """A trial as it is stored.

    Attributes:
        state: as Optuna calls it, such as COMPLETE, or PAUSED.
        values: of the objectives; none before it has ended with one.
        reports: value by step; NaN and the infinities are kept.
        started, ended: with their zone, UTC.
    """

    trial_id: int
    number: int
    state: str
    values: tuple[float, ...]
    hparams: Mapping[str, Any]
    reports: Mapping[int, float]
    user_attrs: Mapping[str, Any]
    started: datetime | None
    ended: datetime | None

    @property
    def value(self) -> float | None:
        """The first objective's value."""
        return self.values[0] if self.values else None


@dataclass(frozen=True, slots=True)
class TrialCounts:
    """What is to be told of a study's own trials at a glance.

    Attributes:
        states: number of trials by state, states without trials left out.
        paused: the epoch after which each trial was paused that may be resumed, by number.
        lowest, highest: value of a COMPLETE trial.
        started, ended: begin of the first trial and end of the last one, in UTC.
        continued: trials that continue others.
    """

    states: Mapping[str, int] = field(default_factory=dict)
    paused: Mapping[int, int] = field(default_factory=dict)
    lowest: float | None = None
    highest: float | None = None
    started: datetime | None = None
    ended: datetime | None = None
    continued: int = 0


def studies(reader: Reader) -> list[StoredStudy]:
    """Returns all studies in the order in which they were made."""
    found = reader.rows("SELECT study_id, study_name FROM studies ORDER BY study_id")
    directions: dict[int, list[Direction]] = defaultdict(list)
    query = "SELECT study_id, direction FROM study_directions ORDER BY study_id, objective"
    for study_id, direction in reader.rows(query):
        directions[study_id].append("maximize" if direction == "MAXIMIZE" else "minimize")
    attrs: dict[int, dict[str, Any]] = defaultdict(dict)
    stored = reader.rows('SELECT study_id, "key", value_json FROM study_user_attributes')
    with reader.making_sense():
        for study_id, key, text in stored:
            attrs[study_id][key] = json.loads(text)
    # In a damaged file a name may be NULL or bytes.
    return [
        StoredStudy(number, str(name), tuple(directions[number]), attrs[number]) for number, name in found
    ]


def system_attrs(reader: Reader, study_id: int, key: str | None = None) -> dict[str, Any]:
    """Returns the system attributes of a study, or one of them, which may be missing."""
    query, values = 'SELECT "key", value_json FROM study_system_attributes WHERE study_id = ?', [study_id]
    found = (
        reader.rows(query, *values) if key is None else reader.rows(f'{query} AND "key" = ?', *values, key)
    )
    with reader.making_sense():
        return {name: json.loads(text) for name, text in found}


_LARGEST_NUMBER = 2**31 - 1
"""Of Optuna's column; a database refuses to compare it with more."""


def trials(reader: Reader, study_id: int) -> list[StoredTrial]:
    """Returns all trials of a study by number."""
    return _trials(reader, "t.study_id = ?", study_id)


def trial_of_number(reader: Reader, study_id: int, number: int) -> StoredTrial | None:
    """Returns one trial of a study; None where there is none, as of a number that no database could hold."""
    if not 0 <= number <= _LARGEST_NUMBER:
        return None
    found = _trials(reader, "t.study_id = ? AND t.number = ?", study_id, number)
    return found[0] if found else None


def _trials(reader: Reader, which: str, *values: object) -> list[StoredTrial]:
    heads = reader.rows(
        "SELECT t.trial_id, t.number, t.state, t.datetime_start, t.datetime_complete FROM trials t "
        f"WHERE {which} ORDER BY t.number, t.trial_id",
        *values,
    )
    ends = _by_trial(reader, "trial_values", "objective, p.value, p.value_type", which, values)
    entries = "param_name, p.param_value, p.distribution_json"
    params = _by_trial(reader, "trial_params", entries, which, values, "param_id")
    steps = "step, p.intermediate_value, p.intermediate_value_type"
    reports = _by_trial(reader, "trial_intermediate_values", steps, which, values)
    attrs = _by_trial(reader, "trial_user_attributes", '"key", p.value_json', which, values)
    paused = _paused(reader, which, *values)
    with reader.making_sense():
        return [
            StoredTrial(
                trial_id=number,
                number=place,
                state=PAUSED_STATE if number in paused else str(state),
                values=tuple(
                    _number(value, kind) for _, value, kind in sorted(ends[number], key=lambda row: row[0])
                ),
                hparams=with_planned(
                    {name: _hparam(value, text) for name, value, text in params[number]}, user_attrs
                ),
                reports={step: _number(value, kind) for step, value, kind in reports[number]},
                user_attrs=user_attrs,
                started=_moment(started),
                ended=_moment(ended),
            )
            for number, place, state, started, ended in heads
            for user_attrs in [{key: json.loads(text) for key, text in attrs[number]}]
        ]


def _paused(reader: Reader, which: str, *values: object) -> dict[int, tuple[int, int, int]]:
    """Returns study, number and last epoch of the trials that wait to be resumed, by id."""
    if not reader.has_table("hpsearch_lease"):
        return {}
    found = reader.rows(
        "SELECT t.trial_id, t.study_id, t.number, a.value_json FROM trials t "
        "JOIN hpsearch_lease l ON l.trial_id = t.trial_id AND l.study_id = t.study_id "
        'JOIN trial_user_attributes a ON a.trial_id = t.trial_id AND a."key" = ? '
        f"WHERE l.driver = ? AND NOT l.done AND t.state = ? AND {which}",
        *(PAUSED, PAUSED_LEASE, "RUNNING", *values),
    )
    with reader.making_sense():
        return {trial: (study, number, int(json.loads(epoch))) for trial, study, number, epoch in found}


def _by_trial(
    reader: Reader, table: str, columns: str, which: str, values: Sequence[object], order: str = ""
) -> Mapping[int, list[Sequence[Any]]]:
    query = f"SELECT p.trial_id, p.{columns} FROM {table} p JOIN trials t ON t.trial_id = p.trial_id WHERE {which}"
    found: dict[int, list[Sequence[Any]]] = defaultdict(list)
    for number, *row in reader.rows(query + (f" ORDER BY p.{order}" if order else ""), *values):
        found[number].append(row)
    return found


_NUMBERS = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}


def _number(value: float | None, kind: str) -> float:
    return _NUMBERS[kind] if kind in _NUMBERS else float(value)  # type: ignore[arg-type]


def _hparam(value: float, text: str) -> Any:
    """Returns a hyperparameter as it was sampled: Optuna stores a number, and with each how to read it."""
    entry = json.loads(text)
    kind, attrs = entry.get("name", entry.get("type")), entry.get("attributes", entry)
    if kind in ("CategoricalDistribution", "categorical"):
        return attrs["choices"][int(value)]
    return int(value) if str(kind).lower().startswith("int") else float(value)


def _moment(value: Any) -> datetime | None:
    """Returns a time, which Optuna stores in UTC without a zone; SQLite has it as text."""
    found = datetime.fromisoformat(value) if isinstance(value, str) else value
    return None if found is None else found.replace(tzinfo=UTC)


def count_trials(reader: Reader, foreign: Mapping[int, Mapping[int, str]]) -> dict[int, TrialCounts]:
    """Returns the counts of all studies with trials, by the study's id: no curve is read.

    Args:
        foreign: trials that are left out, by study and id.
    """
    states: dict[int, dict[str, int]] = defaultdict(dict)
    for number, state, count in reader.rows(
        "SELECT study_id, state, count(*) FROM trials GROUP BY study_id, state"
    ):
        states[number][str(state)] = count
    paused: dict[int, dict[int, int]] = defaultdict(dict)
    for study, number, epoch in _paused(reader, "1 = 1").values():
        paused[study][number] = epoch
    spans = reader.rows(
        "SELECT study_id, min(datetime_start), max(datetime_complete) FROM trials GROUP BY study_id"
    )
    values = (
        "SELECT t.study_id, {} FROM trials t JOIN trial_values v ON v.trial_id = t.trial_id AND v.objective = 0 "
        "WHERE t.state = ?"
    )
    extremes: dict[int, tuple[Any, Any]] = {
        number: (low, high)
        for number, low, high in reader.rows(
            f"{values.format('min(v.value), max(v.value)')} GROUP BY t.study_id", "COMPLETE"
        )
    }
    for number, others in foreign.items():
        for state in others.values():
            states[number][state] -= 1
        states[number] = {state: count for state, count in states[number].items() if count > 0}
        found = reader.rows(f"{values.format('t.trial_id, v.value')} AND t.study_id = ?", "COMPLETE", number)
        own = [value for _, trial, value in found if trial not in others and value is not None]
        extremes[number] = (min(own, default=None), max(own, default=None))
    for number, waiting in paused.items():
        running = states[number].pop("RUNNING", 0) - len(waiting)
        states[number] |= {"RUNNING": running} if running > 0 else {}
        states[number][PAUSED_STATE] = len(waiting)
    continuing = (
        "SELECT t.study_id, count(*) FROM trials t JOIN trial_user_attributes a ON a.trial_id = t.trial_id "
        'WHERE a."key" = ? GROUP BY t.study_id'
    )
    continued = {int(row[0]): int(row[1]) for row in reader.rows(continuing, CONTINUES)}
    with reader.making_sense():
        return {
            number: TrialCounts(
                states[number],
                paused[number],
                *extremes.get(number, (None, None)),
                started=_moment(first),
                ended=_moment(last),
                continued=continued.get(number, 0),
            )
            for number, first, last in spans
        }


def complete_values(reader: Reader, study_id: int, objective: int = 0) -> list[tuple[int, int, float]]:
    """Returns (id, number, value) of the COMPLETE trials of a study with a finite value, by number."""
    found = reader.rows(
        "SELECT t.trial_id, t.number, v.value FROM trials t JOIN trial_values v ON v.trial_id = t.trial_id "
        "WHERE t.study_id = ? AND t.state = ? AND v.objective = ? AND v.value IS NOT NULL ORDER BY t.number",
        study_id,
        "COMPLETE",
        objective,
    )
    return [(number, place, float(value)) for number, place, value in found]


def complete_attribute(reader: Reader, study_id: int, key: str) -> dict[int, Any]:
    """Returns one user attribute of a study's COMPLETE trials by number, None where it is missing."""
    found = reader.rows(
        "SELECT t.number, a.value_json FROM trials t LEFT JOIN trial_user_attributes a "
        'ON a.trial_id = t.trial_id AND a."key" = ? WHERE t.study_id = ? AND t.state = ?',
        key,
        study_id,
        "COMPLETE",
    )
    with reader.making_sense():
        return {number: None if text is None else json.loads(text) for number, text in found}


def attribute_sum(reader: Reader, study_id: int, key: str) -> float:
    """Returns the sum of a user attribute over a study's trials; those without a number count nothing."""
    found = reader.rows(
        "SELECT a.value_json FROM trial_user_attributes a JOIN trials t ON t.trial_id = a.trial_id "
        'WHERE t.study_id = ? AND a."key" = ?',
        study_id,
        key,
    )
    with reader.making_sense():
        values = [json.loads(text) for (text,) in found]
    return sum(value for value in values if isinstance(value, int | float))


def infeasible_trials(reader: Reader, study_id: int) -> set[int]:
    """Returns the ids of the trials that violate a constraint of Optuna's, which are never the best."""
    found = reader.rows(
        "SELECT t.trial_id, a.value_json FROM trials t JOIN trial_system_attributes a ON a.trial_id = t.trial_id "
        'WHERE t.study_id = ? AND (a."key" = ? OR a."key" LIKE ?)',
        study_id,
        "constraints",  # a list, by `constraints_func`
        "constraints:%",  # one value, by `Trial.set_constraint`
    )
    with reader.making_sense():
        values = [(trial, json.loads(text) or 0.0) for trial, text in found]
        return {trial for trial, value in values if (max(value) if isinstance(value, list) else value) > 0}


def artifacts(reader: Reader, study_id: int, elsewhere: bool = False) -> frozenset[str]:
    """Returns the attributes by which a study and its trials name artifacts, or by which all others do."""
    of = "<>" if elsewhere else "="
    found = reader.rows(
        f'SELECT "key" FROM study_system_attributes WHERE study_id {of} ? AND "key" LIKE ? UNION '
        'SELECT a."key" FROM trial_system_attributes a JOIN trials t ON t.trial_id = a.trial_id '
        f'WHERE t.study_id {of} ? AND a."key" LIKE ?',
        *(study_id, f"{ARTIFACT}%") * 2,
    )
    return frozenset(key for (key,) in found)


def study_of_trial(reader: Reader, trial_id: int) -> int | None:
    """Returns the id of a trial's study."""
    found = reader.rows("SELECT study_id FROM trials WHERE trial_id = ?", trial_id)
    return found[0][0] if found else None


def first_starts(reader: Reader) -> dict[int, tuple[str, datetime | None]]:
    """Returns what tells a study from a later one of the same id: its name, and when its first trial began."""
    found = reader.rows(
        "SELECT s.study_id, s.study_name, t.datetime_start FROM studies s "
        "LEFT JOIN trials t ON t.study_id = s.study_id AND t.number = 0"
    )
    with reader.making_sense():
        return {number: (str(name), _moment(begun)) for number, name, begun in found}


def foreign_trials(reader: Reader, study_id: int | None = None) -> dict[int, dict[int, str]]:
    """Returns the foreign trials of hpsearch's studies, their states by id, by study: of one, or of all."""
    found: dict[int, dict[int, str]] = defaultdict(dict)
    for study, trial, state in _unmarked(reader, study_id):
        found[study][trial] = str(state)
    if found and reader.has_table("hpsearch_lease"):
        for study, trial in reader.rows(
            "SELECT study_id, trial_id FROM hpsearch_lease WHERE trial_id IS NOT NULL"
        ):
            found.get(study, {}).pop(trial, None)
    for study, others in found.items():
        search = _search(reader, study) if others else None
        for trial in _told_like_ours(reader, study) if others else ():
            if trial.trial_id in others and is_record(trial.state, trial.hparams, trial.user_attrs, search):
                del others[trial.trial_id]
    return {study: others for study, others in found.items() if others}


def _unmarked(reader: Reader, study_id: int | None) -> Sequence[Sequence[Any]]:
    query = (
        "SELECT t.study_id, t.trial_id, t.state FROM trials t "
        'JOIN study_user_attributes s ON s.study_id = t.study_id AND s."key" = ? AND s.value_json LIKE ? '
        'LEFT JOIN study_system_attributes token ON token.study_id = t.study_id AND token."key" = ? '
        'LEFT JOIN trial_system_attributes mark ON mark.trial_id = t.trial_id AND mark."key" = ? '
        "WHERE t.state <> ? AND (mark.value_json IS NULL OR token.value_json IS NULL "
        "OR mark.value_json <> token.value_json)"
    )
    values = (SPECIFICATION, '"{%', TOKEN, MARK, "WAITING")
    if study_id is None:
        return reader.rows(query, *values)
    return reader.rows(f"{query} AND t.study_id = ?", *values, study_id)


def _told_like_ours(reader: Reader, study_id: int) -> list[StoredTrial]:
    reasons = [json.dumps(kind.value) for kind in StopKind]
    told = (
        't.study_id = ? AND t.trial_id IN (SELECT u.trial_id FROM trial_user_attributes u WHERE u."key" = ? '
        f"AND u.value_json IN ({', '.join('?' * len(reasons))}))"
    )
    return _trials(reader, told, study_id, "stop_reason", *reasons)


def _search(reader: Reader, study_id: int) -> Mapping[str, Entry] | None:
    query = 'SELECT value_json FROM study_user_attributes WHERE study_id = ? AND "key" = ?'
    try:
        return parse_stored(json.loads(reader.rows(query, study_id, SPECIFICATION)[0][0])).search
    except (LookupError, TypeError, ValueError, StudyFileError):  # of another version
        return None


def is_record(
    state: str, hparams: Mapping[str, Any], attrs: Mapping[str, Any], search: Mapping[str, Entry] | None
) -> bool:
    """Says whether a trial without a mark is one that an older version finished, in a copy of its study.

    Args:
        search: the search space, None if it cannot be read.
    """
    numbers = [attrs.get(name) for name in ("attempt", "epochs_run")]
    return (
        state in FINISHED
        and (search is None or _without_given(hparams, attrs, search) == meaningful(search, hparams).keys())
        and attrs.get("stop_reason") in list(StopKind)
        and all(isinstance(number, int) for number in numbers)
        and isinstance(attrs.get("score", ""), float | int | None)
    )


def _without_given(
    hparams: Mapping[str, Any], attrs: Mapping[str, Any], search: Mapping[str, Entry]
) -> Set[str]:
    """Returns the names of the hyperparameters that were sampled: `epochs` may have been given beside them."""
    return hparams.keys() - ({"epochs"} - search.keys() if PLANNED in attrs else set())


def drivers(reader: Reader, study_id: int, lease_seconds: float = 60.0) -> list[DriverRow]:
    """Returns a study's drivers, those that were seen last first; none where hpsearch has never run."""
    if not reader.has_table("hpsearch_driver"):
        return []
    now = server_time(reader)
    found = reader.rows(
        "SELECT host, pid, started, id, devices, workers, seen FROM hpsearch_driver WHERE study_id = ? "
        "ORDER BY seen DESC",
        study_id,
    )
    return [
        driver_row(DriverIdentity(host, pid, started, name), devices, workers, seen, now, lease_seconds)
        for host, pid, started, name, devices, workers, seen in found
    ]


def server_time(reader: Reader) -> float:
    """Returns seconds since the epoch by the database server's clock; an SQLite file has only this machine's."""
    clock = CLOCKS.get(reader.kind)
    return time.time() if clock is None else float(reader.rows(clock)[0][0])


CLOCKS = {
    "postgresql": "SELECT extract(epoch FROM clock_timestamp())",
    # Not UNIX_TIMESTAMP(NOW(6)), which jumps by an hour when the server's zone ends its summer time.
    "mysql": "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) / 1e6",
}
"""The clocks of machines differ, so the server's clock decides."""
