"""Imports that libraries delay until they are first needed.

One that fails, for lack of a descriptor, say, may be remembered as failed: a codec that was not
found once is never looked for again, and every later look-up of a host name fails with it.
"""

from __future__ import annotations

import codecs
import importlib

# The backend of anyio, which Starlette uses.
_MODULES = ("anyio._backends._asyncio",)
# `idna`: of every look-up of a host name, an address in digits included. The others: of bodies.
_CODECS = ("idna", "punycode", "utf-8-sig", "utf-16", "utf-32", "latin-1", "ascii")


def import_all() -> None:
    for module in _MODULES:
        importlib.import_module(module)
    for codec in _CODECS:
        codecs.lookup(codec)
