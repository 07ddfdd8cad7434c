"""The errors of a kernel, as `socket` raises them: they are the program's to handle."""

from __future__ import annotations

import errno
import os

from sim.kernel.origin import modelled


def os_error(number: int) -> OSError:
    """`ConnectionResetError` for ECONNRESET, and so on."""
    return modelled(OSError(number, os.strerror(number)))


def would_block() -> OSError:
    return os_error(errno.EAGAIN)


def timed_out() -> TimeoutError:
    return modelled(TimeoutError("timed out"))
