"""The image on a real Docker engine, under the restrictions of compose.yaml: the short form of docker/README.md.

    pytest -m docker tests/docker/test_engine.py

It builds the image, which takes minutes and gigabytes the first time; HPSEARCH_TEST_DOCKER_BUILD holds more flags
for `docker build`, such as `--build-arg TORCH_INDEX=URL` for the smaller one. It is skipped where no engine answers.
"""

import json
import os
import shlex
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.docker.files import ROOT, compose, small_study
from tests.docker.image import USER
from tests.results.requests import Server, basic, until

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(3600)]

SERVICES = compose()["services"]
BUILD = shlex.split(os.environ.get("HPSEARCH_TEST_DOCKER_BUILD", ""))


def docker(*words: object, **options: Any) -> "subprocess.CompletedProcess[str]":
    command = ["docker", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@dataclass(frozen=True)
class Engine:
    """A built image, a folder of studies and users, and a volume for /runs."""

    image: str
    folder: Path
    name: str

    def start(self, *words: object, service: str = "worker-cpu", flags: tuple[str, ...] = ()) -> str:
        """Starts a container as compose.yaml would the service, with SQLite in its volume; returns its name."""
        wanted = SERVICES[service]
        assert (wanted["read_only"], wanted["init"]) == (True, True)
        limits = ["--read-only", "--init", *flags]
        for flag, key in {
            "--tmpfs": "tmpfs",
            "--cap-drop": "cap_drop",
            "--security-opt": "security_opt",
        }.items():
            limits += [word for value in wanted[key] for word in (flag, value)]
        limits += ["--shm-size", wanted.get("shm_size", "64mb"), "--env", "OMP_NUM_THREADS=1"]
        places = [
            f"{self.name}:/runs",
            f"{self.folder}/studies:/studies:ro",
            f"{self.folder}/users:/users:ro",
        ]
        volumes = [word for place in places for word in ("--volume", place)]
        container = f"{self.name}-{uuid.uuid4().hex[:8]}"
        label = ("--label", self.name, "--name", container)
        done = docker("run", "--detach", *label, *limits, *volumes, self.image, *words)
        assert done.returncode == 0, done.stderr
        return container

    def run(self, *words: object) -> str:
        """Runs a container to its end, which must be a success; returns what it printed."""
        container = self.start(*words)
        status = docker("wait", container).stdout.strip()
        shown = docker("logs", container)
        assert status == "0", shown.stderr
        return shown.stdout

    def epochs(self, container: str) -> list[tuple[int, int]]:
        """Returns trial and epoch of what the container has told so far."""
        lines = [line for line in docker("logs", container).stdout.splitlines() if line.startswith("{")]
        events = [json.loads(line) for line in lines]
        return [(each["number"], each["epoch"]) for each in events if each["event"] == "epoch"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Iterator[Engine]:
    if shutil.which("docker") is None:
        pytest.skip("no docker client on this machine")
    if (answer := docker("version")).returncode != 0:
        pytest.skip(f"no Docker engine answers: {answer.stderr.strip().splitlines()[-1]}")
    folder, name = tmp_path_factory.mktemp("engine"), f"hpsearch-test-{uuid.uuid4().hex[:8]}"
    built = docker("build", "--quiet", *BUILD, "--file", ROOT / "docker/Dockerfile", "--tag", name, ROOT)
    assert built.returncode == 0, built.stderr[-2000:]
    for place in (folder, *folder.parents[:2]):
        place.chmod(0o755)  # pytest's are their owner's alone
    (folder / "users").mkdir(mode=0o700)
    os.chown(folder / "users", USER, USER)
    (folder / "studies").mkdir()
    (folder / "studies/digits.toml").write_text(small_study(2, "{ low = 1, high = 2 }"))
    (folder / "studies/long.toml").write_text(small_study(1, "{ low = 300, high = 301 }", "long"))
    try:
        yield Engine(name, folder, name)
    finally:
        containers = docker("ps", "--all", "--quiet", "--filter", f"label={name}").stdout.split()
        docker("rm", "--force", *containers)
        docker("volume", "rm", name)
        docker("rmi", name)


def test_the_main_job_runs_under_the_restrictions_of_the_compose_file(engine):
    engine.run("run", "/studies/digits.toml", "--gpus", "none")
    (listed,) = json.loads(engine.run("list", "--json"))
    assert listed["name"] == "digits"
    owners = docker(
        "run", "--rm", "--volume", f"{engine.name}:/runs", "--entrypoint", "find", engine.image, "/runs",
        "!", "-uid", USER,
    )  # fmt: skip
    assert (owners.returncode, owners.stdout) == (0, "")
    probe = 'for place in / /studies /users /etc /opt/hpsearch /runs /tmp; do [ ! -w "$place" ] || echo "$place"; done'
    container = engine.start("-c", probe, flags=("--entrypoint", "sh"))
    docker("wait", container)
    # The users' folder is its user's own, but mounted read-only.
    assert docker("logs", container).stdout.split() == ["/runs", "/tmp"]


def test_a_killed_and_a_stopped_container_lose_nothing_before_the_last_checkpoint(engine):
    words = ("run", "/studies/long.toml", "--gpus", "none", "--workers", 1, "--json")
    first = engine.start(*words)
    until(lambda: len(engine.epochs(first)) >= 5, 300)
    assert docker("kill", first).returncode == 0
    killed_at = max(epoch for _, epoch in engine.epochs(first))
    second = engine.start(*words)
    until(lambda: engine.epochs(second), 300)
    assert docker("stop", "--time", 120, second).returncode == 0  # stop_grace_period of compose.yaml
    assert docker("wait", second).stdout.strip() == "143"
    told = [epoch for _, epoch in engine.epochs(second)]
    assert 1 < told[0] <= killed_at + 1
    third = engine.start(*words)
    until(lambda: engine.epochs(third), 300)
    assert engine.epochs(third)[0][1] == told[-1] + 1  # SIGTERM: no epoch is lost
    docker("kill", third)


def test_the_dashboard_asks_for_a_login_and_its_health_check_agrees(engine):
    add = ("run", "--rm", "--interactive", "--volume", f"{engine.folder}/users:/users", "--entrypoint")
    entry = SERVICES["add-user"]["entrypoint"]
    added = docker(*add, entry[0], engine.image, *entry[1:], "ada", input="correct horse\n")
    assert added.returncode == 0, added.stderr
    words = list(SERVICES["dashboard"]["command"])
    published = ("--publish", "127.0.0.1::8080")
    container = engine.start(*words, service="dashboard", flags=published)
    port = int(docker("port", container, "8080").stdout.splitlines()[0].rpartition(":")[2])
    server = Server(port, None)  # type: ignore[arg-type]

    def status(**headers):
        try:
            return server.ask("/api/studies", **headers).status
        except OSError:
            return 0

    until(lambda: status(), 120)
    right = basic("ada", "correct horse")
    assert (status(), status(Authorization=right)) == (401, 200)
    check = SERVICES["dashboard"]["healthcheck"]["test"][1:]
    assert docker("exec", container, *check).returncode == 0
    removed = docker(*add, "hpsearch", engine.image, "dashboard", "--auth", entry[3], "--remove-user", "ada")
    assert removed.returncode == 0, removed.stderr
    assert status(Authorization=right) == 401
    docker("stop", container)
    assert docker("wait", container).stdout.strip() == "0"
