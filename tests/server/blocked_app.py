"""The application with a blocking client that nothing wakes: an example of a lost thread."""

from __future__ import annotations

import threading

import httpx

from server.app import create_app
from server.wakeable import Wake


class Blocked(httpx.BaseTransport):
    """Never answers, and ignores every wake-up."""

    def __init__(self, wake: Wake) -> None:
        pass

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        threading.Event().wait()
        raise AssertionError("nothing sets the event")


app = create_app(thread_transport=Blocked)
