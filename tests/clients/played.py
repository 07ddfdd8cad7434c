"""The clients that are played through every case, and what each of them saw."""

from __future__ import annotations

from typing import Any

from tests.clients.support import Served

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
