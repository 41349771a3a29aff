"""The result of a confirmation in words and tables."""

from collections.abc import Mapping
from typing import Any

from hpsearch.results.confirm.statistics import Summary
from hpsearch.results.confirm.summary import Confirmation, Result, class_errors, label_errors
from hpsearch.results.stored.study import StudyRecord
from hpsearch.results.terminal.lines import columns
from hpsearch.results.terminal.progress import hparams_text, number
from hpsearch.study.direction import sign
from hpsearch.study.specification import METRICS, ON_DEMAND
from hpsearch.text import counted


def findings(confirmation: Confirmation) -> list[str]:
    """Returns what the numbers say, in sentences."""
    first = confirmation.first
    if first is None or first not in confirmation.optimisms():
        return ["no repeat gave a value, so nothing is confirmed"]
    best, said = confirmation.results[0], []
    for metric, words in (
        (confirmation.metric, f"trial {first} is the best"),
        (confirmation.test_metric, "on the test part"),
    ):
        if found := confirmation.summary(best, metric):
            said.append(f"{words}: {metric} {_mean(found, repeat=confirmation.repeat)}")
    if first == confirmation.search_first:
        said.append(f"the search's best configuration, trial {first}, is still the best")
    else:
        said.append(
            f"the search's best configuration, trial {confirmation.search_first}, is no longer the best"
        )
    for result in confirmation.results:
        if result.candidate.trial == confirmation.search_first and result.values(confirmation.metric):
            said.append(_optimism(confirmation, result))
    tested = _significant(confirmation, confirmation.test_metric)
    return [*said, *_differences(confirmation), *tested, *_coverage(confirmation)]


def _optimism(confirmation: Confirmation, result: Result) -> str:
    found, trial = confirmation.optimisms()[result.candidate.trial], result.candidate.trial
    words = "was optimistic" if found.mean > 0 else "was not optimistic"
    if found.low is not None and found.high is not None and found.low <= 0 <= found.high:
        words += ", within the noise"
    again = sign(confirmation.better) * found.mean
    where, anew = "on the same validation data", "with new seeds"
    if confirmation.by_folds:
        where, anew = "on validation data", f"over {confirmation.folds} folds, trained again"
    return (
        f"the search's best value {words}: its optimism is {_mean(found, True, confirmation.repeat)} (trial {trial}, "
        f"{confirmation.metric} {where}: {number(result.candidate.promised)} in the search, "
        f"{number(result.candidate.promised + again)} on average {anew})"
    )


def _coverage(confirmation: Confirmation) -> list[str]:
    """Returns one sentence about which luck the intervals cover."""
    if confirmation.by_folds:
        return _folds_coverage(confirmation)
    counts: dict[str, set[int]] = {}
    whole = [metric for metric in confirmation.metrics() if _is_of_all_images(confirmation, metric)]
    for metric in confirmation.metrics():
        if metric in whole:
            continue
        for result in confirmation.results:
            found = confirmation.summary(result, metric)
            if found is not None and found.low is not None:
                counts.setdefault("test" if metric.startswith("test_") else "validation", set()).add(
                    found.images
                )
    if not counts:
        return []
    both = {part: max(images) for part, images in counts.items() if 0 not in images}
    if not both:
        why = (
            "a training function reports means only"
            if confirmation.own_loop
            else "what each image gave is not kept on this machine"
        )
        return [f"the 95 % intervals cover new seeds, not other images: {why}"]
    shown = " and ".join(counted(images, f"{part} image") for part, images in both.items())
    rest = "".join(f"; those of the {part} new seeds alone" for part in counts if part not in both)
    if whole:
        are = "is not a mean" if len(whole) == 1 else "are not means"
        rest += f"; those of {' and '.join(whole)}, which {are} over images, new seeds alone"
    return [
        f"the 95 % intervals cover new seeds and other images of the same kind, by {shown}{rest}; those of the "
        "optimism cover new seeds alone, as it compares values on the same images. None accounts for the choice of "
        "configurations and epochs by the validation images"
    ]


def _folds_coverage(confirmation: Confirmation) -> list[str]:
    """Returns one sentence about what the intervals of folds mean."""
    found = [
        (metric, one)
        for metric in confirmation.metrics()
        for result in confirmation.results
        if (one := confirmation.summary(result, metric)) is not None and one.low is not None
    ]
    if not found:
        return []
    images = max((one.images for metric, one in found if metric.startswith("test_")), default=0)
    rest = ""
    if images:
        rest = f"; those of the test cover other test images too, by {counted(images, 'test image')}"
    return [
        f"validation metrics are means over {confirmation.folds} folds of the images outside the test part, each "
        "validated by the model that had not learned it. The 95 % intervals cover other images of the same kind for "
        "training and validation, and new seeds, by the spread of the folds and Nadeau and Bengio's (2003) correction "
        f"for the images that their training parts share{rest}. None accounts for the choice of "
        "configurations and epochs by the validation images"
    ]


def _is_of_all_images(confirmation: Confirmation, metric: str) -> bool:
    """Says whether a metric is one of all images together, to which none adds a number of its own."""
    name = metric.replace("test_", "val_", 1)
    return not confirmation.own_loop and (name in ON_DEMAND or name not in METRICS)


def _differences(confirmation: Confirmation) -> list[str]:
    compared = confirmation.comparisons(confirmation.metric)
    if not compared or any(one.is_real for one in compared):
        return _significant(confirmation, confirmation.metric)
    counts = sorted({one.difference.n for one in compared})
    what = confirmation.repeat
    repeats = f"{counts[0]} to {counts[-1]} {what}s" if len(counts) > 1 else counted(counts[0], what)
    images = min(one.difference.images for one in compared)
    shown = f" and {counted(images, 'image')}" if images else ""
    return [
        f"no difference between the {len(confirmation.results)} configurations is significant by "
        f"{confirmation.metric} over {repeats}{shown}: choose the "
        f"cheaper one{'' if confirmation.by_folds else ', or add --seeds'}"
    ]


def _significant(confirmation: Confirmation, metric: str) -> list[str]:
    """Returns a sentence for each pair of configurations that luck alone would hardly tell apart."""
    real = [one for one in confirmation.comparisons(metric) if one.is_real]
    said = []
    for one in real:
        good, bad = (
            (one.one, one.other)
            if sign(confirmation.better) * one.difference.mean < 0
            else (one.other, one.one)
        )
        images = f" and {counted(one.difference.images, 'image')}" if one.difference.images else ""
        said.append(
            f"trial {good} is significantly better than trial {bad} by {metric}: by "
            f"{abs(one.difference.mean):.4g} (paired over {counted(one.difference.n, confirmation.repeat)}{images}, "
            f"p = {one.p_holm:.2g} after Holm)"
        )
    return said


def _mean(found: Summary, signed: bool = False, repeat: str = "repeat") -> str:
    mean = f"{found.mean:+.4g}" if signed else number(found.mean)
    if found.low is None:
        return f"{mean} (one {repeat})" if found.n == 1 else f"{mean} in all {found.n} {repeat}s"
    std = f"one {repeat}" if found.std is None else f"std {found.std:.2g}, n {found.n}"
    return f"{mean}, {std}, 95 % interval {_interval(found)}"


def confirmation_lines(confirmation: Confirmation, record: StudyRecord) -> list[str]:
    """Returns the result as lines for a terminal."""
    rows = [
        (
            str(result.candidate.trial),
            metric,
            str(found.n),
            number(found.mean),
            number(found.std),
            _interval(found),
            found.covers,
        )
        for metric in confirmation.metrics()
        for result in confirmation.results
        if (found := confirmation.summary(result, metric))
    ]
    promised = [
        (
            str(result.candidate.trial),
            number(result.candidate.promised),
            f"{found.mean:+.4g}" if found else "-",
            _interval(found) if found else "-",
            hparams_text(result.candidate.hparams),
        )
        for result in confirmation.results
        for found in [confirmation.optimisms().get(result.candidate.trial)]
    ]
    return [
        f"{record.name}: {counted(len(confirmation.results), 'configuration')}, "
        f"{counted(confirmation.seeds, confirmation.repeat)} each",
        *columns(
            ("trial", f"search {confirmation.metric}", "optimism", "95 % interval", "hparams"), promised
        ),
        "",
        *columns(("trial", "metric", "n", "mean", "std", "95 % interval", "covers"), rows),
        "",
        *(_detail_lines(confirmation.details) if confirmation.details else []),
        *findings(confirmation),
        *confirmation.notes,
    ]


def _interval(found: Summary) -> str:
    return "-" if found.low is None else f"{found.low:.4g} to {found.high:.4g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def reliability_sentence(found: Mapping[str, Any]) -> str:
    """Returns how far probabilities are from the share of right answers, in words."""
    return (
        f"calibration on the test part: a model's certainty differs from the share of right answers by "
        f"{found['ece']:.1%} on average (ECE)"
    )


def _detail_lines(details: Mapping[str, Any]) -> list[str]:
    """Returns the first configuration's confusion matrix (up to 20 classes), class errors, wrong pictures."""
    classes, confusion = details["classes"], details["confusion"]
    lines: list[str] = []
    if 0 < len(classes) <= 20 and confusion:
        errors = class_errors(confusion, classes)
        rows = [
            (name, *map(str, counts), "-" if row["error"] is None else f"{row['error']:.1%}")
            for name, counts, row in zip(classes, confusion, errors, strict=True)
        ]
        lines += ["test part, all models of the first (rows: true class, columns: predicted)"]
        lines += [*columns(("", *classes, "error"), rows, most=20), ""]
        told = [(row["class"], *(_share(row[key]) for key in ("precision", "recall"))) for row in errors]
        lines += [*columns(("class", "precision", "recall"), told), ""]
    if details.get("labels"):
        rows = [
            (row["label"], str(row["answers"]), *(_share(row[key]) for key in ("precision", "recall", "f1")))
            for row in label_errors(details["labels"], classes)
        ]
        lines += ["test part, all models of the first, by label; answers: about images that have it"]
        lines += [*columns(("label", "answers", "precision", "recall", "F1"), rows, most=20), ""]
    if reliability := details.get("reliability"):
        lines += [reliability_sentence(reliability), ""]
    if details["wrong"]:
        wrong = [
            (str(one["sample"]), one["name"], one["class"], one["predicted"], f"{one['probability']:.1%}")
            for one in details["wrong"][:10]
        ]
        lines += [
            "most confidently wrong",
            *columns(("sample", "name", "class", "predicted", "by"), wrong),
            "",
        ]
    return lines
