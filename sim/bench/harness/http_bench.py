"""What the benches at server and at stack level have in common: a server that is asked over HTTP,
around a registry with the production one's snapshot."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, Literal

from registry.protocol import Snapshot, State
from registry.stop_signal import StopSignals
from server.settings import Settings
from sim.bench.harness.answers import Answer
from sim.bench.harness.judgement import Judgements, Judges
from sim.bench.harness.log_capture import LogLine
from sim.bench.harness.observed_protocol import ObservedProtocol
from sim.bench.harness.registry_bench import LIMITS, phrase_invariants
from sim.bench.harness.state_words import words_of_streams
from sim.fake_ollama import Profile
from sim.kernel.world import World

Client = Literal["async", "thread"]

KEYS = {"alice": "alice-key", "bob": "bob-key"}
# Few chunks, far enough apart that what is meant to come between them does.
PROFILE = Profile(
    load_s=1.0, slow_load_s=4.0, prompt_eval_s=0.1, chunk_s=0.2, chunks=2, fault_after_chunks=1
)


class HttpBench(ABC):
    """One execution's server, seen by its clients."""

    # Of the class under check, or in place of it what offers the same.
    registry: Any

    def __init__(self, world: World, settings: Settings) -> None:
        self.world = world
        self.logged: list[LogLine] = []
        self.settings = settings
        self.grace_s = settings.grace_seconds
        # Each iteration in between may be late.
        self.slack_s = 10 * world.lateness_s
        self.stop_signals = StopSignals()
        serials = itertools.count(1)
        self.new_trace_id: Callable[[], str] = lambda: f"t{next(serials)}"
        # Whether a request's own task may be cancelled, so that its answer may not be ended.
        self.clients_may_be_cut = False
        self._sessions: dict[str, str] = {}
        # When each stream that is STOPPING, or WAITING, was first seen so.
        self._since: dict[tuple[str, State], float] = {}
        # A snapshot with no such stream in it; between two operations the snapshot is the same.
        self._calm: Snapshot | None = None

    def be_judged(self, judgements: Judgements) -> None:
        """By these from now on, and by the registry's invariants."""
        phrase_invariants(self.world)
        self.judges = Judges(self.world, self, judgements)
        self.world.shows(self.holding, self.values)

    def observed_registry(self, cls: type[Any], executor: Any) -> Any:
        """Of a class that is StreamRegistry, or inherits from it."""
        protocol = ObservedProtocol(self.world, **{**LIMITS, "grace_s": self.grace_s})
        registry = cls(protocol=protocol, executor=executor, stop_signals=self.stop_signals)
        protocol.watch(registry, self.logged)
        return registry

    @property
    @abstractmethod
    def exchanges(self) -> Iterable[Answer]:
        """All prompts so far, and what came back."""

    @abstractmethod
    def said_to(self, prompt: str) -> str:
        """All that Ollama said to this prompt."""

    @abstractmethod
    def prompts_upstream(self) -> list[str]:
        """Those that Ollama is asked, while nobody has noticed an end; none where it is one."""

    def calls_open(self) -> list[str]:
        """The prompts of the calls that are open, also of one alone."""
        return self.prompts_upstream()

    def holding(self) -> dict[str, str]:
        """Of each prompt with a call, and of the task that has it."""
        callers = (each for pair in self.callers(self.calls_open()) for each in pair if each)
        return dict.fromkeys(callers, "its call to Ollama is open")

    def values(self) -> dict[str, str]:
        """The streams of the registry; none of a published one, which shows none."""
        names = {each.given_id: each.name for each in self.exchanges if each.given_id}
        return words_of_streams(self.registry.snapshot(), names, registered=names)

    def callers(self, prompts: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Each with the task that has its call, if that is known and no thread has it."""
        given = {each.name: each.given_id for each in self.exchanges}
        # Whose client has not heard its id yet.
        others = (
            view.trace_id
            for view in self.registry.snapshot().streams
            if view.trace_id not in given.values()
        )
        for prompt in prompts:
            trace_id = given[prompt] or next(others, None)
            has_task = trace_id is not None and not self.has_threads
            yield prompt, f"agent-{trace_id}" if has_task else ""

    @property
    def has_threads(self) -> bool:
        return self.settings.ollama_client == "thread"

    def headers_of_prompt(
        self, name: str, session: str | None, key: str, strategy: str | None
    ) -> dict[str, str]:
        """Of a prompt of this session, which is noted."""
        self._sessions[name] = f"{key}/{session}"
        headers = {"authorization": f"Bearer {KEYS[key]}", "content-type": "application/json"}
        if session is not None:
            headers["x-session-id"] = session
        if strategy is not None:
            headers["x-session-strategy"] = strategy
        return headers

    def session_of(self, prompt: str) -> str:
        return self._sessions.get(prompt, prompt)

    def state_of(self, exchange: Answer) -> State | None:
        views = self.registry.snapshot().streams
        states = (State(view.state) for view in views if view.trace_id == exchange.given_id)
        return next(states, None)

    def in_state_longer_than(self, state: State, limit_s: float) -> list[str]:
        """The names of the streams that have been in the state for longer than `limit_s`."""
        snapshot = self.registry.snapshot()
        if snapshot is self._calm:
            return []
        now = self.world.now
        found = []
        is_calm = True
        for view in snapshot.streams:
            is_calm = is_calm and view.state is State.ACTIVE
            if view.state is not state:
                continue
            since = self._since.setdefault((view.trace_id, state), now)
            if now - since > limit_s + self.slack_s:
                found.append(view.trace_id)
        if is_calm:
            self._calm = snapshot
        return found


@cache
def settings_of(client: Client, ollama_host: str, **values: Any) -> Settings:
    """Reading the environment for each execution would take longer than the execution."""
    keys = ",".join(KEYS.values())
    return Settings(api_keys=keys, ollama_host=ollama_host, ollama_client=client, **values)
