"""Generated requests, by openapi.json: no answer that is not documented, and no failure of ours.

schemathesis is in the dependency group `schema`; without it this is skipped:
`python3 -m uv run --isolated --group schema pytest tests/server/test_schemathesis.py`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.server.support import stack

pytestmark = pytest.mark.socket

# Not `positive_data_acceptance`: a model that cannot think rejects a request that asks it to.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "ignored_auth",
)
EXAMPLES = 40
# It takes a minute, and longer on a busy machine.
PATIENCE_S = 300


def test_no_answer_is_undocumented(tmp_path: Path) -> None:
    """The same requests every time, right and wrong, for each path and method there is."""
    pytest.importorskip("schemathesis", reason="needs the dependency group `schema`")

    async def main() -> None:
        async with stack() as server:
            command = (
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"),
                *("--header", "Authorization: Bearer devkey", "--checks", ",".join(CHECKS)),
                *("--phases", "coverage,fuzzing", "--max-examples", str(EXAMPLES)),
                *("--generation-deterministic", "--suppress-health-check", "all", "--no-color"),
            )
            child = await asyncio.create_subprocess_exec(
                *command,
                cwd=tmp_path,
                env={**os.environ, "PYTHONWARNINGS": "ignore"},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            try:
                output, _ = await child.communicate()
            finally:
                if child.returncode is None:
                    child.kill()
            assert child.returncode == 0, output.decode()
            assert "Test cases:" in output.decode()
            await server.quiet()

    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await main()

    asyncio.run(bounded())
