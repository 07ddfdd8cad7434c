"""Ctrl-C and SIGTERM while a command imports, which takes seconds: a line, and the end.

Not by an exception: an import may catch it, or make another of it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_STDERR = 2


@contextmanager
def ending_in_a_line(command: str) -> Iterator[None]:
    """While the block runs, which only imports, either signal ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        with suppress(OSError):
            os.write(_STDERR, f"{command}: {name} came before it had begun, and it ends\n".encode())
        # As a shell and systemd know it: by the signal.
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
        # The first process of a container is not ended by one.
        os._exit(128 + number)

    # Whatever is to outlive its terminal ignores SIGINT, and still does.
    numbers = [
        number
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
