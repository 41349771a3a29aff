"""One contract for all engines: the worker's loop treats them alike."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hpsearch.contracts.engine import Engine
from hpsearch.contracts.trial import EndKind, EpochResult, TrialEnd
from hpsearch.training.build import build_engine
from hpsearch.training.weights import read_weights
from tests.training.trials import make_run

ENGINES: dict[str, dict[str, Any]] = {
    "plain": {"model": {"name": "mlp", "args": {"hidden": [16], "dropout": 0.2}}},
    "function": {"train": {"function": "tests.training.loops:learns"}},
}


@pytest.fixture(params=ENGINES)
def tables(request: pytest.FixtureRequest) -> dict[str, Any]:
    return ENGINES[request.param]


@pytest.fixture
def build(tables: dict[str, Any], tmp_path: Path) -> Iterator[Callable[[], Engine]]:
    """Builds an engine as a fresh worker does."""
    engines = []

    def build() -> Engine:
        spec = make_run(tmp_path, **tables).spec
        engine, facts = build_engine(spec, torch.device("cpu"), cache=str(tmp_path / "cache"))
        assert facts is not None
        assert facts.classes == tuple("0123456789")
        engines.append(engine)
        return engine

    yield build
    for engine in engines:
        engine.close()


@pytest.fixture
def engine(build: Callable[[], Engine]) -> Engine:
    return build()


def train(engine: Engine, epochs: int) -> list[EpochResult]:
    results = [result for _ in range(epochs) for result in engine.step()]
    assert all(isinstance(result, EpochResult) for result in results), results
    return [result for result in results if isinstance(result, EpochResult)]


def metrics(results: Any) -> list[dict[str, float]]:
    return [dict(result.metrics) for result in results]


class TestEngine:
    """What the worker relies on."""

    def test_an_empty_engine_has_room_and_nothing_to_report(self, engine: Engine) -> None:
        assert engine.busy == 0 < engine.capacity
        assert engine.step() == []

    def test_a_trial_from_beginning_to_end(
        self, engine: Engine, tables: dict[str, Any], tmp_path: Path
    ) -> None:
        run = make_run(tmp_path, number=4, **tables)
        started = engine.admit(run)
        assert (started.number, started.attempt, started.curve) == (4, 1, ())
        results = train(engine, 3)
        assert [(result.number, result.attempt, result.epoch) for result in results] == [
            (4, 1, epoch) for epoch in (1, 2, 3)
        ]
        assert [result.last for result in results] == [False, False, True]
        assert all(result.checkpointed for result in results)
        assert all(result.seconds >= result.checkpoint_seconds > 0 for result in results)
        assert all({"train_loss", "val_loss"} <= result.metrics.keys() for result in results)
        assert results[2].metrics["train_loss"] < results[0].metrics["train_loss"]
        assert engine.busy == 1  # until it is evicted
        end = engine.evict(4, EndKind.FINISHED)
        assert (end.number, end.attempt, end.kind, engine.busy) == (4, 1, EndKind.FINISHED, 0)
        assert end.weights is not None
        best = min(results, key=lambda result: result.metrics["val_loss"])
        weights, metadata = read_weights(Path(end.weights))
        assert weights
        assert metadata["epoch"] == str(best.epoch)

    @pytest.mark.parametrize("kind", [EndKind.PREEMPTED, None])
    def test_resumed_equals_unbroken(
        self,
        engine: Engine,
        build: Callable[[], Engine],
        tables: dict[str, Any],
        tmp_path: Path,
        kind: EndKind | None,
    ) -> None:
        engine.admit(make_run(tmp_path / "unbroken", **tables))
        unbroken = metrics(train(engine, 3))
        unbroken_end = engine.evict(0, EndKind.FINISHED)
        engine.admit(make_run(tmp_path / "broken", **tables))
        train(engine, 2)
        if kind is not None:
            engine.evict(0, kind)
        else:
            engine = build()  # the one before died with its process
        started = engine.admit(make_run(tmp_path / "broken", attempt=2, **tables))
        assert [result.attempt for result in started.curve] == [1, 1]
        results = train(engine, 1)
        assert results[0].attempt == 2
        assert results[0].last
        assert metrics(started.curve + tuple(results)) == unbroken
        end = engine.evict(0, EndKind.FINISHED)
        assert end.weights is not None
        assert unbroken_end.weights is not None
        first, second = (read_weights(Path(path))[0] for path in (unbroken_end.weights, end.weights))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_a_stopped_trial_keeps_its_weights_and_leaves_room(
        self, engine: Engine, tables: dict[str, Any], tmp_path: Path
    ) -> None:
        alone = make_run(tmp_path / "alone", number=2, **tables)
        engine.admit(alone)
        expected = metrics(train(engine, 1))
        engine.evict(2, EndKind.STOPPED)
        engine.admit(make_run(tmp_path, number=1, **tables))
        train(engine, 1)
        end = engine.evict(1, EndKind.STOPPED)
        assert end.weights is not None
        assert Path(end.weights).is_file()
        engine.admit(make_run(tmp_path, number=2, **tables))
        assert metrics(train(engine, 1)) == expected  # nothing of trial 1 is left in it

    def test_a_trial_that_was_complete_when_its_worker_died_is_only_evicted(
        self, build: Callable[[], Engine], tables: dict[str, Any], tmp_path: Path
    ) -> None:
        engine = build()
        engine.admit(make_run(tmp_path, **tables))
        train(engine, 3)
        engine = build()
        started = engine.admit(make_run(tmp_path, attempt=2, **tables))
        assert started.curve[-1].last
        end = engine.evict(0, EndKind.FINISHED)
        assert end.weights is not None
        assert Path(end.weights).is_file()

    def test_thinned_checkpoints_are_made_up_for_when_the_trial_is_given_back(
        self, engine: Engine, tables: dict[str, Any], tmp_path: Path
    ) -> None:
        thin = {**tables, "checkpoint": {"every_seconds": 3600.0}}
        engine.admit(make_run(tmp_path, **thin))
        results = train(engine, 2)
        assert not any(result.checkpointed or result.checkpoint_seconds for result in results)
        engine.evict(0, EndKind.PREEMPTED)
        started = engine.admit(make_run(tmp_path, attempt=2, **thin))
        assert metrics(started.curve) == metrics(results)

    def test_a_trial_that_is_not_there_cannot_be_evicted(self, engine: Engine) -> None:
        with pytest.raises(KeyError, match="trial 7"):
            engine.evict(7, EndKind.STOPPED)

    def test_a_full_disk_ends_the_trial_with_a_sentence(
        self, engine: Engine, tables: dict[str, Any], tmp_path: Path
    ) -> None:
        run = make_run(tmp_path, **tables)
        engine.admit(run)
        Path(run.folder).parent.mkdir(parents=True, exist_ok=True)
        Path(run.folder).write_text("a file where the folder should be")
        end = engine.step()[0]
        assert isinstance(end, TrialEnd)
        assert end.kind is EndKind.UNSAVED
        assert "checkpoint of epoch 1 cannot be written" in end.detail
        assert engine.busy == 0
