"""Distance between regions: the TCP delay line in tests/delayline, one line before each region's WAN listener."""

import json
import socket
from pathlib import Path

from . import paths
from .ports import HOST, Ports, free_port, is_free
from .process import Process
from .wait import wait_until


class DelayLine:
    """Lines by region. A region's wan_advertised port must differ from its wan port: the line stands between them.

    region "*" means all. Delays are one-way, in ms: a round trip takes in_ms + out_ms.
    """

    def __init__(self, regions: dict[str, Ports], run_dir: Path, log_dir: Path, detached: bool = False):
        self.control = free_port()
        argv = [paths.binary("antipode-delayline"), "--control", self.control]
        for region, ports in regions.items():
            argv += ["--line", f"{region}={ports.wan_advertised}:{ports.wan}"]
        self.process = Process("delayline", argv, run_dir, log_dir / "delayline.log", detached=detached)

    def start(self) -> "DelayLine":
        self.process.start()

        def listens():
            self.process.check()
            return not is_free(self.control)

        wait_until(listens, 10, "the delay line listens")
        return self

    def stop(self) -> None:
        self.process.stop()

    def _ask(self, command: str) -> str:
        with socket.create_connection((HOST, self.control), 5) as s:
            s.sendall(command.encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                more = s.recv(65536)
                if not more:
                    break
                answer += more
        text = answer.decode().strip()
        if text.startswith("error") or not text:
            raise RuntimeError(f"{command}: {text or 'no answer'}")
        return text

    def set(self, region: str = "*", **values: float) -> None:
        """in_ms, out_ms, jitter_ms, bytes_per_s (0: no limit), stalled, refusing; the others keep theirs."""
        self._ask(f"set {region} " + " ".join(f"{k}={float(v):g}" for k, v in values.items()))

    def distance(self, one_way_ms: float, jitter_ms: float = 0, region: str = "*") -> None:
        self.set(region, in_ms=one_way_ms, out_ms=one_way_ms, jitter_ms=jitter_ms)

    def stall(self, region: str = "*") -> None:
        """Connections stay, nothing moves."""
        self.set(region, stalled=1)

    def resume(self, region: str = "*") -> None:
        self.set(region, stalled=0)

    def cut(self, region: str = "*") -> None:
        """Resets the connections there are; new ones are let in."""
        self._ask(f"cut {region}")

    def part(self, region: str = "*") -> None:
        """A partition: connections reset, new ones refused."""
        self.set(region, refusing=1)
        self.cut(region)

    def heal(self, region: str = "*") -> None:
        self.set(region, refusing=0, stalled=0)

    def show(self) -> dict:
        """By region: open, connections, bytes_in (to the region), bytes_out (from it), stalled, refusing."""
        return json.loads(self._ask("show"))
