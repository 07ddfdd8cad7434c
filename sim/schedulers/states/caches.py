"""What `functools.lru_cache` has kept, in its order, as the garbage collector sees it."""

from __future__ import annotations

import functools
import gc
from collections.abc import Iterator
from typing import Any

from sim.kernel.errors import Opaque


def kept_in(cache: Any) -> Iterator[object]:
    """Of each call its key and what it returned, the oldest first. Raises Opaque if unknown.

    How often it was asked counts, too, as a program may ask for that.
    """
    info = cache.cache_info()
    yield tuple(info)
    if not info.currsize:
        return
    if info.maxsize is None:
        yield _table_of(cache, info.currsize)
        return
    referents = _referents_of(cache)
    table = _table_of(cache, info.currsize)
    at = next(at for at, each in enumerate(referents) if each is table)
    if _PER_CALL is None or at != _PER_CALL * info.currsize:
        raise Opaque("functools.lru_cache, whose memory is unknown here", "keep it in a dict")
    for begin in range(0, at, _PER_CALL):
        yield from referents[begin : begin + 2]


def _referents_of(cache: Any) -> list[object]:
    """Without its own type, which is the first of them."""
    referents = gc.get_referents(cache)
    return referents[bool(referents) and referents[0] is type(cache) :]


def _table_of(cache: Any, size: int) -> Any:
    """By key: of a bounded cache the links of a list, which nothing else has as its values."""
    is_bounded = cache.cache_info().maxsize is not None
    for each in _referents_of(cache):
        if type(each) is dict and each is not cache.__dict__ and len(each) == size:
            links = [type(value).__name__ == "_lru_list_elem" for value in each.values()]
            if not is_bounded or all(links):
                return each
    raise Opaque("functools.lru_cache, whose memory is unknown here", "keep it in a dict")


def _per_call() -> int | None:
    """How many referents a bounded cache shows of a call: a key, a result, and maybe more."""
    known = functools.lru_cache(maxsize=4)(str)
    calls = [(1001,), (1002,)]
    for call in calls:
        known(*call)
    referents = _referents_of(known)
    for count in (2, 3):
        begun = [referents[at : at + 2] for at in range(0, 2 * count, count)]
        if begun == [[1001, "1001"], [1002, "1002"]] and type(referents[2 * count]) is dict:
            return count
    return None


_PER_CALL = _per_call()
