"""A plan at server level: users with HTTP clients, and an Ollama with latencies and faults."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Iterator

from registry import Strategy, wording
from sim.bench.harness.asgi import Exchange
from sim.bench.harness.http_bench import KEYS
from sim.bench.harness.judgement import Judges, Moment
from sim.bench.harness.log_capture import LogLine
from sim.bench.harness.server_bench import ServerBench
from sim.bench.simulation import script
from sim.bench.simulation.draws import Random, rng_for
from sim.bench.simulation.judgements import (
    SERVER,
    SERVER_OVER_S,
    Turn,
    Watch,
    is_answered,
    sessions_of,
)
from sim.bench.simulation.plan import Action, Plan
from sim.bench.simulation.profiles import HARMLESS, LOOKUP_MAX_S
from sim.bench.simulation.statistics import Statistics
from sim.fake_ollama.modes import MODES
from sim.fake_ollama.script import Steps
from sim.fake_ollama.steps import Sleep

# Short, so that an execution reaches all of them.
SETTINGS = {
    "first_chunk_seconds": 8.0,
    "stream_inactivity_seconds": 4.0,
    "total_seconds": 20.0,
    "send_seconds": 3.0,
    "body_seconds": 3.0,
    "head_hold_seconds": 2.0,
    "ping_seconds": 3.0,
}
# How long a prompt may take to be answered whole once all is healed: the load of the model,
# then one answer after the other, where Ollama has a single slot.
ANSWER_S = 2.0
LOAD_S = 1.0


class ServerUsers:
    """All that is outside of the server, in one execution."""

    def __init__(self, bench: ServerBench, plan: Plan, seed: int, happened: Statistics) -> None:
        self._bench = bench
        self._world = bench.world
        self._plan = plan
        self._seed = seed
        self._happened = happened
        self._prompts: dict[str, Exchange] = {}
        self._sent_at: dict[str, float] = {}
        self._admitted_at: dict[str, float] = {}
        self._superseded: set[str] = set()
        self._stops: list[asyncio.Task[None]] = []
        self._ending: asyncio.Task[None] | None = None
        self._lookups = 0
        self._spread = plan.spread
        self._watch = Watch(bench)
        judgements = SERVER if bench.is_production else ()
        self._judges = Judges(bench.world, self._watch, judgements)

    async def play(self, bench: ServerBench) -> None:
        bench.ollama.played = self._with_latencies
        await script.play(self._world, self._plan, self._act)
        if self._ending is not None:
            await self._ending
            self._judges.ask(Moment.SHUT, self._open())
        else:
            self._heal()
            await self._until_over()
            # The last fault that no healing ends.
            await self._lookups_over()
            await self._prompt_again()
        if self._stops:
            await asyncio.wait(self._stops)
        await self._lookups_over()
        self._judge_ends()

    async def _lookups_over(self) -> None:
        """Nothing can wake a thread that looks up a name, so it is quiet when that is over."""
        workers = self._world.loop.threads.workers
        for _ in range(math.ceil(LOOKUP_MAX_S)):
            if not any(each.where == "getaddrinfo" for each in workers):
                break
            await asyncio.sleep(1.0)

    def logged(self, line: LogLine) -> None:
        """Called with each log line of the server."""
        counts = self._happened.counts
        counts["detached"] += line.says(wording.TIMEOUT_ON_CANCEL)
        counts["stopped"] += line.says(wording.STREAM_CANCELLED, reason="requested_by_client")
        if line.says(wording.STREAM_START):
            self._admitted_at[line.fields["trace"]] = self._world.now
        elif line.says(wording.STREAM_CANCELLED, reason=wording.NEW_STREAM_REGISTERED):
            counts["superseded"] += 1
            self._superseded.add(line.fields["trace"])
        elif line.says("client_stalled"):
            self._cut_off(line.fields["trace"])

    def _cut_off(self, trace_id: str) -> None:
        """The server drops a connection that is not read: its client gets no error."""
        self._happened.counts["given up by the server"] += 1
        for prompt in self._prompts.values():
            if prompt.given_id == trace_id:
                prompt.leave()

    # -- the faulty phase

    def _act(self, action: Action) -> None:
        if self._ending is not None and self._ending.done():
            # The process is gone, and its port with it.
            return
        match action.kind:
            case "prompt" | "half a prompt":
                self._send(action)
            case "unreachable" | "reachable":
                self._bench.ollama.is_down = action.kind == "unreachable"
                self._happened.faults["unreachable"] += action.kind == "unreachable"
            case "stuck lookup":
                self._bench.ollama.lookup_s.append(action.seconds)
                self._lookups += 1
            case "SIGTERM":
                if any(not each.is_whole for each in self._prompts.values()):
                    self._happened.counts["SIGTERM mid-stream"] += 1
                self._ending = self._bench.terminate()
            case _:
                self._act_on_prompt(action, self._prompts.get(action.name))

    def _act_on_prompt(self, action: Action, prompt: Exchange | None) -> None:
        if prompt is None or prompt.has_left or prompt.ended_at is not None:
            # It has not come yet, or is over already; perhaps the server has given it up.
            return
        match action.kind:
            case "leave":
                self._happened.counts["left"] += 1
                self._watch.leaves(prompt)
            case "stop reading":
                self._happened.counts["stopped reading"] += 1
                self._happened.faults["stops reading"] += 1
                prompt.stop_reading()
            case "read on":
                prompt.read_on()
            case "rest":
                # Before, the server could not know what the prompt is.
                self._sent_at[action.name] = self._world.now
                prompt.send_rest()
            case "stop" | "stranger's stop":
                # Without the head of its answer a client doesn't know the stream's name.
                if prompt.given_id is not None:
                    task = self._world.loop.create_task(self._stop(action, prompt))
                    self._stops.append(task)

    def _send(self, action: Action) -> None:
        is_half = action.kind == "half a prompt"
        self._happened.counts["prompts"] += 1
        self._happened.faults["half sent"] += is_half
        self._sent_at[action.name] = self._world.now
        self._prompts[action.name] = self._bench.post_now(
            action.name,
            action.session,
            model=f"fake:{action.how}",
            key=action.key,
            stream=action.stream,
            strategy=self._strategy_of(action),
            half=is_half,
        )

    def _strategy_of(self, action: Action) -> str | None:
        """None: the server's default, and the only one of a published registry."""
        is_usual = action.strategy is Strategy.INTERRUPT or not self._bench.is_production
        return None if is_usual else action.strategy.value

    async def _stop(self, action: Action, prompt: Exchange) -> None:
        owner = self._owner_of(prompt)
        if action.kind == "stop":
            await self._bench.press_stop(prompt, key=owner)
            return
        stranger = next(key for key in KEYS if key != owner)
        self._judges.ask(Moment.PRIED, await self._bench.press_stop(prompt, key=stranger))

    def _owner_of(self, prompt: Exchange) -> str:
        return next(each.key for each in self._plan.actions if each.name == prompt.name)

    # -- Ollama's latencies

    def _with_latencies(self, body: bytes, steps: Steps) -> Steps:
        """The same steps, each wait of them longer or shorter by a log-normal factor.

        It is drawn from the prompt's own generator, so that leaving another prompt out of the plan
        changes nothing for this one.
        """
        if not body or self._spread == 0.0:
            return steps
        prompt = json.loads(body)["messages"][-1]["content"]
        return _spread(steps, rng_for("latency", self._seed, prompt), self._spread)

    # -- healing

    def _heal(self) -> None:
        ollama = self._bench.ollama
        ollama.is_down = False
        ollama.lookup_s.clear()
        # Slots that leaked come back when the model is unloaded, and only then.
        ollama.fake.reset()
        self._spread = 0.0
        self._world.record("all faults are healed", actor="outside")

    async def _until_over(self) -> None:
        pending = [e.task for e in self._bench.server.exchanges if e.task and not e.task.done()]
        if pending:
            await asyncio.wait(pending, timeout=SERVER_OVER_S)
        self._judges.ask(Moment.LATE, self._open())

    def _open(self) -> list[str]:
        return [e.name for e in self._bench.server.exchanges if e.task and not e.task.done()]

    async def _prompt_again(self) -> None:
        """The judgement of liveness: every user prompts once more, at once."""
        last = []
        for key, session in self._plan.users:
            name = f"last of {key}/{session}"
            self._world.record(f"{name} arrives", actor="outside")
            last.append(self._bench.post_now(name, session, key=key))
            self._sent_at[name] = self._world.now
            self._prompts[name] = last[-1]
        self._happened.counts["prompts"] += len(last)
        if not last:
            return
        limit_s = self._bench.grace_s + LOAD_S + ANSWER_S * len(last)
        await asyncio.wait([e.task for e in last if e.task is not None], timeout=limit_s)
        for each in last:
            self._judges.ask(Moment.HEALED, each)
            self._happened.counts["healed, and answered"] += is_answered(each)

    def _judge_ends(self) -> None:
        modes = {each.name: each.how for each in self._plan.actions if each.of is None}
        for name, prompt in self._prompts.items():
            mode, profile = modes.get(name, "normal"), self._plan.bench["profile"]
            self._judges.ask(Moment.COMPLETED, prompt, mode, profile)
        for name, prompt in self._prompts.items():
            admitted_at = self._admitted_at.get(prompt.given_id or "")
            if admitted_at is not None and prompt.ended_at is not None and prompt.is_reading:
                lasted_s = prompt.ended_at - admitted_at
                self._judges.ask(Moment.LASTED, prompt, modes.get(name, "normal"), lasted_s)
        for together in sessions_of(self._turns()):
            self._judges.ask(Moment.TURNS, together, 0.1)

    def _turns(self) -> Iterator[Turn]:
        """Of each prompt since its last byte: one that is half sent does not wait yet."""
        for action in self._plan.actions:
            prompt = self._prompts.get(action.name)
            if action.of is not None or prompt is None:
                continue
            trace_id = prompt.given_id or ""
            yield Turn(
                action.name,
                f"{action.key}/{action.session}",
                action.strategy,
                self._sent_at[action.name],
                self._admitted_at.get(trace_id, math.inf),
                trace_id in self._superseded,
            )

    # -- what happened

    def summarise(self) -> None:
        """Counts what is known only at the end."""
        happened, fake = self._happened, self._bench.ollama.fake
        patient = {a.name for a in self._plan.actions if self._strategy_of(a) == "enqueue"}
        for name, prompt in self._prompts.items():
            admitted_at = self._admitted_at.get(prompt.given_id or "")
            if admitted_at is not None:
                happened.admitted(admitted_at - self._sent_at[name], enqueued=name in patient)
            if is_answered(prompt):
                happened.counts["answered whole"] += 1
            elif prompt.is_whole:
                happened.counts.update(_failure_counts(prompt.error_code))
                happened.faults["missing"] += prompt.error_code == "model_not_found"
        happened.faults["stuck lookup"] += self._lookups
        for call in fake.calls:
            mode = MODES[call.mode]
            met = call.slot_ns is not None or mode.refusal is not None or mode.load != "load"
            if met and call.mode not in HARMLESS:
                happened.faults[call.mode] += 1
        overdue = "row graceexpired: stopping, at the limit of detached streams"
        happened.counts["overdue"] += overdue in self._world.labels


def _spread(steps: Steps, random: Random, sigma: float) -> Steps:
    try:
        for step in steps:
            if isinstance(step, Sleep):
                step = Sleep(step.seconds * random.lognormvariate(0.0, sigma), step.deaf)
            yield step
    finally:
        steps.close()


def _failure_counts(code: str | None) -> Counter[str]:
    if code in ("queue_full", "queue_timeout", "session_busy"):
        return Counter((code.replace("_", " "),))
    if code in ("refused", "shutting_down", "no_thread_free"):
        return Counter(("refused",))
    if code in ("upstream_silent", "total_exceeded"):
        return Counter(("told that Ollama is silent",))
    if code is not None and (code.startswith("upstream") or code in ("cut", "model_not_found")):
        return Counter(("told that Ollama failed",))
    return Counter()
