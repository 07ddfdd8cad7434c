"""Plain log lines on stderr, the note's exactly as they are in the note."""

from __future__ import annotations

import logging

from server.refusals import FewRefusals


def configure() -> None:
    """Gives `onestream` a handler, unless the program around it has set up logging itself."""
    logger = logging.getLogger("onestream")
    if logger.handlers or logging.getLogger().handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(FewRefusals())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
