"""Trials at the corners of a search space: what every trial may meet, without sampling one."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hpsearch.errors import StudyFileError
from hpsearch.spec.search import Label
from hpsearch.spec.sentences import field_errors
from hpsearch.spec.study import StudySpec


@dataclass(frozen=True, slots=True)
class Corner:
    """A trial at an end of everything that is searched.

    Attributes:
        spec: the study with the trial's hparams in place.
        named: the hparams that make it another corner than the first.
    """

    spec: StudySpec
    named: Mapping[str, Label]

    @property
    def where(self) -> str:
        """The beginning of a sentence about the trial; "" for the first corner."""
        values = ", ".join(f"{name} = {value}" for name, value in self.named.items())
        return f"search: with {values}: " if values else ""


def corners(spec: StudySpec, matters: Callable[[str], bool]) -> Iterator[Corner]:
    """Yields the trial with the first value of everything, those with one other end, the one with the last.

    The first value of a list is the first that is written, of a range its lower end. So each choice and each
    end of what matters is met, and those that go wrong only together are most likely met by one of the two
    trials at opposite corners.

    Args:
        matters: whether a name's other values are worth a trial.

    Raises:
        StudyFileError: values of different fields that exclude each other.
    """
    ends = spec.ends()
    first = {name: values[0] for name, values in ends.items()}
    others = {name: values[1:] for name, values in ends.items() if matters(name) and len(values) > 1}
    yield _corner(spec, first, {})
    for name, values in others.items():
        yield from (_corner(spec, first, {name: value}) for value in values)
    if len(others) > 1:
        yield _corner(spec, first, {name: values[-1] for name, values in others.items()})


def _corner(spec: StudySpec, first: Mapping[str, Any], named: Mapping[str, Any]) -> Corner:
    try:
        return Corner(spec.with_hparams({**first, **named}), named)
    except ValueError as error:
        found = field_errors(error, StudySpec).found
        sentences = "; ".join(": ".join(filter(None, pair)) for pair in found)
        raise StudyFileError(f"{Corner(spec, named).where}{sentences}") from error
