"""Hosts and processes, as a program under exploration sees them: `world.host(name)`."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Protocol

from sim.kernel.arguments import caller, wrong_with
from sim.kernel.errors import NotSimulated
from sim.kernel.hosts.clock import HostClock
from sim.kernel.hosts.disk import Disk
from sim.kernel.hosts.hub import Hub
from sim.kernel.hosts.run import BY_PROGRAM, By, Exit, FaultOfHost, How, Run, Stands
from sim.kernel.origin import forwards
from sim.kernel.schedule import FAULT_IN_STEP, Option, one_natural
from sim.kernel.signals import name_of

BY_THE_SYSTEM = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT}
"""No process handles these itself."""

Costs = Callable[[Sequence[Any]], Sequence[int]]
Main = Callable[..., Coroutine[Any, Any, object]]


class WorldOfHosts(Protocol):
    """What hosts use of the execution's world."""

    def record(self, text: str, *, actor: str | None = None) -> None: ...

    def judge_end(self, raised: BaseException, who: str) -> None: ...

    def signal(self, sig: int, *, to: Process, latest: float) -> object: ...


class Host:
    """A machine: processes, a clock, and a disk that outlives both. To be made by `World.host`."""

    def __init__(
        self, world: WorldOfHosts, hub: Hub, name: str, *, clock_offset_s: float, clock_rate: float
    ) -> None:
        self.name = name
        self.clock = HostClock(clock_offset_s, clock_rate, hub.main.environment.begun_s)
        self.disk = Disk(self._before_write, self._disk_was_used, hub.main.misuse)
        hub.host_names.append(name)
        self.processes: list[Process] = []
        self._world, self._hub = world, hub
        self.faults: list[FaultOfHost] = []
        # By whom it is frozen; its clock stands while anybody has.
        self._frozen_by: set[By] = set()

    def run(self, main: Main, *args: Any, name: str | None = None) -> Process:
        """Starts a process: `main(*args)` in a loop of its own.

        name: of its column in charts; the host's name for the first, without one.
        """
        if not callable(main):
            self._hub.main.misuse(_not_a_main(repr(main)))
        if name is not None and not isinstance(name, str):
            self._hub.main.misuse(f"host.run(…, name={name!r}) needs a text as its name")
        count = len(self.processes)
        named = name or (self.name if count == 0 else f"{self.name}-{count + 1}")
        process = Process(self._world, self._hub, self, named, main, args)
        self.processes.append(process)
        process._start()
        return process

    def crash(self) -> None:
        """The power fails: its processes end, and what was not synced may be lost."""
        self._lose_power(one_natural)

    def _lose_power(self, costs: Costs) -> None:
        """costs: of what is lost of its disk, in departures."""
        self.disk.loses_power(partial(self._what_is_lost, costs))
        self._world.record("loses its power" + self._hub.failing_before, actor=self.name)
        if self._hub.main.has_network:
            self._hub.main.network.power_fails(self.name)
        # What was frozen is gone.
        for by in tuple(self._frozen_by):
            self._thaw(by)
        # The one that runs last, since its turn ends with it.
        running = [each for each in self.processes if each.run is not None]
        for process in sorted(running, key=lambda each: each.run is self._hub.current):
            process.crash()

    def _what_is_lost(self, costs: Costs, options: list[str]) -> int:
        named = [Option(f"{self.name}'s disk: {each}") for each in options]
        option = self._hub.choose(FAULT_IN_STEP, named, costs)
        if option:
            self._world.record(options[option], actor=self.name)
        return option

    def restart(self) -> None:
        """Each of its processes that does not run starts anew."""
        for process in self.processes:
            if process.run is None:
                process._start()

    def freeze(self) -> None:
        """As a virtual machine that is paused: nothing of it runs, and its clock stands."""
        self._freeze(BY_PROGRAM)

    def thaw(self) -> None:
        """Ends a freeze of the program's; one that is a fault ends after its time."""
        self._thaw(BY_PROGRAM)

    def _freeze(self, by: By) -> None:
        self._frozen_by.add(by)
        if not self.clock.stands:
            self.clock.stop(self._hub.now())
            self._world.record("is frozen" + self._hub.failing_before, actor=self.name)
            self._stand_here()

    def _thaw(self, by: By) -> None:
        self._frozen_by.discard(by)
        if self.clock.stands and not self._frozen_by:
            self.clock.go_on(self._hub.now())
            for process in self.processes:
                if process.run is not None:
                    process.run.environment.was_thawed()
            self._world.record("is thawed", actor=self.name)

    def may_freeze(self, for_s: float) -> None:
        """A fault: before any step of its processes, it may be frozen for so long."""
        _require(self._hub, f"the host {self.name}.may_freeze", for_s=for_s)
        self.faults.append(
            FaultOfHost(f"{self.name} is frozen for {for_s:g} s", self._freezes(for_s))
        )

    def may_crash(self, restart_s: float | None = None) -> None:
        """A fault: before any step of its processes, or any change of its disk, its power may fail.

        restart_s: after how long its processes start anew; never if None.
        """
        _require(self._hub, f"the host {self.name}.may_crash", restart_s=restart_s)
        self.faults.append(FaultOfHost(f"{self.name} loses its power", self._crashes(restart_s)))

    def canonical_state(self) -> object:
        """All of it that decides what happens next."""
        frozen = sorted(map(str, self._frozen_by))
        return self.name, self.clock, self.disk, self.processes, self.faults, frozen

    def _freezes(self, for_s: float) -> Callable[[], None]:
        def happen() -> None:
            this = self._hub.faults_taken
            self._hub.after(for_s, partial(self._thaw, this))
            self._freeze(this)

        return happen

    def _crashes(self, restart_s: float | None) -> Callable[[], None]:
        def happen() -> None:
            if restart_s is not None:
                self._hub.after(restart_s, self.restart)
            self._lose_power(_free)

        return happen

    def _stand_here(self) -> None:
        for process in self.processes:
            if process.run is not None:
                self._hub.stand_if_current(process.run)

    def _before_write(self, what: str) -> None:
        run = self._hub.current
        if run is not None and any(each.run is run for each in self.processes):
            self._hub.may_fail(run, Stands.IN_STEP, what)
        self._disk_was_used()

    def _disk_was_used(self) -> None:
        """Others of the host may act between this and what the process does about it."""
        run = self._hub.current
        if run is not None and any(each.run is run for each in self.processes):
            run.has_used_disk = True


class Process:
    """One program on a host, with a loop of its own. To be made by `Host.run`.

    run: what runs of it now; None if it has ended, and was not started anew.
    """

    def __init__(
        self,
        world: WorldOfHosts,
        hub: Hub,
        host: Host,
        name: str,
        main: Main,
        args: tuple[Any, ...],
    ) -> None:
        self.host, self.name = host, name
        self.run: Run | None = None
        self.exit: Exit | None = None
        self._world, self._hub = world, hub
        self._main, self._args = main, args
        # The line of the program by which it was made, for what is wrong with its main.
        self._run_in = caller()
        self._faults: list[FaultOfHost] = []
        # For its end, whatever it is; and for one by which it returns.
        self._waiting: list[asyncio.Future[Exit]] = []
        self._waiting_on: list[asyncio.Future[Exit]] = []

    @property
    def is_running(self) -> bool:
        return self.run is not None

    @property
    def pid(self) -> int | None:
        """What `os.getpid` is in it; another one after a restart."""
        return self.run.pid if self.run is not None else None

    async def ended(self) -> Exit:
        """Waits for its end, however it ends. An exception is then the caller's to judge."""
        if self.exit is not None and self.run is None:
            return self.exit
        future: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return await future

    async def returned(self) -> Any:
        """Waits until its main returns, over crashes and restarts; what it returned."""
        while self.run is not None or self.exit is None or self.exit.how is not How.RETURNED:
            future: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
            self._waiting_on.append(future)
            await future
        return self.exit.value

    # -- what befalls it

    def crash(self) -> None:
        """It ends where it stands: nothing of it runs any more, no `finally` either.

        Its sockets are reset, its threads are gone, its files are what it had written.
        """
        self.end_where_it_stands(Exit(How.CRASHED), "crashes")

    def kill(self, sig: int) -> None:
        """The signal does what the system does with it where the process does not handle it."""
        if sig == signal.SIGKILL:
            self.crash()
        elif sig == signal.SIGSTOP:
            self.pause()
        elif sig == signal.SIGCONT:
            self.resume()
        else:
            self.end_where_it_stands(Exit(How.KILLED, sig), f"is ended by {name_of(sig)}")

    def pause(self) -> None:
        """As by SIGSTOP: nothing of it runs, its clock goes on, what comes for it waits."""
        self._pause(BY_PROGRAM)

    def resume(self) -> None:
        """Ends a pause of the program's, or of SIGSTOP; one that is a fault ends after its time."""
        if self.run is not None:
            self._resume(self.run, BY_PROGRAM)

    def _pause(self, by: By) -> None:
        run = self.run
        if run is None:
            return
        was_paused = run.is_paused
        run.paused_by.add(by)
        if not was_paused:
            self._world.record("is paused" + self._hub.failing_before, actor=self.name)
            self._hub.stand_if_current(run)

    def _resume(self, run: Run, by: By) -> None:
        if self.run is run and by in run.paused_by:
            run.paused_by.discard(by)
            if not run.is_paused:
                self._world.record("goes on after its pause", actor=self.name)

    def restart(self) -> None:
        """Its main begins anew. A process that runs crashes first."""
        if self.run is None:
            self._start()
            return
        self._hub.after(0.0, self._start)
        self.crash()

    def may_crash(self, restart_s: float | None = None) -> None:
        """A fault: it may crash before any of its steps, and before what it writes or sends.

        restart_s: after how long it starts anew; never if None.
        """
        _require(self._hub, f"the process {self.name}.may_crash", restart_s=restart_s)

        def happen() -> None:
            if restart_s is not None:
                self._hub.after(restart_s, self._start)
            self.crash()

        self._faults.append(FaultOfHost(f"{self.name} crashes", happen))

    def may_pause(self, for_s: float) -> None:
        """A fault: it may be paused for so long, before any of its steps or what it writes."""
        _require(self._hub, f"the process {self.name}.may_pause", for_s=for_s)

        def happen() -> None:
            assert self.run is not None
            this = self._hub.faults_taken
            self._hub.after(for_s, partial(self._resume, self.run, this))
            self._pause(this)

        self._faults.append(FaultOfHost(f"{self.name} is paused for {for_s:g} s", happen))

    def canonical_state(self) -> object:
        """All of it that decides what happens next."""
        bound = self.name, self.host, self._main, self._args
        waiting = self._waiting, self._waiting_on
        return bound, self.run, self.exit, self._faults, waiting

    # -- its runs

    def _start(self) -> None:
        if self.run is not None:
            return
        hub = self._hub
        if hub.main.has_network:
            hub.main.network.is_back(self.host.name)
        run = Run(hub, self.name, hub.next_pid(), self.host.clock, self._began)
        run.faults, run.host_name = self._possible_faults, self.host.name
        self.run = run
        hub.start(run, self._has_ended, self._receive)
        self._world.record("starts" if self.exit is None else "starts anew", actor=self.name)

    @forwards
    def _began(self) -> Coroutine[Any, Any, object]:
        """What its main returns, as it is called. Raises what that raises."""
        returned = self._main(*self._args)
        if not asyncio.iscoroutine(returned):
            words = f"{_name_of(self._main)}{self._run_in}"
            self._hub.main.misuse(f"{_not_a_main(words)}; this returns {returned!r}")
        return returned

    def _possible_faults(self) -> list[FaultOfHost]:
        return [*self._faults, *self.host.faults]

    def _receive(self, sig: int) -> None:
        """A signal by `os.kill`: it is there at once, and its handler runs at the next poll.

        What it sends to itself and would end by, it ends by before its next line.
        """
        run = self.run
        ends_itself = run is not None and run is self._hub.current and run.loop.is_ended_by(sig)
        if sig in BY_THE_SYSTEM or ends_itself:
            self.kill(sig)
        else:
            self._world.signal(sig, to=self, latest=0.0)

    def end_where_it_stands(self, end: Exit, words: str) -> None:
        run = self.run
        if run is not None:
            self._world.record(words + self._hub.failing_before, actor=self.name)
            self._hub.ended(run, end)
            self._hub.leave_if_current(run)

    def _has_ended(self, end: Exit) -> None:
        self.run, self.exit = None, end
        waiting = [each for each in self._waiting if not each.done()]
        told = [*waiting, *(each for each in self._waiting_on if not each.done())]
        self._waiting.clear()
        self._waiting_on.clear()
        for each in told:
            loop: Any = each.get_loop()
            loop.call_from_thread(_settle, (each, end), None)
        if end.how is How.RETURNED:
            self._world.record("ends", actor=self.name)
        elif end.raised is not None and (
            not waiting or isinstance(end.raised, AssertionError | NotSimulated)
        ):
            self._world.judge_end(end.raised, f"the process {self.name}")


def _free(options: Sequence[object]) -> list[int]:
    """What a fault takes with it is part of that departure."""
    return [0] * len(options)


def _require(hub: Hub, what: str, **arguments: object) -> None:
    wrong = wrong_with(arguments)
    if wrong is not None:
        hub.main.misuse(f"{what}: {wrong}")


def _not_a_main(words: str) -> str:
    return (
        f"host.run({words}) needs an async function, which it calls itself, also after a restart; "
        f"give its arguments after it: host.run(main, argument)"
    )


def _name_of(main: object) -> str:
    return getattr(main, "__qualname__", None) or repr(main)


def _settle(waiter: asyncio.Future[Exit], end: Exit) -> None:
    if not waiter.done():
        waiter.set_result(end)
