"""For the tests of the registry: what one test leaves in the process is not seen by the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from registry.stop_signal import STOP_SIGNALS


@pytest.fixture(autouse=True)
def _no_flags_are_left_to_the_next_test() -> Iterator[None]:
    yield
    STOP_SIGNALS._signals.clear()
