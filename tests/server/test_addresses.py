"""Where the server listens, and what it says where it cannot."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import Any

import pytest

from server.listeners import listening, url_of
from server.security import StartRefused, check_upstream
from tests.limits import HANGS_S
from tests.server.support import Output, free_port, free_socket, process, settings

OWN = ("-m", "server")


@pytest.mark.socket
@pytest.mark.parametrize(
    "port", ["taken", *(pytest.param(port, marks=pytest.mark.thorough) for port in ("99999", "-1"))]
)
def test_a_port_that_cannot_be_had_is_a_line(port: str) -> None:
    """Exit code 3 and a sentence; no traceback."""
    with free_socket() as taken:
        taken.listen()
        number = str(taken.getsockname()[1]) if port == "taken" else port
        with process(*OWN, f"--port={number}") as child:
            output = Output(child)
            output.wait_for("already in use" if port == "taken" else "will not listen on port")
            assert child.wait(HANGS_S) == 3
            assert not any("Traceback" in line for line in output.lines), output.lines


@pytest.mark.socket
@pytest.mark.parametrize(
    ("host", "part"),
    [
        ("192.0.2.1", "192.0.2.1 at port 0: this machine has no such address; `ip address`"),
        ("http://127.0.0.1", "'http://127.0.0.1': that is no address and no name of one"),
        ("127.0.0.1:80", "'127.0.0.1:80': that is no address and no name of one"),
        ("a..b", "'a..b': that is no address and no name of one"),
        ("127.0.0.1", "127.0.0.1 at port {taken}: that port is taken"),
        ("localhost", "127.0.0.1 at port {taken}: that port is taken"),
    ],
)
def test_an_address_that_cannot_be_had_is_told_with_what_to_do(host: str, part: str) -> None:
    """Also one whose port somebody else has: before anything is begun."""
    with free_socket() as taken:
        taken.listen()
        number = taken.getsockname()[1] if "taken" in part else 0
        with pytest.raises(StartRefused) as caught, listening(host, number):
            pass
    assert str(caught.value).startswith(f"cannot listen on {part.format(taken=number)}")


@pytest.mark.socket
@pytest.mark.parametrize("host", ["127.0.0.1", "", "localhost"])
def test_an_address_is_had_by_one_and_free_again_afterwards(host: str) -> None:
    """It is listened on from the first moment, so that a second server is told."""
    with listening(host, 0) as found:
        number = found[0].getsockname()[1]
        assert url_of(found[0]).endswith(f":{number}")
        for each in found:
            here = "::1" if each.family == socket.AF_INET6 else "127.0.0.1"
            with socket.create_connection((here, each.getsockname()[1]), HANGS_S):
                pass
        with pytest.raises(StartRefused, match="that port is taken"), listening(host, number):
            pass
    with listening(host, number) as again:
        assert again[0].getsockname()[1] == number


@pytest.mark.socket
def test_a_name_may_have_an_address_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ::1 of localhost without IPv6; but a port that is taken on one of them is taken."""
    found = socket.getaddrinfo

    def with_more(*named: Any, **more: Any) -> list[Any]:
        (there,) = found(*named, **more)
        return [(*there[:4], ("192.0.2.1", there[4][1])), there]

    monkeypatch.setattr(socket, "getaddrinfo", with_more)
    with listening("127.0.0.1", 0) as found_there:
        assert len(found_there) == 1
    with free_socket() as taken:
        taken.listen()
        number = taken.getsockname()[1]
        with pytest.raises(StartRefused, match="port is taken"), listening("127.0.0.1", number):
            pass


@pytest.mark.socket
def test_any_free_port_is_one_port_for_all_addresses_of_a_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where somebody has it on the second of them: the announced URL reaches the server."""
    found, bound = socket.getaddrinfo, socket.socket.bind
    taken = socket.socket()

    def two(*named: Any, **more: Any) -> list[Any]:
        (there,) = found(*named, **more)
        return [(*there[:4], (address, there[4][1])) for address in ("127.0.0.1", "127.0.0.2")]

    def bind(listener: socket.socket, place: Any) -> None:
        bound(listener, place)
        if taken.getsockname()[1] == 0:
            bound(taken, ("127.0.0.2", listener.getsockname()[1]))
            taken.listen()

    monkeypatch.setattr(socket, "getaddrinfo", two)
    monkeypatch.setattr(socket.socket, "bind", bind)
    with closing(taken), listening("127.0.0.1", 0) as had:
        (_, number), (_, same) = places = [each.getsockname() for each in had]
        assert [address for address, _ in places] == ["127.0.0.1", "127.0.0.2"]
        assert number == same != taken.getsockname()[1]


@pytest.mark.parametrize(
    ("ollama", "host"),
    [
        ("127.0.0.1:8000", "127.0.0.1"),
        ("http://localhost:8000/path", "127.0.0.1"),
        ("[::1]:8000", "localhost"),
        ("0.0.0.0:8000", "0.0.0.0"),
        ("127.0.0.1:8000", ""),
        ("box:8000", "box"),
    ],
)
def test_ollama_is_not_this_server_itself(ollama: str, host: str) -> None:
    """A prompt would come back as a prompt, again and again; beside it is room for others."""
    asked = settings(ollama_host=ollama)
    with pytest.raises(StartRefused, match="is this server's own address"):
        check_upstream(asked, host, 8000)
    check_upstream(asked, host, 8001)
    check_upstream(settings(ollama_host="other:8000"), host, 8000)


@pytest.mark.socket
def test_a_server_in_front_of_itself_does_not_start() -> None:
    """Exit code 3 and a sentence with what to set."""
    port = free_port()
    with process(*OWN, f"--port={port}", OLLAMA_HOST=f"127.0.0.1:{port}") as child:
        output = Output(child)
        output.wait_for("set JARVIS_OLLAMA_HOST to where Ollama itself listens")
        assert child.wait(HANGS_S) == 3
