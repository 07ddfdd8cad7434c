"""Two hosts, each a network namespace of its own, that share a Valkey behind a bridge."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from tests.server import valkey_server
from tests.server.support import PATIENCE_S, Output, address_in, process, prompt
from tests.server.workers import settle_valkey

pytestmark = [pytest.mark.socket, pytest.mark.thorough]

BRIDGE = "onestream-test"
STORE = "10.213.77.1"
HOSTS = ("10.213.77.11", "10.213.77.12")
KEY = "a-key-of-the-test"
# Goes on as a process of the host, under the same number.
ON_HOST = (
    "import os, sys; os.execvp('ip', ['ip', 'netns', 'exec', sys.argv[1], sys.executable, "
    "*sys.argv[2:]])"
)


def ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True, capture_output=True)


def name_of(host: str) -> str:
    return f"onestream-{host.rpartition('.')[2]}"


def link_of(host: str) -> str:
    return f"os-{host.rpartition('.')[2]}"


@pytest.fixture
def network() -> Iterator[None]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root, and `ip`")
    with ExitStack() as exits:
        try:
            ip(f"link add {BRIDGE} type bridge")
        except subprocess.CalledProcessError as exc:
            pytest.skip(f"no bridge can be made here: {exc.stderr.decode().strip()}")
        exits.callback(ip, f"link del {BRIDGE}")
        ip(f"addr add {STORE}/24 dev {BRIDGE}")
        ip(f"link set {BRIDGE} up")
        for host in HOSTS:
            name, link = name_of(host), link_of(host)
            ip(f"netns add {name}")
            exits.callback(ip, f"netns del {name}")
            ip(f"link add {link} type veth peer name eth0 netns {name}")
            ip(f"link set {link} master {BRIDGE} up")
            ip(f"-n {name} addr add {host}/24 dev eth0")
            ip(f"-n {name} link set eth0 up")
            ip(f"-n {name} link set lo up")
        yield


def test_a_session_goes_from_host_to_host_also_when_one_is_cut_off(network: None) -> None:
    """Superseded over the network; a host that is cut off loses its lease to the other one."""
    with ExitStack() as exits:
        fake = exits.enter_context(
            process("-m", "sim.cli", "fake-ollama", "--host", STORE, "--port", "0")
        )
        ollama = address_in(Output(fake).wait_for("fake Ollama on"))
        options = ("--port", "6399", "--bind", STORE, "--protected-mode", "no")
        exits.enter_context(valkey_server.running(*options))
        url = f"redis://{STORE}:6399/0"
        leases = {"lease_seconds": 6.0, "grace_seconds": 2.0}
        asyncio.run(settle_valkey(url, **leases))
        outputs = []
        for host in HOSTS:
            on_host = ("-c", ON_HOST, name_of(host))
            child = process(
                *(*on_host, "-m", "server", "--host", "0.0.0.0", "--port", "8000"),
                JARVIS_SESSIONS=url,
                JARVIS_API_KEYS=KEY,
                OLLAMA_HOST=ollama,
            )
            outputs.append(Output(exits.enter_context(child)))
        for output in outputs:
            output.wait_for("onestream listens on")
        first, second = (
            exits.enter_context(
                httpx.Client(
                    base_url=f"http://{host}:8000",
                    headers={"authorization": f"Bearer {KEY}", "x-session-id": "s"},
                    timeout=PATIENCE_S,
                    trust_env=False,
                )
            )
            for host in HOSTS
        )
        body = prompt(model="fake:hang-midstream", stream=True)
        tokens = []
        with first.stream("POST", "/v1/chat/completions", json=body) as one:
            tokens.append(int(one.headers["x-fencing-token"]))
            with second.stream("POST", "/v1/chat/completions", json=body) as two:
                tokens.append(int(two.headers["x-fencing-token"]))
                assert '"superseded"' in "".join(one.iter_text())
                ip(f"link set {link_of(HOSTS[1])} down")
                with first.stream("POST", "/v1/chat/completions", json=body) as three:
                    tokens.append(int(three.headers["x-fencing-token"]))
                    outputs[1].wait_for("reason=session_lease_lost")
                taken = outputs[0].wait_for("prev_stream_timeout_on_cancel")
                assert two.headers["x-trace-id"] in taken
                ip(f"link set {link_of(HOSTS[1])} up")
        assert tokens == sorted(tokens)
