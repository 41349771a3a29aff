"""The line between a driver and workers elsewhere: strangers, breaks of the network, versions, attacks."""

import contextlib
import json
import os
import secrets
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hpsearch.__main__ import run
from hpsearch.contracts.executor import WorkerPlace, Workers
from hpsearch.contracts.messages import (
    Action,
    Decision,
    EndKind,
    EpochResult,
    FromWorker,
    Ready,
    Shutdown,
    TrialEnd,
    TrialRun,
    Usage,
    Waiting,
    WorkerExit,
    WorkerSetup,
)
from hpsearch.contracts.places import Cluster
from hpsearch.errors import DeviceError, UserError
from hpsearch.executors import dial
from hpsearch.executors import line as lines
from hpsearch.executors.dial import STRANGERS, DialExecutor
from hpsearch.executors.line import GREETING, Channel, Kind, LineError, answered, greeting, read_token
from hpsearch.executors.ray import RayExecutor
from hpsearch.executors.slurm import SlurmExecutor
from hpsearch.files.run_folder import RunFolder
from hpsearch.service import dialing
from hpsearch.service.dialing import Line
from hpsearch.service.launch import RunOptions, worker_setup
from hpsearch.study import parse_study
from hpsearch.version import __version__
from tests.databases import Proxy
from tests.executors.by_hand import HandExecutor, command

SPEC = parse_study({"study": {"name": "s"}, "data": {"dataset": "digits"}, "search": {"epochs": [1]}})
DEADLINE = 30.0  # seconds


@dataclass
class Desk:
    """A driver's end, with all that it has heard."""

    executor: DialExecutor
    folder: Path
    heard: list[FromWorker] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)

    def start(self, worker: int = 0) -> None:
        setup = WorkerSetup(worker, SPEC, cache=str(self.executor.folder.cache))
        self.executor.start(WorkerPlace(worker), setup)

    def dial(self, port: int | None = None) -> Line:
        """Returns the line of a worker in this process; `left` says that it would have ended its process."""
        at = dialing.parse_address(self.executor.address)
        file = self.executor.token_file
        line = Line((at[0], port or at[1]), file, read_token(file), "", self.left.set)
        self.lines.append(line)
        return line

    def until(self, condition: Callable[[], bool], what: str = "it does not come") -> None:
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline, f"{what}; heard {self.heard}"
            self.heard += [m for m in self.executor.receive(0.02) if not isinstance(m, Waiting)]

    def met(self, worker: int = 0, port: int | None = None) -> Line:
        """Starts a worker that has its setup."""
        self.start(worker)
        line = self.dial(port)
        self.until(line.poll, "no setup")
        setup = line.recv()
        assert isinstance(setup, WorkerSetup)
        assert setup.worker == worker
        return line

    def carries(self, line: Line, worker: int = 0) -> None:
        """Makes sure that messages pass in both directions."""
        before = len(self.heard)
        line.send(Usage(worker, 1.0))
        self.until(lambda: len(self.heard) > before, "the worker is not heard")
        assert self.heard.pop() == Usage(worker, 1.0)
        self.executor.send(worker, Decision(1, 1, Action.STOP))
        self.until(line.poll, "the driver is not heard")
        assert line.recv() == Decision(1, 1, Action.STOP)

    def connect(self) -> socket.socket:
        return socket.create_connection(dialing.parse_address(self.executor.address), 10)

    def reads(self, one: socket.socket) -> bytes:
        """Returns all that a stranger is told until it is hung up on."""
        said = b""
        one.setblocking(False)

        def has_hung_up() -> bool:
            nonlocal said
            try:
                data = one.recv(4096)
            except BlockingIOError:
                return False
            except OSError:
                return True
            said += data
            return not data

        self.until(has_hung_up, "a stranger is not hung up on")
        return said


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(DialExecutor(RunFolder(tmp_path / "my runs", "s"), Cluster(reconnect=20.0)), tmp_path)
    yield desk
    desk.executor.close(0.0)
    for line in desk.lines:
        line.close(False)


def test_a_worker_is_greeted_set_up_and_heard(desk: Desk) -> None:
    desk.carries(desk.met())


def test_the_driver_says_how_a_worker_is_started(desk: Desk) -> None:
    places = desk.executor.places(Workers("none", 2), 1, "time")
    assert [place.worker for place in places] == [0, 1]
    desk.start()
    (waiting,) = desk.executor.receive(0.0)
    assert isinstance(waiting, Waiting)
    said = shlex.split(waiting.text.partition("start one with ")[2])
    assert said[-4:] == ["--dial", desk.executor.address, "--token-file", str(desk.executor.token_file)]
    assert desk.executor.receive(0.0) == [], "said again at once"


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 10,
        b"\x00" * GREETING,
        os.urandom(4096),
        b"hpsearch dial 1\n" + b"x" * 64,
    ],
    ids=["http", "zeros", "noise", "almost"],
)
def test_garbage_is_hung_up_on_without_a_word(desk: Desk, said: bytes) -> None:
    line = desk.met()
    with desk.connect() as stranger:
        stranger.sendall(said)
        assert desk.reads(stranger) == b""
    desk.carries(line)


def test_who_has_another_token_is_hung_up_on_without_a_word(desk: Desk) -> None:
    line = desk.met()
    with desk.connect() as stranger:
        stranger.sendall(greeting(b"\x01" * 32))
        assert desk.reads(stranger) == b""
    desk.carries(line)


def test_a_greeting_that_was_overheard_is_worth_nothing(desk: Desk) -> None:
    line = desk.met()
    key = read_token(desk.executor.token_file).key
    greeted = greeting(key)
    with desk.connect() as first, desk.connect() as second:
        first.sendall(greeted)
        desk.until(lambda: bool(select.select([first], [], [], 0)[0]), "no answer")
        second.sendall(greeted)
        assert desk.reads(second) == b""
    desk.carries(line)


def test_a_connection_that_was_overheard_is_worth_nothing(desk: Desk) -> None:
    """All that a worker has said, said again in another connection: also where the greeting is not known."""
    seen = bytearray()
    desk.start()
    with Proxy(f"postgresql://{desk.executor.address}/x").tapped(seen) as proxy:
        line = desk.dial(proxy.port)
        desk.until(line.poll, "no setup")
        line.recv()
        desk.carries(line)
        desk.executor._greeted.clear()
        with desk.connect() as thief:
            thief.sendall(bytes(seen))
            assert len(desk.reads(thief)) == lines.ANSWER
        desk.carries(line)


def test_one_who_says_nothing_or_little_is_hung_up_on(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "PATIENCE", 0.3)
    worker = desk.met()
    with desk.connect() as silent, desk.connect() as slow:
        slow.sendall(b"h")
        assert desk.reads(silent) == b""
        with contextlib.suppress(OSError):  # byte for byte does not help
            slow.sendall(b"p")
        assert desk.reads(slow) == b""
    desk.carries(worker)


def test_a_thousand_strangers_leave_room_for_a_worker(desk: Desk) -> None:
    """They connect, say nothing and stay; a worker comes after them."""
    first = desk.met(0)
    with contextlib.ExitStack() as strangers:
        for _ in range(1000):
            strangers.enter_context(desk.connect())
            desk.executor.receive(0.0)
        assert len(desk.executor._strangers) <= STRANGERS
        desk.carries(first, 0)
        desk.carries(desk.met(1), 1)


def test_one_with_the_token_that_does_not_keep_to_the_rules_is_hung_up_on(desk: Desk) -> None:
    worker = desk.met()
    key = read_token(desk.executor.token_file).key

    def enter() -> tuple[socket.socket, Channel]:
        one = desk.connect()
        greeted = greeting(key)
        one.sendall(greeted)
        desk.until(lambda: bool(select.select([one], [], [], 0)[0]), "no answer")
        return one, answered(key, greeted, one.recv(lines.ANSWER))

    for frame in (
        lambda channel: channel.seal(Kind.DATA, bytes(16) + b"{}"),  # before it has entered
        lambda channel: channel.seal(Kind.ENTER, b"[" * 4000),
        lambda channel: channel.seal(Kind.ENTER, b'{"name": 1}'),
        lambda channel: (lines.MOST_OF_STRANGERS + 1).to_bytes(4, "big"),
        lambda channel: channel.seal(Kind.ENTER, b"{}")[:-1] + b"x",  # its proof does not fit
    ):
        one, channel = enter()
        with one:
            one.sendall(frame(channel))
            assert desk.reads(one) == b""
    desk.carries(worker)


def test_another_version_is_refused_with_both_named(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialing, "__version__", "9.9")
    desk.start()
    line = desk.dial()
    desk.until(line.poll)
    with pytest.raises(EOFError):
        line.recv()
    assert line.reason.startswith("refused: its driver runs hpsearch ")
    assert "and this worker 9.9; install the same version for both" in line.reason


def test_a_driver_without_the_token_is_not_worked_for(desk: Desk, tmp_path: Path) -> None:
    """A false driver listens at the address: it is told nothing but the greeting, and the worker dials on."""
    false = socket.create_server(("127.0.0.1", 0))
    false.settimeout(DEADLINE)
    desk.start()
    worker = desk.dial(false.getsockname()[1])
    for _ in range(2):
        one, _ = false.accept()
        with one:
            one.settimeout(DEADLINE)
            said = b""
            while len(said) < GREETING:
                said += one.recv(GREETING)
            one.sendall(bytes(lines.ANSWER))
            with contextlib.suppress(ConnectionResetError):
                assert one.recv(1) == b""
    assert not worker.poll()
    false.close()


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (Ready(5, 1, "cpu", {}, None, 0.0), "Ready of another worker"),
        (EpochResult(8, 1, 1, {"val_loss": 0.0}), "trial 8, which it was not given"),
        (
            TrialEnd(7, 1, EndKind.FINISHED, weights="/etc/passwd"),
            "weights outside its trial's folder: /etc/passwd",
        ),
        (
            TrialEnd(7, 1, EndKind.FINISHED, weights="/runs/7/../../etc/passwd"),
            "weights outside its trial's folder",
        ),
    ],
    ids=["another worker", "another trial", "other files", "dots"],
)
def test_a_worker_that_speaks_for_others_is_hung_up_on(desk: Desk, message: FromWorker, words: str) -> None:
    worker = desk.met()
    desk.executor.send(0, TrialRun("s", 7, 1, {}, SPEC, "/runs/7"))
    worker.send(message)
    desk.until(lambda: bool(desk.heard))
    (left,) = desk.heard
    assert isinstance(left, WorkerExit)
    assert words in left.reason
    assert not left.blameless


def test_a_worker_that_sends_too_much_at_once_is_hung_up_on(desk: Desk) -> None:
    """It has the token and a place; what it says beforehand is all that the driver ever holds of it."""
    desk.start()
    key = read_token(desk.executor.token_file).key
    with desk.connect() as one:
        greeted = greeting(key)
        one.sendall(greeted)
        desk.until(lambda: bool(select.select([one], [], [], 0)[0]), "no answer")
        channel = answered(key, greeted, one.recv(lines.ANSWER))
        one.sendall(channel.seal(Kind.ENTER, lines.Entry("", "x", 0, __version__).body()))
        desk.until(lambda: desk.executor.remotes[0].has_entered, "it does not enter")
        one.sendall((lines.MOST + 1).to_bytes(4, "big") + bytes(1000))
        desk.reads(one)
    assert desk.executor.remotes[0].connection is None


def test_every_message_arrives_once_over_a_hundred_cuts(desk: Desk) -> None:
    """Both talk all the time while their connection is cut."""
    desk.start()
    proxy = Proxy(f"postgresql://{desk.executor.address}/x")
    worker = desk.dial(proxy.port)
    desk.until(worker.poll, "no setup")
    worker.recv()
    desk.executor.send(0, TrialRun("s", 7, 1, {}, SPEC, "/runs/7"))
    sent, answers = 0, []
    for cut in range(100):
        for _ in range(5):
            sent += 1
            worker.send(EpochResult(7, 1, sent, {"val_loss": 0.0}))
            desk.executor.send(0, Decision(7, sent, Action.CONTINUE))
        proxy.cut()
        proxy.mend()
        if cut % 2:  # every other cut hits while the worker dials again
            desk.until(lambda: len(desk.heard) == sent, "a message is lost")  # noqa: B023
        while worker.poll():
            answers.append(worker.recv())
    desk.until(lambda: len(desk.heard) == sent, "a message is lost")
    while len(answers) < sent + 1:
        desk.until(worker.poll, "a decision is lost")
        answers.append(worker.recv())
    assert [m.epoch for m in desk.heard] == list(range(1, sent + 1))
    assert [m.epoch for m in answers[1:]] == list(range(1, sent + 1))
    proxy.cut()


def test_a_connection_that_stands_still_is_replaced(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody hangs up, nothing comes: as when a switch has lost its mind."""
    for module in (dial, dialing):
        monkeypatch.setattr(module, "SILENCE", 1.0)
        monkeypatch.setattr(module, "BEAT_EVERY", 0.2)
    desk.start()
    proxy = Proxy(f"postgresql://{desk.executor.address}/x")
    worker = desk.dial(proxy.port)
    desk.until(worker.poll, "no setup")
    worker.recv()
    remote = desk.executor.remotes[0]
    proxy.freeze()
    desk.until(lambda: remote.connection is None, "it still counts as connected")
    assert remote.silent
    proxy.cut()
    proxy.mend()
    proxy.thaw()
    desk.until(lambda: remote.connection is not None, "it does not dial again")
    desk.carries(worker)
    proxy.cut()


def test_a_worker_that_does_not_come_back_is_given_up(tmp_path: Path) -> None:
    desk = Desk(DialExecutor(RunFolder(tmp_path, "s"), Cluster(reconnect=0.5)), tmp_path)
    proxy_desk = desk.executor
    desk.start()
    proxy = Proxy(f"postgresql://{proxy_desk.address}/x")
    worker = desk.dial(proxy.port)
    desk.until(worker.poll, "no setup")
    worker.recv()
    proxy.cut()
    desk.until(lambda: bool(desk.heard))
    assert desk.heard == [WorkerExit(0, "could not be reached for 0.5 s")]
    assert desk.left.wait(DEADLINE), "the worker stays without a driver"
    assert "there is no driver" in worker.reason
    proxy_desk.close(0.0)
    worker.close(False)


def test_a_worker_leaves_at_once_when_the_token_has_gone(desk: Desk) -> None:
    """A driver removes it at its end, and that of one that was killed is removed by the next."""
    proxy = Proxy(f"postgresql://{desk.executor.address}/x")
    worker = desk.met(port=proxy.port)
    desk.executor.token_file.unlink()
    proxy.cut()
    assert desk.left.wait(DEADLINE / 3), "it waits for a driver that has ended"
    assert worker.reason == f"the driver has ended (its token {desk.executor.token_file} has gone)"


def test_who_is_not_wanted_yet_waits_and_takes_the_next_place(desk: Desk) -> None:
    first = desk.met(0)
    spare = desk.dial()
    desk.carries(first)
    assert not spare.poll()
    desk.executor.send(0, Shutdown())
    desk.until(first.poll)
    assert first.recv() == Shutdown()
    leaving = threading.Thread(target=first.close, args=(True,))
    leaving.start()
    desk.until(lambda: bool(desk.heard))
    leaving.join()
    desk.lines.remove(first)
    assert desk.heard == [WorkerExit(0, "was told to leave by a signal", blameless=True)]
    desk.start(0)
    desk.until(spare.poll, "the spare worker is not taken")


def test_the_token_is_its_owners_alone(desk: Desk) -> None:
    desk.executor.places(Workers("none", 1), 1, "time")
    path = desk.executor.token_file
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(UserError, match=r"can be read by others \(mode 640\); chmod 600 it"):
        read_token(path)
    path.chmod(0o600)
    for text in (
        "",
        "[]",
        "[" * 4000,
        '{"secret": "12", "reconnect": 1}',
        '{"secret": 5, "reconnect": 1}',
        '{"a": 1}',
    ):
        path.write_text(text)
        with pytest.raises(UserError, match="is not a token file"):
            read_token(path)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_token(path.with_name("none"))


@pytest.mark.parametrize("listen", ["300.0.0.1", "x:y:z", "no.such.host.invalid:80"])
def test_an_address_that_cannot_be_had_is_said(tmp_path: Path, listen: str) -> None:
    executor = DialExecutor(RunFolder(tmp_path, "s"), Cluster(listen=listen))
    with pytest.raises(
        UserError, match=rf'--listen "{listen}": cannot be listened on: .*; give an address of this'
    ):
        executor.listen()


@pytest.mark.parametrize("address", ["somewhere", "host:", ":80", "host:0", "host:x", "host:99999", "::1"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(UserError, match=f'--dial: "{address}" is not an address'):
        dialing.parse_address(address)


@pytest.mark.parametrize("port", ["99999", "9" * 5000, "x"])
def test_a_port_that_is_none_is_refused(tmp_path: Path, port: str) -> None:
    executor = DialExecutor(RunFolder(tmp_path, "s"), Cluster(listen=f"127.0.0.1:{port}"))
    with pytest.raises(UserError, match=r'--listen "127.0.0.1:.*": no such port .*; write HOST or'):
        executor.listen()
    with pytest.raises(UserError, match=r'--dial: "host:.*" is not an address'):
        dialing.parse_address(f"host:{port}")


def test_the_token_of_a_dead_driver_is_removed_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "s")
    code = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from hpsearch.contracts.places import Cluster\n"
        "from hpsearch.executors.dial import DialExecutor\n"
        "from hpsearch.files.run_folder import RunFolder\n"
        f"DialExecutor(RunFolder(Path({str(tmp_path)!r}), 's'), Cluster()).listen()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([*command("", tmp_path)[:2], "-c", code], check=False, timeout=60)
    (dead,) = (folder.home / "dial").iterdir()
    living = DialExecutor(folder, Cluster())
    living.listen()
    other = DialExecutor(folder, Cluster())
    other.listen()
    assert set((folder.home / "dial").iterdir()) == {living.token_file, other.token_file}
    assert not dead.exists()
    living.close(0.0)
    other.close(0.0)
    assert list((folder.home / "dial").iterdir()) == []


def test_a_frame_that_is_changed_on_the_way_is_noticed() -> None:
    key = b"k" * 32
    greeted = greeting(key)
    said, driver = lines.answer(key, greeted)
    worker = answered(key, greeted, said)
    frame = worker.seal(Kind.DATA, b"a decision")
    assert list(driver.feed(frame)) == [(Kind.DATA, b"a decision")]
    with pytest.raises(LineError, match="without its proof"):
        list(driver.feed(frame))  # the same once more
    said, driver = lines.answer(key, greeted)
    with pytest.raises(LineError, match="without its proof"):
        list(driver.feed(frame[:-1] + b"m"))
    with pytest.raises(LineError, match="not the driver"):
        answered(key, greeting(key), said)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dial", "somewhere", "--token-file", "t"], 'error: --dial: "somewhere" is not an address'),
        (
            ["--dial", "host:80", "--token-file", "none"],
            "error: --token-file: none cannot be read: No such file",
        ),
    ],
)
def test_a_worker_that_is_started_wrongly_says_so(
    flags: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["worker", *flags]) == 2
    assert words in capfd.readouterr().err


def test_what_another_version_has_written_into_the_token_is_passed_over(desk: Desk) -> None:
    desk.executor.listen()
    file = desk.executor.token_file
    known = json.loads(file.read_text())
    file.write_text(json.dumps(known | {"colour": "red"}))
    assert read_token(file).secret == known["secret"]
    file.write_text(json.dumps(known | {"certificate": 5}))
    with pytest.raises(UserError, match="is not a token file"):
        read_token(file)


def test_the_command_leads_to_the_data_from_every_folder(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk.folder)
    spec = parse_study(
        {"study": {"name": "s"}, "data": {"dataset": "folder", "root": "my pics"}, "search": {"epochs": [1]}}
    )
    desk.executor.start(WorkerPlace(0), WorkerSetup(0, spec, cache=str(desk.executor.folder.cache)))
    words = desk.executor.arguments(desk.executor.remotes[0])
    assert words[words.index("--data-root") + 1] == os.path.abspath("my pics")
    worker = desk.dial()
    desk.until(worker.poll, "no setup")
    setup = worker.recv()
    assert isinstance(setup, WorkerSetup)
    assert setup.data_root == os.path.abspath("my pics")


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_worker_that_refuses_its_driver_is_waited_for_again_where_people_start_them(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, by_hand: bool
) -> None:
    """A scheduler would start the same again and again."""
    monkeypatch.setattr(DialExecutor, "by_hand", by_hand)
    desk.start()
    desk.executor.ended(desk.executor.remotes[0], "data.root: the driver says ...")
    desk.until(lambda: bool(desk.heard), "the exit")
    left = desk.heard.pop()
    assert isinstance(left, WorkerExit)
    assert (left.reason, left.blameless) == ("left: data.root: the driver says ...", by_hand)
    assert not SlurmExecutor.by_hand
    assert not RayExecutor.by_hand


def test_a_session_takes_each_message_once_and_in_order() -> None:
    ours, theirs = lines.Session(), lines.Session()
    frames = [ours.post(text) for text in (b"one", b"two", b"three")]
    assert [theirs.take(*frame) for frame in (frames[0], frames[0])] == [b"one", None]
    with pytest.raises(LineError, match="message 3 after message 1"):
        theirs.take(*frames[2])
    ours.acknowledge(theirs.received)
    assert [theirs.take(*frame) for frame in ours.again()] == [b"two", b"three"]
    assert not ours.is_acknowledged
    ours.take(*theirs.beat())
    assert ours.is_acknowledged
    with pytest.raises(LineError, match="4 messages acknowledged, 3 were sent"):
        ours.acknowledge(4)


@pytest.mark.parametrize(
    ("gpus", "device"), [("auto", "auto"), ("all", "cuda"), ("none", "cpu")], ids=["auto", "all", "none"]
)
def test_a_worker_by_hand_uses_the_gpu_of_where_it_is_started(desk: Desk, gpus: str, device: str) -> None:
    wanted = Workers(gpus, 1)
    (place,) = desk.executor.places(wanted, 1, "time")
    options = RunOptions(executor="dial", workers=wanted)
    assert worker_setup(SPEC, options, desk.executor.folder, place).device == device


@pytest.mark.parametrize(
    ("wanted", "share", "words"),
    [
        (
            Workers("0,1"),
            "time",
            "--gpus 0,1: with --executor dial, each worker chooses its GPU by its own CUDA_",
        ),
        (
            Workers(workers_per_gpu=3),
            "time",
            "--workers-per-gpu 3: with --executor dial, each worker uses one GPU",
        ),
        (
            Workers(gpus_per_trial=2),
            "time",
            "--gpus-per-trial 2: with --executor dial, each worker uses one GPU",
        ),
        (Workers(), "nvidia-mps", "--share nvidia-mps: not with --executor dial, only with local"),
    ],
)
def test_what_workers_by_hand_cannot_do_is_refused(
    desk: Desk, wanted: Workers, share: str, words: str
) -> None:
    with pytest.raises(DeviceError) as refused:
        desk.executor.places(wanted, 1, share)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("setup", "words"),
    [
        (WorkerSetup(0, SPEC, data_root="/caf\udce9"), '--data-root: "/caf\\udce9" is not UTF-8'),
        (WorkerSetup(0, SPEC, cache="/caf\udce9"), "--run-folder: "),
        (WorkerSetup(0, SPEC, import_paths=("/caf\udce9",)), "the study's folder: "),
    ],
)
def test_a_path_that_no_message_can_carry_is_refused(desk: Desk, setup: WorkerSetup, words: str) -> None:
    with pytest.raises(UserError) as refused:
        desk.executor.start(WorkerPlace(0), setup)
    assert words in str(refused.value)


def test_a_worker_that_left_while_its_driver_was_away_is_not_to_blame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that is suspended: the system goes on taking connections for it, and nobody answers."""
    for module in (dial, dialing):
        monkeypatch.setattr(module, "SILENCE", 0.5)
    monkeypatch.setattr(dialing, "ANSWERS", 0.3)
    desk = Desk(DialExecutor(RunFolder(tmp_path, "s"), Cluster(reconnect=0.3)), tmp_path)
    worker = desk.met()
    assert desk.left.wait(DEADLINE), "the worker stays without a driver"
    desk.until(lambda: bool(desk.heard))
    assert desk.heard == [WorkerExit(0, "could not be reached for 0.3 s", blameless=True)]
    desk.executor.close(0.0)
    worker.close(False)


def test_a_hiccup_of_the_shared_file_system_costs_no_worker(desk: Desk) -> None:
    """The token can neither be read nor looked at while the worker dials again."""
    proxy = Proxy(f"postgresql://{desk.executor.address}/x")
    worker = desk.met(port=proxy.port)
    token = desk.executor.token_file
    token.rename(token.with_suffix(".away"))
    token.symlink_to(token)  # too many levels of symbolic links
    proxy.cut()
    remote = desk.executor.remotes[0]
    desk.until(lambda: remote.connection is None, "the cut is not noticed")
    proxy.mend()
    desk.until(lambda: remote.connection is not None or desk.left.is_set(), "it does not dial again")
    token.with_suffix(".away").replace(token)
    desk.carries(worker)
    proxy.cut()


def test_a_spare_worker_waits_as_long_as_there_is_a_driver(tmp_path: Path) -> None:
    class Counts(DialExecutor):
        asked = 0

        def remote_of(self, entry):
            self.asked += 1
            return super().remote_of(entry)

    executor = Counts(RunFolder(tmp_path, "s"), Cluster(reconnect=0.3))
    desk = Desk(executor, tmp_path)
    desk.met()
    spare = desk.dial()
    desk.until(lambda: executor.asked >= 7, f"it dials no more: {spare.reason}")  # over more than 0.3 s
    assert not spare.poll()
    executor.close(0.0)
    for line in desk.lines:
        line.close(False)


def test_a_worker_that_starts_after_its_driver_has_gone_leaves_at_once(desk: Desk) -> None:
    """A job that was queued when its driver was killed; the driver's machine may have been started anew."""
    desk.executor.listen()
    token = desk.executor.token_file
    os.utime(token, (0, token.stat().st_mtime - 1000))
    line = desk.dial()
    with pytest.raises(EOFError):
        line.recv()
    assert line.reason.startswith(f"the driver has gone (its token {token} is 1")
    desk.executor.receive(0.0)
    (now := token.with_name("now")).touch()
    assert now.stat().st_mtime - token.stat().st_mtime < dial.BEAT_EVERY, "the driver does not touch it"
    now.unlink()


def test_a_worker_that_nobody_answers_leaves_at_the_first_signal(tmp_path: Path) -> None:
    """The system takes the connection of a driver that is suspended."""
    token = tmp_path / "t.token"
    lines.Token(secrets.token_hex(32), 600.0).write(token)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with subprocess.Popen(
            command(address, token),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as worker:
            try:
                silent.settimeout(DEADLINE)
                one, _ = silent.accept()
                worker.terminate()
                assert worker.wait(dialing.ANSWERS / 2) == 128 + signal.SIGTERM
                one.close()
            finally:
                worker.kill()


def test_a_worker_that_is_told_to_leave_does_not_wait_long_for_its_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialing, "HURRY", 0.1)
    desk = Desk(DialExecutor(RunFolder(tmp_path, "s"), Cluster()), tmp_path)
    proxy = Proxy(f"postgresql://{desk.executor.address}/x")
    worker = desk.met(port=proxy.port)
    proxy.cut()
    leaving = threading.Thread(target=worker.close, args=(True,), daemon=True)
    leaving.start()
    leaving.join(DEADLINE)
    assert not leaving.is_alive()
    desk.executor.close(0.0)
    worker.close(False)


def test_a_worker_that_crashes_says_why_before_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site" / "torch").mkdir(parents=True)
    (tmp_path / "site" / "torch" / "__init__.py").write_text("raise RuntimeError('not this torch')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    executor = HandExecutor(RunFolder(tmp_path, "s"))
    desk = Desk(executor, tmp_path)
    desk.start()
    desk.until(lambda: bool(desk.heard))
    assert "RuntimeError: not this torch" in (executor.folder.home / "workers.log").read_text()
    executor.close(0.0)


def test_strangers_do_not_end_a_driver_that_may_open_few_files(tmp_path: Path) -> None:
    code = (
        "import resource, select, sys\n"
        "from pathlib import Path\n"
        "from hpsearch.contracts.places import Cluster\n"
        "from hpsearch.executors.dial import DialExecutor\n"
        "from hpsearch.files.run_folder import RunFolder\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 80))\n"
        f"executor = DialExecutor(RunFolder(Path({str(tmp_path)!r}), 's'), Cluster())\n"
        "print(executor.address, *resource.getrlimit(resource.RLIMIT_NOFILE), flush=True)\n"
        "while not select.select([sys.stdin], [], [], 0)[0]:\n"
        "    executor.receive(0.05)\n"
    )
    with (
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as driver,
        contextlib.ExitStack() as strangers,
    ):
        assert driver.stdout is not None
        address, *limits = driver.stdout.readline().split()
        assert limits == ["80", "80"], "as many as the system allows"
        crowd = [
            strangers.enter_context(socket.create_connection(dialing.parse_address(address), DEADLINE))
            for _ in range(120)
        ]
        assert crowd[0].recv(1) == b"", "the oldest are hung up on"
        driver.communicate("", timeout=DEADLINE)
    assert driver.returncode == 0
