"""Messages over a network: what goes in comes out, and nothing else is taken for a message."""

import json
import math
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from hpsearch.contracts.messages import (
    Action,
    DataFacts,
    Decision,
    EndKind,
    EpochResult,
    Loading,
    PlaceRemoved,
    Ready,
    SetupFailed,
    Shutdown,
    TrialEnd,
    TrialRun,
    TrialStarted,
    Usage,
    Waiting,
    WorkerExit,
    WorkerSetup,
)
from hpsearch.contracts.wire import FROM_WORKER, TO_WORKER, WireError, encode, from_worker, to_worker
from hpsearch.study import load_study_file

STUDIES = sorted(Path("studies").glob("*.toml"))
SPEC = load_study_file("studies/digits.toml")
RESULT = EpochResult(3, 1, 2, {"val_loss": math.inf, "train_loss": 0.5}, 1.5, 0.5, 0.25, 100, True, True)
FACTS = DataFacts(10, 2, 2, ("a", "b"), 1, 8, 8, "classes", "d1g3st", ("note",), {"images": "x"}, 0.7, (4, 6))
TO = [
    WorkerSetup(1, SPEC, "cuda", "/data", "/runs/cache", ("/study",), ("my_nets", "nets:build")),
    TrialRun(
        "s",
        3,
        2,
        {"learning_rate": 0.1, "model.name": "cnn", "x": None, "y": True},
        SPEC,
        "/runs/s/3",
    ),
    Decision(3, 2, Action.PREEMPT),
    Shutdown(),
]
FROM = [
    Waiting(1, "waits, \u00e4\nsays it"),
    Loading(1, 3, 10),
    Ready(1, 4711, "cpu", {"torch": "2"}, FACTS, 1.5, {"nets:build": "abc"}, "node", 4),
    SetupFailed(1, "no such data", "DataError", "Traceback"),
    TrialStarted(3, 1, (RESULT, replace(RESULT, epoch=3))),
    RESULT,
    Usage(1, 123.5),
    TrialEnd(
        3, 1, EndKind.ERROR, "x", "y", "/runs/s/w", True, True, {"a": 1, "b": 1.5, "c": "x", "d": [1.0, 2.0]}
    ),
]


def test_every_kind_is_tried() -> None:
    assert {type(message).__name__ for message in TO} == set(TO_WORKER)
    assert {type(message).__name__ for message in FROM} == set(FROM_WORKER)


@pytest.mark.parametrize("message", TO, ids=lambda message: type(message).__name__)
def test_what_a_driver_says_arrives(message) -> None:
    assert to_worker(encode(message)) == message


@pytest.mark.parametrize("message", FROM, ids=lambda message: type(message).__name__)
def test_what_a_worker_says_arrives(message) -> None:
    assert from_worker(encode(message)) == message


def test_a_loss_that_is_no_number_arrives() -> None:
    arrived = from_worker(encode(replace(RESULT, metrics={"val_loss": math.nan})))
    assert isinstance(arrived, EpochResult)
    assert math.isnan(arrived.metrics["val_loss"])


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.stem)
def test_every_study_arrives_with_the_trials_own_values(study) -> None:
    spec = load_study_file(study)
    lowest = {name: values[0] for name, values in spec.ends().items()}
    for sent in (spec, spec.with_hparams(lowest)):
        arrived = to_worker(encode(WorkerSetup(0, sent)))
        assert isinstance(arrived, WorkerSetup)
        assert arrived.spec == sent


DECISION = json.loads(encode(TO[2]))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"\xff\xfe",
        pickle.dumps(TO[2]),
        b'{"kind":"os.system","fields":{}}',
        b'{"kind":"EpochResult","fields":{}}',  # a worker's
        b'{"kind":"Decision","fields":null}',
        b'{"kind":"Decision","fields":[]}',
        b'{"kind":"Decision","fields":{"number":1,"epoch":1}}',
        b'{"kind":"Decision","fields":{"number":"1","epoch":1,"action":"stop"}}',
        b'{"kind":"Decision","fields":{"number":1,"epoch":1,"action":"explode"}}',
        b'{"kind":"Decision","fields":{"number":1,"epoch":1,"action":"stop","more":1}}',
        b'{"kind":"Decision","fields":{"number":1,"epoch":1,"action":"stop"}',
        b'{"kind":"Decision","fields":' + b"[" * 100_000 + b"}",
        encode(TO[0]).replace(b'"trials":', b'"tirals":'),
    ],
    ids=range(15),
)
def test_whatever_else_comes_is_refused(text: bytes) -> None:
    with pytest.raises(WireError):
        to_worker(text)


@pytest.mark.parametrize(
    "message", [WorkerExit(1, "x"), PlaceRemoved(1), TO[0]], ids=lambda m: type(m).__name__
)
def test_a_worker_cannot_speak_for_its_executor_or_its_driver(message) -> None:
    fields = '"worker":1,"reason":"x"' if isinstance(message, WorkerExit) else '"worker":1'
    text = f'{{"kind":"{type(message).__name__}","fields":{{{fields}}}}}'
    with pytest.raises(WireError, match="unknown message"):
        from_worker(text.encode())


@pytest.mark.parametrize(
    ("message", "arrives"),
    [
        (SetupFailed(0, "caf\udce9.png: no"), SetupFailed(0, "caf\\udce9.png: no")),
        (
            TrialEnd(1, 1, EndKind.ERROR, "\udce9", facts={"file": "\udce9", "x": [1.0, math.inf]}),
            TrialEnd(1, 1, EndKind.ERROR, "\\udce9", facts={"file": "\\udce9", "x": [1.0, math.inf]}),
        ),
        (
            Ready(0, 1, "cpu", {}, replace(FACTS, notes=("\udce9",)), 0.0),
            Ready(0, 1, "cpu", {}, replace(FACTS, notes=("\\udce9",)), 0.0),
        ),
    ],
)
def test_names_that_are_not_utf_8_are_written_out(message, arrives):
    """Python has half characters for the bytes of a file's name; JSON has none."""
    assert from_worker(encode(message)) == arrives
