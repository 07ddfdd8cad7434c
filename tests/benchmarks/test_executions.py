"""The benchmark runs; how fast, it says itself."""

from __future__ import annotations

import pytest

from tests.benchmarks import executions


@pytest.mark.thorough
def test_the_benchmark_prints_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """Each program, simulated and on asyncio, comes to its end and has a line.

    So has each rival, if only to say that it is not installed.
    """
    executions.main(["--quick", "--rivals"])
    printed = capsys.readouterr().out
    for name in (
        "3 tasks × 5 steps on a lock, random scheduler",
        "three streaming ASGI calls",
        "the whole server, two prompts, and the fake",
        "two clients, 5 lines each, of a server",
        "hung_upstream.thread",
        "seedloop",
        "detangle",
        "second_prompt.thread, 20 executions",
    ):
        assert name in printed
