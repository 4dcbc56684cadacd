"""A broker from docker/kafka/<region>.properties, and the topics it is to hold."""

import base64
import logging
import os
import shutil
import subprocess
from pathlib import Path

from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from . import paths
from .ports import HOST, Ports
from .process import Process
from .wait import wait_until

WEEK_MS = 7 * 24 * 3600 * 1000

_quiet = logging.getLogger("antipode.librdkafka")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


def java(main: str, args: list, heap_mb: int, jit: str) -> list:
    """A command line. jit "c1" starts sooner and spends less on compiling, for short runs on few cores; "full" is
    Java's default, for benches."""
    flags = ["-Xms64m", f"-Xmx{heap_mb}m", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-Xshare:auto"]
    if jit == "c1":
        flags.append("-XX:TieredStopAtLevel=1")
    home = paths.DOCKER / "kafka"
    return ["java", *flags, f"-Dlog4j2.configurationFile={home}/log4j2.properties",
            "-cp", f"{paths.dependency('kafka')}/libs/*", main, *args]


def render(template: Path, out: Path, overrides: dict) -> Path:
    """The template with the overrides after it: the last line of a key counts."""
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{key} = {value}\n" for key, value in overrides.items())
    out.write_text(template.read_text() + "\n# ---- this run\n" + lines)
    return out


class Broker:
    """data_dir is the broker's own. overrides are properties of the broker."""

    def __init__(self, region: str, ports: Ports, data_dir: Path, run_dir: Path, log_dir: Path,
                 detached: bool = False, jit: str = "c1", heap_mb: int = 512, overrides: dict | None = None):
        self.region = region
        self.ports = ports
        self.data_dir = data_dir
        self.properties = run_dir / f"{region}-kafka.properties"
        self.overrides = {
            "listeners": f"PLAINTEXT://{HOST}:{ports.kafka},WAN://{HOST}:{ports.wan},CONTROLLER://{HOST}:{ports.controller}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{ports.kafka},WAN://{HOST}:{ports.wan_advertised}",
            "controller.quorum.voters": f"{self.node_id}@{HOST}:{ports.controller}",
            "log.dirs": data_dir,
            **(overrides or {}),
        }
        self.jit = jit
        self.log_dir = log_dir
        self.process = Process(f"{region}-kafka", java("kafka.Kafka", [self.properties], heap_mb, jit), run_dir,
                               log_dir / f"{region}-kafka.log", detached=detached, cwd=paths.ROOT)
        self._format: subprocess.Popen | None = None
        self._admin: AdminClient | None = None
        self._asks: Producer | None = None

    @property
    def template(self) -> Path:
        return paths.DOCKER / "kafka" / f"{self.region}.properties"

    @property
    def node_id(self) -> int:
        line = next(l for l in self.template.read_text().splitlines() if l.startswith("node.id"))
        return int(line.partition("=")[2])

    @property
    def bootstrap(self) -> str:
        return self.ports.bootstrap

    # ---- life ----------------------------------------------------------------------------------------------

    def begin_format(self) -> "Broker":
        """Formats the storage unless it is; several brokers do so side by side, start() waits for it."""
        render(self.template, self.properties, self.overrides)
        if not (self.data_dir / "meta.properties").exists():
            self.data_dir.mkdir(parents=True, exist_ok=True)
            self.log_dir.mkdir(parents=True, exist_ok=True)
            cluster = "A" + base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")[1:]  # no dash in front
            with open(self.log_dir / f"{self.region}-kafka-format.log", "wb") as log:
                self._format = subprocess.Popen(
                    java("kafka.tools.StorageTool", ["format", "-t", cluster, "-c", self.properties], 128, "c1"),
                    stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=paths.ROOT)
        return self

    def start(self) -> "Broker":
        """Returns before it is ready."""
        if self._format is None:
            self.begin_format()
        if self._format is not None:
            if self._format.wait(300):
                raise RuntimeError(f"formatting {self.data_dir} failed:\n"
                                   + (self.log_dir / f"{self.region}-kafka-format.log").read_text()[-2000:])
            self._format = None
        self._admin = None
        self.process.start()
        return self

    def ready(self) -> bool:
        self.process.check()
        return bool(self.admin.list_topics(timeout=1).brokers)

    def wait_ready(self, deadline_s: float = 60) -> "Broker":
        wait_until(self.ready, deadline_s, f"Kafka of {self.region} answers on {self.bootstrap}")
        return self

    def stop(self, deadline_s: float = 20) -> None:
        self._asks = None
        self.process.stop(deadline_s)

    def kill(self) -> None:
        self.process.kill()

    def restart(self) -> "Broker":
        self.stop()
        return self.start().wait_ready()

    def wipe(self) -> None:
        """A lost disk: the next start is another cluster with other ids."""
        shutil.rmtree(self.data_dir, ignore_errors=True)

    # ---- topics --------------------------------------------------------------------------------------------

    @property
    def admin(self) -> AdminClient:
        if self._admin is None:
            self._admin = admin(self.bootstrap)
        return self._admin

    def create_topics(self, topics: dict[str, tuple[int, dict]]) -> None:
        """name: (partitions, configuration). Those that exist are left as they are. Returns when all can be used."""
        create_topics(self.admin, topics)
        everything = {TopicPartition(name, p): OffsetSpec.latest() for name, (n, _) in topics.items() for p in range(n)}

        def usable():
            """A partition that has just been made answers "not leader" for a moment; and a client that has heard of its
            leader before the broker itself keeps asking with that epoch, so the next try is another client's."""
            try:
                return all(f.result(20).offset >= 0 for f in self.admin.list_offsets(everything).values())
            except KafkaException:
                self._admin = None
                raise

        wait_until(usable, 40, f"the topics of {self.region} have leaders")

    def warm_up(self) -> None:
        """Has the broker fetch its first block of producer ids from the controller. Who asks first is told to come back
        after half a second; this is who asks, and does not wait."""
        self._asks = Producer({"bootstrap.servers": self.bootstrap, "enable.idempotence": True, "log_level": 0},
                              logger=_quiet)

    def end_offsets(self, topic: str) -> dict[int, int]:
        partitions = self.admin.list_topics(topic, timeout=60).topics[topic].partitions
        asked = self.admin.list_offsets({TopicPartition(topic, p): OffsetSpec.latest() for p in partitions})
        return {tp.partition: f.result(60).offset for tp, f in asked.items()}


def admin(bootstrap: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap, "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 100,
                        "socket.timeout.ms": 10000, "log_level": 0}, logger=_quiet)


def create_topics(client: AdminClient, topics: dict[str, tuple[int, dict]]) -> None:
    asked = client.create_topics(
        [NewTopic(name, num_partitions=n, replication_factor=1, config=config) for name, (n, config) in topics.items()],
        operation_timeout=20)
    for name, future in asked.items():
        try:
            future.result(30)
        except KafkaException as e:
            if e.args[0].name() != "TOPIC_ALREADY_EXISTS":
                raise RuntimeError(f"topic {name}: {e.args[0].str()}") from e


def region_topics(region: str, regions: list[str], partitions: int = 4, retention_ms: int = WEEK_MS,
                  more: tuple[str, ...] = ()) -> dict[str, tuple[int, dict]]:
    """What a region's Kafka holds: its own topics, and those into which MirrorMaker copies the other regions'.

    Mutations are never compacted: that makes holes in the positions, and a patch would erase its upsert. more names
    further mutation topics.
    """
    by_time = {"cleanup.policy": "delete", "retention.ms": str(retention_ms), "retention.bytes": "-1"}
    compacted = {"cleanup.policy": "compact"}
    crossing = {name: (partitions, by_time) for name in ("vec-mutations", *more)}
    crossing |= {"vec-control": (1, compacted), "vec-watermarks": (1, compacted)}
    topics = dict(crossing) | {"raw-vectors": (partitions, by_time), "dlq-mutations": (4, by_time)}
    for other in regions:
        if other != region:
            topics |= {f"{other}.{name}": what for name, what in crossing.items()}
    return topics
