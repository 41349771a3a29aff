"""`hpsearch init`: a commented study file for a folder of photographs, made for this machine and so many minutes."""

import json
import re
import shlex
import textwrap
import time
import tomllib
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import nn

from hpsearch.contracts.places import Workers
from hpsearch.errors import DataError, ModelError, UserError
from hpsearch.executors.places import plan
from hpsearch.results.confirm.confirm import on_first_worker
from hpsearch.study import DataSpec, ModelSpec, parse_study
from hpsearch.study.checks import DataFacts
from hpsearch.study.schema import SHIPPED
from hpsearch.study.specification import linked_suffix
from hpsearch.study.train import IMAGENET
from hpsearch.text import counted, first_few, one_line, proposed
from hpsearch.training import data, models, pretrained, weights
from hpsearch.training import device as devices
from hpsearch.training.data.assembly import open_cache
from hpsearch.training.data.catalogue import PARTS
from hpsearch.training.data.inspection import Inspection, Labels, inspect_folder, vars_of
from hpsearch.training.data.series import PictureSeries

PICTURE_SIDES = (224, 160, 128, 96, 64, 48, 32)
ENOUGH_EPOCHS = 120
"""Epochs of all trials together below which smaller pictures are better than fewer epochs."""

TRIALS_IN_ALL_TIME = 4
"""So many trials to their end would take all the time: most are paused after a few epochs, and the rest can be long.
With shorter trials (13 of them, or 6) a search of a minute ended underfit."""

CONFIRMABLE = 4.0
"""Minutes of search from which on a trial may only be so long that two repeats and a refit of it take no longer than
the search: `auto` has as much time left for them. In less time the starts of these runs leave none for repeats."""

REPEATED = 1.55
"""So many times a trial's length is reckoned for each that follows: it may turn out longer, and runs have to start."""

TUNED = {"cuda": ("resnet50", "resnet18"), "cpu": ("resnet18", "mobilenet_v3_small")}
SCRATCH = {
    "cuda": ModelSpec(name="resnet18"),
    "cpu": ModelSpec(name="cnn", args={"width": 16, "norm": True, "pool": True}),
}
UNBALANCED = 3
"""So many times more pictures of the commonest class than of the rarest count as unbalanced."""

FOLDS = 5
MOST_FOLDED = 300
"""Pictures outside the test part up to which folds choose better than one validation part, at equal epochs and so among
a fifth of the configurations: by 0.8 points of test error with 120 pictures and 0.7 with 300, of 600 epochs in all."""

_FEW_FOR_TENTHS = 2_000  # pictures, below which a tenth is too small a part to judge by
_BATCH = 16
_WARM, _TIMED = 0.2, 0.5  # seconds of steps that are not timed, and that are
_WIDTH = 118


@dataclass(frozen=True, slots=True)
class Network:
    """What is trained, and how long it takes here.

    Attributes:
        side: of the pictures in pixels.
        seconds: to train one picture once.
        epochs: that all workers can train together in the time.
        missing: why published weights were not taken; "" if they were.
    """

    model: ModelSpec
    side: int
    seconds: float
    epochs: float
    missing: str = ""

    @property
    def is_tuned(self) -> bool:
        """Whether it starts from published weights."""
        return self.model.weights is not None


@dataclass(frozen=True, slots=True)
class Proposal:
    """A study file that was proposed, and what it goes by.

    Attributes:
        split: the table of the parts.
    """

    name: str
    text: str
    seen: Inspection
    facts: DataFacts
    network: Network
    split: dict[str, Any]

    @property
    def is_grouped(self) -> bool:
        """Whether the parts keep series of pictures together."""
        return "group_by" in self.split

    @property
    def folds(self) -> int:
        """Of which each trial trains a model; 1 if there is one validation part."""
        return int(self.split.get("folds", 1))


def propose(
    folder: Path, minutes: float, cache: Path, workers: int | None = None, gpus: str = "auto", seed: int = 0
) -> Proposal:
    """Looks at a folder of photographs and at the device, and writes a study for them.

    Args:
        minutes: that the search may take.
        cache: where pictures are kept once they are decoded.
        workers, gpus: those of the search, as `run` takes them.
        seed: of the study; another one draws other trials, of which other weights start.

    Raises:
        DataError: the folder does not hold photographs with labels.
        DeviceError: a GPU that is not there.
    """
    wanted = Workers(gpus, workers)
    places = plan(wanted, threads=1)
    _quoted(str(folder.absolute()))  # refused before it is looked through
    seen = inspect_folder(folder, open_cache(DataSpec(), cache))
    with on_first_worker(wanted):
        chosen = devices.choose("auto" if places[0].gpus else "cpu")
        network = choose_network(seen, chosen, 60 * minutes * len(places))
    table = _data_table(folder, seen, network)
    facts = _facts(table, seen, network, cache)
    plain = unicodedata.normalize("NFKD", folder.resolve().name).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._ ") or "photos"
    if linked_suffix(name):  # such names are kept for what belongs to a study
        name = name.replace(".", "-")
    text = "\n".join(_lines(name, table, seen, facts, network, minutes, len(places), chosen, seed)) + "\n"
    parse_study(tomllib.loads(text), source="hpsearch init")
    return Proposal(name, text, seen, facts, network, table["split"])


def choose_network(seen: Inspection, device: torch.device, seconds: float) -> Network:
    """Returns the network, and the largest pictures of which enough epochs can be trained.

    Args:
        seconds: of all workers together.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker of a study has
    try:
        outputs = max(2, len(seen.classes))
        missing = ""
        for name in TUNED[device.type]:
            model = ModelSpec(name=name, weights=IMAGENET)
            if missing and not pretrained.published(name).file.is_file():
                continue  # what was out of reach for the first is so for the others
            try:
                pretrained.weights_file(model)
            except ModelError as error:
                missing = str(error)
                continue
            found = _largest(model, 3, outputs, seen, device, seconds, least=64)
            if found is not None:
                return found
            missing = missing or f"{name} is too slow here for pictures of 64 pixels in the time"
        scratch = SCRATCH[device.type]
        channels = 1 if seen.grey else 3
        small = _largest(scratch, channels, outputs, seen, device, seconds, least=32)
        if small is None:
            small = _timed(scratch, channels, outputs, seen, device, seconds, min(32, seen.side))
        return Network(small.model, small.side, small.seconds, small.epochs, missing)
    finally:
        torch.set_num_threads(before)
        devices.release(device)  # `auto` continues in this process, beside its workers


def _largest(
    model: ModelSpec,
    channels: int,
    outputs: int,
    seen: Inspection,
    device: torch.device,
    seconds: float,
    least: int,
) -> Network | None:
    """Returns the largest pictures of which enough epochs can be trained; None if `least` pixels are too many."""
    sides = [side for side in PICTURE_SIDES if least <= side <= seen.side] or [
        max(least, min(seen.side, 224))
    ]
    for side in sides:
        found = _timed(model, channels, outputs, seen, device, seconds, side)
        if found.epochs >= ENOUGH_EPOCHS:
            return found
    return None


def _timed(
    model: ModelSpec,
    channels: int,
    outputs: int,
    seen: Inspection,
    device: torch.device,
    seconds: float,
    side: int,
) -> Network:
    taken = (
        step_seconds(models.build(model, channels, (side, side), outputs, 0), channels, side, device) / _BATCH
    )
    shares = _shares(seen)
    each = shares["train"] + shares["val"] / 3  # of the pictures: validation goes forward alone
    return Network(model, side, taken, seconds / (taken * each * seen.pictures))


def step_seconds(model: nn.Module, channels: int, side: int, device: torch.device) -> float:
    """Returns how long a training step of 16 pictures takes on average: what slows it here slows the search too."""
    model = model.to(device).train()
    models.choose_memory_format(model, device, channels, (side, side), half=False)
    images = torch.rand(_BATCH, channels, side, side, device=device)
    taken: list[float] = []
    began = time.perf_counter()
    while len(taken) < 2 or time.perf_counter() - began < _WARM + _TIMED:
        start = time.perf_counter()
        model(images).square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return mean(taken[1:])


def _facts(table: dict[str, Any], seen: Inspection, network: Network, cache: Path) -> DataFacts:
    """Returns what the data turn out to be; the table then keeps series together and has folds, where it can.

    Raises:
        DataError: they cannot be read or split.
    """

    def loaded(**more: Any) -> DataFacts:
        split = {**table["split"], **more}
        spec = DataSpec.model_validate({**table, "split": split})
        found = data.load(spec, cache=cache, device=torch.device("cpu")).facts
        table["split"] = split
        return found

    facts = None
    if seen.series is not None and seen.series.is_alike:
        with suppress(DataError):
            facts = loaded(group_by=seen.series.pattern)
    facts = facts or loaded()
    if facts.train + facts.val <= MOST_FOLDED and network.epochs >= FOLDS * ENOUGH_EPOCHS:
        with suppress(DataError):
            return loaded(folds=FOLDS)
    return facts


def _data_table(folder: Path, seen: Inspection, network: Network) -> dict[str, Any]:
    return {
        "dataset": "folder",
        "root": str(folder.absolute()),
        **({} if seen.labels is None else vars_of(seen.labels)),
        "image_size": network.side,
        **({"channels": 3} if network.is_tuned else {}),
        "skip_unreadable": True,
        "on_duplicates": "drop",
        "split": _shares(seen),
    }


def _shares(seen: Inspection) -> dict[str, float]:
    few = {"train": 0.7, "val": 0.15, "test": 0.15}
    many = {"train": 0.8, "val": 0.1, "test": 0.1}
    return few if seen.pictures < _FEW_FOR_TENTHS else many


def _lines(
    name: str,
    table: dict[str, Any],
    seen: Inspection,
    facts: DataFacts,
    network: Network,
    minutes: float,
    workers: int,
    device: torch.device,
    seed: int,
) -> Iterator[str]:
    rare, common = min(facts.class_counts, default=1), max(facts.class_counts, default=1)
    unbalanced = common >= UNBALANCED * max(1, rare)
    folds = table["split"].get("folds", 1)
    most = max(4, min(40, round(network.epochs / folds / trials_in_all_time(workers, minutes))))
    yield f"#:schema {SHIPPED}"
    yield f"# {name}: {seen.pictures} photographs{_of_what(facts)}."
    yield "# Written by `hpsearch init` after a look at the pictures and at this machine; change what you know better."
    yield "#"
    yield from map(_comment, facts.notes)
    yield from ("", "[study]")
    yield _said(f"name = {_quoted(name)}", "the folder's name")
    yield _said(f'timeout = "{ceil(60 * minutes)}s"', "the search ends then; run it again, and it continues")
    trials = max(50, min(10_000, ceil(network.epochs / folds / (0.1 * most))))
    if seed:
        yield f"seed = {seed}"
    yield _said(f"trials = {trials}", "more than are expected in the time, which is the limit")
    if facts.task == "multilabel":
        yield _said(
            'metric = "val_average_precision"', "how well each label is ranked, each counting equally"
        )
    elif unbalanced:
        why = (
            f"of the pictures for training, {common} are of the commonest class and {rare} of the rarest: here each "
            "class counts equally"
        )
        yield _said('metric = "val_macro_f1"', why)
    yield from ("", "[data]", 'dataset = "folder"')
    yield f"root = {_quoted(table['root'])}"
    if seen.labels is not None:
        yield from _label_lines(seen.labels)
    yield _said(f"image_size = {network.side}", _why_side(seen, network, workers))
    if network.is_tuned:
        yield _said("channels = 3", "as the weights were trained")
    yield _said("skip_unreadable = true", "a broken file is named and left out instead of ending the study")
    yield _said('on_duplicates = "drop"', "the same picture in two parts would flatter the validation")
    yield from _split_lines(table["split"], seen)
    yield from _series_lines(table["split"], seen.series)
    if folds > 1:
        yield _said(
            f"split.folds = {folds}",
            "few pictures: one validation part would choose by luck, and there is time",
        )
    yield _said('augment = "photo"', "parts of the pictures, mirrored, with a little less or more colour")
    yield from ("", "[model]")
    yield _said(f"name = {_quoted(network.model.name)}", _why_model(network, device))
    if network.model.args:
        yield f"args = {{ {', '.join(f'{key} = {json.dumps(value)}' for key, value in network.model.args.items())} }}"
    if network.is_tuned:
        yield _said(
            'weights = "imagenet"', "published ones, of a network that has seen a million photographs"
        )
    elif network.missing:
        yield _comment(
            f"A network that has seen a million photographs may be the better start. {network.missing}"
        )
    yield from ("", "[train]")
    if not facts.classes:
        yield _said('loss = "mse"', "the squared distance from the numbers")
    if facts.task == "multilabel":
        yield _said('loss = "binary_cross_entropy"', "each label is a yes or no of its own")
    yield _said('optimizer = "adamw"', "the learning rates below are for it")
    yield _said(
        "weight_decay = 0.01", "not searched: 1e-4 and 0.1 did as well in the mean of four sets of pictures"
    )
    yield _said('schedule = "cosine"', "the learning rate falls to 0 over a trial's own epochs")
    if network.is_tuned:
        head = _head(network, len(facts.classes) or 1)
        yield _said(
            f'lr_multipliers = {{ "{head}.*" = 10.0 }}',
            "the last layer starts anew: 1.3 points less test error, the mean of four sets of pictures",
        )
    yield from ("", "[search]")
    yield _said(
        "learning_rate = { low = 1e-4, high = 1e-2, log = true }",
        "on three of four sets of pictures 1e-2 was already too much",
    )
    sizes = [size for size in (16, 32, 64, 128) if size <= max(16, facts.train // 16)][-3:]
    sizes = [size for size in sizes if size <= facts.train] or [max(1, facts.train // 2)]
    why = "at least sixteen steps in an epoch" if facts.train >= 16 * max(sizes) else "small, as an epoch is"
    yield _said(f"batch_size = {sizes}", f"{why} of {counted(facts.train, 'picture')}")
    yield _said(
        f"epochs = {{ low = {max(2, most // 2)}, high = {most} }}",
        f"{counted(workers, 'worker')} can train about {network.epochs / folds:.0f} epochs "
        f"{f'of {folds} models ' if folds > 1 else ''}in the time",
    )
    yield _said(
        '"data.augment" = [[], "photo", [{ name = "flip" }, { name = "trivial_augment" }]]', "how much helps"
    )
    if facts.task == "multilabel":
        yield _said('"train.class_weights" = ["none", "balanced"]', "whether rare labels need more weight")
    elif unbalanced:
        yield _said(
            '"train.sampling" = ["shuffled", "balanced"]',
            "rare classes drawn as often: 4 points more of them found, on digits at 30 to 1; weights gained nothing",
        )
    yield from ("", "[early_stopping]", 'criterion = "patience"')
    yield _said(f"patience = {max(3, most // 5)}", "epochs without a lower validation loss")
    if folds == 1:
        yield from ("", "[checkpoint]")
        yield _said(
            "keep = 10", "the weights of the ten best, of which `hpsearch best --ensemble 5` makes one model"
        )
    yield from ("", "[confirm]")
    again = "; `hpsearch refit` then trains one model on all pictures but the test part" if folds > 1 else ""
    yield _said("top = 2", f"the best are trained again, for one search's luck must not decide{again}")
    if folds == 1:  # else each fold is trained once
        yield "seeds = 3"
    yield from (
        "",
        _comment("These come first: learning rate and augmentation did well on four sets of pictures."),
    )
    for augment in ('"photo"', "[]") if network.is_tuned else ("[]", '"photo"'):
        yield from ("[[enqueue]]", "learning_rate = 1e-3", f"batch_size = {sizes[0]}", f"epochs = {most}")
        yield f'"data.augment" = {augment}'


def trials_in_all_time(workers: int, minutes: float) -> float:
    """Returns how many of the longest trials, one after the other on each worker, would take all the time.

    Args:
        minutes: of the search.
    """
    rounds = 2 if workers == 1 else 1  # of two repeats, side by side where there are two workers
    following = 1 if minutes < CONFIRMABLE else rounds + 1  # the refit comes last
    return max(TRIALS_IN_ALL_TIME, REPEATED * following * workers)


def _label_lines(labels: Labels) -> Iterator[str]:
    several = len(labels.files) > 1
    yield _said(
        f"labels = {_written(labels.file)}",
        f"the table{'s' * several} that name{'s' * (not several)} the pictures",
    )
    yield f"file_column = {_quoted(labels.file_column)}"
    yield from map(_comment, labels.left_out)
    yield f"label_column = {_written(labels.label_column)}"
    if labels.separator is not None:
        yield _said(f"label_separator = {_quoted(labels.separator)}", "a picture may have several labels")
    if labels.task:
        whys = {
            "multilabel": "each label is a yes or no of its own",
            "classification": "each picture has one of them",
        }
        yield _said(f"task = {_quoted(labels.task)}", whys[labels.task])
    if labels.split_column is not None:
        yield _said(f"split_column = {_quoted(labels.split_column)}", "the table's own parts are used")
    if labels.strip is not None:
        yield _said(
            f"strip = {_quoted(labels.strip)}", "names in the table begin so, and the folder does not"
        )
    if labels.prefix is not None:
        yield _said(
            f"prefix = {_quoted(labels.prefix)}", "where the pictures lie, of which the table says nothing"
        )


def _written(names: str | tuple[str, ...]) -> str:
    """Returns a name, or a list of them, as TOML has it."""
    return _quoted(names) if isinstance(names, str) else f"[{', '.join(map(_quoted, names))}]"


def _said(line: str, why: str) -> str:
    """Returns a line with its reason behind it, or above it where that would be too long."""
    beside = f"{line.ljust(32)} # {why}"
    return beside if len(beside) <= _WIDTH else f"{_comment(why)}\n{line}"


def _comment(text: str) -> str:
    return textwrap.fill(
        one_line(text), _WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False
    )


def _quoted(text: str) -> str:
    """Returns a text as TOML has it.

    Raises:
        UserError: it is the name of a file or folder that TOML has no words for.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"the name {one_line(text)} is not UTF-8, as all in a study file has to be; rename the file or folder"
        ) from None
    return json.dumps(text, ensure_ascii=False).replace(
        "\x7f", "\\u007f"
    )  # the one that JSON leaves as it is


def _why_side(seen: Inspection, network: Network, workers: int) -> str:
    sizes = f"{counted(seen.sizes, 'size')}, half of them at least {seen.side} pixels on the shorter side"
    if seen.sizes == 1:
        sizes = f"one size, {seen.side} pixels on the shorter side"
    if network.side >= min(seen.side, PICTURE_SIDES[0]) or network.side >= 224:
        return f"pictures have {sizes}"
    return f"pictures have {sizes}; larger ones would leave fewer than {ENOUGH_EPOCHS} epochs in the time"


def _why_model(network: Network, device: torch.device) -> str:
    kind = (
        "the largest with weights here that this machine trains in the time"
        if network.is_tuned
        else "small enough"
    )
    return f"{kind}: a picture takes {1000 * network.seconds:.2g} ms on {device.type}"


def _head(network: Network, classes: int) -> str:
    shapes = models.outline(network.model, 3, (network.side, network.side), classes)
    assert shapes is not None  # of no model of the user's own
    return weights.last_layer(shapes)[0].rpartition(".")[0]


def _of_what(facts: DataFacts) -> str:
    classes = len(facts.classes)
    if facts.task == "multilabel":
        return f" with {counted(classes, 'label')}, of which one may have several"
    return f" of {counted(classes, 'class', 'classes')}" if classes else ", whose labels are numbers"


def _split_lines(split: dict[str, Any], seen: Inspection) -> Iterator[str]:
    """Yields the shares one a line: a table in braces could not be added to by a line of its own."""
    few = f"with {seen.pictures} pictures a tenth would be too few to judge by"
    why = (
        "the pictures' own test part is used"
        if seen.official
        else few
        if seen.pictures < _FEW_FOR_TENTHS
        else "the usual parts"
    )
    for place, name in enumerate(PARTS):
        share = split[name]
        line = f"split.{name} = {share:g}"
        yield line if place else _said(line, why)


def _series_lines(split: dict[str, Any], series: PictureSeries | None) -> Iterator[str]:
    if series is None:
        return
    line = f"split.group_by = {_quoted(series.pattern)}"
    if "group_by" in split:
        yield _said(line, f"{_why_together(series)}; in two parts they would flatter the validation")
    elif series.is_alike:
        yield _comment(
            f"{_why_together(series)}, but no split into parts with all classes keeps them together:"
        )
        yield f"# {line}"
    else:
        yield "# The names look like series. If pictures of one series are nearly the same picture, keep them together:"
        yield f"# {line}"


def _why_together(series: PictureSeries) -> str:
    """Returns it in so few words that a line of a study file has room for them."""
    return f"neighbours in {counted(series.count, 'series', 'series')} are nearly the same picture ({series.alike:.0%})"


def _series_summary(found: Proposal, output: Path) -> Iterator[str]:
    series = found.seen.series
    if series is None:
        return
    if found.is_grouped:
        yield f"  {_why_together(series)}: each series is kept in one part"
    elif series.is_alike:
        yield f"  {_why_together(series)}, but no split into parts with all classes keeps them together"
    else:
        yield f"  the names look like series: split.group_by in {output} keeps each together"


def summary_lines(found: Proposal, output: Path) -> Sequence[str]:
    """Returns what `hpsearch init` prints."""
    network, labels = found.network, found.seen.labels
    start = "ImageNet's weights" if network.is_tuned else "random weights"
    return [
        f"{found.name}: photographs{_of_what(found.facts)}; {counted(found.facts.train, 'picture')} for training, "
        f"{found.facts.val} for validation, {found.facts.test} for the test",
        *(
            [
                f"  labels: column{'s' * (len(labels.columns) > 1)} {first_few(labels.columns)} of "
                f"{first_few(labels.files)}",
                *(f"  {note}" for note in labels.left_out),
            ]
            if labels is not None
            else []
        ),
        *(f"  {note}" for note in found.facts.notes),
        *_series_summary(found, output),
        f"{network.model.name} from {start}, pictures of {network.side} pixels, about {network.epochs:.0f} epochs in "
        "all",
        *(
            [f"{found.folds} folds: each trial trains so many models, one for each"]
            if found.folds > 1
            else []
        ),
        *([f"  {network.missing}"] if network.missing else []),
        f"wrote {output}; next: {proposed(f'hpsearch run {shlex.quote(str(output))}')}",
    ]
