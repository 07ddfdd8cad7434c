"""Fixtures of the clients' tests: a server, and what each client received from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest

from tests.clients.played import ENVIRONMENTS, NODE_CLIENTS, PYTHON_CLIENTS, Played
from tests.clients.support import HERE, Served, node_program, python_of, run_program, served


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> None:
    """Not asked here: a server that several tests share has a thread that reads its output."""


@pytest.fixture(scope="session")
def server() -> Iterator[Served]:
    with served() as one:
        yield one


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
