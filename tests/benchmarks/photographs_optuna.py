"""What `photographs.py` compares `hpsearch auto` with: a search as one writes it with Optuna and torchvision.

python -m tests.benchmarks.photographs_optuna FOLDER WEIGHTS SECONDS SIDE SEED
"""

import multiprocessing
import sys
import time
from pathlib import Path

import optuna
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import models
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from hpsearch.results.commands.proposal import SCRATCH
from hpsearch.training.models import build

PROCESSES = 2
TRIALS = 24
"""That should be able to begin; most are pruned."""
VAL = 0.15
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def transform(side: int, training: bool) -> v2.Compose:
    """Returns the presets of torchvision's reference script, whose 256 and 224 pixels are 8 to 7."""
    shape = (
        [v2.RandomResizedCrop(side, antialias=True), v2.RandomHorizontalFlip()]
        if training
        else [v2.Resize(side * 8 // 7, antialias=True), v2.CenterCrop(side)]
    )
    return v2.Compose([v2.ToImage(), *shape, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])


def parts(folder: str, side: int, seed: int) -> tuple[Subset, Subset]:
    train, val = (ImageFolder(folder, transform(side, training)) for training in (True, False))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).tolist()
    kept = round(len(order) * VAL)
    return Subset(train, order[kept:]), Subset(val, order[:kept])


def make_model(network: str, classes: int, side: int) -> nn.Module:
    if network == "cnn":
        return build(SCRATCH["cpu"], 3, (side, side), classes, seed=int(torch.initial_seed()) % 2**32)
    return models.get_model(network, num_classes=classes)


def search(
    folder: str, out: str, end: float, side: int, seed: int, network: str, process: int, epochs: int
) -> None:
    torch.set_num_threads(1)
    train, val = parts(folder, side, seed)
    classes = train.dataset.classes
    least = float("inf")

    def objective(trial: optuna.Trial) -> float:
        nonlocal least
        rate = trial.suggest_float("lr", 1e-3, 0.5, log=True)
        decay = trial.suggest_float("weight_decay", 1e-5, 1e-3, log=True)
        loader = DataLoader(
            train, trial.suggest_categorical("batch_size", [16, 32, 64]), shuffle=True, drop_last=True
        )
        model = make_model(network, len(classes), side)
        optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=decay)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, max(1, epochs // 3), 0.1)
        lowest = float("inf")
        for epoch in range(epochs):
            model.train()
            for images, targets in loader:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images), targets).backward()
                optimizer.step()
                if time.time() > end:
                    trial.study.stop()
                    raise optuna.TrialPruned
            schedule.step()
            loss = evaluate(model, val)
            lowest = min(lowest, loss)
            if loss < least:
                least = loss
                torch.save((loss, classes, side, network, model.state_dict()), f"{out}.{process}")
            trial.report(loss, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return lowest

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name="photographs",
        storage=f"sqlite:///{out}.db",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=10 * seed + process),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
    )
    study.optimize(objective, timeout=end - time.time())


@torch.no_grad()
def evaluate(model: nn.Module, part: Subset) -> float:
    model.eval()
    losses = [
        nn.functional.cross_entropy(model(images), targets, reduction="sum").item()
        for images, targets in DataLoader(part, 128)
    ]
    return sum(losses) / len(part)


def affordable(folder: str, seconds: float, side: int, network: str) -> int:
    """Returns how many epochs let `TRIALS` trials begin, half of an epoch's time being what a pruned one costs."""
    train, _ = parts(folder, side, 0)
    torch.set_num_threads(1)
    model, loader = (
        make_model(network, len(train.dataset.classes), side),
        iter(DataLoader(train, 32, shuffle=True)),
    )
    nn.functional.cross_entropy(*_step(model, loader)).backward()
    began = time.monotonic()
    for _ in range(3):
        nn.functional.cross_entropy(*_step(model, loader)).backward()
    epoch = (time.monotonic() - began) / 3 * len(train) / 32
    return max(3, min(90, round(2 * PROCESSES * seconds / epoch / TRIALS)))


def _step(model: nn.Module, loader) -> tuple[torch.Tensor, torch.Tensor]:
    images, targets = next(loader)
    return model(images), targets


def answers(weights: Path, folder: Path) -> dict[str, str]:
    """Returns the class that the kept model gives each picture of a folder."""
    _, classes, side, network, state = torch.load(weights, weights_only=False)
    model = make_model(network, len(classes), side)
    model.load_state_dict(state)
    model.eval()
    pictures = ImageFolder(folder, transform(side, training=False))
    with torch.inference_mode():
        found = torch.cat([model(images).argmax(1) for images, _ in DataLoader(pictures, 128)]).tolist()
    return {path: classes[place] for (path, _), place in zip(pictures.samples, found, strict=True)}


def main() -> None:
    folder, out, seconds, side, seed, network = sys.argv[1:]
    end = time.time() + float(seconds)
    epochs = affordable(folder, float(seconds), int(side), network)
    common = folder, out, end, int(side), int(seed), network
    optuna.create_study(study_name="photographs", storage=f"sqlite:///{out}.db")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=search, args=(*common, place, epochs)) for place in range(PROCESSES)]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    files = [Path(f"{out}.{place}") for place in range(PROCESSES)]
    kept = [torch.load(file, weights_only=False) for file in files if file.exists()]
    torch.save(min(kept, key=lambda one: one[0]), out)


if __name__ == "__main__":
    main()
