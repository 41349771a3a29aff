"""Several worker processes on one GPU: by turns, and at the same time through NVIDIA's service."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from hpsearch.contracts.executor import Workers
from hpsearch.contracts.trial import EndKind
from hpsearch.errors import DeviceError
from hpsearch.executors.mps import CONTROL, shared
from hpsearch.executors.places import choose_gpus, plan
from tests.gpu.fleet import Crew
from tests.gpu.trials import run_of

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(240)]


def share_one_gpu(folder: Path, workers: int, share: str) -> None:
    """Lets workers train the same trial at once; its numbers must not depend on who trains beside it."""
    gpu = choose_gpus("auto", os.environ)[0]
    places = plan(Workers(gpus=gpu, workers_per_gpu=workers), 1)
    # The same random numbers for all: `repeat` takes the trial number's place.
    runs = {n: run_of(folder / str(n), number=n, train={"repeat": 0, "epochs": 6}) for n in range(workers)}
    try:
        with shared(share, places, folder / "mps") as ready, Crew(folder, ready, runs[0]) as crew:
            crew.train(runs)
    except DeviceError as error:
        if share == "time":
            raise
        pytest.skip(f"the multi-process service does not work here: {error}")
    assert {one.device for one in crew.ready.values()} == {"cuda"}
    curves = [[dict(result.metrics) for result in crew.results[n]] for n in range(workers)]
    assert len(curves[0]) == 6
    assert all(curve == curves[0] for curve in curves)
    assert {end.kind for end in crew.ends.values()} == {EndKind.FINISHED}


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_take_turns_on_one_gpu(tmp_path: Path, workers: int) -> None:
    share_one_gpu(tmp_path, workers, "time")


@pytest.mark.skipif(shutil.which(CONTROL) is None, reason=f"{CONTROL} is not installed")
@pytest.mark.parametrize("workers", [2, 4])
def test_workers_share_one_gpu_through_the_service(tmp_path: Path, workers: int) -> None:
    share_one_gpu(tmp_path, workers, "nvidia-mps")
    assert list((tmp_path / "mps").glob("*/log/*.log")), "the service has logged nothing: was it used?"


def test_a_worker_goes_on_after_a_trial_that_never_fits(tmp_path: Path) -> None:
    gpu = choose_gpus("auto", os.environ)[0]
    (place,) = plan(Workers(gpus=gpu, workers=1), 1)
    # A petabyte for one sample: no GPU has that, so that nothing need be filled up beforehand.
    greedy = {"name": "tests.gpu.nets:hungry", "args": {"megabytes": 10**9}}
    first = replace(run_of(tmp_path / "greedy", model=greedy), number=1)
    with Crew(tmp_path, [place], first) as crew:
        crew.train({0: first})
        crew.train({0: replace(run_of(tmp_path / "next", train={"epochs": 2}), number=2)})
    assert crew.ends[1].kind is EndKind.OUT_OF_MEMORY
    assert "batch_size 64 does not fit into memory, not even one sample at a time" in crew.ends[1].detail
    assert crew.ends[2].kind is EndKind.FINISHED
    assert len(crew.results[2]) == 2
