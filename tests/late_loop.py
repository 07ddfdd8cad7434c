"""A loop whose clock stands, but for what a test puts it forward by: a step that has taken long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class LateLoop(asyncio.SelectorEventLoop):
    """Its sockets are real; `now_s` is what its clock says."""

    now_s = 100.0

    def time(self) -> float:
        return self.now_s


def late_run(main: Callable[[LateLoop], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=LateLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, LateLoop)
        runner.run(main(loop))


async def turns(count: int) -> None:
    """Lets the loop turn, without time passing."""
    for _ in range(count):
        await asyncio.sleep(0)
