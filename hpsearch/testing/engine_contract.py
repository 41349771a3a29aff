"""One contract for all engines: the worker's loop treats them alike."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hpsearch.contracts.engine import Engine
from hpsearch.contracts.trial import EndKind, EpochResult, TrialEnd, TrialRun
from hpsearch.study import parse_study


class EngineContract:
    """Subclass it in a test module and say what your engine trains and how it is built; pytest does the rest.

        class TestMyEngine(EngineContract):
            tables = {"data": {"dataset": "digits"}, "model": {"name": "mlp"}}

            def build(self, folder):
                return MyEngine()

    Attributes:
        tables: of a study whose trials can be trained side by side, in a second or so.
    """

    tables: Mapping[str, Mapping[str, Any]] = {"data": {"dataset": "digits", "subset": 0.2}}

    def build(self, folder: Path) -> Engine:
        """Returns an engine as a fresh worker builds it.

        Args:
            folder: of the test, where data may be kept.
        """
        raise NotImplementedError

    def make_run(
        self, folder: Path, number: int = 0, attempt: int = 1, epochs: int = 3, **tables: Mapping[str, Any]
    ) -> TrialRun:
        """Returns an attempt at a trial whose files lie below a folder."""
        train = {"learning_rate": 0.05, "batch_size": 32, **self.tables.get("train", {}), "epochs": epochs}
        search = {"learning_rate": {"low": 1e-4, "high": 1.0, "log": True}}
        study = {"name": "contract", "seed": 3}
        spec = parse_study({"study": study, "search": search, **self.tables, "train": train, **tables})
        return TrialRun("contract", number, attempt, {}, spec, str(folder / f"{number:05d}"))

    def test_an_empty_engine_has_room_and_nothing_to_report(self, tmp_path: Path) -> None:
        engine = self.build(tmp_path)
        assert engine.capacity >= 1
        assert engine.step() == []
        engine.close()

    def test_a_trial_from_beginning_to_end(self, tmp_path: Path) -> None:
        engine = self.build(tmp_path)
        started = engine.admit(self.make_run(tmp_path, number=4))
        assert (started.number, started.attempt, started.curve) == (4, 1, ())
        results = train(engine, 4, 3)
        assert [(result.attempt, result.epoch, result.last) for result in results] == [
            (1, 1, False),
            (1, 2, False),
            (1, 3, True),
        ]
        assert all(result.checkpointed for result in results)
        assert all(result.seconds >= result.checkpoint_seconds > 0 for result in results)
        assert all({"train_loss", "val_loss"} <= result.metrics.keys() for result in results)
        assert results[2].metrics["train_loss"] < results[0].metrics["train_loss"]
        end = engine.evict(4, EndKind.FINISHED)
        assert (end.number, end.attempt, end.kind) == (4, 1, EndKind.FINISHED)
        assert engine.step() == []
        best = min(results, key=lambda result: result.metrics["val_loss"])
        assert read(end)[0]["epoch"] == str(best.epoch)
        engine.close()

    def test_resumed_equals_unbroken(self, tmp_path: Path) -> None:
        """Given back and taken up again, or from what a worker has left that was killed."""
        engine = self.build(tmp_path)
        engine.admit(self.make_run(tmp_path / "unbroken"))
        unbroken = metrics(train(engine, 0, 3))
        weights = read(engine.evict(0, EndKind.FINISHED))[1]
        for broken in ("given back", "killed"):
            engine.admit(self.make_run(tmp_path / broken))
            train(engine, 0, 2)
            if broken == "given back":
                assert engine.evict(0, EndKind.PREEMPTED).kind is EndKind.PREEMPTED
            else:
                engine = self.build(tmp_path)
            started = engine.admit(self.make_run(tmp_path / broken, attempt=2))
            assert [result.attempt for result in started.curve] == [1, 1]
            results = train(engine, 0, 1)
            assert (results[0].attempt, results[0].last) == (2, True)
            assert metrics([*started.curve, *results]) == unbroken
            assert read(engine.evict(0, EndKind.FINISHED))[1] == weights
        engine.close()

    def test_a_stopped_trial_keeps_its_weights_and_leaves_nothing_in_the_next(self, tmp_path: Path) -> None:
        engine = self.build(tmp_path)
        engine.admit(self.make_run(tmp_path / "alone", number=2))
        expected = metrics(train(engine, 2, 1))
        engine.evict(2, EndKind.STOPPED)
        engine.admit(self.make_run(tmp_path, number=1))
        train(engine, 1, 1)
        assert Path(engine.evict(1, EndKind.STOPPED).weights or "").is_file()
        engine.admit(self.make_run(tmp_path, number=2))
        assert metrics(train(engine, 2, 1)) == expected
        engine.close()

    def test_a_trial_that_was_complete_when_its_worker_died_is_only_evicted(self, tmp_path: Path) -> None:
        engine = self.build(tmp_path)
        engine.admit(self.make_run(tmp_path))
        train(engine, 0, 3)
        engine = self.build(tmp_path)
        assert engine.admit(self.make_run(tmp_path, attempt=2)).curve[-1].last
        assert Path(engine.evict(0, EndKind.FINISHED).weights or "").is_file()
        engine.close()

    def test_thinned_checkpoints_are_made_up_for_when_the_trial_is_given_back(self, tmp_path: Path) -> None:
        engine, thin = self.build(tmp_path), {"every_seconds": 3600.0}
        engine.admit(self.make_run(tmp_path, checkpoint=thin))
        results = train(engine, 0, 2)
        assert not any(result.checkpointed or result.checkpoint_seconds for result in results)
        engine.evict(0, EndKind.PREEMPTED)
        started = engine.admit(self.make_run(tmp_path, attempt=2, checkpoint=thin))
        assert metrics(started.curve) == metrics(results)
        engine.close()

    def test_only_a_trial_in_a_slot_can_be_evicted(self, tmp_path: Path) -> None:
        engine, said = self.build(tmp_path), ""
        try:
            engine.evict(7, EndKind.STOPPED)
        except KeyError as error:
            said = str(error)
        assert "7" in said, "KeyError names the trial"
        engine.close()

    def test_a_full_disk_ends_the_trial_with_a_sentence(self, tmp_path: Path) -> None:
        engine, run = self.build(tmp_path), self.make_run(tmp_path)
        engine.admit(run)
        Path(run.folder).parent.mkdir(parents=True, exist_ok=True)
        Path(run.folder).write_text("a file where the folder should be")
        (end,) = engine.step()
        assert isinstance(end, TrialEnd)
        assert end.kind is EndKind.UNSAVED
        assert end.detail
        assert engine.step() == []
        engine.close()

    def test_a_trial_without_a_decision_waits(self, tmp_path: Path) -> None:
        engine = self.build(tmp_path)
        engine.admit(self.make_run(tmp_path))
        assert engine.step([7]) == []
        assert train(engine, 0, 1)[0].epoch == 1
        engine.close()

    def test_what_was_cleared_leaves_room_and_the_engine_usable(self, tmp_path: Path) -> None:
        engine = self.build(tmp_path)
        for number in range(engine.capacity):
            engine.admit(self.make_run(tmp_path, number=number))
        assert not engine.fits(self.make_run(tmp_path, number=99))
        engine.clear()
        assert engine.step() == []
        engine.admit(self.make_run(tmp_path, number=99))
        assert train(engine, 99, 1)[0].number == 99
        engine.close()

    def test_trials_side_by_side_are_what_they_are_alone(self, tmp_path: Path) -> None:
        """Of different lengths, one admitted in mid-run, one evicted in mid-run; one trains on alone."""
        engine = self.build(tmp_path)
        expected, runs = {}, {}
        for number in range(engine.capacity):
            engine.admit(self.make_run(tmp_path / "alone", number=number, epochs=2 + number))
            expected[number] = metrics(train(engine, number, 2 + number))
            engine.evict(number, EndKind.FINISHED)
            runs[number] = self.make_run(tmp_path / "together", number=number, epochs=2 + number)
        found: dict[int, list[EpochResult]] = {number: [] for number in runs}
        engine.admit(runs.pop(0))
        found[0] += train(engine, 0, 1)
        for run in runs.values():
            assert engine.fits(run)
            engine.admit(run)
        while free := [number for number, curve in found.items() if not (curve and curve[-1].last)]:
            for result in engine.step(free):
                assert isinstance(result, EpochResult), result
                found[result.number].append(result)
                if result.last:
                    engine.evict(result.number, EndKind.FINISHED)
        assert {number: metrics(curve) for number, curve in found.items()} == expected
        engine.close()


def train(engine: Engine, number: int, epochs: int) -> list[EpochResult]:
    """Returns the next epochs of one trial."""
    results: list[EpochResult] = []
    while len(results) < epochs:
        for result in engine.step([number]):
            assert isinstance(result, EpochResult), result
            assert result.number == number
            results.append(result)
    return results


def metrics(results: Iterable[EpochResult]) -> list[dict[str, float]]:
    return [dict(result.metrics) for result in results]


def read(end: TrialEnd) -> tuple[dict[str, str], tuple[dict[str, Any], bytes]]:
    """Returns the metadata of the weights that an attempt has left, and the weights, as safetensors stores them."""
    assert end.weights is not None
    content = Path(end.weights).read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    return header.pop("__metadata__"), (header, content[start:])
