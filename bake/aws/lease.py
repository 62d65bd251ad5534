"""The lease on a digest. If several runs would bake the same image, one works and the others wait.

A lease is a parameter, `/bake/lease/<digest>/<generation>`, which only one run can create. The
holder renews it. A waiting run creates the next generation if it has not seen the lease change for
`TAKEOVER_S`, by its own clock, or if it knows that the holder's process has ended. After creating a
generation, a run reads all of them again, and withdraws if it finds another run that may be alive:
so two runs that create different generations never both hold the lease. The name of a generation is
not reused while a run may remember it, because AWS requires a pause between deleting a parameter
and creating it again.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

from bake.aws import lease_holder, parameter
from bake.aws.client.commands import removal_command
from bake.aws.client.errors import was_refused
from bake.aws.client.retry import retry
from bake.aws.client.session import Cloud
from bake.aws.client.undo import undo
from bake.aws.client.wait import MINUTE, Clock, poll
from bake.aws.parameter import Parameter
from bake.aws.tags import Run
from bake.errors import CloudError, LeaseError

T = TypeVar("T")

PATH = "/bake/lease"
TAKEOVER_S = 3 * MINUTE
RENEW_S = 45.0
_RETRY_S = 5.0
_LONGEST_PAUSE_S = 15.0
_SHOWN_S = 15.0


@contextmanager
def lease(
    cloud: Cloud,
    run: Run,
    digest: str,
    *,
    found: Callable[[], T | None],
    on_wait: Callable[[str], None] = lambda text: None,
    takeover_s: float = TAKEOVER_S,
    renew_s: float = RENEW_S,
) -> Iterator[Lease | T]:
    """Hold the lease in a context. If another run has a result, yield it instead of a lease.

    `found` looks for that result: it is called while another run holds the lease, and again when
    this run has got it. `on_wait` gets a text about the holder. LeaseError is raised, on leaving
    and from `Lease.check`, if another run has taken over.
    """
    own = Lease(cloud, run, digest, takeover_s=takeover_s, renew_s=renew_s)
    try:
        result = own.wait(found, on_wait)
        if result is None and (result := found()) is None:
            with _RENEWER.renewing(own):
                yield own
            own.check()
            return
    finally:
        own.release()
    yield result


class Lease:
    """One run's lease on a digest; `generation` is 0 until the run holds it.

    `dead` are the runs that were considered dead when this run took over. Their resources may be
    removed; only this object knows, because their parameters are deleted.
    """

    def __init__(
        self,
        cloud: Cloud,
        run: Run,
        digest: str,
        *,
        takeover_s: float = TAKEOVER_S,
        renew_s: float = RENEW_S,
    ) -> None:
        self.path = f"{PATH}/{digest}"
        self.generation = 0
        self.dead: frozenset[str] = frozenset()
        self.renew_s = renew_s
        self._cloud = cloud
        self._tags = run.temporary()
        self._takeover_s = takeover_s
        self._holder = lease_holder.this_process(run, cloud.now())
        self._renewals = 0
        self._seen: dict[Parameter, float] = {}  # when each was first seen with its value
        self._highest = 0
        self._renewed_at = -math.inf  # start of the last call whose effect other runs can see
        self._taken_by = ""
        self._claimed = False  # a parameter of this run may exist
        self._released = False
        self._calls = threading.Lock()

    def check(self) -> None:
        """Raise LeaseError if another run has taken over."""
        if self._taken_by:
            raise LeaseError(
                f"Another run has taken this bake over: {self._taken_by}",
                hint="This run did not renew its lease in time, perhaps because the computer slept "
                "or the network failed. Repeat the command: it waits for the image of the other "
                "run, or continues from its checkpoints",
            )

    def wait(self, found: Callable[[], T | None], on_wait: Callable[[str], None]) -> T | None:
        """Wait until this run holds the lease (None), or `found` returns a result."""
        reported: list[str] = []

        def probe() -> list[T] | None:
            if self._claim():
                return []
            holder = [str(lease_holder.read(other.value)) for other in self._seen][-1:]
            if holder and holder != reported:
                reported[:] = holder
                on_wait(f"for {holder[0]}")
            result = found()
            return None if result is None else [result]

        clock = self._cloud.clock
        limited = Clock(clock.now, lambda seconds: clock.sleep(min(seconds, _LONGEST_PAUSE_S)))
        result = poll(probe, timeout_s=math.inf, clock=limited)
        return result[0] if result else None

    def renew(self) -> bool:
        """Renew the lease; return False if it was released or another run has taken over.

        CloudError if AWS did not answer; another attempt may succeed.
        """
        with self._calls:
            if self._released or self._taken_by:
                return False
            began = self._cloud.clock.now()
            mine = self._find_successor()
            if mine and not self._taken_by:
                self._renewals += 1
                parameter.overwrite(self._cloud, mine.name, self._holder.encode(self._renewals))
                if self._cloud.clock.now() - self._renewed_at >= self._takeover_s:
                    self._find_successor()  # this renewal was late
            elif not self._taken_by and not self._claim() and self._seen:
                # The parameter was deleted by hand, and another run has created the next one.
                self._taken_by = str(lease_holder.read(list(self._seen)[-1].value))
            self._renewed_at = max(self._renewed_at, began)
            return not self._taken_by

    def release(self) -> None:
        """Delete this run's parameter and those of earlier generations; never raises."""
        name = f"{self.path}/{self.generation or self._highest + 1}"
        command = removal_command("lease", name, region=self._cloud.region)
        with undo(self._cloud.leftovers, f"lease {name}", command), self._calls:
            self._released = True
            if self._claimed:
                # The effect of an interrupted call becomes visible after a moment.
                unknown_for_s = 0 if self.generation else _SHOWN_S
                delete = partial(retry, self._delete_own, self._cloud.clock)
                poll(delete, timeout_s=unknown_for_s, clock=self._cloud.clock)

    def _delete_own(self) -> bool | None:
        """Delete the parameters if the lease is still this run's; None if it is not visible."""
        mine, others, _ = self._read_parameters()
        if mine is None:
            return None
        for other in others:
            if generation_of(other) < generation_of(mine):
                parameter.delete(self._cloud, other.name)
        parameter.delete(self._cloud, mine.name)
        return True

    def _claim(self) -> bool:
        """Try once to get the lease; return whether this run holds it."""
        mine, others, free = self._read_parameters()
        if mine is None and free:
            self._create(self._highest + 1)
            mine, others, free = self._read_parameters()
        if mine is None:
            return False
        if not free or any(generation_of(other) > generation_of(mine) for other in others):
            parameter.delete(self._cloud, mine.name)
            self._claimed = False
            self._holder = (
                self._holder.with_new_token()
            )  # a deleted one may be visible for a moment
            return False
        self.generation = generation_of(mine)
        self.dead |= {lease_holder.read(other.value).run for other in others} - {
            "",
            self._holder.run,
        }
        for other in others:
            with suppress(CloudError):
                parameter.delete(self._cloud, other.name)
        return True

    def _find_successor(self) -> Parameter | None:
        mine, others, _ = self._read_parameters()
        if any(generation_of(other) >= self.generation for other in others):
            self._taken_by = str(lease_holder.read(others[-1].value))
        return mine

    def _read_parameters(self) -> tuple[Parameter | None, list[Parameter], bool]:
        """Return this run's parameter, the others by generation; True if all others are dead."""
        asked_at = self._cloud.clock.now()
        found = sorted(
            filter(generation_of, parameter.list_below(self._cloud, self.path)), key=generation_of
        )
        now = self._cloud.clock.now()
        mine = [one for one in found if lease_holder.read(one.value).token == self._holder.token]
        others = [one for one in found if one not in mine]
        self._seen = {other: self._seen.get(other, now) for other in others}
        self._highest = max([self._highest, *map(generation_of, found)])
        free = all(
            asked_at - since >= self._takeover_s or lease_holder.read(other.value).has_ended()
            for other, since in self._seen.items()
        )
        return (mine[-1] if mine else None), others, free

    def _create(self, generation: int) -> None:
        self._renewed_at = self._cloud.clock.now()
        claimed = self._claimed
        self._claimed = True  # even if the call is interrupted: it may have had its effect
        value = self._holder.encode(self._renewals)
        try:
            parameter.create(self._cloud, f"{self.path}/{generation}", value, self._tags)
        except CloudError as error:
            # Another run was first, or boto has repeated a successful request. The caller reads the
            # parameter and sees which.
            if error.code != "ParameterAlreadyExists":
                self._claimed = claimed or not was_refused(error)
                raise


def generation_of(lease: Parameter) -> int:
    """Return the generation in the parameter's name; 0 for a name that is not a lease's."""
    last = lease.name.rpartition("/")[2]
    return int(last) if last.isdecimal() else 0


class _Renewer:
    """The thread that renews all leases of this process; it runs as long as there are leases."""

    def __init__(self) -> None:
        self._due: dict[Lease, float] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @contextmanager
    def renewing(self, held: Lease) -> Iterator[None]:
        with self._changed:
            self._due[held] = time.monotonic() + held.renew_s
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
                self._thread.start()
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._due.pop(held, None)
                self._changed.notify()

    def _run(self) -> None:
        while held := self._next():
            pause_s = min(_RETRY_S, held.renew_s)
            try:
                lost = not held.renew()
                pause_s = held.renew_s
            except Exception:  # an error of this lease must not stop the renewal of the others
                lost = False
            with self._changed:
                if lost:
                    self._due.pop(held, None)
                elif held in self._due:
                    self._due[held] = time.monotonic() + pause_s

    def _next(self) -> Lease | None:
        """Wait until a lease is due, and return it; None when no lease is left."""
        with self._changed:
            while self._due:
                held = min(self._due, key=self._due.__getitem__)
                early_s = self._due[held] - time.monotonic()
                if early_s <= 0:
                    return held
                self._changed.wait(early_s)
            self._thread = None
            return None


_RENEWER = _Renewer()
