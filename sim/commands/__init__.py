"""The commands of `onestream`, a module each.

Each has `add_parser(subparsers)`, which declares its arguments, and `run(arguments)`, which runs
it, prints the result and returns the exit code (`sim.exploration.verdict`). A new command is a
module here and a line in sim/cli.py. What a command needs is imported by its `run`, so that
`onestream --help` is fast.
"""
