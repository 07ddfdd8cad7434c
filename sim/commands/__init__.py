"""The commands of `onestream`, a module each.

Each has `add_parser(subparsers)`, which says what the command line asks for, and
`run(arguments)`, which does it, prints what came of it and returns the exit code (`sim.verdict`). A
new command is a module here and a line in sim/cli.py. What a command needs is imported by its
`run`, so that `onestream --help` waits for none of it.
"""
