"""A region: its Kafka, its MirrorMaker, its three daemons. A World: several regions, and the distance between them.

    with World.for_tests(tmp, ["eu", "us"]) as world:           # free ports, dies with the test
        world.start()
        eu, us = world["eu"], world["us"]
        eu.producer.url; us.indexer.url; us.consumer.kill(); us.consumer.start()
        world.delay.distance(40)
"""

import contextlib
import dataclasses
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import paths, ports as ports_
from .daemon import Daemon
from .delay import DelayLine
from .kafka import Broker, region_topics
from .mirror import Mirror
from .ports import Ports
from .process import Process

ROLES = ("producer", "consumer", "indexer")


class Region:
    """Members: kafka (Broker), mirror (Mirror or None when alone), producer, consumer, indexer (Daemon), ports, name."""

    def __init__(self, name: str, world: "World"):
        self.name = name
        self.world = world
        self.ports = world.ports[name]
        self.data_dir = world.data_dir / name
        run, log, detached = world.run_dir, world.log_dir, world.detached
        self.kafka = Broker(name, self.ports, self.data_dir / "kafka", run, log, detached, world.jit,
                            overrides=world.overrides.get("kafka"))
        others = {other: world.ports[other] for other in world.names if other != name}
        self.mirror = Mirror(name, self.ports, others, run, log, detached, world.jit) if others else None
        self.producer = self._daemon("producer")
        self.consumer = self._daemon("consumer")
        self.indexer = self._daemon("indexer")

    def _daemon(self, role: str) -> Daemon:
        common = {"regions": ",".join(self.world.names), "kafka.bootstrap.servers": self.ports.bootstrap}
        own = {
            "producer": {"partitions": self.world.partitions, "indexer.url": self.ports.url("indexer")},
            "consumer": {"store.path": self.data_dir / "store"},
            "indexer": {"store.path": self.data_dir / "store", "index.path": self.data_dir / "index",
                        "producer.url": self.ports.url("producer"),
                        "compare.peers": ",".join(f"{n}={self.world.ports[n].url('indexer')}" for n in self.world.names if n != self.name),
                        "peers": ",".join(f"{n}={self.world.ports[n].url('producer')}" for n in self.world.names if n != self.name)},
        }[role]
        return Daemon(role, self.name, getattr(self.ports, role),
                      common | own | self.world.overrides.get(role, {}), self.world.run_dir, self.world.log_dir,
                      detached=self.world.detached, env=self.world.env)

    @property
    def daemons(self) -> list[Daemon]:
        return [self.producer, self.consumer, self.indexer]

    @property
    def bootstrap(self) -> str:
        return self.ports.bootstrap

    @property
    def store_path(self) -> Path:
        return self.data_dir / "store"

    def create_topics(self) -> None:
        self.kafka.create_topics(region_topics(self.name, self.world.names, self.world.partitions,
                                               more=self.world.more_topics))

    def pss_bytes(self) -> dict[str, int]:
        return {d.role: d.pss_bytes() for d in self.daemons if d.alive()}


@dataclasses.dataclass
class World:
    """Regions that mirror each other. Nothing runs until start().

    delayed: put a delay line before every WAN listener (world.delay); each region's wan_advertised must then differ.
    overrides: by role, keys of the daemons' configuration. preset of the binaries: ANTIPODE_PRESET.
    """

    names: list[str]
    ports: dict[str, Ports]
    data_dir: Path
    run_dir: Path
    log_dir: Path
    detached: bool = False
    partitions: int = 4
    jit: str = "c1"
    delayed: bool = False
    more_topics: tuple[str, ...] = ()
    overrides: dict[str, dict] = dataclasses.field(default_factory=dict)
    env: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self.delay = None
        if self.delayed:
            self.delay = DelayLine({n: self.ports[n] for n in self.names}, self.run_dir, self.log_dir, self.detached)
        self.regions = {name: Region(name, self) for name in self.names}

    # ---- kinds ---------------------------------------------------------------------------------------------

    @classmethod
    def fixed(cls, names: list[str] = ("eu", "us"), **more) -> "World":
        """The documented addresses, under .antipode/, outliving us: the demo."""
        return cls(list(names), {n: ports_.FIXED[n] for n in names}, paths.DATA, paths.RUN, paths.LOGS,
                   detached=True, **more)

    @classmethod
    def for_tests(cls, folder: Path, names: list[str] = ("eu", "us"), delayed: bool = False, **more) -> "World":
        """Free ports and all files under folder."""
        ports = {n: ports_.free_ports() for n in names}
        if delayed:
            ports = {n: dataclasses.replace(p, wan_advertised=ports_.free_port()) for n, p in ports.items()}
        return cls(list(names), ports, folder / "data", folder / "run", folder / "logs", delayed=delayed, **more)

    def __getitem__(self, name: str) -> Region:
        return self.regions[name]

    def __iter__(self):
        return iter(self.regions.values())

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_):
        self.stop()

    # ---- start ---------------------------------------------------------------------------------------------

    def start(self, daemons: bool = True, ready: bool = True, say=lambda text: None) -> "World":
        """Brokers, topics, MirrorMakers, daemons; waits until the daemons are healthy, and ready unless told not to.

        MirrorMaker is slowest, so it starts as soon as the topics are there, and is not waited for.
        """
        ports_.require_free({n: self.ports[n] for n in self.names})
        for region in self:
            region.kafka.begin_format()
        say(f"Kafka of {', '.join(self.names)}")
        for region in self:
            region.kafka.start()
        if self.delay:
            self.delay.start()
        for region in self:
            region.kafka.wait_ready()
            region.kafka.warm_up()
        for region in self:
            region.create_topics()
        say("MirrorMaker and daemons")
        for region in self:
            if region.mirror:
                region.mirror.start()
        if daemons:
            self.start_daemons(ready)
        return self

    def start_daemons(self, ready: bool = True) -> None:
        all_of_them = [d for region in self for d in region.daemons]
        for daemon in all_of_them:
            daemon.start()
        for daemon in all_of_them:
            daemon.wait_healthy()
        if ready:
            for daemon in all_of_them:
                daemon.wait_ready()

    # ---- stop ----------------------------------------------------------------------------------------------

    def processes(self) -> list[Process]:
        """In the order in which they are to end."""
        out = [getattr(region, role).process for role in ROLES for region in self]
        out += [region.mirror.process for region in self if region.mirror]
        out += [self.delay.process] if self.delay else []
        return out + [region.kafka.process for region in self]

    def stop(self) -> None:
        stop_all(self.processes())


ORDER = ("producer", "consumer", "indexer", "mirror", "delayline", "kafka")


def stop_all(processes: list[Process], deadline_s: float = 20) -> None:
    """Kind by kind, those of one kind side by side."""
    def kind(process: Process) -> int:
        return next((i for i, k in enumerate(ORDER) if process.name.endswith(k)), 0)

    with ThreadPoolExecutor(16) as pool:
        for level in sorted({kind(p) for p in processes}):
            list(pool.map(lambda p: p.stop(deadline_s), [p for p in processes if kind(p) == level]))


def running() -> list[Process]:
    """What demo left running, by its pid files; pid files of what has ended are removed."""
    out = []
    for pid_file in sorted(paths.RUN.glob("*.json")):
        with contextlib.suppress(ValueError, KeyError):
            process = Process.attach(pid_file)
            if process.alive():
                out.append(process)
                continue
        pid_file.unlink(missing_ok=True)
    return out


def wipe(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def stopwatch():
    """Seconds since now, as a function."""
    start = time.monotonic()
    return lambda: time.monotonic() - start
