"""`GET /metrics`: what is counted, of which events, who may read it, and what is written of it."""

from __future__ import annotations

import ast
import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

import server
from registry import Snapshot, State
from registry.operations import Logged
from server.lines import line
from server.metrics import BUCKETS_S, METRICS, UPSTREAM_CODES, Kind, Metrics, exposition
from server.metrics_routes import MetricsAlone
from server.metrics_table import README, document
from server.security import StartRefused
from tests.server.support import create_app, prompt, run_async, settings, stack, until

pytestmark = pytest.mark.once

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
EMPTY = Snapshot((), 0, 0, False, 4, 64, 8)


def samples_of(text: str) -> Samples:
    """Without those that are 0, and without the label `worker` where it is empty."""
    return {
        (each.name, tuple(sorted((k, v) for k, v in each.labels.items() if v))): each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
        if each.value and not each.name.endswith("_bucket")
    }


def written(metrics: Metrics, **more: Any) -> str:
    named: dict[str, Any] = {"worker": "", "chunks_of_running": 0, "is_store_up": False} | more
    text, _ = exposition(lambda: metrics.families(EMPTY, **named), "")
    return text.decode()


def heard(*events: Logged, clock: Callable[[], float] = lambda: 0.0, **more: Any) -> Samples:
    metrics = Metrics(clock)
    for event in events:
        metrics.hear(event)
    return samples_of(written(metrics, **more))


def registered(trace: str) -> Logged:
    return line("stream_registered", trace=trace)


def over(trace: str, way: str, reason: str, chunks: int = 0) -> Logged:
    return line("stream_over", trace=trace, way=way, reason=reason, chunks=chunks)


# ---- events ---------------------------------------------------------------------------------


def test_an_end_has_its_reason_and_no_other_words_than_known_ones() -> None:
    """Stopped as the log says why, failed with the code; Ollama's reasons are known, or other."""
    found = heard(
        *(registered(name) for name in "abcd"),
        line("stream_cancelled", trace="a", reason="client_left"),
        line("stream_cancelled", trace="a", reason="response_over"),
        over("a", "stopped", "cancelled", 3),
        over("b", "finished", "length", 4),
        over("c", "finished", "whatever Ollama says"),
        over("d", "failed", "cut"),
        over("unknown", "refused", "session_busy"),
        chunks_of_running=5,
    )
    ended = "onestream_streams_ended_total"
    assert found == {
        ("onestream_prompts_total", ()): 4,
        (ended, (("end", "stopped"), ("reason", "client_left"))): 1,
        (ended, (("end", "finished"), ("reason", "length"))): 1,
        (ended, (("end", "finished"), ("reason", "other"))): 1,
        (ended, (("end", "failed"), ("reason", "cut"))): 1,
        (ended, (("end", "refused"), ("reason", "session_busy"))): 1,
        ("onestream_chunks_total", ()): 12,
    }


def test_waits_are_measured_from_the_register_on_the_loops_clock() -> None:
    """In buckets from a millisecond to a minute, cumulated; a bound belongs to its bucket."""
    now = 0.0
    metrics = Metrics(lambda: now)
    for name, wait_s, chunk_s in (("a", 0.001, 0.5), ("b", 0.0011, 59.0), ("c", 61.0, 61.0)):
        now = 0.0
        metrics.hear(registered(name))
        now = wait_s
        metrics.hear(line("stream_start", trace=name, trace_id=name, session="s"))
        now = chunk_s
        metrics.hear(line("stream_first_chunk", trace=name))
    buckets = {
        (each.name, each.labels["le"]): each.value
        for family in text_string_to_metric_families(written(metrics))
        for each in family.samples
        if each.name.endswith("_bucket")
    }
    wait, first = (
        "onestream_admission_wait_seconds_bucket",
        "onestream_first_chunk_seconds_bucket",
    )
    assert [buckets[wait, le] for le in ("0.001", "0.0025", "60.0", "+Inf")] == [1, 2, 2, 3]
    assert [buckets[first, le] for le in ("0.25", "0.5", "60.0", "+Inf")] == [0, 1, 2, 3]
    assert (BUCKETS_S[0], BUCKETS_S[-1], sorted(BUCKETS_S)) == (0.001, 60.0, list(BUCKETS_S))


def test_a_store_is_measured_and_its_silence_counted() -> None:
    """A renewal counts where the store has renewed; a lease that was lost is a stream's end."""
    found = heard(
        *(
            line("store_asked", operation=operation, answer=answer, took_s=0.25)
            for operation, answer in (("renew", "ok"), ("renew", "stop"), ("poll", "none"))
        ),
        line("stream_cancelled", trace="a", reason="session_lease_lost", worker="w"),
        line("stream_cancelled", trace="b", reason="new_stream_registered", worker="w"),
        line("prev_stream_timeout_on_cancel", session="s", trace="b", worker="w"),
    )
    renew, poll = (("operation", "renew"),), (("operation", "poll"),)
    assert found == {
        ("onestream_store_seconds_count", renew): 2,
        ("onestream_store_seconds_sum", renew): 0.5,
        ("onestream_store_seconds_count", poll): 1,
        ("onestream_store_seconds_sum", poll): 0.25,
        ("onestream_store_errors_total", poll): 1,
        ("onestream_lease_renewals_total", ()): 1,
        ("onestream_lease_losses_total", ()): 1,
        ("onestream_supersessions_total", ()): 1,
        ("onestream_detached_total", ()): 1,
    }


def test_an_error_of_ollamas_counts_once_as_prompt_or_as_request() -> None:
    """By its code; what a client did wrong is a refusal and none of Ollama's."""
    found = heard(
        line("stream_error", trace="a", status=502, code="cut", reason="x"),
        line("request_refused", trace="b", status=504, code="upstream_silent", reason="x"),
        line("request_refused", trace="c", status=401, code="invalid_api_key", reason="x"),
    )
    refused = "onestream_requests_refused_total"
    assert found == {
        ("onestream_upstream_errors_total", (("kind", "cut"),)): 1,
        ("onestream_upstream_errors_total", (("kind", "upstream_silent"),)): 1,
        (refused, (("code", "upstream_silent"), ("status", "504"))): 1,
        (refused, (("code", "invalid_api_key"), ("status", "401"))): 1,
    }


def test_every_code_of_ollamas_errors_is_counted() -> None:
    """Each literal of the server's source that is such a code is known to the metrics."""
    texts = {
        node.value
        for path in Path(server.__file__ or "").parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert {text for text in texts if text.startswith("upstream_")} == UPSTREAM_CODES - {"cut"}


# ---- the whole ------------------------------------------------------------------------------


@pytest.mark.socket
def test_prompts_of_a_running_server_are_counted() -> None:
    """One superseded by one that finishes, one that Ollama cuts, one refused; no name is shown."""

    async def main() -> None:
        async with stack() as served:
            name = {"session_id": "a-secret-name"}
            hangs = asyncio.create_task(served.post(prompt(model="fake:hang-midstream", **name)))
            await until(lambda: served.states() == ["ACTIVE"], "it is active")
            # A fake that hangs has sent one chunk and more.
            text = (await served.http.get("/metrics")).text
            assert samples_of(text)["onestream_streams", (("state", "active"),)] == 1
            assert (await served.post(prompt(**name))).status_code == 200
            assert (await hangs).status_code == 400
            await served.post(prompt(model="fake:cut", **name))
            await served.post(prompt(n=2))
            await served.quiet()
            answer = await served.http.get("/metrics")
            assert answer.headers["content-type"].startswith("text/plain")
            assert "secret-name" not in answer.text
            assert "fake:" not in answer.text
            found = samples_of(answer.text)
            ended = "onestream_streams_ended_total"
            assert found[ended, (("end", "finished"), ("reason", "stop"))] == 1
            assert found[ended, (("end", "stopped"), ("reason", "new_stream_registered"))] == 1
            assert found[ended, (("end", "failed"), ("reason", "cut"))] == 1
            assert found["onestream_supersessions_total", ()] == 1
            assert found["onestream_upstream_errors_total", (("kind", "cut"),)] == 1
            refused = (("code", "invalid_request"), ("status", "400"))
            assert found["onestream_requests_refused_total", refused] == 1
            assert found["onestream_admission_wait_seconds_count", ()] == 3
            assert found["onestream_first_chunk_seconds_count", ()] == 3
            records = served.service.streams("key1")
            assert found["onestream_chunks_total", ()] == sum(each["chunks"] for each in records)
            # Nothing is kept of a prompt that is over.
            assert served.service.metrics is not None
            assert not served.service.metrics._running

    run_async(main())


def test_what_is_written_is_what_is_documented() -> None:
    """Each metric of the table and no other, with its labels, its kind and a worker."""
    text = written(Metrics(lambda: 0.0), worker="host-1")
    families = {each.name: each for each in text_string_to_metric_families(text)}
    assert set(families) == {each.name.removesuffix("_total") for each in METRICS}
    for each in METRICS:
        family = families[each.name.removesuffix("_total")]
        assert family.type == each.kind.value
        assert all(sample.labels["worker"] == "host-1" for sample in family.samples)
        assert each.name.endswith("_total") is (each.kind is Kind.COUNTER)
    assert len(families["onestream_streams"].samples) == len(State)


def test_the_document_has_the_metrics_of_the_code() -> None:
    """`python -m server.metrics_table` writes them."""
    assert README.read_text("utf-8") == document(README.read_text("utf-8"))


def _metrics_addresses(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Of the ports of their own, as the log has them."""
    return [
        str(dict(record.msg.fields)["address"])
        for record in caplog.records
        if isinstance(record.msg, Logged) and record.msg.event == "metrics_listening"
    ]


# ---- who may read them ----------------------------------------------------------------------


def client_of(app: Any, host: str = "127.0.0.1", peer: str = "127.0.0.1") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, client=(peer, 5), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=f"http://{host}:8000")


KEY = {"authorization": "Bearer secret"}


@pytest.mark.parametrize(
    ("limits", "host", "headers", "status"),
    [
        ({}, "127.0.0.1", {}, 200),
        ({"api_keys": "secret"}, "127.0.0.1", {}, 200),
        ({"api_keys": "secret"}, "127.0.0.1", {"origin": "http://localhost:3000"}, 401),
        ({"api_keys": "secret"}, "127.0.0.1", {"x-forwarded-for": "10.0.0.9"}, 401),
        ({"api_keys": "secret"}, "10.0.0.1", {}, 401),
        ({"api_keys": "secret"}, "10.0.0.1", {"authorization": "Bearer other"}, 401),
        ({"api_keys": "secret"}, "10.0.0.1", KEY, 200),
        ({"api_keys": "secret", "metrics": "key"}, "127.0.0.1", {}, 401),
        ({"api_keys": "secret", "metrics": "key"}, "127.0.0.1", KEY, 200),
        ({}, "10.0.0.1", {}, 403),
        ({"api_keys": "secret", "metrics": "off"}, "127.0.0.1", KEY, 404),
    ],
)
def test_who_reads_the_metrics(
    limits: dict[str, Any], host: str, headers: dict[str, str], status: int
) -> None:
    """Programs of this machine without a key, unless it is asked for; all others with one."""

    async def main() -> None:
        app = create_app(settings(**limits), signals=())
        async with app.router.lifespan_context(app), client_of(app, host) as http:
            for path in ("/metrics", "/metrics/", "//metrics", "/x/../metrics", "/%6detrics"):
                answer = await http.get(f"http://{host}:8000{path}", headers=headers)
                assert answer.status_code in (status, 404, 401)
                if path == "/metrics":
                    assert answer.status_code == status
                if status != 200:
                    assert "onestream_" not in answer.text

    run_async(main())


def test_openmetrics_is_written_where_it_is_asked_for() -> None:
    """As Prometheus asks; its parser reads it."""

    async def main() -> None:
        app = create_app(settings(), signals=())
        async with app.router.lifespan_context(app), client_of(app) as http:
            accept = {"accept": "application/openmetrics-text; version=1.0.0"}
            answer = await http.get("/metrics", headers=accept)
            assert answer.headers["content-type"].startswith("application/openmetrics-text")
            names = {each.name for each in openmetrics.text_string_to_metric_families(answer.text)}
            assert "onestream_streams_ended" in names

    run_async(main())


@pytest.mark.parametrize(
    "accept",
    [
        f"{kind};{rest}"
        for kind in ("text/plain", "application/openmetrics-text")
        for rest in ("version=1..", "version=x", "version=", "version==;=", "escaping=x", "q=x;;")
    ],
)
def test_an_accept_header_that_nobody_understands_gets_the_text(accept: str) -> None:
    """Whatever stands there is no error of the server's."""
    metrics = Metrics(lambda: 0.0)
    named: dict[str, Any] = {"worker": "", "chunks_of_running": 0, "is_store_up": True}
    text, _ = exposition(lambda: metrics.families(EMPTY, **named), accept)
    assert b"onestream_streams" in text


@pytest.mark.socket
def test_a_port_of_its_own_leaves_the_main_servers_log_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """uvicorn's loggers keep level and handlers; a scrape is no line of the access log."""
    caplog.set_level(logging.INFO)
    error, access = logging.getLogger("uvicorn.error"), logging.getLogger("uvicorn.access")
    handler = logging.NullHandler()

    def state() -> list[Any]:
        return [(each.level, list(each.handlers), each.propagate) for each in (error, access)]

    async def main() -> None:
        app = create_app(settings(metrics_listen="127.0.0.1:0"), signals=())
        async with app.router.lifespan_context(app):
            assert state() == before
            async with httpx.AsyncClient(trust_env=False) as http:
                assert (await http.get(_metrics_addresses(caplog)[0])).status_code == 200

    access.addHandler(handler)
    before = state()
    try:
        run_async(main())
        assert state() == before
    finally:
        access.removeHandler(handler)
    assert not [each for each in caplog.records if each.name == "uvicorn.access"]


@pytest.mark.parametrize(
    ("limits", "headers", "said"),
    [
        ({"metrics": "key"}, {}, "JARVIS_METRICS=key asks everybody for one"),
        ({}, {"host": "server-1"}, "but its Host is 'server-1'"),
        ({}, {"x-forwarded-for": "10.0.0.9"}, "but a proxy has handed it on"),
    ],
)
def test_who_may_not_read_the_metrics_is_told_why(
    limits: dict[str, Any], headers: dict[str, str], said: str
) -> None:
    """With keys: that a key is missing, why one is asked for here, and where none is."""

    async def main() -> None:
        app = create_app(settings(api_keys="secret", **limits), signals=())
        async with app.router.lifespan_context(app), client_of(app) as http:
            answer = await http.get("/metrics", headers={"host": "localhost", **headers})
            assert answer.status_code == 401
            assert said in answer.json()["error"]["message"]
            for path in ("/v1/models", "/nowhere"):
                other = await http.get(path, headers={"host": "localhost", **headers})
                assert "metrics" not in other.text

    run_async(main())


@pytest.mark.socket
def test_each_application_has_a_port_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """Without a key, for this path alone; the second one takes the next port, and counts apart."""
    caplog.set_level(logging.INFO)

    async def main() -> None:
        first = create_app(settings(metrics_listen="127.0.0.1:0", metrics="key"), signals=())
        async with first.router.lifespan_context(first):
            (address,) = _metrics_addresses(caplog)
            port = httpx.URL(address).port
            second = create_app(settings(metrics_listen=f"127.0.0.1:{port}"), signals=())
            async with second.router.lifespan_context(second), client_of(second) as inner:
                _, other = _metrics_addresses(caplog)
                await inner.get("/nowhere")
                async with httpx.AsyncClient(trust_env=False) as http:
                    texts = [(await http.get(each)).text for each in (address, other)]
                    assert ['code="' in text for text in texts] == [False, True]
                    assert (await http.get(address.removesuffix("metrics"))).status_code == 404
                    assert (await http.post(address)).status_code == 404
            async with httpx.AsyncClient(trust_env=False) as http:
                with pytest.raises(httpx.ConnectError):
                    await http.get(other)

    run_async(main())


@pytest.mark.parametrize(
    ("listen", "headers", "status"),
    [
        ("127.0.0.1:0", {}, 200),
        ("127.0.0.1:0", {"host": "localhost:9100"}, 200),
        ("127.0.0.1:0", {"host": "evil.example:9100"}, 403),
        ("127.0.0.1:0", {"origin": "http://localhost:3000"}, 403),
        ("127.0.0.1:0", {"x-forwarded-for": "10.0.0.9"}, 403),
        ("0.0.0.0:0", {"host": "server-1:9100"}, 200),
    ],
)
def test_a_port_on_loopback_is_for_programs_of_this_machine(
    listen: str, headers: dict[str, str], status: int
) -> None:
    """A name that was rebound to it, a page and a proxy are none; elsewhere nobody is asked."""

    async def main() -> None:
        app = create_app(settings(), signals=())
        async with app.router.lifespan_context(app):
            service = app.state.service
            service.settings = service.settings.model_copy(update={"metrics_listen": listen})
            async with client_of(MetricsAlone(service)) as http:
                answer = await http.get("/metrics", headers=headers)
                assert answer.status_code == status
                assert ("onestream_" in answer.text) is (status == 200)

    run_async(main())


@pytest.mark.socket
@pytest.mark.parametrize("address", ["192.0.2.1:9100", "192.0.2.1:0", "a..b:9100"])
def test_a_port_that_cannot_be_had_ends_the_start_with_a_sentence(
    address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log, which is all that one sees of it; and nothing of the service runs on."""

    async def main() -> None:
        limits = settings(metrics_listen=address, sessions=f"sqlite:{tmp_path / 'own' / 's.db'}")
        app = create_app(limits, signals=())
        with pytest.raises(StartRefused):
            async with app.router.lifespan_context(app):
                pass
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_async(main())
    (said,) = [each for each in caplog.messages if each.startswith("start_refused ")]
    assert f"cannot listen on {address}" in said
    assert "JARVIS_METRICS_LISTEN" in said


@pytest.mark.parametrize("value", ["9100", "host:", "host:99999", "::1:9100", "host:x", "host:-1"])
def test_what_is_no_address_is_refused(value: str) -> None:
    """With the form that one has."""
    with pytest.raises(ValueError, match="host:port"):
        settings(metrics_listen=value)
