"""Runs commands as the image would, without Docker, in a file system of their own made of this machine's.

As in compose.yaml: user 10001 without capabilities, everything read-only but /runs and /tmp, the study files in
/studies, the secrets in /run/secrets, the users in /users, and the environment of the Dockerfile. Python and its
packages are this machine's. It needs root and the right to make mounts.
"""

import functools
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.docker.files import ROOT, image_environment

USER = 10001
AS_USER = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"]
NO_RIGHTS = ["--bounding-set=-all", "--inh-caps=-all"]

# $1 the folder with runs, studies, data, users, secrets and bin, $2 what of the root is seen, $3 "users" where they
# can be written; the command follows.
# In a mount namespace of its own.
_ENTER = r"""
here=$1; seen=$2; more=$3; shift 3
root=$here/root
mount --make-rprivate /
mount -t tmpfs -o mode=755 image "$root"
for entry in $seen; do
    if [ -L "$entry" ]; then cp -a "$entry" "$root/"; continue; fi
    if [ -d "$entry" ]; then mkdir "$root$entry" && mount --rbind "$entry" "$root$entry"; fi
done
mkdir -p "$root/image" "$root/tmp" "$root/run/secrets"
for each in runs studies data users; do mkdir "$root/$each" && mount --bind "$here/$each" "$root/$each"; done
mount --bind "$here/secrets" "$root/run/secrets"
mount --bind "$here/bin" "$root/image"
mount -t tmpfs -o mode=1777,nosuid,nodev tmp "$root/tmp"
cut -d ' ' -f 5 /proc/self/mountinfo | while read -r place; do
    case $place in
        "$root"/runs|"$root/${more:-runs}"|"$root"/tmp|"$root"/proc*|"$root"/sys*|"$root"/dev*) ;;
        "$root"|"$root"/*) mount -o remount,bind,ro "$place" ;;
    esac
done
exec chroot "$root" /usr/bin/env -i -C /studies "$@"
"""


_SYSTEM = {"/bin", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr"}


@dataclass(frozen=True)
class Image:
    """One machine's folders, and commands in them."""

    folder: Path

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    def add(self, name: str, text: str, mode: int = 0o600) -> None:
        """Puts a file into `secrets/...` or `studies/...`, owned by the image's user."""
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
        os.chown(path, USER, USER)

    def command(self, *words: object, more: str = "") -> list[str]:
        """Returns the command that runs these words as the image's user; `more`: "users" to change them."""
        environment = image_environment() | {
            "HPSEARCH_STORAGE_FILE": "/run/secrets/storage_url",
            "PATH": "/image:/usr/bin:/bin",
            "PYTHONPATH": f"{ROOT}:{sysconfig.get_paths()['purelib']}",
            "OMP_NUM_THREADS": "1",
        }
        pairs = [f"{name}={value}" for name, value in environment.items()]
        ours = {"/" + str(path).split("/")[1] for path in (ROOT, sys.prefix, sys.base_prefix)}
        seen = " ".join(_SYSTEM | ours)
        enter = ["unshare", "--mount", "sh", "-euc", _ENTER, "image", str(self.folder), seen, more]
        return [*enter, *pairs, *AS_USER, *NO_RIGHTS, *map(str, words)]

    def run(self, *words: object, more: str = "", **options: Any) -> "subprocess.CompletedProcess[str]":
        """Runs a command to its end."""
        return subprocess.run(
            self.command(*words, more=more),
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
            **options,
        )


def make_image(folder: Path) -> Image:
    """Makes the folders of an image; skips the test where commands cannot be run as in one."""
    if reason := cannot():
        pytest.skip(reason)
    for name, mode in {
        "runs": 0o755,
        "studies": 0o755,
        "data": 0o755,
        "secrets": 0o700,
        "users": 0o700,
        "bin": 0o755,
        "root": 0o755,
    }.items():
        (folder / name).mkdir()
        (folder / name).chmod(mode)
    for name in ("runs", "secrets", "users"):
        os.chown(folder / name, USER, USER)
    for name, call in {"python": f"{interpreter()}", "hpsearch": "python -m hpsearch"}.items():
        program = folder / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {call} "$@"\n', encoding="ascii")
        program.chmod(0o755)
    return Image(folder)


def interpreter() -> str | None:
    """Returns a Python of this version that the image's user may run, or None."""
    system = shutil.which(
        f"python{sys.version_info.major}.{sys.version_info.minor}", path="/usr/bin:/usr/local/bin"
    )
    probe = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {sysconfig.get_paths()['purelib']!r}]; import hpsearch, typer"
    for candidate in filter(None, (sys.executable, system)):
        # By way of a shell: setpriv keeps its rights up to its own exec.
        tried = [*AS_USER, *NO_RIGHTS, "sh", "-c", 'exec "$@"', "sh", candidate, "-c", probe]
        done = subprocess.run(tried, capture_output=True, check=False, cwd="/")
        if done.returncode == 0:
            return candidate
    return None


@functools.cache
def cannot() -> str:
    """Returns why nothing can be run as in the image here, or nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux, to become user 10001"
    if any(shutil.which(program) is None for program in ("setpriv", "unshare", "chroot")):
        return "needs setpriv, unshare and chroot"
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        return "needs the right to make mounts"
    if any(Path(path).is_relative_to("/tmp") for path in (ROOT, sys.prefix)):
        return "the repository or Python lies below /tmp, which is another one in the image"
    if interpreter() is None:
        return f"user 10001 may not read {sys.prefix} or {ROOT}"
    return ""
