"""The scenarios at stack level, for both clients: one module for each kind of scenario."""

from sim.bench.scenarios.stack_level import (
    connections,
    hosts,
    httpx_clients,
    on_httptools,
    sessions,
    upstream,
)
from sim.bench.scenarios.stack_level.story import HostsDefinition, StackDefinition, StackScenario

STACK_DEFINITIONS: tuple[StackDefinition | HostsDefinition, ...] = (
    *sessions.DEFINITIONS,
    *connections.DEFINITIONS,
    *on_httptools.DEFINITIONS,
    *httpx_clients.DEFINITIONS,
    *upstream.DEFINITIONS,
    *hosts.DEFINITIONS,
)

STACK_SCENARIOS = tuple(
    StackScenario(each, client) for each in STACK_DEFINITIONS for client in each.clients
)

__all__ = ["STACK_DEFINITIONS", "STACK_SCENARIOS", "StackDefinition", "StackScenario"]
