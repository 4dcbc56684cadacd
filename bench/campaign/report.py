"""The report of a campaign: JSON, and the same as markdown."""
from __future__ import annotations

import bisect
import collections
import os
import signal
import statistics

from . import history, token

TOGETHER_MS = 120  # writes of two regions this near in time cannot have seen one another: the longest one-way delay


def leg_ms(ops: list[dict]) -> float:
    """How long a write really was on its way to the nearer of the other regions: half of what a quorum write took at the median, since the
    word that it is visible there has to come back."""
    took = [(op["end"] - op["start"]) / 1e6 for op in ops if op["op"] in history.WRITES and op["level"] == "quorum" and op.get("answer") == "completed"]
    return max(TOGETHER_MS, statistics.median(took) / 2) if took else TOGETHER_MS


def conflicts(ops: list[dict]) -> dict:
    """Of the acknowledged writes: how many went to ids that other regions write, too; how many met another region's write of
    the same id within the longest one-way delay, and within what a write really took. Writes are requests here: a batch of
    120 points is one, and in conflict when any of its points is."""
    leg = leg_ms(ops)
    by_id, writes = collections.defaultdict(list), []
    for op in ops:
        if op["op"] in history.WRITES and op["outcome"] == "ok" and op.get("token"):
            ms = token.parse(op["token"]).ms
            writes.append((ms, op))
            for point, _ in op["points"]:
                by_id[op["collection"], point].append((ms, op["region"]))
    elsewhere = {}  # (collection, id, region) -> sorted times of the other regions' writes
    for (collection, point), ones in by_id.items():
        for region in {r for _, r in ones}:
            elsewhere[collection, point, region] = sorted(ms for ms, r in ones if r != region)

    def met(ms: int, times: list[int], within: float) -> bool:
        at = bisect.bisect_left(times, ms - within)
        return at < len(times) and times[at] <= ms + within

    shared = together = crossed = 0
    for ms, op in writes:
        others = [elsewhere[op["collection"], point, op["region"]] for point, _ in op["points"]]
        shared += any(others)
        together += any(met(ms, times, TOGETHER_MS) for times in others)
        crossed += any(met(ms, times, leg) for times in others)
    share = lambda n: round(n / len(writes), 3) if writes else 0
    return {"points_acknowledged": sum(len(op["points"]) for _, op in writes), "writes": len(writes), "of_these_to_ids_of_several_regions": share(shared),
            "of_these_with_another_regions_write_within_120_ms": share(together), "ms_to_the_nearer_region": round(leg),
            "of_these_with_another_regions_write_on_its_way": share(crossed)}


def latencies(ops: list[dict]) -> dict:
    found = collections.defaultdict(list)
    for op in ops:
        if op["outcome"] == "ok":
            found[f"{op['op']} {op['level']}"].append((op["end"] - op["start"]) / 1e6)
    return {k: {"n": len(v), "p50_ms": round(statistics.median(v), 1), "p99_ms": round(sorted(v)[int(len(v) * 0.99)], 1)} for k, v in sorted(found.items())}


def kinds(faults: list[dict]) -> dict:
    out = {}
    for name in dict.fromkeys(f["kind"] for f in faults):
        all_of = [f for f in faults if f["kind"] == name]
        some = [f for f in all_of if "skipped" not in f["proof"]]
        recovers = sorted(f["recover_s"] for f in some if f["recover_s"] is not None)
        flying = sorted(f["points_in_flight"] for f in some)
        out[name] = {
            "times": len(some), "skipped": len(all_of) - len(some),
            "with_100_points_in_flight": sum(n >= 100 for n in flying), "points_in_flight_median": statistics.median(flying) if flying else 0,
            "points_during": sum(f["points_during"] for f in some), "lasted_s": round(sum(f["lasted_s"] for f in some), 1),
            "recover_p50_s": round(statistics.median(recovers), 2) if recovers else None, "recover_max_s": recovers[-1] if recovers else None,
            "not_recovered": sum(f["recover_s"] is None for f in some), **sums(some),
        }
    inside = collections.Counter(f["proof"]["inside"]["kind"] for f in faults if f["proof"].get("inside"))
    for name, n in inside.items():
        out.setdefault(name, {"times": 0})["inside_a_broken_link"] = n
    return out


def sums(faults: list[dict]) -> dict:
    """What proves that it bit, added up."""
    total = collections.Counter()
    for f in faults:
        for key in ("duplicates", "late", "missing_at_peak", "copied", "requests_failed", "records_meanwhile", "given_up", "acked_while_down", "silent_s", "bytes_passed", "connections_cut", "connections_made_anew",
                    "frozen_s", "acked_meanwhile"):
            if key in f["proof"]:
                total[key] += f["proof"][key]
        if "after_commit" in f["proof"]:
            total["killed_between_commits"] += f["proof"]["exit"] == -signal.SIGKILL
        if "offset_ms" in f["proof"]:
            total["clocks_moved_s"] += abs(f["proof"]["offset_ms"] - f["proof"]["was_ms"]) / 1000
        if "records_blocked" in f["proof"]:
            total["records_blocked"] += sum(max(0, n) for n in f["proof"]["records_blocked"].values())
        if "noticed" in f["proof"]:
            total["noticed"] += f["proof"]["noticed"] is not None
    return {"proof": {k: round(v, 1) if v % 1 else int(v) for k, v in total.items()}}


def make(command: str, path, faults: list[dict], verdict: dict) -> dict:
    lines = history.read(path)
    ops = [line for line in lines if line["t"] == "op"]
    recovered = all(f["recover_s"] is not None for f in faults)
    return {"ok": verdict["ok"] and recovered, "seed": lines[0]["seed"], "command": command, "regions": list(lines[0]["regions"]), "cores": os.cpu_count(),
            "operations": len(ops), "faults": sum("skipped" not in f["proof"] for f in faults), "recovered_from_all": recovered, "verdict": verdict,
            "conflicts": conflicts(ops), "kinds": kinds(faults), "latencies": latencies(ops)}


def markdown(r: dict) -> str:
    v = r["verdict"]
    out = [f"`{r['command']}` on {r['cores']} cores: {r['operations']:,} operations, {r['conflicts']['points_acknowledged']:,} points acknowledged, "
           f"{r['faults']} faults; {r['conflicts']['of_these_to_ids_of_several_regions']:.0%} of writes went to ids that several regions write, "
           f"{r['conflicts']['of_these_with_another_regions_write_on_its_way']:.0%} crossed another region's write of the same id in the "
           f"{r['conflicts']['ms_to_the_nearer_region']} ms that a write took to the nearer region, "
           f"{r['conflicts']['of_these_with_another_regions_write_within_120_ms']:.0%} within 120 ms. "
           f"Equal {v['settled_s']} s after the last probe.", "",
           f"**{'No violation.' if v['ok'] else 'Violations: ' + ', '.join(f'{n} {k}' for k, n in v['violations'].items())}**"
           + ("" if r["recovered_from_all"] else " **Not recovered from every fault.**"), "",
           "| fault | times | with ≥ 100 points in flight | points during | to recover, p50 / max | proof, added up |", "| --- | --- | --- | --- | --- | --- |"]
    for name, k in r["kinds"].items():
        inside = f" (+{k['inside_a_broken_link']} inside)" if k.get("inside_a_broken_link") else ""
        if not k["times"]:
            out.append(f"| {name} | 0{inside} | | | | |")
            continue
        proof = ", ".join(f"{n:,} {what.replace('_', ' ')}" for what, n in k["proof"].items())
        out.append(f"| {name} | {k['times']}{inside} | {k['with_100_points_in_flight']} | {k['points_during']:,} | {k['recover_p50_s']} / {k['recover_max_s']} s | {proof} |")
    out += ["", "| counted by the judge | |", "| --- | --- |", *(f"| {k} | {n:,} |" for k, n in v["counts"].items())]
    for example in v["examples"]:
        out.append(f"- {example['kind']}: {example['text']}")
    return "\n".join(out) + "\n"
