"""What the history of a chaos run says of the promises: S1, S3 and S5.

A time was read before what it stands for, and the clock is the same for all. So what is found is a
violation, and no accident of when a line was written: a gate was asked after its time.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Line:
    at: float
    what: str
    session: str
    token: int
    trace_id: str

    @classmethod
    def of(cls, text: str) -> Line:
        at, what, session, token, trace_id = text.split()
        return cls(float(at), what, session, int(token), trace_id)

    @property
    def worker(self) -> str:
        return self.trace_id.partition(".")[0]


@dataclass
class History:
    """killed: when each worker was, by the clock of the lines.

    admitted: the place of each stream among all that were let in, where the calls do not say it.
    """

    lines: list[Line]
    killed: Mapping[str, float] = field(default_factory=dict)
    admitted: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, killed: Mapping[str, float]) -> History:
        # The last line of a process may have been cut off by its end.
        texts = [each for each in path.read_text().splitlines() if len(each.split()) == 5]
        return cls(sorted((Line.of(text) for text in texts), key=lambda each: each.at), killed)

    @property
    def counts(self) -> Counter[str]:
        return Counter(line.what for line in self.lines)

    @property
    def waits_s(self) -> list[float]:
        """From the register to the admission, sorted."""
        asked = {line.trace_id: line.at for line in self.lines if line.what == "asked"}
        let_in = [line for line in self.lines if line.what == "let_in" and line.trace_id in asked]
        return sorted(line.at - asked[line.trace_id] for line in let_in)

    @property
    def overlaps(self) -> int:
        """How many upstream calls began while an older one of their session was not over."""
        return sum(1 for _ in self._overlaps())

    def violations(self) -> Iterator[str]:
        yield from self._of_gates()
        yield from self._of_tokens()
        for newer, older, since in self._overlaps():
            if not self._is_logged(newer, older) and not self._may_be_forgotten(older, newer):
                yield f"S3 {newer} begins; {older}, since {since:.3f}, is not over nor logged"

    def _is_logged(self, begins: Line, runs: Line) -> bool:
        """Of the two calls, that the stream which was let in first has not ended in time.

        That is who begins, where its worker stood still in front of its call.
        """
        places = [self.admitted.get(each.trace_id, -1) for each in (begins, runs)]
        late = begins if -1 not in places and places[0] < places[1] else runs
        return any(t <= begins.at for t in self._timeouts.get(late.trace_id, ()))

    @property
    def forgotten(self) -> int:
        """Overlaps that nobody could log: the store had lost what it knew of the older stream."""
        return sum(
            self._may_be_forgotten(older, newer) and not self._is_logged(newer, older)
            for newer, older, _ in self._overlaps()
        )

    def _may_be_forgotten(self, older: Line, newer: Line) -> bool:
        """The store was replaced since, and a worker that stands still does not say so again."""
        return any(
            line.what in ("restart", "fail_over") and older.at <= line.at <= newer.at
            for line in self.lines
        )

    def _of_gates(self) -> Iterator[str]:
        """S1: no gate is found open after a newer stream of the session was let in."""
        newest: dict[str, Line] = {}
        for line in self.lines:
            known = newest.get(line.session)
            if line.what in ("emit", "upstream") and known and known.token > line.token:
                yield f"S1 {line}, and {known} was let in before"
            if line.what == "let_in" and (known is None or known.token < line.token):
                newest[line.session] = line

    def _of_tokens(self) -> Iterator[str]:
        """S5: greater than those of all that were let in before it asked; and no two are equal."""
        asked = {line.trace_id: line.at for line in self.lines if line.what == "asked"}
        let_in = [line for line in self.lines if line.what == "let_in"]
        tokens = Counter(line.token for line in let_in)
        yield from (f"S5 fencing token {token} twice" for token, n in tokens.items() if n > 1)
        for session in {line.session for line in let_in}:
            of_session = [line for line in let_in if line.session == session]
            # By the time of their register: the greatest token that had been let in by then.
            by_ask = sorted(
                (line for line in of_session if line.trace_id in asked),
                key=lambda line: asked[line.trace_id],
            )
            greatest, done = 0, 0
            for line in by_ask:
                while done < len(of_session) and of_session[done].at < asked[line.trace_id]:
                    greatest = max(greatest, of_session[done].token)
                    done += 1
                if line.token <= greatest:
                    yield f"S5 {line} has no greater token than {greatest}"

    @property
    def _timeouts(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = defaultdict(list)
        for line in self.lines:
            if line.what == "timeout":
                found[line.trace_id].append(line.at)
        return found

    def _overlaps(self) -> Iterator[tuple[Line, Line, float]]:
        """Who begins, beside which older one, and since when that works upstream."""
        over = {line.trace_id: line.at for line in self.lines if line.what == "over"}
        running: dict[str, list[Line]] = defaultdict(list)
        for line in self.lines:
            if line.what != "upstream":
                continue
            still = []
            for other in running[line.session]:
                ends = over.get(other.trace_id, self.killed.get(other.worker, float("inf")))
                if ends > line.at:
                    still.append(other)
                    yield line, other, other.at
            running[line.session] = [*still, line]
