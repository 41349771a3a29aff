"""The files of docker/: linters, and that all they name exists. No Docker engine is needed."""

import fnmatch
import importlib.metadata
import ipaddress
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.main import get_command

from hpsearch.cli import app
from tests.docker.files import (
    DOCKER,
    PAGE,
    ROOT,
    SETTING,
    compose,
    dockerfile,
    image_environment,
    page_commands,
)

COMMANDS = get_command(app).commands
BOTH = ("compose.yaml", "compose.lan.yaml")
EXTRAS = {"postgres", "mysql", "parquet", "mrc", "png", "metrics"}
OURS = {name: service for name, service in compose()["services"].items() if service["image"] == "hpsearch"}
WORKERS = {"worker-cpu", "worker-gpu"}

# Docker's reference of `docker compose`: subcommand -> flags without a value, flags with one.
COMPOSE_FLAGS: dict[str, tuple[set[str], set[str]]] = {
    "up": ({"--detach", "--no-deps"}, set()),
    "run": ({"--rm", "--no-deps", "-T", "--detach"}, {"--entrypoint", "--name"}),
    "build": ({"--pull"}, set()),
    "exec": ({"-T"}, set()),
    "stop": (set(), set()),
    "restart": (set(), set()),
    "down": (set(), set()),
    "cp": (set(), set()),
}


def understood(words: list[str]) -> None:
    """Parses an hpsearch command line as the program would, and fails as it would."""
    COMMANDS[words[0]].make_context(words[0], words[1:])


def test_the_linter_finds_nothing_in_the_dockerfile():
    hadolint = Path(sys.executable).with_name("hadolint")
    shown = subprocess.run([hadolint, DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stdout) == (0, "")


@pytest.mark.parametrize("names", [("compose.yaml",), BOTH], ids=len)
def test_the_compose_files_follow_the_specification(names):
    whole = compose(*names)
    for worker in WORKERS:  # the specification allows a number of retries, this reader of it does not
        policy, _, retries = whole["services"][worker]["restart"].partition(":")
        assert int(retries) > 0
        whole["services"][worker]["restart"] = policy
    compose_spec.PyCompose.from_json(json.dumps(whole)).validate()


@pytest.mark.parametrize("names", [("compose.yaml",), BOTH], ids=len)
def test_docker_compose_reads_the_files(names):
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True).returncode != 0:
        pytest.skip("no docker client with its compose plugin")
    files = [word for name in names for word in ("--file", str(DOCKER / name))]
    command = [docker, "compose", *files, "--profile", "*", "config", "--quiet"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr


def test_the_settings_are_those_of_the_example_with_the_same_defaults():
    texts = [(DOCKER / name).read_text(encoding="utf-8") for name in BOTH]
    used = {match[1]: match[2] for text in texts for match in SETTING.finditer(text)}
    lines = (DOCKER / ".env.example").read_text(encoding="utf-8").splitlines()
    named = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert named.pop("COMPOSE_FILE") == "compose.yaml"  # Compose's own
    assert named == used
    assert all("$" not in SETTING.sub("", text).replace("$(", "") for text in texts)


def test_our_services_run_without_rights_on_a_read_only_root():
    assert set(OURS) == WORKERS | {"dashboard", "add-user"}
    for name, service in OURS.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["tmpfs"] == ["/tmp:exec"], name
        writable = {v.split(":")[1] for v in service["volumes"] if not v.endswith(":ro")}
        assert writable == ({"/users"} if name == "add-user" else {"/runs"})
    last = dockerfile()[-1][0]
    assert [rest for stage, word, rest in dockerfile() if (stage, word) == (last, "USER")] == ["10001:10001"]


def test_volumes_networks_secrets_and_services_that_are_named_are_declared():
    whole = compose(*BOTH)
    used: dict[str, set[str]] = {"volumes": set(), "networks": set(), "secrets": set(), "services": set()}
    for service in whole["services"].values():
        sources = [volume.split(":")[0] for volume in service.get("volumes", [])]
        used["volumes"] |= {source for source in sources if not source.startswith(".")}
        used["networks"] |= set(service.get("networks", {"default": None}))
        used["secrets"] |= set(service.get("secrets", []))
        used["services"] |= set(service.get("depends_on", {}))
    assert used.pop("services") <= set(whole["services"])
    assert used == {kind: set(whole[kind]) for kind in used}


def test_paths_that_are_named_exist():
    assert all((DOCKER / name).exists() for name in ("../studies", "Caddyfile", "../docker/Dockerfile"))
    volumes = [volume for service in compose()["services"].values() for volume in service.get("volumes", ())]
    scripts = [volume.split(":")[0] for volume in volumes if volume.split(":")[0].endswith(".sh")]
    assert {Path(script).name for script in scripts} == {"backup.sh", "restore.sh"}
    assert all((DOCKER / script).is_file() for script in scripts)
    for service in OURS.values():
        build = DOCKER / service["build"]["context"]
        assert (build / service["build"]["dockerfile"]).is_file()
    copied = [rest.split()[:-1] for _, word, rest in dockerfile() if word == "COPY" and "--from" not in rest]
    sources = [source for words in copied for source in words]
    assert len(sources) == 5
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not any(fnmatch.fnmatch(source, pattern.strip("/")) for pattern in ignored), source
    studies = re.findall(r"/studies/([\w.]+)", PAGE + json.dumps(compose()))
    assert studies
    assert all((ROOT / "studies" / study).is_file() for study in studies)
    assert not [path for path in image_environment().values() if path.startswith("/") and path.count("/") > 2]


def test_commands_of_the_services_and_the_image_are_understood():
    for name in WORKERS | {"dashboard"}:
        understood(OURS[name]["command"])
    program, *fixed = OURS["add-user"]["entrypoint"]
    assert program == "hpsearch"
    understood([*fixed, "alice"])
    instructions = {word: rest for _, word, rest in dockerfile()}
    assert json.loads(instructions["ENTRYPOINT"]) == ["hpsearch"]
    program, *check = json.loads(instructions["HEALTHCHECK"].partition(" CMD ")[2])
    assert program == "hpsearch"
    understood(check)


def test_variables_of_the_image_are_read_by_the_package():
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "hpsearch").rglob("*.py"))
    named = set(image_environment()) | set(OURS["worker-cpu"]["environment"])
    ours = {name for name in named if name.startswith("HPSEARCH_")}
    assert ours == {"HPSEARCH_RUNS", "HPSEARCH_DATA", "HPSEARCH_STORAGE_FILE"}
    assert all(f'"{name}"' in text for name in ours)


def test_only_caddy_is_believed_to_be_the_proxy():
    services, front = compose()["services"], compose()["networks"]["front"]["ipam"]["config"][0]
    address = services["caddy"]["networks"]["front"]["ipv4_address"]
    command = services["dashboard"]["command"]
    assert command[command.index("--proxy") + 1] == address
    assert ipaddress.ip_address(address) in ipaddress.ip_network(front["subnet"])
    assert ipaddress.ip_address(address) not in ipaddress.ip_network(
        front["ip_range"]
    )  # given to nobody else
    members = {name for name, service in services.items() if "front" in service.get("networks", ())}
    assert members == {"caddy", "dashboard"}


@pytest.mark.parametrize("words", list(page_commands()), ids=" ".join)
def test_compose_commands_of_the_page_are_right(words):
    whole, words, profiles = compose(*BOTH)["services"], list(words), []
    while words[0] == "--profile":
        profiles.append(words[1])
        words = words[2:]
    bare, valued = COMPOSE_FLAGS[words.pop(0)]
    options: dict[str, str] = {}
    while words and words[0].startswith("-"):
        flag = words.pop(0)
        assert flag in bare | valued
        options[flag] = words.pop(0) if flag in valued else ""
    assert set(profiles) <= {profile for service in whole.values() for profile in service.get("profiles", [])}
    if not words:
        return
    service, rest = words[0].partition(":")[0], words[1:]
    assert service in whole
    if "--entrypoint" in options:
        assert options["--entrypoint"] in ("tar", "sh", "hpsearch")
        if options["--entrypoint"] == "hpsearch":
            understood(rest)
    elif service in WORKERS and rest and rest[0] not in whole:
        understood(rest)
    elif service == "postgres" and rest:
        assert_flags_exist(rest)
    elif service not in ("add-user", "restore"):
        assert all(other in whole or other == "." for other in rest)


def assert_flags_exist(words: list[str]) -> None:
    if shutil.which(words[0]) is None:
        pytest.skip(f"no {words[0]} on this machine")
    shown = subprocess.run([words[0], "--help"], capture_output=True, text=True, check=True).stdout
    assert all(re.search(rf"{word}\b", shown) for word in words if word.startswith("--"))


def test_the_kubernetes_job_runs_as_the_image_must():
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    pod = yaml.safe_load(text)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    understood(container["args"])
    assert pod["securityContext"]["runAsUser"] == 10001
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounted) == {volume["name"] for volume in pod["volumes"]}
    assert container["env"][0]["value"].startswith(mounted["storage"] + "/")
    (dashboard,) = re.findall(r"`args: \[(.*?)\]`", PAGE)
    understood(dashboard.split(", "))


def test_no_password_and_no_registry_is_in_any_file():
    for path in [*DOCKER.iterdir(), ROOT / ".dockerignore"]:
        if not path.is_file() or path.name == ".env":
            continue
        text = path.read_text(encoding="utf-8")
        secrets = set(re.findall(r"://[^\s:/]+:([^\s@]+)@", text))
        assert secrets <= {"%s", "PASSWORD"}, path
        assert not re.search(
            r"(?i)(password|secret|token)\w*\s*[=:]\s*['\"]?[\w-]{6,}$", text, re.MULTILINE
        ), path
        assert not re.search(r"(?i)https?://(?!localhost)", text), path
    environments: list[dict[str, Any]] = [
        s.get("environment", {}) for s in compose(*BOTH)["services"].values()
    ]
    named = {name for each in [*environments, image_environment()] for name in each}
    assert not {
        name for name in named if re.search("PASSWORD|URL|TOKEN|STORAGE", name) and not name.endswith("_FILE")
    }


def pinned() -> dict[str, str]:
    lines = (DOCKER / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)  # no index, no URL, no range
    found = {canonicalize_name(pin.split("==")[0]): pin.split("==")[1] for pin in pins}
    assert len(found) == len(pins)
    return found


def installed_version(name: str) -> str | None:
    """Returns the version without its local part, such as the `+cu132` of a build for CUDA."""
    try:
        return importlib.metadata.version(name).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def test_constraints_pin_all_that_the_package_needs_and_nothing_else():
    pins = pinned()
    needed, other, todo = set(), set(), [("hpsearch", frozenset(EXTRAS))]
    while todo:
        name, extras = todo.pop()
        if name != "hpsearch" and installed_version(name) != pins.get(name):
            other.add(name)  # what the pinned version needs cannot be read here
            continue
        for line in importlib.metadata.requires(name) or []:
            requirement = Requirement(line)
            marker = requirement.marker
            holds = marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""})
            wanted = canonicalize_name(requirement.name)
            if holds and wanted not in needed:
                needed.add(wanted)
                todo.append((wanted, frozenset(requirement.extras)))
    assert needed <= set(pins)
    assert other or needed == set(pins)


def test_constraints_satisfy_the_package():
    for line in importlib.metadata.requires("hpsearch") or []:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        if name in pinned():
            assert requirement.specifier.contains(pinned()[name]), line


def test_the_image_is_built_as_the_constraints_were_made():
    install = next(rest for _, word, rest in dockerfile() if word == "RUN" and ".[" in rest)
    assert set(re.search(r"\.\[([\w,]+)\]", install)[1].split(",")) == EXTRAS
    words = shlex.split(install)
    assert words[words.index("--constraint") + 1] == "docker/constraints.txt"
