"""A host's disk: files that outlive its processes.

What a process has written is in the system's cache, and survives the process. What was not synced
may be lost when the host itself crashes, which the scheduler decides for each file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

Effect = Callable[[str], None]


class Disk:
    """Contents by name. `before` is called before each change, with what it is; `looked` after a
    look at what is there, upon which a process may act when it is no longer so.
    """

    def __init__(self, before: Effect, looked: Callable[[], None]) -> None:
        self._before = before
        self._looked = looked
        # What a process reads, and what a crash of the host leaves for certain.
        self._files: dict[str, bytes] = {}
        self._synced: dict[str, bytes] = {}

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError."""
        self._looked()
        try:
            return self._files[name]
        except KeyError:
            raise FileNotFoundError(name) from None

    def write(self, name: str, content: bytes) -> None:
        self._before(f"writes {name}")
        self._files[name] = bytes(content)

    def append(self, name: str, content: bytes) -> None:
        self._before(f"appends to {name}")
        self._files[name] = self._files.get(name, b"") + content

    def remove(self, name: str) -> None:
        """Raises FileNotFoundError."""
        self.read(name)
        self._before(f"removes {name}")
        del self._files[name]

    def rename(self, name: str, to: str) -> None:
        """At once, also over a file that is there. Raises FileNotFoundError."""
        content = self.read(name)
        self._before(f"renames {name} to {to}")
        del self._files[name]
        self._files[to] = content

    def sync(self) -> None:
        """As `fsync` of each file and of their directory: a crash loses none of it."""
        self._before("syncs its disk")
        self._synced = dict(self._files)

    def __contains__(self, name: object) -> bool:
        self._looked()
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        self._looked()
        return iter(sorted(self._files))

    def __len__(self) -> int:
        return len(self._files)

    def unsynced(self) -> list[str]:
        """The files that a crash of the host may bring back to what they were."""
        names = sorted({*self._files, *self._synced})
        return [name for name in names if self._files.get(name) != self._synced.get(name)]

    def lose(self, name: str) -> None:
        """The file is what it was when the disk was synced last."""
        if name in self._synced:
            self._files[name] = self._synced[name]
        else:
            del self._files[name]

    def settle(self) -> None:
        """The host starts: what is there now stays."""
        self._synced = dict(self._files)

    def canonical_state(self) -> object:
        return self._files, self._synced
