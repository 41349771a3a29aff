"""What the dashboard may not change about studies that hpsearch drives.

A driver is the only one that writes the trials of its studies: one that was ended by hand would be told a second
time, and a changed attribute would lie about how the trial was trained. A study that goes by another name leaves
its run folder and its study file behind. Optuna's own studies may be changed as Optuna's dashboard does it.
"""

import functools
import json
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import bottle
from optuna.storages import RDBStorage
from optuna_dashboard._bottle_util import json_api_view

from hpsearch.errors import HpsearchError, StorageAway, StudyNotFound
from hpsearch.results.stored.status import living_drivers
from hpsearch.store import queries
from hpsearch.store.connection import translated
from hpsearch.store.reader import reader_of

logger = logging.getLogger(__name__)

REASONS = {
    "/api/trials/<trial_id:int>/tell": (
        "hpsearch itself ends the trials of its studies: stop the study (hpsearch stop {study}) instead of "
        "ending a trial here"
    ),
    "/api/trials/<trial_id:int>/user-attrs": (
        "hpsearch itself writes the attributes of its studies' trials: write a note instead"
    ),
    "/api/studies/<study_id:int>/rename": (
        "a study of hpsearch keeps its name, which its study file and its run folder depend on"
    ),
}
"""optuna-dashboard's route -> why it is refused for a study that hpsearch drives."""

DELETION = "/api/studies/<study_id:int>"


class Driven:
    """A plugin of Bottle, on which optuna-dashboard is built.

    It stands behind the router, so that no way of writing a path leads around it.
    """

    name = "hpsearch-driven"
    api = 2

    def __init__(self, storage: RDBStorage) -> None:
        self._storage = storage

    def apply(self, callback: Callable[..., Any], route: Any) -> Callable[..., Any]:
        """Returns the function that answers a route in place of the dashboard's own."""
        callback = _in_sentences(callback, self._storage)
        if route.rule in REASONS:
            judge: Callable[..., str | None] = functools.partial(self._reason, REASONS[route.rule])
        elif (route.rule, route.method) == (DELETION, "DELETE"):
            judge = self._running
        else:
            return callback

        @functools.wraps(callback)
        def answer(**arguments: Any) -> Any:
            try:
                reason = judge(**arguments)
            except StorageAway as error:
                return _refusal(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
            return callback(**arguments) if reason is None else _refusal(HTTPStatus.FORBIDDEN, reason)

        return answer

    def _reason(self, reason: str, study_id: int | None = None, trial_id: int | None = None) -> str | None:
        number = study_id
        if trial_id is not None:
            with reader_of(self._storage) as reader:
                number = queries.study_of_trial(reader, trial_id)
        name = None if number is None else self._driven_name(number)
        return None if name is None else reason.format(study=name)

    def _running(self, study_id: int) -> str | None:
        name = self._driven_name(study_id)
        if name is None:
            return None
        with reader_of(self._storage) as reader:
            alive = living_drivers(reader, study_id)
        return f"the study is being run; stop it first: hpsearch stop {name}" if alive else None

    def _driven_name(self, study_id: int) -> str | None:
        """Returns a study's name; None when hpsearch did not make it, or there is none of this number."""
        with reader_of(self._storage) as reader:
            found = {study.study_id: study for study in queries.studies(reader)}.get(study_id)
        return found.name if found is not None and found.is_ours else None


def _in_sentences(callback: Callable[..., Any], storage: RDBStorage) -> Callable[..., Any]:
    """Returns a view that says what ails the database; the dashboard's own wrapper logs a traceback instead."""
    view = getattr(callback, "__wrapped__", None)
    if view is None:
        return callback

    @functools.wraps(view)
    def answer(**arguments: Any) -> Any:
        try:
            with translated(storage):
                return view(**arguments)
        except HpsearchError as error:
            logger.warning("%s", error)
            gone = isinstance(error, StudyNotFound)
            status = HTTPStatus.NOT_FOUND if gone else HTTPStatus.SERVICE_UNAVAILABLE
            raise bottle.HTTPError(status, str(error)) from None

    return json_api_view(answer)  # type: ignore[no-any-return]


def _refusal(status: HTTPStatus, reason: str) -> Any:
    """Returns an answer in the form of the dashboard's own errors, which its pages show."""
    return bottle.HTTPResponse(json.dumps({"reason": reason}), status, {"Content-Type": "application/json"})
