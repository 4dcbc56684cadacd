"""What ./dev bench computes by itself: efforts for a recall, tables, runbooks. The engines are measured by ./dev bench, not here."""

import contextlib
import sys

import numpy as np
import pytest
import yaml

from harness import paths

sys.path.insert(0, str(paths.ROOT / "bench"))

import streaming  # noqa: E402
from peers import measure, pgvector, run as peers, table  # noqa: E402


def test_the_effort_found_is_the_smallest_that_reaches_the_recall():
    asked = []

    def recall_at(effort):
        asked.append(effort)
        return min(0.98, effort / 100)

    assert measure.tune(recall_at, (0.5, 0.97, 0.99), (10, 40, 50, 60, 90, 97, 98, 200)) == {0.5: 50, 0.97: 97, 0.99: None}
    assert len(asked) == len(set(asked)) < 8, "each effort is measured once, and not all of them are"


def test_recall_counts_what_was_found_of_the_true_ten():
    truth = np.array([range(10), range(10, 20)])
    assert measure.recall_of([list(range(10)), list(range(15, 25))], truth) == 0.75


ENGINE = {"name": "FAISS", "version": "1", "setup": "a graph", "durability": "none", "per_second": 5000, "memory_bytes_a_vector": 2000,
          "at": {"0.95": {"effort": 20, "recall_at_10": 0.951, "p50_ms": 0.1, "p99_ms": 0.25, "per_second_8_clients": 12345}, "0.99": None}}


def test_the_table_names_what_was_not_run_and_why():
    text = table.markdown({"clients": 8, "engines": [ENGINE, {"name": "Weaviate", "not_run": "there is no go"}]})
    assert "| FAISS 1 | 5,000 | 0.10 / 0.25 (0.951) | 12,345 | not reached |  | 2,000 |" in text
    assert "Not run: Weaviate: there is no go." in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1, "every row has every column"


def test_the_ratio_takes_the_handler_that_does_nothing_off():
    ours = {"per_second": 20_000, "at": {"0.95": {"p50_ms": 0.3, "per_second_without_http": 9_876}, "0.99": None}}
    got = peers.ratios(ours, {"FAISS": ENGINE, "Weaviate": {"name": "Weaviate", "not_run": "why"}}, 8)
    assert got == {"load_rate_of": {"FAISS": 4.0}, "throughput_of_faiss_at_0.95": 0.8, "p50_of_faiss_at_0.95": 3.0}


def test_rows_for_copy_are_what_postgresql_reads():
    part = pgvector.copy_rows(np.array([[1.0, -2.0]], np.float32), 258)
    assert part == bytes.fromhex("0002 00000004 00000102 0000000c 0002 0000 3f800000 c0000000")


@pytest.fixture
def runbook(tmp_path):
    def write(steps, dataset="d"):
        file = tmp_path / "book.yaml"
        file.write_text(yaml.safe_dump({dataset: {"max_pts": 100, **dict(enumerate(steps, 1))}}))
        return str(file)
    return write


@contextlib.contextmanager
def refused(capsys, said: str):
    with pytest.raises(SystemExit) as e:
        yield
    assert e.value.code == 2
    assert said in capsys.readouterr().err


SEARCH = {"operation": "search"}


def test_a_runbook_is_read_in_the_order_of_its_numbers(runbook):
    steps = [{"operation": "insert", "start": 0, "end": 100}, {"operation": "replace", "tags_start": 0, "tags_end": 10, "ids_start": 50, "ids_end": 60},
             {"operation": "delete", "start": 3, "end": 5}, SEARCH]
    assert streaming.read_runbook(runbook(steps), "d", 100) == steps


@pytest.mark.parametrize("step, said", [
    ({"operation": "merge"}, "step 1: operation is one of"),
    ({"operation": "insert", "start": 0}, "step 1: end is a number"),
    ({"operation": "insert", "start": 0, "end": 101}, "end is a number from 0 to 100"),
    ({"operation": "delete", "start": 7, "end": 7}, "start is not below end"),
    ({"operation": "replace", "tags_start": 0, "tags_end": 2, "ids_start": 0, "ids_end": 3}, "as many tags as ids"),
    ("insert", "operation is one of"),
])
def test_a_wrong_step_is_named(runbook, capsys, step, said):
    with refused(capsys, said):
        streaming.read_runbook(runbook([step, SEARCH]), "d", 100)


def test_a_runbook_has_to_have_the_dataset_and_a_search(runbook, capsys, tmp_path):
    with refused(capsys, "no dataset 'other'; it has d"):
        streaming.read_runbook(runbook([SEARCH]), "other", 100)
    with refused(capsys, "never searches"):
        streaming.read_runbook(runbook([{"operation": "insert", "start": 0, "end": 5}]), "d", 100)
    with refused(capsys, "cannot be read"):
        streaming.read_runbook(str(tmp_path / "none.yaml"), "d", 100)


def test_the_runbook_that_is_made_inserts_every_row_once_and_deletes_some(runbook):
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((500, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ordered, bounds = streaming.in_clusters(rows, 4)
    assert sorted(map(tuple, ordered.tolist())) == sorted(map(tuple, rows.tolist()))
    alive = np.zeros(500, int)
    book = streaming.make_runbook(bounds)
    for step in (book[i] for i in range(1, len(book))):
        streaming.check("book", 1, step, 500)
        if step["operation"] == "insert":
            alive[step["start"]:step["end"]] += 1
        elif step["operation"] == "delete":
            assert (alive[step["start"]:step["end"]] == 1).all(), "only what is there is deleted"
            alive[step["start"]:step["end"]] += 2
    assert set(alive) == {1, 3}
