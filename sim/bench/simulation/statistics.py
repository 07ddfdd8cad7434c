"""What happened in the executions of a run: counts and admission latencies, which add up."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))

# The lines of the table, in their order; a count that is not named here has none.
ROWS = (
    "prompts",
    "admitted",
    "admitted after a wait",
    "answered whole",
    "superseded",
    "admitted from the queue",
    "queue full",
    "queue timeout",
    "session busy",
    "stopped",
    "left",
    "stopped reading",
    "given up by the server",
    "detached",
    "overdue",
    "refused",
    "told that Ollama failed",
    "told that Ollama is silent",
    "SIGTERM mid-stream",
    "healed, and answered",
)


@dataclass(slots=True)
class Statistics:
    """counts: by the words of ROWS. faults: by kind, those that were met. latencies_s: from each
    prompt to its admission, in virtual seconds, except for those that were to be enqueued.
    """

    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)

    def admitted(self, latency_s: float, *, enqueued: bool = False) -> None:
        self.counts["admitted"] += 1
        # A few readings of the clock do not count as a wait.
        if latency_s > 1e-3:
            self.counts["admitted from the queue" if enqueued else "admitted after a wait"] += 1
        # The wait in a queue says nothing about how fast one that interrupts is let in.
        if not enqueued:
            self.latencies_s.append(latency_s)

    def add(self, other: Statistics) -> None:
        self.counts.update(other.counts)
        self.faults.update(other.faults)
        self.latencies_s += other.latencies_s

    @property
    def labels(self) -> set[str]:
        """What was reached: each count that is not zero."""
        counted = {name for name, count in self.counts.items() if count}
        return counted | {f"fault: {name}" for name, count in self.faults.items() if count}

    def quantiles(self) -> dict[str, float | None]:
        """The nearest ranks of the admission latencies, in seconds; None without any."""
        ordered = sorted(self.latencies_s)
        if not ordered:
            return {name: None for name, _ in QUANTILES}
        return {
            name: ordered[max(0, math.ceil(part * len(ordered)) - 1)] for name, part in QUANTILES
        }

    def as_json(self) -> dict[str, Any]:
        quantiles = {
            name: None if value is None else round(value, 6)
            for name, value in self.quantiles().items()
        }
        return {
            "counts": {name: self.counts[name] for name in ROWS},
            "faults": dict(sorted(self.faults.items())),
            "admission_latency_s": quantiles,
        }
