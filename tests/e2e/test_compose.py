"""compose.yaml and the files under docker/: they parse, name only what exists, and agree with the documented ports.

No container engine is needed; none is asked.
"""

import re

import pytest
import yaml

from harness import paths
from harness.kafka import region_topics
from harness.ports import FIXED

COMPOSE = paths.DOCKER / "compose.yaml"


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load(COMPOSE.read_text())


def properties(file):
    pairs = (line.partition("=") for line in file.read_text().splitlines() if line.strip() and not line.startswith("#"))
    return {key.strip(): value.strip() for key, _, value in pairs}


def test_every_file_named_exists(compose):
    for name, service in compose["services"].items():
        build = service["build"]
        context = (paths.DOCKER / build["context"]).resolve()
        assert context == paths.ROOT, name
        assert (context / build["dockerfile"]).is_file(), name
        for volume in service.get("volumes", []):
            source, target, *_ = volume.split(":")
            if source.startswith("."):
                assert (paths.DOCKER / source).is_file(), f"{name}: {volume}"
                assert target == f"/antipode/{(paths.DOCKER / source).resolve().relative_to(paths.ROOT)}"
            else:
                assert source in compose["volumes"], f"{name}: {volume}"
        for word in service["command"]:
            if "/" in word:
                assert (paths.ROOT / word).is_file(), f"{name}: {word}"
        for other in service.get("depends_on", {}):
            assert other in compose["services"], f"{name}: {other}"


def test_dockerfiles_copy_what_exists():
    for dockerfile in paths.DOCKER.glob("*/Dockerfile"):
        for line in dockerfile.read_text().splitlines():
            if line.startswith("COPY ") and "--from" not in line:
                for source in line.split()[1:-1]:
                    assert (paths.ROOT / source).exists(), f"{dockerfile.name}: {line}"


@pytest.mark.parametrize("region", FIXED)
def test_ports_are_the_documented_ones(compose, region):
    ports = FIXED[region]
    kafka = properties(paths.DOCKER / "kafka" / f"{region}.properties")
    assert kafka["listeners"] == (f"PLAINTEXT://127.0.0.1:{ports.kafka},WAN://127.0.0.1:{ports.wan},"
                                  f"CONTROLLER://127.0.0.1:{ports.controller}")
    assert kafka["controller.quorum.voters"] == f"{kafka['node.id']}@127.0.0.1:{ports.controller}"
    mirror = properties(paths.DOCKER / "mirrormaker" / f"{region}.properties")
    for other in FIXED:
        home = other == region
        assert mirror[f"{other}.bootstrap.servers"] == (FIXED[other].bootstrap if home else FIXED[other].wan_bootstrap)
    checks = {"kafka": ports.kafka, "producer": ports.producer, "consumer": ports.consumer, "indexer": ports.indexer}
    for role, port in checks.items():
        service = compose["services"][f"{region}-{role}"]
        assert f"/127.0.0.1/{port}" in service["healthcheck"]["test"][-1]
    for role in ("producer", "consumer", "indexer"):
        conf = properties(paths.DOCKER / "antipode" / region / f"{role}.conf")
        assert conf["http.listen"] == f"127.0.0.1:{getattr(ports, role)}"
        assert conf["kafka.bootstrap.servers"] == ports.bootstrap
        assert conf["region"] == region


@pytest.mark.parametrize("region", FIXED)
def test_regions_are_the_same_in_all_files(compose, region):
    regions = properties(paths.DOCKER / "mirrormaker" / f"{region}.properties")["clusters"].replace(" ", "")
    assert compose["services"][f"{region}-topics"]["command"] == ["topics", region, regions]
    for role in ("producer", "consumer", "indexer"):
        assert properties(paths.DOCKER / "antipode" / region / f"{role}.conf")["regions"] == regions


def test_topics_of_the_container_are_those_of_the_harness():
    script = (paths.DOCKER / "kafka" / "run.sh").read_text()
    made = dict(re.findall(r'make "?(?:\$\{prefix\})?([a-z-]+)"? (\d+)', script))
    wanted = {name: str(n) for name, (n, _) in region_topics("eu", ["eu"]).items()}
    assert made == wanted
