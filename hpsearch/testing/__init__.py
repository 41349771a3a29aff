"""For people who write an engine, an executor or a policy: the tests of what is promised, and parts to test with.

`EngineContract`, `ExecutorContract` and `PolicyContract` are classes of tests to subclass; `ReferenceEngine` trains
formulas in three slots, `InProcessExecutor` runs workers in threads. `EngineContract` does not import pytest.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpsearch.testing.engine_contract import EngineContract
    from hpsearch.testing.executor_contract import ExecutorContract
    from hpsearch.testing.in_process import InProcessExecutor
    from hpsearch.testing.policy_contract import PolicyContract
    from hpsearch.testing.reference import ReferenceEngine

__all__ = ["EngineContract", "ExecutorContract", "InProcessExecutor", "PolicyContract", "ReferenceEngine"]

_MODULES = {
    "EngineContract": "engine_contract",
    "ExecutorContract": "executor_contract",
    "InProcessExecutor": "in_process",
    "PolicyContract": "policy_contract",
    "ReferenceEngine": "reference",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
