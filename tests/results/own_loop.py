"""A user's training function with a test of its own beside it."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import hpsearch


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def train(trial: hpsearch.Trial) -> Iterator[dict[str, Any]]:
    data, model = trial.data(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=trial.learning_rate)
    if trial.restored:
        model.load_state_dict(trial.restored["model"])
    for _ in trial.remaining():
        for index in torch.randperm(len(data.train)).split(trial.batch_size):
            images, targets = data.batch(data.train, index)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), targets).backward()
            optimizer.step()
        with torch.no_grad():
            images, targets = data.batch(data.val, slice(None))
            val_loss = nn.functional.cross_entropy(model(images), targets)
        trial.save(model)
        yield {"val_loss": val_loss}


def test(trial: hpsearch.Trial, model: Mapping[str, Tensor]) -> dict[str, float]:
    data, trained = trial.test_data(), network()
    trained.load_state_dict(model)
    with torch.no_grad():
        images, targets = data.batch(data.test, slice(None))
        loss = nn.functional.cross_entropy(trained(images), targets).item()
    return {"test_loss": loss, "test_size": len(targets)}
