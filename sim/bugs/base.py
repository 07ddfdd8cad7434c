"""What a historical bug is: a report, a program that shows it, and where it was fixed."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from sim.kernel.execution import Program

Version = tuple[int, int, int]


def this_version() -> Version:
    return sys.version_info[:3]


def version_text(version: Version) -> str:
    return ".".join(map(str, version))


@dataclass(frozen=True, slots=True)
class HistoricalBug:
    """A bug that somebody reported, as a small program in the reporter's terms.

    id, title, link: of the report. program: has a schedule that violates its property where the
    bug is, and none where it is fixed. fixed: the same program with the few lines that fix it;
    None for CPython's own, which a newer CPython fixes. fixed_in: the first release with the
    fix, of each line of CPython that got it; empty if all versions show it. labels: what some
    execution has to reach for a proof. package: the distribution whose code is run, if it is
    neither this one nor CPython.
    """

    id: str
    title: str
    link: str
    program: Program
    fixed: Program | None = None
    fixed_in: tuple[Version, ...] = ()
    labels: tuple[str, ...] = ()
    package: str | None = None

    def shows_on(self, version: Version) -> bool:
        """Whether this version of CPython has the bug, as far as its changelog says."""
        if any(version[:2] == fix[:2] and version >= fix for fix in self.fixed_in):
            return False
        return not self.fixed_in or version[:2] <= max(self.fixed_in)[:2]
