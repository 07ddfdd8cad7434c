"""The scenarios that `onestream check` plays, by level."""

from sim.scenarios.base import Scenario
from sim.scenarios.registry_level import REGISTRY_SCENARIOS

__all__ = ["REGISTRY_SCENARIOS", "Scenario"]
