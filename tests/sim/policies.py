"""The policy for a test, and afterwards the one before."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from sim import EventLoopPolicy


@contextmanager
def policy_kept(*, is_simulated: bool) -> Iterator[None]:
    # asyncio deprecates policies since 3.14.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        before = asyncio.get_event_loop_policy()
        if is_simulated:
            asyncio.set_event_loop_policy(EventLoopPolicy())
        try:
            yield
        finally:
            asyncio.set_event_loop_policy(before)
