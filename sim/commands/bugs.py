"""`onestream bugs`: bugs that others have reported, by CPython version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.commands.options import add_html, add_json, add_quiet, progress_on_terminal

if TYPE_CHECKING:
    from argparse import Namespace

    from sim.commands.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "bugs", help="bugs that others have reported, found or proved absent, by CPython version"
    )
    add_json(parser)
    add_quiet(parser)
    add_html(parser)
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="PATH",
        help="another interpreter, besides those that are found; may be repeated",
    )
    parser.add_argument("--this-version", action="store_true", help="the running interpreter alone")
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    """0 if every verdict is the expected one, else 1."""
    from sim.bugs import matrix
    from sim.exploration.progress import Progress

    with Progress(progress_on_terminal(arguments)) as progress:
        columns = (
            [matrix.run_here(progress.watch)]
            if arguments.this_version
            else matrix.run_matrix(
                arguments.python,
                progress.watch,
                lambda version: progress.show(lambda: f"all of them on {version}, in a process"),
            )
        )
    if arguments.json:
        print(matrix.as_json(columns))
    else:
        matrix.print_matrix(columns)
    if arguments.html:
        from sim.commands.pages import page_of_bugs, write

        write(page_of_bugs(columns), arguments.html)
    return 0 if all(column.holds for column in columns) else 1
