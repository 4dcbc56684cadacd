"""Waiting with a reason and a deadline, instead of sleeping."""

import time
from typing import Callable, TypeVar

T = TypeVar("T")

# Deadlines are for a machine with nothing else to do; tests, which run on any, raise this. A wait ends when what it waits
# for comes, so only a failure takes longer.
patience = 1.0


class Late(AssertionError):
    """What was waited for did not come in time."""


def wait_until(predicate: Callable[[], T], deadline_s: float, what: str, every_s: float = 0.02) -> T:
    """Calls predicate until it returns something true, and returns that; patience times deadline_s at the longest.

    An exception of the predicate counts as "not yet"; the last one is named when the deadline passes.
    """
    deadline_s *= patience
    end = time.monotonic() + deadline_s
    while True:
        last = None
        try:
            value = predicate()
            if value:
                return value
        except Hopeless:
            raise
        except Exception as e:  # noqa: BLE001 - the thing waited for may fail in any way while it starts
            last = e
        if time.monotonic() >= end:
            raise Late(f"not within {deadline_s:g} s: {what}" + (f" (last: {last!r})" if last else ""))
        time.sleep(every_s)


class Hopeless(RuntimeError):
    """Raised by a predicate when waiting longer cannot help, as when the process waited for has ended."""
