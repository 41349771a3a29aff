"""Policies by name."""

from collections.abc import Callable, Mapping

from hpsearch.errors import UserError, nearest
from hpsearch.search.policy.contract import Policy
from hpsearch.search.policy.pieces import Pieces, are_stretched
from hpsearch.search.policy.simple import Halving, Sampled, Screen
from hpsearch.search.policy.thaw import Mixture, Thaw
from hpsearch.search.view import StudyView


def build_policy(name: str, view: StudyView) -> Policy:
    """Returns a study's policy, which has seen no trial.

    Raises:
        UserError: there is no such policy.
    """
    if name not in POLICIES:
        raise UserError(f"policy {name!r} is unknown; {nearest(name, POLICIES)}")
    return POLICIES[name](view)


def _halving(view: StudyView) -> Policy:
    return Halving(view, Pieces(False, 3, view.spec.max_epochs, view.spec.study.first_piece))


def _screen(view: StudyView) -> Policy:
    return Screen(view, view.spec.study.first_piece)


def thaw(view: StudyView) -> Thaw:
    """Returns the policy that goes by the model of the curves alone."""
    return Thaw(view, _pieces(view), Mixture(rule=0.0))


def _auto(view: StudyView) -> Policy:
    return Thaw(view, _pieces(view), Mixture())


def _pieces(view: StudyView) -> Pieces:
    return Pieces(are_stretched(view.spec), 2, view.spec.max_epochs, view.spec.study.first_piece)


POLICIES: Mapping[str, Callable[[StudyView], Policy]] = {
    "sampled": Sampled,
    "halving": _halving,
    "screen": _screen,
    "thaw": thaw,
    "auto": _auto,
}
