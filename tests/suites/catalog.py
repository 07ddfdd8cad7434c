"""Suites of others, with what they need to run; the last ones open loopback connections."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Suite:
    """A package whose source distribution holds its tests.

    needs: for its tests, by name and version. pytest: what it is given, in the package's folder.
    package: on the index, where the suite has another name.
    """

    version: str
    needs: tuple[str, ...]
    pytest: tuple[str, ...]
    package: str = ""


SUITES = {
    "starlette": Suite(
        "0.47.3",
        (
            "starlette[full]==0.47.3",
            "pytest==8.4.1",
            "trio==0.30.0",
            "anyio==4.9.0",
            "importlib-metadata",
        ),
        # Its tests run on asyncio and on trio; only the first has a loop of ours.
        ("tests", "-k", "not trio"),
    ),
    "anyio": Suite(
        "4.14.2",
        (
            "anyio[trio]==4.14.2",
            "blockbuster",
            "hypothesis",
            "psutil",
            "pytest==9.0.3",
            "pytest-mock",
            "pytest-timeout",
            "trustme",
            "truststore",
            "coverage",
        ),
        (
            "tests",
            "-k",
            "not trio and not uvloop",
            "--ignore=tests/test_sockets.py",
            "--ignore=tests/test_subprocesses.py",
            "--ignore=tests/test_to_process.py",
            "--ignore=tests/test_to_interpreter.py",
            "--ignore=tests/streams/test_tls.py",
            "--ignore=tests/test_signals.py",
        ),
    ),
    "mcp": Suite(
        "1.29.0",
        (
            "mcp[cli,rich]==1.29.0",
            "pytest>=8.3.4",
            "trio",
            "pytest-examples",
            "pytest-pretty",
            "inline-snapshot",
            "dirty-equals",
            "pytest-flakefinder",
            "requests",
            "pytest-xdist",
            "websockets",
        ),
        ("tests", "-n0", "-k", "not trio"),
    ),
    "janus": Suite(
        "2.0.0",
        ("janus==2.0.0", "pytest", "pytest-asyncio", "pytest-benchmark", "pytest-cov"),
        ("tests",),
    ),
    "httpcore": Suite(
        "1.0.9",
        (
            "httpcore[asyncio,http2,socks,trio]==1.0.9",
            "pytest",
            "pytest-httpbin==2.0.0",
            "werkzeug<2.3",
            "flask<2.3",
            "pytest-trio",
        ),
        ("tests/_async", "-k", "not trio"),
    ),
    "aiotools": Suite(
        "2.2.2", ("aiotools==2.2.2", "pytest", "pytest-asyncio", "pytest-cov"), ("tests",)
    ),
    "async-lru": Suite(
        "2.3.0",
        (
            "async-lru==2.3.0",
            "pytest==8.4.2",
            "pytest-asyncio==1.3.0",
            "pytest-cov",
            "pytest-timeout",
            "pytest-codspeed",
        ),
        ("tests",),
    ),
    "asgiref": Suite(
        "3.11.0",
        ("asgiref==3.11.0", "pytest", "pytest-asyncio"),
        ("tests",),
    ),
    # ---- with sockets: server and client in one loop
    "aiohttp": Suite(
        "3.12.15",
        (
            "aiohttp==3.12.15",
            "blockbuster",
            "brotli",
            "freezegun",
            "isal",
            "pytest==8.4.2",
            "pytest-codspeed",
            "pytest-cov",
            "pytest-mock",
            "pytest-xdist",
            "re-assert",
            "trustme",
            "zlib_ng",
        ),
        (
            "tests/test_client_functional.py",
            "tests/test_client_ws_functional.py",
            "tests/test_web_functional.py",
            "tests/test_web_runner.py",
            "tests/test_web_sendfile_functional.py",
            "tests/test_web_server.py",
            "tests/test_web_websocket_functional.py",
            "-n0",
            "--no-cov",
        ),
    ),
    "uvicorn": Suite(
        "0.54.0",
        (
            "uvicorn[standard]==0.54.0",
            "a2wsgi==1.10.10",
            "cryptography",
            "httpx2",
            "pytest>=9.1.1",
            "pytest-codspeed",
            "pytest-mock==3.15.1",
            "pytest-xdist[psutil]==3.8.0",
            "trustme==1.2.1",
            "wsproto==1.3.2",
        ),
        ("tests", "-n0", "--ignore=tests/supervisors", "--ignore=tests/benchmarks"),
    ),
    "httpx": Suite(
        "0.28.1",
        (
            "httpx[brotli,cli,http2,socks,zstd]==0.28.1",
            "chardet==5.2.0",
            "pytest==8.3.4",
            "trio==0.27.0",
            "trio-typing==0.10.0",
            "trustme==1.1.0",
            "uvicorn==0.32.1",
        ),
        ("tests", "-k", "not trio", "-m", "not network"),
    ),
    "aioftp": Suite(
        "0.28.3",
        (
            "aioftp==0.28.3",
            "async_timeout",
            "pytest",
            "pytest-asyncio",
            "pytest-cov",
            "pytest-mock",
            "siosocks",
            "trustme",
        ),
        ("tests", "--no-cov", "--maxfail=10000"),
    ),
    "anyio-sockets": Suite(
        "4.16.0",
        (
            "anyio[trio]==4.16.0",
            "blockbuster",
            "hypothesis",
            "psutil",
            "pytest",
            "pytest-mock",
            "pytest-timeout",
            "trustme",
            "truststore",
            "coverage",
        ),
        (
            "tests/test_sockets.py",
            "tests/streams/test_tls.py",
            "-k",
            "not trio and not uvloop",
            "-m",
            "not network",
        ),
        package="anyio",
    ),
    "aiosmtplib": Suite(
        "5.1.3",
        ("aiosmtplib==5.1.3", "aiosmtpd", "hypothesis", "pytest", "pytest-asyncio", "trustme"),
        ("tests",),
    ),
    "aioquic": Suite(
        "1.3.0",
        ("aioquic==1.3.0", "pytest", "httpx"),
        ("tests/test_asyncio.py",),
    ),
}
