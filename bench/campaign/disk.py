"""Small disks under the stores, so that one can be full while the rest of the machine is not.

Each is a tmpfs of SIZE_BYTES, mounted where the store's folder is to be, and named after the process that wanted it: what a
campaign that died has left behind is taken away by the next one. Mounting needs root; where it is refused there is no small
disk, and the fault "full disk" uses the bound of the store's file instead.
"""
from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from pathlib import Path

from harness import paths
from harness.process import Process, start_ticks
from harness.wait import wait_until

SIZE_BYTES = 1 << 30  # more than a store has after an hour; takes memory only as far as it is used
OWNER = "antipode-campaign"
BALLAST = "ballast"


def mount(folder: Path) -> bool:
    """False where this may not be done. The folder's files, if any, are hidden until unmount()."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{OWNER}:{os.getpid()}:{start_ticks(os.getpid())}"
    asked = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES},mode=0750", name, folder]
    try:
        return subprocess.run(asked, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def unmount(folder: Path) -> None:
    """What lies there is gone. Nobody may use it any more; who still does, while ending, is waited for."""
    if is_small(folder):
        wait_until(lambda: subprocess.run(["umount", folder], capture_output=True).returncode == 0, 30, f"{folder} can be unmounted", every_s=0.1)


def is_small(folder: Path) -> bool:
    return folder.is_mount()


def fill(folder: Path) -> int:
    """Leaves no byte. Returns how many were free."""
    file = os.open(folder / BALLAST, os.O_WRONLY | os.O_CREAT, 0o600)
    taken, step = 0, SIZE_BYTES
    try:
        while step >= 4096:
            try:
                os.posix_fallocate(file, taken, step)
                taken += step
            except OSError as e:
                if e.errno != errno.ENOSPC:
                    raise
                step //= 2
    finally:
        os.close(file)
    return taken


def make_room(folder: Path) -> None:
    (folder / BALLAST).unlink(missing_ok=True)


def clear_left(under: Path = paths.STATE) -> list[Path]:
    """Unmounts what campaigns that are no more have left in this checkout, after killing what they left running on it."""
    out = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        name, where = line.split(" ")[:2]
        folder = Path(where.encode().decode("unicode_escape"))
        if not name.startswith(OWNER + ":") or not folder.is_relative_to(under) or _lives(name):
            continue
        for pid_file in (folder.parents[2] / "run").glob("*.json"):  # <campaign>/data/<region>/store
            with contextlib.suppress(ValueError, KeyError):
                Process.attach(pid_file).kill()
        unmount(folder)
        out.append(folder)
    return out


def _lives(name: str) -> bool:
    _, pid, ticks = name.split(":")
    return str(start_ticks(int(pid))) == ticks
