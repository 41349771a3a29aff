"""Which confirmations and refits a database holds, asked without reading a curve."""

from collections.abc import Iterable

from hpsearch.results.stored.answer import Linked
from hpsearch.store import queries
from hpsearch.store.keys import is_confirmation
from hpsearch.store.queries import StoredStudy
from hpsearch.store.reader import Reader
from hpsearch.study.specification import CONFIRMS, LINKED


def read_linked(reader: Reader, studies: Iterable[StoredStudy]) -> Linked:
    """Returns the linked ones of a database's studies: those with such a name that are confirmations or refits."""
    found = {
        study.study_id: study.name
        for study in studies
        if study.name.endswith(LINKED) and is_confirmation(study.user_attrs)
    }
    linked: dict[str, dict[int, int | None]] = {name: {} for name in found.values()}
    for study_id, name in found.items():
        linked[name].update(queries.complete_attribute(reader, study_id, CONFIRMS))
    return linked
