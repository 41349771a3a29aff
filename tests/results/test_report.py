"""The report: its rules one by one, its two forms, and that it needs nothing from anywhere."""

import json
import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hpsearch.errors import StudyNotFound, UserError
from hpsearch.results.dashboard import notes
from hpsearch.results.dashboard.notes import study_note, trial_note
from hpsearch.results.plots.interactive import figure
from hpsearch.results.report import advice as rules
from hpsearch.results.report import build_report, importance, write_report
from hpsearch.results.report.compare import comparison_lines, read_studies
from hpsearch.results.report.content import report, saved_epochs, worker_hours
from hpsearch.results.report.document import Document, ReportSection, Table, Text, markdown
from hpsearch.results.report.evidence import Claim, chosen
from hpsearch.results.report.importance import Importances, Share, importances, scored
from hpsearch.results.report.page import page
from hpsearch.results.stored.study import StudyRecord, TrialRecord
from hpsearch.results.terminal.progress import in_words
from hpsearch.study.file import parse_study, stored_form
from tests.benchmarks.simulated import Truth, simulate, spec_of
from tests.results.searches import digits_spec, record_of, search, url_in, writable


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    search(folder)
    return folder


SPACE = {"search": {"learning_rate": [0.1], "batch_size": [64]}}


def trial(number: int, score: float | None, state: str = "COMPLETE", **changes) -> TrialRecord:
    hparams = {"learning_rate": 0.1, "batch_size": 64, "epochs": 10} | changes.pop("hparams", {})
    attrs = {"epochs_run": 10, "best_epoch": 6, "stop_reason": "finished", "fit": "good", **changes}
    curve = () if score is None else (score,) * 10
    return TrialRecord(
        number, number, state, score, hparams, curve, curve, float(number), number + 1.0, attrs
    )


def study(*trials: TrialRecord, **attrs) -> StudyRecord:
    attrs = {"specification": stored_form(digits_spec())} | attrs
    return StudyRecord("s", "val_loss", "minimize", digits_spec(), trials, attrs)


def many(count: int, **changes) -> list[TrialRecord]:
    """Trials of which the first is the best and the others are alike."""
    return [trial(n, 1.0 + 0.01 * n, **changes) for n in range(count)]


def falling(name: str, low: float, high: float, count: int = 30, turn: float = 0.0) -> list[TrialRecord]:
    """Trials spread over a range, logarithmically, whose scores get better towards its upper end.

    Args:
        turn: how far from that end the best value lies, as a share of the range.
    """
    away = [(7 * n % count) / (count - 1) for n in range(count)]
    values = [high * (low / high) ** share for share in away]
    whole = name == "epochs"
    return [
        trial(n, 1.0 + abs(share - turn), hparams={name: round(value) if whole else value})
        for n, (share, value) in enumerate(zip(away, values, strict=True))
    ]


def rising(name: str, low: float, high: float) -> list[TrialRecord]:
    return [replace(t, score=3.0 - t.score) for t in falling(name, low, high)]


def by_choice(scores: dict[object, float], each: int = 10) -> list[TrialRecord]:
    """Trials with each batch size, whose scores differ by a little from the one given."""
    pairs = [(choice, score + 0.01 * n) for n in range(each) for choice, score in scores.items()]
    return [trial(n, score, hparams={"batch_size": choice}) for n, (choice, score) in enumerate(pairs)]


def learnt(count: int, best: int) -> list[TrialRecord]:
    """A search whose later half is better than its first, with the best at one place."""
    scores = [2.0 - (n >= count // 2) + 0.001 * n for n in range(count)]
    return [trial(n, 0.1 if n == best else score) for n, score in enumerate(scores)]


def restless(moves: float, scores: tuple[float, ...] = (0.5, 0.51, 0.52)) -> list[TrialRecord]:
    """Trials of which the best one's validation loss goes up and down by `moves`."""
    curve = tuple(0.5 + moves * (epoch % 2) for epoch in range(10))
    return [replace(trial(n, score), val=curve) for n, score in enumerate(scores)]


def diverged(number: int, rate: float = 5.0) -> TrialRecord:
    return trial(number, None, "PRUNED", stop_reason="diverged", hparams={"learning_rate": rate})


def mixed(good: int, bad: int, rate: float) -> list[TrialRecord]:
    """Trials of which `bad` diverged at a learning rate of `rate` or a little above."""
    return [*many(good), *(diverged(good + n, rate * (1 + 0.1 * n)) for n in range(bad))]


def fits(*kinds: str) -> list[TrialRecord]:
    """Trials of these fits, the best first."""
    return [trial(n, 1.0 + n, fit=kind) for n, kind in enumerate(kinds)]


RULES = [
    (rules.failures, [trial(0, 1.0)], None),
    (rules.failures, [trial(0, 1.0), trial(1, None, "FAIL", stop_detail="no layer")], "1 of 2 .*no layer"),
    (rules.limits, [*many(3), *many(3, stop_reason="infeasible")], "3 of 6 trials took more than study.require allows"),
    (rules.limits, [*many(3), *many(2, stop_reason="infeasible")], None),
    (rules.at_the_edge, falling("learning_rate", 1e-4, 10.0),
     r"Learning rate: the 6 trials in the highest fifth .* other 24, median val_loss 1.\d+ against 1.\d+ "
     r"\(p .* after correction for \d+ comparisons\): .*above 10; widen learning_rate there"),
    (rules.at_the_edge, rising("learning_rate", 1e-4, 10.0), "lowest fifth.*below 0.0001; widen learning_rate"),
    (rules.at_the_edge, falling("epochs", 5, 20, 60), "Epochs: the .* highest fifth.*above 20"),
    (rules.at_the_edge, falling("learning_rate", 1e-4, 10.0, turn=0.3), None),  # the best value lies inside
    (rules.at_the_edge, falling("learning_rate", 1e-4, 10.0, turn=0.5), None),
    (rules.at_the_edge, falling("learning_rate", 1e-4, 10.0)[:9], None),
    (rules.at_the_edge, [trial(n, 1.0, hparams={"learning_rate": 9.9}) for n in range(30)], None),  # all there
    (rules.at_the_edge, by_choice({16: 1.0, 64: 2.0, "full": 3.0}), None),  # "full": the choices have no end
    (rules.at_the_edge, many(30), None),
    (rules.still_improving, many(12, best_epoch=10), "6 of the 6 best .*still improving.*raise epochs"),
    (rules.still_improving, many(12, best_epoch=9), None),
    (rules.still_improving, many(5, best_epoch=10), None),  # five are too few to tell of most
    (rules.still_improving, many(12, best_epoch=10, stop_reason="pruner"), None),
    (rules.overfitting, many(12, fit="overfit"), "6 of the 6 best trials overfit.*fewer epochs"),
    (rules.overfitting, fits("overfit", "overfit", "good", "overfit", "overfit", "overfit"), None),
    (rules.overfitting, many(12), None),
    (rules.underfitting, many(12, fit="underfit"), "6 of the 6 best trials are underfit"),
    (rules.underfitting, many(12, fit="overfit"), None),
    (rules.divergence, mixed(8, 4, 2.5), r"4 of 12 trials diverged, median learning rate 2.875 against 0.1 .*"
     r"lower search.learning_rate's upper limit \(they lie above 2.5\)"),
    (rules.divergence, mixed(40, 12, 0.0001), "^12 of 52 trials diverged: add train.warmup_epochs"),  # not high
    (rules.divergence, mixed(8, 1, 2.5), None),
    (rules.divergence, mixed(19, 2, 2.5), None),
    (rules.divergence, [diverged(n, 3.0 + n) for n in range(3)],
     "^All 3 finished trials diverged: lower the learning rate: search below 3, the lowest that was tried"),
    (rules.memory, [*many(3), trial(3, None, "PRUNED", stop_reason="out_of_memory")], "1 of 4 .*did not fit"),
    (rules.memory, many(3), None),
    (rules.few_trials, many(12), "12 trials are too few for 3 hyperparameters: raise study.trials to 30"),
    (rules.few_trials, many(30), None),
    (rules.few_trials, [trial(0, None, "FAIL")], None),
    (rules.late_best, learnt(30, best=4), "later half .* last 25 trials brought nothing better.*hardly help"),
    (rules.late_best, learnt(30, best=29), "the 30th of 30 .*more trials may help"),
    (rules.late_best, learnt(112, best=111), "the 112th of 112"),
    (rules.late_best, learnt(30, best=20), None),
    (rules.late_best, many(30), None),  # the later half is no better: nothing was learnt
    (rules.one_sided, by_choice({16: 2.0, 64: 1.0, "full": 2.0}), "The 10 trials with batch_size = 64 score .*fix"),
    (rules.one_sided, by_choice({16: 1.0, 64: 1.0, "full": 2.0}), None),  # two are equally good
    (rules.one_sided, many(30), None),  # nothing else was tried
    (rules.unsettled, restless(0.03), "lie within 0.02, .* moves by 0.03 .*hpsearch confirm s --top 3"),
    (rules.unsettled, restless(0.01), None),
    (rules.unsettled, restless(0.03)[:2], None),
    (rules.unsettled, restless(0.03, (0.5, 0.6, 0.7)), None),
    (rules.unsettled, [], None),
    (rules.unfinished, [replace(one, state="PAUSED", ended=None) for one in many(2)],
     "^No trial is COMPLETE, and 2 trials may be resumed: `hpsearch run s` resumes the study"),
    (rules.unfinished, [replace(trial(0, 1.0), state="PAUSED", ended=None), trial(1, 2.0)], None),
    (rules.not_confirmed, many(3), "hpsearch confirm s"),
    (rules.not_confirmed, [], None),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "trials", "words"), RULES)
def test_a_rule_speaks_only_where_it_should(rule, trials: list[TrialRecord], words: str | None) -> None:
    said = chosen(rule(study(*trials)))
    if words is None:
        assert said == []
    else:
        assert len(said) == 1
        assert re.search(words, said[0]), said


@pytest.mark.parametrize(
    ("claims", "stays"),
    [
        ([("a", "x", None), ("b", "y", None)], "ab"),
        ([("a", "x", None), ("b", "x", None)], "a"),
        ([("a", "x", None), ("b", "yx", None)], "a"),  # its second remedy might contradict
        ([("a", "yx", None), ("b", "x", None), ("c", "z", None)], "ac"),
        ([("a", "x", 0.9), ("b", "x", 0.01)], "b"),  # what does not hold stands in no way
        ([("a", "x", 0.02), ("b", "y", 0.04)], "ab"),  # Holm: 2 * 0.02, then 1 * 0.04
        ([("a", "x", 0.03), ("b", "y", 0.9)], ""),
    ],
)
def test_claims_that_may_stand(claims: list, stays: str) -> None:
    said = chosen([Claim(seen, "do it", tuple(fields), p) for seen, fields, p in claims])
    assert "".join(sentence[0] for sentence in said) == stays


def test_a_study_of_which_all_trials_diverged_says_so_first() -> None:
    document = report(study(*(diverged(n) for n in range(4))), None)
    assert document.summary == (
        "All 4 finished trials diverged: the loss did not stay finite. Lower the learning rate."
    )
    assert rules.advice(study(*(diverged(n) for n in range(4))))[0].startswith(
        "All 4 finished trials diverged"
    )


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_studies_in_which_nothing_matters_get_no_advice(sampler: str) -> None:
    noise = [simulate(spec_of(sampler, seed, 30), Truth()) for seed in range(12)]
    told = [sentences for record in noise if (sentences := about_hparams(record))]
    assert len(told) <= 2, told  # where 5 % get any, 12 studies have more than two in 2 % of such tests
    assert sum(bool(importances(record).shares) for record in noise[:6]) == 0


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_an_optimum_outside_the_range_is_told_and_ranked_first(sampler: str) -> None:
    truth = Truth(loss=lambda places: 0.8 * (1 - places["learning_rate"]))
    records = [simulate(spec_of(sampler, seed, 60), truth) for seed in range(8)]
    told = [any("widen learning_rate" in s for s in about_hparams(record)) for record in records]
    assert sum(told) >= 6
    others = [
        s for r in records for s in about_hparams(r) if "widen " in s and "widen learning_rate" not in s
    ]
    assert len(others) <= 1, others  # a sampler that learns moves the others along with it
    assert [importances(record).shares[0][0] for record in records] == ["learning_rate"] * 8


@pytest.mark.parametrize("matters", ["train.momentum", "train.optimizer"])
def test_a_field_without_a_meaning_counts_where_it_has_one(matters: str) -> None:
    """Where momentum is missing, the optimizer is Adam: that tells of the optimizer, and not of momentum."""
    rng = random.Random(0)

    def made(number: int) -> TrialRecord:
        optimizer, momentum = rng.choice(["sgd", "adam"]), rng.random()
        own = {"train.momentum": momentum} if optimizer == "sgd" else {"train.beta2": rng.choice([0.9, 0.99])}
        effect = own.get("train.momentum", 0.5) if matters == "train.momentum" else float(optimizer == "sgd")
        found = trial(number, 1 + effect + 0.05 * rng.random())
        return replace(found, hparams={"train.optimizer": optimizer, **own})

    shares = dict(importances(study(*map(made, range(120)))).shares)
    assert shares.pop(matters).value > 0.2
    assert all(abs(share.value) < 0.12 for share in shares.values()), shares


def test_the_search_space_says_where_a_field_is_sampled() -> None:
    when = {
        "batch_size = 16": {"train.momentum": {"low": 0.5, "high": 0.9}},
        "batch_size = 32": {"train.momentum": {"low": 0.1, "high": 0.3}},
    }
    tree = digits_spec().model_dump() | {"search": {"batch_size": [16, 32], "when": when}}
    rows = notes.space_rows(replace(study(*many(3)), spec=parse_study(tree)))
    assert rows == [
        ("batch_size", "16, 32", "one of 2"),
        ("train.momentum", "0.5 to 0.9", "numbers, where batch_size = 16"),
        ("train.momentum", "0.1 to 0.3", "numbers, where batch_size = 32"),
    ]


def test_importances_count_the_newest_trials_with_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    full = trial(3, 0.1, "PRUNED", stop_reason="out_of_memory")
    record = study(*many(3), full, trial(4, 0.2, "FAIL"), diverged(5), trial(6, 3.0, "PRUNED"), trial(7, 2.0))
    assert [t.number for t in scored(record)] == [0, 1, 2, 6, 7]
    monkeypatch.setattr(importance, "MOST", 2)
    assert [t.number for t in scored(record)] == [6, 7]


def about_hparams(record: StudyRecord) -> list[str]:
    return [s for s in rules.advice(record) if "hpsearch confirm" not in s and "too few for" not in s]


def test_a_confirmed_study_is_not_told_to_confirm() -> None:
    statistics = [{"trial": 0, "metric": "val_loss", "n": 2, "mean": 1.0, "interval_95": None}]
    summary = {"study": "s", "metric": "val_loss", "first": 0, "statistics": statistics}
    assert rules.not_confirmed(study(*many(3), confirm_summary=json.dumps(summary))) == []
    assert rules.unsettled(study(*restless(0.03), confirm_summary=json.dumps(summary))) == []


def test_a_linked_study_is_not_told_to_confirm() -> None:
    tree = digits_spec().model_dump()
    tree["search"]["train.repeat"] = {"low": 0, "high": 9}
    tree["sampler"] |= {"name": "points", "points": []}
    linked = study(*many(3), specification=json.dumps(tree))
    assert rules.not_confirmed(linked) == []
    assert rules.unsettled(replace(linked, trials=tuple(restless(0.03)))) == []


def test_every_rule_is_in_use() -> None:
    assert {rule for rule, _, _ in RULES} == set(rules.RULES)


def test_the_environment_says_whether_the_precision_was_chosen_by_the_device() -> None:
    trials = [
        trial(0, 1.0, precision="bfloat16"),
        trial(1, 1.0, precision="float32", hparams={"train.precision": "float32"}),
        trial(2, 1.0, precision="float32", hparams={"train.precision": "auto"}),
    ]
    assert "| precision | bfloat16 (auto), float32, float32 (auto) |" in markdown(
        report(study(*trials), None)
    )


def test_cost_counts_epochs_saved_and_hours_by_what_workers_train_on() -> None:
    record = study(
        trial(0, 1.0, seconds=3600.0, device="cuda:0"),
        trial(1, 1.0, "PRUNED", stop_reason="pruner", epochs_run=4, seconds=1800.0, device="cuda:1"),
        trial(2, 1.0, "PRUNED", stop_reason="diverged", epochs_run=1, seconds=36.0, device="cpu"),
    )
    assert saved_epochs(record) == 6
    text = markdown(report(record, None))
    assert "| GPU workers' hours of training | 1.5 |" in text
    assert "the workers' hours, not the GPUs'" in text
    assert worker_hours(record) == pytest.approx({"GPU": 1.5, "CPU": 0.01})


def test_the_report_tells_what_is_stored(folder: Path) -> None:
    text = markdown(build_report("s", url_in(folder)))
    record = record_of(folder)
    best = record.best
    assert f"The best of 15 finished trials is trial {best.number}: validation loss {best.score:.4g}" in text
    assert f"| 1 | {best.number} | {best.score:.4g} |" in text
    assert "| learning_rate | 0.0001 to 10 | numbers, logarithmic |" in text
    assert "| epochs trained | " + f"{sum(t.epochs_run for t in record.finished):,} |" in text
    assert "made to end with error" in text
    found = importances(record)
    assert found.trials == sum(
        t.score is not None and t.stop_reason != "out_of_memory" for t in record.finished
    )
    assert f"{found.trials} trials with a score" in text
    assert "The test part has not been opened." in text
    assert "hpsearch confirm s" in text


def test_confirmation_and_openings_are_shown(tmp_path: Path) -> None:
    search(tmp_path, digits_spec(study={"trials": 3}))
    study = writable(tmp_path)
    study.set_user_attr("confirm_summary", json.dumps(
        {"study": "s", "metric": "val_loss", "first": None, "statistics": [],
         "optimism": -0.012345, "candidates": [{"trial": 2, "mean": 0.5, "interval": [0.4, 0.6]}]}
    ))  # fmt: skip
    study.set_user_attr("test_openings", json.dumps([{"when": "2026-01-02", "trial": 2}]))
    text = markdown(build_report("s", url_in(tmp_path)))
    assert "| optimism | -0.01234 |" in text or "| optimism | -0.01235 |" in text
    assert "| 2 | 0.5 | 0.4 to 0.6 |" in text
    assert "The test part was opened once:" in text
    assert "| 2026-01-02 | 2 |" in text


@pytest.mark.parametrize(
    ("stopping", "words"),
    [
        ({"metric": "val_error"}, "early stopping by `patience` (it watches `val_error`)"),
        ({}, "early stopping by `patience` (it watches `val_loss`)"),
        ({"criterion": "none"}, "early stopping by `none`."),
    ],
)
def test_what_early_stopping_watches_is_told(stopping: dict[str, str], words: str) -> None:
    spec = digits_spec(early_stopping=stopping)
    assert words in markdown(report(replace(study(trial(0, 1.0)), spec=spec), None))


def test_the_best_trials_errors_by_class_are_told() -> None:
    text = markdown(report(study(trial(0, 1.0, class_errors="8: 0.12, 3: 0.05")), None))
    assert "| validation error by class, the worst first | 8: 0.12, 3: 0.05 |" in text


def test_few_trials_of_many_that_are_allowed_are_run_on_and_single_values_are_none_to_try() -> None:
    search = {"learning_rate": {"low": 0.01, "high": 1.0}, "batch_size": [64], "epochs": [10, 20]}
    spec = digits_spec(study={"trials": 40}, search=search)
    (said,) = chosen(rules.few_trials(replace(study(*many(12)), spec=spec)))
    assert said == "12 trials are too few for 2 hyperparameters: run the study again; it continues from here."


def test_pages_have_words_for_metrics_and_code_has_their_names() -> None:
    best = trial(0, 0.9, metrics_at_best={"train_loss": 0.1, "val_macro_f1": 0.9, "val_dice": 0.8})
    statistics = [{"trial": 0, "metric": "test_auc", "n": 2, "mean": 0.9, "std": 0.1, "interval_95": None}]
    summary = {"study": "s", "metric": "val_macro_f1", "first": None, "statistics": statistics,
               "findings": [{"finding": "trial 0 is the best: val_macro_f1 0.9"}]}  # fmt: skip
    record = replace(
        study(best, confirm_summary=json.dumps(summary)), metric="val_macro_f1", better="maximize"
    )
    document = report(record, None)
    for text in (markdown(document), page(document), study_note(record), trial_note(record, best, 1)):
        assert "val_macro_f1" not in re.sub(
            r"`[^`]*`|<code>.*?</code>|<script.*?</script>", "", text, flags=re.DOTALL
        )
        assert "validation macro F1" in text
    assert "* Trial 0 is the best: validation macro F1 0.9." in markdown(document)
    assert "| test AUC |" in markdown(document).replace("| 0 | test", "| test")
    assert "| val_dice |" in markdown(document)  # of another's own words nothing is known
    drawn = json.dumps([figure(chart) for chart in document.charts()])
    assert "Best validation macro F1 so far" in drawn
    assert "val_macro_f1" not in drawn


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("val_loss 0.1; test_top5_error", "validation loss 0.1; test top-5 error"),
        ("by test_average_precision: 0.5", "by test average precision: 0.5"),
        ("it ends with train_loss.", "it ends with training loss."),
        ("`val_loss` is val_loss", "`val_loss` is validation loss"),
        ("/data/val_loss/a.png my_val_loss val_loss_2 val_loss.csv x.val_loss", None),
    ],
)
def test_only_whole_names_of_metrics_become_words(text: str, words: str | None) -> None:
    assert in_words(text) == (words or text)


def test_a_study_without_trials_makes_a_report() -> None:
    document = report(study(), None)
    assert document.summary == "No trial has begun yet."
    assert "No trial has begun yet." in study_note(study())
    left = study(
        trial(0, None, "PAUSED", paused=2), trial(1, None, "PAUSED", paused=1), trial(2, None, "FAIL")
    )
    for said in (report(left, None).summary, study_note(left)):
        assert "No trial is COMPLETE yet: 1 FAIL, 2 PAUSED." in said
    assert document.charts() == []
    assert "Plotly" not in page(document)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [
            value or "" for key, value in attrs if key in ("src", "href", "srcset", "data", "action")
        ]


def test_the_page_needs_nothing_else(folder: Path, tmp_path: Path) -> None:
    (out,) = write_report(build_report("s", url_in(folder)), tmp_path / "deep" / "r.html")
    links = _Links()
    links.feed(out.read_text(encoding="utf-8"))
    assert links.found
    assert all(link.startswith(("#", "data:")) for link in links.found)
    style = re.findall(r"<style>(.*?)</style>", out.read_text(encoding="utf-8"), re.DOTALL)[0]
    assert "url(" not in style
    assert "@import" not in style


def test_names_from_the_database_cannot_leave_their_place() -> None:
    evil = "</script><script>alert(1)</script>"
    record = replace(study(trial(0, 1.0, host=evil, stop_detail=evil, hparams={"x": evil})), name=evil)
    share = Share(0.5, 0.4, 0.6)
    text = page(report(record, Importances(9, share, ((evil, share),))))
    assert evil not in text
    assert text.count("<script") == 3
    assert (
        markdown(Document("t", "s", (ReportSection("a", (Table(("h",), (("a | b",),)),)),))).count("\\|") == 1
    )


def test_markdown_with_pictures(folder: Path, tmp_path: Path) -> None:
    out, *pictures = write_report(
        build_report("s", url_in(folder)), tmp_path / "r.md", as_markdown=True, png=tmp_path / "pictures"
    )
    shown = re.findall(r"!\[.*?\]\((.*?)\)", out.read_text(encoding="utf-8"))
    assert {tmp_path / name for name in shown} == set(pictures)
    assert all(path.is_file() for path in pictures)


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--output: cannot write .*choose another place"):
        write_report(Document("t", "s", (ReportSection("a", (Text("b"),)),)), tmp_path / "file" / "r.html")


def test_comparison_of_two_studies(folder: Path) -> None:
    search(folder, digits_spec("other", study={"trials": 4}))
    records = read_studies(["s", "other"], url_in(folder))
    lines = comparison_lines(records)
    rows = {line.split()[0]: line.split() for line in lines if line}
    assert rows["s"][1:3] == ["15", f"{records[0].best.score:.4g}"]
    assert rows["other"][1:3] == ["4", f"{records[1].best.score:.4g}"]
    assert rows["learning_rate"][1:] == [f"{r.best.hparams['learning_rate']:.4g}" for r in records]
    *_, last, said = [line for line in lines if line]  # of 4 trials nothing is expected
    assert said.startswith("s: the best of many is partly luck: when trained again, expect val_loss ")
    assert last.split() == [
        str(sum(t.epochs_run for t in records[0].finished)),
        *(f"{r.best.score:.4g}" for r in records),
    ]


@pytest.mark.parametrize(
    ("names", "error", "words"),
    [
        (["s"], UserError, "two or more different studies, got s"),
        (["s", "s"], UserError, "two or more different studies"),
        (["s", "t"], StudyNotFound, 'no study "t"'),
    ],
)
def test_what_cannot_be_compared(folder: Path, names: list[str], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        read_studies(names, url_in(folder))


def test_a_confirmation_of_an_older_version_is_shown(tmp_path: Path) -> None:
    search(tmp_path)
    row = {"trial": 3, "metric": "val_loss", "n": 5, "mean": 0.25, "std": 0.02, "interval_95": [0.225, 0.275]}
    old = {
        "study": "s", "metric": "val_loss", "seeds": 5, "first": 3, "search_first": 3, "first_stays_first": True,
        "findings": [{"finding": "the search's first stays first"}],
        "statistics": [row],
        "optimism": [{**row, "search": 0.2}],
        "comparisons": [],
    }  # fmt: skip
    writable(tmp_path).set_user_attr("confirm_summary", json.dumps(old))
    text = markdown(build_report("s", url_in(tmp_path)))
    assert "The search's first stays first." in text
    assert "0.225 to 0.275" in text
    assert "The 95 % intervals cover new seeds, not other images." in text


def test_epochs_are_not_compared_where_trials_were_paused() -> None:
    """A trial that may train longer has trained longer when it is paused."""
    trials = falling("epochs", 5, 20, 60)
    paused = digits_spec(study={"policy": "auto"}, pruner={"name": "none"})
    assert any("epochs" in claim.remedy for claim in rules.at_the_edge(study(*trials)))
    assert not any(
        "epochs" in claim.remedy for claim in rules.at_the_edge(replace(study(*trials), spec=paused))
    )


def test_beside_a_continued_trial_the_ranking_has_the_epochs_of_all() -> None:
    """Only that one has epochs of its own."""
    fixed = parse_study(
        {"study": {"name": "s"}, "train": {"epochs": 10}, "data": {"dataset": "digits"}} | SPACE
    )
    longer = trial(1, 0.5, hparams={"epochs": 30})
    short = trial(0, 1.0)
    short = replace(short, hparams={name: value for name, value in short.hparams.items() if name != "epochs"})
    found = StudyRecord("s", "val_loss", "minimize", fixed, (short, longer), {})
    (table,) = next(one for one in report(found, None).sections if one.title == "Ranking").blocks
    assert isinstance(table, Table)
    assert [row[table.head.index("epochs")] for row in table.rows] == ["30", "10"]
