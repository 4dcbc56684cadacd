"""The small disks of the fault campaign: they fill to the last byte, and none is left behind."""
from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from bench.campaign import disk  # noqa: E402
from harness.process import start_ticks  # noqa: E402

SIZE = 8 << 20


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "SIZE_BYTES", SIZE)
    folder = tmp_path / "campaign" / "data" / "eu" / "store"
    if not disk.mount(folder):
        pytest.skip("a tmpfs may not be mounted here")
    yield folder
    subprocess.run(["umount", folder], capture_output=True)


def test_a_full_disk_has_no_byte_left_until_there_is_room_again(store):
    file = store / "data.mdb"
    file.write_bytes(bytes(4096))
    assert SIZE // 2 < disk.fill(store) < SIZE
    for size in (4097, 8192):
        with pytest.raises(OSError) as failed:
            with open(file, "r+b", buffering=0) as f:
                os.pwrite(f.fileno(), bytes(4096), size)
        assert failed.value.errno == errno.ENOSPC
    file.write_bytes(bytes(4096))  # what it has is its own
    disk.make_room(store)
    file.write_bytes(bytes(1 << 20))
    disk.unmount(store)
    assert not disk.is_small(store) and not any(store.iterdir())
    disk.unmount(store)


def test_what_a_dead_campaign_left_is_unmounted_and_what_another_one_uses_is_not(store, tmp_path):
    assert disk.clear_left(tmp_path) == [] and disk.is_small(store)
    dead = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    name = f"{disk.OWNER}:{dead.pid}:{start_ticks(dead.pid)}"
    dead.communicate()
    left = tmp_path / "campaign" / "data" / "us" / "store"
    left.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", name, left], check=True)
    (left / "data.mdb").write_bytes(b"x")
    holder = left_running(tmp_path / "campaign" / "run", left / "data.mdb")
    try:
        assert disk.clear_left(tmp_path / "elsewhere") == []
        assert disk.clear_left(tmp_path) == [left]
        assert not disk.is_small(left) and disk.is_small(store) and holder.wait(10) == -9
    finally:
        holder.kill()
        subprocess.run(["umount", left], capture_output=True)


def left_running(run_dir: Path, file: Path) -> subprocess.Popen:
    """A process that has a file open, with the pid file that a daemon has."""
    with open(file) as f:
        child = subprocess.Popen(["tail", "-f", "/dev/null"], stdin=f)
    run_dir.mkdir()
    was = {"name": "us-consumer", "pid": child.pid, "ticks": start_ticks(child.pid), "argv": ["tail"], "log": str(run_dir / "log")}
    (run_dir / "us-consumer.json").write_text(json.dumps(was))
    return child
