"""The benchmark that replays searches: every epoch is spent, whatever the method and the number of workers."""

import json
import sys
from typing import ClassVar

import numpy as np
import pytest

from tests.benchmarks.search import main, replay, table
from tests.benchmarks.search_methods import METHODS


class Bowl:
    """Falls to the distance from the middle; diverges at one end. Lengths are searched."""

    name, epochs, stretched, opt, ref = "bowl", None, True, 0.1, 0.5
    search: ClassVar = {"function.x": {"low": 0.0, "high": 1.0}, "epochs": {"low": 3, "high": 20}}

    def curve(self, hparams):
        far = abs(hparams["function.x"] - 0.5)
        values = 0.1 + far + np.exp(-np.arange(1, 1 + hparams["epochs"]) / 3)
        return np.append(values[:2], np.nan) if far > 0.45 else values


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(
    "name", ["random", "tpe+median", "tpe+asha", "screen2", "sampled", "halving", "auto"]
)
def test_a_budget_is_spent(name, workers):
    task = Bowl()
    trace = replay(task, METHODS[name](task, 0, 120), 0, workers, 120, 0.02)
    assert np.isfinite(trace.regret[2:]).all()
    assert trace.regret[-1] < 1
    assert trace.trials > 5
    assert (trace.resumes > 0) is (name in ("screen2", "halving", "auto"))


def test_the_best_epoch_reported_is_scored_by_its_true_value():
    task = Bowl()
    method = METHODS["random"](task, 3, 60)
    trace = replay(task, method, 3, 1, 60, 0.0)
    true = np.concatenate([task.curve(hparams) for hparams in method.hparams.values()])[:60]
    expected = (np.fmin.accumulate(true) - 0.1) / 0.4
    assert trace.regret == pytest.approx(expected)


def test_tasks_from_outside_and_lines_of_json(tmp_path, monkeypatch, capsys):
    lines = tmp_path / "runs.jsonl"
    options = [
        "--methods",
        "tpe,halving",
        "--seeds",
        "2",
        "--budget",
        "60",
        "--marks",
        "20",
        "--json",
        str(lines),
    ]
    monkeypatch.setattr(sys, "argv", ["search", "--task", "tests.search.policy.test_replay:Bowl", *options])
    main()
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    runs = [(line["method"], line["seed"]) for line in found]
    assert runs == [("tpe", 0), ("halving", 0), ("tpe", 1), ("halving", 1)]
    assert {tuple(line["regret"]) for line in found} == {("20", "60")}
    shown = capsys.readouterr().out
    assert "\n".join(table(found, [20, 60])) in shown
    main()
    assert capsys.readouterr().out == shown, "runs that are there are not repeated"
    assert len(lines.read_text().splitlines()) == 4
