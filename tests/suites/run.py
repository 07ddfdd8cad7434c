"""Suites of others on the stock loop and under `sim.EventLoopPolicy`, with the same command.

    python -m tests.suites.run starlette janus      # without names: all, which takes some minutes

Each is installed from its source distribution into an environment of its own, in a temporary
folder (`--folder` keeps it). Prints a table: passed and failed, and what is lost under the policy,
by cause. Exit code 1 if something is lost.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.suites.catalog import SUITES, Suite

ROOT = Path(__file__).parents[2]
RUN_MAX_S = 1200
"""Against a hang alone."""

_POLICY = "import asyncio, sim\n\nasyncio.set_event_loop_policy(sim.EventLoopPolicy())\n"


@dataclass(frozen=True, slots=True)
class Result:
    """Of one run: the tests that passed, and those that failed with what they said last."""

    passed: frozenset[str]
    failed: dict[str, str]

    def __str__(self) -> str:
        return f"{len(self.passed)}/{len(self.failed)}"


def ran(*command: str, folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-2000:]}")


def install(name: str, suite: Suite, folder: Path) -> Path:
    """The folder of the unpacked source distribution; beside it stands `env`, with its needs."""
    folder.mkdir(parents=True, exist_ok=True)
    python = folder / "env/bin/python"
    if not (folder / "installed").exists():
        ran(sys.executable, "-m", "venv", "--clear", "env", folder=folder)
        # What runs the suite is this checkout, as it is.
        ran(*(str(python), "-m", "pip", "install", "-e", str(ROOT), *suite.needs), folder=folder)
        source = ("--no-deps", "--no-binary", ":all:", f"{suite.package or name}=={suite.version}")
        ran(*(str(python), "-m", "pip", "download", *source), folder=folder)
        with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        (folder / "onestream_policy.py").write_text(_POLICY)
        (folder / "installed").touch()
    return next(each.parent for each in folder.glob("*/PKG-INFO"))


def run(source: Path, suite: Suite, options: Sequence[str], *, simulated: bool) -> Result:
    report = source.parent / ("simulated.xml" if simulated else "stock.xml")
    report.unlink(missing_ok=True)
    python = source.parent / "env/bin/python"
    plugin = ("-p", "onestream_policy") if simulated else ()
    command = (str(python), "-m", "pytest", "-q", *plugin)
    with report.with_suffix(".txt").open("w") as output:
        subprocess.run(
            [*command, *suite.pytest, *options, f"--junit-xml={report}"],
            cwd=source,
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONPATH": str(source.parent)},
            timeout=RUN_MAX_S,
        )
    if not report.exists():
        raise SystemExit(f"pytest ended without a report, see {report.with_suffix('.txt')}")
    return _read(report)


def _read(report: Path) -> Result:
    passed, failed = set(), {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        bad = [each for kind in ("failure", "error") for each in case.findall(kind)]
        if bad:
            failed[name] = _cause(bad[0])
        elif case.find("skipped") is None:
            passed.add(name)
    return Result(frozenset(passed) - failed.keys(), failed)


def _cause(bad: ElementTree.Element) -> str:
    """What was refused, if something was; else the exception."""
    text = bad.text or ""
    refused = re.search(r"NotSimulated: (.+?) (?:is not simulated|in )", text)
    if refused:
        return f"{refused[1]} is refused"
    message = bad.get("message") or text
    return next(iter(message.splitlines()), "")[:100]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("suites", nargs="*", choices=[[], *SUITES], metavar="SUITE")
    parser.add_argument("--folder", type=Path, help="keeps what is installed, for the next time")
    parser.add_argument("--lost", action="store_true", help="names each test that is lost")
    parser.add_argument("-k", help="only these tests, as pytest's -k")
    asked = parser.parse_args(arguments)
    lost_in_all = 0
    causes: Counter[str] = Counter()
    print("| suite | stock | simulated | lost |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for name in asked.suites or SUITES:
            suite = SUITES[name]
            source = install(name, suite, (asked.folder or Path(temporary)) / name)
            options = ("-k", asked.k) if asked.k else ()
            stock = run(source, suite, options, simulated=False)
            simulated = run(source, suite, options, simulated=True)
            lost = sorted(stock.passed - simulated.passed)
            lost_in_all += len(lost)
            of_suite = Counter(simulated.failed.get(each, "not run") for each in lost)
            causes += of_suite
            print(f"| {name} {suite.version} | {stock} | {simulated} | {len(lost)} |", flush=True)
            for each in lost if asked.lost else ():
                print(f"    {each}: {simulated.failed.get(each, 'not run')}", flush=True)
    for cause, count in causes.most_common():
        print(f"{count:5} {cause}")
    return 1 if lost_in_all else 0


if __name__ == "__main__":
    sys.exit(main())
