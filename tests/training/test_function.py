"""The user's own training loop: what it is given, what it may yield, what is kept of it."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from hpsearch.contracts.trial import EndKind, EpochResult, TrialEnd, TrialRun
from hpsearch.errors import ModelError
from hpsearch.training import function as module
from hpsearch.training.function import FunctionEngine, check_metrics
from hpsearch.training.function import test_function as find_test
from hpsearch.training.weights import read_weights
from tests.training import loops
from tests.training.trials import make_run

CPU = torch.device("cpu")


def run_of(folder: Path, name: str, *, attempt: int = 1, **tables: Any) -> TrialRun:
    train = {"function": f"tests.training.loops:{name}", **tables.pop("train", {})}
    data = {"dataset": "none", "subset": 1.0}
    return make_run(folder, attempt=attempt, data=data, train=train, **tables)


def engine_of(run: TrialRun) -> FunctionEngine:
    assert run.spec.train.function is not None
    return FunctionEngine(run.spec.train.function, CPU, None)


def steps(run: TrialRun, count: int) -> list[EpochResult | TrialEnd]:
    engine = engine_of(run)
    engine.admit(run)
    return [result for _ in range(count) for result in engine.step()]


def result_of(item: EpochResult | TrialEnd) -> EpochResult:
    assert isinstance(item, EpochResult), item
    return item


def end_of(item: EpochResult | TrialEnd) -> TrialEnd:
    assert isinstance(item, TrialEnd), item
    return item


def test_hparams_are_attributes_and_items(tmp_path: Path) -> None:
    run = run_of(tmp_path, "reads_hparams", attempt=2, function={"temperature": 0.5})
    metrics = dict(result_of(steps(run, 1)[0]).metrics)
    seed = metrics.pop("seed")
    assert 0 <= seed < 2**32
    assert metrics == {
        "val_loss": 0.05, "batch_size": 32, "epochs": 3, "temperature": 0.5, "attribute": 0.5, "number": 0,
        "attempt": 2,
    }  # fmt: skip


def test_every_yield_is_an_epoch_and_the_last_is_marked(tmp_path: Path) -> None:
    results = [result_of(item) for item in steps(run_of(tmp_path, "steady"), 3)]
    assert [(result.epoch, result.last, result.checkpointed) for result in results] == [
        (1, False, False),
        (2, False, False),
        (3, True, False),
    ]
    assert [result.metrics["val_loss"] for result in results] == [1, 1 / 2, 1 / 3]


def test_a_function_that_returns_has_finished(tmp_path: Path) -> None:
    run = run_of(tmp_path, "stops_early")
    engine = engine_of(run)
    engine.admit(run)
    engine.step()
    end = end_of(engine.step()[0])
    assert (end.kind, engine.step()) == (EndKind.FINISHED, [])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("yields_a_number", r'yielded 0\.5; yield a dict, such as .*"val_loss"'),
        ("yields_no_metric", r'yielded "loss", but study\.metric is "val_loss"'),
        ("yields_text", r"\"val_loss\": 'small', which is not a number"),
        ("never_yields", "returned without a single yield"),
        ("asks_for_nonsense", r'no value "temprature".*did you mean "temperature"'),
        ("saves_an_object", r"trial\.save: where is pathlib\.\w+, which is not read back"),
    ],
)
def test_wrong_functions_get_a_sentence(tmp_path: Path, name: str, message: str) -> None:
    run = run_of(tmp_path, name, function={"temperature": 1.0})
    engine = engine_of(run)
    engine.admit(run)
    end = end_of(engine.step()[0])
    assert end.kind is EndKind.ERROR
    assert end.hopeless
    assert engine.step() == []
    with pytest.raises(ModelError, match=message):
        raise ModelError(end.detail)


def test_a_value_without_a_meaning_gets_a_sentence(tmp_path: Path) -> None:
    when = {"batch_size = 64": {"function.temprature": [0.5, 1.0]}}
    run = run_of(tmp_path, "asks_for_nonsense", search={"batch_size": [32, 64], "when": when})
    end = end_of(steps(run, 1)[0])
    assert "function.temprature is not sampled in this trial, by its condition in [search.when]" in end.detail


@pytest.mark.parametrize(
    ("name", "epochs", "hopeless"),
    [
        ("slips_at_once", 1, True),
        ("slips_later", 2, False),
        ("meets_bad_luck", 1, False),
        ("raises", 2, False),
        ("leaves", 1, False),
        ("is_cancelled", 1, False),
    ],
)
def test_only_an_error_that_comes_again_is_hopeless(
    tmp_path: Path, name: str, epochs: int, hopeless: bool
) -> None:
    end = end_of(steps(run_of(tmp_path, name), epochs)[-1])
    assert (end.kind, end.hopeless) == (EndKind.ERROR, hopeless)


def test_optunas_own_word_for_a_pruned_trial_is_understood(tmp_path: Path) -> None:
    end = end_of(steps(run_of(tmp_path, "gives_up"), 2)[-1])
    assert (end.kind, end.detail, end.traceback) == (EndKind.PRUNED, "TrialPruned: not good enough", "")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tests.training.loops:no_generator", "is not a generator function; write"),
        ("tests.training.loops:nowhere", "nowhere"),
        ("tests.training.nowhere:train", "nowhere"),
    ],
)
def test_functions_that_cannot_be_used_are_refused_at_once(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        FunctionEngine(name, CPU, None)


def test_a_function_outside_the_allowed_modules_is_refused() -> None:
    with pytest.raises(ModelError, match="tests"):
        FunctionEngine("tests.training.loops:steady", CPU, None, allow=("other",))


def test_an_exception_ends_the_trial_with_its_traceback(tmp_path: Path) -> None:
    first, second = steps(run_of(tmp_path, "raises"), 2)
    assert result_of(first).epoch == 1
    end = end_of(second)
    assert end.kind is EndKind.ERROR
    assert end.detail == "ZeroDivisionError: the second epoch"
    assert "loops.py" in end.traceback


def test_memory_is_released_when_nothing_holds_it_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []
    monkeypatch.setattr(module.devices, "release", lambda _: held.append(loops.HELD.pop()() is not None))
    assert end_of(steps(run_of(tmp_path, "fails_with_a_tensor"), 2)[-1]).kind is EndKind.OUT_OF_MEMORY
    assert held == [False]


def test_stopping_runs_the_finally_blocks(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    run = run_of(tmp_path, "cleans_up", function={"mark": str(mark)})
    engine = engine_of(run)
    engine.admit(run)
    engine.step()
    assert not mark.exists()
    engine.evict(0, EndKind.STOPPED)
    assert mark.read_text() == "closed"


def test_what_was_saved_is_restored(tmp_path: Path) -> None:
    run = run_of(tmp_path, "saves_much")
    engine = engine_of(run)
    engine.admit(run)
    assert result_of(engine.step()[0]).checkpointed
    engine.evict(0, EndKind.PREEMPTED)
    run = run_of(tmp_path, "saves_much", attempt=2)
    engine = engine_of(run)
    assert [result.epoch for result in engine.admit(run).curve] == [1]
    result = result_of(engine.step()[0])
    assert (result.epoch, result.metrics["restored"], result.metrics["rate"]) == (2, 1, 0.25)


def test_the_best_epochs_weights_are_kept(tmp_path: Path) -> None:
    run = run_of(tmp_path, "dips", train={"epochs": 5})
    engine = engine_of(run)
    engine.admit(run)
    for _ in range(4):
        engine.step()
    end = engine.evict(0, EndKind.STOPPED)
    assert end.weights is not None
    weights, metadata = read_weights(Path(end.weights))
    assert weights["weight"].item() == 2.0
    assert metadata["epoch"] == "2"


@pytest.mark.parametrize("kind", [EndKind.STOPPED, EndKind.FINISHED])
def test_the_best_weights_are_kept_without_a_checkpoint_per_epoch(tmp_path: Path, kind: EndKind) -> None:
    run = run_of(tmp_path, "dips", checkpoint={"every_seconds": 3600.0})
    engine = engine_of(run)
    engine.admit(run)
    assert [result_of(engine.step()[0]).checkpointed for _ in range(3)] == [False] * 3
    end = engine.evict(0, kind)
    assert end.weights is not None
    assert read_weights(Path(end.weights))[0]["weight"].item() == 2.0


def test_a_function_that_returns_early_keeps_its_best_weights(tmp_path: Path) -> None:
    run = run_of(tmp_path, "dips_and_returns", train={"epochs": 9}, checkpoint={"every_seconds": 3600.0})
    end = end_of(steps(run, 4)[-1])
    assert end.kind is EndKind.FINISHED
    assert end.weights is not None
    assert read_weights(Path(end.weights))[0]["weight"].item() == 2.0


def test_best_weights_that_cannot_be_kept_at_an_early_return_are_told(tmp_path: Path) -> None:
    run = run_of(tmp_path, "dips_and_returns", train={"epochs": 9}, checkpoint={"every_seconds": 3600.0})
    Path(run.folder).write_text("in the way")
    assert end_of(steps(run, 4)[-1]).kind is EndKind.UNSAVED


def test_the_best_weights_outlive_the_attempt_that_trained_them(tmp_path: Path) -> None:
    run = run_of(tmp_path, "dips", train={"epochs": 5})
    engine = engine_of(run)
    engine.admit(run)
    for _ in range(3):
        engine.step()
    del engine  # killed: nothing more is written
    run = run_of(tmp_path, "dips", attempt=2, train={"epochs": 5})
    engine = engine_of(run)
    engine.admit(run)
    engine.step()
    end = engine.evict(0, EndKind.STOPPED)
    assert end.weights is not None
    assert "attempt-2" in end.weights
    assert read_weights(Path(end.weights))[0]["weight"].item() == 2.0


def test_a_function_that_saves_but_does_not_restore_is_told_so(tmp_path: Path) -> None:
    run = run_of(tmp_path, "forgets_to_restore")
    engine = engine_of(run)
    engine.admit(run)
    engine.step()
    engine.evict(0, EndKind.PREEMPTED)
    run = run_of(tmp_path, "forgets_to_restore", attempt=2)
    engine = engine_of(run)
    engine.admit(run)
    assert "does not read trial.restored" in end_of(engine.step()[0]).detail


def test_data_without_a_data_table_is_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path, "learns")
    assert "trial.data() needs a [data] table" in end_of(steps(run, 1)[0]).detail


@pytest.mark.parametrize(
    ("value", "number"),
    [(1, 1.0), (0.5, 0.5), (torch.tensor(0.25), 0.25), (torch.tensor([2.0]), 2.0), (math.inf, math.inf)],
)
def test_numbers_of_all_kinds(value: Any, number: float) -> None:
    assert check_metrics({"val_loss": value}, "val_loss", "f") == {"val_loss": number}


@pytest.mark.parametrize("value", [None, True, "0.5", [1.0], torch.tensor([1.0, 2.0]), 10**400])
def test_what_is_no_number(value: Any) -> None:
    with pytest.raises(ModelError, match="not a number"):
        check_metrics({"val_loss": value}, "val_loss", "f")


def test_the_test_function_beside_train(tmp_path: Path) -> None:
    run = run_of(tmp_path, "steady")
    found = find_test(run.spec, None)
    assert found is not None
    assert found(None, None) == {"test_loss": 0.0}
    assert find_test(make_run(tmp_path).spec, None) is None
    assert find_test(run_of(tmp_path, "bound").spec, None) is not None
