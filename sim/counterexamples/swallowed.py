"""Cancels that were swallowed: a task was told to end, a line caught that, and it went on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import dropwhile

from sim.counterexamples.accesses import Accesses, accesses_of
from sim.counterexamples.fact import Fact, Looked, Mark, Pattern, mark_of, seconds, where
from sim.counterexamples.ran import Ran, What


def swallowed(looked: Looked) -> list[Fact]:
    facts = []
    ran = looked.here.ran
    of_calls: dict[int, list[int]] = {}
    for at, each in enumerate(ran):
        of_calls.setdefault(each.call, []).append(at)
    for at, each in enumerate(ran):
        if each.is_of_cancel and each.actor in looked.involved:
            rest = [ran[later] for later in of_calls[each.call] if later > at]
            found = _caught(looked, each, rest)
            if found is not None:
                facts.append(found)
    return facts[-1:]


def _caught(looked: Looked, raised: Ran, rest: Sequence[Ran]) -> Fact | None:
    source = accesses_of(raised.file)
    lines = [each for each in rest if each.what is not What.RESUMES]
    # Since 3.13 the line is told once more as the exception comes up in it.
    lines = [*dropwhile(lambda each: each.place == raised.place, lines)]
    if not lines or lines[0].what is What.RAISES:
        return None
    if any(_is_raised_again(source, each) for each in lines):
        return None
    handler = _handler(source, raised.line, lines)
    if handler is None:
        return None
    catches, on = handler
    who = looked.called(raised.actor)
    sentence = (
        f"{who} is told to end as it waits at {where(raised)} ({seconds(raised)}): the "
        f"CancelledError is caught at line {catches}, and it goes on to line {on.line}"
    )
    marks = [
        mark_of(raised, f"{seconds(raised)}: {who} is told to end here (CancelledError)"),
        Mark(raised.file, catches, "this catches it"),
        mark_of(on, f"{seconds(on)}: {who} goes on, as if it had not been told"),
    ]
    return Fact(sentence, tuple(marks), Pattern.SWALLOWED)


def _handler(source: Accesses, line: int, rest: Sequence[Ran]) -> tuple[int, Ran] | None:
    """Which line catches what came up at this one, and where its call goes on; None if none."""
    first = rest[0]
    inside = (each for each in rest if _is_in_body(source.handler_at(each.line), each.line))
    entered = next(inside, None) if source.handler_at(first.line) is not None else None
    if entered is not None:
        handler = source.handler_at(entered.line)
        assert handler is not None
        of_handler = [each for each in rest if handler[0] <= each.line <= handler[1]]
        on = [each for each in rest if each.at >= entered.at and each not in of_handler]
        after = [each for each in on if each.line > handler[1]]
        is_raised_on = any(each.what is What.RAISES for each in of_handler)
        if after and not is_raised_on and source.final_at(after[0].line) is None:
            return handler[0], after[0]
        return None
    around = source.with_at(line)
    if around is not None and not around[0] <= first.line <= around[1]:
        is_final = source.final_at(first.line) is not None
        return None if is_final else (around[0], first)
    return None


def _is_raised_again(source: Accesses, ran: Ran) -> bool:
    """Whether the line passes on what told it to end, and is not told once more as it waits."""
    is_cancel = ran.what is What.RAISES and ran.raised == "CancelledError"
    return is_cancel and ran.line not in source.awaiting


def _is_in_body(handler: tuple[int, int] | None, line: int) -> bool:
    return handler is not None and line != handler[0]
