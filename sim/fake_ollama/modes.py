"""The modes: one way to behave, or to misbehave, per model `fake:<mode>`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Fault = Literal["error", "cut", "hang", "crash", "pause"]

BUSY_TEXT = "server busy, please try again.  maximum pending requests exceeded"
RUNNER_DIED_TEXT = "llama runner process has terminated: exit status 2"
MIDSTREAM_TEXT = "an error was encountered while running the model: unexpected EOF"
SIGNIN_URL = "https://ollama.com/connect?name=fake&key=fake"


@dataclass(frozen=True, slots=True)
class Failure:
    """An `{"error": text}` and its HTTP status; `signin_url` goes with 401."""

    status: int
    text: str
    signin_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """How a model behaves. `sentence` says so to a human; the rest is read by the script."""

    name: str
    sentence: str
    capabilities: tuple[str, ...] = ("completion",)
    load: Literal["load", "slow_load", "aborted_load"] = "load"
    installed: bool = True
    refusal: Failure | None = None  # at once, before the model is loaded
    error: Failure | None = None  # instead of the first chunk
    busy_first: bool = False  # somebody else's call has the slot for a while
    deaf_prompt_eval: bool = False
    hangs_before_headers: bool = False
    fault: Fault | None = None  # after `fault_after_chunks` chunks
    keeps_slot: bool = False  # also after a disconnect
    slow: bool = False
    empty: bool = False
    content: Literal["plain", "unicode"] = "plain"
    segments: Literal["lines", "bytes", "all"] = "lines"
    zero_metrics: bool = False


_MODES = (
    Mode(name="normal", sentence="Answers, chunk by chunk."),
    Mode(name="slow", sentence="Gives a long answer of many chunks, slowly.", slow=True),
    Mode(
        name="slow-load",
        sentence="Takes long to load: silence, then the headers and the first chunk together.",
        load="slow_load",
    ),
    Mode(
        name="load-aborted",
        sentence="Takes very long to load, and starts anew each time its caller leaves: "
        "prompted again faster than that, it never loads (ollama#8398).",
        load="aborted_load",
    ),
    Mode(
        name="busy-queue",
        sentence="Waits in silence until somebody else's call gives the slot back.",
        busy_first=True,
    ),
    Mode(
        name="busy",
        sentence="Refuses with 503: the queue is full.",
        refusal=Failure(503, BUSY_TEXT),
    ),
    Mode(name="missing", sentence="Is not installed: 404.", installed=False),
    Mode(
        name="unauthorized",
        sentence="Refuses with 401 and a signin_url, as cloud models do.",
        refusal=Failure(401, "unauthorized", SIGNIN_URL),
    ),
    Mode(
        name="rate-limited",
        sentence="Refuses with 429, as cloud models do.",
        refusal=Failure(429, "too many requests"),
    ),
    Mode(
        name="bad-gateway",
        sentence="Refuses with 502, as cloud models do.",
        refusal=Failure(502, "upstream unavailable"),
    ),
    Mode(
        name="error",
        sentence="Fails with 500 instead of the first chunk.",
        error=Failure(500, RUNNER_DIED_TEXT),
    ),
    Mode(
        name="error-midstream",
        sentence="Sends an error line after some chunks; the status stays 200, no done follows.",
        fault="error",
    ),
    Mode(name="cut", sentence="Ends after some chunks with neither error nor done.", fault="cut"),
    Mode(
        name="crash",
        sentence="Breaks the connection off after some chunks.",
        fault="crash",
    ),
    Mode(
        name="hang-before-headers",
        sentence="Sends nothing, for ever.",
        hangs_before_headers=True,
    ),
    Mode(
        name="hang-midstream",
        sentence="Sends some chunks, and then nothing, for ever.",
        fault="hang",
    ),
    Mode(
        name="pause",
        sentence="Sends some chunks, is silent for a while, and goes on.",
        fault="pause",
    ),
    Mode(
        name="ignores-disconnect",
        sentence="Gives a long answer, slowly, and keeps its slot when its caller leaves, until it "
        "is reloaded (ollama#17131).",
        slow=True,
        keeps_slot=True,
    ),
    Mode(
        name="late-notice",
        sentence="Notices a close during prompt evaluation only after it (ollama#11889).",
        deaf_prompt_eval=True,
    ),
    Mode(
        name="unicode",
        sentence="Answers with U+0085, U+2028, emoji and CJK, split anywhere between segments.",
        content="unicode",
        segments="bytes",
    ),
    Mode(name="one-segment", sentence="Sends all chunks in one TCP segment.", segments="all"),
    Mode(
        name="zeros",
        sentence="Ends with metrics that are all zero, and therefore left out.",
        zero_metrics=True,
    ),
    Mode(name="empty", sentence="Answers with nothing but done.", empty=True),
    Mode(
        name="thinking",
        sentence="Thinks first, unless think is false.",
        capabilities=("completion", "thinking"),
    ),
    Mode(
        name="tools",
        sentence="Calls the first tool it is offered; without tools it answers as normal.",
        capabilities=("completion", "tools"),
    ),
)

MODES: dict[str, Mode] = {mode.name: mode for mode in _MODES}


def mode_named(name: str) -> Mode:
    """Return the mode; a ValueError lists the names there are."""
    if name not in MODES:
        raise ValueError(f"there is no mode {name!r}; there are: {', '.join(MODES)}")
    return MODES[name]
