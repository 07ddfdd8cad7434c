"""How the server starts, or says in a line why not: settings, processes, ports, signals."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from server import startup
from server.app import create_app
from server.environment import read_settings, unknown_variables, variables_of
from server.memory import YOUNG_MAX
from server.security import StartRefused, read_keys
from server.settings import Settings
from server.store_address import sqlite_path
from tests.limits import HANGS_S
from tests.server.support import (
    REPOSITORY,
    Output,
    RawClient,
    error_of,
    free_port,
    is_listening,
    process,
    prompt,
    run_async,
    settings,
    stack,
    until,
)

UVICORN = ("-m", "uvicorn", "server.app:app")
OWN = ("-m", "server")


# ---- settings -------------------------------------------------------------------------------


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is put into it stands in the environment, and nothing else of ours."""
    from server import environment as module

    for name in list(module.os.environ):
        if name.upper().startswith("JARVIS_") or name == "OLLAMA_HOST":
            monkeypatch.delenv(name)

    class Mirror(dict[str, str]):
        def __setitem__(self, name: str, value: str) -> None:
            monkeypatch.setenv(name, value)

    return Mirror()


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("JARVIS_GRACE_SECONDS", "inf", "JARVIS_GRACE_SECONDS='inf': "),
        (
            "JARVIS_GRACE_SECONDS",
            "nan",
            "JARVIS_GRACE_SECONDS='nan': has to be a number of seconds from 0 to 31536000 (a year)",
        ),
        (
            "JARVIS_PING_SECONDS",
            "15s",
            "JARVIS_PING_SECONDS='15s': has to be a number of seconds above 0 to 31536000 (a "
            "year), without a unit; unset it is 15",
        ),
        (
            "JARVIS_BODY_MAX_BYTES",
            "32MB",
            "JARVIS_BODY_MAX_BYTES='32MB': has to be a whole number above 0 to 1099511627776, "
            "without a unit; unset it is 33554432",
        ),
        ("JARVIS_LOG", "JSON", "JARVIS_LOG='JSON': has to be 'text' or 'json'; unset it is text"),
        ("JARVIS_NAMELESS", "", "JARVIS_NAMELESS='': has to be 'own' or 'key'"),
        ("JARVIS_TOTAL_SECONDS", "1e300", "JARVIS_TOTAL_SECONDS='1e300': "),
        ("JARVIS_PING_SECONDS", "0", "JARVIS_PING_SECONDS='0': "),
        ("JARVIS_THREADS_MAX", "many\n", "JARVIS_THREADS_MAX='many\\n': "),
        ("JARVIS_OLLAMA_CLIENT", "curl", "JARVIS_OLLAMA_CLIENT='curl': "),
        ("JARVIS_API_KEYS", "hush-hush,b d", "JARVIS_API_KEYS: key 2 of 2 is not printable"),
        ("JARVIS_API_KEYS", "hush-hush,é", "JARVIS_API_KEYS: key 2 of 2 is not printable"),
        ("JARVIS_API_KEYS", " , ", "JARVIS_API_KEYS holds no key"),
        ("OLLAMA_HOST", "http://me:hush-hush@box:x", "'http://…@box:x' is no address of Ollama"),
        ("OLLAMA_HOST", "foo:bar", "'foo:bar' is no address of Ollama"),
        ("JARVIS_OLLAMA_API_KEY", "hush-hush\n", "JARVIS_OLLAMA_API_KEY: is not printable ASCII"),
        ("JARVIS_OLLAMA_API_KEY", "Bearer hush-hush", "JARVIS_OLLAMA_API_KEY: is not printable"),
        ("JARVIS_SESSION_HEADER", "X Bad", "JARVIS_SESSION_HEADER: 'X Bad' is no name"),
        ("JARVIS_SESSION_HEADER", "X-Good, X-Bad:", "JARVIS_SESSION_HEADER: 'X-Bad:' is no name"),
        (
            "JARVIS_SESSION_HEADER",
            "X-Good,cookie",
            "JARVIS_SESSION_HEADER: cookie carries",
        ),
        ("JARVIS_SESSION_HEADER", "Authorization", "JARVIS_SESSION_HEADER: Authorization carries"),
        (
            "JARVIS_BODY_MAX_BYTES",
            "1" + "0" * 20,
            "JARVIS_BODY_MAX_BYTES='100000000000000000000': ",
        ),
        ("JARVIS_ARCHIVE_MAX", "1" + "0" * 20, "JARVIS_ARCHIVE_MAX='100000000000000000000': "),
        ("JARVIS_OLLAMA_HEADERS", "hush-hush", "JARVIS_OLLAMA_HEADERS: has to be a JSON object"),
        ("JARVIS_OLLAMA_HEADERS", '["hush-hush"]', "JARVIS_OLLAMA_HEADERS: has to be a JSON objec"),
        (
            "JARVIS_OLLAMA_HEADERS",
            '{"X": ["hush-hush"]}',
            'JARVIS_OLLAMA_HEADERS: has to be a JSON object of texts: {"X-Token": "…"}; the '
            "value of 'X' is none",
        ),
        (
            "JARVIS_OLLAMA_HEADERS",
            '{"a b": "hush-hush"}',
            "JARVIS_OLLAMA_HEADERS: 'a b' is no name of a header",
        ),
        ("JARVIS_OLLAMA_HEADERS", '{"X": ""}', "JARVIS_OLLAMA_HEADERS: the value of 'X' is empty"),
        ("JARVIS_OLLAMA_HEADERS", '{"X": "hush\\n"}', "JARVIS_OLLAMA_HEADERS: the value of 'X' is"),
        (
            "JARVIS_OLLAMA_HEADERS",
            '{"Content-Length": "5"}',
            "JARVIS_OLLAMA_HEADERS: 'Content-Length' says how one message is framed",
        ),
        (
            "JARVIS_OLLAMA_HEADERS",
            '{"transfer-encoding": "chunked"}',
            "JARVIS_OLLAMA_HEADERS: 'transfer-encoding' says how one message is framed",
        ),
        (
            "JARVIS_OLLAMA_HEADERS",
            '{"X-A": "hush", "x-a": "hush"}',
            "JARVIS_OLLAMA_HEADERS: 'x-a' is there twice",
        ),
        ("JARVIS_METRICS_LISTEN", "9100", "JARVIS_METRICS_LISTEN='9100': is not host:port"),
        ("JARVIS_METRICS_LISTEN", "box:99999", "JARVIS_METRICS_LISTEN='box:99999': is not host:p"),
        ("JARVIS_API_KEYS_FILE", "", "JARVIS_API_KEYS_FILE: is empty"),
        ("JARVIS_SESSIONS", "postgres://me:hush-hush@box", "JARVIS_SESSIONS: names no store"),
        ("JARVIS_SESSIONS", "sqlite:", "JARVIS_SESSIONS: names no store"),
        ("JARVIS_SESSIONS", "redis://me:hush-hush@box:x/0", "JARVIS_SESSIONS: has no port"),
        ("JARVIS_SESSIONS", "redis+sentinel://hush-hush@box", "JARVIS_SESSIONS: names Sentinels"),
        ("JARVIS_SESSIONS", "redis+sentinel://:hush/hush@a/m", "JARVIS_SESSIONS: has a user or"),
        ("JARVIS_SESSIONS", "redis+sentinel://a:x,b:1/m", "JARVIS_SESSIONS: names a Sentinel wit"),
        ("JARVIS_SESSIONS", "redis+sentinel://a,,b/m", "JARVIS_SESSIONS: names a Sentinel wit"),
        ("JARVIS_SESSIONS", "redis+sentinel://a/m/x", "JARVIS_SESSIONS: names the database 'x'"),
        ("JARVIS_SESSIONS", "redis+sentinel://a/m?nonsense=1", "JARVIS_SESSIONS: has the option"),
        ("JARVIS_SESSIONS", "sqlite+sentinel://a/m", "JARVIS_SESSIONS: names no store"),
        ("JARVIS_SESSIONS", "redis://box:0/0", "JARVIS_SESSIONS: has no port"),
        ("JARVIS_SESSIONS", "redis://me:hush#hush@box:1/0", "JARVIS_SESSIONS: has a user or"),
        ("JARVIS_SESSIONS", "redis://me:hush/hush@box/0", "JARVIS_SESSIONS: has a user or"),
        ("JARVIS_SESSIONS", "rediss://:hush?hush@box", "JARVIS_SESSIONS: has a user or"),
        ("JARVIS_SESSIONS", "redis://box/abc", "JARVIS_SESSIONS: names the database 'abc'"),
        ("JARVIS_SESSIONS", "redis://box/1/2", "JARVIS_SESSIONS: names the database '1/2'"),
        ("JARVIS_SESSIONS", "redis://box?db=x", "JARVIS_SESSIONS: names a database that is no"),
        ("JARVIS_SESSIONS", "redis://box/0?nonsense=1", "JARVIS_SESSIONS: has the option 'nonsens"),
        ("JARVIS_SESSIONS", "unix:///s.sock?socket_timeout=9", "JARVIS_SESSIONS: has the option"),
        ("JARVIS_SESSIONS", "redis://box?ssl_keyfile=k", "JARVIS_SESSIONS: has the option 'ssl_k"),
        ("JARVIS_SESSIONS", "sqlite::memory:", "JARVIS_SESSIONS: names no file that workers"),
        ("JARVIS_SESSIONS", "sqlite://:memory:", "JARVIS_SESSIONS: names no file that workers"),
        ("JARVIS_SESSIONS", "sqlite://tmp/x", "JARVIS_SESSIONS: names the host 'tmp', and a file"),
        ("JARVIS_SESSIONS", "sqlite:/x?timeout=5", "JARVIS_SESSIONS: has options ('timeout=5')"),
        ("JARVIS_SESSIONS", "sqlite:~no-such-user/x", "JARVIS_SESSIONS: begins with the home"),
        ("JARVIS_SESSIONS_PREFIX", "a b", "JARVIS_SESSIONS_PREFIX='a b': is not 1 to 64"),
    ],
)
def test_a_bad_setting_is_one_line(
    environment: dict[str, str], name: str, value: str, part: str
) -> None:
    """The line names the variable, and shows the value where that can be no secret."""
    environment[name] = value
    with pytest.raises(StartRefused) as caught:
        read_settings()
    sentence = str(caught.value)
    assert sentence.startswith(part)
    assert sentence.count("\n") == 0
    assert "hush" not in sentence
    assert "pydantic" not in sentence


@pytest.mark.parametrize(
    "value",
    [
        "sqlite",
        "sqlite:x.sqlite",
        "redis://box",
        "redis://:a%23%40b@box:1/",
        "redis://[::1]:6379/3?client_name=x",
        "rediss://me@box/0?ssl_ca_certs=/x.pem",
        "unix:///run/a@b.sock?db=1",
        "redis+sentinel://box/my-master",
        "redis+sentinel://:a%40b@box:1,[::1]:26379/my.master_1/2?client_name=x",
        "rediss+sentinel://box,box2/m?ssl_ca_certs=/x.pem",
    ],
)
def test_what_names_a_store_is_taken(environment: dict[str, str], value: str) -> None:
    """What is refused above has neighbours that mean something."""
    environment["JARVIS_SESSIONS"] = value
    assert read_settings().sessions == value


def test_a_relative_path_is_shown_from_the_root_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers of two directories would share nothing, and nobody would see why."""
    monkeypatch.chdir(tmp_path)
    assert sqlite_path("sqlite:x.sqlite") == tmp_path / "x.sqlite"
    for begin in ("sqlite:/", "sqlite:///", "sqlite:////"):
        assert str(sqlite_path(f"{begin}x.sqlite")) == "/x.sqlite"


def test_every_limit_in_seconds_is_finite(environment: dict[str, str]) -> None:
    """What is endless would overflow a clock, here or there; a year is allowed."""
    limits = [name for name, field in Settings.model_fields.items() if field.annotation is float]
    assert "grace_seconds" in limits
    for name in limits:
        environment[variables_of(name)[0]] = "inf"
    with pytest.raises(StartRefused) as caught:
        read_settings()
    assert len(str(caught.value).splitlines()) == len(limits)
    for name in limits:
        environment[variables_of(name)[0]] = str(365 * 24 * 3600)
    read_settings()


def test_settings_can_be_keys() -> None:
    """Of a cache, say: equal ones hash alike, whatever kinds of fields they have."""
    some = {"ollama_headers": {"x-token": "hush"}, "grace_seconds": 1.0}
    assert {settings(**some): 1}[settings(**some)] == 1


def test_every_bad_setting_has_its_line(environment: dict[str, str]) -> None:
    """Not the first alone: who mends one would meet the next at the next start."""
    environment["JARVIS_GRACE_SECONDS"] = "soon"
    environment["JARVIS_ARCHIVE_MAX"] = "-1"
    with pytest.raises(StartRefused) as caught:
        read_settings()
    lines = str(caught.value).splitlines()
    assert [line.partition("=")[0] for line in lines] == [
        "JARVIS_GRACE_SECONDS",
        "JARVIS_ARCHIVE_MAX",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [("JARVIS_OLLAMA_API_KEY", "hush"), ("OLLAMA_HOST", "http://me:hush@box")],
)
def test_ollama_is_told_one_authorization(
    environment: dict[str, str], name: str, value: str
) -> None:
    """Two would be two headers, and which of them counts nobody knows."""
    environment[name] = value
    environment["JARVIS_OLLAMA_HEADERS"] = '{"Authorization": "Basic hush"}'
    with pytest.raises(StartRefused, match="give one of them") as caught:
        read_settings()
    assert "hush" not in str(caught.value)


def test_an_unknown_variable_is_named(
    environment: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """A limit with a typo has no effect, and the log says which name is near."""
    environment["JARVIS_GRACE_SECOND"] = "9"
    environment["JARVIS_PORTRAIT"] = environment["JARVIS_FOO"] = "1"
    environment["JARVS_API_KEYS"] = "secret"
    environment["JAVIS_HOME"] = environment["DAVIS_API_KEYS_OLD"] = "of others"
    assert read_settings().grace_seconds == 2.0
    assert [line for line in caplog.messages if line.startswith("unknown_setting ")] == [
        "unknown_setting JARVIS_FOO is not known, and has no effect",
        "unknown_setting JARVIS_GRACE_SECOND is not known; did you mean JARVIS_GRACE_SECONDS?",
        "unknown_setting JARVIS_PORTRAIT is not known, and has no effect",
        "unknown_setting JARVS_API_KEYS is not known; did you mean JARVIS_API_KEYS?",
    ]


def test_known_variables_are_not_named() -> None:
    """In either case of letters, Ollama's own name, and what is not ours."""
    known = {"jarvis_grace_seconds": "1", "JARVIS_API_KEYS": "a", "OLLAMA_HOST": "b", "HOME": "c"}
    assert unknown_variables(known) == []


def test_a_key_file_is_read_as_editors_write_it(tmp_path: Path) -> None:
    """With a byte order mark the first key still matches; what no header can carry is refused."""
    path = tmp_path / "keys"
    path.write_bytes("\ufefffirst\r\nsecond\r\n".encode())
    assert read_keys(settings(api_keys_file=path)) == ("first", "second")
    for bad in ("good\nhush-é\n", "hush hush\n", "hush\x00\n"):
        path.write_text(bad)
        with pytest.raises(StartRefused, match=r"line [12] is not printable") as caught:
            read_keys(settings(api_keys_file=path))
        assert "hush" not in str(caught.value)


# ---- processes ------------------------------------------------------------------------------


def server_of(**config: Any) -> uvicorn.Server:
    return uvicorn.Server(uvicorn.Config("server.app:app", **config))


def test_one_of_several_workers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvicorn's and gunicorn's; not one process, a reloader's, or a program with the variable."""
    monkeypatch.setenv("WEB_CONCURRENCY", "2")
    # No supervisor started this process: a program runs one server in it.
    startup.check_processes(server_of())
    monkeypatch.setattr(multiprocessing, "parent_process", multiprocessing.current_process)
    startup.check_processes(server_of(workers=1))
    startup.check_processes(server_of(reload=True))
    for several in (server_of(), server_of(workers=3)):
        with pytest.raises(
            StartRefused,
            match=r"(?s)Start one process.*JARVIS_SESSIONS=sqlite .*JARVIS_SESSIONS=redis",
        ):
            startup.check_processes(several)
    with pytest.raises(StartRefused, match="only uvicorn is supported"):
        startup.check_processes(None)

    class Gunicorn:
        def __init__(self, workers: int) -> None:
            self.cfg = type("Cfg", (), {"workers": workers})

        async def callback_notify(self) -> None: ...

    startup.check_processes(server_of(callback_notify=Gunicorn(1).callback_notify))
    with pytest.raises(StartRefused, match="one of 2 workers"):
        startup.check_processes(server_of(callback_notify=Gunicorn(2).callback_notify))


@pytest.mark.socket
@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        (("--workers", "2"), {}),
        ((), {"WEB_CONCURRENCY": "2"}),
    ],
)
@pytest.mark.thorough
def test_uvicorn_with_several_workers_ends(
    arguments: tuple[str, ...], more: dict[str, str]
) -> None:
    """Its workers say why, without a traceback, and it does not start them for ever."""
    # uvicorn gives a worker 5 s to start, and begins another: on a busy machine that is too short.
    patient = ("--timeout-worker-healthcheck", "60")
    with process(*UVICORN, *arguments, *patient, "--port", str(free_port()), **more) as child:
        output = Output(child)
        output.wait_for("start_refused will not be one of 2 workers")
        child.wait(HANGS_S)
        assert not any("Traceback" in line for line in output.lines), output.lines


@pytest.mark.socket
def test_our_own_launcher_is_one_process_whatever_the_environment_says() -> None:
    """WEB_CONCURRENCY, which hosters set, is for those that start several."""
    with process(*OWN, "--port", "0", WEB_CONCURRENCY="3") as child:
        Output(child).wait_for("onestream listens on")
        child.send_signal(signal.SIGINT)
        assert child.wait(HANGS_S) == 0


@pytest.mark.parametrize(("signals", "told"), [(None, True), ((), False)])
def test_another_server_than_uvicorn_is_told(
    caplog: pytest.LogCaptureFixture, signals: Any, told: bool
) -> None:
    """Unless the caller says that it ends the application itself."""

    async def main() -> None:
        app = create_app(settings(), **({} if signals is None else {"signals": signals}))
        async with app.router.lifespan_context(app):
            pass

    run_async(main())
    assert any(line.startswith("server_unknown only uvicorn") for line in caplog.messages) is told


def test_without_its_start_up_it_says_so() -> None:
    """Every answer says why, in our shape, if the server around skips the lifespan."""

    async def main() -> None:
        app = create_app(settings(), signals=())
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            for path in ("/healthz", "/v1/models"):
                answer = await http.get(path)
                assert (answer.status_code, error_of(answer)["code"]) == (500, "not_started")
                assert "--lifespan off" in error_of(answer)["message"]

    run_async(main())


# ---- signals --------------------------------------------------------------------------------


@pytest.mark.socket
@pytest.mark.parametrize(
    ("launcher", "signals"),
    [
        pytest.param(launcher, signals, id=f"{name}, {what}", marks=marks)
        for what, signals, name, launcher, marks in (
            ("terminal closed", (signal.SIGHUP,), "our own", OWN, ()),
            (
                "Ctrl-C twice",
                (signal.SIGINT, signal.SIGINT),
                "uvicorn",
                UVICORN,
                pytest.mark.thorough,
            ),
            ("terminal closed", (signal.SIGHUP,), "uvicorn", UVICORN, pytest.mark.thorough),
            ("Ctrl-C twice", (signal.SIGINT, signal.SIGINT), "our own", OWN, pytest.mark.thorough),
        )
    ],
)
def test_streams_are_told_however_the_process_ends(
    launcher: tuple[str, ...], signals: tuple[signal.Signals, ...]
) -> None:
    """As at SIGTERM: the message in words of a user, and no traceback in the log."""

    async def main() -> None:
        async with stack() as fake:
            port = free_port()
            with process(
                *launcher, "--port", str(port), OLLAMA_HOST=fake.service.settings.ollama_host
            ) as child:
                output = Output(child)
                started = "Uvicorn running on" if launcher is UVICORN else "onestream listens on"
                await asyncio.to_thread(output.wait_for, started)
                with closing(RawClient(f"http://127.0.0.1:{port}")) as client:
                    await client.send(prompt(stream=True, model="fake:hang-midstream"))
                    await client.read_until(b"word1")
                    for number in signals:
                        child.send_signal(number)
                    rest = await client.read_to_end()
                assert b'"code":"shutting_down"' in rest
                assert b"the server is shutting down" in rest
                assert b"data: [DONE]" in rest
                await until(lambda: child.poll() is not None, "the process is gone")
                assert not any("Traceback" in line for line in output.lines), output.lines

    run_async(main())


@pytest.mark.socket
def test_a_terminal_that_closes_does_not_end_what_was_started_to_outlive_it() -> None:
    """`nohup` has SIGHUP ignored, and it stays so."""
    program = (
        "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
        "from server.run import run; "
        "sys.exit(run(port=0, on_started=lambda url: os.write(1, f'up {url}\\n'.encode())))"
    )
    with process("-c", program) as child:
        output = Output(child)
        url = output.wait_for("up http").split()[1]
        child.send_signal(signal.SIGHUP)
        assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
        assert child.poll() is None


@pytest.mark.socket
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_that_comes_while_the_server_starts_ends_it(
    number: signal.Signals, workers: int, tmp_path: Path
) -> None:
    """With a line that says so and exit code 0; it was swallowed, and the server went on."""
    program = (
        "import os, signal, sys; from server import run, run_workers\n"
        "made = run.config_for\n"
        "def config_for(*given, **named):\n"
        f"    signal.raise_signal({int(number)})\n"
        "    return made(*given, **named)\n"
        "run.config_for = run_workers.config_for = config_for\n"
        "up = lambda url: os.write(1, b'it serves\\n')\n"
        "serve = run.run(port=0, on_started=up) if "
        f"{workers} == 1 else run_workers.run_workers(2, '127.0.0.1', 0, on_started=up)\n"
        "sys.exit(serve)"
    )
    sessions = f"sqlite:{tmp_path}/own/sessions.sqlite"
    with process("-c", program, JARVIS_SESSIONS=sessions if workers > 1 else "") as child:
        output = Output(child)
        output.wait_for(f"ended_early {number.name} came while the server started")
        assert child.wait(HANGS_S) == 0
        assert not any("Traceback" in each or "serves" in each for each in output.lines)


@pytest.mark.socket
def test_a_process_that_serves_looks_for_cycles_rarely() -> None:
    """Among what it has made since it began; a program that only imports the server is let be."""
    program = (
        "import gc, os, signal; before = gc.get_threshold(); from server.run import run; "
        "here = gc.get_threshold(), gc.get_freeze_count(); "
        "run(port=0, on_started=lambda url: os.write(1, f'up {here == (before, 0)} "
        "{gc.get_threshold()[0]} {gc.get_freeze_count() > 50_000}\\n'.encode()) "
        "and signal.raise_signal(signal.SIGTERM))"
    )
    with process("-c", program) as child:
        assert Output(child).wait_for("up ").split() == ["up", "True", str(YOUNG_MAX), "True"]


def test_refusals_reach_nobody_as_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """What uvicorn prints of a start-up that was refused is a sentence, once."""
    caplog.set_level(logging.INFO)

    async def main() -> None:
        app = create_app(settings(api_keys_file=Path("/nowhere/keys")), signals=())
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "lifespan.startup"}

        async def send(message: Any) -> None:
            sent.append(message)

        with pytest.raises(StartRefused):
            await app({"type": "lifespan", "state": {}}, receive, send)
        assert sent == [{"type": "lifespan.startup.failed", "message": ""}]
        assert sum("/nowhere/keys" in line for line in caplog.messages) == 1

    run_async(main())


@pytest.mark.socket
@pytest.mark.parametrize(
    "closed",
    [">&-", "2>&-", "<&- >&- 2>&-"],
)
@pytest.mark.thorough
def test_it_serves_where_its_output_was_closed_before_it_began(closed: str) -> None:
    """A daemon's start, as `>&- 2>&-` of a shell: it answers, and ends as always."""
    port = free_port()
    command = f"exec {sys.executable} -m server --port {port} {closed}"
    env = {name: text for name, text in os.environ.items() if "JARVIS_" not in name}
    child = subprocess.Popen(["/bin/sh", "-c", command], cwd=REPOSITORY, env=env)

    async def main() -> None:
        await until(lambda: is_listening(port) or child.poll() is not None, "it listens")
        assert child.poll() is None
        url = f"http://127.0.0.1:{port}/healthz"
        assert (await asyncio.to_thread(httpx.get, url, trust_env=False)).status_code == 200
        child.send_signal(signal.SIGTERM)
        await until(lambda: child.poll() is not None, "it is gone")
        assert child.returncode == 0

    try:
        run_async(main())
    finally:
        child.kill()
        child.wait()
