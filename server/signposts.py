"""The errors for an unknown path or method, with what there is instead."""

from __future__ import annotations

import difflib
from functools import cache
from re import Pattern

from starlette._utils import get_route_path
from starlette.requests import Request
from starlette.routing import compile_path

from server.errors import ApiError

_PATH_MAX_CHARS = 200
_API = "/v1"
# The paths by which Ollama's clients manage its models on disk are not passed on.
_OLLAMAS_STORE = tuple(
    f"/api/{name}" for name in ("pull", "push", "create", "copy", "delete", "blobs")
)

# The methods of each path, from openapi.json: FastAPI decides where paths come from.
Paths = dict[str, list[str]]


def not_found(request: Request) -> ApiError:
    """404, with the base URL where that is the fault, else with the nearest path, or the docs."""
    path = get_route_path(request.scope)
    shown = f"{request.method} {request.url.path[:_PATH_MAX_CHARS]!a}"
    paths = _paths(request)
    if path.startswith(f"{_API}{_API}"):
        hint = f"{_API} stands there twice; the base URL ends in {_API} once"
    elif path.startswith(_OLLAMAS_STORE):
        hint = "models are not managed here: ask Ollama itself for it (`ollama pull`, say)"
    elif _methods_of(paths, f"{_API}{path}"):
        hint = f"it is {_API}{path}: the base URL has to end in {_API}"
    else:
        hint = _nearest(paths, path)
    return ApiError(404, "not_found", f"there is no {shown}; {hint}")


def method_not_allowed(request: Request, of_route: str) -> ApiError:
    """405, with the methods that the path takes; `of_route` if openapi.json has it not.

    Starlette joins a set: sorted, they are the same in every process.
    """
    known = _methods_of(_paths(request), get_route_path(request.scope))
    allowed = ", ".join(known or sorted(of_route.split(", ")))
    return ApiError(
        405,
        "method_not_allowed",
        f"{request.url.path[:_PATH_MAX_CHARS]!a} takes {allowed}, not {request.method[:20]!a}",
        headers={"allow": allowed},
    )


def _paths(request: Request) -> Paths:
    document = request.app.openapi()
    return {
        path: [method.upper() for method in operations]
        for path, operations in document["paths"].items()
    }


def _methods_of(paths: Paths, path: str) -> list[str]:
    """The methods that a path takes, in order; none if there is no such path."""
    found = {method for form in paths if _pattern(form).match(path) for method in paths[form]}
    return sorted(found | ({"HEAD"} if "GET" in found else set()))


@cache
def _pattern(form: str) -> Pattern[str]:
    return compile_path(form)[0]


def _nearest(paths: Paths, path: str) -> str:
    near = difflib.get_close_matches(path[:_PATH_MAX_CHARS], paths, n=1, cutoff=0.7)
    if near:
        return f"did you mean {near[0]}?"
    return "prompts go to POST /v1/chat/completions; GET /docs has all paths"
