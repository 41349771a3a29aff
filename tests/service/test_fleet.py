"""Workers that die, hang and are given up: what the fleet makes of it, and what the run says."""

import pytest

from hpsearch.errors import WorkersFailed
from hpsearch.service import fleet
from tests.service.curves import CurveExecutor, Script, falling
from tests.service.test_driver import run_here, spec_of


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch):
    monkeypatch.setattr(fleet, "MOST_BACKOFF", 0.0)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_that_die_while_they_start_end_the_run(tmp_path, workers):
    executor = CurveExecutor(falling, stillborn=set(range(workers)))
    with pytest.raises(WorkersFailed, match=r"[34] workers in a row ended .* killed by SIGKILL"):
        run_here(tmp_path, spec_of(study={"timeout": 5}), workers=workers, executor=executor)


def test_deaths_before_other_workers_trained_are_no_crash_loop(tmp_path):
    """Worker 1 is given up, worker 0 trains, dies, and dies again before its next epoch."""

    def script(run):
        whole = falling(run)
        deaths = {1: whole.val[:2], 2: ()}
        lethal = run.number == 3 and run.attempt in deaths
        return Script(deaths[run.attempt], "die") if lethal else whole

    executor = CurveExecutor(script, stillborn={1})
    summary, _ = run_here(tmp_path, spec_of(study={"trials": 6}), workers=2, executor=executor)
    assert executor.starts[1] == fleet.MOST_DEATHS
    assert summary.counts == {"COMPLETE": 6}
