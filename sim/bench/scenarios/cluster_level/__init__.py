"""The scenarios at cluster level: workers that share a store, one module for each kind."""

from sim.bench.scenarios.base import Scenario
from sim.bench.scenarios.cluster_level import prompts, sessions
from sim.bench.scenarios.cluster_level.story import ClusterScenario

CLUSTER_SCENARIOS: tuple[ClusterScenario, ...] = (
    *prompts.SCENARIOS,
    *sessions.SCENARIOS,
    *prompts.LIMITS_SHOWN,
)


def limit_of(scenario: Scenario) -> str:
    """The assumption that it breaks; empty for one within all of them."""
    return scenario.limit if isinstance(scenario, ClusterScenario) else ""


__all__ = ["CLUSTER_SCENARIOS", "ClusterScenario", "limit_of"]
