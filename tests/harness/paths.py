"""Where things lie. The cache's names carry hashes that only ./dev knows, so it is asked, once."""

import functools
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / ".antipode"
DATA = STATE / "data"
LOGS = STATE / "logs"
RUN = STATE / "run"
DOCKER = ROOT / "docker"
TEST_DATA = ROOT / "tests" / "data"
SCHEMAS = ROOT / "schemas"


@functools.cache
def dependency(name: str) -> Path:
    """The folder of faiss, rdkafka, kafka or venv in the cache."""
    out = subprocess.run([ROOT / "dev", "path", name], check=True, capture_output=True, text=True)
    path = Path(out.stdout.strip())
    if not path.is_dir():
        raise RuntimeError(f"{name} is not installed: run ./dev deps")
    return path


def preset() -> str:
    """Whose binaries are run; ANTIPODE_PRESET chooses (dev, release, asan, tsan)."""
    return os.environ.get("ANTIPODE_PRESET", "dev")


def binary(name: str, of: str | None = None) -> Path:
    """ANTIPODE_BUILD names another build folder, for one outside the checkout."""
    build = Path(os.environ.get("ANTIPODE_BUILD") or ROOT / "build" / (of or preset()))
    path = build / "bin" / name
    if not path.is_file():
        raise RuntimeError(f"{path} is not built: run ./dev build {of or preset()}")
    return path
