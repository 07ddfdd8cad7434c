"""Every other place that holds a clock: dicts, lists, defaults, partials, objects and their slots.

The collector knows who refers to a clock. It is asked once, and again where modules have grown or
the references to a clock are more than they were: what was found is held until then, so none goes
unseen because another went. What is frozen it does not tell of, so that is found once. Nothing of
`sim` is changed, and of the standard library's modules no global, class or default.
"""

from __future__ import annotations

import contextvars
import functools
import gc
import sys
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from sim.kernel.isolation.as_it_is import attributes_of, is_a
from sim.kernel.isolation.bound_names import (
    Site,
    attribute_site,
    default_site,
    is_installed,
    is_own,
    item_site,
)
from sim.kernel.isolation.where_held import Holding, where_held

_NOT_LOOKED_INTO = (type, types.ModuleType, types.FrameType, types.BuiltinMethodType)
# What only says what a function was made of.
_SAID_ONLY = "__wrapped__"
_collect, _freeze, _unfreeze, _frozen = gc.collect, gc.freeze, gc.unfreeze, gc.get_freeze_count
_VALIDATOR, _SERIALIZER = "SchemaValidator", "SchemaSerializer"
"""Of pydantic, not written in Python: the first calls a factory, the second never does."""
_FROZEN_AT_START_MAX = 1_000
"""CPython 3.12 freezes some hundred objects as it starts, and more would stay so after a look."""
_WITHIN_MAX = 20
"""How many models may be one within the other, each in the next."""


class HeldClocks:
    """Finds the holders of some functions, and of such methods of types as nobody keeps one of.

    stand_ins: by id, for each function. methods: for each type and name what makes a stand-in of
    the bound method. seen: differs from before where modules have grown.
    """

    def __init__(
        self,
        functions: list[Any],
        stand_ins: dict[int, Any],
        methods: dict[tuple[type, str], Any],
        seen: Callable[[], object],
    ) -> None:
        self._functions = functions
        self._stand_ins = stand_ins
        self._methods = methods
        self._seen = seen
        self._looked_at: object = None
        self._before = self._references()
        self._sites: list[tuple[Site, Any]] = []
        # Of the last look at which nothing was frozen.
        self._unfrozen: list[tuple[Site, Any]] | None = None
        # By id, each validator that was found, and what makes another one of it.
        self._anew: dict[int, _Anew] = {}
        self.left: list[Holding] = []
        """Where holders lie in which none can be replaced."""

    def sites(self) -> list[tuple[Site, Any]]:
        """Each place, and what is to stand there."""
        seen, references = self._seen(), self._references()
        is_more = any(now > before for now, before in zip(references, self._before, strict=True))
        if seen is not self._looked_at or is_more:
            self.find_all()
            self._looked_at = seen
        return self._sites

    def find_all(self) -> None:
        self._sites = []
        if _frozen() <= _FROZEN_AT_START_MAX:
            self._unfrozen = self._sites = self._look()
        elif self._unfrozen is None:
            _collect()
            _unfreeze()
            self._unfrozen = self._sites = self._look()
            _freeze()
        else:
            self._sites = [*self._unfrozen, *self._look()]

    def note(self) -> None:
        """To be called when all is as it was: the references to what is known are counted."""
        self._before = self._references()

    def _references(self) -> list[int]:
        return [*map(sys.getrefcount, self._functions)]

    def _look(self) -> list[tuple[Site, Any]]:
        # One after the other: what the first has found is in no list of its own any more.
        return self._holders() + self._validators()

    def _holders(self) -> list[tuple[Site, Any]]:
        kinds = {kind for kind, _ in self._methods}
        referrers = _Look(gc.get_referrers(*self._functions, *kinds))
        replaced = _Replaced(self._stand_ins)
        bound = _Look()
        for each in referrers:
            if type(each) is types.BuiltinMethodType and isinstance(each.__self__, type):
                method = self._methods.get((each.__self__, each.__name__))
                if method is not None:
                    bound.append(each)
                    replaced[id(each)] = method
        holders = _Look(each for each in referrers if _holds(each, replaced))
        if bound:
            known = {*map(id, holders)}
            for each in gc.get_referrers(*bound):
                if id(each) not in known and _holds(each, replaced):
                    holders.append(each)
        found = _Holders(replaced, holders)
        sites = [(site, replaced[id(site.real)]) for site in found.sites()]
        sites += _in_this_context(replaced)
        self.left = where_held(found.left, _OF_A_LOOK) if found.left else []
        for each in filter(_is_validator, holders):
            self._anew.setdefault(id(each), _Anew(each))
        return sites

    def _validators(self) -> list[tuple[Site, Any]]:
        """Of models, adapters and calls: those that hold a clock, and those made with one of them.

        The inner ones first: what is made anew takes of other models the validators they have.
        """
        if not self._anew:
            return []
        ranks = self._ranks()
        replaced = _Replaced(self._anew)
        referrers = _Look(gc.get_referrers(*(each.of for each in self._anew.values())))
        found = _Holders(replaced, _Look(each for each in referrers if _holds(each, replaced)))
        sites = [(site, replaced[id(site.real)]) for site in found.sites()]
        return sorted(sites, key=lambda each: ranks.get(id(each[0].real), _WITHIN_MAX))

    def _ranks(self) -> dict[int, int]:
        """By id, how many validators are one within the other; all of them are known then."""
        ranks = dict.fromkeys(self._anew, 0)
        newest = set(ranks)
        for rank in range(1, _WITHIN_MAX):
            if not newest:
                break
            inner, newest = newest, set()
            for each in _Look(gc.get_referrers(*(self._anew[at].of for at in inner))):
                if _is_validator(each) and any(id(of) in inner for of in gc.get_referents(each)):
                    self._anew.setdefault(id(each), _Anew(each))
                    newest.add(id(each))
                    ranks[id(each)] = rank
        return ranks


def _in_this_context(replaced: _Replaced) -> list[tuple[Site, Any]]:
    """What is set in context variables, which nobody can be asked for but the variables."""
    return [
        (Site(value, functools.partial(var.get, None), var.set), replaced[id(value)])
        for var, value in contextvars.copy_context().items()
        if id(value) in replaced
    ]


def _holds(holder: Any, replaced: _Replaced) -> bool:
    """Not for the types alone, which many hold."""
    if is_a(holder, (*_NOT_LOOKED_INTO, *_OF_A_LOOK)):
        return False
    return any(id(each) in replaced for each in gc.get_referents(holder))


class _Look(list[Any]):
    """A list of this search, which holds what it has found."""


class _Replaced(dict[int, Any]):
    """By id, what stands for a clock or for a tuple with one, which may have more in it."""


class _Holders:
    """One look at those that hold, of which the owners are found in one pass."""

    def __init__(self, replaced: _Replaced, holders: _Look) -> None:
        self._replaced = replaced
        modules = tuple(sys.modules.values())
        # Also another object may stand there.
        self._modules = {id(attributes_of(each)): each for each in modules}
        self._globals = _Look(each for each in holders if id(each) in self._modules)
        self._holders = _Look(each for each in holders if id(each) not in self._modules)
        self._owners: dict[int, _Look] = {}
        self.left = _Look()
        self._find_owners(self._holders)
        # The tuple of a closure, a table, the names of a class.
        inner, known = _Look(), {*self._owners, *self._modules}
        for each in (owner for found in self._owners.values() for owner in found):
            if type(each) in (tuple, list, dict) and id(each) not in known:
                known.add(id(each))
                inner.append(each)
        self._find_owners(inner)

    def _find_owners(self, of: _Look) -> None:
        self._owners.update((id(each), _Look()) for each in of)
        for owner in _Look(gc.get_referrers(*of)) if of else ():
            if not is_a(owner, (types.FrameType, *_OF_A_LOOK)):
                for each in gc.get_referents(owner):
                    if id(each) in self._owners:
                        self._owners[id(each)].append(owner)

    def sites(self) -> Iterator[Site]:
        for holder in self._globals:
            module = self._modules[id(holder)]
            if is_own(module) or is_installed(module):
                yield from self._in_dict(holder, [])
        for holder in self._holders:
            owners = self._owners[id(holder)]
            if any(map(self._stays_real, owners)) or _is_ours(type(holder).__module__):
                continue
            yield from self._in_holder(holder, owners)

    def _in_holder(self, holder: Any, owners: list[Any]) -> Iterator[Site]:
        kind = type(holder)
        if kind is dict:
            yield from self._in_dict(holder, owners)
        elif kind is list or kind is deque:
            yield from (item_site(holder, at, each) for at, each in self._held(holder))
        elif kind is tuple or _is_named_tuple(holder):
            yield from self._in_tuple(holder, owners)
        elif kind is types.CellType:
            yield attribute_site(holder, "cell_contents", holder.cell_contents)
        elif is_a(holder, functools.partial) and id(holder.func) in self._replaced:
            yield _partial_site(holder, 0)
        elif kind is staticmethod:
            # Called again, it takes another function.
            yield Site(holder.__func__, lambda: holder.__func__, holder.__init__)
        else:
            yield from self._in_object(holder)

    def _held(self, values: list[Any] | tuple[Any, ...] | deque[Any]) -> list[tuple[int, Any]]:
        return [(at, each) for at, each in enumerate(values) if id(each) in self._replaced]

    def _stays_real(self, owner: Any) -> bool:
        """Whether what it holds is the simulator's, or a default or class of the library's."""
        if is_a(owner, types.FunctionType):
            name = str(owner.__globals__.get("__name__"))
        elif is_a(owner, type):
            name = owner.__module__
        elif type(owner) is dict and id(owner) in self._modules:
            return _is_ours(str(owner.get("__name__")))
        elif type(owner) is tuple or type(owner) is list:
            # Those of a closure, and of a table, of ours.
            kinds = types.FunctionType, type, dict
            above = self._owners.get(id(owner), ())
            return any(is_a(each, kinds) and self._stays_real(each) for each in above)
        else:
            return _is_ours(type(owner).__module__)
        return _is_ours(name) or name.partition(".")[0] in sys.stdlib_module_names

    def _in_dict(self, holder: dict[Any, Any], owners: list[Any]) -> Iterator[Site]:
        classes = [each for each in owners if is_a(each, type)]
        for name, value in tuple(holder.items()):
            if id(value) in self._replaced and name != _SAID_ONLY:
                for cls in classes:
                    yield attribute_site(cls, name, value)
                if not classes:
                    yield item_site(holder, name, value)

    def _in_tuple(self, holder: tuple[Any, ...], owners: list[Any]) -> Iterator[Site]:
        found: list[Site] = []
        for owner in owners:
            if is_a(owner, types.FunctionType) and owner.__defaults__ is holder:
                found += [default_site(owner, at, each) for at, each in self._held(holder)]
            elif is_a(owner, functools.partial) and owner.args is holder:
                self._replace(holder)
                found.append(_partial_site(owner, 1))
            elif type(owner) is dict or type(owner) is list:
                names = owner.items() if type(owner) is dict else enumerate(owner)
                self._replace(holder)
                for name, value in tuple(names):
                    if value is holder:
                        found.append(item_site(owner, name, holder))
            elif type(owner) is tuple and id(owner) in self._owners:
                self._replace(holder)
                found += self._in_tuple(owner, self._owners[id(owner)])
        if not found:
            self.left.append(holder)
        yield from found

    def _replace(self, holder: tuple[Any, ...]) -> None:
        values = [self._replaced.get(id(each), each) for each in holder]
        self._replaced[id(holder)] = tuple.__new__(type(holder), values)

    def _in_object(self, holder: Any) -> Iterator[Site]:
        sites = []
        for cls in type(holder).__mro__:
            for slot in tuple(vars(cls).values()):
                if type(slot) is types.MemberDescriptorType:
                    sites.append(_slot_site(holder, slot))
        if is_a(holder, dict):
            sites += [_item_site_of(holder, name, each) for name, each in dict.items(holder)]
        values = attributes_of(holder)
        if type(values) is dict:
            # What a cache in C was made of stands there, too, and it calls its own.
            named = [(name, each) for name, each in values.items() if name != _SAID_ONLY]
            sites += [item_site(values, name, each) for name, each in named]
        found = [each for each in sites if id(each.real) in self._replaced and _takes(each)]
        if not found and type(holder).__name__ not in (_VALIDATOR, _SERIALIZER):
            self.left.append(holder)
        yield from found


class _Anew:
    """What is made of the parts of another where it is first needed: of a validator its schema.

    That is a dict, whose clocks have been replaced then.
    """

    # No dict, which would be one more that holds it.
    __slots__ = ("_made", "of")

    def __init__(self, of: Any) -> None:
        self.of = of
        self._made: Any = None

    @property
    def made(self) -> Any:
        if self._made is None:
            kind, arguments = self.of.__reduce__()
            self._made = kind(*arguments)
        return self._made


_OF_A_LOOK = (Site, _Anew, _Look, _Replaced)
"""What holds a clock, or its holder, because it was found there."""


def _is_validator(each: Any) -> bool:
    return type(each).__name__ == _VALIDATOR


def stand_in_of(stand_in: Any) -> Any:
    """To be asked when all that can be set is set."""
    return stand_in.made if isinstance(stand_in, _Anew) else stand_in


def _is_named_tuple(holder: Any) -> bool:
    return is_a(holder, tuple) and hasattr(type(holder), "_make")


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] == "sim"


def _slot_site(holder: Any, slot: types.MemberDescriptorType) -> Site:
    def get() -> Any:
        try:
            return slot.__get__(holder, type(holder))
        except AttributeError:
            return None

    # Not the class's own way, which may forbid it.
    return Site(get(), get, lambda value: slot.__set__(holder, value))


def _takes(site: Site) -> bool:
    """Not a member of a type written in C that is only read."""
    try:
        site.put(site.real)
    except (AttributeError, TypeError):
        return False
    return True


def _partial_site(holder: functools.partial[Any], part: int) -> Site:
    """part: 0 for its function, 1 for its arguments."""

    def get() -> Any:
        return (holder.func, holder.args)[part]

    def put(value: Any) -> None:
        reduced: Any = holder.__reduce__()
        state = [*reduced[2]]
        state[part] = value
        holder.__setstate__(tuple(state))  # type: ignore[attr-defined]

    return Site(get(), get, put)


def _item_site_of(holder: dict[Any, Any], name: Any, real: Any) -> Site:
    """Not by the ways of its class, which may forbid it, or make what is not there."""
    put = functools.partial(dict.__setitem__, holder, name)
    return Site(real, lambda: dict.get(holder, name), put)
