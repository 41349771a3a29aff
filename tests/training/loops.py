"""Training functions as users write them, right and wrong ones."""

import asyncio
import functools
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import torch
from torch import nn

Metrics = dict[str, Any]


def steady(trial: Any) -> Iterator[Metrics]:
    """Trains nothing and saves nothing; its losses are a formula."""
    for epoch in trial.remaining():
        yield {"train_loss": 1 / epoch, "val_loss": trial.number + 1 / epoch}


def learns(trial: Any) -> Iterator[Metrics]:
    """A real loop with dropout and Adam that resumes, written without the engine's parts."""
    data = trial.data()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=trial.learning_rate)
    if trial.restored:
        model.load_state_dict(trial.restored["model"])
        optimizer.load_state_dict(trial.restored["optimizer"])
    for _ in trial.remaining():
        model.train()
        total = 0.0
        for index in torch.randperm(len(data.train)).split(trial.batch_size):
            images, targets = data.batch(data.train, index)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), targets)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(index)
        model.eval()
        with torch.no_grad():
            images, targets = data.batch(data.val, slice(None))
            val_loss = nn.functional.cross_entropy(model(images), targets)
        trial.save(model, optimizer)
        yield {"train_loss": total / len(data.train), "val_loss": val_loss}


def leaves(trial: Any) -> Iterator[Metrics]:
    """Ends the process, as it thinks."""
    sys.exit("no more")
    yield {}


def is_cancelled(trial: Any) -> Iterator[Metrics]:
    """What a loop of asyncio raises is no Exception."""
    raise asyncio.CancelledError
    yield {}


bound = functools.partial(steady)


def disagrees(trial: Any) -> Iterator[Metrics]:
    """Its loss falls to the end, its errors stay from the third epoch on, its dice from the fifth."""
    for epoch in trial.remaining():
        yield {
            "val_loss": 1 / epoch,
            "val_error": 1 / min(epoch, 3),
            "val_dice": 1 - 1 / min(epoch, 5),
        }


def saves_much(trial: Any) -> Iterator[Metrics]:
    """Saves plain values, a tensor and a schedule beside the model; reports how it was restored."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    restored = trial.restored
    if restored:
        optimizer.load_state_dict(restored["optimizer"])
        schedule.load_state_dict(restored["schedule"])
        assert restored["notes"] == {"seen": [1, 2], "name": "x"}
        assert torch.equal(restored["noise"], torch.arange(3))
    for epoch in trial.remaining():
        optimizer.step()
        schedule.step()
        notes = {"seen": [1, 2], "name": "x"}
        trial.save(model, optimizer, schedule=schedule, noise=torch.arange(3), notes=notes)
        yield {
            "val_loss": 1 / epoch,
            "rate": schedule.get_last_lr()[0],
            "restored": restored["epoch"] if restored else 0,
        }


def dips(trial: Any) -> Iterator[Metrics]:
    """Its best epoch is the second; its one weight is the epoch."""
    restored = trial.restored
    model = nn.Linear(1, 1, bias=False)
    for epoch in trial.remaining():
        with torch.no_grad():
            model.weight.fill_(epoch)
        trial.save(model)
        yield {"val_loss": abs(epoch - 2.0), "was": restored["epoch"] if restored else 0}


def dips_and_returns(trial: Any) -> Iterator[Metrics]:
    """Decides for itself that the third epoch is the last."""
    model = nn.Linear(1, 1, bias=False)
    for epoch in (1, 2, 3):
        with torch.no_grad():
            model.weight.fill_(epoch)
        trial.save(model)
        yield {"val_loss": abs(epoch - 2.0)}


def forgets_to_restore(trial: Any) -> Iterator[Metrics]:
    for epoch in trial.remaining():
        trial.save(nn.Linear(1, 1))
        yield {"val_loss": 1 / epoch}


def saves_an_object(trial: Any) -> Iterator[Metrics]:
    for _ in trial.remaining():
        trial.save(nn.Linear(1, 1), where=Path("x"))
        yield {"val_loss": 1.0}


def no_generator(trial: Any) -> Metrics:
    return {"val_loss": 1.0}


def yields_a_number(trial: Any) -> Iterator[float]:
    yield 0.5


def yields_no_metric(trial: Any) -> Iterator[Metrics]:
    yield {"loss": 1.0}


def yields_text(trial: Any) -> Iterator[Metrics]:
    yield {"val_loss": "small"}


def never_yields(trial: Any) -> Iterator[Metrics]:
    if trial.epochs < 0:
        yield {}


def stops_early(trial: Any) -> Iterator[Metrics]:
    yield {"val_loss": 1.0}


def raises(trial: Any) -> Iterator[Metrics]:
    yield {"val_loss": 1.0}
    raise ZeroDivisionError("the second epoch\nis broken")


HELD: list[weakref.ref[torch.Tensor]] = []


def gives_up(trial: Any) -> Iterator[Metrics]:
    yield {"val_loss": 1.0}
    raise optuna.TrialPruned("not good enough")


def slips_at_once(trial: Any) -> Iterator[Metrics]:
    yield {"val_loss": 1.0 + "0.5"}


def slips_later(trial: Any) -> Iterator[Metrics]:
    yield {"val_loss": 1.0}
    yield {"val_loss": 1.0 + "0.5"}


def meets_bad_luck(trial: Any) -> Iterator[Metrics]:
    yield {"val_loss": float(Path("/nowhere/at/all").read_text())}


def fails_with_a_tensor(trial: Any) -> Iterator[Metrics]:
    """Marks the tensor that its failed step holds."""
    tensor = torch.zeros(1)
    HELD.append(weakref.ref(tensor))
    yield {"val_loss": tensor}
    raise torch.OutOfMemoryError("CUDA out of memory")


def asks_for_nonsense(trial: Any) -> Iterator[Metrics]:
    yield {"val_loss": trial["temprature"]}


def cleans_up(trial: Any) -> Iterator[Metrics]:
    """Leaves a file when it is closed."""
    try:
        while True:
            yield {"val_loss": 1.0}
    finally:
        Path(trial["mark"]).write_text("closed")


def reads_hparams(trial: Any) -> Iterator[Metrics]:
    """Says back what it was given."""
    yield {
        "val_loss": trial.learning_rate,
        "batch_size": trial.batch_size,
        "epochs": trial["epochs"],
        "temperature": trial["temperature"],
        "attribute": trial.temperature,
        "number": trial.number,
        "attempt": trial.attempt,
        "seed": trial.seed,
    }


def hangs(trial: Any) -> Iterator[Metrics]:
    """Marks that it has begun its second epoch and never ends it."""
    yield {"val_loss": 1.0}
    Path(trial["mark"]).write_text("hangs")
    threading.Event().wait()


def test(trial: Any, model: nn.Module) -> Metrics:
    return {"test_loss": 0.0}
