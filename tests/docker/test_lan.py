"""PostgreSQL for several machines, with the options of compose.lan.yaml and the certificate of the page."""

import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hpsearch.errors import HpsearchError
from hpsearch.store.connection import open_storage
from tests.docker.files import PAGE, compose
from tests.results.requests import DEADLINE, listens, until

PASSWORD = "a1b2c3"


@dataclass(frozen=True)
class Server:
    port: int
    certificate: Path

    def url(self, host: str, password: str = PASSWORD) -> str:
        """Returns the page's line of `storage_url`, for this server."""
        (line,) = re.findall(r"^ {4}(postgresql\S+PASSWORD@FIRST\S+)$", PAGE, re.MULTILINE)
        assert line.endswith("/run/secrets/postgres_certificate")
        line = line.replace("/run/secrets/postgres_certificate", str(self.certificate))
        return line.replace("PASSWORD", password).replace("FIRST:5432", f"{host}:{self.port}")


def programs() -> Path | None:
    """Returns the folder of PostgreSQL's server programs."""
    found = shutil.which("initdb")
    folders = (
        sorted(Path("/usr/lib/postgresql").glob("*/bin")) if found is None else [Path(found).resolve().parent]
    )
    return folders[-1] if folders and (folders[-1] / "initdb").exists() else None


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    folder, here = programs(), tmp_path_factory.mktemp("postgres")
    users = {entry.pw_name: entry.pw_uid for entry in pwd.getpwall()}
    if folder is None or shutil.which("openssl") is None:
        pytest.skip("no PostgreSQL server programs, or no openssl")
    if os.geteuid() != 0 or "postgres" not in users:
        pytest.skip("needs root, to become the user postgres")
    for place in (here, *here.parents):
        if place == Path(tempfile.gettempdir()):
            break
        place.chmod(place.stat().st_mode | 0o055)  # pytest makes them for its own user alone
    (here / "secrets").mkdir()
    (here / "data").mkdir()
    (line,) = re.findall(r"^ {4}sudo (openssl req .*)$", PAGE, re.MULTILINE)
    made = subprocess.run(
        line.replace("FIRST", "localhost").split(), cwd=here, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    (here / "secrets/postgres_key").chmod(0o600)  # as the page says
    (here / "password").write_text(PASSWORD, encoding="ascii")
    for path in ("data", "secrets/postgres_key", "password"):
        os.chown(here / path, users["postgres"], -1)
    initdb = [
        "initdb",
        "-D",
        here / "data",
        "--username=hpsearch",
        f"--pwfile={here / 'password'}",
        "--auth=scram-sha-256",
    ]
    subprocess.run(
        [folder / initdb[0], *initdb[1:]], user="postgres", check=True, capture_output=True, cwd=here
    )
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    program, *options = compose("compose.lan.yaml")["services"]["postgres"]["command"]
    assert program == "postgres"
    options = [option.replace("/run/secrets", str(here / "secrets")) for option in options]
    place = ["-D", here / "data", "-p", str(port), "-k", "", "-h", "127.0.0.1"]
    with (
        (here / "log").open("w") as log,
        subprocess.Popen(
            [folder / "postgres", *place, *options], user="postgres", stdout=log, stderr=log, cwd=here
        ) as process,
    ):
        try:
            until(lambda: listens(port) or process.poll() is not None)
            assert process.poll() is None, (here / "log").read_text()
            server = Server(port, here / "secrets/postgres_certificate")
            environment = os.environ | {"PGPASSWORD": PASSWORD}
            create = ["createdb", "-h", "127.0.0.1", "-p", str(port), "--username", "hpsearch", "hpsearch"]
            subprocess.run([folder / create[0], *create[1:]], env=environment, check=True)
            yield server
        finally:
            process.terminate()
            process.wait(DEADLINE)


def test_a_machine_with_the_certificate_reaches_the_database_by_tls(server):
    storage = open_storage(server.url("localhost"))
    try:
        with storage.engine.connect() as connection:
            shown = connection.exec_driver_sql("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
            assert shown.scalar() is True
    finally:
        storage.engine.dispose()


@pytest.mark.parametrize(("host", "password"), [("127.0.0.1", PASSWORD), ("localhost", "wrong")])
def test_another_name_or_password_is_refused(server, host, password):
    with pytest.raises(HpsearchError) as refused:
        open_storage(server.url(host, password))
    assert password not in str(refused.value)


def test_another_certificate_is_refused(server, tmp_path):
    other = tmp_path / "certificate"
    command = (
        f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout {tmp_path}/key -out {other}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    with pytest.raises(HpsearchError, match="certificate"):
        open_storage(Server(server.port, other).url("localhost"))
