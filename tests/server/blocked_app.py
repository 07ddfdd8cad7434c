"""The application with a blocking client that nothing wakes: what a lost thread looks like."""

from __future__ import annotations

import threading

import httpx

from server.app import create_app
from server.wakeable import Wake


class Blocked(httpx.BaseTransport):
    """Never answers, and hears no wake-up."""

    def __init__(self, wake: Wake) -> None:
        pass

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        threading.Event().wait()
        raise AssertionError("nothing sets the event")


app = create_app(thread_transport=Blocked)
