"""FAISS, hnswlib and usearch in this process: one graph of 16 links over float32, built with effort 128 on all cores.

Rows and questions are normalized, and the inner product is then the cosine. A question is one call for one vector; the calls
release Python's lock while they search, so threads of one process stand for clients.
"""
from __future__ import annotations

import os
from importlib.metadata import version

import numpy as np

from .measure import K, Engine

LINKS, BUILD = 16, 128
CORES = os.cpu_count() or 1
SETUP = f"in process, HNSW of {LINKS} links, float32, built with effort {BUILD}"


class InProcess(Engine):
    durability = "none"
    setup = SETUP

    def __init__(self, queries: np.ndarray, args):
        self.questions = np.ascontiguousarray(queries / np.linalg.norm(queries, axis=1, keepdims=True), np.float32)

    def memory(self) -> int:
        with open("/proc/self/smaps_rollup") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("Pss_Anon:"))

    def close(self) -> None: ...


class Faiss(InProcess):
    name = "FAISS"

    def __init__(self, queries, args):
        super().__init__(queries, args)
        import faiss
        self.faiss, self.version = faiss, faiss.__version__

    def load(self, base):
        self.faiss.omp_set_num_threads(CORES)  # of this thread; others begin with OMP_NUM_THREADS, which run.py sets to 1
        self.index = self.faiss.IndexHNSWFlat(base.shape[1], LINKS, self.faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = BUILD
        self.index.add(base)
        self.faiss.omp_set_num_threads(1)

    def set_effort(self, effort):
        self.index.hnsw.efSearch = effort

    def ask(self, i):
        return self.index.search(self.questions[i:i + 1], K)[1][0]


class Hnswlib(InProcess):
    name = "hnswlib"

    def __init__(self, queries, args):
        super().__init__(queries, args)
        import hnswlib
        self.hnswlib, self.version = hnswlib, version("hnswlib")

    def load(self, base):
        self.index = self.hnswlib.Index(space="ip", dim=base.shape[1])
        self.index.init_index(max_elements=len(base), M=LINKS, ef_construction=BUILD)
        self.index.add_items(base, np.arange(len(base)), num_threads=CORES)
        self.index.set_num_threads(1)

    def set_effort(self, effort):
        self.index.set_ef(effort)

    def ask(self, i):
        return self.index.knn_query(self.questions[i], k=K, num_threads=1)[0][0]


class Usearch(InProcess):
    name = "usearch"

    def __init__(self, queries, args):
        super().__init__(queries, args)
        import usearch.index
        self.usearch, self.version = usearch.index, version("usearch")

    def load(self, base):
        self.index = self.usearch.Index(ndim=base.shape[1], metric="ip", dtype="f32", connectivity=LINKS, expansion_add=BUILD)
        self.index.add(np.arange(len(base)), base, threads=CORES)

    def set_effort(self, effort):
        self.index.expansion_search = effort

    def ask(self, i):
        return self.index.search(self.questions[i], K, threads=1).keys
