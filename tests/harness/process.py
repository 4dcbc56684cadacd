"""One child process: started, watched, stopped. It has a log file, and a pid file by which another run finds it."""

import ctypes
import json
import os
import signal
import subprocess
import time
from pathlib import Path

from .wait import Hopeless, Late, wait_until

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def _die_with_parent():
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot: with the pid, its identity. None if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


class Process:
    """name is unique within run_dir. detached: it outlives us (the demo); else it dies with us (tests)."""

    def __init__(self, name: str, argv: list, run_dir: Path, log: Path, env: dict | None = None,
                 detached: bool = False, cwd: Path | None = None):
        self.name = name
        self.argv = [str(a) for a in argv]
        self.run_dir = run_dir
        self.log = log
        self.env = env or {}
        self.detached = detached
        self.cwd = cwd
        self.pid: int | None = None
        self._ticks: int | None = None
        self._child: subprocess.Popen | None = None
        self._log_from = 0

    # ---- found again ---------------------------------------------------------------------------------------

    @property
    def pid_file(self) -> Path:
        return self.run_dir / f"{self.name}.json"

    @classmethod
    def attach(cls, pid_file: Path) -> "Process":
        """The process that another run started, alive or not."""
        was = json.loads(pid_file.read_text())
        process = cls(was["name"], was["argv"], pid_file.parent, Path(was["log"]), detached=True)
        process.pid, process._ticks = was["pid"], was["ticks"]
        return process

    # ---- life ----------------------------------------------------------------------------------------------

    def start(self) -> "Process":
        """Returns at once; who starts from a thread other than the main one must keep that thread."""
        if self.alive():
            raise RuntimeError(f"{self.name} runs already, as {self.pid}")
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as log:
            self._log_from = log.tell()
            self._child = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=self.cwd,
                env={**os.environ, **self.env},
                # Tests keep theirs in one session: Linux shares the cores out by sessions before threads, and on two busy
                # cores a thread of ten sessions was kept waiting for up to 280 ms. A group of its own keeps Ctrl-C away.
                start_new_session=self.detached, process_group=None if self.detached else 0,
                preexec_fn=None if self.detached else _die_with_parent,
            )
        self.pid = self._child.pid
        self._ticks = start_ticks(self.pid)
        self.pid_file.write_text(json.dumps(
            {"name": self.name, "pid": self.pid, "ticks": self._ticks, "argv": self.argv, "log": str(self.log)}))
        return self

    def alive(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        return self.pid is not None and self._ticks is not None and start_ticks(self.pid) == self._ticks

    @property
    def exit_code(self) -> int | None:
        """None while it runs, and for a process that another run started."""
        return self._child.poll() if self._child else None

    def check(self) -> None:
        """Raises Hopeless, with the end of the log, when the process has ended: for predicates of wait_until."""
        if not self.alive():
            raise Hopeless(f"{self.name} has ended ({self._exit_text()}); its log, {self.log}, ends:\n{self.tail()}")

    def _exit_text(self) -> str:
        code = self.exit_code
        return "exit unknown" if code is None else f"signal {-code}" if code < 0 else f"exit {code}"

    def signal(self, number: int) -> None:
        if self.alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass

    def wait_ended(self, deadline_s: float) -> int | None:
        wait_until(lambda: not self.alive(), deadline_s, f"{self.name} ends", every_s=0.01)
        self.pid_file.unlink(missing_ok=True)
        return self.exit_code

    def stop(self, deadline_s: float = 15) -> int | None:
        """SIGTERM, then SIGKILL after the deadline. Returns the exit code where it is known."""
        self.signal(signal.SIGTERM)
        try:
            return self.wait_ended(deadline_s)
        except Late:
            return self.kill()

    def kill(self) -> int | None:
        self.signal(signal.SIGKILL)
        return self.wait_ended(10)

    def freeze(self) -> None:
        """SIGSTOP: there, but answering nothing."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    # ---- what it says and takes ------------------------------------------------------------------------------

    def log_text(self) -> str:
        """The log since this start."""
        try:
            with open(self.log, "rb") as f:
                f.seek(self._log_from)
                return f.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.log_text().splitlines()[-lines:])

    def memory(self) -> dict[str, int]:
        """Bytes, by kind, as the kernel counts them: Pss (shared pages split among their users), Pss_Anon, Rss, …"""
        out = {}
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()[1:]:
            key, _, rest = line.partition(":")
            out[key] = int(rest.split()[0]) * 1024
        return out

    def pss_bytes(self) -> int:
        return self.memory()["Pss"]

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def age_seconds(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME) - (self._ticks or 0) / os.sysconf("SC_CLK_TCK")
