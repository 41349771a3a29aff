"""The result of a confirmation in words and tables."""

from collections.abc import Mapping
from typing import Any

from hpsearch.results.confirm.statistics import Summary, summarize
from hpsearch.results.confirm.summary import Confirmation, class_errors
from hpsearch.results.looks import columns
from hpsearch.results.progress import hparams_text, number
from hpsearch.results.record import StudyRecord


def findings(confirmation: Confirmation) -> list[str]:
    """Returns what the numbers say, in sentences."""
    first = confirmation.first
    if first is None or first not in confirmation.optimisms():
        return ["no repeat gave a value, so nothing is confirmed"]
    metric, said = confirmation.metric, []
    best = confirmation.results[0]
    said.append(f"trial {first} is the best: {metric} {_mean(summarize(list(best.values(metric).values())))}")
    if best.test and (tested := best.values(confirmation.test_metric)):
        said.append(f"on the test part: {confirmation.test_metric} {_mean(summarize(list(tested.values())))}")
    if first == confirmation.search_first:
        said.append("the search's first stays first")
    else:
        said.append(f"the search's first, trial {confirmation.search_first}, is not the first any more")
    if confirmation.search_first in confirmation.optimisms():
        said.append(_optimism(confirmation.optimisms()[confirmation.search_first]))
    return [*said, *_differences(confirmation)]


def _optimism(found: Summary) -> str:
    words = "promised too much" if found.mean > 0 else "did not promise too much"
    if found.low is not None and found.high is not None and found.low <= 0 <= found.high:
        words += ", within the noise"
    return (
        f"the search's best value {words}: its optimism is {_mean(found, signed=True)} (how much worse the "
        "confirmed mean is than the search's best value)"
    )


def _differences(confirmation: Confirmation) -> list[str]:
    compared = confirmation.comparisons(confirmation.metric)
    real = [one for one in compared if one.is_real]
    if not compared:
        return []
    if not real:
        counts = sorted({one.difference.n for one in compared})
        repeats = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
        return [
            f"no difference between the {len(confirmation.results)} configurations is certain by "
            f"{confirmation.metric} over {repeats} repeats: choose the cheaper one, or add --seeds"
        ]
    sign = 1.0 if confirmation.better == "minimize" else -1.0
    said = []
    for one in real:
        good, bad = (one.one, one.other) if sign * one.difference.mean < 0 else (one.other, one.one)
        said.append(
            f"trial {good} is really better than trial {bad} by {confirmation.metric}: by "
            f"{abs(one.difference.mean):.4g} (paired t-test over {one.difference.n} repeats, p = "
            f"{one.p_holm:.2g} after Holm)"
        )
    return said


def _mean(found: Summary, signed: bool = False) -> str:
    mean = f"{found.mean:+.4g}" if signed else number(found.mean)
    if found.std is None or found.low is None or found.high is None:
        return f"{mean} (one repeat)"
    return f"{mean}, std {found.std:.2g}, n {found.n}, 95 % interval {found.low:.4g} to {found.high:.4g}"


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
        )
        for metric in confirmation.metrics()
        for result in confirmation.results
        if (values := result.values(metric))
        for found in [summarize(list(values.values()))]
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
        f"{record.name}: {len(confirmation.results)} configurations, {confirmation.seeds} repeats each",
        *columns(
            ("trial", f"search {confirmation.metric}", "optimism", "95 % interval", "hparams"), promised
        ),
        "",
        *columns(("trial", "metric", "n", "mean", "std", "95 % interval"), rows),
        "",
        *(_detail_lines(confirmation.details) if confirmation.details else []),
        *findings(confirmation),
        *confirmation.notes,
    ]


def _interval(found: Summary) -> str:
    return "-" if found.low is None else f"{found.low:.4g} to {found.high:.4g}"


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
