"""Keys: who may call, whose streams are whose, and where `devkey` is good for anything."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import pytest

from server.errors import ApiError
from server.security import Keys, StartRefused, check_address, read_keys
from tests.limits import HANGS_S
from tests.server.support import (
    Output,
    error_of,
    free_port,
    process,
    prompt,
    run_async,
    settings,
    stack,
    until,
)

ALICE = {"authorization": "Bearer alice-secret"}
BOB = {"authorization": "Bearer bob-secret"}


@pytest.mark.socket
def test_no_key_reaches_another_keys_streams(caplog: pytest.LogCaptureFixture) -> None:
    """Two keys with the same session id don't stop each other, and see 404 of each other."""
    caplog.set_level(logging.DEBUG)

    async def main() -> None:
        async with stack(api_keys="alice-secret, bob-secret") as server:
            body = prompt(stream=True, model="fake:hang-midstream", session_id="same")
            task = asyncio.create_task(server.post(body, headers=ALICE))
            await until(lambda: server.fake.calls and server.fake.calls[0].chunks >= 3, "chunks")
            assert (await server.post(prompt(session_id="same"), headers=BOB)).status_code == 200
            # Bob has read the end of his answer, and its call to Ollama is closed a moment later.
            await until(lambda: server.states() == ["ACTIVE"], "Bob's stream is over")
            (own,) = (await server.http.get("/v1/streams", headers=ALICE)).json()["data"]
            path = f"/v1/streams/{own['trace_id']}"
            (bobs,) = (await server.http.get("/v1/streams", headers=BOB)).json()["data"]
            assert bobs["trace_id"] != own["trace_id"]
            for method, address in (("GET", path), ("POST", f"{path}/cancel")):
                answer = await server.http.request(method, address, headers=BOB)
                unknown = await server.http.request(
                    method, address.replace(own["trace_id"], "f" * 16), headers=BOB
                )
                assert answer.status_code == unknown.status_code == 404
                assert error_of(answer)["code"] == error_of(unknown)["code"]
            assert server.states() == ["ACTIVE"]
            cancelled = await server.http.post(f"{path}/cancel", headers=ALICE)
            assert cancelled.json()["cancelled"] is True
            await task
            for headers in ({}, {"authorization": "Bearer devkey"}, {"authorization": "Basic x"}):
                answer = await server.post(prompt(), headers=headers)
                assert (answer.status_code, error_of(answer)["code"]) == (401, "invalid_api_key")
        assert "secret" not in caplog.text

    run_async(main())


def test_devkey_is_only_for_loopback() -> None:
    """Without a key an address that others reach is refused; with one, or on loopback, not."""
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org", ""):
        with pytest.raises(StartRefused, match="JARVIS_API_KEYS"):
            check_address((), host)
        check_address(("key",), host)
    for host in ("127.0.0.1", "127.3.2.1", "::1", "localhost", None, "/run/x.sock"):
        check_address((), host)


@pytest.mark.socket
@pytest.mark.parametrize(
    "launcher",
    [
        ("-m", "server"),
        pytest.param(("-m", "uvicorn", "server.app:app"), marks=pytest.mark.thorough),
    ],
)
def test_the_server_refuses_to_start_on_an_open_address(launcher: tuple[str, ...]) -> None:
    """Both ways to start it end at once with exit code 3 and a sentence that helps."""
    arguments = ("--host", "0.0.0.0", "--port", str(free_port()))
    with process(*launcher, *arguments) as child:
        output = Output(child)
        output.wait_for("no key is configured")
        assert child.wait(HANGS_S) == 3


def test_keys_come_from_a_list_and_a_file(tmp_path: Path) -> None:
    """Both count, in order; an unreadable or empty file is refused, naming the file."""
    path = tmp_path / "keys"
    path.write_text("# ours\nthree\n\n  four  \n")
    assert read_keys(settings(api_keys="one, two", api_keys_file=path)) == (
        "one",
        "two",
        "three",
        "four",
    )
    path.write_text("# nothing\n")
    for bad in (path, tmp_path / "missing"):
        with pytest.raises(StartRefused, match=str(bad)):
            read_keys(settings(api_keys_file=bad))


def test_a_key_file_that_never_ends_is_refused(tmp_path: Path) -> None:
    """A pipe, a device and a file that is too long are told at once, and not read."""
    pipe, long = tmp_path / "pipe", tmp_path / "long"
    os.mkfifo(pipe)
    with long.open("wb") as file:
        file.truncate(1024 * 1024 + 1)
    for path, part in ((pipe, "no regular file"), (long, "longer than 1048576 bytes")):
        with pytest.raises(StartRefused, match=part):
            read_keys(settings(api_keys_file=path))
    with pytest.raises(StartRefused, match="no regular file"):
        read_keys(settings(api_keys_file=Path("/dev/zero")))


def test_keys_are_not_shown() -> None:
    """Neither the settings nor the keys print a key."""
    assert "hush" not in repr(settings(api_keys="hush"))
    assert "hush" not in repr(vars(Keys(("hush",))))


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (None, "header is missing"),
        ("", "header is missing"),
        ("Basic aHVzaA==", "another scheme than Bearer, such as Basic, or none"),
        ("hush", "another scheme than Bearer, such as Basic, or none"),
        ("Bearer", "no key stands behind Bearer"),
        ("bearer  ", "no key stands behind Bearer"),
        ("Bearer hush2", "not known here"),
    ],
)
def test_a_refused_key_is_told_what_is_wrong(header: str | None, told: str) -> None:
    """And nothing of what was sent: without its scheme it may be the key."""
    with pytest.raises(ApiError, match=told) as refused:
        Keys(("hush",)).owner(header)
    assert "hush" not in refused.value.message
    assert "aHV" not in refused.value.message


def test_owners_and_namespaces() -> None:
    """Each key has a number; sessions are kept apart exactly where there are several keys."""
    one, two = Keys(("a",)), Keys(("a", "b"))
    assert one.namespace(one.owner("Bearer a"), "s") == "s"
    assert two.namespace(two.owner("bearer b"), "s") == "key2/s"
    assert two.owner("Bearer a") == "key1"
    for header in (None, "", "Bearer", "Bearer ", "Bearer c", "a", "Bearer \udcff"):
        with pytest.raises(ApiError) as caught:
            two.owner(header)
        assert caught.value.status == 401


def test_in_a_store_a_key_is_known_by_itself_and_not_by_its_place() -> None:
    """Another list of keys, or another order, gives no key what is another's; nor does devkey."""
    before = Keys(("alpha",), has_store=True)
    after = Keys(("beta", "alpha"), has_store=True)
    alpha, beta = after.owner("Bearer alpha"), after.owner("Bearer beta")
    assert before.owner("Bearer alpha") == alpha != beta
    assert before.namespace(alpha, "same") == after.namespace(alpha, "same") == f"{alpha}/same"
    assert "alpha" not in alpha
    nobodys = Keys((), has_store=True)
    assert nobodys.namespace(nobodys.owner("Bearer devkey"), f"{alpha}/same") == (
        f"devkey/{alpha}/same"
    )
