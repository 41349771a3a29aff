"""Which workers a machine gets; the GPUs are what an `nvidia-smi` on the PATH says."""

import os
import stat

import pytest

from hpsearch.contracts.executor import WorkerPlace, Workers
from hpsearch.errors import DeviceError
from hpsearch.executors import places
from hpsearch.executors.local import exit_reason, worker_environment
from hpsearch.executors.places import choose_gpus, plan


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """Makes the machine show so many GPUs."""

    def show(count, instances=0, status=0):
        parts = "".join(f"echo '  MIG 1g.18gb Device {i}: (UUID: MIG-{i}bbb)'\n" for i in range(instances))
        lines = "".join(f"echo 'GPU {i}: NVIDIA H200 (UUID: GPU-{i}aaa)'\n" for i in range(count))
        lines += f"{parts}exit {status}\n"
        script = tmp_path / "nvidia-smi"
        script.write_text(f"#!/bin/sh\n{lines}")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return show


@pytest.mark.parametrize(
    ("option", "visible", "expected"),
    [
        ("auto", None, ("0", "1", "2", "3")),
        ("all", None, ("0", "1", "2", "3")),
        ("none", None, ()),
        ("0,2", None, ("0", "2")),
        ("auto", "2,3", ("2", "3")),
        ("1", "2,3", ("3",)),
        ("auto", "GPU-1aaa,GPU-3aaa", ("GPU-1aaa", "GPU-3aaa")),
        ("GPU-3aaa", "GPU-1aaa,GPU-3aaa", ("GPU-3aaa",)),
        ("auto", "MIG-7f3", ("MIG-7f3",)),
        ("auto", "", ()),
        ("auto", "-1", ()),
        ("auto", "1,9,2", ("1",)),
        ("auto", "1,1,2", ("1",)),
        ("auto", "NoDevFiles", ()),
        ("GPU-2aaa", None, ("GPU-2aaa",)),
        ("GPU-2aaa,0", None, ("GPU-2aaa", "0")),
    ],
)
def test_gpus_are_chosen_among_the_visible_ones(gpus, option, visible, expected):
    gpus(4)
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert choose_gpus(option, environ) == expected


def test_a_gpu_that_is_divided_is_used_by_its_parts(gpus):
    gpus(2, instances=2)
    assert choose_gpus("auto", {}) == ("0", "MIG-0bbb", "MIG-1bbb")
    assert choose_gpus("MIG-1bbb", {}) == ("MIG-1bbb",)


def test_a_hidden_gpu_cannot_be_named(gpus):
    gpus(4)
    with pytest.raises(DeviceError, match='"GPU-2aaa" is not a GPU'):
        choose_gpus("GPU-2aaa", {"CUDA_VISIBLE_DEVICES": "0,1"})


def test_a_driver_that_fails_is_said(gpus, caplog):
    gpus(0, status=9)
    assert choose_gpus("auto", {}) == ()
    assert "nvidia-smi ended with status 9" in caplog.text


@pytest.mark.parametrize(
    ("count", "threads", "cores", "words"),
    [
        (4, 2, 4, "4 workers with 2 threads each: there are 4 cores"),
        (2, 1, 1, "2 workers with 1 thread each: there is 1 core"),
        (1, 2, 1, "1 worker with 2 threads: there is 1 core"),
        (2, 2, 4, ""),
    ],
)
def test_workers_on_gpus_that_share_too_few_cores_are_told(
    gpus, monkeypatch, caplog, count, threads, cores, words
):
    gpus(count)
    monkeypatch.setattr(places, "cores", lambda: cores)
    plan(Workers(), threads=threads, environ={})
    assert words in caplog.text
    assert bool(caplog.text) == bool(words)


def test_fewer_workers_than_asked_for_are_told(gpus, caplog):
    gpus(4)
    assert len(plan(Workers(workers=4), threads=1, environ={})) == 4
    assert "--workers" not in caplog.text
    assert len(plan(Workers(workers=5), threads=1, environ={})) == 4
    assert "--workers 5: there is a worker for each GPU share, 4 in all" in caplog.text


@pytest.mark.parametrize(
    ("count", "option", "sentence"),
    [
        (0, "all", "--gpus all: there is no GPU on this machine; use --gpus none"),
        (0, "3", "GPU 3 not found, this machine has none"),
        (2, "3", '"3" is not a GPU of this machine; there are 0 (0), 1 (1)'),
        (2, "0,0", "a GPU is listed twice"),
        (2, "first", '"first" is not a GPU number, UUID or MIG name; there are 0 (0), 1 (1)'),
        (0, "first", '"first" is not a GPU number, UUID or MIG name, and this machine has no GPU'),
    ],
)
def test_a_gpu_that_is_not_there_is_refused_by_name(gpus, count, option, sentence):
    gpus(count)
    with pytest.raises(DeviceError) as error:
        choose_gpus(option, {})
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Workers(), [("0",), ("1",), ("2",), ("3",)]),
        (Workers(gpus="1,3"), [("1",), ("3",)]),
        (Workers(gpus="0,1", workers_per_gpu=2), [("0",), ("1",), ("0",), ("1",)]),
        (Workers(gpus_per_trial=2), [("0", "1"), ("2", "3")]),
        (Workers(workers=3), [("0",), ("1",), ("2",)]),
    ],
)
def test_workers_share_out_the_gpus(gpus, wanted, expected):
    gpus(4)
    assert [place.gpus for place in plan(wanted, threads=1, environ={})] == expected


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        (Workers(workers=0), "--workers: must be at least 1, got 0"),
        (Workers(workers_per_gpu=0), "--workers-per-gpu: must be at least 1, got 0"),
        (Workers(gpus_per_trial=5), "--gpus-per-trial 5: only 4 GPUs are in use"),
        (Workers(gpus_per_trial=2, workers_per_gpu=2), "mutually exclusive"),
        (Workers(gpus="none", gpus_per_trial=2), "need GPUs"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(gpus, wanted, sentence):
    gpus(4)
    with pytest.raises(DeviceError) as error:
        plan(wanted, threads=1, environ={})
    assert sentence in str(error.value)


@pytest.mark.parametrize(("threads", "workers"), [(1, 8), (2, 4), (3, 2), (16, 1)])
def test_without_gpus_the_cores_are_not_oversubscribed(monkeypatch, threads, workers):
    monkeypatch.setattr(places, "cores", lambda: 8)
    found = plan(Workers(gpus="none"), threads)
    assert len(found) == workers
    assert all(place.threads == threads and place.gpus == () for place in found)


def test_the_environment_names_gpus_and_threads():
    environ = worker_environment(WorkerPlace(0, ("2", "3"), 4, {"X": "y"}), {"HOME": "/h"})
    assert environ["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert environ["OMP_NUM_THREADS"] == environ["MKL_NUM_THREADS"] == "4"
    assert (environ["HOME"], environ["X"]) == ("/h", "y")


def test_a_worker_on_the_cpu_sees_no_gpu():
    assert worker_environment(WorkerPlace(0), {"CUDA_VISIBLE_DEVICES": "1"})["CUDA_VISIBLE_DEVICES"] == ""


def test_more_workers_than_the_memory_holds_are_refused_with_a_number_that_suits(monkeypatch):
    monkeypatch.setattr(places, "memory_bytes", lambda: (8 << 30, 4 << 30))
    monkeypatch.setattr(places, "cores", lambda: 4)
    with pytest.raises(DeviceError, match=r"--workers 500: .*, 146 GiB in all, .* 8\.0 GiB; .* --workers 2$"):
        plan(Workers(gpus="none", workers=500), threads=2)
    assert len(plan(Workers(gpus="none", workers=20), threads=2)) == 20


@pytest.mark.parametrize(
    ("status", "oom", "reason"),
    [
        (0, False, "exited with status 0"),
        (3, True, "exited with status 3"),
        (-9, False, "killed by SIGKILL"),
        (-9, True, "killed by SIGKILL: the kernel ran out of memory (OOM kill)"),
        (-11, True, "killed by SIGSEGV"),
        (-200, False, "killed by signal 200"),
    ],
)
def test_exit_reasons_are_sentences(status, oom, reason):
    assert exit_reason(status, oom) == reason
