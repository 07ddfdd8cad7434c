"""What a Valkey or Redis answers that is no answer: as errors of the store, with what to do."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from registry.errors import IllegalOperation
from registry.lease_records import LeaseLimits
from registry.lease_state import LimitsDiffer
from registry.patience import PatientTimeout
from server.stores.store import RecordUnreadable, StoreRefused, StoreUnreachable

# What it is to take apart a value of another shape.
_OTHER_SHAPE = (AttributeError, IndexError, TypeError)


class RedisErrors:
    """address: as it may be shown. prefix: of all keys. call_s: what one request may take."""

    def __init__(self, address: str, prefix: str, limits: LeaseLimits, call_s: float) -> None:
        self._store = f"the store of sessions {address}"
        self._prefix = prefix
        self._limits = limits
        self._call_s = call_s

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """One request, within its limit, to which our own lateness does not count.

        The block does nothing else: the client takes apart some replies by itself.
        """
        try:
            async with PatientTimeout(self._call_s):
                with self.translated():
                    yield
        except TimeoutError:
            raise StoreUnreachable(
                f"{self._store} does not answer within {self._call_s:g} s "
                f"(JARVIS_SESSIONS_CALL_SECONDS); look at the server and the network to it"
            ) from None
        except (*_OTHER_SHAPE, KeyError, ValueError) as exc:
            raise self._odd(exc) from exc

    @contextmanager
    def reading(self) -> Iterator[None]:
        """What was found there: it need not be what this release writes."""
        try:
            yield
        except (KeyError, ValueError) as exc:
            raise self._unreadable(_named(exc)) from exc
        except _OTHER_SHAPE as exc:
            raise self._odd(exc) from exc

    @contextmanager
    def translated(self) -> Iterator[None]:
        """The client's errors as the store's."""
        try:
            yield
        except ResponseError as exc:
            raise self._refusal(str(exc)) from exc
        except (AuthenticationError, AuthorizationError) as exc:
            raise StoreUnreachable(
                f"{self._store} answered: authentication failed "
                f"({_why(exc)}); look at the user and the password in JARVIS_SESSIONS"
            ) from exc
        except BusyLoadingError as exc:
            raise StoreUnreachable(
                f"{self._store} answered: {_why(exc)}; wait until it has"
            ) from exc
        except MasterNotFoundError as exc:
            sentinels = self._store.removeprefix("the store of sessions ")
            raise StoreUnreachable(
                f"the Sentinels of {sentinels} do not answer, or know no primary of that name "
                f"that is up; look at them (SENTINEL MASTERS) and at the name"
            ) from exc
        except (RedisError, OSError) as exc:
            raise StoreUnreachable(
                f"{self._store} does not answer: {_why(exc)}; look at the "
                f"server{_advice_if_closed(exc)} and the network to it"
            ) from exc

    def refused(self, why: str) -> StoreRefused:
        return StoreRefused(f"{self._store} {why}")

    def silent(self, seconds: float) -> StoreUnreachable:
        return StoreUnreachable(
            f"{self._store} has been silent for {seconds:g} s on "
            f"the connection for messages; look at the network to it"
        )

    def not_asked(self, asking: int) -> StoreUnreachable:
        return StoreUnreachable(
            f"{self._store} was not asked: {asking} requests "
            f"for sessions are on their way from this worker, and its turn did not come "
            f"within {self._call_s:g} s; look at the load of this machine and of the store"
        )

    def _refusal(self, text: str) -> Exception:
        illegal = re.match(r"ILLEGAL (.*)", text)
        if illegal:
            return IllegalOperation(f"the store found that this is not possible: {illegal[1]}")
        differ = re.match(r"LIMITS (\d+) ([\d ]+)", text)
        if differ:
            return LimitsDiffer(self._limits, differ[2], int(differ[1]))
        evicts = re.match(r"EVICTS (\S+)", text)
        if evicts:
            return self.refused(drops_keys(evicts[1]))
        # Of a key of another kind, and of an error within the script.
        if "WRONGTYPE" in text or re.match(r"\w*script\w*:\d+", text):
            return self._unreadable(text)
        advice = next((each for found, each in self._advice if found in text), "")
        return StoreUnreachable(f"{self._store} refuses: {text}{advice}")

    def _unreadable(self, why: str) -> RecordUnreadable:
        return RecordUnreadable(
            f"{self._store} has keys beginning with {self._prefix}: that "
            f"this release cannot read ({why}): another program has written them, or another "
            f"release. Name another JARVIS_SESSIONS_PREFIX, or end all workers and delete them"
        )

    def _odd(self, exc: Exception) -> StoreUnreachable:
        return StoreUnreachable(
            f"{self._store} gave a reply that Valkey and Redis do not give ({_named(exc)}): "
            f"something else listens there, or what stands between changes replies. Name a "
            f"Valkey or Redis from 7 on itself in JARVIS_SESSIONS"
        )

    @property
    def _advice(self) -> tuple[tuple[str, str], ...]:
        """What to do about what a server says where it refuses an operation."""
        rights = f"+@all -@dangerous +info ~{self._prefix}:* &{self._prefix}:*"
        acl = f"; give the user of JARVIS_SESSIONS what it needs: ACL SETUSER … {rights}"
        replica = "; it has become a replica: name the primary, or its Sentinels"
        return (
            ("permission", acl),
            (
                "'maxmemory'",
                "; its memory is full: raise maxmemory",
            ),
            ("read only replica", replica),
            (
                "NOREPLICAS",
                " Fewer replicas follow it than min-replicas-to-write: look at them, or lower that",
            ),
            (
                "busy running a script",
                " Another program's runs too long: SCRIPT KILL ends one that has written nothing",
            ),
        )


def drops_keys(policy: str) -> str:
    return (
        f"drops keys when its memory is full (maxmemory-policy {policy}), sessions included; set "
        f"maxmemory-policy noeviction, or a volatile- one"
    )


def _named(exc: Exception) -> str:
    return f"{type(exc).__name__}: {exc}"


def _why(exc: BaseException) -> str:
    return str(exc) or type(exc).__name__


def _advice_if_closed(exc: Exception) -> str:
    """Of a connection that was made, and ended by the other side.

    What that says before is lost where the client finds it closed as it writes.
    """
    was_made = isinstance(exc, RedisConnectionError) and "connecting to" not in str(exc)
    return " (its log, maxclients and protected-mode)" if was_made else ""
