"""The streaming protocol of the NeurIPS'23 big-ann track as a workload: a runbook of insert, delete, replace and search steps.

One region writes, over HTTP; at each search step both are asked, as soon as they show all that was written before it, and recall@10 is against
the exact nearest among the rows alive at that moment. Runbooks have the track's YAML format:

    DATASET:
      max_pts: 60000
      1: {operation: insert, start: 0, end: 4000}                                 # ids are row numbers; end is not among them
      2: {operation: delete, start: 0, end: 1000}
      3: {operation: replace, tags_start: 1000, tags_end: 1100, ids_start: 50000, ids_end: 50100}   # from now on id 1000 has row 50000's vector
      4: {operation: search}

Without --runbook one is made: the rows are put in the order of clusters, so that what is asked for drifts away from what indexes and codecs
were built on; each cluster's first half is inserted, then each one's second half while a part of its first is deleted, with a search after each.
"""
from __future__ import annotations

import json
from pathlib import Path
import time

import numpy as np
import yaml
from harness.api import Api
from kit import create, refuse, say, tool, unit, write_truth

K = 10
DELETED_AT_ONCE = 10_000
FIELDS = {"insert": ("start", "end"), "delete": ("start", "end"), "replace": ("tags_start", "tags_end", "ids_start", "ids_end"), "search": ()}


def check(file: str, number: int, step: dict, rows: int) -> dict:
    where = f"{file}, step {number}"
    if not isinstance(step, dict) or step.get("operation") not in FIELDS:
        refuse(f"{where}: operation is one of {', '.join(FIELDS)}")
    for field in FIELDS[step["operation"]]:
        value = step.get(field)
        if not isinstance(value, int) or not 0 <= value <= rows:
            refuse(f"{where}: {field} is a number from 0 to {rows}, the rows of the data")
    for prefix in {f.rsplit("start", 1)[0] for f in FIELDS[step["operation"]] if f.endswith("start")}:
        if step[f"{prefix}start"] >= step[f"{prefix}end"]:
            refuse(f"{where}: {prefix}start is not below {prefix}end")
    if step["operation"] == "replace" and step["tags_end"] - step["tags_start"] != step["ids_end"] - step["ids_start"]:
        refuse(f"{where}: as many tags as ids")
    return step


def read_runbook(file: str, dataset: str, rows: int) -> list[dict]:
    """The steps of one dataset, in their order; exit code 2 with what is wrong."""
    try:
        found = yaml.safe_load(Path(file).read_text())
    except (OSError, yaml.YAMLError) as e:
        refuse(f"{file} cannot be read as a runbook: {e}")
    if not isinstance(found, dict) or not isinstance(found.get(dataset), dict):
        refuse(f"{file} has no dataset {dataset!r}; it has {', '.join(map(str, found)) if isinstance(found, dict) else 'none'}")
    book = found[dataset]
    steps = []
    while len(steps) + 1 in book:
        steps.append(check(file, len(steps) + 1, book[len(steps) + 1], rows))
    if not any(s["operation"] == "search" for s in steps):
        refuse(f"{file}: {dataset} never searches")
    return steps


def in_clusters(rows: np.ndarray, clusters: int) -> tuple[np.ndarray, list[int]]:
    """The rows, those of one cluster after those of another (k-means, a few rounds), and where each cluster begins."""
    rng = np.random.default_rng(5)
    sample = rows[rng.permutation(len(rows))[:10_000]]
    centers = sample[:clusters].copy()
    for _ in range(8):
        nearest = np.argmax(sample @ centers.T, axis=1)
        for c in range(clusters):
            if (nearest == c).any():
                mean = sample[nearest == c].mean(axis=0)
                centers[c] = mean / np.linalg.norm(mean)
    nearest = np.argmax(rows @ centers.T, axis=1)
    order = np.argsort(nearest, kind="stable")
    return np.ascontiguousarray(rows[order]), [int(np.searchsorted(nearest[order], c)) for c in range(clusters)] + [len(rows)]


def make_runbook(bounds: list[int]) -> dict:
    steps: list[dict] = []
    halves = [(a, (a + b) // 2, b) for a, b in zip(bounds, bounds[1:]) if b - a > 3]
    for start, middle, _ in halves:
        steps += [{"operation": "insert", "start": start, "end": middle}, {"operation": "search"}]
    for start, middle, end in halves:
        steps += [{"operation": "insert", "start": middle, "end": end}, {"operation": "delete", "start": start, "end": start + (middle - start) // 2 + 1},
                  {"operation": "search"}]
    return {"max_pts": bounds[-1], **dict(enumerate(steps, 1))}


class Stream:
    """A collection, and what it should hold: row_of[id] is the row whose vector the point has, or -1."""

    def __init__(self, eu, us, name: str, base: np.ndarray, queries: Path, folder: Path):
        self.eu, self.us, self.name, self.base, self.queries, self.folder = eu, us, name, base, queries, folder
        self.asked = unit(np.load(queries))
        self.row_of = np.full(len(base), -1)
        self.tokens: list[str] = []
        self.writes, self.writing_s = 0, 0.0
        create(eu, us, name, "home")

    def write(self, method, path: str, body, headers: dict | None = None) -> None:
        api = Api(self.eu.producer.url, 600)
        start = time.monotonic()
        api.call(method, f"/collections/{self.name}/{path}", body, headers)
        self.writing_s += time.monotonic() - start
        self.tokens = [*self.tokens[-15:], api.headers["X-Antipode-Token"]]

    def put(self, first_id: int, first_row: int, count: int) -> None:
        part = self.folder / "streaming-part.npy"
        np.save(part, self.base[first_row:first_row + count])
        with open(part, "rb") as f:
            self.write("POST", f"points/bulk?first_id={first_id}", f, {"Content-Type": "application/x-npy", "Content-Length": str(part.stat().st_size)})
        self.row_of[first_id:first_id + count] = np.arange(first_row, first_row + count)
        self.writes += count

    def delete(self, start: int, end: int) -> None:
        for at in range(start, end, DELETED_AT_ONCE):
            self.write("POST", "points/delete", {"points": list(range(at, min(at + DELETED_AT_ONCE, end)))})
        self.row_of[start:end] = -1
        self.writes += end - start

    def truth(self) -> Path:
        alive = np.flatnonzero(self.row_of >= 0)
        if len(alive) < K:
            refuse(f"the runbook searches when {len(alive)} rows are alive; {K} are asked for")
        return write_truth(self.folder / "streaming-truth.npy", self.base[self.row_of[alive]], self.asked, K, alive)

    def search(self, count: int) -> dict:
        """Waits, by the tokens of what was written, until a region shows it; then asks."""
        out = {"alive": int((self.row_of >= 0).sum()), "written": self.writes, "writes_per_second": round(self.writes / self.writing_s) if self.writing_s else None}
        shown = {}
        start = time.monotonic()
        for where, region in (("home", self.eu), ("abroad", self.us)):
            Api(region.indexer.url).post(f"/collections/{self.name}/points/query?timeout=60", {"query": self.asked[0].tolist(), "limit": 1},
                                         {"X-Antipode-Token": ",".join(self.tokens)})
            shown[where] = time.monotonic() - start
        truth = self.truth()
        for where, region in (("home", self.eu), ("abroad", self.us)):
            had = tool("query", "--url", region.indexer.url, "--collection", self.name, "--queries", self.queries, "--truth", truth, "--count", count)
            out[where] = {"shown_after_ms": round(shown[where] * 1e3), "recall_at_10": had["recall_at_10"], "p50_ms": had["p50_ms"], "p99_ms": had["p99_ms"]}
        self.tokens, self.writes, self.writing_s = [], 0, 0.0
        return out


def play(eu, us, name: str, base: np.ndarray, queries: Path, steps: list[dict], folder: Path, count: int) -> dict:
    stream, searches = Stream(eu, us, f"streaming-{name}", base, queries, folder), []
    start = time.monotonic()
    for step in steps:
        match step["operation"]:
            case "insert":
                stream.put(step["start"], step["start"], step["end"] - step["start"])
            case "replace":
                stream.put(step["tags_start"], step["ids_start"], step["tags_end"] - step["tags_start"])
            case "delete":
                stream.delete(step["start"], step["end"])
            case "search":
                searches.append(stream.search(count))
    codec = any(n == "antipode_producer_codec_in_use" and labels.get("collection") == stream.name and v > 0 for n, labels, v in Api(eu.producer.url).metrics())
    return {"steps": len(steps), "codec_in_use_at_the_end": codec, "searches": len(searches), "took_s": round(time.monotonic() - start, 1),
            **{where: {"recall_at_10": round(float(np.mean([s[where]["recall_at_10"] for s in searches])), 4),
                       "worst_recall_at_10": min(s[where]["recall_at_10"] for s in searches),
                       "worst_p99_ms": max(s[where]["p99_ms"] for s in searches)} for where in ("home", "abroad")}, "each": searches}


def plan(folder: Path, datasets: dict[str, dict[str, Path]], clusters: int, runbook: str | None = None, dataset: str | None = None) -> list[tuple]:
    """What run() will play: (name, rows, file of questions, steps) of each dataset, datasets being by name what make_data() gives. A runbook
    that was made lies beside the data, as streaming-NAME.yaml, to be run again or elsewhere."""
    out = []
    for name, data in datasets.items():
        base = unit(np.load(data["base"]))
        if runbook:
            steps = read_runbook(runbook, dataset or name, len(base))
        else:
            base, bounds = in_clusters(base, clusters)
            file = folder / f"streaming-{name}.yaml"
            file.write_text(yaml.safe_dump({name: make_runbook(bounds)}, sort_keys=False))
            steps = read_runbook(str(file), name, len(base))
        out.append((name, base, data["queries"], steps))
    return out


def run(eu, us, folder: Path, plans: list[tuple], count: int) -> dict:
    out = {}
    for name, base, queries, steps in plans:
        say(f"  {name}: {len(steps)} steps over {len(base)} rows")
        out[name] = play(eu, us, name, base, queries, steps, folder, count)
        say(f"    {json.dumps({k: v for k, v in out[name].items() if k != 'each'})}")
    return out
