"""The server that real clients are sent to, and what each of them saw there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest

from tests.clients.support import HERE, Served, node_program, python_of, run_program, served

# Each client with the environment, or the module of Node, that it is played in.
PYTHON_CLIENTS = {
    "openai-1": "openai_client",
    "openai-2": "openai_client",
    "openai-3": "openai_client",
    "litellm": "litellm_client",
    "langchain-openai": "langchain_openai_client",
    "langchain-ollama": "langchain_ollama_client",
    "ollama": "ollama_client",
}
ENVIRONMENTS = {"langchain-openai": "langchain", "langchain-ollama": "langchain"}
NODE_CLIENTS = {
    "openai-node": "openai_client",
    "ai-sdk": "ai_sdk_client",
    "langchain.js": "langchain_client",
    "ollama-js": "ollama_client",
}
CLIENTS = (*PYTHON_CLIENTS, *NODE_CLIENTS)


@pytest.fixture(scope="session")
def server() -> Iterator[Served]:
    with served() as one:
        yield one


class Played:
    """What one client saw in every case, and the server that it saw it at."""

    def __init__(self, name: str, server: Served, outcomes: dict[str, Any]) -> None:
        self.name = name
        self.server = server
        self.outcomes = outcomes

    def outcome(self, case: str) -> Any:
        found = self.outcomes[case]
        assert "failed" not in found, f"{self.name}, {case}: {found}"
        return found


@pytest.fixture(scope="session")
def play() -> Iterator[Callable[[str], Played]]:
    """Plays all cases with a client, once; each client has a server of its own."""
    running: list[Any] = []

    @cache
    def played(name: str) -> Played:
        if name in PYTHON_CLIENTS:
            interpreter = python_of(ENVIRONMENTS.get(name, name))
            command = [interpreter, str(HERE / "python/cases.py"), PYTHON_CLIENTS[name]]
        else:
            command = [*node_program("cases.mjs"), NODE_CLIENTS[name]]
        context = served()
        one = context.__enter__()
        running.append(context)
        outcomes = run_program(*command, one.url, ANONYMIZED_TELEMETRY="false")
        return Played(name, one, {each.pop("case"): each for each in outcomes})

    yield played
    for context in running:
        context.__exit__(None, None, None)
