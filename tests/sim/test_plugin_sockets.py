"""Marked tests with sockets: the example of the network's README, as it is and mended."""

from __future__ import annotations

import pytest

# Imported here, since pytester forgets what is imported first within it.
import sim.exploration.search
import sim.runner  # noqa: F401
from tests.sim.documents import pytest_modules

OF_A_COROUTINE = """
    import asyncio
    import pytest
    from sim import DepartureBounded, Fault

    async def answers(reader, writer):
        writer.write(await reader.readline())
        writer.close()

    @pytest.mark.explore(strategy=DepartureBounded(1), labels=["refused"])
    async def test_an_answer_or_a_refusal(world):
        world.network.may_fail(Fault.REFUSED)
        async with await asyncio.start_server(answers, "127.0.0.1", 7000):
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", 7000)
            except ConnectionRefusedError:
                world.reached("refused")
                return
            writer.write(b"x\\n")
            assert await reader.readline() == b"x\\n"
            writer.close()
"""


def explored(pytester: pytest.Pytester, text: str) -> pytest.RunResult:
    pytester.makepyfile(text)
    return pytester.runpytest_inprocess("-p", "no:cacheprovider")


def test_a_plain_function_with_blocking_sockets_is_refuted_and_proved_once_mended(
    pytester: pytest.Pytester,
) -> None:
    """By an answer that comes in two parts; mended, each end waits for all."""
    (broken,) = pytest_modules("sim/kernel/network/README.md")
    result = explored(pytester, broken)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*refuted: assert b'x' == b'xyz'*", "*the first 1 come alone*"])
    mended = broken.replace("recv(3)", "recv(3, socket.MSG_WAITALL)")
    assert mended.count("WAITALL") == 2
    explored(pytester, mended).assert_outcomes(passed=1)


def test_a_fault_is_declared_in_a_marked_coroutine(pytester: pytest.Pytester) -> None:
    """A proof that has seen it."""
    explored(pytester, OF_A_COROUTINE).assert_outcomes(passed=1)
