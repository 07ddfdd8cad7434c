"""A host's disk: files that outlive its processes, and what a power failure leaves of them.

What a process has written is in the system's cache, and survives the process. What POSIX lets a
power failure take away where nobody has synced it, the scheduler may take: see `loses_power`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NoReturn

Effect = Callable[[str], None]
Choose = Callable[[list[str]], int]

UNSYNCED_MAX = 8
"""The most changes of a file, or of names, that may be lost: earlier ones are on the disk."""


class File:
    """content: what is read. synced: what is on the disk for certain. passed: what it has been
    since then, oldest first; the power may fail at each.
    """

    __slots__ = ("content", "passed", "synced")

    def __init__(self) -> None:
        self.content = self.synced = b""
        self.passed: list[bytes] = []

    def becomes(self, content: bytes) -> None:
        self.content = content
        # The last ones, each once.
        passed = [*(each for each in self.passed if each != content), content]
        if len(passed) > UNSYNCED_MAX:
            self.synced, *passed = passed
        self.passed = passed

    def sync(self) -> None:
        self.synced, self.passed = self.content, []

    def possible(self) -> list[bytes]:
        """What may be left of it; first what it is now."""
        others = [*reversed(self.passed), self.synced]
        return [self.content, *dict.fromkeys(each for each in others if each != self.content)]

    def canonical_state(self) -> object:
        return self.content, self.synced, self.passed


Names = Mapping[str, File | None]
"""A change of a directory, which happens whole or not at all: None for a name that goes."""


class Disk:
    """One directory. `before` is called before each change, with what it is; `looked` after a look
    at what is there, upon which a process may act when it is no longer so.
    """

    def __init__(
        self, before: Effect, looked: Callable[[], None], misuse: Callable[[str], NoReturn]
    ) -> None:
        self._before, self._looked, self._misuse = before, looked, misuse
        # What processes see; the names that are on the disk for certain; what came after these.
        self._files: dict[str, File] = {}
        self._synced: dict[str, File] = {}
        self._changes: list[Names] = []

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError."""
        return self._file(name).content

    def write(self, name: str, content: bytes) -> None:
        """As `open(name, "wb")` and then `write`: in between the file is there, and empty.

        So a process that crashes there leaves it empty; to replace a file at once, write another
        one and rename that.
        """
        content = self._bytes("write", name, content)
        self._before(f"writes {name}")
        file = self._files.get(name)
        if file is None:
            file = self._make(name)
        file.becomes(b"")
        if content:
            self._before(f"fills {name}, which is empty")
            self._fill(file, b"", content)

    def append(self, name: str, content: bytes) -> None:
        """At once for other processes, and for one that crashes."""
        content = self._bytes("append", name, content)
        self._before(f"appends to {name}")
        file = self._files.get(name)
        if file is None:
            file = self._make(name)
        self._fill(file, file.content, content)

    def remove(self, name: str) -> None:
        """Raises FileNotFoundError."""
        self._file(name)
        self._before(f"removes {name}")
        self._change({name: None})

    def rename(self, name: str, to: str) -> None:
        """At once, also over a file that is there. Raises FileNotFoundError."""
        self._require_name("rename", to)
        self._file(name)
        self._before(f"renames {name} to {to}")
        file = self._file(name)
        self._change({name: None, to: file} if name != to else {})

    def sync(self, name: str | None = None) -> None:
        """As `fsync` of that file, or of every file and of the directory.

        That of a file is not one of its name: a new one may be gone after a power failure, and a
        renamed one have its old name, until the directory is synced. Raises FileNotFoundError.
        """
        if name is not None:
            file = self._file(name)
            self._before(f"syncs {name}")
            file.sync()
            return
        self._before("syncs its disk")
        for file in self._files.values():
            file.sync()
        self._settle_names()

    def sync_directory(self) -> None:
        """As `fsync` of the directory: names stay as they are now."""
        self._before("syncs its directory")
        self._settle_names()

    def __contains__(self, name: object) -> bool:
        self._looked()
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        self._looked()
        return iter(sorted(self._files))

    def __len__(self) -> int:
        return len(self._files)

    def loses_power(self, choose: Choose) -> None:
        """What nobody has synced may be lost, by choice; what is left then stays.

        Changes of names happen in their order, each whole or not at all, so that a rename never
        loses both names. Apart from that a file may be anything that it has passed through since it
        was synced: empty as it was made or written anew, or with half of what was written last.
        """
        self._lose_names(choose)
        for name in sorted(self._files):
            file = self._files[name]
            possible = file.possible()
            if len(possible) > 1:
                words = [f"{name} is kept", *(_left(name, each) for each in possible[1:])]
                file.content = possible[choose(words)]
            file.sync()

    def canonical_state(self) -> object:
        return self._files, self._synced, self._changes

    # -- changes

    def _file(self, name: str) -> File:
        self._looked()
        try:
            return self._files[name]
        except KeyError:
            raise FileNotFoundError(name) from None

    def _make(self, name: str) -> File:
        file = File()
        self._change({name: file})
        return file

    def _fill(self, file: File, before: bytes, content: bytes) -> None:
        file.becomes(before + content[: len(content) // 2])
        file.becomes(before + content)

    def _change(self, names: Names) -> None:
        _apply(names, self._files)
        self._changes.append(names)
        if len(self._changes) > UNSYNCED_MAX:
            _apply(self._changes.pop(0), self._synced)

    def _settle_names(self) -> None:
        self._synced = dict(self._files)
        self._changes.clear()

    def _lose_names(self, choose: Choose) -> None:
        changes = self._changes
        words = ["every name is kept"]
        for lost in range(1, len(changes) + 1):
            names = [name for change in changes[-lost:] for name in change]
            words.append(f"{', '.join(dict.fromkeys(names))}: as before, by name")
        if changes:
            for change in changes[: len(changes) - choose(words)]:
                _apply(change, self._synced)
            self._files = dict(self._synced)
        self._settle_names()

    # -- what is asked of it

    def _require_name(self, method: str, name: object) -> None:
        if not isinstance(name, str):
            self._misuse(f"disk.{method}({name!r}, …) needs the name of a file, a text")

    def _bytes(self, method: str, name: object, content: object) -> bytes:
        self._require_name(method, name)
        if not isinstance(content, bytes | bytearray | memoryview):
            self._misuse(f"disk.{method}({name!r}, {content!r}) needs bytes, as b'…'")
        return bytes(content)


def _apply(change: Names, names: dict[str, File]) -> None:
    for name, file in change.items():
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file


def _left(name: str, content: bytes) -> str:
    shown = repr(content) if len(content) <= SHOWN_MAX else f"{len(content)} bytes"
    return f"of {name} is left: {shown if content else 'nothing, it is empty'}"


SHOWN_MAX = 40
