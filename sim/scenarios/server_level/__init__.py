"""The scenarios at server level, for both clients: one module for each kind of scenario."""

from sim.scenarios.server_level import clients, retries, sessions, strategies, upstream
from sim.scenarios.server_level.story import ServerScenario, ServerStory

SERVER_STORIES = (
    *sessions.STORIES,
    *clients.STORIES,
    *retries.STORIES,
    *strategies.STORIES,
    *upstream.STORIES,
)

SERVER_SCENARIOS = tuple(
    ServerScenario(told, client) for told in SERVER_STORIES for client in told.clients
)

__all__ = ["SERVER_SCENARIOS", "ServerScenario", "ServerStory"]
