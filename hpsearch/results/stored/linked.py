"""Which confirmations and refits a database holds, asked without reading a curve."""

from hpsearch.results.stored.answer import Linked
from hpsearch.store import queries
from hpsearch.store.keys import is_confirmation
from hpsearch.store.reader import Reader
from hpsearch.study.specification import CONFIRMS, LINKED


def read_linked(reader: Reader) -> Linked:
    """Returns the linked studies of a database: those with such a name that are confirmations or refits."""
    found = {
        study.study_id: study.name
        for study in queries.studies(reader)
        if study.name.endswith(LINKED) and is_confirmation(study.user_attrs)
    }
    linked: dict[str, dict[int, int | None]] = {name: {} for name in found.values()}
    for study_id, name in found.items():
        linked[name].update(queries.complete_attribute(reader, study_id, CONFIRMS))
    return linked
