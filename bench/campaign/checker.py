"""Judges a history against the regions that made it, or against what they held when their rows were kept.

    python -m bench.campaign.checker HISTORY [--rows FILE] [--keep FILE] [--deadline SECONDS]

Needs nothing but the history and the regions' HTTP API. Prints the verdict as JSON; exit code 0: no violation, 1: some,
2: it could not be judged.
"""
from __future__ import annotations

import argparse
import json
import sys
import traceback

from . import history, rows as rows_
from .judge import judge


def check(path, rows_file=None, keep=None, deadline_s: float = 120) -> dict:
    lines = history.read(path)
    header = lines[0]
    took = None
    if rows_file:
        with open(rows_file) as f:
            rows = json.load(f)
    else:
        rows, took = rows_.settled(header["regions"], [c["name"] for c in header["collections"]], deadline_s)
    if keep:
        with open(keep, "w") as f:
            json.dump(rows, f)
    return {**judge(lines, rows), "settled_s": None if took is None else round(took, 2)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="checker", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("history")
    parser.add_argument("--rows", help="rows that --keep wrote, instead of asking the regions")
    parser.add_argument("--keep", help="write the regions' rows here")
    parser.add_argument("--deadline", type=float, default=120, help="seconds the regions may take to become equal")
    args = parser.parse_args()
    try:
        verdict = check(args.history, args.rows, args.keep, args.deadline)
    except Exception:  # noqa: BLE001 - Python's own exit code for it is 1
        traceback.print_exc()
        return 2
    print(json.dumps(verdict, indent=1))
    return 0 if verdict["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
