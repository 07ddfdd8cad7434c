"""Whether the bug is there: under the script, or by its events where the script does not fit.

`onestream export` copies this file into each test, below `shim_run.py`.
"""

from __future__ import annotations

import os
import platform
import unittest
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sim.export.shim import DoesNotFit, Script, World
from sim.export.shim_intent import InOrder, Variant, shifted
from sim.export.shim_run import Sources, describe, force

FITS = "the script fits, and nothing is violated under it"


@dataclass(frozen=True)
class Judged:
    """world: of the run that decides, None if there was none. how: which run it is, in words.

    misfit: why it is not the script's, if it is not. left_out: what of the script never came.
    note: what may decide beside the script, where that fits and nothing is violated.
    """

    world: World | None
    how: str = ""
    misfit: str = ""
    left_out: tuple[str, ...] = ()
    note: str = ""

    @property
    def exit_code(self) -> int:
        """1 violated, 0 it holds, 3 it holds, but some of the script's events never came."""
        if self.world is None:
            return 3
        if self.world.violation is not None:
            return 1
        return 3 if self.misfit and self.left_out else 0

    def __str__(self) -> str:
        lines = [] if self.world is None else [describe(self.world)]
        if self.misfit:
            holds = {0: "passed: it holds", 1: "violated", 3: "not decided: it holds"}
            lines += [self.misfit, f"{holds[self.exit_code]} {self.how}"]
            if self.left_out:
                lines.append(f"what never came of the script: {', '.join(self.left_out)}")
        if self.note:
            lines.append(self.note)
        return "\n".join(lines)


@dataclass(frozen=True)
class Tried:
    """One run by the events of the script."""

    variant: Variant
    in_order: InOrder
    world: World


def judge(script: Script, sources: Sources, program_name: str) -> Judged:
    """Under the script; where the program takes another path, by what is left of the script.

    A program that still has the bug must not pass for having been changed elsewhere: so where
    nothing is violated, the events of the script also come some polls earlier and later.
    """
    misfit, world = "", None
    try:
        world = force(script, sources, program_name)
        if world.violation is not None:
            return Judged(world)
    except DoesNotFit as exc:
        versions = f"recorded with CPython {script.python}, and this is {platform.python_version()}"
        misfit = f"the script does not fit ({versions}): {exc}{_of_the_hash_seed(script)}"
    try:
        tried = list(_in_order(script, sources, program_name))
    except DoesNotFit as exc:
        return Judged(None, "as far as it came", f"{misfit or FITS}; {exc}")
    last = tried[-1]
    if last.world.violation is not None:
        return Judged(last.world, str(last.variant), misfit or FITS)
    whole = [each for each in tried if not each.variant.is_shifted][-1]
    how = f"{whole.variant}, and in {len(tried) - 1} variants, among them natural order"
    note = "" if misfit else _undecided(script)
    return Judged(world or whole.world, how, misfit, tuple(whole.in_order.left_out), note)


def _undecided(script: Script) -> str:
    """What no script decides, for a reader who has mended nothing."""
    here = os.environ.get("PYTHONHASHSEED", "random")
    if not script.was_violated or here == script.hash_seed != "random":
        return ""
    return (
        f"if nothing was mended, a set of strings or a file decides: recorded with PYTHONHASHSEED="
        f"{script.hash_seed}, this is {here}; try 0, 1, 2, … without -I"
    )


def _of_the_hash_seed(script: Script) -> str:
    """By it the order of a set of strings differs between processes, which no script decides."""
    here = os.environ.get("PYTHONHASHSEED", "random")
    if here == script.hash_seed != "random":
        return ""
    return (
        f"; a set of strings may have another order here: recorded with PYTHONHASHSEED="
        f"{script.hash_seed}, and this is {here}"
    )


def _in_order(script: Script, sources: Sources, program_name: str) -> Iterator[Tried]:
    """Until one is violated. Where the program does not wait for all events, with more patience."""
    is_patient = False
    for variant in (Variant(), Variant(is_patient=True), *shifted(script)):
        if variant.is_patient and not is_patient:
            continue
        in_order = InOrder(script, replace(variant, is_patient=is_patient))
        world = force(script, sources, program_name, in_order)
        yield Tried(variant, in_order, world)
        if world.violation is not None:
            return
        if in_order.left_out and not variant.is_shifted:
            is_patient = True


def require(script: Script, sources: Sources, program_name: str) -> None:
    """For a test: fails if it is violated, is skipped if that could not be decided."""
    judged = judge(script, sources, program_name)
    assert judged.exit_code != 1, f"\n{judged}"
    if judged.exit_code:
        raise unittest.SkipTest(str(judged))


def main(script: Script, sources: Sources, program_name: str) -> int:
    """Prints the trace, and returns the exit code."""
    judged = judge(script, sources, program_name)
    print(judged)
    return judged.exit_code
