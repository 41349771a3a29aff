"""Folds instead of one validation part: confirmations over them, searches that compare by them, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hpsearch
from hpsearch.__main__ import run as run_command
from hpsearch.contracts.executor import Workers
from hpsearch.errors import ModelError, StudyFileError, UserError
from hpsearch.results.commands.models import save_best
from hpsearch.results.confirm.confirm import Outcome, confirm
from hpsearch.results.confirm.ensemble import join
from hpsearch.results.confirm.plan import Candidate, candidates, is_value, linked_spec, repeats
from hpsearch.results.confirm.refit import refit
from hpsearch.results.confirm.statistics import difference, summarize
from hpsearch.results.confirm.summary import Confirmation, Result
from hpsearch.results.confirm.words import confirmation_lines
from hpsearch.results.report import build_report
from hpsearch.results.report.document import markdown
from hpsearch.results.stored.reading import read_study
from hpsearch.service.launch import RunOptions
from hpsearch.service.opening import open_study
from hpsearch.service.run import run
from hpsearch.study import digest, parse_study
from hpsearch.testing.in_process import InProcessExecutor
from hpsearch.training.data import load
from hpsearch.training.data.sealed import open_test
from hpsearch.training.saved import load_model
from tests.results.digits import options_in, searched, small_spec
from tests.results.searches import record_of
from tests.results.test_continuation import fresh, lengthened, spec_of

SPLIT = {"train": 0.3, "val": 0.1, "test": 0.6}
ON_FOLDS = {"split": {**SPLIT, "folds": 3}}


@pytest.fixture(scope="module")
def by_folds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunOptions, Outcome]:
    """A search on one validation part, confirmed over four folds."""
    folder = tmp_path_factory.mktemp("confirmed")
    options = searched(folder, small_spec(data={"split": SPLIT}))
    return folder, options, confirm("small", options, folds=4, executor=InProcessExecutor())


@pytest.fixture(scope="module")
def on_folds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunOptions]:
    """A search that compares by the means over three folds."""
    folder = tmp_path_factory.mktemp("searched")
    return folder, searched(folder, small_spec(data=ON_FOLDS))


def test_repeats_are_validated_on_the_fold_of_their_number(
    by_folds: tuple[Path, RunOptions, Outcome],
) -> None:
    folder, _, outcome = by_folds
    assert outcome.confirmation is not None
    linked, spec = record_of(folder, "small.confirm"), record_of(folder, "small.confirm").spec
    assert spec is not None
    data = load(spec.data, cache=folder / "runs" / "cache")
    for result in outcome.confirmation.results:
        trials = repeats(linked, result.candidate)
        assert sorted(trials) == [0, 1, 2, 3]
        for repeat, trial in trials.items():
            own = spec.with_hparams(trial.hparams)
            assert (own.data.split.folds, own.data.split.fold) == (4, repeat)
            val = data.at(own.data).val
            model = load_model(folder / "runs" / trial.attrs["weights"])
            outputs = model.judge(val.images)
            loss = torch.nn.functional.cross_entropy(outputs, val.targets).item()
            assert trial.score == pytest.approx(loss, rel=1e-5)
            assert result.images["val_loss"][repeat].mean() == pytest.approx(loss, rel=1e-4)
        assert sum(map(len, result.images["val_loss"].values())) == data.facts.train + data.facts.val
    assert set(outcome.confirmation.results[0].test) == {0, 1, 2, 3}


def test_the_test_part_is_normalised_as_each_fold_was(by_folds: tuple[Path, RunOptions, Outcome]) -> None:
    folder, _, outcome = by_folds
    assert outcome.confirmation is not None
    linked = record_of(folder, "small.confirm")
    spec = linked.spec
    assert spec is not None
    sealed = open_test(spec.data, cache=folder / "runs" / "cache")
    images, targets = sealed.pixels(sealed.test, slice(None)), sealed.test.targets
    result = outcome.confirmation.results[0]
    for repeat, trial in repeats(linked, result.candidate).items():
        with torch.inference_mode():
            outputs = load_model(folder / "runs" / trial.attrs["weights"])(images)
        loss = torch.nn.functional.cross_entropy(outputs, targets).item()
        assert result.test[repeat]["test_loss"] == pytest.approx(loss, rel=1e-6)


def test_what_is_said_and_stored_of_folds(by_folds: tuple[Path, RunOptions, Outcome]) -> None:
    _, options, outcome = by_folds
    assert outcome.confirmation is not None
    assert outcome.stored["folds"] == 4
    assert "seeds" not in outcome.stored
    covers = {(row["metric"][:4], row["covers"]) for row in outcome.stored["statistics"]}
    assert covers == {("val_", "folds"), ("test", "folds and images")}
    lines = "\n".join(confirmation_lines(outcome.confirmation, outcome.record))
    for words in (
        "2 configurations, 4 folds each",
        "on average over 4 folds, trained again)",
        "validation metrics are means over 4 folds of the images outside the test part",
        "Nadeau and Bengio's (2003) correction",
    ):
        assert words in lines
    assert "new seeds and other images" not in lines
    report = markdown(build_report("small", options.storage))
    assert "mean of 4 folds" in report
    assert "folds, each trained once" in report


def test_a_confirmation_of_folds_is_resumed_as_such(by_folds: tuple[Path, RunOptions, Outcome]) -> None:
    folder, options, _ = by_folds
    before = len(record_of(folder, "small.confirm").trials)
    again = confirm("small", options, test=False, executor=InProcessExecutor())
    assert again.stored["folds"] == 4
    assert len(record_of(folder, "small.confirm").trials) == before == 8
    for wanted, words in (
        (
            {"folds": 5},
            r"has repeats over 4 folds, to which those over 5 folds cannot be compared; delete it",
        ),
        ({"seeds": 2}, r"has repeats over 4 folds, to which those over seeds cannot .* or leave --seeds out"),
        ({"folds": 4, "seeds": 2}, r"--folds 4: each fold is trained once.* --seeds 2 contradicts"),
        ({"folds": 1}, r"--folds: must be at least 2, got 1"),
    ):
        with pytest.raises(UserError, match=words):
            confirm("small", options, **wanted, executor=InProcessExecutor())


def test_a_loop_of_ones_own_is_given_the_parts_of_each_fold(tmp_path: Path) -> None:
    train = {"function": "tests.results.own_loop:train", "epochs": 2}
    options = searched(tmp_path, small_spec(train=train, data={"split": SPLIT}, confirm={"top": 1}))
    outcome = confirm("small", options, folds=3, executor=InProcessExecutor())
    assert outcome.confirmation is not None
    (result,) = outcome.confirmation.results
    assert len({found["val_loss"] for found in result.validation.values()}) == 3
    found = outcome.confirmation.summary(result, "val_loss")
    assert found is not None
    assert (found.n, found.covers) == (3, "folds")
    assert "validation metrics are means over 3 folds" in "\n".join(
        confirmation_lines(outcome.confirmation, outcome.record)
    )


def test_repeats_over_seeds_and_over_folds_are_never_compared(
    by_folds: tuple[Path, RunOptions, Outcome],
) -> None:
    """Two confirmations that begin at once may train both; the one that was planned last is asked for its own."""
    _, options, _ = by_folds
    linked = read_study("small.confirm", options.storage)
    assert linked.spec is not None
    (candidate,) = candidates(read_study("small", options.storage), 1)
    assert len(repeats(linked, candidate)) == 4
    split = linked.spec.data.split.model_copy(update={"folds": None, "fold": None})
    over_seeds = linked.spec.model_copy(update={"data": linked.spec.data.model_copy(update={"split": split})})
    assert repeats(replace(linked, spec=over_seeds), candidate) == {}


def test_an_empty_confirmation_that_a_driver_runs_is_not_replaced(tmp_path: Path) -> None:
    """Its workers may just be starting."""
    options = searched(tmp_path)
    record = read_study("small", options.storage)
    spec = linked_spec(record, candidates(record, 1), 3, None, 3)
    study = open_study(spec, options.storage, [])
    study.beat("[]")
    with pytest.raises(
        UserError, match=r"has repeats over 3 folds, to which those over seeds cannot be compared"
    ):
        confirm("small", options, seeds=2, executor=InProcessExecutor())
    study.release()
    study.storage.engine.dispose()


def test_more_folds_than_images_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    options = searched(tmp_path, small_spec(data={"split": SPLIT}))
    with pytest.raises(
        UserError, match=r'data\.split\.folds = 80: class "0" has 71 images outside the test part'
    ):
        confirm("small", options, folds=80, executor=InProcessExecutor())
    again = confirm("small", options, top=1, seeds=2, executor=InProcessExecutor())
    assert again.stored["seeds"] == 2, "nothing was trained over folds, so that seeds may take their place"
    linked = record_of(tmp_path, "small.confirm")
    assert linked.spec is not None
    assert linked.attrs["digest"] == digest(linked.spec)


def test_the_command_names_folds(
    by_folds: tuple[Path, RunOptions, Outcome], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, options, _ = by_folds
    place = ["--storage", options.storage, "--run-folder", str(folder / "runs")]
    assert run_command(["confirm", "small", "--folds", "4", "--workers", "1", "--gpus", "none", *place]) == 0
    assert "2 configurations, 4 folds each" in capsys.readouterr().out
    assert run_command(["best", "small", "--storage", options.storage]) == 0
    assert "mean of 4 folds" in capsys.readouterr().out


def test_a_search_by_folds_is_confirmed_over_them_and_refitted(
    on_folds: tuple[Path, RunOptions], tmp_path: Path
) -> None:
    folder, options = on_folds
    record = record_of(folder, "small")
    assert record.spec is not None
    assert record.best is not None
    images = record.attrs["data"]["train"] + record.attrs["data"]["val"]
    for verb in (
        lambda: hpsearch.load_best_model("small", options.storage, run_folder=options.run_folder),
        lambda: save_best("small", options.storage, tmp_path / "model", options.run_folder),
    ):
        with pytest.raises(ModelError, match=r"the models of 3 folds \(data\.split\.folds\)"):
            verb()
    assert not (tmp_path / "model").exists()
    for wanted, words in (
        ({"seeds": 3}, r"--seeds: data\.split\.folds is 3, and each fold is trained once"),
        ({"folds": 4}, r"--folds 4: data\.split\.folds is 3, which the search compared by"),
    ):
        with pytest.raises(UserError, match=words):
            confirm("small", options, **wanted, executor=InProcessExecutor())
    with pytest.raises(
        UserError, match=r"--ensemble: the models of small were validated on 3 different folds"
    ):
        join("small", options, "ensemble", 5)
    outcome = confirm("small", options, executor=InProcessExecutor())
    assert outcome.confirmation is not None
    assert outcome.stored["folds"] == 3
    one = outcome.confirmation.results[0]
    means = [summarize(list(one.values(name).values()), folds=3).mean for name in ("val_loss", "val_error")]
    assert means[0] == pytest.approx(one.candidate.promised, rel=0.5)
    repeat = hpsearch.load_best_model("small", options.storage, run_folder=options.run_folder)
    assert "median of its repeats" in repeat.metadata["answer"]
    found = refit("small", options, executor=InProcessExecutor())
    assert found.refit is not None
    assert found.refit.images == images
    whole = record_of(folder, "small.refit")
    assert whole.spec is not None
    assert (whole.spec.data.split.folds, whole.spec.data.split.join_val) == (None, True)
    model = hpsearch.load_best_model("small", options.storage, run_folder=options.run_folder)
    assert "refit" in model.metadata["answer"]
    save_best("small", options.storage, tmp_path / "model", options.run_folder)
    assert "side by side" not in (tmp_path / "model" / "model.md").read_text(encoding="utf-8"), (
        "it is one model"
    )


@pytest.mark.parametrize("fold", [None, 2])
def test_a_trial_of_folds_is_continued_as_one(tmp_path: Path, fold: int | None) -> None:
    split = {"data": {"split": {**SPLIT, "folds": 3, "fold": fold}}}
    searched(tmp_path, spec_of(**split))
    best = record_of(tmp_path, "c").best
    assert best is not None
    found = lengthened(tmp_path, 10)
    longer = record_of(tmp_path, "c").trials[2]
    whole = fresh(tmp_path / "fresh", spec_of(10, **split))[best.number]
    assert (found.trial, longer.val, longer.train) == (2, whole.val, whole.train)


def test_several_workers_pauses_and_early_stopping_work_on_the_mean_curve(tmp_path: Path) -> None:
    spec = small_spec(
        study={"trials": 8, "policy": "auto"},
        data=ON_FOLDS,
        train={"epochs": 6},
        search={"learning_rate": {"low": 1e-3, "high": 1.0, "log": True}},
        sampler={"name": "tpe"},
        early_stopping={"criterion": "patience", "patience": 2},
    )
    options = replace(options_in(tmp_path), workers=Workers(gpus="none", workers=2))
    assert run(spec, options).exit_status == 0
    record = record_of(tmp_path, "small")
    assert {trial.state for trial in record.trials} <= {"COMPLETE", "PRUNED"}
    assert any(trial.attrs.get("pauses") for trial in record.trials)
    assert all(is_value(trial) or trial.state == "PRUNED" for trial in record.trials)


def test_the_interval_of_folds_is_nadeau_and_bengios() -> None:
    # t(0.975, 4) = 2.7764451; the variance of 1 to 5 is 2.5, the mean's (1/5 + 1/4) times that
    found = summarize([1, 2, 3, 4, 5], folds=5)
    half = 2.7764451 * np.sqrt(2.5 * (1 / 5 + 1 / 4))
    assert (found.low, found.high) == (pytest.approx(3 - half), pytest.approx(3 + half))
    assert (found.std, found.covers) == (pytest.approx(np.sqrt(2.5)), "folds")
    apart, p = difference([1, 2, 3, 4, 5], folds=5)
    assert (apart.low, apart.high) == (found.low, found.high)
    assert p > difference([1, 2, 3, 4, 5])[1]
    none = summarize([0.0] * 5, (0.0, 1.0), folds=5, pooled=100)
    assert (none.low, none.high) == (0.0, pytest.approx(3.8415 / 103.8415, rel=1e-3))  # Wilson's of 0 in 100


def test_images_of_different_folds_are_not_taken_for_the_same() -> None:
    images = {fold: np.random.default_rng(fold).random(20) + fold / 10 for fold in range(3)}
    values = {fold: {"val_loss": float(one.mean())} for fold, one in images.items()}
    result = Result(Candidate(1, 0.5, {}), values, {}, images={"val_loss": images})
    found = Confirmation("s", "val_loss", "minimize", (result,), 1, 3, by_folds=True).summary(
        result, "val_loss"
    )
    plain = summarize([one["val_loss"] for one in values.values()], (0.0, np.inf), folds=3)
    assert found == plain


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        ({"data": {"split": {"folds": 1}}}, r"data\.split\.folds: must be at least 2, got 1"),
        (
            {"data": {"split": {"fold": 1}}},
            r"data\.split: fold is 1, and folds is not given; change it, or remove",
        ),
        ({"data": {"split": {"folds": 3, "fold": 3}}}, r"fold is 3, and folds are numbered 0 to 2"),
        ({"data": {"split": {"folds": 3, "join_val": True}}}, r"folds = 3 leaves join_val nothing to join"),
        (
            {"data": {"split": {"folds": 3}}, "train": {"function": "my_loop:train"}},
            r"data\.split\.folds: is 3, and train\.function trains a single model; .*hpsearch confirm --folds 3",
        ),
        (
            {"data": {"dataset": "none", "split": {"folds": 3}}, "train": {"function": "my_loop:train"}},
            r"data\.split\.folds: is 3, and train\.function brings data of its own",
        ),
        ({"search": {"data.split.folds": [2, 3]}}, r"search\.data\.split\.folds: is not searchable"),
    ],
)
def test_folds_that_cannot_be(tables: dict[str, Any], sentence: str) -> None:
    base: dict[str, Any] = {"data": {"dataset": "digits"}, "search": {"learning_rate": [0.1]}}
    tree = {name: {**base.get(name, {}), **tables.get(name, {})} for name in {*base, *tables}}
    with pytest.raises(StudyFileError, match=sentence):
        parse_study(tree)
