"""Registries under check: the production one, the two published ones, and users' own by name."""

from __future__ import annotations

import importlib
from typing import Any

PRODUCTION = "production"
PUBLISHED = ("original", "quick_fix")

_CLASSES = {
    PRODUCTION: "registry.stream_registry:StreamRegistry",
    "original": "sim.bench.subjects.original:StreamRegistry",
    "quick_fix": "sim.bench.subjects.quick_fix:StreamRegistry",
}
_METHODS = ("register", "cancel", "pop")


def registry_class(name: str) -> type[Any]:
    """The class of a known name, or of MODULE:CLASS. Raises ValueError if there is none."""
    module_name, colon, class_name = _CLASSES.get(name, name).partition(":")
    if not colon:
        raise ValueError(
            f"registry {name!r} is not known; there are {', '.join(_CLASSES)}, or name a class as "
            f"MODULE:CLASS, importable from here"
        )
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as exc:
        raise ValueError(
            f"registry {name!r} cannot be imported: {exc}. MODULE has to be on PYTHONPATH (the "
            f"current directory is), CLASS a name in it"
        ) from exc
    missing = [method for method in _METHODS if not callable(getattr(cls, method, None))]
    if missing:
        raise ValueError(
            f"registry {name!r} lacks {', '.join(missing)}: a registry under check has "
            f"await register(entry), await cancel(trace_id, reason=None) and await pop(trace_id)"
        )
    return cls  # type: ignore[no-any-return]
