"""Limits in real time. None decides a test: each only ends what would hang."""

from __future__ import annotations

HANGS_S = 300.0
"""A process, thread or coroutine of a test that has not ended by then hangs."""

AMPLE_S = 3300.0
"""The budget of a search that ends by its executions, on however busy a machine."""
