"""The scenarios of `onestream check`, by level."""

from sim.bench.scenarios.base import Scenario
from sim.bench.scenarios.client import CLIENT_SCENARIOS
from sim.bench.scenarios.cluster_level import CLUSTER_SCENARIOS
from sim.bench.scenarios.registry_level import REGISTRY_SCENARIOS
from sim.bench.scenarios.server_level import SERVER_SCENARIOS
from sim.bench.scenarios.stack_level import STACK_SCENARIOS

SCENARIOS_BY_LEVEL: dict[str, tuple[Scenario, ...]] = {
    "registry": (*REGISTRY_SCENARIOS, *CLIENT_SCENARIOS),
    "server": SERVER_SCENARIOS,
    "stack": STACK_SCENARIOS,
    "cluster": CLUSTER_SCENARIOS,
}

__all__ = ["SCENARIOS_BY_LEVEL", "Scenario"]
