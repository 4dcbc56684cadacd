"""One of our daemons, started from docker/antipode/<region>/<role>.conf with flags on top."""

from pathlib import Path

import requests

from . import paths
from .ports import HOST
from .process import Process
from .wait import wait_until

# Without these, Python's requests would ask a proxy for 127.0.0.1.
http = requests.Session()
http.trust_env = False


class Daemon:
    """role: producer, consumer, indexer. overrides are keys of the configuration; "kafka.x" goes to librdkafka.

    wrapper goes before the command, as ["strace", "-f"]; preset chooses the build.
    """

    def __init__(self, role: str, region: str, port: int, overrides: dict, run_dir: Path, log_dir: Path,
                 detached: bool = False, env: dict | None = None, wrapper: list | None = None,
                 preset: str | None = None, name: str | None = None):
        self.role = role
        self.region = region
        self.url = f"http://{HOST}:{port}"
        self.preset = preset
        self.wrapper = list(wrapper or [])
        self.overrides = {"http.listen": f"{HOST}:{port}", **overrides}
        name = name or f"{region}-{role}"
        self.process = Process(name, [], run_dir, log_dir / f"{name}.log", env=env, detached=detached, cwd=paths.ROOT)

    @property
    def config(self) -> Path:
        return paths.DOCKER / "antipode" / self.region / f"{self.role}.conf"

    def command(self) -> list[str]:
        argv = [*self.wrapper, paths.binary(f"antipode-{self.role}", self.preset), "--config", self.config]
        for key, value in self.overrides.items():
            if key.startswith("kafka."):
                argv += ["-X", f"{key[6:]}={value}"]
            else:
                argv += [f"--{key}", value]
        return [str(a) for a in argv]

    # ---- life ----------------------------------------------------------------------------------------------

    def start(self, **overrides) -> "Daemon":
        """Returns at once. Further overrides (dots as __) stay for later starts."""
        self.overrides |= {key.replace("__", "."): value for key, value in overrides.items()}
        self.process.argv = self.command()
        self.process.start()
        return self

    def stop(self, deadline_s: float = 15) -> int | None:
        return self.process.stop(deadline_s)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()

    def restart(self, deadline_s: float = 30) -> "Daemon":
        self.stop()
        return self.start().wait_healthy(deadline_s)

    def alive(self) -> bool:
        return self.process.alive()

    # ---- what it says ----------------------------------------------------------------------------------------

    def answers(self, path: str) -> bool:
        self.process.check()
        return http.get(self.url + path, timeout=5).status_code == 200

    def wait_healthy(self, deadline_s: float = 30) -> "Daemon":
        wait_until(lambda: self.answers("/healthz"), deadline_s, f"{self.process.name} answers {self.url}/healthz")
        return self

    def wait_ready(self, deadline_s: float = 60) -> "Daemon":
        wait_until(lambda: self.answers("/readyz"), deadline_s, f"{self.process.name} is ready ({self.url}/readyz)")
        return self

    def metrics(self) -> dict[str, float]:
        """Every sample by its full name: metrics()['antipode_holes{origin="eu"}']."""
        out = {}
        for line in http.get(self.url + "/metrics", timeout=60).text.splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                out[name] = float(value)
        return out

    def metric(self, name: str, **labels: str) -> float:
        """The sum over all samples of that name that carry these labels; 0 when there are none."""
        wanted = [f'{k}="{v}"' for k, v in labels.items()]
        return sum(value for key, value in self.metrics().items()
                   if key.partition("{")[0] == name and all(w in key for w in wanted))

    def pss_bytes(self) -> int:
        return self.process.pss_bytes()
