"""What `onestream explore` prints: verdict, counterexample, and what the verdict rests on."""

from __future__ import annotations

import os
import shlex
from dataclasses import asdict
from typing import Any

from sim.counted import counted
from sim.exploration.report import Report
from sim.exploration.request import Request
from sim.exploration.tested_pythons import interpreter
from sim.wrapped import fitted


def print_report(report: Report) -> None:
    print(_with_command(report))
    print()
    hit = ", ".join(sorted(report.bounds_hit)) or "none"
    print(fitted(f"bounds: {report.bounds}; hit: {hit}", "  "))
    if report.labels:
        print(fitted(f"labels reached: {', '.join(sorted(report.labels))}", "  "))
    seeds = f"PYTHONHASHSEED={hash_seed()}, entropy_seed={report.bounds.entropy_seed}"
    print(fitted(f"certificate: {interpreter()}, code {report.digest}, {seeds}", "  "))
    print(f"{report.verdict} ({counted(report.executions, 'execution')} in {report.seconds:.1f} s)")


def hash_seed() -> str:
    """By which sets of strings are in order; `random` is another in each process."""
    return os.environ.get("PYTHONHASHSEED", "random")


def _with_command(report: Report) -> str:
    """The text; its command can be pasted, whatever the path of the program's file contains."""
    found = report.counterexample
    if found is None:
        return report.text
    command = f"onestream replay {found.schedule}"
    return report.text.replace(command, f"onestream replay {shlex.quote(found.schedule)}")


def as_json(request: Request, report: Report) -> dict[str, Any]:
    found = report.counterexample
    return {
        "verdict": report.verdict,
        "interpreter": interpreter(),
        "hash_seed": hash_seed(),
        "entropy_seed": report.bounds.entropy_seed,
        "program": request.program,
        "reason": report.reason,
        "claim": report.claim,
        "strategy": report.strategy,
        "executions": report.executions,
        "seconds": round(report.seconds, 3),
        "complete": report.complete,
        "found_by": report.found_by,
        "bounds": str(report.bounds),
        "bounds_hit": sorted(report.bounds_hit),
        "labels": sorted(report.labels),
        "labels_missing": list(report.labels_missing),
        "digest": report.digest,
        "counterexample": found and found.as_json(),
        "unconfirmed": report.unconfirmed,
        "unretrieved": report.unretrieved and asdict(report.unretrieved),
    }
