"""Every policy keeps the contract."""

import pytest

from hpsearch.errors import UserError
from hpsearch.search.policy.build import build_policy
from hpsearch.search.policy.contract import Policy
from hpsearch.search.view import StudyView
from hpsearch.testing import PolicyContract
from hpsearch.testing.policy_contract import spec_of


class TestSampled(PolicyContract):
    def build(self, view: StudyView) -> Policy:
        return build_policy("sampled", view)


class TestHalving(PolicyContract):
    def build(self, view: StudyView) -> Policy:
        return build_policy("halving", view)


class TestScreen(PolicyContract):
    def build(self, view: StudyView) -> Policy:
        return build_policy("screen", view)


class TestThaw(PolicyContract):
    def build(self, view: StudyView) -> Policy:
        return build_policy("thaw", view)


class TestAuto(PolicyContract):
    def build(self, view: StudyView) -> Policy:
        return build_policy("auto", view)


def test_a_policy_that_is_unknown() -> None:
    with pytest.raises(UserError, match="halving"):
        build_policy("halfing", StudyView(spec_of()))
