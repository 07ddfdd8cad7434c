"""The whole run beside its chart: every event on one axis of time, to scale, as plain SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sim.pages.story import Step, Story

# Pixels: how high the row of a lane is, and the line of times below all of them.
_ROW = 12
_TIMES = 14
# What has a row of its own; the rest have one together.
_ROWS_MAX = 12
_OTHERS = "others"
# Of the width, in per cent, that nothing is drawn in on the left and on the right.
_MARGIN = 2.0
_TICKS_MAX = 6
_TICKS_END = 95


@dataclass(frozen=True, slots=True)
class _Axis:
    first: float
    last: float

    def at(self, seconds: float) -> float:
        """How far on, in per cent."""
        share = (seconds - self.first) / (self.last - self.first)
        return round(_MARGIN + share * (100 - 2 * _MARGIN), 2)

    @property
    def ticks(self) -> list[float]:
        step = _round_step((self.last - self.first) / _TICKS_MAX)
        begin = int(self.first / step)
        ticks = [round((begin + each) * step, 9) for each in range(_TICKS_MAX + 3)]
        # Not where the end is marked.
        return [each for each in ticks if self.first <= each and self.at(each) < _TICKS_END]


def _round_step(least: float) -> float:
    """1, 2 or 5 of some power of ten."""
    power = 1e-9
    for factor in (2.0, 2.5, 2.0) * 20:
        if power >= least:
            break
        power *= factor
    return power


def overview_of(story: Story, lanes: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """None where all happens at one instant: then there is nothing to see.

    lanes: those of the chart. What has no column there at first, and what is too many, have one row
    together at the bottom.
    """
    own = [(number, each) for number, each in enumerate(story.steps) if each.actor]
    times = [each.at for _, each in own]
    if not times or f"{min(times):.3f}" == f"{max(times):.3f}":
        return None
    axis = _Axis(min(times), max(times))
    named = [each["name"] for each in lanes if not each["is_minor"]][:_ROWS_MAX]
    has_others = any(not each.is_violation and each.actor not in named for _, each in own)
    rows = [*named, *([_OTHERS] if has_others else [])]

    def top(actor: str) -> int:
        return _ROW * (named.index(actor) if actor in named else len(named))

    return {
        "names": rows,
        "row": _ROW,
        "height": _ROW * len(rows),
        "all": _ROW * len(rows) + _TIMES,
        "first": f"{axis.first:.3f}",
        "last": f"{axis.last:.3f}",
        "margin": _MARGIN,
        "lines": [_ROW * at + _ROW // 2 for at in range(len(rows))],
        "ticks": [{"at": axis.at(each), "text": f"{each:g}"} for each in axis.ticks],
        "held": [
            {
                "y": top(actor),
                "from": axis.at(begin),
                "width": round(axis.at(end) - axis.at(begin), 2),
            }
            for actor, begin, end in _held(own)
            if actor in named
        ],
        "marks": [
            {
                "step": number,
                "y": top(each.actor),
                "at": axis.at(each.at),
                "is_minor": each.is_minor,
                "departs": any(choice.cost for choice in each.moment.choices),
                "says": f"{each.at:.3f} s, {each.actor}: {each.text}",
            }
            for number, each in own
            if not each.is_violation
        ],
        "violation": next((axis.at(each.at) for _, each in own if each.is_violation), None),
    }


def _held(own: Sequence[tuple[int, Step]]) -> list[tuple[str, float, float]]:
    """Who has something, from when to when."""
    begun: dict[str, float] = {}
    found = []
    for _, each in own:
        now = each.moment.held
        for actor in [actor for actor in begun if actor not in now]:
            found.append((actor, begun.pop(actor), each.at))
        for actor in now:
            begun.setdefault(actor, each.at)
    return found + [(actor, begin, own[-1][1].at) for actor, begin in begun.items()]
