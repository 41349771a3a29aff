"""The line to workers elsewhere, encrypted: who has not the driver's own certificate before him hears nothing."""

import socket
import ssl
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hpsearch.contracts.executor import WorkerPlace
from hpsearch.contracts.messages import Action, Decision, Loading, Ready, TrialRun, WorkerSetup
from hpsearch.contracts.places import Cluster
from hpsearch.errors import UserError
from hpsearch.executors import tls
from hpsearch.executors.dial import DialExecutor
from hpsearch.executors.line import GREETING, greeting, read_token
from hpsearch.files.run_folder import RunFolder
from hpsearch.service import dialing
from tests.databases import Proxy
from tests.executors.by_hand import HandExecutor
from tests.executors.test_dial import SPEC, Desk


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(DialExecutor(RunFolder(tmp_path, "s"), Cluster(reconnect=20.0, tls=True)), tmp_path)
    yield desk
    desk.executor.close(0.0)
    for line in desk.lines:
        line.close(False)


def test_messages_pass_and_cannot_be_read_on_the_way(desk: Desk) -> None:
    """Also such as fill many records and no socket's buffer."""
    desk.start()
    seen = bytearray()
    with Proxy(f"postgresql://{desk.executor.address}/x").tapped(seen) as proxy:
        worker = desk.dial(proxy.port)
        desk.until(worker.poll, "no setup")
        worker.recv()
        desk.carries(worker)
        large = Ready(0, 1, "a secret device", {"x": "y" * (8 << 20)}, None, 0.0)
        worker.send(large)
        desk.until(lambda: bool(desk.heard), "the large message")
        assert desk.heard.pop() == large
        run = TrialRun("s", 7, 1, {"x": "y" * (8 << 20)}, SPEC, "/runs/7")
        desk.executor.send(0, run)
        desk.until(worker.poll, "the large trial")
        assert worker.recv() == run
    assert len(seen) > 8 << 20
    assert b"a secret device" not in seen
    assert b"session" not in seen


def test_nothing_is_lost_over_cuts(desk: Desk) -> None:
    desk.start()
    proxy = Proxy(f"postgresql://{desk.executor.address}/x")
    worker = desk.dial(proxy.port)
    desk.until(worker.poll, "no setup")
    worker.recv()
    answers = []
    for cut in range(30):
        worker.send(Loading(0, cut, 30))
        desk.executor.send(0, Decision(7, cut, Action.CONTINUE))
        proxy.cut()
        proxy.mend()
        if cut % 2:
            desk.until(lambda: len(desk.heard) == cut + 1, "a message is lost")  # noqa: B023
    desk.until(lambda: len(desk.heard) == 30, "a message is lost")
    while len(answers) < 30:
        desk.until(worker.poll, "a decision is lost")
        answers.append(worker.recv())
    assert [message.done for message in desk.heard] == list(range(30))
    assert [message.epoch for message in answers] == list(range(30))
    proxy.cut()


def test_one_with_another_certificate_is_told_nothing(desk: Desk, tmp_path: Path) -> None:
    """He listens at the driver's address and even has its secret: the worker goes away before it has greeted."""
    desk.start()
    other, _ = tls.certified()
    with socket.create_server(("127.0.0.1", 0)) as false:
        false.settimeout(30.0)
        worker = desk.dial(false.getsockname()[1])
        for _ in range(2):
            one, _ = false.accept()
            one.settimeout(30.0)
            with (
                pytest.raises(ssl.SSLError, match="UNKNOWN_CA"),
                other.wrap_socket(one, server_side=True) as end,
            ):
                end.recv(GREETING)
    assert not worker.poll()


def test_who_hangs_up_before_he_is_seen_ends_no_driver(desk: Desk) -> None:
    """As a scan of ports does, and a worker that is killed while it dials."""
    worker = desk.met()
    for said in (b"", b"\x16\x03\x01"):
        for _ in range(50):
            with desk.connect() as stranger:
                stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                stranger.sendall(said)
        desk.executor.receive(0.0)
    desk.carries(worker)


def test_who_does_not_encrypt_is_hung_up_on(desk: Desk) -> None:
    """A stranger who has the secret, and a worker whose token's file has lost the certificate."""
    token = read_token(desk.executor.token_file) if desk.executor.listen() else None
    assert token is not None
    worker = desk.met()
    with desk.connect() as plain:
        plain.sendall(greeting(token.key))
        assert len(desk.reads(plain)) < 16, "more than a word of TLS"
    file = desk.executor.token_file.with_suffix(".plain")
    replace(token, certificate="").write(file)
    desk.start(1)
    address = dialing.parse_address(desk.executor.address)
    line = dialing.Line(address, file, read_token(file), "", desk.left.set)
    desk.lines.append(line)
    before = desk.executor._refused
    desk.carries(worker)
    assert not line.poll()
    assert not desk.executor.remotes[1].has_entered
    assert desk.executor._refused == before
    file.unlink()  # so that it leaves


def test_a_workers_process_finds_the_certificate_in_the_tokens_file(tmp_path: Path) -> None:
    executor = HandExecutor(RunFolder(tmp_path, "s"), tls=True)
    desk = Desk(executor, tmp_path)
    executor.start(WorkerPlace(0), WorkerSetup(0, SPEC, "cpu", cache=str(executor.folder.cache)))
    desk.until(lambda: any(isinstance(message, Ready) for message in desk.heard))
    executor.close(20.0)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            None,
            "--tls: openssl is not on the PATH, and it makes the certificate; install it, or leave --tls out",
        ),
        (
            "echo no entropy >&2; exit 1",
            "--tls: openssl could not make a certificate: no entropy; fix it, or leave",
        ),
        ("exit 0", "--tls: openssl does not answer: "),
    ],
    ids=["missing", "failing", "silent"],
)
def test_without_a_certificate_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, words: str
) -> None:
    (tmp_path / "bin").mkdir()
    if script is not None:
        (tmp_path / "bin" / "openssl").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / "openssl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(UserError) as refused:
        DialExecutor(RunFolder(tmp_path, "s"), Cluster(tls=True)).listen()
    assert words in str(refused.value)


def test_a_certificate_that_is_none_is_said() -> None:
    with pytest.raises(UserError, match="--token-file: the certificate in it cannot be read"):
        tls.trusting("-----BEGIN CERTIFICATE-----\nx\n")
