"""The card of a kept model: what a person who is handed the folder wants to know, as plain Markdown."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hpsearch.files.model_folder import ONNX, PROGRAM
from hpsearch.results.confirm.ensemble import Joined
from hpsearch.results.confirm.statistics import Summary
from hpsearch.results.dashboard.notes import data_rows
from hpsearch.results.stored.answer import SUMMARY, read_summary
from hpsearch.results.stored.attributes import readable
from hpsearch.results.terminal.progress import number
from hpsearch.store.keys import SPECIFICATION
from hpsearch.store.study_data import DATA
from hpsearch.study import StudySpec
from hpsearch.study.file import parse_stored
from hpsearch.text import as_code, counted, in_markdown
from hpsearch.training.data.preparation import from_header


def model_card(described: Mapping[str, Any], attrs: Mapping[str, Any], exported: Sequence[str] = ()) -> str:
    """Returns the card.

    Args:
        described: what `model.json` says.
        attrs: the study's user attributes.
        exported: the files beside the weights that run without hpsearch.

    Raises:
        StorageError: an attribute is damaged.
    """
    study, stored = described["study"], attrs.get(SPECIFICATION)
    spec = parse_stored(stored) if isinstance(stored, str) else None
    model = described.get("model") or {"name": described.get("function")}
    facts = {
        "network": model["name"],
        "started from": model.get("weights"),
        "weights": described["weights_of"],
        "licence": _licence(spec),
        "task": described.get("task"),
        "images": _images(described),
        "computed in": described.get("precision"),
        "made with": f"hpsearch {described['versions']['hpsearch']}, {described['versions']['training']}",
    }
    lines = [
        f"# {in_markdown(study)}",
        "",
        *_table(("fact", "value"), facts.items()),
        "",
        *_data(spec, attrs),
    ]
    lines += ["## Figures", "", *_figures(described, attrs), "", "## Settings", ""]
    hparams = [(in_markdown(name), as_code(value)) for name, value in described["hparams"].items()]
    lines += [*_rows(("hyperparameter", "value"), hparams), "", "## Use", "", *_use(described, exported)]
    return "\n".join(lines) + "\n"


def joined_card(found: Joined, texts: Sequence[Mapping[str, str]]) -> str:
    """Returns the card of several models as one.

    Args:
        texts: what the weights of each member say of themselves.

    Raises:
        StorageError: an attribute is damaged.
    """
    stored = found.attrs.get(SPECIFICATION)
    spec = parse_stored(stored) if isinstance(stored, str) else None
    specs = [member.spec for member, _ in found.members]
    one = texts[0]
    size = {
        "image_size": (json.loads(one["height"]), json.loads(one["width"])),
        "channels": json.loads(one["channels"]),
    }
    alike = len({(text["height"], text["width"], text["channels"]) for text in texts}) == 1
    takes = {"preparation": {"accepts": from_header(one).accepts}}
    facts = {
        "made of": f"{found.kind} of {counted(len(found.members), 'model')}",
        "network": ", ".join(dict.fromkeys(one.model.name for one in specs)),
        "started from": ", ".join(dict.fromkeys(one.model.weights for one in specs if one.model.weights)),
        "licence": _licence(spec),
        "task": one["task"],
        "images": _images(size | takes)
        if alike
        else f"each model resizes them; takes {takes['preparation']['accepts']}",
        "made with": f"hpsearch {one.get('hpsearch', '')}",
    }
    members = [
        (
            in_markdown(member.text),
            str(count),
            as_code(", ".join(f"{name} = {value}" for name, value in member.hparams.items())),
        )
        for member, count in found.members
    ]
    lines = [f"# {in_markdown(found.study)}", "", *_table(("fact", "value"), facts.items()), ""]
    lines += [*_data(spec, found.attrs), "## Figures", "", *_joined_figures(found), "", "## Settings", ""]
    lines += [*_rows(("model", "counts", "hyperparameters"), members), "", "## Use", ""]
    return "\n".join([*lines, *_use({"classes": json.loads(one["classes"]), "task": one["task"]}, ())]) + "\n"


def _joined_figures(found: Joined) -> Iterator[str]:
    """Yields what the models do together, and what the model does that would else be handed out."""
    rows = []
    for part, figures in (("val", found.val), ("test", found.test)):
        for who, whose in ((found.kind, "joined"), (f"{found.single[part]} alone", "single")):
            if whose in figures:
                named = zip((found.loss, found.error_name), figures[whose].summaries(), strict=True)
                rows += [
                    (in_markdown(f"{part}_{name}"), in_markdown(who), *_with_interval(one))
                    for name, one in named
                ]
    yield "The intervals cover other images of the same kind. The models were chosen by the validation part (`val_`),"
    yield f"so that their gain there is optimistic; {'the test part tells' if found.test else found.untested}."
    yield ""
    yield from _rows(("metric", "model", "value", "95 % interval"), rows)
    for note in found.notes:
        yield from ("", in_markdown(note))


def _with_interval(one: Summary) -> tuple[str, str]:
    interval = "-" if one.low is None or one.high is None else f"{number(one.low)} to {number(one.high)}"
    return number(one.mean), interval


def _licence(spec: StudySpec | None) -> str:
    stated = spec.study.license if spec is not None else None
    return stated or "not stated (study.license in the study file states it)"


def _data(spec: StudySpec | None, attrs: Mapping[str, Any]) -> list[str]:
    notes = "; ".join((attrs.get(DATA) or {}).get("notes") or ())
    return [
        "## Data",
        "",
        *_table(("fact", "value"), [*data_rows(spec, attrs), ("found in them", notes)]),
        "",
    ]


def _images(described: Mapping[str, Any]) -> str | None:
    if "image_size" not in described:
        return None
    height, width = described["image_size"]
    size = f"{width} x {height} pixels, {counted(described['channels'], 'channel')}; others are resized"
    return f"{size}; takes {described['preparation']['accepts']}"


def _figures(described: Mapping[str, Any], attrs: Mapping[str, Any]) -> Iterator[str]:
    """Yields what the confirmation found of this configuration; without one what the search says, and its worth."""
    answer = described["answer"]
    summary = read_summary(described["study"], attrs) if answer["confirmed"] is not None else None
    if summary is None:
        command = f"hpsearch confirm {described['study']}"
        yield (
            f"{in_markdown(described['metric'])} {number(described['value'])} on the validation part, as the best of "
            f"many and so optimistic: not confirmed. {as_code(command)} measures it on the test part."
        )
        return
    with readable(described["study"], SUMMARY):
        rows = [
            (
                in_markdown(row["metric"]),
                number(row["mean"]),
                " to ".join(map(number, row["interval_95"])) if row.get("interval_95") else "-",
                str(row["n"]),
            )
            for row in summary["statistics"]
            if row["trial"] == summary["first"]
        ]
    head = ("metric", "mean", "95 % interval", "trainings")
    anew, val = "with several seeds", "the validation part"
    if "folds" in summary:
        anew, val = f"on {summary['folds']} folds", "the images left out of each"
    yield f"The configuration, trained again {anew}; `val_` is {val}, `test_` the test part."
    yield ""
    yield from _rows(head, rows)
    if answer["refit"] is not None:
        test = ", ".join(f"{name} {number(value)}" for name, value in answer["refit"]["test"].items())
        yield ""
        yield f"These weights are a refit on {answer['refit']['images']:,} images; {test or 'not tested'}."


def _use(described: Mapping[str, Any], exported: Sequence[str]) -> Iterator[str]:
    if "classes" not in described:
        yield "The weights are of a training function of its own, whose code loads them."
        return
    yield "    hpsearch predict FOLDER_OF_THIS_CARD picture.jpg"
    yield ""
    yield "or in Python:"
    yield ""
    yield "    import hpsearch"
    yield '    model = hpsearch.load_best_model("FOLDER_OF_THIS_CARD")'
    if described.get("task") == "multilabel":
        yield "    # a picture has the labels whose probability is at least a half, or the threshold of yours"
    yield f"    model.{'probabilities(images)' if described['classes'] else '__call__(images)'}"
    if PROGRAM in exported:
        yield f'    outputs = torch.export.load("{PROGRAM}").module()(images)  # without hpsearch'
    if ONNX in exported:
        yield f'    onnxruntime.InferenceSession("{ONNX}").run(["outputs"], {{"images": images}})  # without PyTorch'


def _table(head: tuple[str, str], facts: Iterable[tuple[str, Any]]) -> list[str]:
    return _rows(head, [(name, in_markdown(value)) for name, value in facts if value])


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(row)} |" for row in cells]
