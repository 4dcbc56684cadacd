"""MirrorMaker 2 beside its target region, from docker/mirrormaker/<region>.properties."""

from pathlib import Path

from . import paths
from .kafka import Broker, java, render
from .ports import Ports
from .process import Process


class Mirror:
    """Brings the topics of sources (region name to its ports) to the target's Kafka, through their WAN listeners."""

    def __init__(self, target: str, ports: Ports, sources: dict[str, Ports], run_dir: Path, log_dir: Path,
                 detached: bool = False, jit: str = "c1", heap_mb: int = 384, overrides: dict | None = None):
        self.target = target
        self.sources = list(sources)
        self.properties = run_dir / f"{target}-mirror.properties"
        self.overrides = {
            "clusters": ", ".join([target, *sources]),
            f"{target}.bootstrap.servers": ports.bootstrap,
            **{f"{name}.bootstrap.servers": theirs.wan_bootstrap for name, theirs in sources.items()},
            **(overrides or {}),
        }
        argv = java("org.apache.kafka.connect.mirror.MirrorMaker", [self.properties, "--clusters", target], heap_mb, jit)
        self.process = Process(f"{target}-mirror", argv, run_dir, log_dir / f"{target}-mirror.log", detached=detached,
                               cwd=paths.ROOT)

    @property
    def template(self) -> Path:
        return paths.DOCKER / "mirrormaker" / f"{self.target}.properties"

    def start(self) -> "Mirror":
        """Returns at once. Whether it mirrors is seen only in the topics."""
        render(self.template, self.properties, self.overrides)
        self.process.start()
        return self

    def stop(self, deadline_s: float = 20) -> None:
        self.process.stop(deadline_s)

    def kill(self) -> None:
        self.process.kill()


def second_copy(source: Broker, target: Broker, topic: str) -> int:
    """Mirrors source's topic once more into its copy at target, from its start, as after a reset of MirrorMaker's
    offsets: same partition, key, bytes, timestamp and headers. Returns how many records that were."""
    from confluent_kafka import Consumer, Producer, TopicPartition

    ends = source.end_offsets(topic)
    reader = Consumer({"bootstrap.servers": source.bootstrap, "group.id": "second-copy", "enable.auto.commit": False,
                       "enable.partition.eof": False})
    writer = Producer({"bootstrap.servers": target.bootstrap, "acks": "all", "linger.ms": 5})
    reader.assign([TopicPartition(topic, p, 0) for p in ends])
    left = {p: end for p, end in ends.items() if end > 0}
    count = 0
    while left:
        for message in reader.consume(1000, timeout=10):
            if message.error():
                raise RuntimeError(message.error().str())
            p, end = message.partition(), ends[message.partition()]
            if message.offset() < end:
                writer.produce(f"{source.region}.{topic}", message.value(), message.key(), p, headers=message.headers(),
                               timestamp=message.timestamp()[1])
                writer.poll(0)
                count += 1
            if message.offset() >= end - 1:
                left.pop(p, None)
    writer.flush(30)
    reader.close()
    return count
