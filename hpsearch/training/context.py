"""What a user's training function is given: the trial's hparams, its data, its device, its checkpoints."""

import hashlib
import random
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from hpsearch.contracts.trial import TrialRun
from hpsearch.errors import DataError, ModelError, nearest
from hpsearch.study import TrainSpec
from hpsearch.training import device as devices
from hpsearch.training.checkpoint import Checkpoint
from hpsearch.training.data import Prepared, TrainingData
from hpsearch.training.pretrained import data_table

_LEAVES = (Tensor, int, float, str, bool, type(None), torch.device, torch.dtype, torch.Size)
_CONTAINERS = (dict, OrderedDict, list, tuple)


class Trial:
    """One trial, as the user's own `train(trial)` sees it.

    The hparams are attributes and items: `trial.learning_rate`, `trial.batch_size`, `trial.epochs` and all
    other fields of `[train]`; `trial["temperature"]` for the study's own `[function]` values. With a search
    over `function.temperature` it is the sampled value.

    Attributes:
        number: the trial's number in the study.
        attempt: from 1; above it the trial may have something to restore.
        seed: from the study's seed and the trial's number; torch, NumPy and `random` are seeded already.
        device: where to train.
        gpus: all devices that this trial owns (`--gpus-per-trial`); empty on a CPU.
        hparams: the sampled values by name.
    """

    def __init__(
        self,
        run: TrialRun,
        device: torch.device,
        data: TrainingData | None = None,
        resumed: Checkpoint | None = None,
    ) -> None:
        self.number = run.number
        self.attempt = run.attempt
        self.seed = trial_seed(run.spec.study.seed, run.stream)
        self.device = device
        self.gpus = _gpus(device)
        self.hparams = dict(run.hparams)
        self._run = run
        self._data = data
        self._resumed = resumed
        self._restore_read = False
        self._saved: dict[str, Any] | None = None

    def __getitem__(self, name: str) -> Any:
        spec = self._run.spec
        if name.removeprefix("function.") in spec.function:
            return spec.function[name.removeprefix("function.")]
        if name.removeprefix("train.") in TrainSpec.model_fields:
            return getattr(spec.train, name.removeprefix("train."))
        if name in self.hparams:
            return self.hparams[name]
        own = f"function.{name.removeprefix('function.')}"
        if own in spec.search:
            raise KeyError(
                f"{own} is not sampled in this trial, by its condition in [search.when]; look at what the condition "
                "is about first, or write a value for such trials into [function]"
            )
        raise KeyError(f'no value "{name}" in [function] and [train]; {nearest(name, self._names())}')

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # also asked for by copy and pickle, before there is anything to look in
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(error.args[0]) from None

    def data(self) -> Prepared:
        """Returns the study's training and validation part, on the device, for this trial's image size.

        Raises:
            DataError: the study has no [data].
        """
        if self._data is None:
            raise DataError(
                'trial.data() needs a [data] table with a dataset; this study has dataset = "none"'
            )
        return self._data.at(data_table(self._run.spec))

    def remaining(self) -> Iterator[int]:
        """Yields the epochs that are still to be trained, from 1 or from behind the restored one.

        At each epoch's start the random generators of torch, NumPy and Python are seeded from (study seed,
        trial number, epoch), so that a resumed trial draws what an unbroken one does.
        """
        done = self._resumed.epoch if self._resumed else 0
        for epoch in range(done + 1, self._run.spec.train.ends_after + 1):
            seed_epoch(self._run, epoch, self.device)
            yield epoch

    def save(self, model: Any, optimizer: Any = None, **state: Any) -> None:
        """Offers what the next attempt needs, should this one be interrupted; also the weights to keep.

        Written with the coming `yield`, as things are then; of the epoch with the best metric, the model's
        weights are kept after the trial's end.

        Args:
            model: a module, or its state dict.
            state: further things with a `state_dict()` (schedules, scalers), tensors, numbers, texts, and
                lists and dicts of them.

        Raises:
            ModelError: something that could not be read back without unpickling code.
        """
        saved = {"model": model, **state}
        if optimizer is not None:
            saved["optimizer"] = optimizer
        if "epoch" in saved:
            raise ModelError('trial.save: "epoch" is saved by itself; leave it out')
        self._saved = saved

    @property
    def restored(self) -> dict[str, Any] | None:
        """What an earlier attempt saved, by the names given to `save`, and its "epoch"; None at the start."""
        self._restore_read = True
        if self._resumed is None:
            return None
        return {**self._resumed.state, "epoch": self._resumed.epoch}

    # What follows is the engine's side.

    @property
    def has_saved(self) -> bool:
        """Whether `save` was called since the last `forget_saved`."""
        return self._saved is not None

    def forget_saved(self) -> None:
        """Lets go of what was given to `save`."""
        self._saved = None

    def state(self) -> dict[str, Any]:
        """Returns all that was given to `save`, as tensors and plain values.

        Raises:
            ModelError: something that could not be read back without unpickling code.
        """
        return {
            name: _plain(f"trial.save: {name}", _state(value)) for name, value in (self._saved or {}).items()
        }

    def weights(self) -> dict[str, Tensor]:
        """Returns the state of the model that was given to `save`.

        Raises:
            ModelError: it is neither a module nor a dict of tensors.
        """
        state = _state((self._saved or {}).get("model"))
        if not isinstance(state, Mapping):
            raise ModelError(f"trial.save: model is {type(state).__name__}; give a module or its state dict")
        return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}

    def refuse_unread_checkpoint(self) -> None:
        """Refuses a function that saves but never looks at what it saved.

        Raises:
            ModelError: the trial was resumed and `restored` not read: its epochs would be counted wrongly.
        """
        if self._resumed is not None and not self._restore_read:
            raise ModelError(
                f"the training function called trial.save in attempt {self._resumed.attempt} but does not "
                "read trial.restored; load the state from it, or do not call trial.save"
            )

    def _names(self) -> set[str]:
        return {*self._run.spec.function, *TrainSpec.model_fields, *self.hparams}


def trial_seed(study_seed: int, number: int) -> int:
    """Returns a seed of 32 bits for a trial, the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{study_seed} {number}".encode()).digest()[:4], "big")


def seed_epoch(run: TrialRun, epoch: int, device: torch.device) -> torch.Generator:
    """Seeds torch, NumPy and Python's `random` for an epoch, and returns a generator on the device.

    What an epoch draws then depends on (study seed, trial number, epoch) alone, whether the trial was
    resumed or not.
    """
    generator = devices.seed_everything(run.spec.study.seed, run.stream, epoch, device)
    seed = generator.initial_seed()
    random.seed(seed)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(seed % 2**32)
    return generator


def _gpus(device: torch.device) -> tuple[torch.device, ...]:
    if device.type != "cuda":
        return ()
    return tuple(torch.device("cuda", index) for index in range(torch.cuda.device_count()))


def _state(value: Any) -> Any:
    """Returns a module's, optimizer's or schedule's state, and anything else as it is."""
    return value.state_dict() if hasattr(value, "state_dict") else value


def _plain(where: str, value: Any) -> Any:
    """Returns a value that `torch.load(weights_only=True)` can read back.

    Raises:
        ModelError: naming what it could not.
    """
    if isinstance(value, _LEAVES) and type(value).__module__ != "numpy":
        return value
    if type(value) not in _CONTAINERS:
        raise ModelError(
            f"{where} is {type(value).__module__}.{type(value).__name__}, which is not read back from a "
            "checkpoint; give tensors, numbers, strings, lists and dicts, or something with a state_dict()"
        )
    if isinstance(value, dict):
        return type(value)((key, _plain(f"{where}[{key!r}]", item)) for key, item in value.items())
    return type(value)(_plain(f"{where}[{index}]", item) for index, item in enumerate(value))
