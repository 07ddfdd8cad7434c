"""What the server counts and measures, from its events, for `GET /metrics`.

The numbers are kept here and not in prometheus-client's own objects: those read the wall clock when
they are made, take a lock for each change, and become files where PROMETHEUS_MULTIPROC_DIR is set.
The library gets them at a scrape, and writes them in the form that was asked for.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder

from registry import Snapshot, State
from registry.operations import Logged
from registry.wording import (
    NEW_STREAM_REGISTERED,
    STREAM_CANCELLED,
    STREAM_START,
    TIMEOUT_ON_CANCEL,
)
from server.archive import Way
from server.events import FIRST_CHUNK, OVER, REGISTERED
from server.refusals import FAILED, REFUSED
from server.stores.watched_store import NO_ANSWER, STORE_ASKED
from server.stores.wording import LEASE_LOST

# From a prompt that waits for nobody to one that waits for a model to be loaded.
BUCKETS_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
# Of errors: those that say what is wrong with Ollama, or with the way to it.
UPSTREAM_CODES = frozenset(
    {
        "cut",
        "upstream_busy",
        "upstream_error",
        "upstream_not_understood",
        "upstream_rate_limited",
        "upstream_rejected",
        "upstream_silent",
        "upstream_too_large",
        "upstream_unauthorized",
        "upstream_unreachable",
    }
)
# Why Ollama says that an answer is whole; it may say anything.
_FINISHES = frozenset({"stop", "length", "load", "unload"})
OTHER = "other"


class Kind(enum.Enum):
    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True)
class Definition:
    """One metric. Every value of its labels is one of a few that are known from the code."""

    name: str
    kind: Kind
    what: str
    labels: tuple[str, ...] = ()


_STREAMS = Definition("onestream_streams", Kind.GAUGE, "Streams now, by state.", ("state",))
_OVERDUE = Definition(
    "onestream_streams_overdue",
    Kind.GAUGE,
    "Streams beyond their grace that hold their sessions, as no more may be detached; always 0 "
    "with a store, which keeps that to itself.",
)
_STORE_UP = Definition(
    "onestream_store_reachable", Kind.GAUGE, "Whether the store answered last; 1 without a store."
)
_REGISTERED = Definition(
    "onestream_prompts_total", Kind.COUNTER, "Prompts that asked for their session."
)
_ENDED = Definition(
    "onestream_streams_ended_total",
    Kind.COUNTER,
    "Prompts that are over: `finished` with Ollama's reason, `stopped` with that of the log, "
    "`refused` and `failed` with the error's code.",
    ("end", "reason"),
)
_WAIT = Definition(
    "onestream_admission_wait_seconds",
    Kind.HISTOGRAM,
    "From a prompt's register until its stream is active.",
)
_FIRST = Definition(
    "onestream_first_chunk_seconds",
    Kind.HISTOGRAM,
    "From a prompt's register until Ollama's first chunk.",
)
_CHUNKS = Definition("onestream_chunks_total", Kind.COUNTER, "Chunks that Ollama sent.")
_SUPERSEDED = Definition(
    "onestream_supersessions_total", Kind.COUNTER, "Streams that a newer prompt stopped."
)
_DETACHED = Definition(
    "onestream_detached_total",
    Kind.COUNTER,
    "Streams that did not end within their grace. Of workers, the one that takes the session over "
    "counts it.",
)
_REFUSALS = Definition(
    "onestream_requests_refused_total",
    Kind.COUNTER,
    "Requests that got an error for what they asked.",
    ("status", "code"),
)
_UPSTREAM = Definition(
    "onestream_upstream_errors_total", Kind.COUNTER, "Errors of Ollama, by code.", ("kind",)
)
_RENEWALS = Definition(
    "onestream_lease_renewals_total", Kind.COUNTER, "Leases that the store has renewed."
)
_LOSSES = Definition(
    "onestream_lease_losses_total", Kind.COUNTER, "Streams that ended since their lease was over."
)
_STORE = Definition(
    "onestream_store_seconds",
    Kind.HISTOGRAM,
    "Requests to the store, answered or not.",
    ("operation",),
)
_STORE_ERRORS = Definition(
    "onestream_store_errors_total",
    Kind.COUNTER,
    "Requests that the store did not answer.",
    ("operation",),
)

METRICS = (
    *(_STREAMS, _OVERDUE, _REGISTERED, _ENDED, _WAIT, _FIRST, _CHUNKS, _SUPERSEDED, _DETACHED),
    *(_REFUSALS, _UPSTREAM, _STORE_UP, _STORE, _STORE_ERRORS, _RENEWALS, _LOSSES),
)
# Of every metric; empty where no store is shared.
WORKER = "worker"

Labels = tuple[str, ...]


@dataclass
class _Histogram:
    """How often a value fell into each bucket; the last one has no bound."""

    counts: list[int]
    total: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        summed, cumulative = 0, []
        for bound, count in zip((*BUCKETS_S, float("inf")), self.counts, strict=True):
            summed += count
            cumulative.append(("+Inf" if bound == float("inf") else f"{bound}", float(summed)))
        return cumulative


@dataclass
class _Running:
    """A prompt that is not over."""

    registered_at: float
    # The word of the log, once it was told to stop.
    stop_reason: str = ""


class Metrics:
    """A listener of one application's events.

    clock: the event loop's. Belongs to the loop's thread, scrapes included.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._counts: dict[Definition, Counter[Labels]] = {}
        self._histograms: dict[Definition, dict[Labels, _Histogram]] = {}
        # By trace id, from the register until the answer is over.
        self._running: dict[str, _Running] = {}
        for each in METRICS:
            if each.kind is Kind.COUNTER:
                self._counts[each] = Counter()
            elif each.kind is Kind.HISTOGRAM:
                self._histograms[each] = {}
            if not each.labels:
                # Without labels it is there from the start, as 0.
                self._start(each)

    def _start(self, each: Definition) -> None:
        if each.kind is Kind.COUNTER:
            self._counts[each][()] = 0
        elif each.kind is Kind.HISTOGRAM:
            self._histograms[each][()] = _histogram()

    # -- the events

    def hear(self, event: Logged) -> None:
        handler = _HANDLERS.get(event.event)
        if handler is not None:
            handler(self, dict(event.fields))

    def _registered(self, fields: Mapping[str, object]) -> None:
        self._running[str(fields["trace"])] = _Running(self._clock())
        self._count(_REGISTERED)

    def _started(self, fields: Mapping[str, object]) -> None:
        self._measure_since_register(_WAIT, fields)

    def _first_chunk(self, fields: Mapping[str, object]) -> None:
        self._measure_since_register(_FIRST, fields)

    def _measure_since_register(self, each: Definition, fields: Mapping[str, object]) -> None:
        running = self._running.get(str(fields["trace"]))
        if running is not None:
            self._measure(each, self._clock() - running.registered_at)

    def _cancelled(self, fields: Mapping[str, object]) -> None:
        reason = str(fields["reason"])
        running = self._running.get(str(fields["trace"]))
        if running is not None:
            running.stop_reason = running.stop_reason or reason
        if reason == NEW_STREAM_REGISTERED:
            self._count(_SUPERSEDED)
        elif reason == LEASE_LOST:
            self._count(_LOSSES)

    def _timed_out(self, fields: Mapping[str, object]) -> None:
        self._count(_DETACHED)

    def _over(self, fields: Mapping[str, object]) -> None:
        running = self._running.pop(str(fields["trace"]), None)
        way, reason = Way(fields["way"]), str(fields["reason"])
        if way is Way.FINISHED:
            reason = reason if reason in _FINISHES else OTHER
        elif way is Way.STOPPED and running is not None and running.stop_reason:
            reason = running.stop_reason
        self._count(_ENDED, way.value, reason)
        self._count(_CHUNKS, by=int(str(fields["chunks"])))

    def _refused(self, fields: Mapping[str, object]) -> None:
        self._count(_REFUSALS, str(fields["status"]), str(fields["code"]))
        self._failed(fields)

    def _failed(self, fields: Mapping[str, object]) -> None:
        if fields["code"] in UPSTREAM_CODES:
            self._count(_UPSTREAM, str(fields["code"]))

    def _store_asked(self, fields: Mapping[str, object]) -> None:
        operation, answer = str(fields["operation"]), fields["answer"]
        self._measure(_STORE, float(str(fields["took_s"])), operation)
        if answer == NO_ANSWER:
            self._count(_STORE_ERRORS, operation)
        elif operation == "renew" and answer == "ok":
            self._count(_RENEWALS)

    def _count(self, each: Definition, *labels: str, by: int = 1) -> None:
        self._counts[each][labels] += by

    def _measure(self, each: Definition, seconds: float, *labels: str) -> None:
        self._histograms[each].setdefault(labels, _histogram()).add(seconds)

    # -- a scrape

    def families(
        self, snapshot: Snapshot, *, worker: str, chunks_of_running: int, is_store_up: bool
    ) -> Iterator[Metric]:
        """All of them, in prometheus-client's terms."""
        gauges: dict[Definition, dict[Labels, float]] = {
            _STREAMS: {(state.name.lower(),): len(snapshot.in_state(state)) for state in State},
            _OVERDUE: {(): sum(stream.overdue for stream in snapshot.streams)},
            _STORE_UP: {(): float(is_store_up)},
        }
        for each in METRICS:
            names = (*each.labels, WORKER)
            if each.kind is Kind.GAUGE:
                gauge = GaugeMetricFamily(each.name, each.what, labels=names)
                for labels, value in gauges[each].items():
                    gauge.add_metric((*labels, worker), value)
                yield gauge
            elif each.kind is Kind.COUNTER:
                counter = CounterMetricFamily(each.name, each.what, labels=names)
                more = chunks_of_running if each is _CHUNKS else 0
                for labels, count in self._counts[each].items():
                    counter.add_metric((*labels, worker), count + more)
                yield counter
            else:
                histogram = HistogramMetricFamily(each.name, each.what, labels=names)
                for labels, kept in self._histograms[each].items():
                    histogram.add_metric((*labels, worker), kept.buckets(), kept.total)
                yield histogram


def exposition(families: Callable[[], Iterator[Metric]], accept: str) -> tuple[bytes, str]:
    """The text and its content type, as the Accept header asks for it."""
    registry = CollectorRegistry()
    registry.register(_Collector(families))
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):
        # A version that is none (`version=1..`), which the library compares all the same.
        encode, content_type = choose_encoder("")
    return encode(registry), content_type


class _Collector:
    def __init__(self, families: Callable[[], Iterator[Metric]]) -> None:
        self.collect = families

    def describe(self) -> list[Metric]:
        # Without this, registering would collect.
        return []


def _histogram() -> _Histogram:
    return _Histogram([0] * (len(BUCKETS_S) + 1))


_HANDLERS: dict[str, Callable[[Metrics, Mapping[str, object]], None]] = {
    REGISTERED: Metrics._registered,
    STREAM_START: Metrics._started,
    FIRST_CHUNK: Metrics._first_chunk,
    STREAM_CANCELLED: Metrics._cancelled,
    TIMEOUT_ON_CANCEL: Metrics._timed_out,
    OVER: Metrics._over,
    REFUSED: Metrics._refused,
    FAILED: Metrics._failed,
    STORE_ASKED: Metrics._store_asked,
}
