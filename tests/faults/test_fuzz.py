"""Each reader is given many damaged files: none may raise what is not a sentence, hang, or take much memory."""

import pytest

from tests.faults.fuzz import HANG, MOST_MEMORY, READERS, run_apart

pytestmark = pytest.mark.timeout(400)


@pytest.mark.parametrize("name", READERS)
def test_damaged_inputs_are_read_or_refused_in_a_sentence(name: str) -> None:
    inputs = 200
    told = run_apart(name, inputs)
    assert told.faults == {}
    assert inputs / 10 < told.refused <= inputs
    assert told.longest < HANG
    assert told.memory < MOST_MEMORY
