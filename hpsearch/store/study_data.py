"""The data and the code that a study began with, kept with it, so that what has changed is noticed later."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from optuna.storages import RDBStorage

from hpsearch.errors import DataError
from hpsearch.store.connection import translated
from hpsearch.store.keys import SAMPLE
from hpsearch.study.checks import DataFacts

DATA = "data"
"""The study's user attribute: `DataFacts` as a table, with the digest over content, labels and split."""

CODE = "code"
"""The study's user attribute: digests of the sources of the user's own modules, by what the study names of them."""

MOST_NAMES = 1_000
"""Names of classes that are kept: MariaDB's TEXT takes 64 kB."""


class DataRecord:
    """What the study's user attribute says of the data, and what is to be written there."""

    def __init__(self) -> None:
        self._stored: Mapping[str, Any] | None = None
        self._fresh: DataFacts | None = None
        self._code: Mapping[str, str] = {}
        self._fresh_code: dict[str, str] = {}
        self._pictures: tuple[str, ...] = ()

    @property
    def unwritten(self) -> bool:
        """Whether there is a record to be written."""
        return self._fresh is not None or bool(self._fresh_code) or bool(self._pictures)

    @property
    def attrs(self) -> dict[str, Any]:
        """The record as the study's user attribute, if there is one."""
        known = _table(self._fresh) if self._fresh is not None else self._stored
        return {} if known is None else {DATA: known}

    @property
    def facts(self) -> DataFacts | None:
        """What is known of the data."""
        known = self.attrs.get(DATA)
        names = {one.name for one in fields(DataFacts)}
        return known and DataFacts(**{name: value for name, value in known.items() if name in names})

    def load(self, attrs: Mapping[str, Any]) -> None:
        """Reads the record among the study's user attributes, if an earlier run has left one."""
        self._stored = attrs.get(DATA)
        self._code = attrs.get(CODE) or {}

    def changed_code(self, digests: Mapping[str, str]) -> list[str]:
        """Returns a sentence for each of the user's modules whose source is not that which the study began with."""
        self._fresh_code |= {name: one for name, one in digests.items() if name not in self._code}
        return [
            f"the source of {name.partition(':')[0]} ({name}) has changed since the study began, so trials may not "
            "be comparable; put the old one back, or give the study another name"
            for name, one in digests.items()
            if self._code.get(name, one) != one
        ]

    def keep_pictures(self, pictures: tuple[str, ...]) -> None:
        """Takes training images, PNG files in base64, which are written if the study has none yet."""
        self._pictures = pictures or self._pictures

    def check(self, facts: DataFacts) -> None:
        """Compares the data that are there now with the record; without one, they are it.

        Raises:
            DataError: they have changed since the study began.
        """
        if self._stored is None:
            self._fresh = facts
        elif self._stored["digest"] != facts.digest:
            raise DataError(_changed(self._stored, facts))

    def check_parts(self, facts: DataFacts) -> None:
        """Compares images, labels and split alone: not the files that training starts from, nor with no record.

        Raises:
            DataError: they have changed since the study began.
        """
        known = (self._stored or {}).get("digests")
        if known and known != dict(facts.digests):
            assert self._stored is not None
            raise DataError(_changed(self._stored, facts))

    def write(self, storage: RDBStorage, study_id: int) -> None:
        """Writes the record if there is a new one and another driver has not written its own meanwhile.

        Raises:
            StorageAway: the database does not answer; the call may be repeated.
            DataError: another driver's data differ.
        """
        if self._fresh_code:
            with translated(storage):
                known = storage.get_study_user_attrs(study_id).get(CODE) or {}
                self._code = {**self._fresh_code, **known}
                storage.set_study_user_attr(study_id, CODE, self._code)
            self._fresh_code = {}
        if self._pictures:
            with translated(storage):
                known = storage.get_study_system_attrs(study_id)
                for place, png in enumerate(self._pictures if f"{SAMPLE}0" not in known else ()):
                    storage.set_study_system_attr(study_id, f"{SAMPLE}{place}", png)
            self._pictures = ()
        if self._fresh is None:
            return
        with translated(storage):
            self.load(storage.get_study_user_attrs(study_id))
            if self._stored is None:
                storage.set_study_user_attr(study_id, DATA, _table(self._fresh))
        fresh, self._fresh = self._fresh, None
        self.check(fresh)


def _table(facts: DataFacts) -> dict[str, Any]:
    known = asdict(facts) | {"classes": list(facts.classes[:MOST_NAMES]), "notes": list(facts.notes)}
    return {name: value for name, value in known.items() if name != "class_counts"}  # one for each class


def _changed(stored: Mapping[str, Any], facts: DataFacts) -> str:
    """Returns a sentence that says what the two differ in, as far as the record shows it."""
    now = _table(facts)
    if stored["val"] and not facts.val:  # a refit, which joins the search's two parts
        stored = {**stored, "train": stored["train"] + stored["val"], "val": 0}
    names = ("train", "val", "test", "classes", "channels", "task")
    parts = [f"{name} {_shown(stored[name])}, now {_shown(now[name])}" for name in names]
    different = [part for part, name in zip(parts, names, strict=True) if stored[name] != now[name]]
    what = "; ".join(different) or f"as many of them, but other {_first_changed(stored, facts)}"
    return (
        f"data.dataset: the data are not those that the study began with ({what}), so its trials could not be "
        "compared; put the old data back, or give the study another name"
    )


def _first_changed(stored: Mapping[str, Any], facts: DataFacts) -> str:
    known = stored.get("digests", {})
    changed = [name for name, digest in facts.digests.items() if known.get(name) != digest]
    return changed[0].replace("split", "parts") if changed else "images, labels or parts"


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
