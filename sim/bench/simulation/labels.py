"""The labels that a long run has to reach, or that it found nothing means nothing."""

from __future__ import annotations

from collections.abc import Iterable

from sim.bench.simulation.profiles import Client, profile_named

_BY_EVERY_RUN = {
    "prompts",
    "admitted",
    "answered whole",
    "superseded",
    "admitted from the queue",
    "session busy",
    "stopped",
    "left",
    "SIGTERM mid-stream",
    "healed, and answered",
}
_BY_HOLDING_ON = {"admitted after a wait", "detached"}


def labels_required(level: str, profiles: Iterable[str], clients: Iterable[Client]) -> set[str]:
    """For a run with these profiles and clients: each of their faults, and what follows from it."""
    required = set(_BY_EVERY_RUN)
    for name in profiles:
        for client in clients:
            faults = profile_named(name).faults_for(level, client)
            required |= {f"fault: {fault}" for fault in faults}
            if "stuck lookup" in faults or "swallowed cancel" in faults:
                required |= _BY_HOLDING_ON
            if "error" in faults:
                required.add("told that Ollama failed")
            if "hang-midstream" in faults:
                required.add("told that Ollama is silent")
    return required
