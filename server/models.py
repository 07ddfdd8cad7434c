"""Which of Ollama's models answers a prompt that names none: the first that can chat.

Ollama lists what was pulled last first, and models that only embed stand among the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# For a list without capabilities: encoders (bert, nomic-bert, …), and what their names contain.
_ENCODER = "bert"
_NAMES = ("embed", "rerank", "minilm", "bge-", "colbert")


def first_that_chats(models: Iterable[Mapping[str, Any]]) -> str | None:
    """The name of the first model of /api/tags that can chat; None if there is none."""
    return next((str(model["name"]) for model in models if _chats(model)), None)


def _chats(model: Mapping[str, Any]) -> bool:
    capabilities = model.get("capabilities")
    if isinstance(capabilities, list) and capabilities:
        return "completion" in capabilities
    details = model.get("details")
    details = details if isinstance(details, dict) else {}
    families = details.get("families")
    families = families if isinstance(families, list) else []
    is_encoder = any(_ENCODER in str(each).lower() for each in (details.get("family"), *families))
    name = str(model["name"]).lower()
    return not is_encoder and not any(part in name for part in _NAMES)
