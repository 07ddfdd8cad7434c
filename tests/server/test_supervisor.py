"""The supervisor of several workers, look by look; the processes are stand-ins."""

from __future__ import annotations

import pickle
import signal
from collections.abc import Callable
from typing import Any, cast

import pytest
import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import multiprocess
from uvicorn.supervisors.multiprocess import Process

from server.supervisor import LOOK_S, Supervisor

HEALTH_LOOKS = 4
GRACE_S = 1


def nothing() -> None:
    pass


class StandIn:
    """A process and its pipe. It answers, stands still, or ends, as the test says."""

    def __init__(self, *, serves: bool = True) -> None:
        self.serves, self.stands_still, self.ends_when_told = serves, False, True
        self.answers_nonsense, self.dies_when_killed = False, True
        self.started = self.told = self.killed = False
        self.exitcode: int | None = None
        self.pid = 4242
        self.asked = 0
        self.parent_conn = self.process = self
        self.on_join: Callable[[], None] = nothing

    def start(self) -> None:
        self.started = True

    def is_alive(self) -> bool:
        return self.exitcode is None

    def send(self, question: bytes) -> None:
        if self.killed or self.told:
            raise OSError("handle is closed")
        self.asked += 1

    def poll(self, patience_s: float) -> bool:
        assert patience_s == 0, "a look waits for nothing"
        return not self.stands_still and self.exitcode is None

    def recv(self) -> bool:
        if self.answers_nonsense:
            raise pickle.UnpicklingError("invalid load key")
        return self.serves

    def terminate(self) -> None:
        self.told = True
        if self.ends_when_told and not self.stands_still and self.exitcode is None:
            self.exitcode = -signal.SIGTERM

    def kill(self) -> None:
        self.killed = True
        if self.exitcode is None and self.dies_when_killed:
            self.exitcode = -signal.SIGKILL

    def join(self, patience_s: float) -> None:
        self.on_join()


class Supervised:
    """Two workers, and what became of them."""

    def __init__(self, grace_s: int | None = GRACE_S) -> None:
        self.made: list[StandIn] = []
        self.next_serves = True
        self.was_ready = 0
        # Called where the supervisor waits for those that end.
        self.on_join: Callable[[], None] = nothing
        config = uvicorn.Config("app", workers=2, timeout_graceful_shutdown=grace_s)
        self.supervisor = Supervisor(
            config,
            [],
            health_s=HEALTH_LOOKS * LOOK_S,
            on_ready=self._ready,
            make=cast("Callable[..., Process]", self._make),
        )
        # Looks are made by the test.
        self.supervisor.should_exit = cast(Any, self)
        self.is_set_after: list[Callable[[], None]] = []

    def _make(self, config: uvicorn.Config, sockets: list[Any]) -> StandIn:
        self.made.append(StandIn(serves=self.next_serves))
        self.made[-1].on_join = lambda: self.on_join()
        return self.made[-1]

    def _ready(self) -> None:
        self.was_ready += 1

    # -- stands in for `should_exit`

    _is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True

    def wait(self, patience_s: float) -> bool:
        if self.is_set_after and not self._is_set:
            self.is_set_after.pop(0)()
        return self._is_set

    def run(self, *between: Callable[[], None]) -> None:
        """A look after each of these, and then SIGTERM."""
        self.is_set_after = [*between, self.supervisor.handle_term]
        self.supervisor.run()


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Supervised:
    # Those of this process stay as they are.
    monkeypatch.setattr(multiprocess, "SIGNALS", {})
    return Supervised()


def test_it_says_once_that_all_workers_serve(two: Supervised) -> None:
    """And not while one of them is still to start; SIGTERM ends all of them."""
    two.next_serves = False

    def serve() -> None:
        assert two.was_ready == 0
        for each in two.made:
            each.serves = True

    two.run(nothing, nothing, serve, nothing, nothing)
    assert two.was_ready == 1
    assert [each.told for each in two.made] == [True, True]
    assert not two.supervisor.has_failed


def test_who_ends_by_the_same_ctrl_c_has_no_successor(two: Supervised) -> None:
    """A terminal sends it to the workers as well, and they may be faster."""

    def ctrl_c() -> None:
        two.supervisor.signal_queue.append(signal.SIGINT)
        two.made[0].exitcode = 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocess, "SIGNALS", {signal.SIGINT: "INT"})
        two.run(nothing, ctrl_c)
    assert [each.told for each in two.made] == [True, True]
    assert two.supervisor.told == [signal.SIGINT]


def test_a_worker_begins_with_ctrl_c_held_back(two: Supervised) -> None:
    """It would end by it with a traceback as long as it imports; its supervisor takes it on."""
    held: list[bool] = []
    made = two._make

    def make(*given: Any) -> StandIn:
        held.append(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        return made(*given)

    two.supervisor._make = cast("Callable[..., Process]", make)
    two.run(lambda: held.append(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    assert held == [True, True, False]


def test_a_worker_that_dies_while_it_is_asked_is_replaced_with_the_next_look(
    two: Supervised,
) -> None:
    """It is not waited for: the answer never comes, as this process has both ends of the pipe."""

    def dies() -> None:
        two.made[0].stands_still, two.made[0].exitcode = True, -signal.SIGKILL
        asked.append(two.made[1].asked)

    asked: list[int] = []
    two.run(nothing, dies, nothing)
    assert len(two.made) == 3
    assert two.made[2].asked > 0
    assert two.made[1].asked > asked[0]


def test_a_worker_that_stands_still_is_killed_and_holds_up_nobody(two: Supervised) -> None:
    """After the looks that it has for its answer, and not one earlier; the other is asked on."""

    def stands_still() -> None:
        two.made[0].stands_still = True

    killed: list[bool] = []
    two.run(
        nothing,
        nothing,
        stands_still,
        *[nothing] * (HEALTH_LOOKS - 2),
        *[lambda: killed.append(two.made[0].killed)] * 2,
        nothing,
    )
    assert killed == [False, True]
    assert len(two.made) == 3
    assert two.made[1].asked > HEALTH_LOOKS


def test_a_worker_that_refuses_to_start_ends_all(two: Supervised) -> None:
    """What it says of the settings holds for the others as well."""

    def refuses() -> None:
        two.made[1].exitcode = STARTUP_FAILURE

    two.run(nothing, refuses)
    assert two.supervisor.has_failed
    assert two.made[0].told
    assert len(two.made) == 2


def test_a_first_worker_that_answers_and_never_serves_is_replaced(
    two: Supervised, caplog: pytest.LogCaptureFixture
) -> None:
    """As one that is silent; it has as many looks to start, and is told by a line of its own."""
    two.next_serves = False

    def next_ones_serve() -> None:
        two.made[1].serves = two.next_serves = True

    killed: list[bool] = []
    two.run(
        next_ones_serve,
        *[nothing] * (HEALTH_LOOKS - 2),
        *[lambda: killed.append(two.made[0].killed)] * 2,
        nothing,
        nothing,
    )
    assert killed == [False, True]
    assert [each.killed for each in two.made] == [True, False, False]
    assert two.was_ready == 1
    assert [each.partition(" ")[0] for each in caplog.messages][:2] == [
        "worker_does_not_start",
        "worker_ended",
    ]


def test_a_restart_is_given_up_where_a_new_worker_answers_and_never_serves(
    two: Supervised,
) -> None:
    """Its process may answer from a thread of its own, while its start-up hangs."""

    def hang_up() -> None:
        two.next_serves = False
        two.supervisor.handle_hup()

    told: list[bool] = []
    two.run(
        nothing,
        hang_up,
        *[nothing] * (HEALTH_LOOKS + 1),
        lambda: told.extend(each.told or each.killed for each in two.made),
    )
    assert told == [False, False, True]


def test_an_answer_that_cannot_be_read_is_none(two: Supervised) -> None:
    """What a worker has written when it dies may be half of one."""

    def answers_nonsense() -> None:
        two.made[0].answers_nonsense = True

    two.run(nothing, answers_nonsense, *[nothing] * (HEALTH_LOOKS + 1))
    assert [each.killed for each in two.made] == [True, False, False]


def test_a_replacement_that_refuses_to_start_ends_nobody_and_is_tried_again(
    two: Supervised, caplog: pytest.LogCaptureFixture
) -> None:
    """Its store may be away; the next one is tried as many looks later as a worker has to start."""

    def dies() -> None:
        two.made[0].exitcode = -signal.SIGKILL

    def refuses() -> None:
        two.made[2].exitcode = STARTUP_FAILURE

    made: list[int] = []
    two.run(
        nothing,
        nothing,
        dies,
        refuses,
        *[nothing] * (HEALTH_LOOKS - 1),
        *[lambda: made.append(len(two.made))] * 2,
    )
    assert made == [3, 4]
    assert not two.supervisor.has_failed
    assert [each.killed for each in two.made] == [True, False, True, False]
    assert sum(each.startswith("worker_refused") for each in caplog.messages) == 1


def test_a_rolling_restart_replaces_one_after_the_other(two: Supervised) -> None:
    """The next once the one before has ended; each new one serves before an old one is told."""

    def hang_up() -> None:
        two.next_serves = False
        two.supervisor.handle_hup()

    def check_nobody_was_told() -> None:
        assert [each.told for each in two.made] == [False, False, False]
        two.made[2].serves = True
        two.made[0].ends_when_told = False

    def check_the_first_ends() -> None:
        assert [each.told for each in two.made] == [True, False, False]
        two.made[0].exitcode = 0
        two.next_serves = True

    places: list[bool] = []
    two.run(
        nothing,
        hang_up,
        nothing,
        check_nobody_was_told,
        nothing,
        check_the_first_ends,
        *[nothing] * 4,
        lambda: places.extend(each.told for each in two.made),
    )
    assert places == [True, True, False, False]


def test_a_signal_is_taken_while_a_new_worker_starts(two: Supervised) -> None:
    """SIGTERM in a rolling restart ends the old ones and the new one at once."""
    two.next_serves = True

    def hang_up() -> None:
        two.next_serves = False
        two.supervisor.handle_hup()

    two.run(nothing, hang_up, nothing)
    assert [each.told for each in two.made] == [True, True, True]


def test_a_worker_that_is_told_to_end_while_it_starts_has_the_grace_alone(
    two: Supervised,
) -> None:
    """It may import for long, and takes no signal meanwhile: nothing of it is worth the wait."""

    def hang_up() -> None:
        two.next_serves = False
        two.supervisor.handle_hup()

    def starts_for_long() -> None:
        two.made[2].ends_when_told = False

    looks: list[bool] = []
    two.on_join = lambda: looks.append(two.made[2].killed)
    two.run(nothing, hang_up, nothing, starts_for_long)
    assert looks == [False] * round(GRACE_S / LOOK_S)
    assert two.made[2].killed
    assert [each.killed for each in two.made[:2]] == [False, False]


def test_a_restart_is_given_up_where_a_new_worker_does_not_start(two: Supervised) -> None:
    """Those that serve are left as they are."""

    def hang_up() -> None:
        two.next_serves = False
        two.supervisor.handle_hup()

    def starts_never() -> None:
        two.made[2].stands_still = True

    told: list[bool] = []
    two.run(
        nothing,
        hang_up,
        starts_never,
        *[nothing] * (HEALTH_LOOKS + 1),
        lambda: told.extend(each.told or each.killed for each in two.made),
    )
    assert told == [False, False, True]


def test_one_that_dies_in_a_restart_is_followed_by_the_new_one(two: Supervised) -> None:
    """No other one is started for its place: the fourth is for the second's."""

    def hang_up() -> None:
        two.next_serves = False
        two.supervisor.handle_hup()

    def dies() -> None:
        two.made[0].exitcode = 1

    made: list[int] = []
    two.run(nothing, hang_up, nothing, dies, lambda: made.append(len(two.made)))
    assert made == [4]


def test_workers_are_added_and_taken_away_by_signals(two: Supervised) -> None:
    """SIGTTIN and SIGTTOU, down to one; who ends is not waited for."""
    supervisor, ends = two.supervisor, list[bool]()
    two.run(
        supervisor.handle_ttin,
        lambda: setattr(two.made[2], "ends_when_told", False),
        supervisor.handle_ttou,
        supervisor.handle_ttou,
        supervisor.handle_ttou,
        lambda: ends.extend(each.told for each in two.made),
        lambda: setattr(two.made[2], "exitcode", 0),
    )
    assert ends == [False, True, True]


def test_a_worker_that_does_not_end_is_killed(two: Supervised) -> None:
    """Its grace and the time to answer later: one that was stopped would never end."""

    def stops() -> None:
        two.made[0].stands_still = True

    two.run(nothing, stops)
    assert two.made[0].told
    assert two.made[0].killed
    assert not two.made[1].killed


@pytest.mark.parametrize("grace_s", [None, 0])
def test_without_a_grace_too_one_that_starts_and_does_not_end_is_killed(
    grace_s: int | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With the first look, told once also where the system takes long to end it."""
    monkeypatch.setattr(multiprocess, "SIGNALS", {})
    two = Supervised(grace_s)
    two.next_serves = False

    def stands_still() -> None:
        two.made[0].stands_still, two.made[0].dies_when_killed = True, False

    looks: list[bool] = []

    def looked() -> None:
        looks.append(two.made[0].killed)
        assert len(looks) <= HEALTH_LOOKS, "it is not killed"
        if looks.count(True) == HEALTH_LOOKS - 1:
            two.made[0].exitcode = -signal.SIGKILL

    two.on_join = looked
    two.run(stands_still)
    assert looks == [False] + [True] * (HEALTH_LOOKS - 1)
    assert [each.partition(" ")[0] for each in caplog.messages] == ["worker_does_not_end"]
