"""The script of the fake Ollama, performed step by step, on a clock that only the test moves."""

from __future__ import annotations

import json
from typing import Any

from sim.fake_ollama import FakeOllama, Profile
from sim.fake_ollama.steps import Acquire, Body, Drop, End, Hang, Head, Sleep, Step


def chat(model: str, prompt: str = "why is the sky blue", **fields: object) -> dict[str, object]:
    """Return the body of a chat request with one user message."""
    return {"model": model, "messages": [{"role": "user", "content": prompt}], **fields}


def json_lines(data: bytes) -> list[dict[str, Any]]:
    """Return the JSON objects of an NDJSON body, which must end with a line end."""
    assert data == b"" or data.endswith(b"\n")
    return [json.loads(line) for line in data.split(b"\n")[:-1]]


class WithBody:
    """All segments that have come, joined."""

    segments: list[bytes]

    @property
    def body(self) -> bytes:
        return b"".join(self.segments)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return json_lines(self.body)

    @property
    def object(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.body)
        return value


class Driven(WithBody):
    """One request, performed by hand. Sleeps move the clock at once."""

    def __init__(self, driver: Driver, method: str, path: str, body: bytes) -> None:
        self._driver = driver
        self._steps = driver.fake.handle(method, path, body)
        self.steps: list[Step] = []
        self.head: Head | None = None
        self.segments: list[bytes] = []

    @property
    def slept_s(self) -> float:
        return sum(step.seconds for step in self.steps if isinstance(step, Sleep))

    def step(self) -> Step:
        """Perform one step, and return it."""
        step = next(self._steps)
        self.steps.append(step)
        if isinstance(step, Head):
            self.head = step
        elif isinstance(step, Body):
            self.segments.append(step.data)
        elif isinstance(step, Sleep):
            self._driver.now_ns += round(step.seconds * 1e9)
        return step

    def run(self) -> Driven:
        """Perform steps until the request is over, hangs, or waits for a slot."""
        while True:
            step = self.step()
            if isinstance(step, Hang | End | Drop):
                return self
            if isinstance(step, Acquire) and not step.waiter.granted:
                return self

    def run_until(self, kind: type[Step], count: int = 1) -> Driven:
        """Perform steps until `count` of a kind are done."""
        for _ in range(count):
            while not isinstance(self.step(), kind):
                pass
        return self

    @property
    def waits(self) -> bool:
        """Whether the last step is a wait for a slot that has not been granted."""
        last = self.steps[-1]
        return isinstance(last, Acquire) and not last.waiter.granted

    def leave(self) -> None:
        """What a front does when the client disconnects."""
        self._steps.close()


class Driver:
    """A fake on a clock that only the sleeps of the driven requests move."""

    def __init__(self, profile: Profile) -> None:
        self.now_ns = 1_785_585_600_000_000_000  # 2026-08-01T12:00:00Z
        self.fake = FakeOllama(profile, lambda: self.now_ns)

    def post(self, path: str, body: object) -> Driven:
        return Driven(self, "POST", path, json.dumps(body).encode())

    def get(self, path: str) -> Driven:
        return Driven(self, "GET", path, b"")

    def raw(self, method: str, path: str, body: bytes) -> Driven:
        return Driven(self, method, path, body)

    def chat(self, model: str, prompt: str = "why is the sky blue", **fields: object) -> Driven:
        return self.post("/api/chat", chat(model, prompt, **fields))
