"""Who a driver is, and whether its process still lives: told from any process of the same machine."""

import os
import platform
import subprocess
import uuid
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class DriverIdentity:
    """One driver process.

    Attributes:
        host: Hostname, boot and process namespace: containers may share hostnames and have equal process ids.
        started: The process's start in the system's own words, since process ids are used again.
    """

    host: str
    pid: int
    started: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    @classmethod
    def here(cls) -> "DriverIdentity":
        """Returns a new identity for this process."""
        return cls(host=host_identity(), pid=os.getpid(), started=process_start(os.getpid()) or "")

    def is_dead(self) -> bool:
        """Tells whether the process is surely gone; of another machine's process it cannot be known."""
        return self.host == host_identity() and not process_lives(self.pid, self.started)


class DriverState(StrEnum):
    """What is known of a driver."""

    ALIVE = "alive"
    STALE = "stale"  # silent for longer than its leases last
    DEAD = "dead"  # of this machine, and its process is gone


@dataclass(frozen=True, slots=True)
class DriverRow:
    """A driver as `hpsearch status` shows it; `devices` and `workers` are JSON, `silence` is in seconds."""

    identity: DriverIdentity
    devices: str
    workers: str
    seen: float
    silence: float
    state: DriverState


def driver_row(
    driver: DriverIdentity, devices: str, workers: str, seen: float, now: float, lease_seconds: float
) -> DriverRow:
    """Returns what is known of a driver at a time."""
    silence = max(0.0, now - seen)
    state = DriverState.STALE if silence > lease_seconds else DriverState.ALIVE
    return DriverRow(driver, devices, workers, seen, silence, DriverState.DEAD if driver.is_dead() else state)


@cache
def host_identity() -> str:
    """Returns what is common to the processes that see this machine's process ids, at most 255 characters."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:  # not Linux, or /proc is hidden
        boot, namespace = f"{uuid.getnode():x}", ""
    return f"{platform.node()[:150]}/{boot}/{namespace}"


def process_lives(pid: int, started: str) -> bool:
    """Tells whether process `pid` runs and is the one that started at `started` ("" when unknown)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it runs, as another user
    now = process_start(pid)
    if now is None:
        return False
    return not (now and started) or now == started


def process_start(pid: int) -> str | None:
    """Returns when a process started, "" when that cannot be known, None when it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() else _start_by_ps(pid)
    except ProcessLookupError:
        return None
    except OSError:
        return ""
    # The name in brackets may hold anything; proc(5) counts fields from 1: state is 3, starttime 22.
    fields = stat.rpartition(")")[2].split()
    state, started = fields[0], fields[19]
    return None if state in "ZX" else started


def _start_by_ps(pid: int) -> str | None:
    try:
        shown = subprocess.run(
            ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return " ".join(shown.stdout.split()) or None
