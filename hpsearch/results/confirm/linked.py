"""What a confirmation keeps in the studies' user attributes.

Those of the search: `test_openings` (a list of who opened the test part when, written before it is opened)
and `confirm_summary`. Those of the linked study: the test's results, so that a configuration that was tested
is not tested again, and small pictures of what was taken for another class.
"""

import getpass
import json
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from hpsearch.errors import StudyNotFound, UserError
from hpsearch.results.stored.attributes import decoded, readable
from hpsearch.results.stored.reading import read_study, reading_study
from hpsearch.results.stored.study import StudyRecord
from hpsearch.service.opening import create_or_find
from hpsearch.store import queries
from hpsearch.store.connection import opened, translated
from hpsearch.store.keys import is_confirmation
from hpsearch.store.reader import read_database
from hpsearch.store.study_data import CODE, DATA
from hpsearch.study.specification import StudySpec

OPENINGS = "test_openings"
RESULTS, DETAILS = "test_results", "test_details:"
PICTURE = "hpsearch:test_picture:"
"""Prefix of the linked study's system attributes that hold pictures of test samples, by the sample. One for all
would not fit into a column of MySQL; as user attributes the dashboard would list them and send them anew with
every refresh."""


def read_linked(record: StudyRecord, suffix: str, url: str) -> StudyRecord | None:
    """Returns the study that a search and a suffix name; None if there is none yet.

    Raises:
        StorageError, StorageAway: the database.
    """
    try:
        return read_study(record.name + suffix, url)
    except StudyNotFound:
        return None


def set_attrs(url: str, name: str, attrs: Mapping[str, Any]) -> None:
    """Writes user attributes of a study.

    Raises:
        StorageError, StorageAway: the database.
    """
    with opened(url, readonly=False) as storage, translated(storage):
        study_id = storage.get_study_id_from_name(name)
        for key, value in attrs.items():
            storage.set_study_user_attr(study_id, key, value)


def inherit_data(record: StudyRecord, spec: StudySpec, url: str) -> None:
    """Lets the linked study begin with the search's record of its data and code, so that its run refuses others.

    Makes the linked study if there is none yet. A search without a record, of an older version, gives none.

    Raises:
        UserError: the linked study was trained on other data than the search.
        StorageError, StorageAway: the database.
    """
    known = {key: record.attrs[key] for key in (DATA, CODE) if record.attrs.get(key)}
    if not known:
        return
    with opened(url, readonly=False) as storage, translated(storage):
        study_id, _ = create_or_find(storage, spec)
        attrs = storage.get_study_user_attrs(study_id)
        if not is_confirmation(attrs):
            return  # the run refuses it in its own words
        for key, value in known.items():
            if not attrs.get(key):
                storage.set_study_user_attr(study_id, key, value)
        if DATA in known and attrs.get(DATA) and attrs[DATA]["digest"] != known[DATA]["digest"]:
            name = spec.study.name
            raise UserError(
                f'study "{name}" was trained on other data than the search "{record.name}"; delete it (`hpsearch '
                f"delete {name}`), put the search's data back, and {'refit' if spec.is_refit else 'confirm'} again"
            )


def set_pictures(url: str, name: str, pictures: Mapping[int, str]) -> None:
    """Keeps pictures of test samples, PNG files in base64, with the linked study.

    Raises:
        StorageError, StorageAway: the database.
    """
    with opened(url, readonly=False) as storage, translated(storage):
        study_id = storage.get_study_id_from_name(name)
        for sample, png in pictures.items():
            storage.set_study_system_attr(study_id, f"{PICTURE}{sample}", png)


def read_pictures(name: str, url: str, kind: str = PICTURE) -> dict[int, str]:
    """Returns the pictures that a study holds, by number; none if there is no such study.

    Args:
        kind: how their attributes begin: test samples of a linked study, `SAMPLE` for a search's training images.
    """
    with read_database(url) as reader:
        numbers = {study.name: study.study_id for study in queries.studies(reader)}
        attrs = queries.system_attrs(reader, numbers[name]) if name in numbers else {}
    return {int(key.removeprefix(kind)): png for key, png in attrs.items() if key.startswith(kind)}


def read_results(linked: StudyRecord) -> dict[str, dict[str, float]]:
    """Returns the metrics on the test part by the number of the linked study's trial, as text.

    Raises:
        StorageError: they are damaged.
    """
    found = decoded(linked.name, linked.attrs, RESULTS, dict, {})
    with readable(linked.name, RESULTS):
        return {str(int(trial)): {**metrics} for trial, metrics in found.items()}


def earlier_openings(name: str, url: str) -> list[dict[str, Any]]:
    """Returns the openings of the test part that are on a study's record."""
    with reading_study(name, url) as study:
        found = decoded(name, study.attrs, OPENINGS, list, [])
        with readable(name, OPENINGS):
            return [{**opening, "time": str(opening["time"])} for opening in found]


def record_opening(record: StudyRecord, url: str, facts: Mapping[str, Any]) -> list[str]:
    """Puts an opening of the test part on a study's record; returns the warning that earlier ones call for.

    Args:
        facts: which configurations, how many models, the digest of the data.
    """
    before = earlier_openings(record.name, url)
    opening = {
        "time": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "host": socket.gethostname(),
        "user": _user(),
        "digest": record.attrs.get("digest", ""),
        **facts,
    }
    set_attrs(url, record.name, {OPENINGS: json.dumps([*before, opening])})
    if not before:
        return []
    times = f"{len(before)} times" if len(before) > 1 else "once"
    return [
        f"warning: the test part was opened {times} before, last at {before[-1]['time']}: its estimate "
        "is optimistically biased for whatever was chosen since"
    ]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid()) if hasattr(os, "getuid") else "?"
