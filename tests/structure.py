"""What a newcomer walks through: figures about the package's structure, of this or of an earlier checkout.

    python -m tests.structure [CHECKOUT]

The walks are real: one trial of the digits runs with every function call of the package noted, in the driver from the
start of `hpsearch run` until it gives the trial away, in the worker to the first weight update, and while the driver
handles one epoch's result. Calls made while a module is being imported do not count.
"""

import ast
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

STUDY = """
[study]
trials = 1
[data]
dataset = "digits"
[model]
name = "mlp"
[train]
epochs = 2
[search]
learning_rate = [0.1]
"""

NOTE = """
import os, sys, threading
PACKAGE, FOLDER = os.environ["WALK_PACKAGE"] + os.sep, os.environ["WALK_FOLDER"]
importing, handled, passed, route, done = threading.local(), threading.local(), set(), [], set()

def write(name, lines):
    if name not in done:
        done.add(name)
        with open(os.path.join(FOLDER, f"{name}-{os.getpid()}"), "w") as file:
            file.write("\\n".join(lines))

def note(frame, event, arg):
    code = frame.f_code
    if code.co_name == "<module>" and frame.f_globals.get("__name__") != "__main__":
        importing.depth = max(0, getattr(importing, "depth", 0) + (event == "call") - (event == "return"))
    if event != "call" or getattr(importing, "depth", 0):
        if event == "return" and code.co_name == "handle" and getattr(handled, "by", None) is frame:
            handled.by = None
            write("result", route)
        return
    if code.co_name == "step" and "optim" in os.path.basename(code.co_filename) + code.co_filename.split("torch")[-1]:
        write("update", sorted(passed))
        return
    if code.co_filename.startswith(PACKAGE):
        passed.add(f"{code.co_filename}:{code.co_firstlineno}")
        if code.co_name == "assign" and "fleet" in code.co_filename:
            write("given", sorted(passed))
        if code.co_name == "handle" and "driver" in code.co_filename:
            if type(frame.f_locals.get("message")).__name__ == "EpochResult":
                handled.by = frame
        if getattr(handled, "by", None) is not None and (not route or route[-1] != code.co_filename):
            route.append(code.co_filename)

threading.setprofile(note)
sys.setprofile(note)
"""


def modules(root: Path) -> Iterator[tuple[Path, str]]:
    """Yields the package's modules, relative to the checkout, with their sources."""
    for path in sorted((root / "hpsearch").rglob("*.py")):
        yield path.relative_to(root), path.read_text(encoding="utf-8")


def walks(root: Path) -> tuple[dict[Path, set[int]], list[Path]]:
    """Runs one trial; returns the files passed up to the first weight update, each with where its functions that
    were called begin, and the route of one result."""
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder, "notes")
        notes.mkdir()
        Path(folder, "sitecustomize.py").write_text(NOTE, encoding="utf-8")
        Path(folder, "walk.toml").write_text(STUDY, encoding="utf-8")
        env = os.environ | {
            "PYTHONPATH": f"{folder}{os.pathsep}{root}",
            "WALK_PACKAGE": str(root / "hpsearch"),
            "WALK_FOLDER": str(notes),
        }
        command = [sys.executable, "-m", "hpsearch", "run", "walk.toml", "--gpus", "none", "--quiet"]
        subprocess.run(command, cwd=folder, env=env, check=True, timeout=600)
        passed: dict[Path, set[int]] = defaultdict(set)
        route: list[Path] = []
        for path in notes.iterdir():
            found = path.read_text(encoding="utf-8").splitlines()
            if path.name.startswith("result"):
                route = list(map(Path, found))
            else:
                for file, _, line in (one.rpartition(":") for one in found):
                    passed[Path(file)].add(int(line))
    return passed, route


def lines_of(path: Path, called: set[int]) -> int:
    """Returns how many lines the functions of a file have that begin at these."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    return sum(
        (node.end_lineno or node.lineno) - node.lineno + 1
        for node in functions
        if min([node.lineno, *(one.lineno for one in node.decorator_list)]) in called
    )


def classes_for_a_trial(root: Path) -> list[str]:
    """Returns the classes that hold a trial's number, or are called after a trial."""
    found = []
    for _, text in modules(root):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                fields = {
                    f.target.id
                    for f in node.body
                    if isinstance(f, ast.AnnAssign) and isinstance(f.target, ast.Name)
                }
                if "number" in fields or ("Trial" in node.name and not node.name.endswith("Error")):
                    found.append(node.name)
    return sorted(found)


def places(root: Path, pattern: str) -> list[str]:
    """Returns the modules in which a pattern stands."""
    return [str(path) for path, text in modules(root) if re.search(pattern, text, re.MULTILINE)]


def life_of_a_trial(root: Path) -> list[Path]:
    """Returns the files that the package's own page names as the ten steps of a trial."""
    page = root / "hpsearch" / "README.md"
    steps = re.findall(
        r"^\| \d+ \|.*", page.read_text(encoding="utf-8") if page.exists() else "", re.MULTILINE
    )
    return [
        root / "hpsearch" / name for name in dict.fromkeys(re.findall(r"`([\w/]+\.py)`", "\n".join(steps)))
    ]


def main() -> None:
    """Prints the figures."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    sources = [text.count("\n") for _, text in modules(root)]
    print(f"package: {len(sources)} files, {sum(sources):,} lines")
    steps = life_of_a_trial(root)
    lines = sum(path.read_text(encoding="utf-8").count("\n") for path in steps)
    print(f"the life of a trial in ten steps: {len(steps)} files, {lines:,} lines")
    passed, route = walks(root)
    lines = sum(path.read_text(encoding="utf-8").count("\n") for path in passed)
    called = sum(lines_of(path, functions) for path, functions in passed.items())
    print(
        f"from `hpsearch run` to a weight update: {len(passed)} files, {lines:,} lines; of them "
        f"{sum(map(len, passed.values())):,} functions are called, {called:,} lines"
    )
    rooms = dict.fromkeys(str(path.relative_to(root)) for path in route)
    print(f"one epoch's result in the driver: {len(rooms)} files, {len(route) - 1} changes of file")
    print("  " + " ".join(rooms))
    classes = classes_for_a_trial(root)
    print(f"classes for a trial: {len(classes)} ({', '.join(classes)})")
    for what, pattern in {
        "SQLAlchemy imported": r"^\s*(from|import) sqlalchemy",
        "files replaced": r"os\.replace|\.replace\(target|\.rename\(",
        "sys.path edited": r"sys\.path\.(insert|append|remove)|sys\.path\[",
        "minimise or maximise asked": r'[!=]= "(max|min)imize"|StudyDirection\.(MAX|MIN)IMIZE',
        "sqlite:/// read": r'"sqlite:///|startswith\("sqlite',
    }.items():
        found = places(root, pattern)
        print(f"{what}: {len(found)} files ({', '.join(found)})")


if __name__ == "__main__":
    main()
