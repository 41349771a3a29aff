"""Our engines keep what is promised of engines."""

from pathlib import Path

import pytest
import torch

from hpsearch.contracts.engine import Engine
from hpsearch.contracts.trial import EndKind, TrialEnd
from hpsearch.testing import EngineContract, ReferenceEngine
from hpsearch.training.build import build_engine

DIGITS = {"dataset": "digits", "subset": 0.2}


class Ours(EngineContract):
    """What our engines say beyond what the contract asks of others'."""

    def test_sentences_name_the_trial_and_the_epoch(self, tmp_path: Path) -> None:
        engine, run = self.build(tmp_path), self.make_run(tmp_path)
        with pytest.raises(KeyError, match="trial 7"):
            engine.evict(7, EndKind.STOPPED)
        engine.admit(run)
        Path(run.folder).parent.mkdir(parents=True, exist_ok=True)
        Path(run.folder).write_text("a file where the folder should be")
        (end,) = engine.step()
        assert isinstance(end, TrialEnd)
        assert "checkpoint of epoch 1 cannot be written" in end.detail
        engine.close()


class Built(Ours):
    """An engine as `build_engine` chooses it."""

    def build(self, folder: Path) -> Engine:
        spec = self.make_run(folder).spec
        engine, facts = build_engine(spec, torch.device("cpu"), cache=str(folder / "cache"))
        assert facts is not None
        assert facts.classes == tuple("0123456789")
        return engine


class TestPlain(Built):
    tables = {"data": DIGITS, "model": {"name": "mlp", "args": {"hidden": [16], "dropout": 0.2}}}  # noqa: RUF012


class TestFunction(Built):
    tables = {"data": DIGITS, "train": {"function": "tests.training.loops:learns"}}  # noqa: RUF012


class TestReference(Ours):
    def build(self, folder: Path) -> Engine:
        return ReferenceEngine()

    def test_a_trial_of_another_batch_size_does_not_fit(self, tmp_path: Path) -> None:
        engine = self.build(tmp_path)
        engine.admit(self.make_run(tmp_path))
        train = {"learning_rate": 0.05, "epochs": 3}
        assert [
            engine.fits(self.make_run(tmp_path, 1, train={**train, "batch_size": size})) for size in (32, 64)
        ] == [True, False]


class TestPlainOnFolds(Built):
    tables = {**TestPlain.tables, "data": {**DIGITS, "split": {"folds": 3}}}  # noqa: RUF012
