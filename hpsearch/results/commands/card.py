"""The card of a kept model: what a person who is handed the folder wants to know, as plain Markdown."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hpsearch.files.model_folder import ONNX, PROGRAM
from hpsearch.results.dashboard.notes import data_rows
from hpsearch.results.stored.answer import SUMMARY, read_summary
from hpsearch.results.stored.attributes import readable
from hpsearch.results.terminal.progress import number
from hpsearch.store.keys import SPECIFICATION
from hpsearch.store.study_data import DATA
from hpsearch.study.file import parse_stored
from hpsearch.text import as_code, counted, in_markdown


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
    terms = spec.study.license if spec is not None else None
    model = described.get("model") or {"name": described.get("function")}
    facts = {
        "network": model["name"],
        "started from": model.get("weights"),
        "weights": described["weights_of"],
        "licence": terms or "not stated (study.license in the study file states it)",
        "task": described.get("task"),
        "images": _images(described),
        "computed in": described.get("precision"),
        "made with": f"hpsearch {described['versions']['hpsearch']}, {described['versions']['training']}",
    }
    notes = "; ".join((attrs.get(DATA) or {}).get("notes") or ())
    sources = [*data_rows(spec, attrs), ("found in them", notes)]
    lines = [f"# {in_markdown(study)}", "", *_table(("fact", "value"), facts.items()), "", "## Data", ""]
    lines += [*_table(("fact", "value"), sources), ""]
    lines += ["## Figures", "", *_figures(described, attrs), "", "## Settings", ""]
    hparams = [(in_markdown(name), as_code(value)) for name, value in described["hparams"].items()]
    lines += [*_rows(("hyperparameter", "value"), hparams), "", "## Use", "", *_use(described, exported)]
    return "\n".join(lines) + "\n"


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
    yield "The configuration, trained anew with several seeds; `val_` is the validation part, `test_` the test part."
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
