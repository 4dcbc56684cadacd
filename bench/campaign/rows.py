"""What the regions hold, over their public HTTP API: scrolled, counted, and queried for the versions."""
from __future__ import annotations

import http.client
import json
import struct
import time
from urllib.parse import urlparse

PAGE = 500


def ask(url: str, method: str, path: str, body=None, timeout_s: float = 30):
    """The result of a 200 answer; text when it is not JSON."""
    parsed = urlparse(url)
    connection = http.client.HTTPConnection(parsed.hostname, parsed.port, timeout=timeout_s)
    try:
        connection.request(method, path, body=None if body is None else json.dumps(body), headers={"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode()
    finally:
        connection.close()
    if answer.status != 200:
        raise OSError(f"{method} {url}{path}: {answer.status} {text[:300]}")
    return json.loads(text)["result"] if text.startswith("{") else text


def total(url: str, metric: str) -> float:
    """Sum of a metric's samples."""
    return sum(float(line.rsplit(" ", 1)[1]) for line in ask(url, "GET", "/metrics").splitlines()
               if line.startswith((metric + "{", metric + " ")))


def float32(vector: list | None) -> list | None:
    """As the float32 that was meant: a server prints as few digits as tell it from its neighbours."""
    return vector and list(struct.unpack(f"{len(vector)}f", struct.pack(f"{len(vector)}f", *vector)))


def collection(url: str, name: str) -> dict:
    rows, offset = [], None
    while True:
        body = {"limit": PAGE, "with_payload": True, "with_vector": True, **({} if offset is None else {"offset": offset})}
        page = ask(url, "POST", f"/collections/{name}/points/scroll", body)
        rows += [{"id": p["id"], "mark": (p.get("payload") or {}).get("mark"), "payload": p.get("payload"), "vector": float32(p.get("vector")),
                  "version": None} for p in page["points"]]
        offset = page["next_page_offset"]
        if offset is None:
            break
    versions = {}
    for i in range(0, len(rows), PAGE):
        some = [r for r in rows[i:i + PAGE] if r["vector"] is not None]
        if some:
            body = {"query": some[0]["vector"], "filter": {"must": [{"has_id": [r["id"] for r in some]}]}, "limit": len(some), "with_payload": True}
            for p in ask(url, "POST", f"/collections/{name}/points/query", body)["points"]:
                versions[p["id"], (p.get("payload") or {}).get("mark")] = p["version"]
    for r in rows:
        r["version"] = versions.get((r["id"], r["mark"]))
    return {"rows": rows, "count": ask(url, "POST", f"/collections/{name}/points/count", {"exact": True})["count"]}


def region(urls: dict, names: list[str]) -> dict:
    return {"collections": {name: collection(urls["indexer"], name) for name in names},
            "holes": total(urls["consumer"], "antipode_consumer_hole_records"),
            "duplicates": total(urls["consumer"], "antipode_consumer_duplicates_total")}


def _essence(held: dict) -> dict:
    """What must be equal between regions; vectors only where they are exact, which the judge looks at."""
    return {name: (one["count"], sorted((str(r["id"]), json.dumps(r["payload"], sort_keys=True)) for r in one["rows"]))
            for name, one in held["collections"].items()}


def settled(regions: dict, names: list[str], deadline_s: float) -> tuple[dict, float]:
    """Rows of all regions once they are equal, without holes, and the seconds that took; as they are when the deadline
    passes. regions: name -> urls."""
    start = time.monotonic()
    while True:
        late = time.monotonic() >= start + deadline_s
        try:
            rows = {name: region(urls, names) for name, urls in regions.items()}
            first = _essence(next(iter(rows.values())))
            if late or (all(_essence(held) == first for held in rows.values()) and not any(held["holes"] for held in rows.values())):
                return rows, time.monotonic() - start
        except OSError:
            if late:
                raise
        time.sleep(0.2)
