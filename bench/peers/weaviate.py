"""Weaviate as a server of its own, driven over gRPC by weaviate/main.go; its settings over REST, where alone they can be changed."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from harness.api import Api
from harness.ports import free_port
from harness.process import Process
from harness.wait import wait_until

from .measure import tune

VERSION = "1.34.8"
CLASS = "Peers"


def settings(folder: Path, ports: list[int]) -> dict[str, str]:
    return {"PERSISTENCE_DATA_PATH": str(folder / "data"), "AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": "true", "DEFAULT_VECTORIZER_MODULE": "none",
            "DISABLE_TELEMETRY": "true", "GO_PROFILING_DISABLE": "true", "CLUSTER_HOSTNAME": "node1", "CLUSTER_ADVERTISE_ADDR": "127.0.0.1",
            "GRPC_PORT": str(ports[1]), "CLUSTER_GOSSIP_BIND_PORT": str(ports[2]), "CLUSTER_DATA_BIND_PORT": str(ports[3]),
            "RAFT_PORT": str(ports[4]), "RAFT_INTERNAL_RPC_PORT": str(ports[5]), "RAFT_BOOTSTRAP_EXPECT": "1", "LOG_LEVEL": "warning"}


def measure(installed: Path, folder: Path, data, truth: Path, rows: int, count: int, clients: int) -> dict:
    shutil.rmtree(folder, ignore_errors=True)
    ports = [free_port() for _ in range(6)]
    url, grpc = f"http://127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}"
    server = Process("weaviate", [installed / "bin/weaviate-server", "--host", "127.0.0.1", "--port", ports[0], "--scheme", "http"], folder / "run",
                     folder / "log", settings(folder, ports))

    def client(what: str, *args) -> dict:
        done = subprocess.run([installed / "bin/weaviate", what, "--grpc", grpc, "--class", CLASS, *map(str, args)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"weaviate {what}: {done.stderr.strip()[-400:]}")
        return json.loads(done.stdout)

    def up() -> bool:
        server.check()
        return Api(url, 5).request("GET", "/v1/.well-known/ready")[0] == 200

    def ask(n: int, at_once: int = 1) -> dict:
        return client("query", "--queries", data["queries"], "--truth", truth, "--count", n, "--clients", at_once)

    server.start()
    try:
        wait_until(up, 60, "Weaviate is ready")
        api = Api(url)
        status, text = api.request("POST", "/v1/schema", {"class": CLASS, "vectorizer": "none", "vectorIndexType": "hnsw", "vectorIndexConfig": {"distance": "cosine"}})
        if status != 200:
            raise RuntimeError(f"Weaviate refuses the collection: {text[:300]}")
        made = json.loads(api.request("GET", f"/v1/schema/{CLASS}")[1])
        index = made["vectorIndexConfig"]
        before = server.pss_bytes()
        took = client("load", "--npy", data["base"], "--clients", os.cpu_count() or 1)["seconds"]
        memory = server.pss_bytes() - before
        out = {"name": "Weaviate", "version": VERSION,
               "setup": f"gRPC, batches of 256, HNSW of {index['maxConnections']} links built with effort {index['efConstruction']} (defaults), float32",
               "durability": "written to its log, not synced (default), one node", "rows": rows, "load_s": round(took, 2), "per_second": round(rows / took),
               "memory_bytes_a_vector": round(memory / rows), "at": {}}

        def set_effort(effort: int) -> None:
            made["vectorIndexConfig"]["ef"] = effort
            status, text = api.request("PUT", f"/v1/schema/{CLASS}", made)
            if status != 200:
                raise RuntimeError(f"Weaviate refuses ef {effort}: {text[:300]}")

        def recall_at(effort: int) -> float:
            set_effort(effort)
            return ask(min(count, 1000))["recall_at_10"]

        for floor, effort in tune(recall_at).items():
            if effort is None:
                out["at"][str(floor)] = None
                continue
            set_effort(effort)
            one, many = ask(count), ask(count // 2, clients)
            out["at"][str(floor)] = {"effort": effort, "recall_at_10": round(one["recall_at_10"], 4), "p50_ms": round(one["p50_ms"], 3),
                                     "p99_ms": round(one["p99_ms"], 3), f"per_second_{clients}_clients": round(many["per_second"])}
        return out
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
