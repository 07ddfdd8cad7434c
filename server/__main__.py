"""`python -m server [--host H] [--port P]`."""

from __future__ import annotations

import argparse
import sys

from server.importing import ending_in_a_line

with ending_in_a_line("python -m server"):
    from server.log import say
    from server.run import HOST, PORT, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m server", description=__doc__)
    parser.add_argument("--host", default=HOST)
    parser.add_argument("--port", type=int, default=PORT)
    arguments = parser.parse_args()
    return run(host=arguments.host, port=arguments.port, on_started=_announce)


def _announce(address: str) -> None:
    say(f"onestream listens on {address}", sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
