"""Waiting with a reason and a deadline, instead of sleeping."""

import time
from typing import Callable, TypeVar

T = TypeVar("T")


class Late(AssertionError):
    """What was waited for did not come in time."""


def wait_until(predicate: Callable[[], T], deadline_s: float, what: str, every_s: float = 0.02) -> T:
    """Calls predicate until it returns something true, and returns that.

    An exception of the predicate counts as "not yet"; the last one is named when the deadline passes.
    """
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
