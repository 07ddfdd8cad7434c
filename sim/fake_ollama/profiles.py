"""Profiles: how fast the fake is, how many at once, and which mode its plain models have."""

from __future__ import annotations

from dataclasses import dataclass, fields

from sim.fake_ollama.modes import mode_named


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Latencies, sizes and limits. Seconds end in `_s`; 0 means at once.

    `mode` is the mode of each model in `models`; every `fake:<mode>` exists besides.
    A bad value raises ValueError.
    """

    mode: str = "normal"
    models: tuple[str, ...] = ("fake:latest", "llama3.2")

    chunks: int = 40  # of an answer; num_predict in a request's options may shorten it
    thinking_chunks: int = 5  # of mode `thinking`, before the answer
    slow_chunks: int = 400  # of an answer in modes `slow` and `ignores-disconnect`
    fault_after_chunks: int = 3  # the chunks before a fault in the midst of a stream
    segment_bytes: int = 13  # of mode `unicode`, at most; each long character is cut besides

    load_s: float = 0.5
    slow_load_s: float = 5.0  # of mode `slow-load`
    aborted_load_s: float = 30.0  # of mode `load-aborted`
    prompt_eval_s: float = 0.1
    late_s: float = 5.0  # deaf prompt evaluation in mode `late-notice`
    busy_s: float = 5.0  # how long mode `busy-queue` is busy
    pause_s: float = 5.0  # the silence of mode `pause`
    chunk_s: float = 0.05  # before each chunk but the first
    slow_chunk_s: float = 0.25  # the same in modes `slow` and `ignores-disconnect`
    keep_alive_s: float = 300.0  # idle time until a model is unloaded; negative: never

    num_parallel: int = 1  # slots per model, OLLAMA_NUM_PARALLEL
    queue_max: int = 512  # requests that may wait for a load, OLLAMA_MAX_QUEUE
    calls_kept: int = 1000  # of the record `FakeOllama.calls`

    def __post_init__(self) -> None:
        mode_named(self.mode)
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("mode", "models", "keep_alive_s"):
                continue
            least = 1 if field.name in ("segment_bytes", "num_parallel") else 0
            if value < least:
                raise ValueError(f"{field.name} must be at least {least}, not {value}")


_INSTANT = Profile(
    load_s=0,
    slow_load_s=0,
    aborted_load_s=0,
    prompt_eval_s=0,
    late_s=0,
    busy_s=0,
    pause_s=0,
    chunk_s=0,
    slow_chunk_s=0,
)

PROFILES: dict[str, Profile] = {
    "instant": _INSTANT,
    "normal": Profile(),
    "slow": Profile(load_s=5.0, prompt_eval_s=1.0, chunk_s=0.25, chunks=400),
    "long": Profile(load_s=0, prompt_eval_s=0, chunk_s=0.25, chunks=400),
    "parallel": Profile(num_parallel=4),
    "flood": Profile(
        load_s=0, prompt_eval_s=0, chunk_s=0, chunks=10_000, num_parallel=64, slow_chunk_s=0
    ),
}

PROFILE_SENTENCES: dict[str, str] = {
    "instant": "No latency at all; what hangs still hangs.",
    "normal": "Latencies that a human sees: 40 chunks in about two seconds.",
    "slow": "5 s to load, then 400 chunks, four a second.",
    "long": "400 chunks, four a second, the first of them at once.",
    "parallel": "As normal, with four slots per model.",
    "flood": "10,000 chunks as fast as they go, for 64 callers at once.",
}


def profile_named(name: str) -> Profile:
    """Return the profile; a ValueError lists the names there are."""
    if name not in PROFILES:
        raise ValueError(f"there is no profile {name!r}; there are: {', '.join(PROFILES)}")
    return PROFILES[name]
