"""Registries under check: the production one, the two published ones, and users' own by name."""

from __future__ import annotations

import importlib
from typing import Any

from sim.exploration.named_programs import import_failure

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
        module = importlib.import_module(module_name)
    except ImportError as exc:
        raise _not_there(name, exc) from exc
    except (Exception, SystemExit) as exc:
        raise ValueError(f"registry {name!r}: {import_failure(module_name, exc)}") from exc
    try:
        cls = getattr(module, class_name)
    except AttributeError as exc:
        raise _not_there(name, exc) from exc
    missing = [method for method in _METHODS if not callable(getattr(cls, method, None))]
    if missing:
        raise ValueError(
            f"registry {name!r} lacks {', '.join(missing)}: a registry under check has "
            f"await register(entry), await cancel(trace_id, reason=None) and await pop(trace_id)"
        )
    return cls  # type: ignore[no-any-return]


def _not_there(name: str, exc: ImportError | AttributeError) -> ValueError:
    return ValueError(
        f"registry {name!r} cannot be imported: {exc}. MODULE has to be on PYTHONPATH (the "
        f"current directory is), CLASS a name in it"
    )
