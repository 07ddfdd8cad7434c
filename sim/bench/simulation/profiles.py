"""The profiles: how users behave and which faults there are; and the drawing of plans from them.

Each seed enables its own part of its profile's faults, at a rate of its own ("swarm testing",
Groce et al., 2012): a run in which everything fails at once reaches less than runs that each lack
some faults.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from registry import Strategy
from sim.bench.simulation.draws import Random, rng_for
from sim.bench.simulation.plan import Action, Kind, Plan
from sim.fake_ollama import Profile
from sim.fake_ollama.modes import MODES

Client = Literal["async", "thread"]
CLIENTS: tuple[Client, ...] = ("async", "thread")

# What a prompt may ask of Ollama that is not a fault.
HARMLESS = ("normal", "normal", "normal", "unicode", "one-segment", "zeros", "thinking")
# Faults that are not modes of the fake.
OTHER_FAULTS = ("unreachable", "stuck lookup", "stops reading", "half sent")
THREAD_ONLY = ("stuck lookup",)
# Faults of which the user sees nothing, and prompts again.
SILENT = ("stuck lookup", "hang-before-headers", "hang-midstream", "load-aborted")
_HURRY_IN_SILENCE = (0.3, 0.6, 0.1)
# What the streams of the registry level do when they are stopped.
CLEANS_UP, SWALLOWS = "slow clean-up", "swallowed cancel"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationProfile:
    """sessions, prompts: least and most of an execution. hurry: how often a user prompts again at
    once, while the answer streams, and after it. faults, registry_faults: at either level.
    fault_rates: the shares of prompts that meet one, of which each seed draws one.
    """

    name: str
    sentence: str
    sessions: tuple[int, int]
    prompts: tuple[int, int]
    hurry: tuple[float, float, float]
    faults: tuple[str, ...] = ()
    registry_faults: tuple[str, ...] = ()
    fault_rates: tuple[float, ...] = (0.2, 0.4, 0.7)

    def __post_init__(self) -> None:
        unknown = set(self.faults) - set(MODES) - set(OTHER_FAULTS)
        if unknown:
            raise ValueError(f"profile {self.name}: there are no faults {sorted(unknown)}")

    def faults_for(self, level: str, client: Client) -> tuple[str, ...]:
        if level == "registry":
            return self.registry_faults
        return tuple(f for f in self.faults if client == "thread" or f not in THREAD_ONLY)


_PROFILES = (
    SimulationProfile(
        name="calm",
        sentence="A few users who mostly read to the end; nothing fails.",
        sessions=(3, 4),
        prompts=(7, 10),
        hurry=(0.05, 0.3, 0.65),
    ),
    SimulationProfile(
        name="busy",
        sentence="Many users in a hurry, slow models, readers that stall.",
        sessions=(4, 6),
        prompts=(10, 15),
        hurry=(0.3, 0.5, 0.2),
        faults=(
            "slow-load",
            "busy-queue",
            "slow",
            "stuck lookup",
            "stops reading",
            "late-notice",
        ),
        registry_faults=(CLEANS_UP,),
    ),
    SimulationProfile(
        name="flaky",
        sentence="Ollama and the network fail often, and say so.",
        sessions=(3, 5),
        prompts=(8, 13),
        hurry=(0.15, 0.45, 0.4),
        faults=(
            "error",
            "error-midstream",
            "cut",
            "crash",
            "missing",
            "busy",
            "rate-limited",
            "bad-gateway",
            "pause",
            "unreachable",
            "half sent",
        ),
        registry_faults=(CLEANS_UP, SWALLOWS),
    ),
    SimulationProfile(
        name="hostile-upstream",
        sentence="Ollama hangs, leaks its slots and hears nothing; lookups are stuck.",
        sessions=(3, 5),
        prompts=(8, 13),
        hurry=(0.2, 0.5, 0.3),
        faults=(
            "hang-before-headers",
            "hang-midstream",
            "ignores-disconnect",
            "load-aborted",
            "late-notice",
            "stuck lookup",
            "stuck lookup",
            "stuck lookup",
            "stops reading",
            "unreachable",
        ),
        registry_faults=(SWALLOWS,),
        fault_rates=(0.3, 0.6, 0.9),
    ),
)

PROFILES: dict[str, SimulationProfile] = {profile.name: profile for profile in _PROFILES}

# Short answers: an execution is to take some tens of milliseconds, and its latencies spread.
_OLLAMA = Profile(
    load_s=0.8,
    slow_load_s=4.0,
    aborted_load_s=9.0,
    prompt_eval_s=0.1,
    late_s=3.0,
    busy_s=3.0,
    pause_s=3.0,
    chunk_s=0.2,
    slow_chunk_s=0.4,
    chunks=3,
    thinking_chunks=1,
    slow_chunks=8,
    fault_after_chunks=1,
)
_SIGTERM_RATE = 0.1
_LEAVE_RATES = (0.0, 0.1, 0.3)
_STOP_RATES = (0.0, 0.1, 0.3)
# How many of a seed's prompts do not interrupt, and what these say of a busy session.
_PATIENT_RATES = (0.0, 0.0, 0.4, 0.9)
_PATIENT = (Strategy.ENQUEUE, Strategy.ENQUEUE, Strategy.REJECT)
_HAS_TWO_KEYS = 0.25
_ON_GRID = 0.5
_GRID_S = 0.1
_OUTAGE_S = (0.5, 3.0)
LOOKUP_MAX_S = 7.0
_LOOKUP_S = (0.5, LOOKUP_MAX_S)


@dataclass(slots=True)
class _Drawing:
    """The plan of one seed while it is drawn."""

    profile: SimulationProfile
    level: str
    client: Client
    random: Random
    # A generator of its own, so that the rest of a seed is the same as if all interrupted.
    strategies: Random
    actions: list[Action] = field(default_factory=list)
    patient_rate: float = 0.0

    def draw(self) -> Plan:
        random, profile = self.random, self.profile
        self.patient_rate = self.strategies.choice(_PATIENT_RATES)
        enabled = [f for f in profile.faults_for(self.level, self.client) if random.random() < 0.6]
        fault_rate = random.choice(profile.fault_rates)
        leave_rate, stop_rate = random.choice(_LEAVE_RATES), random.choice(_STOP_RATES)
        sessions = random.randint(*profile.sessions)
        prompts = random.randint(*profile.prompts)
        # Times on a grid make what users do meet what Ollama does, in the same instant.
        on_grid = random.random() < _ON_GRID
        has_two_keys = random.random() < _HAS_TWO_KEYS
        for user in range(sessions):
            at = random.uniform(0.0, 2.0)
            key = "bob" if has_two_keys and user % 2 else "alice"
            # Bob's session has the name of one of alice's: keys do not share sessions.
            session = f"s{user - (key == 'bob') + 1}"
            for _ in range(prompts // sessions + (user < prompts % sessions)):
                at = round(at / _GRID_S) * _GRID_S if on_grid else at
                fault = random.choice(enabled) if enabled and random.random() < fault_rate else None
                number = self._prompt(at, session, key, fault)
                self._user_acts(number, at, leave_rate, stop_rate)
                at += self._gap_s(_HURRY_IN_SILENCE if fault in SILENT else profile.hurry)
        self._end()
        return self._ordered(on_grid)

    def _add(self, at: float, kind: Kind, **more: object) -> int:
        number = len(self.actions)
        # Some events come at their instant, others within a window, when the scheduler says.
        window_s = self.random.choice((0.0, 0.0, 0.02, 0.3))
        self.actions.append(Action(number, at, kind, window_s=window_s, **more))  # type: ignore[arg-type]
        return number

    def _prompt(self, at: float, session: str, key: str, fault: str | None) -> int:
        random = self.random
        how = fault if fault in MODES or fault in (CLEANS_UP, SWALLOWS) else None
        if how is None:
            how = random.choice(HARMLESS) if self.level == "server" else "at once"
        seconds = random.uniform(0.1, 1.5) if how == CLEANS_UP else random.uniform(0.5, 7.0)
        if fault == "unreachable":
            outage_at = max(0.0, at - random.uniform(0.0, 0.5))
            self._add(outage_at, "unreachable")
            self._add(outage_at + random.uniform(*_OUTAGE_S), "reachable")
        if fault == "stuck lookup":
            self._add(max(0.0, at - 0.01), "stuck lookup", seconds=random.uniform(*_LOOKUP_S))
        number = self._add(
            at,
            "half a prompt" if fault == "half sent" else "prompt",
            session=session,
            key=key,
            how=how,
            stream=random.random() < 0.75,
            strategy=self._strategy(),
            seconds=seconds,
        )
        if fault == "half sent" and random.random() < 0.6:
            self._add(at + random.uniform(0.0, 4.0), "rest", of=number)
        if fault == "stops reading":
            stops_at = at + random.uniform(0.0, 2.0)
            self._add(stops_at, "stop reading", of=number)
            if random.random() < 0.5:
                self._add(stops_at + random.uniform(0.1, 4.0), "read on", of=number)
        return number

    def _strategy(self) -> Strategy:
        if self.strategies.random() < self.patient_rate:
            return self.strategies.choice(_PATIENT)
        return Strategy.INTERRUPT

    def _user_acts(self, number: int, at: float, leave_rate: float, stop_rate: float) -> None:
        random = self.random
        if random.random() < leave_rate:
            self._add(at + random.lognormvariate(-0.5, 1.0), "leave", of=number)
        if random.random() < stop_rate:
            stop_at = at + random.lognormvariate(-0.5, 1.0)
            self._add(stop_at, "stop", of=number)
            if random.random() < 0.3:
                self._add(stop_at, "stranger's stop", of=number)

    def _gap_s(self, hurry: tuple[float, float, float]) -> float:
        """Until the user's next prompt: at once, while the answer streams, or after it."""
        random = self.random
        (how,) = random.choices((0, 1, 2), hurry)
        medians = (0.02, 0.9, 3.0)
        return medians[how] * random.lognormvariate(0.0, 0.6)

    def _end(self) -> None:
        random = self.random
        if random.random() < _SIGTERM_RATE:
            at = random.uniform(0.5, max(action.at for action in self.actions))
            # A connection that is open already may carry a prompt that comes just too late.
            self.actions = [action for action in self.actions if action.at <= at + 0.2]
            self._renumber()
            self._add(at, "SIGTERM")

    def _renumber(self) -> None:
        """Numbers are places, also after some were left out."""
        places = {action.number: place for place, action in enumerate(self.actions)}
        self.actions = [
            replace(
                action,
                number=places[action.number],
                of=None if action.of is None else places[action.of],
            )
            for action in self.actions
        ]

    def _ordered(self, on_grid: bool) -> Plan:
        random = self.random
        self.actions.sort(key=lambda action: action.at)
        self._renumber()
        ollama = replace(
            _OLLAMA, num_parallel=random.choice((1, 1, 2, 4)), chunks=random.randint(2, 4)
        )
        bench = {
            "profile": ollama,
            "buffer_bytes": random.choice((0, 0, 2000)),
            "threads_max": random.choice((4, 8)),
            # Every line a switch point: that finds rare races, and doubles the time.
            "lines": random.random() < 0.33,
        }
        return Plan(
            actions=tuple(self.actions),
            drawn=len(self.actions),
            bench=bench,
            spread=0.0 if on_grid else random.choice((0.1, 0.5, 1.0)),
        )


def draw_plan(profile: SimulationProfile, level: str, client: Client, seed: int) -> Plan:
    """The plan of this seed; the same in every process."""
    random = rng_for("plan", profile.name, level, client, seed)
    strategies = rng_for("strategies", profile.name, level, client, seed)
    return _Drawing(profile, level, client, random, strategies).draw()


def profile_named(name: str) -> SimulationProfile:
    """Raises ValueError, with the known profiles."""
    if name not in PROFILES:
        raise ValueError(f"profile {name!r} is not known; there are {', '.join(PROFILES)}")
    return PROFILES[name]
