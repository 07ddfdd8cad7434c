"""Types of what tasks wait for, and of what steps them; they cannot be imported by name."""

from __future__ import annotations

from typing import Any

TASK_STEPS = {"TaskStepMethWrapper", "TaskWakeupMethWrapper", "task_wakeup"}
"""Their names: of the callbacks that step and wake asyncio's tasks."""


async def _coroutine() -> None: ...


def _awaited() -> type:
    coroutine = _coroutine()
    try:
        return type(coroutine.__await__())
    finally:
        coroutine.close()


async def _async_generator() -> Any:
    yield


def _awaited_of_generators() -> list[type]:
    generator = _async_generator()
    awaited = generator.asend(None), generator.athrow(Exception)
    for each in awaited:
        # Or the interpreter would warn that it was never awaited.
        each.close()
    return [type(each) for each in awaited]


AWAITED = {_awaited(), *_awaited_of_generators()}
"""What is made of a coroutine or an asynchronous generator where it is awaited."""
