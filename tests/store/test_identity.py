"""A driver's process is told from others, and its end is noticed."""

import os
import signal
import subprocess
import sys

from hpsearch.store.identity import DriverIdentity, process_lives, process_start
from tests.store.scenes import elsewhere


def test_identity_tells_living_ended_and_unreaped_processes() -> None:
    me = DriverIdentity.here()
    assert not me.is_dead()
    assert DriverIdentity.here().id != me.id
    assert not elsewhere().is_dead()
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = process_start(process.pid)
    assert started
    assert process_lives(process.pid, started)
    assert process_lives(process.pid, "")
    assert not process_lives(process.pid, "another time")
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, but a zombie
    assert not process_lives(process.pid, started)
    process.communicate()
    assert not process_lives(process.pid, started)
