"""docs/configuration.md, made from what the daemons say of themselves: python -m harness.configuration > docs/configuration.md

A test compares the two, so an option without a line in the docs fails.
"""
from __future__ import annotations

import re
import subprocess

from . import paths

ROLES = ("producer", "consumer", "indexer")

HEAD = """# Configuration

Each daemon has its own file, named by `--config` (or `ANTIPODE_CONFIG`): lines of `key = value`; `#` starts a comment at a
line's start or after a blank. The same key as a flag (`--key value`) wins over an environment variable, which wins over the
file, which wins over the default. Unknown keys and impossible values stop the start with exit code 2 and a message that
names the file, the line and the key.

Keys that start with `kafka.` go to librdkafka as they are, without the prefix (`kafka.bootstrap.servers`,
`kafka.security.protocol`, …); `-X property=value` is the same as a flag. What Antipode's guarantees rest on (acks,
idempotence, offsets, message timeout) cannot be set, and is refused with the reason.

The files that `./dev demo` and `docker/compose.yaml` use are in `docker/antipode/`; Kafka's and MirrorMaker's, with their
reasons in comments, in `docker/kafka/` and `docker/mirrormaker/`. What must be equal everywhere: the names of the regions,
and the number of partitions of `vec-mutations`, of its mirrored copies and of `raw-vectors`.
"""


def options(role: str) -> list[tuple[str, str, str, str]]:
    """(key, default, environment variable, what it is) of every option, in the order of --help."""
    text = subprocess.run([paths.binary(f"antipode-{role}"), "--help"], check=True, capture_output=True, text=True).stdout
    found = re.findall(r"^  --(\S+)\n      (.*)\n      (ANTIPODE_\w+)(?:, (?:default (.*)|(required)))?$", text, re.M)
    return [(key, "required" if required else default, variable, doc) for key, doc, variable, default, required in found]


def page() -> str:
    out = [HEAD]
    for role in ROLES:
        out.append(f"\n## antipode-{role}\n\n| key | default | what |\n| --- | --- | --- |\n")
        for key, default, _, doc in options(role):
            shown = "**required**" if default == "required" else f"`{default}`" if default else ""
            out.append(f"| `{key}` | {shown} | {doc.replace('|', chr(92) + '|')} |\n")
    return "".join(out)


if __name__ == "__main__":
    print(page(), end="")
