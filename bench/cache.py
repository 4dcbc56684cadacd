"""What a cache of query results would find, were it emptied whenever a write becomes visible: hit rates on Zipf streams, simulated.

    python bench/cache.py

A result may be kept only until the collection's watermark moves, since any write may be nearer to the query than what it found. So what counts
is how many queries come between two commits that the index makes visible, how skewed the queries are, and how many different ones there are;
room (least recently used goes) matters only where nothing is written. Prints one JSON object; docs/performance.md says what follows.
"""
import json

import numpy as np

QUERIES = 100_000
rng = np.random.default_rng(1)


def hit_rate(queries: list[int], room: int, between: int) -> float:
    """between: queries from one visible write to the next, on average; 0: nothing is written."""
    cache: dict[int, None] = {}
    hits = 0
    written = set(np.flatnonzero(rng.random(QUERIES) < 1 / between).tolist()) if between else set()
    for i, query in enumerate(queries):
        if i in written:
            cache.clear()
        hits += query in cache
        cache.pop(query, None)
        cache[query] = None
        if len(cache) > room:
            del cache[next(iter(cache))]
    return round(hits / QUERIES, 3)


out = []
for skew in (0.8, 1.0, 1.2):
    for different in (10_000, 100_000):
        p = 1 / np.arange(1, different + 1) ** skew
        queries = rng.choice(different, QUERIES, p=p / p.sum()).tolist()
        out.append({"zipf": skew, "different": different, "hit_rate_by_queries_between_writes":
                    {str(between or "nothing written"): hit_rate(queries, 10_000, between) for between in (1, 10, 100, 1000, 0)}})
print(json.dumps(out, indent=1))
