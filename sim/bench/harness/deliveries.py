"""What Ollama said, and how much of it the clients were handed: all, at once, within bounds."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from sim.bench.harness.asgi import Exchange
from sim.fake_ollama.simulated import Connection


@dataclass(slots=True)
class Delivery:
    """The answer to one prompt, from the socket to `send`.

    said: the content that has landed. landed: for each segment of it when, in virtual seconds,
    and how many characters there were by then. handed: how many were given to `send`.
    """

    connection: Connection
    said: str = ""
    landed: list[tuple[float, int]] = field(default_factory=list)
    handed: int = 0
    # The beginning of a line whose end has not landed yet.
    rest: bytes = b""

    @property
    def oldest_at(self) -> float | None:
        """When the first of what was not handed on has landed; None if all was."""
        return next((at for at, chars in self.landed if chars > self.handed), None)

    @property
    def held(self) -> int:
        """How many segments were received from the socket and not handed on."""
        received = self.landed[: len(self.landed) - self.connection.unread]
        return sum(chars > self.handed for _, chars in received)


class Deliveries:
    """Those of one execution, by the prompt, which has to differ from connection to connection."""

    def __init__(self) -> None:
        self._by_prompt: dict[str, Delivery] = {}
        # Of which something is not yet handed on.
        self._open: dict[str, Delivery] = {}

    def land(self, connection: Connection, data: bytes, now: float) -> None:
        """Ollama's segment has landed: lines of NDJSON, or the body of an error, which has no end
        of a line. Lines may be split anywhere."""
        prompt = prompt_of(connection)
        if prompt is None:
            return
        delivery = self._by_prompt.setdefault(prompt, Delivery(connection))
        *lines, delivery.rest = (delivery.rest + data).split(b"\n")
        for line in lines:
            message = json.loads(line).get("message") or {}
            delivery.said += message.get("content") or ""
        delivery.landed.append((now, len(delivery.said)))
        if len(delivery.said) > delivery.handed:
            self._open[prompt] = delivery

    def hand(self, prompt: str, content: str) -> None:
        """This content was given to `send`."""
        delivery = self._by_prompt.get(prompt)
        if delivery is None:
            return
        delivery.handed += len(content)
        if delivery.handed >= len(delivery.said):
            self._open.pop(prompt, None)

    def open_for(self, exchange: Exchange) -> Delivery | None:
        """The delivery to this exchange, if something that has landed is not yet handed on."""
        return self._open.get(exchange.name)

    def said_to(self, prompt: str) -> str:
        """All that Ollama said to this prompt."""
        delivery = self._by_prompt.get(prompt)
        return delivery.said if delivery is not None else ""

    @property
    def is_backed_up(self) -> bool:
        """Whether a socket holds something that is not received, since its reader has no room."""
        return any(each.connection.unread for each in self._open.values())

    def __bool__(self) -> bool:
        """Whether anything has landed and is not yet handed on."""
        return bool(self._open)


def prompt_of(connection: Connection) -> str | None:
    """The text of the last message of a chat, which the bench makes the name of its exchange."""
    if not connection.body:
        return None
    text: str = json.loads(connection.body)["messages"][-1]["content"]
    return text
