"""The test equipment itself, where a fault would make other tests lie."""

import socket
import sys

import pytest

from harness import ports
from harness.process import Process
from harness.region import running, stop_all
from harness.wait import Hopeless, Late, wait_until

SLEEP = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(60)"]
STUBBORN = [sys.executable, "-c",
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(60)"]


def test_a_taken_port_is_named_with_its_use_and_owner():
    mine = ports.free_ports()
    with socket.socket() as s:
        s.bind((ports.HOST, mine.producer))
        s.listen()
        with pytest.raises(ports.PortInUse) as e:
            ports.require_free({"eu": mine})
    text = str(e.value)
    assert f"port {mine.producer} (the producer of eu)" in text and "process " in text and "python" in text
    ports.require_free({"eu": mine})


def test_wait_until_says_what_did_not_come(monkeypatch):
    monkeypatch.setattr("harness.wait.patience", 2)
    with pytest.raises(Late, match="not within 0.1 s: rain .*division by zero"):
        wait_until(lambda: 1 / 0, 0.05, "rain")


def test_a_process_is_found_again_and_stopped(tmp_path):
    process = Process("sleeper", SLEEP, tmp_path, tmp_path / "log").start()
    wait_until(lambda: "here" in process.log_text(), 10, "it runs")
    again = Process.attach(process.pid_file)
    assert again.alive() and again.pid == process.pid
    assert process.pss_bytes() > 1_000_000
    assert process.stop() == -15
    assert not again.alive() and not process.pid_file.exists()
    with pytest.raises(Hopeless, match="sleeper has ended .signal 15.(.|\n)*here"):
        process.check()


def test_one_that_ignores_sigterm_is_killed(tmp_path):
    process = Process("stubborn", STUBBORN, tmp_path, tmp_path / "log").start()
    wait_until(lambda: "here" in process.log_text(), 10, "it runs")
    stop_all([process], deadline_s=0.3)
    assert process.exit_code == -9


def test_a_reused_pid_is_not_ours(tmp_path):
    process = Process("sleeper", SLEEP, tmp_path, tmp_path / "log").start()
    text = process.pid_file.read_text()
    assert f'"ticks": {process._ticks}' in text
    process.pid_file.write_text(text.replace(f'"ticks": {process._ticks}', '"ticks": 1'))
    assert not Process.attach(process.pid_file).alive()
    process.kill()


def test_running_forgets_what_has_ended(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.paths.RUN", tmp_path)
    process = Process("sleeper", SLEEP, tmp_path, tmp_path / "log").start()
    (tmp_path / "gone.json").write_text(
        '{"name": "gone", "pid": 1, "ticks": 1, "argv": [], "log": "/dev/null"}')
    assert [p.name for p in running()] == ["sleeper"]
    assert not (tmp_path / "gone.json").exists()
    process.kill()
