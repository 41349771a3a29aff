"""Computes what the dashboard should show of a study: a process that only reads the database.

    python -m hpsearch.results.dashboard.publication

The driver's process starts it at the first publication and writes what it hands back. Requests come through
stdin, one JSON object a line, since a storage URL may hold a password and arguments can be read by every user
of the machine. Each answer goes into an open file that both have, since a pipe would block until somebody has
read it all; a line of stdout says that it is there, or what went wrong. The process ends with its driver, also
in the middle of an answer.

What is stored are the system attributes of optuna-dashboard 0.21 and of Optuna's artifacts, in their form.
Their own functions are not used: importing optuna_dashboard takes two seconds, and they commit a figure in
pieces of 2,045 characters, one transaction each, so that a page may show half of it, whereas here a figure is
one transaction. The tests read everything back with those functions.
"""

import hashlib
import json
import logging
import math
import os
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hpsearch.errors import CheckpointError, HpsearchError
from hpsearch.files.run_folder import RunFolder
from hpsearch.results.dashboard.artifact import place_weights
from hpsearch.results.dashboard.notes import study_note, trial_note
from hpsearch.results.plots import charts
from hpsearch.results.plots.interactive import figure
from hpsearch.results.stored.best import BestTrial, best_trial
from hpsearch.results.stored.reading import reading_study
from hpsearch.results.stored.study import StudyRecord
from hpsearch.service.worker import leave_with_driver
from hpsearch.store import queries
from hpsearch.store.keys import is_artifact
from hpsearch.store.url import DEFAULT_STORAGE, absolute

logger = logging.getLogger(__name__)

PIECE = 2045  # characters in one attribute: optuna-dashboard's limit
TOP_NOTES = 10
STEP_BACK = 10  # how far this process steps back behind training, as `nice` counts
BEST_ARTIFACT = "hpsearch:best_artifact"
NOTE_DIGEST = "hpsearch:note:"
"""Remembers what a note said when we wrote it, so that one that a person has changed is left alone."""


@dataclass(frozen=True, slots=True)
class PublicationRequest:
    """What to compute.

    Attributes:
        run_folder: holds the weights of this machine's trials and the dashboard's artifact store.
        output: descriptor of the open file that the answer goes into, which the driver reads too; -1 where the
            process that computes writes into the database itself.
    """

    storage: str = field(repr=False)
    study: str
    run_folder: str
    output: int = -1


@dataclass(frozen=True, slots=True)
class Change:
    """System attributes of the study that belong together: they are written in one transaction.

    Attributes:
        what: for messages, such as "graph learning-curves".
        attrs: to be set.
        removed: keys to be removed.
        files: artifacts to be deleted once this is written.
    """

    what: str
    attrs: Mapping[str, Any]
    removed: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Publication:
    """What was computed.

    Attributes:
        warnings: sentences about what could not be published.
    """

    changes: tuple[Change, ...] = ()
    warnings: tuple[str, ...] = ()


def changes(record: StudyRecord, stored: Mapping[str, Any]) -> Iterator[Change]:
    """Yields the graphs and notes that differ from what the dashboard shows now.

    Args:
        stored: the study's system attributes.
    """
    found = [_note("dashboard", study_note(record), stored)]
    notes = {
        f"dashboard:{trial.trial_id}": trial_note(record, trial, rank)
        for rank, trial in enumerate(record.ranked, start=1)
        if rank <= TOP_NOTES or record.mark(trial)
    }
    found += [_note(owner, text, stored) for owner, text in notes.items()]
    found += [
        _no_note(key.removeprefix(NOTE_DIGEST), stored)
        for key in stored
        if key.startswith(f"{NOTE_DIGEST}dashboard:") and key.removeprefix(NOTE_DIGEST) not in notes
    ]
    found += [_graph(chart.id, json.dumps(figure(chart)), stored) for chart in charts(record)]
    yield from (change for change in found if change is not None)


def _graph(name: str, text: str, stored: Mapping[str, Any]) -> Change | None:
    prefix = f"dashboard:plot_data:{name}:"
    attrs, surplus = _pieces(prefix, text, stored)
    if all(stored.get(key) == piece for key, piece in attrs.items()) and not surplus:
        return None
    return Change(f"graph {name}", attrs, surplus)


def _note(owner: str, text: str, stored: Mapping[str, Any]) -> Change | None:
    """Returns the change of a note, or None when it says so already or a person has written into it.

    Args:
        owner: "dashboard" for the study's own, "dashboard:<id>" for a trial's.
    """
    shown = _shown_note(owner, stored)
    if shown == text or (shown and stored.get(NOTE_DIGEST + owner) != _digest(shown)):
        return None
    attrs, surplus = _pieces(f"{owner}:note_str:", text, stored)
    version = f"{owner}:note_ver"
    marks = {version: int(stored.get(version, 0)) + 1, NOTE_DIGEST + owner: _digest(text)}
    return Change(f"note of {owner}", attrs | marks, surplus)


def _no_note(owner: str, stored: Mapping[str, Any]) -> Change | None:
    """Returns the removal of a note of a trial that is not among the best now, unless a person wrote it."""
    if stored.get(NOTE_DIGEST + owner) != _digest(_shown_note(owner, stored)):
        return None
    keys = (*_existing(f"{owner}:note_str:", stored), f"{owner}:note_ver", NOTE_DIGEST + owner)
    return Change(f"note of {owner}", {}, keys)


def _shown_note(owner: str, stored: Mapping[str, Any]) -> str:
    return "".join(str(stored[key]) for key in _existing(f"{owner}:note_str:", stored))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _pieces(prefix: str, text: str, stored: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns a long text as attributes, and the keys of older pieces that it does not need."""
    count = math.ceil(len(text) / PIECE)
    attrs = {f"{prefix}{i}": text[i * PIECE : (i + 1) * PIECE] for i in range(count)}
    return attrs, tuple(key for key in _existing(prefix, stored) if key not in attrs)


def _existing(prefix: str, stored: Mapping[str, Any]) -> list[str]:
    numbers = [key.removeprefix(prefix) for key in stored if key.startswith(prefix)]
    return [f"{prefix}{number}" for number in sorted((n for n in numbers if n.isdigit()), key=int)]


def _weights(
    record: StudyRecord, best: BestTrial | None, stored: Mapping[str, Any], runs: Path
) -> Change | None:
    """Puts the weights of the study's answer into the artifact store and returns the change that shows them.

    The bytes come first, whole under their name, then the row that offers them; Optuna's `upload_artifact`
    does it the other way round. The name is the same each time, so that a change that is never written leaves
    no second file behind.

    Raises:
        CheckpointError: what lies in the weights' place is not a file of weights.
    """
    known = stored.get(BEST_ARTIFACT)
    before = known if isinstance(known, Mapping) else {}
    if best is None or best.weights_of is None:
        return None
    study, number = best.weights_of.study, best.weights_of.trial
    if (before.get("study", record.name), before.get("trial")) == (study, number):
        return None
    folder = RunFolder(runs, study)
    name = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{record.storage}/{study}/{number}/{best.search_value!r}"))
    if not place_weights(folder, number, folder.artifacts / name):
        return None  # trained on another machine, or another driver has found a better one by now
    meta = {
        "artifact_id": name,
        "filename": f"{study}-trial-{number:05d}.safetensors",
        "mimetype": "application/octet-stream",
        "encoding": None,
    }
    shown = {"artifact": name, "study": study, "trial": number}
    attrs = {f"artifacts:{name}": json.dumps(meta), BEST_ARTIFACT: shown}
    old = before.get("artifact")
    if not isinstance(old, str) or not is_artifact(old) or old == name:
        return Change("best weights", attrs)
    return Change("best weights", attrs, (f"artifacts:{old}",), (str(folder.artifacts / old),))


def compute(request: PublicationRequest) -> Publication:
    """Reads the study and returns what the dashboard does not show yet.

    Raises:
        HpsearchError: the storage or the study.
        OSError: the artifact store cannot be written.
    """
    with reading_study(request.study, request.storage) as study:
        stored = study.system_attrs()
        elsewhere = queries.artifacts(study.reader, study.stored.study_id, elsewhere=True)
        record = study.record(url if (url := request.storage) == DEFAULT_STORAGE else absolute(url))
        best = best_trial(study, Path(request.run_folder))
    found: list[Change] = list(changes(record, stored))
    warnings: list[str] = []
    try:
        weights = _weights(record, best, stored, Path(request.run_folder))
    except CheckpointError as error:  # the graphs are worth showing without
        warnings.append(str(error))
    else:
        if weights is not None:  # a copy of the study may name the old artifact
            keep = any(key in elsewhere for key in weights.removed)
            found.insert(0, replace(weights, files=()) if keep else weights)
    return Publication(tuple(found), tuple(warnings))


def answer(line: str) -> dict[str, str]:
    """Computes one request; returns what to say of it: {} when the answer is there, or an error."""
    request = PublicationRequest(**json.loads(line))
    try:
        found = compute(request)
    except (HpsearchError, OSError) as error:
        return {"error": str(error)}
    os.ftruncate(request.output, 0)
    with open(request.output, "wb", closefd=False) as file:
        file.seek(0)
        file.write(json.dumps(asdict(found)).encode())
    return {}


def main() -> None:
    """Answers requests until stdin ends."""
    os.nice(STEP_BACK)
    watch = (sys.stdin.fileno(), os.getppid())
    threading.Thread(target=leave_with_driver, args=watch, daemon=True).start()
    for line in sys.stdin:
        print(json.dumps(answer(line)), flush=True)


if __name__ == "__main__":
    main()
