"""Which confirmations and refits a database holds, asked without reading a curve."""

import json

import optuna
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.trial import TrialState
from sqlalchemy import and_, or_, select

from hpsearch.results.stored.answer import Linked
from hpsearch.results.stored.trials import database
from hpsearch.service.opening import is_confirmation
from hpsearch.store.connection import reading
from hpsearch.store.trials import SPECIFICATION
from hpsearch.store.writes import STUDIES, STUDY_USER_ATTRS, TRIALS, USER_ATTRS
from hpsearch.study.specification import CONFIRMS, LINKED


def linked_beside(study: optuna.Study) -> Linked:
    """Returns the linked studies in the database of a study."""
    if isinstance(study._storage, InMemoryStorage):  # of this process alone
        return {}
    return read_linked(database(study))


def read_linked(storage: RDBStorage) -> Linked:
    """Returns the linked studies of a storage: those with such a name that are confirmations or refits."""
    is_named = or_(*(STUDIES.c.study_name.like(f"%{suffix}") for suffix in LINKED))
    specified = and_(
        STUDY_USER_ATTRS.c.study_id == STUDIES.c.study_id, STUDY_USER_ATTRS.c.key == SPECIFICATION
    )
    studies = select(STUDIES.c.study_id, STUDIES.c.study_name, STUDY_USER_ATTRS.c.value_json)
    with reading(storage) as connection:
        found = {
            study_id: name
            for study_id, name, stored in connection.execute(
                studies.join(STUDY_USER_ATTRS, specified).where(is_named)
            )
            if is_confirmation({SPECIFICATION: json.loads(stored)})
        }
        if not found:
            return {}
        confirms = and_(USER_ATTRS.c.trial_id == TRIALS.c.trial_id, USER_ATTRS.c.key == CONFIRMS)
        complete = and_(TRIALS.c.study_id.in_(found), TRIALS.c.state == TrialState.COMPLETE)
        trials = select(TRIALS.c.study_id, TRIALS.c.number, USER_ATTRS.c.value_json)
        linked: dict[str, dict[int, int | None]] = {name: {} for name in found.values()}
        for study_id, number, stored in connection.execute(
            trials.join(USER_ATTRS, confirms, isouter=True).where(complete)
        ):
            linked[found[study_id]][number] = None if stored is None else json.loads(stored)
    return linked
