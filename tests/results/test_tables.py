"""Tables read back from real databases: trials, epochs, the best, the list of studies."""

import json
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from hpsearch.errors import StudyNotFound, UserError
from hpsearch.results.commands.export import encode
from hpsearch.results.stored.best import best_trial
from hpsearch.results.stored.frames import epochs_frame, trials_frame
from hpsearch.results.stored.listing import list_studies
from hpsearch.results.stored.reading import OpenStudy, reading_study
from hpsearch.results.stored.result import StudyResult
from hpsearch.results.terminal.lines import list_lines
from hpsearch.store.connection import open_storage, opened
from tests.results.stored import load, make_study, read


def count_states(study: optuna.Study) -> dict[str, int]:
    return dict(Counter(trial.state.name for trial in study.trials))


def name_of(study: OpenStudy) -> str:
    return study.name


def test_one_row_per_trial_with_hparams_under_their_own_names(sqlite_url: str) -> None:
    make_study(sqlite_url, "one")
    frame = read(trials_frame, "one", sqlite_url)
    assert frame["trial"].tolist() == [0, 1, 2, 3, 4]
    assert frame["state"].tolist() == ["COMPLETE", "COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    assert frame["score"].tolist()[:3] == [0.5, 0.2, 2.0]
    assert frame["learning_rate"].tolist()[:4] == [0.1, 0.01, 1.0, 0.5]
    assert frame["batch_size"].tolist()[:2] == [16, "full"]
    assert frame["stop_reason"].tolist()[1:4] == ["early_stopping", "diverged", "error"]
    assert frame["val_error"].tolist()[:3] == [0.25, 0.25, 0.25]
    assert frame["started"].notna().all()
    assert "train_loss" not in frame
    assert frame.columns.tolist()[:3] == ["trial", "state", "score"]


def test_one_row_per_epoch_with_both_losses(sqlite_url: str) -> None:
    make_study(sqlite_url, "one")
    frame = read(epochs_frame, "one", sqlite_url)
    assert frame[["trial", "epoch"]].to_numpy().tolist() == [
        [0, 1], [0, 2], [1, 1], [1, 2], [1, 3], [2, 1], [2, 2], [4, 1],
    ]  # fmt: skip
    assert frame["val_loss"].tolist()[:6] == [0.9, 0.5, 0.8, 0.2, 0.3, 2.0]
    assert frame["val_loss"].isna().tolist() == [False] * 6 + [True, False]
    assert frame["train_loss"].tolist()[:2] == [0.45, 0.25]
    assert frame["train_loss"].isna().tolist() == [False] * 6 + [True, True]


def test_another_metric_has_a_column_of_its_own(sqlite_url: str) -> None:
    study = make_study(sqlite_url, "one")
    study.set_user_attr("metric", "val_dice")
    frame = read(epochs_frame, "one", sqlite_url)
    assert frame["val_dice"].tolist()[:2] == [0.9, 0.5]
    assert frame["val_loss"].tolist()[:2] == [0.9, 0.5]


def test_the_best_is_complete_and_names_its_weights(sqlite_url: str) -> None:
    make_study(sqlite_url, "one", weights="w.safetensors")
    best = read(best_trial, "one", sqlite_url)
    assert best is not None
    assert (best.number, best.value, best.best_epoch, best.weights) == (1, 0.2, 2, "w.safetensors")
    assert best.hparams == {"learning_rate": 0.01, "batch_size": "full"}


def test_of_equal_trials_the_first_is_the_best(database_url: str) -> None:
    make_study(database_url, "one")
    with opened(database_url, readonly=False) as storage:
        study = optuna.load_study(study_name="one", storage=storage)
        study.add_trial(create_trial(state=TrialState.COMPLETE, value=0.1))
        study.tell(4, 0.1)  # ends last; a database gives any of equal ones
        study.add_trial(create_trial(state=TrialState.COMPLETE, value=0.1))
    with reading_study("one", database_url) as study:
        best = best_trial(study)
        with pytest.raises(
            UserError, match=f"--trial {2**70}: .* no COMPLETE trial of this number; its best: 4"
        ):
            best_trial(study, number=2**70)  # no database could hold it
    assert best is not None
    assert best.number == 4


def test_a_study_without_a_complete_trial_has_no_best(sqlite_url: str) -> None:
    optuna.create_study(study_name="empty", storage=open_storage(sqlite_url))
    with reading_study("empty", sqlite_url) as study:
        assert best_trial(study) is None
        assert trials_frame(study).empty
        assert epochs_frame(study).columns.tolist()[:3] == ["trial", "state", "epoch"]
        assert study.trials() == []


def test_the_result_of_a_study(sqlite_url: str) -> None:
    make_study(sqlite_url, "one")
    result = StudyResult("one", sqlite_url)
    assert result.best is not None
    assert result.best.number == 1
    assert len(result.dataframe()) == 5
    assert len(result.epochs()) == 8
    assert count_states(load("one", sqlite_url)) == {
        "RUNNING": 1,
        "COMPLETE": 2,
        "PRUNED": 1,
        "FAIL": 1,
    }
    assert sqlite_url not in repr(result)


@pytest.mark.parametrize(
    ("names", "asked", "words"),
    [
        (["digits", "flowers"], "digts", 'no study "digts" in .*did you mean "digits"'),
        (["digits", "flowers"], None, "2 studies in .*name one of them: digits, flowers"),
        ([], "digits", "there are no studies"),
    ],
)
def test_a_study_that_is_not_there(sqlite_url: str, names: list[str], asked: str | None, words: str) -> None:
    storage = open_storage(sqlite_url)
    for name in names:
        optuna.create_study(study_name=name, storage=storage)
    with pytest.raises(StudyNotFound, match=words):
        read(str, asked, sqlite_url)


def test_the_only_study_needs_no_name(sqlite_url: str) -> None:
    make_study(sqlite_url, "one")
    assert read(name_of, None, sqlite_url) == "one"


def test_the_list_counts_in_every_database(database_url: str, tmp_path: Path) -> None:
    make_study(database_url, "one")
    with opened(database_url, readonly=False) as storage:
        up = optuna.create_study(study_name="up", storage=storage, direction="maximize")
        up.add_trials([optuna.trial.create_trial(value=value) for value in (1.0, 3.0, 2.0)])
    weights = tmp_path / "runs" / "one" / "weights" / "w.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"x" * 1234)
    rows = {row.name: row for row in list_studies(database_url, tmp_path / "runs")}
    one, other = rows["one"], rows["up"]
    assert one.counts == {"COMPLETE": 2, "PRUNED": 1, "FAIL": 1, "RUNNING": 1}
    assert (one.total, one.finished, one.best, one.metric, one.size) == (4, 4, 0.2, "val_loss", 1234)
    assert (other.total, other.finished, other.best, other.metric, other.size) == (None, 3, 3.0, "value", 0)
    assert one.changed is not None
    assert abs(one.changed.timestamp() - time.time()) < 60


def test_a_link_counts_once(sqlite_url: str, tmp_path: Path) -> None:
    make_study(sqlite_url, "one")
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    (folder / "a").write_bytes(b"x" * 1000)
    (folder / "b").hardlink_to(folder / "a")
    assert [row.size for row in list_studies(sqlite_url, tmp_path / "runs")] == [1000]


def test_confirmations_stand_behind_their_searches(sqlite_url: str, tmp_path: Path) -> None:
    for name in ("old.confirm", "new", "old", "lonely.confirm"):
        make_study(sqlite_url, name)
    with opened(sqlite_url, readonly=False) as storage:
        study = optuna.load_study(study_name="old.confirm", storage=storage)
        study.enqueue_trial({})
        study.tell(study.ask(), 1.0)  # what has just been confirmed comes first, and takes its search along
    rows = list_studies(sqlite_url, tmp_path)
    assert [row.name for row in rows] == ["old", "old.confirm", "lonely.confirm", "new"]
    assert [row.confirms for row in rows] == [None, "old", None, None]
    assert [line.split("  ")[0] or line[:13] for line in list_lines(rows)[1:]] == [
        "old",
        "  old.confirm",
        "lonely.confirm",
        "new",
    ]


def test_without_a_name_confirmations_do_not_count(sqlite_url: str) -> None:
    for name in ("one.confirm", "one"):
        make_study(sqlite_url, name)
    assert read(name_of, None, sqlite_url) == "one"
    assert read(name_of, "one.confirm", sqlite_url) == "one.confirm"
    make_study(sqlite_url, "two")
    with pytest.raises(StudyNotFound, match=r"2 studies in .*name one of them: one, two$"):
        read(str, None, sqlite_url)


def test_whole_numbers_stay_whole_where_some_are_missing(sqlite_url: str) -> None:
    study = optuna.create_study(study_name="s", storage=open_storage(sqlite_url))
    for fields in ({"steps": 3, "share": 0.5, "big": 2**53 + 1}, {}, {"steps": 4, "share": 1.0, "big": 5}):
        study.add_trial(create_trial(value=1.0, user_attrs=fields))
    frame = read(trials_frame, "s", sqlite_url)
    lines = encode(frame[["steps", "share", "big"]], "csv").decode().splitlines()
    assert lines == ["steps,share,big", "3,0.5,9007199254740993", ",,", "4,1.0,5"]
    assert json.loads(encode(frame, "json"))[1]["steps"] is None
