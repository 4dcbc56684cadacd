"""All engines, one after the other, each with the machine to itself; then Antipode, and the ratios that are wanted of it."""
from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np
from harness import paths
from kit import say, unit, write_truth

from . import antipode, weaviate
from .measure import K

IN_PYTHON = {"faiss": "FAISS", "hnswlib": "hnswlib", "usearch": "usearch", "pgvector": "PostgreSQL with pgvector"}
NAMES = [*IN_PYTHON, "weaviate"]
NOT_BUILT = "not built: ./dev deps weaviate takes some minutes"
MEASURE = Path(__file__).with_name("measure.py")


def prepare(folder: Path, data, limit: int | None = None) -> tuple[dict, Path, int]:
    """Rows (at most `limit`) and questions of unit length, and for each question the ids of the nearest by exact cosine."""
    out = {}
    for name, path in data.items():
        out[name] = folder / f"peers-{name}.npy"
        np.save(out[name], unit(np.load(path)[:limit if name == "base" else None]))
    base, queries = np.load(out["base"]), np.load(out["queries"])
    return out, write_truth(folder / "peers-truth.npy", base, queries, K), len(base)


def install(what: str) -> str | None:
    """None when it is there, else the reason why not."""
    done = subprocess.run([paths.ROOT / "dev", "deps", what], stderr=subprocess.PIPE, text=True)
    return None if done.returncode == 0 else " ".join(done.stderr.strip().splitlines()[-3:])[-300:]


def default() -> list[str]:
    """All that installs in a minute; and what takes longer, where somebody has built it."""
    where = subprocess.run([paths.ROOT / "dev", "path", "weaviate"], capture_output=True, text=True, check=True).stdout.strip()
    return [*IN_PYTHON, *(["weaviate"] if Path(where).is_dir() else [])]


def in_python(engine: str, folder: Path, data, truth: Path, count: int, clients: int) -> dict:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    done = subprocess.run([paths.dependency("peers") / "bin/python", MEASURE, engine, "--base", data["base"], "--queries", data["queries"], "--truth", truth,
                           "--count", str(count), "--clients", str(clients), "--folder", folder / f"peers-{engine}"], capture_output=True, text=True, env=env)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it ended without a word"])[-1])
    return json.loads(done.stdout)


class Others:
    """The engines beside Antipode, and then Antipode beside them. Peers that are not in `wanted` are named as not asked for."""

    def __init__(self, folder: Path, data, wanted: set[str], count: int, limit: int | None = None, clients: int = 8):
        self.folder, self.data, self.wanted, self.count, self.limit, self.clients = folder, data, wanted, count, limit, clients
        self.engines: list[dict] = []
        self.took_s = 0.0

    def measure(self) -> None:
        """Installs what is missing, which is not counted, and measures one after the other."""
        why = {what: install(what) for what in ("peers", "weaviate") if self.wanted & set(IN_PYTHON if what == "peers" else ("weaviate",))}
        start = time.monotonic()
        self.data, self.truth, self.rows = prepare(self.folder, self.data, self.limit)
        for engine in NAMES:
            self.engines.append(self.one(engine, why))
            say(f"  {self.engines[-1]}")
        self.took_s = time.monotonic() - start

    def one(self, engine: str, why: dict[str, str | None]) -> dict:
        name = IN_PYTHON.get(engine, "Weaviate")
        if engine not in self.wanted:
            return {"name": name, "not_run": NOT_BUILT if engine == "weaviate" and "weaviate" not in default() else f"not asked for (--peers {engine})"}
        if why["weaviate" if engine == "weaviate" else "peers"]:
            return {"name": name, "not_run": why["weaviate" if engine == "weaviate" else "peers"]}
        try:
            if engine == "weaviate":
                return weaviate.measure(paths.dependency("weaviate"), self.folder / "peers-weaviate", self.data, self.truth, self.rows, self.count, self.clients)
            return in_python(engine, self.folder, self.data, self.truth, self.count, self.clients)
        except Exception as e:  # noqa: BLE001 - whatever it is, it is the reason, and the others are still to be measured
            return {"name": name, "not_run": " ".join(str(e).split())[-300:]}

    def beside(self, world) -> dict:
        ours = antipode.measure(world, self.data, self.truth, self.count, self.clients)
        return {"clients": self.clients, "rows": self.rows, "engines": [ours, *self.engines],
                "ratios": ratios(ours, {e["name"]: e for e in self.engines}, self.clients), "took_before_s": self.took_s}


def ratios(ours: dict, peers: dict, clients: int) -> dict:
    """Antipode's throughput without HTTP against FAISS's in process, and its load rate against each peer's."""
    out: dict = {"load_rate_of": {n: round(ours["per_second"] / p["per_second"], 1) for n, p in peers.items() if "per_second" in p}}
    for floor, at in ours["at"].items():
        faiss = peers["FAISS"].get("at", {}).get(floor)
        if at and faiss:
            out[f"throughput_of_faiss_at_{floor}"] = round(at["per_second_without_http"] / faiss[f"per_second_{clients}_clients"], 3)
            out[f"p50_of_faiss_at_{floor}"] = round(at["p50_ms"] / faiss["p50_ms"], 2)
    return out
