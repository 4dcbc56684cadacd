"""What is done to every engine that Python drives: load, find the effort for a recall, then time one client and several.

    python bench/peers/measure.py ENGINE --base base.npy --queries queries.npy --truth truth.npy [--count N] [--clients 8]

Runs in the peers' environment (./dev deps peers), one process an engine, so that memory is its own. Prints one JSON object.
"""
from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

K = 10
EFFORTS = (10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 1000)
FLOORS = (0.95, 0.99)


def tune(recall_at, floors=FLOORS, efforts=EFFORTS) -> dict[float, int | None]:
    """The smallest effort whose recall reaches each floor; recall rises with effort, so it is searched by halves. None: not even the last."""
    known: dict[int, float] = {}

    def recall(i: int) -> float:
        if i not in known:
            known[i] = recall_at(efforts[i])
        return known[i]

    out = {}
    for floor in floors:
        low, high = 0, len(efforts) - 1
        if recall(high) < floor:
            out[floor] = None
            continue
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if recall(middle) >= floor else (middle + 1, high)
        out[floor] = efforts[low]
    return out


def recall_of(answers: list, truth: np.ndarray) -> float:
    return sum(len(set(map(int, a)) & set(t)) for a, t in zip(answers, truth[:len(answers)].tolist())) / (K * len(answers))


def percentile(ms: list[float], p: float) -> float:
    return round(float(np.percentile(ms, p)), 3)


class Engine:
    """What an engine has to say. ask(i) answers question i with its ids; it may be called by several threads at once."""

    name = version = setup = durability = ""

    def load(self, base: np.ndarray) -> None: ...
    def set_effort(self, effort: int) -> None: ...
    def ask(self, i: int): ...
    def memory(self) -> int: ...

    def one_client(self, count: int, questions: int) -> tuple[list[float], list]:
        ms, answers = [], []
        for i in range(-50, count):
            start = time.perf_counter()
            ids = self.ask(i % questions)
            if i >= 0:
                ms.append((time.perf_counter() - start) * 1e3)
                answers.append(ids)
        return ms, answers

    def throughput(self, clients: int, count: int, questions: int) -> float:
        """Questions a second that so many threads get answered, each asking one at a time."""
        gate, left = threading.Barrier(clients + 1), count // clients

        def client(at: int) -> None:
            gate.wait()
            for i in range(left):
                self.ask((at + i * clients) % questions)

        threads = [threading.Thread(target=client, args=(c,)) for c in range(clients)]
        for t in threads:
            t.start()
        gate.wait()
        start = time.perf_counter()
        for t in threads:
            t.join()
        return left * clients / (time.perf_counter() - start)


def run(engine: Engine, base: np.ndarray, questions: int, truth: np.ndarray, count: int, clients: int) -> dict:
    before, start = engine.memory(), time.perf_counter()
    engine.load(base)
    took = time.perf_counter() - start
    memory = engine.memory() - before
    out = {"name": engine.name, "version": engine.version, "setup": engine.setup, "durability": engine.durability, "rows": len(base),
           "load_s": round(took, 2), "per_second": round(len(base) / took), "memory_bytes_a_vector": round(memory / len(base)), "at": {}}

    def recall_at(effort: int) -> float:
        engine.set_effort(effort)
        return recall_of([engine.ask(i) for i in range(min(count, questions))], truth)

    for floor, effort in tune(recall_at).items():
        if effort is None:
            out["at"][str(floor)] = None
            continue
        engine.set_effort(effort)
        ms, answers = engine.one_client(count, questions)
        out["at"][str(floor)] = {"effort": effort, "recall_at_10": round(recall_of(answers[:questions], truth), 4), "p50_ms": percentile(ms, 50), "p99_ms": percentile(ms, 99),
                                 f"per_second_{clients}_clients": round(engine.throughput(clients, count * 2, questions))}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine")
    for name in ("base", "queries", "truth"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--folder", help="for an engine that has files")
    args = parser.parse_args()
    base, queries, truth = (np.load(getattr(args, n)) for n in ("base", "queries", "truth"))
    from peers import inprocess, pgvector
    engines = {"faiss": inprocess.Faiss, "hnswlib": inprocess.Hnswlib, "usearch": inprocess.Usearch, "pgvector": pgvector.Pgvector}
    engine = engines[args.engine](queries, args)
    try:
        print(json.dumps(run(engine, base, len(queries), truth.astype(int), args.count, args.clients)))
    finally:
        engine.close()


if __name__ == "__main__":
    main()
