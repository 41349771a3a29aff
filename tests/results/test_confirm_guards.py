"""What a confirmation refuses: other data than the search's, and names that are not its own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpsearch.errors import DataError, StudyFileError, StudyNotFound, UserError
from hpsearch.results.confirm import confirm as confirm_module
from hpsearch.results.confirm.confirm import confirm
from hpsearch.service.launch import RunOptions
from hpsearch.service.run import run
from hpsearch.study import load_study_file
from hpsearch.testing.in_process import InProcessExecutor
from tests.results.digits import options_in, searched, small_spec
from tests.results.searches import record_of, writable
from tests.results.stored import make_study

CHANGED = r"the data are not those that the study began with \(as many of them, but other images\)"


def write_images(folder: Path, seed: int) -> None:
    x = np.random.default_rng(seed).integers(0, 256, (120, 8, 8), dtype=np.uint8)
    np.savez(folder / "set.npz", x=x, y=np.arange(120) % 3)


def npz_search(folder: Path) -> RunOptions:
    """Searches over the images of a file, which the tests then overwrite with others."""
    write_images(folder, 0)
    data = {"dataset": "npz", "root": str(folder / "set.npz"), "subset": 1.0}
    return searched(folder, small_spec(data=data, confirm={"top": 1, "seeds": 2}))


def confirmed(options: RunOptions, **wanted: Any) -> Any:
    return confirm("small", options, executor=InProcessExecutor(), **wanted)


def test_changed_data_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    options = npz_search(tmp_path)
    write_images(tmp_path, 1)
    for _ in range(2):
        with pytest.raises(DataError, match=CHANGED):
            confirmed(options)
    with pytest.raises(StudyNotFound):
        record_of(tmp_path, "small.confirm")
    assert "test_openings" not in record_of(tmp_path, "small").attrs
    write_images(tmp_path, 0)
    assert confirmed(options).confirmation is not None


def test_the_test_part_of_changed_data_stays_closed(tmp_path: Path) -> None:
    options = npz_search(tmp_path)
    confirmed(options, test=False)
    write_images(tmp_path, 1)
    with pytest.raises(DataError, match=CHANGED):
        confirmed(options)
    assert "test_openings" not in record_of(tmp_path, "small").attrs


def test_data_that_change_while_the_test_part_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = npz_search(tmp_path)
    examine = confirm_module._examine

    def late(*arguments: Any) -> Any:
        write_images(tmp_path, 1)
        return examine(*arguments)

    monkeypatch.setattr(confirm_module, "_examine", late)
    with pytest.raises(DataError, match="have changed since the confirmation looked at them"):
        confirmed(options)
    assert "test_results" not in record_of(tmp_path, "small.confirm").attrs


def test_a_confirmation_of_other_data_is_not_gone_on_with(tmp_path: Path) -> None:
    options = npz_search(tmp_path)
    confirmed(options, test=False)
    linked = writable(tmp_path, "small.confirm")
    linked.set_user_attr("data", linked.user_attrs["data"] | {"digest": "b2"})
    with pytest.raises(UserError, match=r"trained on other data than .*hpsearch delete small\.confirm"):
        confirmed(options)


def test_a_search_without_a_record_of_its_data_is_confirmed(tmp_path: Path) -> None:
    options = npz_search(tmp_path)
    study = writable(tmp_path, "small")
    study.set_user_attr("data", None)
    assert confirmed(options).confirmation is not None


def test_a_file_may_not_take_the_name_of_a_confirmation(tmp_path: Path) -> None:
    text = '[data]\ndataset = "digits"\n[search]\nepochs = [1]\n'
    (tmp_path / "x.confirm.toml").write_text(text, encoding="utf-8")
    with pytest.raises(StudyFileError, match=r'"x\.confirm" ends in \.confirm, .*choose another name'):
        load_study_file(tmp_path / "x.confirm.toml")
    with pytest.raises(StudyFileError, match="choose another name"):
        run(small_spec("x.confirm"), options_in(tmp_path), executor=InProcessExecutor())


def test_a_study_of_its_own_is_in_the_way_of_a_confirmation(tmp_path: Path) -> None:
    options = searched(tmp_path)
    make_study(options.storage, "small.confirm", own=True)
    with pytest.raises(UserError, match=r"is a study of its own .*hpsearch delete small\.confirm"):
        confirmed(options)
