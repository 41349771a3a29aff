"""What a driver remembers of its study, should the database lose it: deleted, replaced, an older copy put back.

The driver writes it beside the database's files, `runs/STUDY/unsaved-*.jsonl`: a line about the study, then one
for each trial. The next run of the study brings back what the database lacks, under the same numbers, and takes
up the trials that were running from their checkpoints.
"""

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from pydantic import BaseModel, FiniteFloat, NonNegativeInt, PositiveInt, ValidationError

from hpsearch.errors import StudyFileError, refusing
from hpsearch.files.atomic import replaced
from hpsearch.files.paths import regular
from hpsearch.store.connection import translated
from hpsearch.store.keys import ATTEMPT, MARK, SPECIFICATION, TOKEN
from hpsearch.store.trials import create_study
from hpsearch.store.writes import TrialWriter, whole
from hpsearch.study.file import is_same_study
from hpsearch.study.specification import StudySpec
from hpsearch.text import counted

FORMAT = 1
_MOST_FOREIGN = 100_000  # numbers in a row of which a file knows nothing: another program's trials
_GRAPHS = "dashboard:plot_data"
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Archive:
    """The ended and the paused trials of one study as they were last known, compressed: a few kB each."""

    def __init__(self) -> None:
        self._attrs: Mapping[str, Any] = {}
        self._system: Mapping[str, Any] = {}
        self._lines: dict[int, bytes] = {}

    def know_study(self, attrs: Mapping[str, Any], system: Mapping[str, Any]) -> None:
        """Takes note of the study's user and system attributes; graphs are drawn again anyway."""
        self._attrs = dict(attrs)
        self._system = {key: value for key, value in system.items() if not key.startswith(_GRAPHS)}

    def add(self, trial: FrozenTrial) -> None:
        """Takes note of a trial as it is stored, or is going to be."""
        self._lines[trial.number] = zlib.compress(json.dumps(_row(trial)).encode(), 1)

    def write(self, path: Path, name: str, changes: Mapping[str, Any], running: Iterable[FrozenTrial]) -> int:
        """Writes all that is known into a new file; returns the number of finished trials in it.

        A trial that was resumed after a pause is written as it was when it paused: its checkpoint knows the rest.

        Args:
            name: of the study.
            changes: user attributes of the study that are newer than those known.
            running: trials that have not ended, to be taken up from their checkpoints where nothing else is known.

        Raises:
            OSError: the file cannot be written.
        """
        attrs = {**self._attrs, **changes}
        head = {"format": FORMAT, "study": name, "attributes": attrs, "system_attributes": self._system}
        known = {number: zlib.decompress(line).decode() for number, line in self._lines.items()}
        lines = {trial.number: json.dumps(_row(trial)) for trial in running} | known
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as beside, beside.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in (json.dumps(head), *(lines[n] for n in sorted(lines))))
        return sum(json.loads(line)["state"] != TrialState.RUNNING.name for line in known.values())


_Line = TypeVar("_Line", bound=BaseModel)


class _Head(BaseModel, strict=True):
    """The file's first line."""

    format: Literal[1]
    attributes: dict[str, Any]
    system_attributes: dict[str, Any]


class _Row(BaseModel, strict=True):
    """A line about a trial; times are in seconds since 1970."""

    number: NonNegativeInt
    state: Literal["RUNNING", "WAITING", "COMPLETE", "PRUNED", "FAIL"]
    value: FiniteFloat | None
    beside: list[FiniteFloat] = []
    params: dict[str, FiniteFloat | int | bool | str | None]
    distributions: dict[str, str]
    values: list[tuple[PositiveInt, float]]
    attributes: dict[str, Any]
    system_attributes: dict[str, Any]
    started: FiniteFloat | None
    ended: FiniteFloat | None


def _row(trial: FrozenTrial) -> dict[str, Any]:
    started, ended = trial.datetime_start, trial.datetime_complete
    return {
        "number": trial.number,
        "state": trial.state.name,
        "value": trial.values[0] if trial.values else None,
        "beside": trial.values[1:] if trial.values else [],
        "params": dict(trial.params),
        "distributions": {name: distribution_to_json(one) for name, one in trial.distributions.items()},
        "values": sorted(trial.intermediate_values.items()),
        "attributes": trial.user_attrs,
        "system_attributes": trial.system_attrs,
        "started": started and started.timestamp(),
        "ended": ended and ended.timestamp(),
    }


def _trial(row: _Row) -> FrozenTrial:
    trial = create_trial(
        state=TrialState[row.state],
        values=None if row.value is None else [row.value, *row.beside],
        params=row.params,
        distributions={name: json_to_distribution(text) for name, text in row.distributions.items()},
        intermediate_values=dict(row.values),
        user_attrs=row.attributes,
        system_attrs=row.system_attributes,
    )
    trial.number = row.number
    trial.datetime_start = None if row.started is None else datetime.fromtimestamp(row.started)
    trial.datetime_complete = None if row.ended is None else datetime.fromtimestamp(row.ended)
    return trial


def restore(storage: RDBStorage, spec: StudySpec, path: Path) -> int:
    """Puts into the database what it lacks of a file that `Archive.write` made; returns how many trials.

    May be called again after a crash: what is there is left as it is.

    Raises:
        StudyFileError: the file cannot be read, or holds a study of another specification.
        StorageAway: the database does not answer.
    """
    head, trials = _read(path, spec)
    with translated(storage):
        study_id = _study(storage, spec, head)
        token = storage.get_study_system_attrs(study_id).get(TOKEN)
        stored = storage.get_all_trials(study_id, deepcopy=False)
        was, restored = head.system_attributes.get(TOKEN), 0
        for number in range(max((trial.number for trial in trials.values()), default=-1) + 1):
            # Another program's, which was still running: it only keeps the number.
            trial = trials.get(number, create_trial(state=TrialState.FAIL))
            if trial.system_attrs.get(MARK) == was:
                trial.system_attrs[MARK] = token
            restored += _put(storage, study_id, stored, number, trial)
    return restored


def _read(path: Path, spec: StudySpec) -> tuple[_Head, dict[int, FrozenTrial]]:
    remedy = "put the old study file back, or remove this file, and its trials are lost"
    place = 0

    def refusal(reason: str) -> StudyFileError:
        where = f"line {place}" if place else "it"
        return StudyFileError(
            f"{path}: it holds unsaved trials, but {where} cannot be read: {reason}; {remedy}"
        )

    trials: dict[int, FrozenTrial] = {}
    with refusing(refusal):
        first, *rows = regular(path).read_text(encoding="utf-8").splitlines() or [""]
        place = 1
        head = _parsed(_Head, first)
        same = is_same_study(head.attributes[SPECIFICATION], spec)
        for place, line in enumerate(rows, start=2):  # noqa: B007
            trial = _trial(_parsed(_Row, line))
            if trial.number > len(rows) + _MOST_FOREIGN:
                raise ValueError(
                    f"number {trial.number} is too large for a file of {counted(len(rows), 'trial')}"
                )
            trials[trial.number] = trial
    if not same:
        raise StudyFileError(
            f'{path}: it holds {counted(len(trials), "unsaved trial")} of a study "{spec.study.name}" with another '
            f"specification; {remedy}"
        )
    return head, trials


def _parsed(kind: type[_Line], line: str) -> _Line:
    """Reads a line.

    Raises:
        ValueError: naming the first field that is wrong.
    """
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ValueError(f"{field}: {first['msg']}" if field else str(first["msg"])) from None


def _study(storage: RDBStorage, spec: StudySpec, head: _Head) -> int:
    names = {study.study_name: study._study_id for study in storage.get_all_studies()}
    if spec.study.name in names:
        return names[spec.study.name]
    study_id = create_study(storage, spec)
    for key, value in head.system_attributes.items():
        storage.set_study_system_attr(study_id, key, value)
    for key, value in head.attributes.items():
        storage.set_study_user_attr(study_id, key, value)
    return study_id


def _put(
    storage: RDBStorage, study_id: int, stored: list[FrozenTrial], number: int, trial: FrozenTrial
) -> bool:
    """Writes a trial if the database lacks it, or its end; says whether it did."""
    there = stored[number] if number < len(stored) else None
    if there is not None and there.params in ({}, trial.params):
        if there.state.is_finished() or not trial.state.is_finished():
            return False
        # One that was begun under this number before the loss was noticed has no hyperparameters yet.
        TrialWriter(storage).write([*whole(there._trial_id, trial)])
        return True
    if there is not None and any(other.params == trial.params for other in stored):
        return False
    if there is not None and trial.user_attrs.get("weights"):
        trial.user_attrs["weights"] = ""  # another trial has the number by which they were kept
    storage.create_new_trial(study_id, template_trial=trial)
    return True


def unfinished(
    number: int,
    params: Mapping[str, Any],
    space: Mapping[str, Any],
    token: str,
    attempt: int,
    values: Sequence[float] = (),
    attrs: Mapping[str, Any] = NOTHING,
) -> FrozenTrial:
    """Returns a trial that has not ended as the database has it, or is to have it again.

    Args:
        values: of its epochs; where it is resumed at once, its checkpoint knows them.
        attrs: its user attributes.
    """
    trial = create_trial(
        state=TrialState.RUNNING,
        params=dict(params),
        distributions={name: space[name] for name in params},
        user_attrs=dict(attrs),
        system_attrs={MARK: token, ATTEMPT: attempt},
        intermediate_values=dict(enumerate(values, start=1)),
    )
    trial.number = number
    return trial
