"""python -m harness demo|start|stop|status|logs|bench: what ./dev calls."""

import argparse
import collections
import json
import os
import sys
import time

from . import paths
from .ports import FIXED, PortInUse
from .region import running, stop_all, stopwatch
from .wait import Late, Hopeless


def stop(_args) -> int:
    processes = running()
    if not processes:
        print("nothing runs")
        return 0
    took = stopwatch()
    stop_all(processes)
    print(f"stopped {len(processes)} processes in {took():.1f} s; the data stays in {paths.DATA.relative_to(paths.ROOT)}")
    return 0


def _daemon_state(name: str) -> tuple[str, str]:
    """(address, state) of what listens under a documented address."""
    from .daemon import http
    region, _, role = name.partition("-")
    ports = FIXED.get(region)
    if not ports:
        return "", ""
    if role == "kafka":
        return ports.bootstrap, ""
    if role not in ("producer", "consumer", "indexer"):
        return "", ""
    url = ports.url(role)
    try:
        return url, "ready" if http.get(url + "/readyz", timeout=1).status_code == 200 else "not ready"
    except Exception:  # noqa: BLE001
        return url, "does not answer"


def status(args) -> int:
    rows = []
    for process in running():
        address, state = _daemon_state(process.name)
        rows.append({"name": process.name, "pid": process.pid, "up_s": round(process.age_seconds()),
                     "pss_mb": round(process.pss_bytes() / 1e6), "address": address, "state": state})
    if args.json:
        print(json.dumps(rows, indent=1))
    elif not rows:
        print("nothing runs; ./dev demo starts two regions anew, ./dev start those of before")
    else:
        print(f"{'name':<14}{'pid':>8}{'up':>8}{'MB':>6}  address")
        for r in rows:
            print(f"{r['name']:<14}{r['pid']:>8}{r['up_s']:>6} s{r['pss_mb']:>6}  {r['address']:<24}{r['state']}")
    if rows and not args.json and (paths.ROOT / "build/release/bin/antipode").exists():
        print()
        sys.stdout.flush()
        os.system(f"'{paths.ROOT}/build/release/bin/antipode' lag 2>&1")
    return 0 if rows else 1


def logs(args) -> int:
    files = sorted(paths.LOGS.glob(f"*{args.name}*.log" if args.name else "*.log"))
    if not files:
        print(f"no log matches {args.name!r} in {paths.LOGS}", file=sys.stderr)
        return 1
    for file in files:
        with open(file, errors="replace") as f:
            last = collections.deque(f, args.lines)
        if len(files) > 1:
            print(f"==> {file.relative_to(paths.ROOT)}")
        sys.stdout.writelines(last)
    if args.follow:
        os.execvp("tail", ["tail", "-n", "0", "-F", *map(str, files)])
    return 0


def start(_args) -> int:
    from . import demo as demo_
    return demo_.again()


def demo(args) -> int:
    from . import demo as demo_
    return demo_.main(args.rest) or 0


def bench(args) -> int:
    if args.rest[:1] == ["campaign"]:
        os.chdir(paths.ROOT)
        os.execv(sys.executable, [sys.executable, "-m", "bench.campaign", *args.rest[1:]])
    run = paths.ROOT / "bench" / "run.py"
    os.execv(sys.executable, [sys.executable, str(run), *args.rest])


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("start").set_defaults(run=start)
    commands.add_parser("stop").set_defaults(run=stop)
    p = commands.add_parser("status")
    p.add_argument("--json", action="store_true")
    p.set_defaults(run=status)
    p = commands.add_parser("logs")
    p.add_argument("name", nargs="?")
    p.add_argument("-n", "--lines", type=int, default=20)
    p.add_argument("-f", "--follow", action="store_true")
    p.set_defaults(run=logs)
    for name, run in (("demo", demo), ("bench", bench)):
        p = commands.add_parser(name, add_help=False)
        p.add_argument("rest", nargs=argparse.REMAINDER)
        p.set_defaults(run=run)
    args, extra = parser.parse_known_args()
    if extra:
        if not hasattr(args, "rest"):
            parser.error(f"unknown: {' '.join(extra)}")
        args.rest = extra + args.rest
    try:
        rc = args.run(args)
        sys.stdout.flush()
        return rc
    except BrokenPipeError:  # ./dev logs | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (PortInUse, Late, Hopeless) as e:
        print(f"{e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
