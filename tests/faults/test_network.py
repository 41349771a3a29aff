"""A study over a network that breaks: no epoch is lost or trained twice."""

from tests.faults.bench import Bench
from tests.faults.network import cut


def test_a_line_that_is_cut_costs_nothing(tmp_path):
    bench = Bench(tmp_path, trials=2, flags=("--executor", "dial"), max_attempts=1)
    try:
        assert cut(bench, cuts=12) == 12
        bench.check(faults=0)
    finally:
        bench.end()
