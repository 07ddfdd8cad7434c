"""State abstraction: what is ignored when states are compared; see `state_reader`."""

from __future__ import annotations

LEFT_OUT: dict[type, tuple[str, ...]] = {}

DESCRIPTIONS = {
    "fastapi._compat.v2.ModelField",
    "fastapi._body_limit.AppBodyLimitMiddleware",
    "fastapi.datastructures.DefaultPlaceholder",
    "fastapi.dependencies.models.Dependant",
    "fastapi.params.Body",
    "fastapi.params.Depends",
    "fastapi.params.Path",
    "fastapi.params.Query",
    "fastapi.routing.APIRoute",
    "fastapi.routing.APIRouter",
    "fastapi.routing._DefaultLifespan",
    "fastapi.routing._EffectiveRouteContext",
    "fastapi.routing._IncludedRouter",
    "fastapi.routing._RouterIncludeContext",
    "pydantic.type_adapter.TypeAdapter",
    "starlette.middleware.exceptions.ExceptionMiddleware",
    "starlette.routing.Mount",
    "starlette.routing.Route",
    "starlette.routing.Router",
}
"""Types by module and name, whose objects never change once made, nor does what they hold.

Otherwise a FastAPI application would be read in each state, with all its routes and types.
"""


def leave_out(cls: type, *names: str) -> None:
    """These attributes of the class decide nothing: they only appear in a log line, say."""
    LEFT_OUT[cls] = names


def describe(*classes: type) -> None:
    """Objects of these classes never change once made, either."""
    DESCRIPTIONS.update(f"{cls.__module__}.{cls.__qualname__}" for cls in classes)
