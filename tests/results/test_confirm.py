"""Confirming: which trials, how they are trained anew, what is opened and recorded, what is said."""

import base64
import html
import io
import json
import os
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from PIL import Image

from hpsearch.__main__ import run as run_command
from hpsearch.contracts.callbacks import Callback, FinishedTrial
from hpsearch.contracts.executor import Workers
from hpsearch.contracts.messages import EndKind, EpochResult, TrialRun
from hpsearch.errors import DigestMismatch, StudyFileError, UserError
from hpsearch.executors.places import Gpu
from hpsearch.results.confirm import confirm as confirm_module
from hpsearch.results.confirm.confirm import Outcome, confirm
from hpsearch.results.confirm.exam import Exam, ExamSetup, _outputs, examine, picture
from hpsearch.results.confirm.linked import read_pictures
from hpsearch.results.confirm.plan import Candidate, candidates, linked_spec, repeats
from hpsearch.results.confirm.refit import plan_refit, refit
from hpsearch.results.confirm.words import confirmation_lines
from hpsearch.results.report import build_report
from hpsearch.results.report.document import markdown
from hpsearch.results.report.page import page
from hpsearch.results.stored.reading import read_study
from hpsearch.results.stored.study import StudyRecord, TrialRecord
from hpsearch.results.terminal.progress import in_words, number
from hpsearch.service.launch import RunOptions
from hpsearch.store.keys import SAMPLE, SPECIFICATION
from hpsearch.study import DataSpec, digest, parse_study
from hpsearch.study.file import parse_stored
from hpsearch.testing.in_process import InProcessExecutor
from hpsearch.text import as_sentence
from hpsearch.training.build import build_engine
from hpsearch.training.data import load
from hpsearch.training.data.sealed import open_test
from hpsearch.training.device import PRECISIONS
from hpsearch.training.own import NO_JUDGES
from hpsearch.training.saved import load_model
from hpsearch.training.weights import read_weights, save_weights
from tests.results.digits import options_in, searched, small_spec
from tests.results.searches import digits_spec, lifelike, record_of, search, writable
from tests.service.curves import CurveExecutor, Script
from tests.training.trials import make_run


def anew(run: TrialRun) -> Script:
    """Curves that end a little worse than the search's, by the repeat."""
    repeat = run.spec.train.repeat
    assert repeat is not None
    base = lifelike(replace(run, number=50))
    return Script(tuple(value + 0.01 * (repeat + 1) for value in base.val), train=base.train)


def played(folder: Path, script: Any = anew, **wanted: Any) -> Outcome:
    """Confirms with scripted curves; the test part stays closed, since there are no models."""
    return confirm("s", options_in(folder), test=False, executor=CurveExecutor(script), **wanted)


def attrs_of(folder: Path, name: str) -> dict[str, Any]:
    return dict(record_of(folder, name).attrs)


def test_the_best_different_complete_trials_are_chosen(tmp_path: Path) -> None:
    search(tmp_path)
    record = record_of(tmp_path)
    chosen = candidates(record, 3)
    complete = [trial for trial in record.ranked if trial.state == "COMPLETE"]
    assert [one.trial for one in chosen] == [trial.number for trial in complete[:3]]
    assert chosen[0].promised == record.best.score  # type: ignore[union-attr]
    other = {**complete[0].hparams, "learning_rate": 0.123}
    cut = replace(complete[0], number=98, state="PRUNED", score=0.0, hparams=other)
    doubled = replace(record, trials=(*record.trials, cut, replace(complete[0], number=99)))
    assert [one.trial for one in candidates(doubled, 2)] == [one.trial for one in chosen[:2]]


def test_the_linked_study_trains_every_configuration_with_every_repeat(tmp_path: Path) -> None:
    search(tmp_path)
    outcome = played(tmp_path, top=2, seeds=3)
    linked = record_of(tmp_path, "s.confirm")
    assert linked.count("COMPLETE") == 6
    for candidate in candidates(record_of(tmp_path), 2):
        trials = repeats(linked, candidate)
        assert sorted(trials) == [0, 1, 2]
        assert {trial.attrs["confirms"] for trial in trials.values()} == {candidate.trial}
        for trial in trials.values():
            assert {**trial.hparams, "train.repeat": None} == {**candidate.hparams, "train.repeat": None}
    assert outcome.confirmation is not None
    for result in outcome.confirmation.results:
        assert len(result.validation) == 3
        assert result.test == {}
    spec = linked.spec
    assert spec is not None
    assert (spec.pruner.name, spec.early_stopping.outcome, spec.checkpoint.keep) == (
        "none",
        "complete",
        "all",
    )
    assert spec.early_stopping.patience == 3


def test_what_is_said_and_stored(tmp_path: Path) -> None:
    search(tmp_path)
    outcome = played(tmp_path, top=2, seeds=3)
    found, record = outcome.confirmation, record_of(tmp_path)
    assert found is not None
    promised = record.best.score  # type: ignore[union-attr]
    first = next(one for one in found.results if one.candidate.trial == record.best.number)  # type: ignore[union-attr]
    mean = sum(first.values("val_loss").values()) / 3
    assert found.optimisms()[first.candidate.trial].mean == pytest.approx(mean - promised)
    stored = json.loads(record.attrs["confirm_summary"])
    assert stored == json.loads(json.dumps(outcome.stored))
    assert stored["search_first"] == record.best.number  # type: ignore[union-attr]
    assert {row["n"] for row in stored["statistics"]} == {3}
    assert stored["comparisons"][0]["n"] == 3
    text = "\n".join(confirmation_lines(found, outcome.record))
    assert f"trial {found.first} is the best: val_loss" in text
    assert "its optimism is" in text
    assert "test_openings" not in record.attrs


def test_confirming_again_adds_what_is_new_and_trains_nothing_twice(tmp_path: Path) -> None:
    search(tmp_path)
    ran: list[tuple[int, int | None]] = []

    def script(run: TrialRun) -> Script:
        ran.append((run.number, run.spec.train.repeat))
        return anew(run)

    played(tmp_path, script, top=2, seeds=2)
    assert sorted(ran) == [(0, 0), (1, 0), (2, 1), (3, 1)]
    ran.clear()
    played(tmp_path, script, top=2, seeds=2)
    assert ran == []
    played(tmp_path, script, top=3, seeds=3)
    assert sorted(ran) == [(4, 0), (5, 1), (6, 2), (7, 2), (8, 2)]
    linked = record_of(tmp_path, "s.confirm")
    for candidate in candidates(record_of(tmp_path), 3):
        assert sorted(repeats(linked, candidate)) == [0, 1, 2]


class Interrupts(Callback):
    """Breaks the run off after some trials, as a dying driver would."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_trial_end(self, trial: FinishedTrial) -> None:
        self.after -= 1
        if self.after == 0:
            raise KeyboardInterrupt


def test_a_broken_confirmation_goes_on(tmp_path: Path) -> None:
    search(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        played(tmp_path, top=2, seeds=3, callbacks=[Interrupts(after=2)])
    done = len(record_of(tmp_path, "s.confirm").finished)
    assert 0 < done < 6
    outcome = played(tmp_path, top=2, seeds=3)
    assert outcome.confirmation is not None
    assert record_of(tmp_path, "s.confirm").count("COMPLETE") == 6


@pytest.mark.parametrize("values", [(), (2.1,)])
@pytest.mark.parametrize(
    ("kind", "reason"),
    [(EndKind.ERROR, "made to end with error"), (EndKind.OUT_OF_MEMORY, "made to end with out_of_memory")],
)
def test_repeats_that_break_off_count_nowhere(
    tmp_path: Path, values: tuple[float, ...], kind: EndKind, reason: str
) -> None:
    search(tmp_path)
    best = record_of(tmp_path).best
    assert best is not None

    def fails(run: TrialRun) -> Script:
        is_best = run.spec.train.learning_rate == best.hparams["learning_rate"]
        return Script(values, kind) if is_best and run.spec.train.repeat == 1 else anew(run)

    outcome = played(tmp_path, fails, top=2, seeds=3)
    assert outcome.confirmation is not None
    assert outcome.confirmation.notes == (
        f"trial {best.number}: 1 of 3 repeats failed: {reason}; confirm again to retry",
        f"trial {best.number}: val_loss is over 2 repeats instead of 3",
    )
    first = next(one for one in outcome.confirmation.results if one.candidate.trial == best.number)
    assert sorted(first.validation) == [0, 2]


@pytest.mark.parametrize("kind", [EndKind.ERROR, EndKind.OUT_OF_MEMORY, "die"])
def test_a_repeat_that_broke_off_is_trained_again(tmp_path: Path, kind: EndKind | str) -> None:
    search(tmp_path)
    best = record_of(tmp_path).best
    assert best is not None
    ran: list[tuple[int, int | None]] = []

    def once(run: TrialRun) -> Script:
        ran.append((run.number, run.spec.train.repeat))
        return Script((), kind) if run.number in lost else anew(run)

    lost = {1}  # repeat 1
    first = played(tmp_path, once, top=1, seeds=3)
    assert first.confirmation is not None
    assert first.confirmation.results[0].failed == 1
    lost.add(3)
    for tries in (2, 3):
        ran.clear()
        again = played(tmp_path, once, top=1, seeds=3)
        assert ran == [(tries + 1, 1)]
    assert again.confirmation is not None
    (result,) = again.confirmation.results
    assert (sorted(result.validation), result.failed) == ([0, 1, 2], 0)
    (note,) = again.confirmation.notes
    assert note.startswith(f"trial {best.number}: repeat 1 was trained again after it failed: ")
    ran.clear()
    played(tmp_path, once, top=1, seeds=3)
    assert ran == []
    linked = record_of(tmp_path, "s.confirm")
    assert [trial.hparams["train.repeat"] for trial in linked.trials] == [0, 1, 2, 1, 1]
    broken = [trial for trial in linked.trials if trial.state != "COMPLETE"]
    assert [trial.number for trial in broken] == [1, 3]
    assert all(trial.attrs["stop_detail"] for trial in broken)
    whole = next(candidate for candidate in candidates(record_of(tmp_path), 1))
    assert repeats(linked, whole)[1].number == 4


class Brittle(torch.nn.Linear):
    """Raises in training while a file is there."""

    def __init__(self, classes: int, file: str) -> None:
        super().__init__(64, classes)
        self.file = Path(file)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and self.file.exists():
            raise ZeroDivisionError("broken for now")
        return super().forward(images.flatten(1))


def test_a_confirmation_whose_model_was_broken_is_made_good(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    model = {"name": "tests.results.test_confirm:Brittle", "args": {"file": str(broken)}}
    tree = small_spec(model=model, study={"max_attempts": 1}, confirm={"top": 1, "seeds": 2})
    options = searched(tmp_path, tree)
    broken.touch()
    first = confirm("small", options, executor=InProcessExecutor()).confirmation
    assert first is not None
    assert first.results[0].validation == {}
    assert "broken for now (2); confirm again to retry" in first.notes[0]
    broken.unlink()
    second = confirm("small", options, executor=InProcessExecutor()).confirmation
    assert second is not None
    (result,) = second.results
    assert sorted(result.validation) == sorted(result.test) == [0, 1]
    linked = record_of(tmp_path, "small.confirm")
    assert [trial.state for trial in linked.trials] == ["FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    (opening,) = json.loads(attrs_of(tmp_path, "small")["test_openings"])
    assert opening["models"] == 2


def test_what_would_end_alike_is_not_trained_again(tmp_path: Path) -> None:
    search(tmp_path)
    ran: list[int] = []

    def diverges(run: TrialRun) -> Script:
        ran.append(run.number)
        return Script((float("nan"),)) if run.spec.train.repeat == 1 else anew(run)

    for _ in range(2):
        outcome = played(tmp_path, diverges, top=1, seeds=2)
    assert ran == [0, 1]
    assert outcome.confirmation is not None
    assert not any("again" in note for note in outcome.confirmation.notes)


@pytest.mark.parametrize(
    ("name", "wanted", "words"),
    [
        ("s", {"seeds": 1}, "--seeds: must be at least 2, got 1"),
        ("s", {"top": 0}, "--top: must be at least 1, got 0"),
        ("s.confirm", {}, "`hpsearch confirm s`$"),
        ("empty", {}, "no COMPLETE trial"),
        ("t", {}, 'no study "t"'),
    ],
)
def test_what_cannot_be_confirmed(tmp_path: Path, name: str, wanted: dict[str, int], words: str) -> None:
    search(tmp_path)
    played(tmp_path, top=1, seeds=2)
    other = writable(tmp_path)
    empty = optuna.create_study(study_name="empty", storage=other._storage)
    for key in ("specification", "metric"):
        empty.set_user_attr(key, other.user_attrs[key])
    with pytest.raises(UserError, match=words):
        confirm(name, options_in(tmp_path), **wanted)


def test_another_search_under_the_same_name_is_not_mixed_in(tmp_path: Path) -> None:
    search(tmp_path)
    played(tmp_path, top=1, seeds=2)
    optuna.delete_study(study_name="s", storage=writable(tmp_path)._storage)  # as the dashboard does
    search(tmp_path, digits_spec(study={"max_attempts": 1}, train={"momentum": 0.5}))
    with pytest.raises(DigestMismatch, match=r'"s\.confirm".*\n.*train\.momentum'):
        played(tmp_path, top=1, seeds=2)


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        ({"name": "points"}, "needs at least one"),
        ({"name": "tpe", "points": [{"hparams": {"learning_rate": 0.1}}]}, 'for the sampler "points"'),
        (
            {"name": "points", "points": [{"hparams": {"epochs": 3}}]},
            "must give exactly learning_rate, got epochs",
        ),
        (
            {"name": "points", "points": [{"hparams": {"learning_rate": 0.2}}]},
            r"learning_rate = 0\.2 is not in",
        ),
    ],
)
def test_points_that_are_none(sampler: dict[str, Any], words: str) -> None:
    tree = small_spec().model_dump() | {"sampler": sampler}
    with pytest.raises(StudyFileError, match=words):
        parse_study(tree)


def test_points_are_outside_of_the_digest(tmp_path: Path) -> None:
    search(tmp_path)
    record = record_of(tmp_path)
    few, many = (linked_spec(record, candidates(record, 2), seeds, None) for seeds in (2, 3))
    assert digest(few) == digest(many)
    lost = replace(record.trials[0], state="FAIL", hparams=dict(few.sampler.points[0].hparams))
    half_way = replace(record, spec=few, trials=(lost,))
    assert linked_spec(record, candidates(record, 2), 2, half_way) == few  # again only when all were tried
    longer = linked_spec(record, candidates(record, 3), 2, replace(record, spec=few, trials=()))
    assert longer.sampler.points[:4] == few.sampler.points
    assert len(longer.sampler.points) == 6


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunOptions, Outcome]:
    """A real search, confirmed with 2 configurations and 3 repeats, test part opened."""
    folder = tmp_path_factory.mktemp("trained")
    options = searched(folder)
    return folder, options, confirm("small", options, executor=InProcessExecutor())


def test_equal_repeats_draw_the_same_whatever_their_number(tmp_path: Path) -> None:
    def first_epoch(number: int, repeat: int | None) -> float:
        run = replace(
            make_run(tmp_path / f"{number} {repeat}", number=number, train={"repeat": repeat}),
            hparams={"train.repeat": repeat},
        )
        engine.admit(run)
        (result,) = engine.step()
        engine.evict(number, EndKind.STOPPED)
        assert isinstance(result, EpochResult)
        return result.metrics["train_loss"]

    engine, _ = build_engine(make_run(tmp_path).spec, torch.device("cpu"), cache=str(tmp_path))
    losses = {key: first_epoch(*key) for key in ((3, 0), (7, 0), (3, 1), (3, None), (7, None), (0, None))}
    assert losses[3, 0] == losses[7, 0]
    assert len(set(losses.values())) == 5


def test_no_repeat_draws_what_the_search_drew(trained: tuple[Path, RunOptions, Outcome]) -> None:
    folder, _, _ = trained
    curves = [trial.train for name in ("small", "small.confirm") for trial in record_of(folder, name).trials]
    assert len(set(curves)) == len(curves) == 9


def test_the_test_losses_are_those_of_the_kept_models(trained: tuple[Path, RunOptions, Outcome]) -> None:
    folder, _, outcome = trained
    assert outcome.confirmation is not None
    linked, record = record_of(folder, "small.confirm"), record_of(folder, "small")
    spec = small_spec().data
    sealed = open_test(spec, cache=folder / "runs" / "cache")
    images, targets = sealed.pixels(sealed.test, slice(None)), sealed.test.targets
    for result in outcome.confirmation.results:
        candidate = next(c for c in candidates(record, 2) if c.trial == result.candidate.trial)
        for repeat, trial in repeats(linked, candidate).items():
            with torch.inference_mode():
                outputs = load_model(folder / "runs" / trial.attrs["weights"])(images)
            loss = torch.nn.functional.cross_entropy(outputs, targets).item()
            error = (outputs.argmax(1) != targets).float().mean().item()
            assert result.test[repeat]["test_loss"] == pytest.approx(loss, rel=1e-5)
            assert result.test[repeat]["test_error"] == pytest.approx(error, abs=1e-6)
    assert outcome.confirmation.test_metric == "test_loss"


def test_intervals_cover_seeds_and_images(trained: tuple[Path, RunOptions, Outcome]) -> None:
    folder, options, outcome = trained
    assert outcome.confirmation is not None
    facts = load(small_spec().data, cache=folder / "runs" / "cache").facts
    for metric, count in (("val_loss", facts.val), ("val_error", facts.val), ("test_macro_f1", facts.test)):
        for result in outcome.confirmation.results:
            kept, values = result.images[metric], result.values(metric)
            assert {repeat: len(images) for repeat, images in kept.items()} == dict.fromkeys(values, count)
            means = {repeat: images.mean() for repeat, images in kept.items()}
            assert means == pytest.approx(values, rel=1e-4)
            found = outcome.confirmation.summary(result, metric)
            assert found is not None
            assert (found.covers, found.images) == ("seeds and images", count)
            assert found.low is not None
            assert found.high is not None
            assert 0 <= found.low < found.mean < found.high
    rows = outcome.stored["statistics"]
    assert {row["covers"] for row in rows} == {"seeds and images"}
    assert {row["covers"] for row in outcome.stored["optimism"]} == {"seeds"}
    words = f"cover new seeds and other images of the same kind, by {facts.val} validation images and {facts.test}"
    assert words in "\n".join(confirmation_lines(outcome.confirmation, outcome.record))
    assert words in markdown(build_report("small", options.storage))


def test_without_what_each_image_gave_intervals_cover_seeds_and_say_so(
    trained: tuple[Path, RunOptions, Outcome],
) -> None:
    folder, options, outcome = trained
    home = folder / "runs" / "small.confirm"
    for path in (home / "weights", home / "images"):
        path.rename(path.with_suffix(".away"))
    try:
        elsewhere = confirm("small", options)
    finally:
        for path in (home / "weights", home / "images"):
            path.with_suffix(".away").rename(path)
    assert {row["covers"] for row in elsewhere.stored["statistics"]} == {"seeds"}
    assert "cover new seeds, not other images" in "\n".join(
        row["finding"] for row in elsewhere.stored["findings"]
    )
    assert confirm("small", options).stored == json.loads(json.dumps(outcome.stored))


def test_a_loss_and_a_metric_of_ones_own_are_tested(tmp_path: Path) -> None:
    own = {"val_share": {"build": "tests.training.parts:share", "direction": "maximize"}}
    train = {"epochs": 2, "loss": "tests.training.parts:focal", "metrics": own}
    options = searched(tmp_path, small_spec(study={"metric": "val_share"}, train=train))
    outcome = confirm("small", options, top=1, seeds=2, executor=InProcessExecutor())
    found = outcome.confirmation
    assert found is not None
    (result,) = found.results
    for metrics in result.test.values():
        assert metrics["test_share"] == pytest.approx(1 - metrics["test_error"])
    assert "val_share and test_share, which are not means over images, new seeds alone" in "\n".join(
        confirmation_lines(found, record_of(tmp_path, "small"))
    )
    images = found.results[0].images["test_loss"]
    for repeat, values in images.items():
        assert float(np.mean(values)) == pytest.approx(result.test[repeat]["test_loss"], rel=1e-5)


def test_the_opening_is_recorded_and_not_repeated(trained: tuple[Path, RunOptions, Outcome]) -> None:
    folder, options, outcome = trained
    (opening,) = json.loads(attrs_of(folder, "small")["test_openings"])
    chosen = [one.trial for one in candidates(record_of(folder, "small"), 2)]
    assert opening["configurations"] == ", ".join(f"trial {number}" for number in chosen)
    assert opening["models"] == 6
    assert opening["digest"] == attrs_of(folder, "small")["digest"]
    facts = load(small_spec().data, cache=folder / "runs" / "cache").facts
    assert opening["data"] == facts.digest
    again = confirm("small", options)  # no executor: nothing is left to train
    assert json.loads(attrs_of(folder, "small")["test_openings"]) == [opening]
    assert again.stored == json.loads(json.dumps(outcome.stored))


def test_the_record_comes_before_the_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: tuple[Path, RunOptions, Outcome]
) -> None:
    folder, options, _ = trained
    before = attrs_of(folder, "small.confirm")["test_results"]
    study = writable(folder, "small.confirm")
    study.set_user_attr("test_results", "{}")

    def refuse(*arguments: Any) -> None:
        raise UserError("the sealed part is on fire")

    monkeypatch.setattr(confirm_module, "_examine", refuse)
    with pytest.raises(UserError, match="on fire"):
        confirm("small", options)
    assert len(json.loads(attrs_of(folder, "small")["test_openings"])) == 2
    monkeypatch.undo()
    outcome = confirm("small", options)
    assert outcome.confirmation is not None
    assert any("was opened 2 times before" in note for note in outcome.confirmation.notes)
    assert json.loads(attrs_of(folder, "small.confirm")["test_results"]) == json.loads(before)


def test_errors_by_class_and_the_most_confidently_wrong(trained: tuple[Path, RunOptions, Outcome]) -> None:
    folder, _, outcome = trained
    assert outcome.confirmation is not None
    details, stored = outcome.confirmation.details, outcome.stored
    sealed = open_test(small_spec().data, cache=folder / "runs" / "cache")
    counts = torch.bincount(sealed.test.targets, minlength=10).tolist()
    counts_KK = stored["confusion"]["counts"]
    for place, row in enumerate(stored["class_errors"]):
        assert row["recall"] == counts_KK[place][place] / sum(counts_KK[place])
        named = sum(one[place] for one in counts_KK)
        assert row["precision"] == (counts_KK[place][place] / named if named else None)
    assert 0 <= stored["reliability"]["ece"] <= 1
    assert sum(count for count, _, _ in stored["reliability"]["bins"]) == sum(counts)
    assert [row["answers"] for row in stored["class_errors"]] == [3 * count for count in counts]
    wrong = sum(row["wrong"] for row in stored["class_errors"])
    errors = outcome.confirmation.results[0].values("test_error").values()
    assert wrong / (3 * sum(counts)) == pytest.approx(sum(errors) / 3)
    shown = [one["probability"] for one in details["wrong"]]
    assert shown == sorted(shown, reverse=True)
    index = sealed.test.index.tolist()
    for one in details["wrong"]:
        assert sealed.classes[int(sealed.test.targets[index.index(one["sample"])])] == one["class"]
        assert one["class"] != one["predicted"]
    assert "most confidently wrong" in "\n".join(confirmation_lines(outcome.confirmation, outcome.record))
    assert stored["confusion"] == {"classes": list(sealed.classes), "counts": details["confusion"]}


def opened_png(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_the_wrong_samples_are_shown(trained: tuple[Path, RunOptions, Outcome], tmp_path: Path) -> None:
    folder, options, outcome = trained
    kept = read_pictures("small.confirm", options.storage)
    assert not any("picture" in name for name in attrs_of(folder, "small.confirm"))  # a dashboard lists those
    sealed = open_test(small_spec().data, cache=folder / "runs" / "cache")
    index = sealed.test.index.tolist()
    assert 0 < len(outcome.stored["most_wrong"]) <= 12
    for one in outcome.stored["most_wrong"]:
        pixels = np.asarray(opened_png(kept[one["sample"]]))
        (image,) = sealed.pixels(sealed.test, torch.tensor([index.index(one["sample"])]))
        np.testing.assert_array_equal(pixels, image[0].mul(255).round().to(torch.uint8))
    document = build_report("small", options.storage)
    shown = page(document)
    samples = len(read_pictures("small", options.storage, SAMPLE))
    assert shown.count('<img src="data:image/png;base64,iVBOR') == len(outcome.stored["most_wrong"]) + samples
    first = outcome.stored["most_wrong"][0]
    caption = f"image {first['sample']}: {first['class']}; the models say {first['predicted']} with"
    assert caption in shown
    assert caption in markdown(document)
    rows = outcome.stored["confusion"]["counts"]
    errors = [f"{1 - row[place] / sum(row):.1%}" for place, row in enumerate(rows)]
    for place, (row, error) in enumerate(zip(rows, errors, strict=True)):
        assert f"| {place} | {' | '.join(map(str, row))} | {error} |" in markdown(document)


@pytest.mark.parametrize(
    ("shape", "mode", "size"),
    [((100, 200, 3), "RGB", (64, 32)), ((40, 30), "L", (30, 40)), ((40, 30, 5), "L", (30, 40))],
)
def test_pictures_are_small(tmp_path: Path, shape: tuple[int, ...], mode: str, size: tuple[int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, *shape), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", x=images, y=np.arange(20) % 2)
    spec = DataSpec(dataset="npz", root=str(tmp_path / "d.npz"), layout="HWC" if len(shape) == 3 else "auto")
    shown = picture(open_test(spec, cache=tmp_path / "cache"), 0)
    image = opened_png(shown)
    assert (image.mode, image.size) == (mode, size)
    assert len(shown) < 60_000


def test_the_report_shows_data_space_and_calibration(trained: tuple[Path, RunOptions, Outcome]) -> None:
    _, options, outcome = trained
    document = build_report("small", options.storage)
    text = markdown(document)
    assert "| images | 1,437 for training, 180 for validation, 180 for the test |" in text
    assert "| size | 8 x 8 pixels, 1 channel |" in text
    assert "* Floating-point images, values as they are." in text
    assert outcome.stored is not None
    best = outcome.record.chosen
    assert best is not None
    assert f"| learning_rate | {best.hparams['learning_rate']:g} | 0.3, 0.1, 0.001, one of 3 |" in text
    (chart,) = (one for one in document.charts() if one.id == "reliability")
    drawn = [tuple(pair) for pair in zip(chart.series[1].x, chart.series[1].y, strict=True)]
    assert drawn == [(certain, right) for _, certain, right in outcome.stored["reliability"]["bins"]]
    assert "p value, corrected (Holm)" in text


def test_the_report_shows_training_images(trained: tuple[Path, RunOptions, Outcome]) -> None:
    _, options, _ = trained
    samples = read_pictures("small", options.storage, SAMPLE)
    assert sorted(samples) == list(range(8))
    shown = page(build_report("small", options.storage))
    assert all(f"data:image/png;base64,{html.escape(png)}" in shown for png in samples.values())
    assert "Some training images as trials see them" not in markdown(build_report("small", options.storage))


def test_the_report_tells_of_it(trained: tuple[Path, RunOptions, Outcome]) -> None:
    _, options, outcome = trained
    text = markdown(build_report("small", options.storage))
    assert "The test part was opened" in text
    assert as_sentence(in_words(outcome.stored["findings"][0]["finding"])) in text


@pytest.mark.parametrize("opens", [True, False])
def test_a_closed_or_missing_test_part_leaves_the_validation(tmp_path: Path, opens: bool) -> None:
    split = {"train": 0.9, "val": 0.1, "test": 0.0} if opens else {}
    spec = small_spec(data={"split": split}, confirm={"top": 1, "seeds": 2})
    options = searched(tmp_path, spec)
    found = confirm("small", options, test=opens, executor=InProcessExecutor()).confirmation
    assert found is not None
    assert len(found.results[0].validation) == 2
    assert found.results[0].test == {}
    assert "test_openings" not in attrs_of(tmp_path, "small")
    assert any("data.split.test is 0" in note for note in found.notes) is opens


def test_weights_that_are_elsewhere_are_told(tmp_path: Path) -> None:
    options = searched(tmp_path, small_spec(confirm={"top": 1, "seeds": 2}))
    confirm("small", options, test=False, executor=InProcessExecutor())
    next((tmp_path / "runs" / "small.confirm" / "weights").glob("*.safetensors")).unlink()
    found = confirm("small", options).confirmation
    assert found is not None
    assert any("the weights of 1 repeat are not on this machine" in note for note in found.notes)
    assert len(found.results[0].test) == 1


def test_the_test_part_is_opened_where_the_first_worker_was(
    monkeypatch: pytest.MonkeyPatch, trained: tuple[Path, RunOptions, Outcome]
) -> None:
    folder, options, _ = trained
    writable(folder, "small.confirm").set_user_attr("test_results", "{}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("hpsearch.executors.places.installed_gpus", lambda: (Gpu("GPU-a"), Gpu("GPU-b")))
    seen: list[dict[str, str]] = []
    examine = confirm_module._examine

    def look(*arguments: Any) -> Exam:
        seen.append({name: text for name, text in os.environ.items() if name.startswith("CUDA_")})
        return examine(*arguments)

    monkeypatch.setattr(confirm_module, "_examine", look)
    confirm("small", replace(options, workers=Workers(gpus="1")))
    assert seen == [{"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}] * 2
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


class Cramped(torch.nn.Module):
    """Says of more than 50 images that they do not fit."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > 50:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images.flatten(1)[:, :10]


def test_batches_of_the_test_part_are_halved_where_memory_is_short(tmp_path: Path) -> None:
    spec = small_spec()
    sealed = open_test(spec.data, cache=tmp_path)
    cpu, precision = torch.device("cpu"), PRECISIONS["float32"]
    outputs, counters = _outputs(spec, Cramped(), sealed, sealed.test, precision, cpu, NO_JUDGES)
    images, _ = sealed.batch(sealed.test, slice(None), torch.float32)
    assert torch.equal(outputs, images.flatten(1)[:, :10])
    assert sum(map(sum, counters.confusion())) == len(sealed.test) > 50


def test_the_test_part_is_examined_in_the_number_type_of_training(
    trained: tuple[Path, RunOptions, Outcome], tmp_path: Path
) -> None:
    folder, _, _ = trained
    trial = record_of(folder, "small.confirm").trials[0]
    state, facts = read_weights(folder / "runs" / trial.attrs["weights"])
    run = make_run(tmp_path)
    place = ExamSetup(None, folder / "runs" / "cache", None, "cpu")
    losses = []
    for precision in ("float32", "bfloat16"):
        path = tmp_path / f"{precision}.safetensors"
        save_weights(path, state, facts | {"precision": precision})
        exam = examine({0: replace(run, spec=small_spec())}, {0: path}, place)
        losses.append(exam.metrics[0]["test_loss"])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_a_training_function_is_tested_by_its_own_test(tmp_path: Path) -> None:
    train = {"function": "tests.results.own_loop:train", "epochs": 2}
    options = searched(tmp_path, small_spec(train=train, confirm={"top": 1, "seeds": 2}))
    found = confirm("small", options, executor=InProcessExecutor()).confirmation
    assert found is not None
    assert {name for metrics in found.results[0].test.values() for name in metrics} == {
        "test_loss",
        "test_size",
    }
    assert all(metrics["test_size"] == 180 for metrics in found.results[0].test.values())
    assert len(json.loads(attrs_of(tmp_path, "small")["test_openings"])) == 1


def test_a_training_function_without_a_test(tmp_path: Path) -> None:
    train = {"function": "tests.results.untested_loop:train", "epochs": 2}
    options = searched(tmp_path, small_spec(train=train, confirm={"top": 1, "seeds": 2}))
    found = confirm("small", options, executor=InProcessExecutor()).confirmation
    assert found is not None
    assert any("no function test(trial, model)" in note for note in found.notes)
    assert "test_openings" not in attrs_of(tmp_path, "small")


def test_the_command(trained: tuple[Path, RunOptions, Outcome], capsys: pytest.CaptureFixture[str]) -> None:
    folder, options, outcome = trained
    assert outcome.confirmation is not None
    command = ["confirm", "small", "--storage", options.storage, "--run-folder", str(folder / "runs")]
    assert run_command(command) == 0
    shown = capsys.readouterr().out
    assert "small: 2 configurations, 3 repeats each" in shown
    assert "test_loss" in shown
    attrs = writable(folder, "small")._storage.get_study_system_attrs(1)
    notes = "".join(text for key, text in attrs.items() if "note_str" in key)
    finding = as_sentence(in_words(outcome.stored["findings"][0]["finding"]))
    assert f"Confirmed with other seeds\n\n* {finding}" in notes
    assert run_command([*command, "--json"]) == 0
    event = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert event["event"] == "confirmation"
    assert event["first"] == outcome.confirmation.first
    assert run_command([*command, "--seeds", "1"]) == 2
    assert "--seeds" in capsys.readouterr().err


def test_a_confirmation_of_an_older_version_that_lost_an_order_is_said_to_be_about_other_models() -> None:
    tree = digits_spec().model_dump()
    tree["train"]["lr_multipliers"] = {"3.*": 2.0, "*.weight": 0.5}
    search = StudyRecord("s", "val_loss", "minimize", parse_study(tree), ())
    chosen = [Candidate(0, 0.1, {"learning_rate": 0.1, "batch_size": 16, "epochs": 10})]
    text = json.dumps(linked_spec(search, chosen, 1).model_dump(mode="json"), sort_keys=True)
    old = StudyRecord("s.confirm", "val_loss", "minimize", parse_stored(text), (), {SPECIFICATION: text})
    with pytest.raises(
        DigestMismatch, match=r"older version, which took the keys .* \(`hpsearch delete s.confirm"
    ):
        linked_spec(search, chosen, 1, old)
    by_name = replace(search, spec=as_sorted(search.spec))
    assert linked_spec(by_name, chosen, 1, old).train.lr_multipliers == {"*.weight": 0.5, "3.*": 2.0}


def as_sorted(spec: Any) -> Any:
    """Returns a study as versions stored it that sorted all keys."""
    return parse_stored(json.dumps(spec.model_dump(mode="json"), sort_keys=True))


def test_stages_are_refitted_without_a_validation_part(tmp_path: Path) -> None:
    stages = {"stages": [{"name": "head", "epochs": 1}, "all"]}
    options = searched(tmp_path, small_spec(train=stages, confirm={"top": 1, "seeds": 2}))
    assert confirm("small", options, executor=InProcessExecutor()).confirmation is not None
    assert refit("small", options, executor=InProcessExecutor()).refit is not None
    assert list(tmp_path.rglob("features-*"))


@pytest.mark.parametrize(
    ("schedule", "planned", "best", "ran", "expected"),
    [
        ("cosine", 20, 12, 16, 16),  # where patience ended it
        ("cosine", 20, 12, 20, 16),  # a fifth of all epochs beyond the best, and no more
        ("cosine", 20, 19, 20, 20),
        ("cosine", 6, 2, 6, 5),
        ("cosine", 6, 6, 6, 6),
        ("constant", 20, 12, 16, 12),
        ("wsd", 20, 12, 16, 12),
        ("wsd", 20, 12, 20, 12),  # 16 epochs have the rate of the first
        ("wsd", 20, 13, 20, 17),
    ],
)
def test_a_refit_ends_where_its_kin_did_as_the_learning_rate_falls(
    schedule: str, planned: int, best: int, ran: int, expected: int
) -> None:
    spec = digits_spec(train={"schedule": schedule})
    hparams = {"learning_rate": 0.1, "batch_size": 16, "epochs": planned}
    losses = tuple(1.0 + abs(best - epoch) for epoch in range(1, ran + 1))
    attrs = {"epochs_run": ran, "best_epoch": best}
    trial = TrialRecord(0, 1, "COMPLETE", 1.0, hparams, losses, losses, 0.0, 1.0, attrs)
    record = StudyRecord("s", "val_loss", "minimize", spec, (trial,))
    plan = plan_refit(record, "sqlite://", search=True)
    assert (plan.epochs, plan.planned) == (expected, planned)


def test_of_several_seeds_the_refit_that_learned_best_is_handed_out(tmp_path: Path) -> None:
    options = searched(tmp_path, small_spec())
    first = refit("small", options, search=True, executor=InProcessExecutor())
    found = refit("small", options, search=True, seeds=3, executor=InProcessExecutor())
    trials = read_study("small.refit", options.storage).trials
    losses = {trial.number: trial.score for trial in trials}
    assert len(losses) == 3
    assert len(set(losses.values())) == 3
    assert first.refit is not None
    assert first.refit.number == 0
    assert found.refit is not None
    assert found.refit.number == min(losses, key=lambda number: losses[number] or inf)
    lowest, middle, highest = (number(loss) for loss in sorted(losses.values(), key=lambda one: one or inf))
    assert f"the best of 3 by training loss: {lowest}, the others {middle} to {highest}" in found.lines
    again = refit("small", options, search=True, executor=InProcessExecutor())  # what was trained counts
    assert again.refit == found.refit
    assert len(read_study("small.refit", options.storage).trials) == 3
    with pytest.raises(UserError, match="--seeds: at most 10000, got 10001"):
        refit("small", options, search=True, seeds=10_001, executor=InProcessExecutor())
