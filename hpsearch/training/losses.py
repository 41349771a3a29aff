"""Losses, and the counters of an epoch's validation.

A loss says how wrong a model's outputs are; training makes it small. For classes, the outputs are always
*raw* scores (logits): every loss here turns them into probabilities itself.

| `train.loss` | classes | numbers |
| --- | --- | --- |
| `cross_entropy`, `nll` | -log softmax(outputs)[target]: the logarithmic loss | refused |
| `binary_cross_entropy` | each output a yes or no of its own: -log sigmoid(+-output), their mean | refused |
| `mse` | squared differences of softmax and one-hot target (Brier 1950), their mean | squared differences |
| `l1` | absolute differences of the same | absolute differences |
| `huber` | squared below 1, absolute above (Huber 1964), of the same | the same |

`nll` is the same number as `cross_entropy`. It is there for models that end in LogSoftmax, for which both are
right: log softmax of log softmax is log softmax. The losses by probabilities (`mse`, `l1`, `huber`) take
softmax rather than raw outputs, so that whatever the loss, softmax of the outputs is what the model believes.
With two classes `binary_cross_entropy` also takes models with one output: its sigmoid is the probability of
the second class. Images that may have several labels take it alone: each output is the logit of a label.

Legend: B batch, K classes (or outputs), T regression targets.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from hpsearch.errors import ModelError
from hpsearch.study import TrainSpec
from hpsearch.study.checks import check_class_weights, check_loss
from hpsearch.study.specification import ON_DEMAND, TOP
from hpsearch.training.augment import Mixed
from hpsearch.training.calibration import reliability, temperature, to_probabilities
from hpsearch.training.own import NO_JUDGES, Judges, Loss

PerSample = Callable[[Tensor, Tensor, float], Tensor]
"""(outputs_BK, targets, label smoothing) to one loss per sample, shape [B]."""

_MOST_NAMED = 10
_MOST_KEPT = 20_000_000
"""Outputs of a validation part that are kept until its end, to find the temperature."""


def _cross_entropy(outputs_BK: Tensor, targets_B: Tensor, smoothing: float) -> Tensor:
    _check_columns(outputs_BK)
    return functional.cross_entropy(outputs_BK, targets_B, reduction="none", label_smoothing=smoothing)


def _binary_cross_entropy(outputs_BK: Tensor, targets_B: Tensor, smoothing: float) -> Tensor:
    if outputs_BK.shape[1] == 1:
        # Smoothing spreads its share over both classes, as it does over K.
        wanted_BK = targets_B[:, None].to(outputs_BK.dtype) * (1 - smoothing) + smoothing / 2
    else:
        wanted_BK = _one_hot(outputs_BK, targets_B, smoothing)
    return functional.binary_cross_entropy_with_logits(outputs_BK, wanted_BK, reduction="none").mean(1)


def _of_labels(weight_K: Tensor | None = None) -> PerSample:
    """Returns the binary cross-entropy of several labels; smoothing e asks for 1 - e/2 and e/2.

    Args:
        weight_K: of images that have the label.
    """

    def loss(outputs_BK: Tensor, targets_BK: Tensor, smoothing: float) -> Tensor:
        wanted_BK = _columns(targets_BK, outputs_BK) * (1 - smoothing) + smoothing / 2
        weight = None if weight_K is None else weight_K.to(outputs_BK)
        return functional.binary_cross_entropy_with_logits(
            outputs_BK, wanted_BK, pos_weight=weight, reduction="none"
        ).mean(1)

    return loss


def _one_hot(outputs_BK: Tensor, targets_B: Tensor, smoothing: float) -> Tensor:
    """Returns 1 for the target and 0 elsewhere, with `smoothing` of it spread evenly over all classes."""
    classes = outputs_BK.shape[1]
    wanted_BK = torch.full_like(outputs_BK, smoothing / classes, requires_grad=False)
    return wanted_BK.scatter_(1, targets_B[:, None], 1 - smoothing + smoothing / classes)


def _by_probability(distance: Callable[..., Tensor]) -> PerSample:
    def loss(outputs_BK: Tensor, targets_B: Tensor, smoothing: float) -> Tensor:
        _check_columns(outputs_BK)
        wanted_BK = _one_hot(outputs_BK, targets_B, smoothing)
        return distance(outputs_BK.softmax(1), wanted_BK, reduction="none").mean(1)

    return loss


def _by_value(distance: Callable[..., Tensor]) -> PerSample:
    def loss(outputs_BT: Tensor, targets_BT: Tensor, smoothing: float) -> Tensor:
        return distance(outputs_BT, _columns(targets_BT, outputs_BT), reduction="none").flatten(1).mean(1)

    return loss


CLASSIFICATION: dict[str, PerSample] = {
    "cross_entropy": _cross_entropy,
    "nll": _cross_entropy,
    "binary_cross_entropy": _binary_cross_entropy,
    "mse": _by_probability(functional.mse_loss),
    "l1": _by_probability(functional.l1_loss),
    "huber": _by_probability(functional.huber_loss),
}

REGRESSION: dict[str, PerSample] = {
    "mse": _by_value(functional.mse_loss),
    "l1": _by_value(functional.l1_loss),
    "huber": _by_value(functional.huber_loss),
}


MULTILABEL: dict[str, PerSample] = {"binary_cross_entropy": _of_labels()}

_LOSSES = {"classification": CLASSIFICATION, "multilabel": MULTILABEL, "regression": REGRESSION}
"""By task."""


def training_loss(
    train: TrainSpec,
    task: str,
    class_counts: Tensor | None = None,
    own: Loss | None = None,
    samples: int = 0,
) -> Callable[[Tensor, Tensor | Mixed], Tensor]:
    """Returns the loss that training makes small: the mean over a batch, with smoothing and class weights.

    *Label smoothing* e (Szegedy et al. 2016) asks for 1 - e + e/K at the target and e/K at every other class,
    so that a model is not rewarded for ever larger outputs. *Class weights* make rare classes count as much
    as common ones: "balanced" gives class c the weight N / (K N_c) (King and Zeng 2001, as in scikit-learn).
    A sample's loss is multiplied by its class's weight. Weights are scaled to a mean of 1 over the training
    part and the sum is divided by the number of samples (torch divides by the batch's sum of weights), so
    that micro-batches add up to the batch and a learning rate keeps its meaning.

    Where images may have several labels, the weight is that of images which have the label: "balanced" is
    (N - N_c) / N_c, so that both answers count alike.

    Args:
        task: "classification", "multilabel" or "regression".
        class_counts: samples of each class, or with each label, in the training part, shape [K].
        samples: of the training part.
        own: the loss that `train.loss` names, where it is one of the user's own.

    Raises:
        StudyFileError: a loss, class weights or smoothing that do not suit the task.
    """
    per_sample = _checked(train, task, own)
    smoothing = train.label_smoothing
    weight_K = None
    if task == "multilabel":
        positive_K = _positive_weights(train, class_counts, samples)
        per_sample = per_sample if positive_K is None else _of_labels(positive_K)
    else:
        weight_K = _class_weights(train, class_counts)

    def loss(outputs: Tensor, targets: Tensor | Mixed) -> Tensor:
        outputs = _wide(outputs)

        def weighed(targets: Tensor) -> Tensor:
            loss_B = per_sample(outputs, targets, smoothing)
            return loss_B if weight_K is None else loss_B * weight_K.to(loss_B)[targets]

        return (targets.weigh(weighed) if isinstance(targets, Mixed) else weighed(targets)).mean()

    return loss


def plain_loss(train: TrainSpec, task: str, own: Loss | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns the yardstick: the same loss without weights and smoothing, the sum over a batch.

    Raises:
        StudyFileError: a loss that does not suit the task.
    """
    per_sample = sample_losses(train, task, own)
    return lambda outputs, targets: per_sample(outputs, targets).sum()


def sample_losses(train: TrainSpec, task: str, own: Loss | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns the same yardstick, but the loss of each sample, of shape [B].

    Raises:
        StudyFileError: a loss that does not suit the task.
    """
    plain = train.model_copy(update={"label_smoothing": 0.0, "class_weights": None})
    per_sample = _checked(plain, task, own)
    return lambda outputs, targets: per_sample(_wide(outputs), targets, 0.0)


def guessing_loss(train: TrainSpec, targets: Tensor, classes: Sequence[str]) -> float | None:
    """Returns the yardstick of a model that sees no image: of the best constant prediction for given targets.

    By probabilities p_K of the classes that is: the entropy of p for the logarithmic loss, the mean over the
    classes of their own entropies for `binary_cross_entropy`, of p (1 - p) for `mse` and half of it for `huber`;
    always the commonest class for `l1`. For numbers: the variance, the mean distance from the median, and the
    least Huber loss over a constant; the mean over the targets.

    Args:
        targets: class indices of shape [N], numbers of shape [N, T], or 1 and 0 of shape [N, K].
        classes: names; none for a regression.

    Returns:
        None if the loss does not suit the task, or is the user's own.
    """
    if classes and targets.ndim == 2:
        share_K = targets.double().mean(0)
        return (_entropy(share_K) + _entropy(1 - share_K)).mean().item() if train.loss in MULTILABEL else None
    if not classes:
        guess = _GUESSING_NUMBERS.get(train.loss)
        return None if guess is None else guess(targets.double().reshape(len(targets), -1)).mean().item()
    share_K = torch.bincount(targets, minlength=len(classes)).double() / len(targets)
    of_shares = _GUESSING_CLASSES.get(train.loss)
    return None if of_shares is None else of_shares(share_K).item()


def _entropy(share: Tensor) -> Tensor:
    return -torch.xlogy(share, share)


def _huber_of_a_constant(targets_NT: Tensor) -> Tensor:
    """Returns the least mean Huber loss over a constant, by halving: the sum of clipped differences is 0 there."""
    low_T, high_T = targets_NT.amin(0), targets_NT.amax(0)
    for _ in range(100):
        middle_T = (low_T + high_T) / 2
        above_T = (targets_NT - middle_T).clamp(-1, 1).sum(0) > 0
        low_T, high_T = torch.where(above_T, middle_T, low_T), torch.where(above_T, high_T, middle_T)
    return functional.huber_loss(low_T.expand_as(targets_NT), targets_NT, reduction="none").mean(0)


_GUESSING_CLASSES: dict[str, Callable[[Tensor], Tensor]] = {
    "cross_entropy": lambda share_K: _entropy(share_K).sum(),
    "nll": lambda share_K: _entropy(share_K).sum(),
    "binary_cross_entropy": lambda share_K: (_entropy(share_K) + _entropy(1 - share_K)).mean(),
    "mse": lambda share_K: (share_K * (1 - share_K)).mean(),
    "l1": lambda share_K: 2 * (1 - share_K.max()) / len(share_K),
    "huber": lambda share_K: (share_K * (1 - share_K)).mean() / 2,
}

_GUESSING_NUMBERS: dict[str, Callable[[Tensor], Tensor]] = {
    "mse": lambda targets_NT: targets_NT.var(0, correction=0),
    "l1": lambda targets_NT: (targets_NT - targets_NT.median(0).values).abs().mean(0),
    "huber": _huber_of_a_constant,
}


def _checked(train: TrainSpec, task: str, own: Loss | None) -> PerSample:
    check_loss(train, task)
    if own is not None:
        return lambda outputs, targets, smoothing: own(outputs, targets)
    return _LOSSES[task][train.loss]


def _class_weights(train: TrainSpec, class_counts: Tensor | None) -> Tensor | None:
    """Returns a weight for each class, 1 on average over the training part; None for none."""
    if train.class_weights is None or class_counts is None:
        return None
    check_class_weights(train, len(class_counts))
    counts_K = class_counts.double()
    if train.class_weights == "balanced":
        weight_K = 1 / counts_K.clamp(min=1)
    else:
        weight_K = torch.tensor(train.class_weights, dtype=torch.float64, device=counts_K.device)
    return weight_K * counts_K.sum() / (weight_K * counts_K).sum()


def _positive_weights(train: TrainSpec, class_counts: Tensor | None, samples: int) -> Tensor | None:
    """Returns the weight of images that have each label; None for none."""
    if train.class_weights is None or class_counts is None:
        return None
    check_class_weights(train, len(class_counts))
    if train.class_weights == "balanced":
        return (samples - class_counts).clamp(min=1) / class_counts.clamp(min=1)
    return torch.tensor(train.class_weights, device=class_counts.device)


def _wide(outputs: Tensor) -> Tensor:
    """Returns the outputs with at least 32 bits: sums of exponentials need them."""
    return outputs.float() if outputs.element_size() < 4 else outputs


def _check_columns(outputs_BK: Tensor) -> None:
    if outputs_BK.shape[1] == 1:
        raise ModelError(
            'the model gives one output, which only train.loss = "binary_cross_entropy" takes (two classes); '
            "give it one output for each class"
        )


def _columns(targets: Tensor, outputs: Tensor) -> Tensor:
    """Returns regression targets in the outputs' shape.

    Raises:
        ModelError: there are more or fewer of them; broadcasting would hide it.
    """
    if targets.numel() != outputs.numel():
        raise ModelError(
            f"the model gives outputs of shape {list(outputs.shape)} for targets of shape "
            f"{list(targets.shape)}"
        )
    return targets.reshape(outputs.shape).to(outputs.dtype)


class EpochMetrics:
    """Sums and counts over the validation part, kept on the device until the epoch's end.

    Nothing here makes the host wait for the device before `result`, which is a single transfer.

    Args:
        outputs: of the model; the number of classes.
        wanted: metrics that the study names; those of `ON_DEMAND` are computed only then.
        judges: the user's own loss and metrics.
    """

    def __init__(
        self,
        train: TrainSpec,
        task: str,
        outputs: int,
        device: torch.device,
        wanted: Iterable[str] = (),
        judges: Judges = NO_JUDGES,
    ) -> None:
        self._loss = plain_loss(train, task, judges.loss)
        self._metrics = judges.metrics
        self._labels = outputs if task == "multilabel" else 0
        self._classes = outputs if task == "classification" else 0
        self._samples = 0
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self._other_sum = torch.zeros((), dtype=torch.float64, device=device)
        self._confusion = torch.zeros(self._classes**2, dtype=torch.int64, device=device)
        self._found_3K = torch.zeros(3, self._labels, dtype=torch.int64, device=device)
        self._calibrates = bool(self._labels) or (train.loss != "binary_cross_entropy" and self._classes > 1)
        self._believes = partial(to_probabilities, loss=train.loss, task=task)
        self._wanted = [name for name in ON_DEMAND if name in set(wanted)] if task != "regression" else []
        self._seen: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Counts one batch.

        Args:
            outputs: of shape [B, K], or [B, T].
            targets: class indices of shape [B], numbers of shape [B, T], or 1 and 0 of shape [B, K].
        """
        self._samples += len(targets)
        self._loss_sum += self._loss(outputs, targets)
        outputs_kept = self._calibrates and self._samples * max(self._classes, self._labels) <= _MOST_KEPT
        if self._wanted or self._metrics or outputs_kept:
            self._seen.append((_wide(outputs), targets))
        if self._labels:
            self._count_labels(outputs > 0, targets > 0)
        elif not self._classes:
            difference = _wide(outputs) - _columns(targets, _wide(outputs))
            self._other_sum += difference.abs().flatten(1).mean(1).sum()
        else:
            if self._classes > TOP:
                top_B5 = outputs.topk(TOP, 1).indices
                self._other_sum += (top_B5 != targets[:, None]).all(1).sum()
            place_B = targets * self._classes + predicted(outputs)
            self._confusion.index_add_(0, place_B, torch.ones_like(place_B))

    def add(self, other: "EpochMetrics") -> None:
        """Counts what another model's counters have counted too: what it was judged on is other samples."""
        self._samples += other._samples
        self._loss_sum += other._loss_sum
        self._other_sum += other._other_sum
        self._confusion += other._confusion
        self._found_3K += other._found_3K
        self._seen += other._seen

    def _count_labels(self, said_BK: Tensor, own_BK: Tensor) -> None:
        self._found_3K += torch.stack(
            [(said_BK & own_BK).sum(0), (said_BK & ~own_BK).sum(0), (own_BK & ~said_BK).sum(0)]
        )
        self._other_sum += (said_BK != own_BK).any(1).sum()

    def result(self) -> dict[str, float]:
        """Returns the metrics by name: one transfer from the device.

        `val_loss`: the plain loss, the mean over the samples. `val_error`: the 0-1 loss, the share whose most
        probable class is wrong. `val_top5_error`: the share whose class is not among the five most probable
        (for more than five classes). `val_macro_f1`: the mean over the classes of F1 = 2 TP / (2 TP + FP +
        FN), the harmonic mean of precision and recall (van Rijsbergen 1979); rare classes count as much as
        common ones, and classes that neither occur nor are predicted do not count. `val_mae`: the mean
        absolute error of a regression.

        Of several labels, those whose probability is above a half are predicted. `val_hamming_error`: the share of
        wrong answers, one for each image and label. `val_subset_error`: the share of images with any wrong one.
        `val_macro_f1`, `val_auc` and `val_average_precision` are the means over the labels.

        If the study names them: `val_balanced_accuracy`, the mean over the classes of their recall; `val_auc` and
        `val_average_precision`, the areas under the ROC and the precision-recall curve, of the second of two classes
        or the mean over the classes against the rest; `val_ece`, the expected calibration error in ten ranges of
        the highest probability.
        """
        values = {"val_loss": self._loss_sum / self._samples}
        if self._labels:
            right_K, extra_K, missed_K = self._found_3K.double()
            values["val_hamming_error"] = (extra_K + missed_K).sum() / self._samples / self._labels
            values["val_subset_error"] = self._other_sum / self._samples
            values["val_macro_f1"] = _macro_f1(right_K, 2 * right_K + extra_K + missed_K)
            values |= {name: self._on_demand(name) for name in self._wanted}
        elif not self._classes:
            values["val_mae"] = self._other_sum / self._samples
        else:
            matrix_KK = self._confusion.view(self._classes, self._classes).double()
            values["val_error"] = 1 - matrix_KK.diagonal().sum() / self._samples
            values["val_macro_f1"] = macro_f1(matrix_KK)
            if self._classes > TOP:
                values["val_top5_error"] = self._other_sum / self._samples
            values |= {name: self._on_demand(name) for name in self._wanted}
        if self._metrics:
            seen = self._all()
            values |= {name: metric(*seen) for name, metric in self._metrics.items()}
        return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))

    def temperature(self) -> float | None:
        """Returns what calibrates the outputs; None for a regression, other losses, and too many of them."""
        whole = self._samples == sum(len(targets) for _, targets in self._seen)
        return temperature(*self._all()) if self._calibrates and self._samples and whole else None

    def _all(self) -> tuple[Tensor, Tensor]:
        """Returns all outputs and targets."""
        outputs, targets = zip(*self._seen, strict=True)
        return torch.cat(outputs), torch.cat(targets)

    def _on_demand(self, name: str) -> Tensor:
        if name == "val_balanced_accuracy" and self._classes:
            matrix_KK = self._confusion.view(self._classes, self._classes).double()
            asked_K = matrix_KK.sum(1)
            return (matrix_KK.diagonal() / asked_K.clamp(min=1)).sum() / (asked_K > 0).sum()
        outputs, targets = self._all()
        belief_NK = self._believes(outputs)
        if name == "val_ece":
            return belief_NK.new_tensor(reliability(belief_NK, targets).ece)
        return one_against_rest(RANKED[name], belief_NK, targets)

    @property
    def has_confusion(self) -> bool:
        """Whether each sample is of one class, so that one can be taken for another."""
        return self._classes > 0

    def label_counts(self) -> list[list[int]]:
        """Returns for each label of how many samples it was said rightly, said wrongly, and missed."""
        rows: list[list[int]] = self._found_3K.T.tolist()
        return rows

    def confusion(self) -> list[list[int]]:
        """Returns how many samples of each class (row) were taken for each class (column)."""
        rows: list[list[int]] = self._confusion.view(self._classes, self._classes).tolist()
        return rows

    def class_errors(self, names: Sequence[str]) -> str:
        """Returns in words how large a share of each class is taken for another: "3: 0.12, 8: 0.09".

        The worst come first, ten at most; classes without an error or without a sample are left out. Of several labels
        it is the share of all samples to which the label is given wrongly or not given.

        Args:
            names: of the classes, or of the labels.
        """
        if self._labels:
            wrong_K = (self._found_3K[1:].sum(0) / self._samples).tolist()
            return _worst([(share, name) for name, share in zip(names, wrong_K, strict=True) if share])
        matrix_KK = self._confusion.view(self._classes, self._classes)
        counts = torch.stack([matrix_KK.sum(1), matrix_KK.diagonal()]).tolist()
        shares = [
            (1 - right / samples, name)
            for name, samples, right in zip(names, *counts, strict=True)
            if right < samples
        ]
        return _worst(shares)


def _worst(shares: Sequence[tuple[float, str]]) -> str:
    worst = sorted(shares, key=lambda share: share[0], reverse=True)[:_MOST_NAMED]
    return ", ".join(f"{name}: {share:.2g}" for share, name in worst) or "none"


def auc(score_N: Tensor, own_N: Tensor) -> Tensor:
    """Returns the area under the ROC curve: how often one of the class scores above one of the others, ties half.

    Args:
        own_N: whether each sample is of the class.
    """
    _, place_N, counts = torch.unique(score_N, return_inverse=True, return_counts=True)
    rank_N = (counts.cumsum(0) - (counts.double() - 1) / 2)[place_N]
    own = own_N.sum()
    area: Tensor = (rank_N[own_N].sum() - own * (own + 1) / 2) / (own * (len(own_N) - own))
    return area


def average_precision(score_N: Tensor, own_N: Tensor) -> Tensor:
    """Returns the mean of the precision at each threshold, weighted by the recall that it adds."""
    levels, place_N = torch.unique(score_N, return_inverse=True)
    own, all_ = (
        torch.zeros(len(levels), dtype=torch.float64, device=score_N.device)
        .index_add_(0, place_N, values)
        .flip(0)
        for values in (own_N.double(), torch.ones_like(score_N, dtype=torch.float64))
    )
    return (own / own.sum() * own.cumsum(0) / all_.cumsum(0)).sum()


RANKED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "val_auc": auc,
    "val_average_precision": average_precision,
}
"""Metrics of one class against the rest."""


def one_against_rest(
    metric: Callable[[Tensor, Tensor], Tensor], belief_NK: Tensor, targets: Tensor
) -> Tensor:
    """Returns a metric of the second of two classes, or the mean over all that occur and are not alone; NaN if none.

    Args:
        targets: class indices of shape [N], or 1 and 0 of shape [N, K] for the mean over the labels.
    """
    classes = belief_NK.shape[1]
    several = targets.ndim == 2
    owns = ((place, targets[:, place] > 0 if several else targets == place) for place in range(classes))
    found = [
        metric(belief_NK[:, place], own_N).double()
        for place, own_N in owns
        if (several or classes > 2 or place == 1) and 0 < int(own_N.sum()) < len(own_N)
    ]
    nothing = torch.tensor(float("nan"), dtype=torch.float64, device=belief_NK.device)
    return torch.stack(found).mean() if found else nothing


def predicted(outputs: Tensor) -> Tensor:
    """Returns the most probable class of each row; one output says the second of two where it is positive."""
    return (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(1)


def sample_metrics(
    train: TrainSpec, task: str, outputs: Tensor, targets: Tensor, own: Loss | None = None
) -> dict[str, Tensor]:
    """Returns what each sample adds to the metrics of `EpochMetrics`: numbers [N] whose mean is the metric.

    Of the macro F1, which is no mean over samples, these are its influence values about it (the infinitesimal
    jackknife, Efron 1982): their spread is the spread of F1 over other samples.

    Args:
        outputs: of all samples, [N, K] or [N, T]; `targets` accordingly, [N], [N, K] or [N, T].
    """
    outputs = _wide(outputs)
    found = {"loss": sample_losses(train, task, own)(outputs, targets)}
    if task == "regression":
        return found | {"mae": (outputs - _columns(targets, outputs)).abs().flatten(1).mean(1)}
    if task == "multilabel":
        wrong_NK = (outputs > 0) != (targets > 0)
        found["hamming_error"], found["subset_error"] = wrong_NK.double().mean(1), wrong_NK.any(1).double()
        found["macro_f1"] = _f1_influence_of_labels(outputs > 0, targets > 0)
        return found
    predicted_N, classes = predicted(outputs), max(2, outputs.shape[1])
    found["error"] = (predicted_N != targets).double()
    found["macro_f1"] = _f1_influence(predicted_N, targets, classes)
    if classes > TOP:
        found["top5_error"] = (outputs.topk(TOP, 1).indices != targets[:, None]).all(1).double()
    return found


def _f1_influence(predicted_N: Tensor, targets_N: Tensor, classes: int) -> Tensor:
    """Returns F1 plus N times its derivative by each sample, through 2 TP / (2 TP + FP + FN) of the classes."""
    right_N = predicted_N == targets_N
    right_K = torch.bincount(targets_N[right_N], minlength=classes).double()
    both_K = (
        torch.bincount(targets_N, minlength=classes) + torch.bincount(predicted_N, minlength=classes)
    ).double()
    share_K = 1 / both_K.clamp(min=1)
    by_both_K = -2 * right_K * share_K**2
    change_N = right_N * 2 * share_K[targets_N] + by_both_K[targets_N] + by_both_K[predicted_N]
    return ((2 * right_K * share_K).sum() + len(targets_N) * change_N) / (both_K > 0).sum()


def _f1_influence_of_labels(said_NK: Tensor, own_NK: Tensor) -> Tensor:
    """Returns the same of several labels."""
    right_NK, both_NK = (said_NK & own_NK).double(), said_NK.double() + own_NK.double()
    right_K, both_K = right_NK.sum(0), both_NK.sum(0)
    share_K = 1 / both_K.clamp(min=1)
    change_N = (2 * right_NK * share_K - 2 * right_K * share_K**2 * both_NK).sum(1)
    return ((2 * right_K * share_K).sum() + len(said_NK) * change_N) / (both_K > 0).sum().clamp(min=1)


def macro_f1(confusion_KK: Tensor) -> Tensor:
    """Returns the mean of F1 over the classes that occur among targets or predictions, on the device."""
    right_K = confusion_KK.diagonal()
    both_K = confusion_KK.sum(0) + confusion_KK.sum(1)  # 2 TP + FP + FN
    return _macro_f1(right_K, both_K)


def _macro_f1(right_K: Tensor, both_K: Tensor) -> Tensor:
    """Returns the mean of 2 TP / (2 TP + FP + FN) over those of which there are any; 0 if there is none."""
    return (2 * right_K / both_K.clamp(min=1)).sum() / (both_K > 0).sum().clamp(min=1)
