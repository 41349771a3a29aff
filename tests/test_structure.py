"""Structure that is cheap to hold: layers, links, commands, the top level."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from hpsearch.cli import app
from tests.structure import life_of_a_trial, modules, walks

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "hpsearch" / "README.md",
    *(ROOT / "docker").glob("*.md"),
    *(ROOT / "studies").glob("*.md"),
]
COMMANDS = get_command(app).commands


def tracked() -> list[str]:
    shown = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if shown.returncode != 0:
        pytest.skip("not a git checkout")
    return shown.stdout.splitlines()


def test_the_rooms_keep_their_layers():
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stdout


def test_the_top_level_is_what_was_agreed():
    top = {name.split("/")[0] for name in tracked()}
    agreed = {"pyproject.toml", "hpsearch", "studies", "tests", "docker", "README.md"}
    assert top == agreed | {"LICENSE", ".gitignore", ".dockerignore", ".ci"}


@pytest.mark.parametrize(
    "line", ["pip install -e . && hpsearch run studies/digits.toml", 'pip install -e ".[dev]" && pytest']
)
def test_the_two_commands_stand_in_the_readme(line):
    assert f"    {line}\n" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_flags_in_the_pages_exist(page):
    text = page.read_text(encoding="utf-8")
    wrong = []
    for name, rest in re.findall(r"(?:`|^ {4}|\$ )hpsearch ([a-z]+)([^`\n|]*)", text, re.MULTILINE):
        if name not in COMMANDS:
            wrong.append(name)
            continue
        known = {flag for param in COMMANDS[name].params for flag in param.opts}
        wrong += [f"{name} {flag}" for flag in re.findall(r"(?<!\S)--[a-z-]+", rest) if flag not in known]
    assert wrong == []


def test_every_command_is_in_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [name for name in COMMANDS if not re.search(rf"`(hpsearch )?{name}\b", text)]
    assert missing == []


def test_the_page_about_the_package_names_every_room_and_only_files_that_exist():
    text = (ROOT / "hpsearch" / "README.md").read_text(encoding="utf-8")
    named = {name for name in re.findall(r"`([\w/.]+)`", text) if name.endswith(".py") or "/" in name}
    places = [
        ROOT / "hpsearch" / name if not name.startswith(("tests/", ".ci/")) else ROOT / name for name in named
    ]
    assert [str(place) for place in places if not place.exists()] == []
    rooms = {path.parent.relative_to(ROOT / "hpsearch") for path in (ROOT / "hpsearch").rglob("__init__.py")}
    missing = [str(room) for room in rooms if room.name and f"{room.name}/" not in text]
    assert missing == []


def test_a_trial_passes_the_files_that_the_page_names_as_its_life():
    steps = life_of_a_trial(ROOT)
    counted = re.search(
        r"(\d+) of them with about ([\d,]+) lines", (ROOT / "hpsearch" / "README.md").read_text()
    )
    assert counted is not None
    assert len(steps) == int(counted[1])
    lines = sum(path.read_text(encoding="utf-8").count("\n") for path in steps)
    assert lines == pytest.approx(int(counted[2].replace(",", "")), rel=0.1)
    passed, _ = walks(ROOT)
    later = {"search/stopping.py", "search/outcome.py", "results/stored/study.py"}  # behind the first update
    assert {str(path.relative_to(ROOT / "hpsearch")) for path in {*steps} - passed.keys()} <= later


def found_in(pattern: str, *but: str) -> list[str]:
    """Returns the modules of the package that hold a pattern, but those that may."""
    sources = {
        path.relative_to(ROOT / "hpsearch").as_posix(): path for path in (ROOT / "hpsearch").rglob("*.py")
    }
    return [
        name
        for name, path in sorted(sources.items())
        if name not in but and re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
    ]


def test_urls_are_parsed_in_the_store_alone():
    """In docstrings, defaults and sentences a URL may stand."""
    pattern = r"""prefix\(["']sqlite|= ["']sqlite:///["']|f["']sqlite:///|make_url|[!=]= ["']sqlite["']"""
    pattern += r"|sqlite:///runs"
    assert [name for name in found_in(pattern) if not name.startswith("store/")] == []


def test_minimising_and_maximising_differ_in_one_module():
    pattern = r"""[!=]= ["'](minimize|maximize)["']|["'](minimize|maximize)["'] if|StudyDirection\.M"""
    assert found_in(pattern, "study/direction.py", "store/queries.py") == []


def test_files_are_written_beside_and_renamed_in_one_module():
    pattern = r"os\.(replace|rename)\(|\bbeside\.replace\(|\.with_name\(f\"\.|os\.O_EXCL|NamedTemporaryFile"
    assert found_in(pattern, "files/atomic.py", "__main__.py") == []


def test_modules_are_imported_by_name_in_one_module():
    assert found_in(r"import_module\(", "__init__.py", "testing/__init__.py", "training/imports.py") == []
    assert found_in(r"__import__\(|spec_from_file|exec_module", "training/imports.py") == []
    edited = r"(?<!in )\bsys\.path(\[|\.(insert|append|remove|extend|pop)| \+?=)"
    assert found_in(edited, "training/imports.py", "__main__.py") == []


def test_no_two_classes_share_a_name():
    """One thing per word, private ones too: whoever reads a name need not ask which of two it is."""
    homes: dict[str, list[str]] = {}
    for path, text in modules(ROOT):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(str(path))
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def sentences(path: Path) -> Iterator[str]:
    """Yields the texts in a module's code, the values in them as {}, but for docstrings."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    inner = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    inner |= {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.value


def test_sentences_are_plain_english():
    """The worst of what was there; `is no longer` and `there is no` are plain enough."""
    worst = (
        r"goes? on with|given up here|\bmend\b|\band no file\b|see to your|\bwarmly\b|stands twice|as it says it|"
        r"set \S+ \S+ right|\b(it|this|that|which|\{\}) (is|are) no (?!longer|more|such)|any more\b"
    )
    said = {
        f"{path.relative_to(ROOT)}: {text}"
        for path in (ROOT / "hpsearch").rglob("*.py")
        for text in sentences(path)
        if re.search(worst, text)
    }
    assert said == set()
