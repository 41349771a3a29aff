"""Study files: what is refused and how it is said, what is stored, and what the digest covers."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch.errors import StudyFileError
from hpsearch.study.file import (
    RUN_ONLY,
    as_resumed,
    differences,
    digest,
    is_same_study,
    load_study_file,
    lost_order,
    parse_stored,
    parse_study,
    stored_form,
)
from hpsearch.study.search import label
from hpsearch.study.specification import StudySpec
from hpsearch.study.stopping import EarlyStopping

OWN_METRIC = '[train.metrics.{}]\nbuild = "parts:dice"\ndirection = "maximize"\n'
DATA = '[data]\ndataset = "digits"\n'
SEARCH = "[search]\nlearning_rate = { low = 1e-4, high = 1.0, log = true }\n"


def study(text: str) -> StudySpec:
    return parse_study(tomllib.loads(text), "s.toml")


def refusal(text: str) -> str:
    with pytest.raises(StudyFileError) as caught:
        study(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        (DATA + SEARCH + "[study]\ntrails = 3", "study.trails", ["unknown key", 'did you mean "trials"?']),
        (DATA + SEARCH + "[serach]\nx = 3", "serach", ["unknown key", 'did you mean "search"?']),
        (DATA + SEARCH + "[study]\ntrials = 0", "study.trials", ["at least 1", "got 0"]),
        (DATA + SEARCH + '[study]\ntrials = "many"', "study.trials", ["whole number", "got 'many'"]),
        (DATA + SEARCH + '[study]\ntrials = "3"', "study.trials", ["whole number", "got '3'"]),
        (DATA + SEARCH + "[study]\ntrials = true", "study.trials", ["whole number", "got true"]),
        (DATA + SEARCH + "[study]\ntrials = 2.5", "study.trials", ["whole number", "got 2.5"]),
        (DATA + SEARCH + "[study]\nseed = -1", "study.seed", ["at least 0", "got -1"]),
        (DATA + SEARCH + '[study]\ntimeout = "2 weeks"', "study.timeout", ['"2 weeks"', '"2h"']),
        (DATA + SEARCH + "[study]\ntimeout = 0", "study.timeout", ["above 0", "got 0"]),
        (DATA + SEARCH + '[study]\nname = "a/b"', "study.name", ['"a/b"', "letters, digits"]),
        (DATA + SEARCH + '[study]\nname = "cache"', "study.name", ['"cache"', "choose another name"]),
        (DATA + SEARCH + '[study]\nname = "hpsearch.db-wal"', "study.name", ["choose another name"]),
        (
            DATA + SEARCH + '[study]\nmetric = "accuracy_1"',
            "study",
            ['"accuracy_1"', "add direction", "val_error is 1 - accuracy"],
        ),
        (
            DATA + SEARCH + '[study]\nmetric = "val_accu"\ndirection = "maximize"',
            "study.metric",
            ['"val_accu"', "train.function names none", "val_error is 1 - accuracy"],
        ),
        (
            DATA + SEARCH + '[study]\nmetric = "accuracy"\ntarget_value = 95',
            "study.target_value",
            ["is 95", "between 0 and 1", "0.95"],
        ),
        (
            DATA + SEARCH + '[study]\nmetric = "accuracy"\ntarget_value = true',
            "study.target_value",
            ["must be a number"],
        ),
        (
            DATA + SEARCH + '[study]\nmetric = "accuracy"\ndirection = "minimize"',
            "study.direction",
            ['"minimize"', "accuracy", "maximized", "remove it"],
        ),
        (DATA + SEARCH + '[study]\nmetric = "a b"', "study.metric", ['"a b"', "letters, digits and _"]),
        (
            DATA + SEARCH + '[study]\nmetric = "val_loss"\ndirection = "maximize"',
            "study",
            ['"val_loss"', "remove direction"],
        ),
        (
            DATA + SEARCH + '[study]\nmetric = "val_eror"\ndirection = "minimize"',
            "study.metric",
            ['"val_eror"', "train.function names none", 'did you mean "val_error"?'],
        ),
        ('data = "digits"\n' + SEARCH, "data", ["must be a table", "'digits'"]),
        (SEARCH, "data.dataset", ["is missing", "add [data]"]),
        (DATA, "search", ["is missing", "add the table [search]"]),
        (DATA + "[search]", "search", ["empty", "name at least one"]),
        (DATA + "download = 1\n" + SEARCH, "data.download", ["true or false", "got 1"]),
        (DATA + "channels = 2\n" + SEARCH, "data.channels", ["1 or 3", "got 2"]),
        (DATA + "image_size = 0\n" + SEARCH, "data.image_size", ["at least 1", "got 0"]),
        (DATA + SEARCH + "[data.split]\ntrain = 0.9\nval = 0.2", "data.split", ["must be 1", "got 1.2"]),
        (DATA + SEARCH + "[data.split]\nval = 0.0", "data.split.val", ["above 0", "got 0.0"]),
        (DATA + "progressive = [[0.5, 8]]\n" + SEARCH, "data.progressive", ["start at 0.0", "got [0.5]"]),
        (
            DATA + "image_size = 9\nprogressive = [[0.0, 4], [0.5, 8]]\n" + SEARCH,
            "data",
            ["ends at 8", "image_size is 9", "make them equal"],
        ),
        (DATA + 'augment = [{ name = "flipp" }]\n' + SEARCH, "data.augment.0", ['"flipp"', '"flip"?']),
        (
            DATA + 'augment = [{ name = "flip", horizontl = 0.2 }]\n' + SEARCH,
            "data.augment.flip.horizontl",
            ["unknown key", 'did you mean "horizontal"?'],
        ),
        (
            DATA + 'augment = [{ name = "flip", p = 2 }]\n' + SEARCH,
            "data.augment.flip.p",
            ["at most 1", "got 2"],
        ),
        (DATA + SEARCH + "[model]\nname = 5", "model.name", ["a string in quotes", "got 5"]),
        (DATA + SEARCH + "[model.args]\nx = nan", "model.args", ["must be finite", "got nan"]),
        (DATA + SEARCH + "[function]\nday = 2020-01-02", "function", ["2020-01-02", "date", "in quotes"]),
        (DATA + SEARCH + "[train]\nepochs = 0", "train.epochs", ["at least 1", "got 0"]),
        (DATA + SEARCH + "[train]\nlearning_rate = nan", "train.learning_rate", ["finite number", "nan"]),
        (DATA + SEARCH + '[train]\noptimizer = "adm"', "train.optimizer", ['"adm"', '"adam"?']),
        (DATA + SEARCH + "[train]\noptimizer = 3", "train.optimizer", ["must be a string in quotes, got 3"]),
        (
            DATA + SEARCH + "[train.args.optimizer]\nrho = 0.9",
            "train.args.optimizer",
            ['for a builder of your own, and train.optimizer = "sgd" is built in; remove it'],
        ),
        (DATA + SEARCH + "[train.args.loss_]\nx = 1", "train.args.loss_", ["unknown key", '"loss"?']),
        (
            DATA + SEARCH + "[train.args.metrics.val_dice]\nx = 1",
            "train.args.metrics.val_dice",
            ["train.metrics has no such metric; remove it"],
        ),
        (DATA + SEARCH + OWN_METRIC.format("dice"), "train.metrics", ['"dice" is not a valid name', "val_"]),
        (DATA + SEARCH + OWN_METRIC.format("val_auc"), "train.metrics.val_auc", ["is a built-in metric"]),
        (
            DATA
            + SEARCH
            + OWN_METRIC.format("val_dice")
            + '[study]\nmetric = "val_dice"\ndirection = "minimize"',
            "study.direction",
            ['is "minimize", and train.metrics.val_dice says "maximize"; remove it'],
        ),
        (
            SEARCH + '[train]\nfunction = "a:b"\nloss = "c:d"',
            "train.loss",
            ['is for the built-in loop, and train.function = "a:b" replaces it; remove it'],
        ),
        (DATA + SEARCH + '[train]\nbatch_size = "all"', "train.batch_size", ['"full"', "got 'all'"]),
        (DATA + SEARCH + "[train]\nbatch_size = -1", "train.batch_size", ["at least 1", "got -1"]),
        (DATA + SEARCH + "[train]\nnesterov = true\nmomentum = 0.0", "train", ["momentum above 0", "got 0"]),
        (DATA + SEARCH + '[train]\nclass_weights = "even"', "train.class_weights", ['"balanced"', "'even'"]),
        (DATA + SEARCH + '[checkpoint]\nkeep = "none"', "checkpoint.keep", ['"best" or "all"', "'none'"]),
        (DATA + SEARCH + "[checkpoint]\nkeep = 0", "checkpoint.keep", ["at least 1", "got 0"]),
        (
            DATA + SEARCH + '[early_stopping]\ncriterion = "patient"',
            "early_stopping.criterion",
            ["'patient'", 'did you mean "patience"?'],
        ),
        (
            DATA + SEARCH + '[early_stopping]\nmetric = "val_dice"',
            "early_stopping.metric",
            ['"val_dice"', "train.function names none"],
        ),
        (
            SEARCH + '[train]\nfunction = "m:f"\n[early_stopping]\nmetric = "val_dice"',
            "early_stopping.metric",
            ['"val_dice" has no known direction', 'study.metric ("val_loss")'],
        ),
        (DATA + SEARCH + '[pruner]\nname = "medan"', "pruner.name", ["'medan'", 'did you mean "median"?']),
        (DATA + SEARCH + '[sampler]\nname = "tpee"', "sampler.name", ['"tpee"', 'did you mean "tpe"?']),
        (DATA + SEARCH + '[sampler]\nname = "grid"', "sampler.name", ['"grid"', "learning_rate", "a step"]),
        (
            DATA + "[search]\nepochs = { low = 1, high = 1001 }\nbatch_size = { low = 1, high = 1000 }\n"
            '[sampler]\nname = "grid"',
            "sampler.name",
            ["1,001,000 points", "1,001 (epochs)", "1,000,000 at most", "larger steps"],
        ),
        (DATA + SEARCH + "[confirm]\nseeds = 1", "confirm.seeds", ["at least 2", "got 1"]),
    ],
)
def test_a_wrong_field_is_named_with_its_value_and_a_remedy(text: str, field: str, words: list[str]) -> None:
    message = refusal(text)
    assert message.startswith(f"s.toml: {field}: ")
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("entry", "field", "words"),
    [
        ("learning_rate = { low = 1.0, high = 0.1 }", "learning_rate", ["low = 1.0", "high = 0.1"]),
        ("learning_rate = { low = 0.0, high = 0.1, log = true }", "learning_rate", ["low = 0.0", "above 0"]),
        ("learning_rate = { low = nan, high = 0.1 }", "learning_rate.low", ["finite number", "nan"]),
        ("learning_rate = { low = 0.1, high = inf }", "learning_rate.high", ["finite number", "inf"]),
        ("learning_rate = { low = 0.1 }", "learning_rate.high", ["is missing", "add high"]),
        ("learning_rate = { low = -0.1, high = 0.1 }", "learning_rate", ["above 0", "got -0.1"]),
        ("learning_rate = []", "learning_rate", ["list of choices is empty"]),
        ("learning_rate = [nan, 0.1]", "learning_rate", ["must be finite", "nan"]),
        ("learning_rate = 0.1", "learning_rate", ["0.1", "neither a range", "nor a list"]),
        ("learning_rat = [0.1]", "learning_rat", ["not searchable", 'did you mean "learning_rate"?']),
        ("epochs = { low = 0, high = 10 }", "epochs", ["at least 1", "got 0"]),
        ("epochs = { low = 1.5, high = 10 }", "epochs.low", ["whole number", "got 1.5"]),
        ("epochs = { low = 1, high = 10, step = 0 }", "epochs", ["above 0", "got 0"]),
        ("epochs = { low = 5, high = 50, step = 10 }", "epochs", ["step = 10", "write high = 45"]),
        ("epochs = { low = 1, high = 9, step = 2, log = true }", "epochs", ["log = true", "step = 2"]),
        ("batch_size = [0, 16]", "batch_size", ["at least 1", "got 0"]),
        ("batch_size = [16, 16]", "batch_size", ["16 is listed twice", "list each value once"]),
        ('"train.nesterov" = [true, 1]', "train.nesterov", ["listed twice"]),
        ('"train.loss" = ["mse", "l1"]', "train.loss", ["not searchable", "different loss functions"]),
        ('"data.split" = [1]', "data.split", ["not searchable", "different validation sets"]),
        ('"train.learning_rate" = [0.1]', "train.learning_rate", ['write "learning_rate" instead']),
        ("train.momentum = [0.1]", "train", ["a dotted name in quotes"]),
        ('"train.optimizer" = { low = 1, high = 2 }', "train.optimizer", ["a list of choices, not a range"]),
        ('"train.optimizer" = ["sgd", "adm"]', "train.optimizer", ['"adm"', 'did you mean "adam"?']),
        ('"data.image_size" = [0, 8]', "data.image_size", ["at least 1", "got 0"]),
        ('"model.freeze" = [[1], ["fc.*"]]', "model.freeze", ["model.freeze.0", "string in quotes", "got 1"]),
        ('"model.args.net.width" = [1, 2]', "model.args.net.width", ['no table "net"', "add it"]),
        ('"data.augment.flip.p" = [0.5]', "data.augment.flip.p", ['no "flip"', "add { name"]),
        (
            '"train.stages.all.rate" = [0.5]',
            "train.stages.all.rate",
            ['train.stages has no "all"', "add { name"],
        ),
        (
            '"train.stages" = [["head"], ["all", "head"]]',
            "train.stages",
            ["are all, head", 'write ["head", "all"]'],
        ),
        ('"train.stages" = [["top"]]', "train.stages", ['"top" is unknown', "head"]),
        (
            'epochs = { low = 2, high = 9 }\n"train.stages" = [[], [{ name = "head", epochs = 2 }, "all"]]',
            "epochs and search.train.stages",
            ['"head" takes 2 epochs of 2', "leaves none"],
        ),
        ('"train.layer_decay" = { low = 0.5, high = 1.1 }', "train.layer_decay", ["at most 1", "got 1.1"]),
        ('"data.augment.flop.p" = [0.5]', "data.augment.flop.p", ['"flop"', 'did you mean "flip"?']),
        ('"data.augment.flip.q" = [0.5]', "data.augment.flip.q", ['no parameter "q"', "; known: "]),
        (
            '"train.momentum" = [0.0, 0.9]\n"train.nesterov" = [false, true]',
            "train.momentum and search.train.nesterov",
            ["nesterov = true needs a momentum above 0"],
        ),
    ],
)
def test_a_wrong_search_entry_is_named(entry: str, field: str, words: list[str]) -> None:
    message = refusal(f"{DATA}[search]\n{entry}")
    assert message.startswith(f"s.toml: search.{field}: ")
    for word in words:
        assert word in message


def test_more_choices_than_can_be_checked_are_refused_before_they_are() -> None:
    values = [n / 1e5 for n in range(1, 90_000)]  # to check them would take minutes
    message = refusal(f"{DATA}[search]\nlearning_rate = {values}")
    assert message.startswith("s.toml: search: the choices, ")
    assert "write shorter lists, or ranges with a step" in message


def test_all_wrong_fields_are_told_at_once() -> None:
    message = refusal(DATA + "[search]\nepochs = 3\nbatch_size = []\n[train]\nthreads = 0\n[stduy]\n")
    fields = [line.split(": ")[1] for line in message.splitlines()]
    assert sorted(fields) == ["search.batch_size", "search.epochs", "stduy", "train.threads"]


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "digits.toml").write_text(DATA + SEARCH, encoding="utf-8")
    with pytest.raises(StudyFileError, match=r"no such study file; did you mean .*digits\.toml"):
        load_study_file(tmp_path / "digts.toml")
    with pytest.raises(StudyFileError, match=r"no such study file$"):
        load_study_file(tmp_path / "nowhere" / "x.toml")
    (tmp_path / "digits.toml").rename(tmp_path / "pyproject.toml")
    with pytest.raises(StudyFileError, match=r"no such study file$"):
        load_study_file(tmp_path / "x.toml")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[data]\ndataset = digits\n", "line 2"),
        (b"\xff\xfe\x00", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_an_unreadable_file_is_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "s.toml"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(StudyFileError) as caught:
        load_study_file(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)


@pytest.mark.parametrize(("head", "name"), [("", "my-study_2"), ('[study]\nname = "other"\n', "other")])
def test_the_name_is_the_stem_unless_written(tmp_path: Path, head: str, name: str) -> None:
    path = tmp_path / "my-study_2.toml"
    path.write_text(head + DATA + SEARCH, encoding="utf-8")
    assert load_study_file(path).study.name == name


@pytest.mark.parametrize("name", ["", " "])
def test_a_written_name_must_not_be_blank(tmp_path: Path, name: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(f'[study]\nname = "{name}"\n' + DATA + SEARCH, encoding="utf-8")
    with pytest.raises(StudyFileError, match=r"s\.toml: study\.name: .*the file's own name counts"):
        load_study_file(path)


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(DATA + SEARCH, encoding="utf-8-sig")
    assert load_study_file(path).data.dataset == "digits"


FULL = """
[study]
name = "full"
trials = 7
timeout = "90m"
metric = "val_macro_f1"
[data]
dataset = "FashionMNIST"
root = "data"
subset = 0.5
image_size = 28
progressive = [[0.0, 14], [0.5, 28]]
augment = [{ name = "crop", padding = 2 }, { name = "elastic", alpha = 20 }]
split = { train = 0.7, val = 0.2, test = 0.1, group_by = "(.*)_" }
[model]
name = "resnet18"
freeze = ["layer1.*"]
args = { width = 16, dims = [1, 2], deep = { a = 1, b = [true, "x"] } }
[train]
class_weights = [1.0, 2.0]
lr_multipliers = { "fc.*" = 10 }
batch_size = "full"
[search]
learning_rate = { low = 1e-4, high = 1, log = true }
batch_size = [16, "full"]
epochs = { low = 5, high = 50, step = 5 }
"train.momentum" = [0.0, 0.9]
"train.lr_multipliers" = [{ "b" = 1.0, "a" = 2.0 }, {}]
"model.freeze" = [[], ["layer1.*", "layer2.*"]]
"model.args.width" = { low = 8, high = 64, log = true }
"data.augment.elastic.alpha" = { low = 10, high = 50 }
"function.depth" = [1.5, "deep"]
[early_stopping]
criterion = [{ name = "patience", patience = 5 }, { name = "gl", alpha = 10 }]
warmup = 0.25
[pruner]
name = "hyperband"
[checkpoint]
every_seconds = "30s"
keep = 3
[function]
depth = 2
table = { x = [1, 2.5, "y"] }
"""

EXAMPLES = [DATA + SEARCH, FULL, DATA + SEARCH + '[early_stopping]\ncriterion = "gl"']


@pytest.mark.parametrize("text", EXAMPLES)
def test_a_stored_specification_reads_back_equal(text: str) -> None:
    spec = study(text)
    again = parse_study(json.loads(stored_form(spec)))
    assert again == spec
    assert stored_form(again) == stored_form(spec)
    assert digest(again) == digest(spec)
    for name, entry in spec.search.items():
        assert getattr(again.search[name], "labels", tuple)() == getattr(entry, "labels", tuple)()


words = st.text(
    st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=5
)  # NUL is refused
finite = st.floats(1e-6, 1.0)
sizes = st.integers(1, 64)
optimizers = st.sampled_from(["sgd", "adamw"])
plain = st.none() | st.booleans() | st.integers(-1000, 1000) | st.floats(-1e9, 1e9) | words
free = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner), max_leaves=5
)


def _different(values: list[Any]) -> bool:
    """Says whether no two are equal; 1, 1.0 and true are one choice."""
    labels = [label(value) for value in values]
    return all(labels.count(one) == 1 for one in labels)


@st.composite
def studies(draw: st.DrawFn) -> dict[str, Any]:
    low, high = sorted([draw(finite), draw(finite)])
    least, most = sorted([draw(st.integers(1, 40)), draw(st.integers(1, 40))])
    criterion = draw(st.sampled_from(["patience", "gl", "pq", "up", "overfit", "none"]))
    return {
        "study": {"trials": draw(st.integers(1, 999)), "seed": draw(st.integers(0, 2**32 - 1))},
        "data": {"dataset": "digits", "subset": draw(st.floats(0.01, 1.0)), "image_size": draw(sizes)},
        "model": {"args": draw(st.dictionaries(words, free, max_size=3))},
        "train": {
            "momentum": draw(st.floats(0.0, 0.99)),
            "optimizer": draw(optimizers),
            "lr_multipliers": draw(st.dictionaries(words, st.floats(0, 9), max_size=4)),
        },
        "search": {
            "learning_rate": {"low": low, "high": high, "log": draw(st.booleans())},
            "epochs": {"low": least, "high": most},
            "function.x": draw(st.lists(free, min_size=1, max_size=3, unique_by=str).filter(_different)),
        },
        "early_stopping": {"criterion": criterion},
    }  # fmt: skip


@settings(deadline=None)  # a busy machine may stall for longer
@given(studies())
def test_any_study_reads_back_equal_with_an_equal_digest(tree: dict[str, Any]) -> None:
    spec = parse_study(tree)
    again = parse_study(json.loads(stored_form(spec)))
    assert again == spec
    assert _in_order(again) == _in_order(spec)
    assert digest(again) == digest(spec)


def _in_order(spec: StudySpec) -> str:
    """Returns all fields with the order of every table's keys, which `==` passes over."""
    return repr(spec.model_dump())


ONE_ORDER = DATA + '[train]\nlr_multipliers = { "3.*" = 1.0, "*" = 0.001 }\n' + SEARCH
OTHER_ORDER = DATA + '[train]\nlr_multipliers = { "*" = 0.001, "3.*" = 1.0 }\n' + SEARCH
CHOSEN = DATA + '[search]\n"train.lr_multipliers" = [{ "b" = 1.0, "a" = 2.0 }, { "a" = 2.0, "b" = 1.0 }]\n'
CHOSEN_TURNED = (
    DATA + '[search]\n"train.lr_multipliers" = [{ "a" = 2.0, "b" = 1.0 }, { "b" = 1.0, "a" = 2.0 }]\n'
)


def own_model(args: str, search: str = SEARCH) -> str:
    return DATA + '[model]\nname = "nets:build"\n[model.args]\n' + args + "\n" + search


def own_loop(values: str) -> str:
    return DATA + '[train]\nfunction = "loops:train"\n[function]\n' + values + "\n" + SEARCH


@pytest.mark.parametrize(
    ("one", "other", "field"),
    [
        (own_model("r = 64\nt = 8"), own_model("t = 8\nr = 64"), "model.args"),
        (own_model("l = { r = 1, t = 8 }"), own_model("l = { t = 8, r = 1 }"), "model.args"),
        (own_model("l = [{ r = 1, t = 8 }]"), own_model("l = [{ t = 8, r = 1 }]"), "model.args"),
        (own_loop("x = { b = 1, a = 2 }"), own_loop("x = { a = 2, b = 1 }"), "function.x"),
        *(
            (
                own_model("", f'[search]\n"model.args.l" = [{{ b = 1, a = 2 }}, {last}]'),
                own_model("", f'[search]\n"model.args.l" = [{{ a = 2, b = 1 }}, {last}]'),
                "search.model.args.l.choices",
            )
            for last in ("{ c = 3 }", "0")
        ),
    ],
)
def test_the_order_of_what_ones_own_code_is_given_makes_another_study(
    one: str, other: str, field: str
) -> None:
    assert digest(study(one)) != digest(study(other))
    assert not is_same_study(stored_form(study(one)), study(other))
    (difference,) = differences(study(one), study(other))
    assert difference.startswith(f"{field}: stored ")
    for text in (one, other):
        assert is_same_study(stored_form(study(text)), study(text))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (own_loop("a = 1\nb = 2"), own_loop("b = 2\na = 1")),  # a loop asks for one value at a time
        (
            DATA + '[model]\nname = "mlp"\n[model.args]\nhidden = [8]\ndropout = 0.1\n' + SEARCH,
            DATA + '[model]\nname = "mlp"\n[model.args]\ndropout = 0.1\nhidden = [8]\n' + SEARCH,
        ),
    ],
)
def test_an_order_without_a_meaning_makes_no_other_study(one: str, other: str) -> None:
    assert digest(study(one)) == digest(study(other))
    assert differences(study(one), study(other)) == []


def test_searched_arguments_come_in_one_order_wherever_they_are_read_from() -> None:
    spec = study(own_model("", '[search]\n"model.args.b" = [1, 2]\n"model.args.a" = [3, 4]'))
    for hparams in ({"model.args.b": 1, "model.args.a": 3}, {"model.args.a": 3, "model.args.b": 1}):
        assert list(spec.with_hparams(hparams).model.args) == ["a", "b"]


def test_an_enqueued_table_is_the_one_that_was_written() -> None:
    enqueue = '[[enqueue]]\n"train.lr_multipliers" = { a = 2.0, b = 1.0 }\n'
    (point,) = study(CHOSEN + enqueue).enqueued()
    chosen = study(CHOSEN).with_hparams(point).train.lr_multipliers
    assert list(chosen) == ["a", "b"]


@pytest.mark.parametrize(
    ("one", "other", "line"),
    [
        (
            ONE_ORDER,
            OTHER_ORDER,
            'train.lr_multipliers: stored {"3.*": 1.0, "*": 0.001}, now {"*": 0.001, "3.*": 1.0}',
        ),
        (
            CHOSEN,
            CHOSEN_TURNED,
            'search.train.lr_multipliers.choices: stored [{"b": 1.0, "a": 2.0}, {"a": 2.0, "b": 1.0}], now ',
        ),
    ],
)
def test_the_order_of_learning_rate_patterns_makes_another_study(one: str, other: str, line: str) -> None:
    assert digest(study(one)) != digest(study(other))
    assert not is_same_study(stored_form(study(one)), study(other))
    (difference,) = differences(study(one), study(other))
    assert difference.startswith(line)


def test_choices_that_differ_in_their_order_alone_have_labels_of_their_own() -> None:
    spec = study(CHOSEN)
    labels = spec.search["train.lr_multipliers"].labels()
    assert len(set(labels)) == 2
    orders = [list(spec.with_hparams({"train.lr_multipliers": one}).train.lr_multipliers) for one in labels]
    assert orders == [["b", "a"], ["a", "b"]]


@pytest.mark.parametrize("text", [ONE_ORDER, OTHER_ORDER, FULL])
def test_a_study_stored_with_sorted_keys_is_resumed_in_the_order_of_its_file(text: str) -> None:
    """Version 0.1.0 sorted all keys, so that it cannot say which order its trials had."""
    spec = study(text)
    assert is_same_study(json.dumps(spec.model_dump(mode="json"), sort_keys=True), spec)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            ONE_ORDER,
            "train.lr_multipliers: an older version stored the keys in alphabetical order, so that training "
            'uses them in this order: {"*": 0.001, "3.*": 1.0}; if',
        ),
        (CHOSEN, 'in this order: [{"a": 2.0, "b": 1.0}, {"a": 2.0, "b": 1.0}]; if'),
        (own_model("layers = { r = 64, t = 8 }"), "model.args: an older version stored the keys in"),
        (DATA + '[train]\nlr_multipliers = { "3.*" = 1.0 }\n' + SEARCH, ""),
        (DATA + SEARCH, ""),
    ],
)
def test_a_lost_order_of_patterns_is_said(text: str, said: str) -> None:
    tree = study(text).model_dump(mode="json")
    warning = lost_order(json.dumps(tree, sort_keys=True), "s")
    assert bool(warning) is bool(said)
    assert said in warning
    assert not warning or "give the study file instead of the name" in warning
    assert lost_order(json.dumps(tree), "s") == ""


def test_a_metric_of_ones_own_says_its_direction() -> None:
    text = DATA + SEARCH + OWN_METRIC.format("val_dice")
    chosen = study(text + '[study]\nmetric = "val_dice"')
    assert chosen.study.better == "maximize"
    assert parse_stored(stored_form(chosen)) == chosen
    stopped = study(text + '[early_stopping]\npatience = 3\nmetric = "val_dice"')
    assert (stopped.study.better, stopped.better("val_dice")) == ("minimize", "maximize")
    assert chosen.objects() == ["parts:dice"]
    assert digest(study(text)) != digest(study(DATA + SEARCH))


def test_arguments_of_ones_own_builders_are_searched() -> None:
    text = (
        DATA + '[train]\noptimizer = "a:b"\n[search]\n"train.args.optimizer.rho" = { low = 0.1, high = 0.9 }'
    )
    assert study(text).with_hparams({"train.args.optimizer.rho": 0.5}).train.args.optimizer == {"rho": 0.5}


TUNED = """
[data]
dataset = "folder"
root = "p"
labels = "l.csv"
file_column = "f"
label_column = "what"
image_size = 16
split = { train = 0.7, val = 0.15, test = 0.15, group_by = "column:g" }
[model]
name = "resnet18"
freeze = ["layer1.*"]
unfreeze_after = 2
weights = "w.pth"
[train]
optimizer = "adamw"
lr_multipliers = { "fc.*" = 10.0 }
[search]
learning_rate = { low = 1e-3, high = 0.1, log = true }
epochs = [2, 3]
"""


def test_studies_of_version_0_1_0_keep_their_digest() -> None:
    sampled = '[study]\npolicy = "sampled"\n'
    assert digest(study(sampled + DATA + SEARCH)) == "7dbfff2d9d56af68"
    assert digest(study(sampled + OTHER_ORDER)) == "0c03742ad7884cf6"
    assert digest(study(sampled.replace("[study]", '[study]\nname = "s"') + TUNED)) == "c15d31644fa56986"


@pytest.mark.parametrize("more", ["", '[study]\npolicy = "sampled"\n', "[study]\ntrials = 20\n"])
def test_a_study_that_began_without_pauses_is_resumed_without_them(more: str) -> None:
    tree = study(DATA + SEARCH).model_dump(mode="json")
    del tree["study"]["policy"], tree["study"]["max_paused"], tree["train"]["cooldown"]
    tree["study"]["trials"] = 20
    stored, given = json.dumps(tree), study(more + DATA + SEARCH)
    assert is_same_study(stored, given)
    assert as_resumed(parse_stored(stored), given).policy == "sampled"
    assert as_resumed(parse_stored(stored), given).trials == 20
    assert not is_same_study(stored, study('[study]\npolicy = "auto"\n' + DATA + SEARCH))


@pytest.mark.parametrize(
    ("more", "policy", "trials"),
    [
        ("", "auto", 80),
        ('[sampler]\nname = "tpe"\n', "sampled", 20),
        ('[pruner]\nname = "median"\n', "sampled", 20),
        ('[train]\nfunction = "my_loop:train"\n', "sampled", 20),
        ('[sampler]\nname = "tpe"\n[study]\npolicy = "halving"\n', "halving", 80),
    ],
)
def test_whoever_names_a_sampler_or_a_pruner_gets_it(more: str, policy: str, trials: int) -> None:
    spec = study(more + DATA + SEARCH)
    assert (spec.policy, spec.trials) == (policy, trials)
    assert parse_study(spec.model_dump()) == spec


@pytest.mark.parametrize(
    "change",
    [
        {"study": {"trials": 99}}, {"study": {"name": "other"}}, {"study": {"timeout": 5}},
        {"study": {"target_value": 0.1}}, {"study": {"max_epochs_total": 5}}, {"study": {"grace": 1}},
        {"study": {"max_failures": 1}}, {"study": {"max_attempts": 1}}, {"study": {"stall_timeout": 9}},
        {"data": {"root": "elsewhere"}}, {"data": {"download": True}}, {"data": {"device": "cpu"}},
        {"data": {"predict": "mine:prepare"}},
        {"data": {"cache": "c"}}, {"data": {"cache_limit_gb": 1}}, {"checkpoint": {"every_seconds": 60}},
        {"checkpoint": {"keep": "all"}}, {"confirm": {"top": 9}}, {"confirm": {"seeds": 9}},
        {"fit": {"overfit_rise": 0.5}}, {"study": {"patience_trials": 3}}, {"study": {"max_device_hours": 3}},
        {"enqueue": [{"learning_rate": 0.01}]},
    ],
)  # fmt: skip
def test_where_and_how_much_leave_the_digest_alone(change: dict[str, Any]) -> None:
    spec, changed = study(DATA + SEARCH), _changed(change)
    assert changed != spec
    assert digest(changed) == digest(spec)
    assert differences(spec, changed) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"study": {"seed": 1}}, "study.seed: stored 0, now 1"),
        ({"study": {"metric": "val_error"}}, 'study.metric: stored "val_loss", now "val_error"'),
        ({"data": {"subset": 0.5}}, "data.subset: stored 1.0, now 0.5"),
        ({"data": {"resize": "pad"}}, 'data.resize: stored "(absent)", now "pad"'),
        ({"data": {"range": [0, 4095]}}, 'data.range: stored "(absent)", now [0.0, 4095.0]'),
        ({"data": {"augment": [{"name": "grey"}]}}, 'data.augment: stored [], now [{"p": 1.0, '),
        ({"data": {"split": {"seed": 3}}}, "data.split.seed: stored 0, now 3"),
        ({"model": {"name": "mlp"}}, 'model.name: stored "cnn", now "mlp"'),
        ({"model": {"args": {"width": 3}}}, "model.args: stored {}, now \"(absent)\""),
        ({"train": {"threads": 2}}, "train.threads: stored 1, now 2"),
        ({"train": {"epochs": 3}}, "train.epochs: stored 20, now 3"),
        ({"search": {"batch_size": [1]}}, 'search.batch_size.choices: stored "(absent)", now [1]'),
        ({"early_stopping": {"patience": 3}}, "early_stopping.patience: stored 8, now 3"),
        (
            {"early_stopping": {"metric": "val_error"}},
            'early_stopping.metric: stored "(absent)", now "val_error"',
        ),
        ({"pruner": {"name": "asha"}}, 'pruner.name: stored "none", now "asha"'),
        ({"sampler": {"name": "random"}}, 'sampler.name: stored "tpe", now "random"'),
        ({"function": {"x": 1}}, 'function.x: stored "(absent)", now 1'),
    ],
)  # fmt: skip
def test_what_makes_trials_comparable_changes_the_digest(change: dict[str, Any], line: str) -> None:
    spec, changed = study(DATA + SEARCH), _changed(change)
    assert digest(changed) != digest(spec)
    assert any(difference.startswith(line) for difference in differences(spec, changed))


def test_the_order_of_keys_does_not_change_the_digest() -> None:
    one = study(DATA + "[search]\nepochs = [1]\nbatch_size = [2]\n[function]\na = 1\nb = 2")
    other = study("[function]\nb = 2\na = 1\n[search]\nbatch_size = [2]\nepochs = [1]\n" + DATA)
    assert digest(one) == digest(other)


def test_run_only_names_real_fields() -> None:
    for section, fields in RUN_ONLY.items():
        known = type(getattr(study(DATA + SEARCH), section)).model_fields
        assert fields <= known.keys()


def test_unused_fields_of_other_criteria_are_not_in_the_digest() -> None:
    assert EarlyStopping(criterion="gl").model_dump() == {
        "criterion": "gl", "alpha": 5.0, "warmup": 0, "outcome": "auto",
    }  # fmt: skip


def _changed(change: dict[str, Any]) -> StudySpec:
    tree = tomllib.loads(DATA + SEARCH)
    for section, fields in change.items():
        tree[section] = {**tree.get(section, {}), **fields} if isinstance(fields, dict) else fields
    return parse_study(tree)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = " + "[" * 2000, "nested too deep; write them flat"),
        ("b = 1\na = " + "9" * 5000, "line 2: a number has thousands of digits; write a smaller one"),
        (
            DATA + SEARCH + "[enqueue]\nlearning_rate = 0.1",
            "enqueue: must be a list of tables, got one; write [[enqueue]]",
        ),
        ("a = " + "[" * 30 + "]" * 30, "a: is nested more than 20 deep"),
        (
            DATA + SEARCH + "[study]\ntrials = " + "9" * 400,
            "study.trials: whole numbers have at most 64 bits",
        ),
        ('[data]\ndataset = "di\\u0000gits"\n' + SEARCH, "data.dataset: holds a NUL character"),
        (DATA + "[search]\nlearning_rate = { low = 0.1, high = 0.2, step = 1e-300 }", "write a larger one"),
        (
            DATA + "[search]\nlearning_rate = { low = 5e-324, high = 1e308, log = true }",
            "low = 5e-324 is too far from 1",
        ),
    ],
)
def test_sizes_that_nothing_can_keep(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text)
    with pytest.raises(StudyFileError) as caught:
        load_study_file(path)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("points", "sentence"),
    [
        ('{ lr = 0.1 }', "enqueue.0: lr is not searched; did you mean"),
        ('{}', "enqueue.0: the table is empty; give at least one hyperparameter"),
        ('{ learning_rate = 0.01 }, { learning_rate = 0.01 }', "enqueue.1: the point is listed twice; list each once"),
        ('{ learning_rate = 5 }', "enqueue.0: learning_rate = 5 is not in 0.0001 to 1; change it, or [search]"),
        ('{ learning_rate = true }', "enqueue.0: learning_rate = True is not in 0.0001 to 1; change it"),
        ('{ epochs = 4 }', "enqueue.0: epochs = 4 is not in 3 to 9 in steps of 2; change it, or [search]"),
        ('{ "train.nesterov" = 1 }', "enqueue.0: train.nesterov = 1 is not in the list True, False; change it"),
    ],
)  # fmt: skip
def test_a_point_that_cannot_be_tried_is_refused_with_a_sentence(points: str, sentence: str) -> None:
    space = """
[search]
learning_rate = { low = 1e-4, high = 1.0, log = true }
epochs = { low = 3, high = 9, step = 2 }
"train.nesterov" = [true, false]
"""
    with pytest.raises(StudyFileError) as refused:
        study(f"enqueue = [{points}]\n" + DATA + space)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            '[sampler]\nname = "grid"\n',
            'enqueue: sampler.name = "grid" tries its own points; remove one of the two',
        ),
        ("[study]\ntrials = 1\n", "enqueue: gives 2 points, but study.trials = 1; raise study.trials"),
    ],
)
def test_points_that_the_study_would_not_reach_are_refused(more: str, sentence: str) -> None:
    with pytest.raises(StudyFileError) as refused:
        study(
            f"enqueue = [{{ learning_rate = 0.1 }}, {{ learning_rate = 0.2 }}]\n{more}{DATA}[search]\n"
            "learning_rate = [0.1, 0.2]\n"
        )
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("require", "sentence"),
    [
        ('{ parameters = "1e6" }', "study.require.parameters: '1e6' is not a limit; write \"< 1e6\""),
        ('{ parameters = "< -1" }', "is not a limit"),
        ('{ parameters = "< nan" }', "is not a limit"),
        ('{ parameters = "> 5" }', "is not a limit"),
        ("{ parameters = 5 }", "study.require.parameters: "),
        (
            '{ memory = "< 5" }',
            "study.require.memory: cannot be limited; known: latency_ms, macs, parameters",
        ),
    ],
)
def test_a_limit_that_nobody_can_keep_is_refused(require: str, sentence: str) -> None:
    with pytest.raises(StudyFileError) as caught:
        study(f"[study]\nrequire = {require}\n{DATA}{SEARCH}")
    assert sentence in str(caught.value)


def test_a_training_function_cannot_be_held_to_what_its_model_takes() -> None:
    own = f'{DATA}[train]\nfunction = "a:b"\n{SEARCH}'
    with pytest.raises(StudyFileError, match="so macs cannot be known"):
        study(f'[study]\nrequire = {{ macs = "< 5" }}\n{own}')
    assert study(f'[study]\nrequire = {{ seconds = "< 5" }}\n{own}').measured == []


def test_limits_make_another_study() -> None:
    limited = study(f'[study]\nrequire = {{ macs = "<= 5" }}\n{DATA}{SEARCH}')
    assert digest(limited) != digest(study(DATA + SEARCH))
    assert limited.excesses({"macs": 5, "parameters": 9}) == {}
    assert limited.excesses({"macs": 10}) == {"macs": pytest.approx(0.693, abs=1e-3)}
