"""A study over a network that breaks: no epoch is lost or trained twice."""

import pytest

from tests.faults.bench import Bench
from tests.faults.network import cut


@pytest.mark.parametrize("more", [(), ("--tls",)], ids=["plain", "tls"])
def test_a_line_that_is_cut_costs_nothing(tmp_path, more):
    bench = Bench(tmp_path, trials=2, flags=("--executor", "dial", *more), max_attempts=1)
    try:
        assert cut(bench, cuts=12) == 12
        bench.check(faults=0)
    finally:
        bench.end()
