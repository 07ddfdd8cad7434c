"""The scenarios at server level, for both clients: one module for each kind of scenario."""

from sim.bench.scenarios.server_level import clients, retries, sessions, strategies, upstream
from sim.bench.scenarios.server_level.story import ServerDefinition, ServerScenario

SERVER_DEFINITIONS = (
    *sessions.DEFINITIONS,
    *clients.DEFINITIONS,
    *retries.DEFINITIONS,
    *strategies.DEFINITIONS,
    *upstream.DEFINITIONS,
)

SERVER_SCENARIOS = tuple(
    ServerScenario(each, client) for each in SERVER_DEFINITIONS for client in each.clients
)

__all__ = ["SERVER_SCENARIOS", "ServerDefinition", "ServerScenario"]
