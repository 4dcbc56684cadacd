"""Antipode beside what people use now: the same rows, the same questions, the same run, at equal recall.

Each engine has the machine to itself and answers in one shape, whether it runs in this process's child or behind a socket:

    {"name", "version", "setup", "durability",
     "load_s", "per_second", "memory_bytes_a_vector",
     "at": {"0.95": {"effort", "recall_at_10", "p50_ms", "p99_ms", "per_second_8_clients"}, "0.99": {...}}}

or {"name", "not_run": the reason}. `effort` is the smallest on a common ladder (EFFORTS) that reaches the recall, whatever the engine calls
it; "at" has null where none does. Modules: `measure` and the engines (`inprocess`, `pgvector`) run in the peers' own Python environment;
`weaviate` drives a server and a client in Go; `antipode` two regions; `run` calls them all; `table` prints what came of it.
"""
