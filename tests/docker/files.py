"""The files of docker/, read for the tests: settings filled in, files merged, commands taken out of the page."""

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
PAGE = (DOCKER / "README.md").read_text(encoding="utf-8")
SETTING = re.compile(r"\$\{([A-Z_]+):-([^}]*)\}")


def filled(text: str, settings: Mapping[str, str] = {}) -> str:
    """Returns a compose file's text with `${NAME:-default}` replaced."""
    return SETTING.sub(lambda match: settings.get(match[1]) or match[2], text)


def compose(*names: str, settings: Mapping[str, str] = {}) -> dict[str, Any]:
    """Returns compose files as one, merged as Compose does what occurs in them."""
    whole: dict[str, Any] = {}
    for name in names or ("compose.yaml",):
        text = filled((DOCKER / name).read_text(encoding="utf-8"), settings)
        whole = _merged(whole, yaml.safe_load(text))
    return {key: value for key, value in whole.items() if not key.startswith("x-")}


def _merged(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        keys = below | above
        return {
            key: _merged(below[key], above[key]) if key in below and key in above else keys[key]
            for key in keys
        }
    return below + above if isinstance(below, list) and isinstance(above, list) else above


def dockerfile() -> list[tuple[int, str, str]]:
    """Returns the Dockerfile's instructions: stage (from 1), word, rest."""
    text = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    found, stage = [], 0
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, rest = line.partition(" ")
        stage += word == "FROM"
        if word:
            found.append((stage, word, rest.strip()))
    return found


def image_environment() -> dict[str, str]:
    """Returns what the last stage's ENV sets, without PATH."""
    last = dockerfile()[-1][0]
    pairs = [
        pair
        for stage, word, rest in dockerfile()
        if word == "ENV" and stage == last
        for pair in shlex.split(rest)
    ]
    found = dict(pair.split("=", 1) for pair in pairs)
    assert found.pop("PATH")
    return found


def page_commands() -> Iterator[list[str]]:
    """Yields the page's `docker compose` commands word by word, without redirections and assignments."""
    blocks = re.findall(r"^ {4}(docker compose .*)$", PAGE, re.MULTILINE)
    inline = re.findall(r"`(docker compose [^`]+)`", PAGE)
    for line in blocks + inline:
        yield shlex.split(re.split(r"\s[<>]\s", line)[0], comments=True)[2:]


def small_study(trials: int, epochs: str, name: str = "digits") -> str:
    """Returns the digits study with another space and number of trials."""
    text = (ROOT / "studies" / "digits.toml").read_text(encoding="utf-8")
    changes = {
        r"^trials = \d+": f'name = "{name}"\ntrials = {trials}',
        r"^epochs = .*": f"epochs = {epochs}",
        r"^batch_size = .*": "batch_size = [64, 128]",
        r"^learning_rate = .*": "learning_rate = { low = 1e-3, high = 1e-2 }",  # none diverges
    }
    for pattern, value in changes.items():
        text, count = re.subn(pattern, value, text, flags=re.MULTILINE)
        assert count == 1
    return text
