"""Our engines keep what is promised of engines."""

from pathlib import Path

import torch

from hpsearch.contracts.engine import Engine
from hpsearch.testing import EngineContract, ReferenceEngine
from hpsearch.training.build import build_engine

DIGITS = {"dataset": "digits", "subset": 0.2}


class Built(EngineContract):
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


class TestReference(EngineContract):
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
