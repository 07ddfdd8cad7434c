"""All reported programs. `python -m tests.sim.reported.catalog` prints the table of README.md."""

from __future__ import annotations

from tests.sim.reported import (
    busy_loops,
    cancels,
    module_state,
    newcomers,
    outside,
    rate_limits,
    threads,
)

PROGRAMS = [
    *cancels.PROGRAMS,
    *rate_limits.PROGRAMS,
    *threads.PROGRAMS,
    *module_state.PROGRAMS,
    *busy_loops.PROGRAMS,
    *outside.PROGRAMS,
    *newcomers.PROGRAMS,
]
STOCK_RUNS = 200


def main() -> None:
    print("| report | program | expected | explore | executions | stock asyncio |")
    print("|---|---|---|---|---|---|")
    for each in PROGRAMS:
        report = each.explored()
        seen = each.on_stock.value
        if seen != "not run":
            seen += f", {each.violations_on_stock(STOCK_RUNS)} of {STOCK_RUNS} fail"
        got = report.verdict if report.verdict == each.verdict else f"**{report.verdict}**"
        cells = each.report, each.name, each.verdict, got, str(report.executions), seen
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
