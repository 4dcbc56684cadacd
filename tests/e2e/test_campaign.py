"""The fault campaign: two minutes of it, and with -m long ten minutes in three regions, and with each protection switched off.

AP_SEED=n repeats a run's dice; the clients' timing is never the same twice.
"""
from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from bench.campaign import disk, faults, history, report, token  # noqa: E402
from bench.campaign.run import Campaign, Plan  # noqa: E402
from harness import paths  # noqa: E402


def campaign(name: str, **plan) -> tuple[dict, Path]:
    seed = int(os.environ.get("AP_SEED", time.time_ns() % 1_000_000_000))
    folder = paths.STATE / "tests" / f"campaign-{name}"
    made = Campaign(Plan(seed, folder=folder, **plan)).run()
    print(f"AP_SEED={seed}\n{report.markdown(made)}")
    return made, folder


def passed(made: dict, folder: Path) -> None:
    assert made["recovered_from_all"], f"{folder}: {[f for f in made['kinds'].items() if f[1].get('not_recovered')]}"
    assert made["ok"], f"{folder}/report.md: {json.dumps(made['verdict']['examples'], indent=1)}"
    shutil.rmtree(folder)


@pytest.mark.timeout(1200)
def test_two_minutes_of_faults(request):
    made, folder = campaign("short", minutes=8, faults=9, regions=("eu", "us"))
    assert made["faults"] >= 9
    counts = made["verdict"]["counts"]
    assert counts["points acknowledged"] > 3000 and counts["session reads that had to show something"] > 300 and counts["reads after a visible write"] > 50
    assert counts["strong reads that had to show something"] > 20 and counts["bounded reads that had to show something"] > 20
    did = {(op["op"], "matched" in op) for op in history.read(folder / "history.jsonl") if op["t"] == "op" and op["outcome"] == "ok"}
    assert {("patch", False), ("patch", True), ("delete", True)} <= did
    # What the judge reads out of the daemons' tokens is what they are: regions, and times that are now.
    given = [op for op in history.read(folder / "history.jsonl") if op["t"] == "op" and op.get("token")]
    assert all(token.parse(op["token"]).region == op["region"] and token.parse(op["token"]).entries for op in given)
    passed(made, folder)


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_ten_minutes_in_three_regions():
    passed(*campaign("long", minutes=10))


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("mounts", (True, False))
def test_a_full_disk_stops_the_consumer_and_costs_nothing(mounts, monkeypatch):
    if not mounts:  # as when nobody is root
        monkeypatch.setattr(disk, "mount", lambda folder: False)
    made, folder = campaign(f"full-{mounts}", minutes=2, faults=2, regions=("eu", "us"), only=("full disk",))
    proofs = [line["proof"] for line in history.read(folder / "history.jsonl") if line["t"] == "fault"]
    assert len(proofs) == 2 and all(p["exit"] == 1 and "Make room on the disk" in p["noticed"] for p in proofs)
    assert not any(disk.is_small(f) for f in folder.glob("data/*/store"))
    passed(made, folder)


# protection -> (what is then found at least, by which faults)
PLANTED = {
    "no_version_check": ({"lost", "resurrected", "unequal"}, ("partition all ways", "narrow link")),
    "no_key_versions": ({"key"}, ("partition all ways",)),
    "no_tombstones": ({"resurrected"}, ("partition all ways", "stalled link")),
    "no_positions": ({"session"}, ("records out of order",)),
    "no_offset_in_transaction": ({"lost", "unequal", "hole"}, ("consumer dies between commits",)),
    "no_token_wait": ({"session"}, ("narrow link",)),
    "no_barrier": ({"strong", "bounded"}, ("narrow link", "partition all ways")),
    "collect_early": ({"resurrected"}, ("partition all ways",)),
}
SETTLE_S = {"no_token_wait": 120}  # the probes' reads do not wait either, so what piled up at the links comes only in the end
OPTIONS = {"collect_early": {"tombstones.check_ms": 100}}  # how often tombstones are looked at; a campaign lasts a minute


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("protection", PLANTED)
def test_a_protection_that_is_switched_off_is_noticed(protection):
    found, kinds = PLANTED[protection]
    assert set(kinds) <= {f.name for f in faults.FAULTS}
    made, folder = campaign(protection, minutes=1, faults=4, regions=("eu", "us"), only=kinds, unsafe=protection, recover_s=40, settle_s=SETTLE_S.get(protection, 10),
                            consumer=OPTIONS.get(protection, {}))
    assert not made["verdict"]["ok"]
    assert found & set(made["verdict"]["violations"]), f"{folder}: {made['verdict']['violations']}"
    shutil.rmtree(folder)
