"""The addresses of a region, and whether they are free."""

import dataclasses
import random
import re
import socket
from pathlib import Path

HOST = "127.0.0.1"


@dataclasses.dataclass(frozen=True)
class Ports:
    """kafka: clients at home; wan: the WAN listener; wan_advertised: where the others reach it, equal to wan unless a
    delay line stands in front; the rest by name."""

    kafka: int
    wan: int
    controller: int
    producer: int
    indexer: int
    consumer: int
    wan_advertised: int = 0

    def __post_init__(self):
        if not self.wan_advertised:
            object.__setattr__(self, "wan_advertised", self.wan)

    @property
    def bootstrap(self) -> str:
        return f"{HOST}:{self.kafka}"

    @property
    def wan_bootstrap(self) -> str:
        return f"{HOST}:{self.wan_advertised}"

    def url(self, role: str) -> str:
        return f"http://{HOST}:{getattr(self, role)}"

    def named(self) -> dict[str, int]:
        names = {
            "kafka": "Kafka",
            "wan": "Kafka's WAN listener",
            "controller": "Kafka's controller",
            "producer": "the producer",
            "indexer": "the indexer",
            "consumer": "the consumer's metrics",
        }
        if self.wan_advertised != self.wan:
            names["wan_advertised"] = "the delay line"
        return {label: getattr(self, field) for field, label in names.items()}


FIXED = {
    region: Ports(
        kafka=10000 * n + 9092, wan=10000 * n + 9095, controller=10000 * n + 9093,
        producer=8100 + n, indexer=8200 + n, consumer=8300 + n,
    )
    for n, region in enumerate(("eu", "us", "ap"), start=1)
}


def is_free(port: int) -> bool:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((HOST, port))
        except OSError:
            return False
    return True


_mine: list[socket.socket] = []


def _reserve(port: int) -> bool:
    """Whether the port is ours from now on, among all tests on this machine: by a name that only one process can bind, and
    that is free again when the process ends."""
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0antipode-port-{port}")
    except OSError:
        name.close()
        return False
    _mine.append(name)
    return True


def free_port() -> int:
    """A port that nobody listens on nor means to, below the range the system takes outgoing connections' ports from."""
    while True:
        port = random.SystemRandom().randrange(11000, 18900)
        if is_free(port) and _reserve(port):
            return port


def free_ports() -> Ports:
    return Ports(*(free_port() for _ in range(6)))


def who_listens(port: int) -> str:
    """The name and pid of the process that listens on port, as far as we may see it."""
    inode = None
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            field = line.split()
            if field[3] == "0A" and int(field[1].rsplit(":", 1)[1], 16) == port:
                inode = field[9]
    if inode:
        for fd in Path("/proc").glob("[0-9]*/fd/*"):
            try:
                if fd.readlink().name == f"socket:[{inode}]":
                    pid = fd.parts[2]
                    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    command = re.sub(r" -(cp \S+|[XD]\S+)", "", command).strip()[:100]  # of Java, only the class
                    return f"process {pid} ({command})"
            except OSError:
                continue
    return "another process"


class PortInUse(RuntimeError):
    pass


def require_free(regions: dict[str, Ports]) -> None:
    """Raises PortInUse naming every port that is taken, what we want it for and who has it."""
    taken = [
        f"port {port} ({label} of {region}) is in use by {who_listens(port)}"
        for region, ports in regions.items()
        for label, port in ports.named().items()
        if not is_free(port)
    ]
    if taken:
        raise PortInUse("\n".join(taken))
