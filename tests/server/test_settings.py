"""Settings, from variables, arguments and files: each that is wrong is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.environment import read_settings, unknown_variables, variables_of
from server.security import StartRefused, read_keys
from server.settings import Settings
from server.store_address import sqlite_path
from tests.server.support import (
    settings,
)


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


@pytest.mark.parametrize(("value", "model"), [(" ", None), ("", None), (" llama3 ", "llama3")])
def test_a_default_model_of_blanks_is_none(
    environment: dict[str, str], value: str, model: str | None
) -> None:
    """As an empty one: each prompt without a model would be refused for a name that nobody sees."""
    environment["JARVIS_DEFAULT_MODEL"] = value
    assert Settings().default_model == model


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
