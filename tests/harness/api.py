"""A small HTTP client for the daemons: keep-alive, JSON in and out, errors that show what was answered."""
from __future__ import annotations

import http.client
import json
from urllib.parse import urlparse


class ApiError(Exception):
    def __init__(self, method: str, url: str, status: int, body: str):
        super().__init__(f"{method} {url}: {status} {body[:500]}")
        self.status, self.body = status, body


class Api:
    """One connection; not for use by two threads at once."""

    def __init__(self, base_url: str, timeout_s: float = 60.0):
        self.base = base_url.rstrip("/")
        parsed = urlparse(self.base)
        self.host, self.port, self.timeout = parsed.hostname, parsed.port, timeout_s
        self.connection: http.client.HTTPConnection | None = None
        self.headers: dict = {}  # of the last answer

    def request(self, method: str, path: str, body=None, headers: dict | None = None) -> tuple[int, str]:
        """Status and text. A connection that the server closed while idle is opened again, once."""
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **(headers or {})}
        for attempt in (1, 2):
            fresh = self.connection is None
            if fresh:
                self.connection = http.client.HTTPConnection(self.host, self.port, timeout=self.timeout)
            try:
                self.connection.request(method, path, body=body, headers=headers)
                answer = self.connection.getresponse()
                text = answer.read().decode()
                self.headers = dict(answer.getheaders())
                return answer.status, text
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                self.close()
                if fresh or attempt == 2:
                    raise
            except Exception:
                self.close()
                raise

    def call(self, method: str, path: str, body=None, headers: dict | None = None):
        """The result member of a 200 answer; ApiError otherwise."""
        status, text = self.request(method, path, body, headers)
        if status != 200:
            raise ApiError(method, self.base + path, status, text)
        return json.loads(text)["result"]

    def get(self, path: str):
        return self.call("GET", path)

    def put(self, path: str, body):
        return self.call("PUT", path, body)

    def post(self, path: str, body, headers: dict | None = None):
        return self.call("POST", path, body, headers)

    def delete(self, path: str):
        return self.call("DELETE", path)

    def metrics(self) -> list[tuple[str, dict, float]]:
        """(name, labels, value) of every sample of /metrics."""
        status, text = self.request("GET", "/metrics")
        if status != 200:
            raise ApiError("GET", self.base + "/metrics", status, text)
        return parse_metrics(text)

    def metric(self, name: str, **labels) -> float:
        """Sum of the samples of that name that have these labels; KeyError when there is none."""
        found = [v for n, have, v in self.metrics() if n == name and all(have.get(k) == w for k, w in labels.items())]
        if not found:
            raise KeyError(f"{self.base}/metrics has no {name} {labels}")
        return sum(found)

    def scroll(self, collection: str, page: int = 1000, vectors: bool = False) -> dict:
        """All points: id -> point."""
        points, offset = {}, None
        while True:
            body = {"limit": page, "with_payload": True, "with_vector": vectors}
            if offset is not None:
                body["offset"] = offset
            answer = self.post(f"/collections/{collection}/points/scroll", body)
            for p in answer["points"]:
                points[p["id"]] = p
            offset = answer["next_page_offset"]
            if offset is None:
                return points

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def parse_metrics(text: str) -> list[tuple[str, dict, float]]:
    out = []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        head, value = line.rsplit(" ", 1)
        name, _, labels = head.partition("{")
        pairs = {}
        if labels:
            for part in labels.rstrip("}").split('",'):
                key, _, v = part.partition('="')
                pairs[key.strip()] = v.rstrip('"')
        out.append((name, pairs, float(value)))
    return out
