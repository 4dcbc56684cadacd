"""The table of a run, as the README shows it: ./dev bench --table RESULT.json, or at the end of ./dev bench --only peers."""
from __future__ import annotations

import json
import sys
from pathlib import Path


def cell(at: dict | None, clients: int) -> list[str]:
    if not at:
        return ["not reached", "", ""]
    return [f"{at['p50_ms']:.2f} / {at['p99_ms']:.2f} ({at['recall_at_10']:.3f})", f"{at[f'per_second_{clients}_clients']:,}"]


def markdown(result: dict) -> str:
    """result: what run() gave, or the whole object of ./dev bench with it under "peers"."""
    result = result.get("peers", result)
    clients = result["clients"]
    lines = [f"| | load, vectors/s until all are found | p50 / p99 ms at recall ≥ .95 (had) | questions/s, {clients} clients | p50 / p99 ms at recall ≥ .99 (had) | questions/s, {clients} clients "
             "| bytes a vector in memory |", "| --- | --- | --- | --- | --- | --- | --- |"]
    missing = []
    for e in result["engines"]:
        if "not_run" in e:
            missing.append(f"{e['name']}: {e['not_run']}")
            continue
        row = [f"{e['name']} {e.get('version', '')}".strip(), f"{e['per_second']:,}"]
        for floor in ("0.95", "0.99"):
            row += cell(e["at"].get(floor), clients)[:2]
        lines.append("| " + " | ".join([*row, f"{e['memory_bytes_a_vector']:,}"]) + " |")
    lines += ["", *(f"{e['name']}: {e['setup']}; {e['durability']}." for e in result["engines"] if "not_run" not in e)]
    lines += [f"Not run: {m}." for m in missing]
    return "\n".join(lines)


def of_file(path: str) -> str:
    try:
        result = json.loads(Path(path).read_text())
        return markdown(result)
    except (OSError, ValueError, KeyError, TypeError) as e:
        print(f"{path} is no result of ./dev bench with peers in it: {e!r}", file=sys.stderr)
        sys.exit(2)
