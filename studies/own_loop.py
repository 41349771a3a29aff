"""A model, a training loop and a test of one's own: everything that `studies/own_loop.toml` names.

`train` is a generator. Each `yield` is an epoch; hpsearch judges what it reports and simply stops iterating when
the trial is to end. Everything marked "optional" may be left out.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


class Bottleneck(nn.Module):
    """One hidden layer whose outputs compete: a softmax with a temperature instead of a ReLU."""

    def __init__(self, pixels: int, hidden: int, classes: int, temperature: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(pixels, hidden)
        self.last = nn.Linear(hidden, classes)
        self.temperature = temperature

    def forward(self, images: Tensor) -> Tensor:
        scores = self.hidden(images.flatten(1)) / self.temperature
        return self.last(scores.softmax(1) * scores.shape[1])


def build(trial: Any, data: Any) -> Bottleneck:
    """Returns the model for a trial; `trial["..."]` are the values under [function], searched over or not."""
    pixels = data.channels * data.height * data.width
    return Bottleneck(pixels, trial["hidden"], data.outputs, trial["temperature"]).to(trial.device)


def train(trial: Any) -> Iterator[dict[str, float]]:
    """Trains one trial."""
    data = trial.data()  # or data of your own: then leave [data] out of the study file
    model = build(trial, data)
    optimizer = torch.optim.Adam(model.parameters(), lr=trial.learning_rate)
    if trial.restored:  # optional, with `save` below: continue after a crash where the last epoch ended
        model.load_state_dict(trial.restored["model"])
        optimizer.load_state_dict(trial.restored["optimizer"])
    for _ in trial.remaining():  # the epochs that are left; seeds torch, NumPy and random for each
        train_loss = 0.0
        for index in torch.randperm(len(data.train), device=trial.device).split(trial.batch_size):
            images, labels = data.batch(data.train, index)
            loss = cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            train_loss += float(loss) * len(index) / len(data.train)
        with torch.no_grad():
            images, labels = data.batch(data.val, slice(None))
            outputs = model(images)
        trial.save(model, optimizer)  # optional: resume, and the best epoch's weights are kept
        yield {
            "train_loss": train_loss,
            "val_loss": float(cross_entropy(outputs, labels)),
            "val_error": float((outputs.argmax(1) != labels).float().mean()),
        }


def test(trial: Any, weights: dict[str, Tensor]) -> dict[str, float]:
    """Optional: what `hpsearch confirm` reports of the kept weights, on data that nothing was chosen by."""
    data = trial.test_data()
    model = build(trial, data)
    model.load_state_dict(weights)
    with torch.no_grad():
        images, labels = data.batch(data.test, slice(None))
        outputs = model(images)
    return {
        "test_loss": float(cross_entropy(outputs, labels)),
        "test_error": float((outputs.argmax(1) != labels).float().mean()),
    }
