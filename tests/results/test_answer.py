"""One answer after a confirmation: every command gives out the same trial, and names the search's own."""

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits
from sqlalchemy import update

import hpsearch
from hpsearch.__main__ import run as run_command
from hpsearch.errors import StorageError, UserError
from hpsearch.results.commands.delete import delete_study, plan_deletion
from hpsearch.results.confirm.confirm import confirm
from hpsearch.results.confirm.plan import Candidate, known, middle_repeat
from hpsearch.results.confirm.refit import RefitPlan, _told, refit
from hpsearch.results.dashboard.notes import study_note
from hpsearch.results.dashboard.publication import PublicationRequest, compute
from hpsearch.results.report import build_report
from hpsearch.results.report.compare import comparison_lines, read_studies
from hpsearch.results.report.document import markdown
from hpsearch.results.stored.answer import Answer, Confirmed, Linked, answer
from hpsearch.results.stored.best import best_trial
from hpsearch.results.stored.reading import reading_study
from hpsearch.results.stored.result import StudyResult
from hpsearch.results.terminal.display import LiveDisplay, PlainDisplay, picture
from hpsearch.results.terminal.lines import best_lines
from hpsearch.results.terminal.progress import in_words
from hpsearch.service.launch import RunOptions
from hpsearch.store.connection import opened
from hpsearch.store.writes import STUDIES
from hpsearch.study import parse_study
from hpsearch.study.file import stored_form
from hpsearch.testing.in_process import InProcessExecutor
from hpsearch.training.weights import read_weights
from tests.results.digits import options_in, searched, small_spec
from tests.results.searches import record_of, search, writable
from tests.results.test_confirm import played

OURS = stored_form(small_spec())
THERE = {"s.confirm": {0: 2}, "s.refit": {0: 2}}
HPARAMS = {1: {"a": 1.0}, 2: {"a": 2.0}, 3: {"a": 3.0}, 4: {"a": 2.0}}


def summary(first: int | None, means: Mapping[int, float]) -> str:
    """What `confirm` stores, as it did before there was one answer."""
    rows = [
        {"trial": trial, "metric": "val_loss", "n": 5, "mean": mean, "std": 0.1, "interval_95": [0.1, 0.9]}
        for trial, mean in means.items()
    ]
    other = [{"trial": 1, "metric": "test_loss", "n": 5, "mean": 9.0, "std": 0.1, "interval_95": None}]
    return json.dumps(
        {"study": "s", "metric": "val_loss", "first": first, "search_first": 1, "statistics": [*other, *rows]}
    )


@pytest.mark.parametrize(
    ("stored", "searched_first", "trial", "status", "news"),
    [
        (None, 1, 1, "not confirmed", ""),
        (None, None, None, "not confirmed", ""),
        (summary(2, {1: 0.6, 2: 0.5}), 1, 2, "confirmed", ""),
        (summary(1, {1: 0.4, 2: 0.5}), 1, 1, "confirmed", ""),
        (summary(2, {1: 0.6, 2: 0.5}), 3, 2, "confirmed", "trial 3"),  # found since
        (summary(2, {1: 0.6, 2: 0.5}), 4, 2, "confirmed", ""),  # found again, with the same hyperparameters
        (summary(1, {}), 1, 1, "not confirmed", ""),  # no repeat gave a value
        (summary(9, {9: 0.5}), 1, 1, "not confirmed", ""),  # of a trial that is not there
    ],
)
def test_the_last_confirmation_decides(
    stored: str | None, searched_first: int | None, trial: int | None, status: str, news: str
) -> None:
    attrs = {"specification": OURS} | ({"confirm_summary": stored} if stored else {})
    found = answer("s", attrs, searched_first, HPARAMS.get, THERE)
    assert (found.trial, found.searched, found.status) == (trial, searched_first, status)
    assert news in found.news
    assert bool(found.news) is bool(news)
    alone = answer("s", attrs, searched_first, HPARAMS.get, THERE, by_search=True)
    assert (alone.trial, alone.confirmed) == (searched_first, None)


def test_a_mean_of_one_repeat_is_called_so() -> None:
    assert Confirmed("s", 1, "val_loss", 0.5, 1, None, {}).text == "val_loss 0.5, mean of 1 repeat"


def test_other_programs_studies_have_no_such_word() -> None:
    assert answer("s", {"confirm_summary": "theirs"}, 1, HPARAMS.get, {}) == Answer(1, 1)


def kept(**changes: Any) -> str:
    """What `refit` stores."""
    refit = {"trial": 2, "number": 0, "epochs": 3, "planned": 5, "images": 90, "test": {"test_loss": 0.5}}
    return json.dumps(refit | changes)


@pytest.mark.parametrize(
    ("linked", "has_refit", "said"),
    [
        (THERE, True, ""),
        ({"s.refit": {0: 2}, "s.confirm": {}}, True, ""),
        ({"s.refit": {0: 4}, "s.confirm": {}}, True, ""),  # another trial with the same hyperparameters
        (
            {"s.confirm": {}},
            False,
            '"s.refit", which holds the refit, was deleted or renamed: run `hpsearch refit s`',
        ),
        (
            {"s.refit": {}, "s.confirm": {}},
            False,
            'trial 0 of the study "s.refit", which was the refit, is gone',
        ),
        (
            {"s.refit": {0: 3}, "s.confirm": {}},
            False,
            "which was the refit, is gone",
        ),  # of another configuration
        ({"s.refit": {0: None}}, True, '"s.confirm", which holds the repeats, was deleted or renamed'),
        (
            {"old.confirm": {}, "s.refit": {0: 2}},
            True,
            '"s.confirm", which holds the repeats, was deleted or renamed',
        ),
    ],
)
def test_linked_studies_that_are_gone_are_noticed(linked: Linked, has_refit: bool, said: str) -> None:
    attrs = {"specification": OURS, "confirm_summary": summary(2, {2: 0.5}), "refit_summary": kept()}
    found = answer("s", attrs, 1, HPARAMS.get, linked)
    assert (found.status, found.trial, found.refit is not None) == ("confirmed", 2, has_refit)
    assert [said in one for one in found.notes] == [True] * bool(said)
    assert set(found.notes) <= set(found.sentences())


def test_a_renamed_search_finds_what_is_linked_under_its_old_name() -> None:
    stored = json.dumps(json.loads(summary(2, {2: 0.5})) | {"study": "old"})
    attrs = {"specification": OURS, "confirm_summary": stored, "refit_summary": kept(study="old.refit")}
    found = answer("s", attrs, 1, HPARAMS.get, {"old.confirm": {}, "old.refit": {0: 2}})
    assert found.notes == ()
    assert found.refit is not None
    assert found.confirmed is not None
    assert (found.refit.study, found.confirmed.linked) == ("old.refit", "old.confirm")


def test_a_confirmed_trial_that_is_gone_is_said() -> None:
    attrs = {"specification": OURS, "confirm_summary": summary(9, {9: 0.5})}
    found = answer("s", attrs, 1, HPARAMS.get, THERE)
    assert (found.trial, found.status) == (1, "not confirmed")
    assert found.sentences() == [
        "trial 9, which was confirmed, is gone from the study: run `hpsearch confirm s` again"
    ]


DAMAGED = [
    "{", "null", "[]", "{}", '"text"', "7", '{"metric": "val_loss"}',
    '{"metric": "val_loss", "statistics": 3}', '{"metric": "val_loss", "statistics": [1]}',
    json.dumps(json.loads(summary(2, {2: 0.5})) | {"study": None, "first": [2]}),
    summary(2, {2: 0.5}).replace("0.5", '"low"'), summary(2, {2: 0.5}).replace("0.5", "NaN"),
    summary(2, {2: 0.5}).replace("[0.1, 0.9]", "[0.1]"), summary(2, {2: 0.5}).replace("[0.1, 0.9]", "0.1"),
    summary(2, {2: 0.5}).replace('"n": 5', '"n": "5"'), "[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("stored", DAMAGED)
def test_a_damaged_summary_is_one_sentence(stored: str) -> None:
    attrs = {"specification": OURS, "confirm_summary": stored}
    words = r'^study "s": its attribute confirm_summary is damaged: .+; run `hpsearch confirm s` to write it again$'
    with pytest.raises(StorageError, match=words):
        answer("s", attrs, 1, HPARAMS.get, THERE)


@pytest.mark.parametrize(
    "stored",
    [
        "{",
        "[]",
        "{}",
        kept(test=None),
        kept(trial="2"),
        kept(number=None),
        kept(images=1.5),
        kept(test={"a": "b"}),
    ],
)
def test_a_damaged_refit_is_one_sentence(stored: str) -> None:
    attrs = {"specification": OURS, "refit_summary": stored}
    words = (
        r'^study "s": its attribute refit_summary is damaged: .+; run `hpsearch refit s` to write it again$'
    )
    with pytest.raises(StorageError, match=words):
        answer("s", attrs, 2, HPARAMS.get, THERE)


def test_every_reader_of_damaged_attributes_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search(tmp_path)
    search(tmp_path, small_spec("whole"))
    played(tmp_path, top=1, seeds=2)
    options = options_in(tmp_path)
    where = ["--storage", options.storage, "--run-folder", str(options.run_folder)]
    commands = (
        ["best", "s"], ["report", "s", "--output", str(tmp_path / "s.html")], ["predict", "s", "x.png"],
        ["export", "s"], ["export", "s", "--study"], ["compare", "s", "whole"], ["refit", "s"],
    )  # fmt: skip
    sound = writable(tmp_path).user_attrs["confirm_summary"]
    for stored in ("{", "[]", sound.replace('"mean": ', '"mean": "x", "was": ')):
        writable(tmp_path).set_user_attr("confirm_summary", stored)
        for command in commands:
            place = where if command[0] in ("best", "predict", "refit") else where[:2]
            assert run_command([*command, *place]) == 2, command
            out, err = capsys.readouterr()
            assert err.startswith('error: study "s": its attribute confirm_summary is damaged: '), (
                command,
                err,
            )
            assert "Traceback" not in out + err
        shown = said_by(capsys, "list", *where)
        assert "its attribute confirm_summary is damaged" in shown
        assert "whole" in shown
    assert played(tmp_path, top=1, seeds=2).confirmation is not None  # as the sentence says
    assert "confirmed: " in said_by(capsys, "best", "s", *where)

    for stored in ("{", "[{}]", "{}"):
        writable(tmp_path).set_user_attr("test_openings", stored)
        assert (
            run_command(["report", "s", "--output", str(tmp_path / "s.html"), *where[:2]])
            == 2 - (stored == "[{}]") * 2
        )
        plan_deletion("s", options.storage, options.run_folder)


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunOptions]:
    """A search whose first, trial 3, is not the first of its confirmation, which is trial 0."""
    folder = tmp_path_factory.mktemp("turned")
    spec = small_spec(
        "lucky",
        study={"trials": 4, "seed": 2},
        data={"split": {"train": 0.85, "val": 0.05, "test": 0.1}},
        train={"epochs": 3},
        search={"learning_rate": [0.1, 0.15, 0.2, 0.3]},
        confirm={"top": 3, "seeds": 2},
    )
    options = searched(folder, spec)
    outcome = confirm("lucky", options, test=False, executor=InProcessExecutor()).confirmation
    assert outcome is not None
    assert outcome.first != outcome.search_first
    return folder, options


def said_by(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    assert run_command(list(command)) == 0
    out, err = capsys.readouterr()
    return out + err


def _judged(texts: Mapping[str, str]) -> dict[str, float]:
    names = ("val_loss", "val_error", "val_macro_f1", "val_top5_error")
    return {name: float(texts[name]) for name in names}


def test_every_command_names_the_confirmed_trial(
    turned: tuple[Path, RunOptions], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, options = turned
    record = record_of(folder, "lucky")
    first, lucky = record.answer.trial, record.answer.searched
    assert record.best is not None
    assert (record.best.number, first) == (lucky, json.loads(record.attrs["confirm_summary"])["first"])
    linked = record_of(folder, "lucky.confirm")
    assert record.chosen is not None
    middle = middle_repeat(linked, Candidate(record.chosen.number, 0.0, record.chosen.hparams))
    assert middle is not None
    state, _ = read_weights(options.run_folder / middle.attrs["weights"])
    where = ["--storage", options.storage, "--run-folder", str(options.run_folder)]
    mean = f"confirmed: val_loss {record.answer.confirmed.mean:.4g}, mean of 2 repeats"  # type: ignore[union-attr]
    other = f"the search alone would have picked trial {lucky}"

    shown = said_by(capsys, "best", "lucky", *where)
    assert shown.startswith(f"lucky: trial {first}, {mean}")
    assert other in shown
    assert f"weights: {options.run_folder / middle.attrs['weights']}" in shown
    shown_first = shown
    shown = said_by(capsys, "best", "lucky", "--search", *where)
    assert shown.startswith(f"lucky: trial {lucky}, val_loss {record.best.score:.4g}")
    for name in ("val_error", "fit", "device"):
        assert f"  {name} in the search: " in shown_first
        assert f"  {name}: " not in shown_first
    as_json = json.loads(said_by(capsys, "best", "lucky", "--json", *where))
    mean_value = record.answer.confirmed.mean  # type: ignore[union-attr]
    assert (as_json["number"], as_json["value"]) == (first, mean_value)
    assert as_json["search_value"] == record.chosen.score

    said_by(capsys, "best", "lucky", "--save", str(tmp_path / "out"), *where)
    described = json.loads((tmp_path / "out" / "model.json").read_text(encoding="utf-8"))
    assert (described["trial"], described["answer"]["searched"]) == (first, lucky)
    assert (described["value"], described["search_value"]) == (mean_value, record.chosen.score)
    assert described["metrics"] == _judged(read_weights(tmp_path / "out" / "model.safetensors")[1])
    assert described["metrics"]["val_loss"] == middle.score
    assert described["metrics"]["val_loss"] != record.chosen.score
    for model in (
        hpsearch.load_best_model("lucky", options.storage),
        hpsearch.load_best_model(tmp_path / "out"),
    ):
        assert (model.metadata["study"], model.metadata["trial"]) == ("lucky", str(first))
        assert f"trial {first}, {mean}" in model.metadata["answer"]
        kept = model.model.state_dict()
        assert all(torch.equal(kept[name], tensor) for name, tensor in state.items())
    alone = hpsearch.load_best_model("lucky", options.storage, search=True)
    assert alone.metadata["trial"] == str(lucky)

    Image.fromarray((load_digits().images[0] * 15).astype("uint8")).save(tmp_path / "zero.png")
    picture = str(tmp_path / "zero.png")
    assert f"lucky: trial {first}, {mean}" in said_by(capsys, "predict", "lucky", picture, *where)
    assert f"lucky: trial {lucky}, " in said_by(capsys, "predict", "lucky", picture, "--search", *where)

    text = markdown(build_report("lucky", options.storage))
    assert text.startswith(f"# Hyperparameter search: lucky, trial {first} confirmed\n")
    assert f"is trial {first}, {in_words(mean)}" in text
    assert f"| the search alone would have picked | trial {lucky} |" in text
    assert f"the confirmation puts trial {first} first, not trial {lucky}" in text
    assert f"is trial {lucky}: validation loss" in markdown(
        build_report("lucky", options.storage, by_search=True)
    )
    note = study_note(record)
    assert f"## The best: trial {first}, {in_words(mean)}" in note
    assert other[1:] in note

    assert f"{record.answer.confirmed.mean:.4g} confirmed" in said_by(capsys, "list", *where)  # type: ignore[union-attr]
    assert f"{record.answer.confirmed.mean:.4g}, confirmed" in said_by(capsys, "status", "lucky", *where)  # type: ignore[union-attr]
    result = StudyResult("lucky", options.storage)
    assert result.best is not None
    assert result.search_best is not None
    assert (result.best.number, result.search_best.number) == (first, lucky)
    frame = result.dataframe().set_index("trial")
    assert frame["confirmed"][first] == record.answer.confirmed.mean  # type: ignore[union-attr]
    whole = json.loads(said_by(capsys, "export", "lucky", "--study", *where))
    assert (whole["answer"]["trial"], whole["answer"]["searched"]) == (first, lucky)
    assert (whole["answer"]["value"], whole["answer"]["search_value"]) == (mean_value, record.chosen.score)
    changes = compute(
        PublicationRequest(options.storage, "lucky", str(options.run_folder), output="")
    ).changes
    (artifact,) = [one for one in changes if one.what == "best weights"]
    assert artifact.attrs["hpsearch:best_artifact"]["trial"] == middle.number


def test_a_run_that_goes_on_ends_with_the_confirmed_trial(
    turned: tuple[Path, RunOptions], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, options = turned
    record = record_of(folder, "lucky")
    assert record.spec is not None
    live = LiveDisplay(Console(file=io.StringIO(), width=200), storage=options.storage)
    hpsearch.run(record.spec, storage=options.storage, run_folder=options.run_folder, progress=live)
    console = Console(file=io.StringIO(), width=200)
    console.print(picture(live.progress, console))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"best: trial {record.answer.trial}, confirmed: val_loss" in shown
    assert f"best by the search alone: trial {record.answer.searched}, val_loss" in shown
    output = io.StringIO()
    display = PlainDisplay(output, storage=options.storage)
    hpsearch.run(record.spec, storage=options.storage, run_folder=options.run_folder, progress=display)
    assert f"best: trial {record.answer.trial}, confirmed: val_loss" in output.getvalue()
    assert f"the search alone would have picked trial {record.answer.searched}" in output.getvalue()


def test_the_refit_is_trained_on_both_parts_and_handed_out(
    turned: tuple[Path, RunOptions], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, options = turned
    record = record_of(folder, "lucky")
    found = refit("lucky", options, executor=InProcessExecutor())
    assert found.refit is not None
    data = record.attrs["data"]
    assert found.refit.trial == record.answer.trial
    assert found.refit.images == data["train"] + data["val"]
    assert "test_loss" in found.refit.test
    (opening,) = json.loads(record_of(folder, "lucky").attrs["test_openings"])
    assert (opening["configurations"], opening["models"]) == (f"refit of trial {record.answer.trial}", 1)
    linked = record_of(folder, "lucky.refit")
    (trial,) = linked.trials
    assert trial.attrs["samples_per_second"] > 0
    assert (trial.state, trial.epochs_run, trial.best_epoch) == (
        "COMPLETE",
        found.refit.epochs,
        found.refit.epochs,
    )
    path = options.run_folder.absolute() / trial.attrs["weights"]
    assert f"weights: {path}" in found.lines
    state, facts = read_weights(path)
    assert facts["epoch"] == str(found.refit.epochs)
    images = load_digits().images / 16
    assert float(json.loads(facts["mean"])[0]) == pytest.approx(images.mean(), abs=0.004)
    model = hpsearch.load_best_model("lucky", options.storage)
    assert all(torch.equal(model.model.state_dict()[name], tensor) for name, tensor in state.items())
    assert f"weights of the refit of trial {record.answer.trial}" in model.metadata["answer"]
    where = ["--storage", options.storage, "--run-folder", str(options.run_folder)]
    said_by(capsys, "best", "lucky", "--save", str(tmp_path / "out"), *where)
    described = json.loads((tmp_path / "out" / "model.json").read_text(encoding="utf-8"))
    assert described["metrics"] == {}  # it has no validation part
    assert described["answer"]["refit"]["test"] == dict(found.refit.test)
    again = refit("lucky", options, executor=InProcessExecutor())
    assert again == found
    assert len(json.loads(record_of(folder, "lucky").attrs["test_openings"])) == 1
    where = ["--storage", options.storage, "--run-folder", str(options.run_folder)]
    assert "  lucky.refit" in said_by(capsys, "list", *where)
    linked_names = [one.name for one in plan_deletion("lucky", options.storage, options.run_folder).linked]
    assert sorted(linked_names) == ["lucky.confirm", "lucky.refit"]
    assert hpsearch.load_best_model(None, options.storage).metadata["study"] == "lucky"

    shown = said_by(capsys, "best", "lucky.refit", *where)
    assert (
        f"trial 0 is the refit of trial {record.answer.trial} of the study lucky; its training loss" in shown
    )
    shown = said_by(capsys, "best", "lucky.confirm", *where)
    assert "of the study lucky, the best of all repeats: `hpsearch best lucky --storage " in shown
    assert (
        "hpsearch confirm"
        not in markdown(build_report("lucky.confirm", options.storage)).partition("## The q")[0]
    )

    for gone in ("rename", "delete"):
        with opened(options.storage, readonly=False) as storage, storage.engine.begin() as connection:
            old, new = ("lucky.refit", "aside.refit") if gone == "rename" else ("aside.refit", "lucky.refit")
            connection.execute(update(STUDIES).where(STUDIES.c.study_name == old).values(study_name=new))
        if gone == "rename":
            shown = said_by(capsys, "best", "lucky", *where)
            assert (
                '"lucky.refit", which holds the refit, was deleted or renamed: run `hpsearch refit lucky --storage '
                in shown
            )
            assert f"weights of trial {record.answer.trial}, repeat" in shown
            assert "refit on" not in markdown(build_report("lucky", options.storage))
            continue
        assert "the refit of trial" in said_by(capsys, "best", "lucky", *where)
        delete_study(plan_deletion("lucky.refit", options.storage, options.run_folder), options.storage)
        shown = said_by(capsys, "best", "lucky", *where)
        assert "refit" not in shown


@pytest.mark.parametrize(
    ("tables", "wanted", "words"),
    [
        ({}, {}, "is not confirmed; run `hpsearch confirm small` first, or give --search"),
        (
            {"train": {"schedule": "plateau"}},
            {"search": True},
            "lowers the learning rate by the validation loss",
        ),
        ({"train": {"function": "tests.results.own_loop:train"}}, {"search": True}, "a loop of your own"),
    ],
)
def test_what_cannot_be_refitted(
    tmp_path: Path, tables: dict[str, Any], wanted: dict[str, bool], words: str
) -> None:
    options = searched(tmp_path, small_spec(study={"trials": 1}, **tables))
    with pytest.raises(UserError, match=words):
        refit("small", options, executor=InProcessExecutor(), **wanted)
    with pytest.raises(UserError, match='no study "other"'):
        refit("other", options)


def test_what_is_said_of_a_refit_of_the_search_does_not_claim_a_confirmation(tmp_path: Path) -> None:
    options = searched(tmp_path, small_spec(study={"trials": 2}))
    record = record_of(tmp_path, "small")
    assert record.best is not None
    other = next(trial for trial in record.trials if trial != record.best)
    found = refit("small", options, search=True, test=False, executor=InProcessExecutor())
    linked = record_of(tmp_path, "small.refit")
    course = RefitPlan(other, 1, 2, "why")  # as if the search had found a better one meanwhile
    told = _told(record, course, linked, linked.trials[0], {}, options, [])
    assert "confirmed" not in " ".join(told.lines)
    assert f"still use trial {record.best.number}, the search's best by now" in told.lines[-1]
    assert "use it from now on" in found.lines[-1]


def test_patterns_whose_order_an_older_version_lost_are_named_before_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    patterns = {"3.*": 1.0, "*": 0.5}
    options = searched(
        tmp_path, small_spec(study={"trials": 1}, train={"lr_multipliers": patterns}, confirm={"top": 1})
    )
    study = writable(tmp_path, "small")
    confirm("small", options, seeds=2, test=False, executor=InProcessExecutor())
    assert "alphabetical" not in caplog.text
    tree = json.loads(study.user_attrs["specification"])
    study.set_user_attr("specification", json.dumps(tree, sort_keys=True))
    writable(tmp_path, "small")._storage.delete_study(writable(tmp_path, "small.confirm")._study_id)
    confirm("small", options, seeds=2, test=False, executor=InProcessExecutor())
    assert 'in this order: {"*": 0.5, "3.*": 1.0}; if that is not the order of the study file' in caplog.text


def test_the_searchs_first_is_refitted_for_its_best_epoch(tmp_path: Path) -> None:
    options = searched(tmp_path, small_spec(study={"trials": 2}))
    best = record_of(tmp_path, "small").best
    found = refit("small", options, search=True, test=False, executor=InProcessExecutor()).refit
    assert best is not None
    assert found is not None
    assert (found.trial, found.epochs, found.test) == (best.number, best.best_epoch, {})
    assert record_of(tmp_path, "small").answer.refit == found
    with reading_study("small", options.storage) as study:
        answered = best_trial(study)
    assert answered is not None
    shown = "\n".join(best_lines("small", "val_loss", answered))
    assert re.search(
        r"^small: trial \d+, val_loss \S+ at epoch \d of 2 in the search, not confirmed$", shown, re.M
    )
    assert "  val_error in the search: " in shown
    assert "test_openings" not in record_of(tmp_path, "small").attrs
    with pytest.raises(UserError, match="is a refit; confirm the search: `hpsearch confirm small`"):
        confirm("small.refit", options)


def test_a_study_file_cannot_give_its_validation_part_away() -> None:
    split = {"train": 0.8, "val": 0.1, "test": 0.1, "join_val": True}
    with pytest.raises(UserError, match=r"data\.split\.join_val: is true, which leaves no validation part"):
        parse_study({"data": {"dataset": "digits", "split": split}, "search": {"epochs": [2]}})


def test_what_was_confirmed_before_stays_in_the_comparison(tmp_path: Path) -> None:
    search(tmp_path)
    first = played(tmp_path, top=3, seeds=2).confirmation
    again = played(tmp_path, top=1, seeds=2).confirmation
    assert first is not None
    assert again is not None
    assert [one.candidate.trial for one in again.results] == [one.candidate.trial for one in first.results]
    assert len(record_of(tmp_path, "s.confirm").trials) == 6
    assert known(record_of(tmp_path), None, []) == []


def test_repeats_are_shown_under_the_numbers_of_the_search(tmp_path: Path) -> None:
    search(tmp_path)
    output = io.StringIO()
    outcome = played(tmp_path, top=2, seeds=2, callbacks=[PlainDisplay(output)]).confirmation
    assert outcome is not None
    ended = [line for line in output.getvalue().splitlines() if " COMPLETE after " in line]
    numbers = [one.candidate.trial for one in outcome.results]
    wanted = {f"trial {number}, repeat {repeat} COMPLETE" for number in numbers for repeat in (0, 1)}
    assert {line.partition("] ")[2].partition(" after")[0] for line in ended} == wanted
    assert "best" not in output.getvalue()


def test_a_deleted_confirmation_leaves_its_word_and_the_searchs_weights(tmp_path: Path) -> None:
    search(tmp_path)
    played(tmp_path, top=1, seeds=2)
    storage = writable(tmp_path)._storage
    storage.delete_study(storage.get_study_id_from_name("s.confirm"))
    result = StudyResult("s", options_in(tmp_path).storage).best
    assert result is not None
    assert result.answer.status == "confirmed"
    assert any(
        '"s.confirm", which holds the repeats, was deleted' in one for one in result.answer.sentences()
    )
    assert result.weights_of is not None
    assert (result.weights_of.study, result.weights_of.trial) == ("s", result.number)


def test_studies_side_by_side_say_what_they_are_worth(tmp_path: Path) -> None:
    search(tmp_path)
    played(tmp_path, top=1, seeds=2)
    search(tmp_path, small_spec("t"))
    text = "\n".join(comparison_lines(read_studies(["s", "t"], options_in(tmp_path).storage)))
    assert "(n 2)" in text
    assert "not confirmed" in text


def test_what_the_best_is_expected_to_be_stands_beside_it_until_it_is_confirmed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search(tmp_path)
    url = f"sqlite:///{tmp_path}/s.db"
    with reading_study("s", url) as opened_study:
        best = best_trial(opened_study)
        stored = opened_study.attrs["expected"]
    assert best is not None
    assert (stored["trial"], stored["promised"]) == (best.number, best.value)
    assert stored["value"] > stored["promised"]
    expected = best.answer.expected
    assert expected is not None
    said = expected.text
    assert said.startswith("the best of many is partly luck: when trained again, expect val_loss ")
    for command in ("best", "status"):
        assert run_command([command, "s", "--storage", url]) == 0
        assert said in capsys.readouterr().out
    assert in_words(said)[1:] in markdown(build_report("s", url))

    study = writable(tmp_path)
    other = {**stored, "trial": best.number + 1, "promised": 0.0}
    study.set_user_attr("expected", other)  # of what was the best before
    for command in ("best", "status"):
        assert run_command([command, "s", "--storage", url]) == 0
        assert "is to be expected" not in capsys.readouterr().out
    study.set_user_attr("expected", stored)
    study.set_user_attr("confirm_summary", summary(best.number, {best.number: 0.4}))
    for command, shown in (("best", False), ("best --search", True), ("status", False)):
        assert run_command([*command.split(), "s", "--storage", url]) == 0
        assert (said in capsys.readouterr().out) == shown
    study.set_user_attr("expected", {"trial": 1})
    assert run_command(["best", "--search", "s", "--storage", url]) == 2
    assert "its attribute expected is damaged" in capsys.readouterr().err
