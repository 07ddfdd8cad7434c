"""A simulated execution shows in asyncio's own pictures of who awaits whom, since 3.14."""

from __future__ import annotations

import asyncio
import sys

import pytest

from sim import World, explore

pytestmark = pytest.mark.skipif(sys.version_info < (3, 14), reason="call graphs are of 3.14")


async def program(world: World) -> None:
    async def inner() -> None:
        await world.outside("it goes on")

    async def outer() -> None:
        await inner()

    task = asyncio.create_task(outer(), name="outer")
    await asyncio.sleep(0)
    graph = asyncio.capture_call_graph(task)  # type: ignore[attr-defined,unused-ignore]
    names = [entry.frame.f_code.co_name for entry in graph.call_stack]
    world.check(
        names[:3] == ["outside", "inner", "outer"], "its frames, innermost first", str(names)
    )
    waiting = asyncio.create_task(asyncio.wait({task}), name="waiting")
    await asyncio.sleep(0)
    told = asyncio.format_call_graph(task)  # type: ignore[attr-defined,unused-ignore]
    world.check("outer" in told and "name='outer'" in told, "it is told by name", told)
    await waiting


def test_a_call_graph_shows_the_tasks_of_an_execution() -> None:
    """asyncio.capture_call_graph and format_call_graph see simulated tasks as any others."""
    report = explore(program)
    assert report.verdict == "proved", report.text
