"""The right to bake one digest: of several runs that want the same, one works and the others wait.

A lease is a parameter, `/bake/lease/<digest>/<generation>`. Only one run can create it. Its holder
renews it; whoever has not seen it change for `TAKEOVER_S`, by a clock of his own, or knows that the
holder's process has ended, creates the next generation. After creating one, a run looks again, and
withdraws where somebody is there whom it had no reason to take for dead: so two that create
different generations never both hold. No generation's name is used again as long as anybody
remembers it, since AWS wants a pause between deleting a parameter and creating it.
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
from bake.aws.client.commands import aws_command
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
    """The lease, held until the context is left; or what `found` answers, and then no lease.

    `found` is asked while another run holds it, and once more when it is ours. `on_wait` is told
    whose turn it is. LeaseError when leaving, and from `Lease.check`: another run has taken over.
    """
    ours = Lease(cloud, run, digest, takeover_s=takeover_s, renew_s=renew_s)
    try:
        answer = ours.wait(found, on_wait)
        if answer is None and (answer := found()) is None:
            with _RENEWER.renewing(ours):
                yield ours
            ours.check()
            return
    finally:
        ours.release()
    yield answer


class Lease:
    """One run's claim to a digest; `generation` is 0 until it has one.

    `dead` are the runs that were taken for dead when this one took over: what they have left may
    be removed, and nobody else will know that, since their parameters are gone.
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
        self._seen: dict[Parameter, float] = {}  # since when each is as it is
        self._highest = 0
        self._heard_at = -math.inf  # when the last call began that others can have seen
        self._taken_by = ""
        self._claimed = False
        self._released = False
        self._calls = threading.Lock()

    def check(self) -> None:
        """LeaseError when another run has taken over."""
        if self._taken_by:
            raise LeaseError(
                f"Another run has taken this bake over: {self._taken_by}",
                hint="This one was not heard of for too long (a computer that slept, a network "
                "that was away). Repeat the command: it waits for the other's image, or goes on "
                "from its checkpoints",
            )

    def wait(self, found: Callable[[], T | None], on_wait: Callable[[str], None]) -> T | None:
        """Until it is ours (None), or `found` answers something."""
        told: list[str] = []

        def probe() -> list[T] | None:
            if self._claim():
                return []
            whose = [str(lease_holder.read(other.value)) for other in self._seen][-1:]
            if whose and whose != told:
                told[:] = whose
                on_wait(f"for {whose[0]}")
            answer = found()
            return None if answer is None else [answer]

        clock = self._cloud.clock
        calm = Clock(clock.now, lambda seconds: clock.sleep(min(seconds, _LONGEST_PAUSE_S)))
        answer = poll(probe, timeout_s=math.inf, clock=calm)
        return answer[0] if answer else None

    def renew(self) -> bool:
        """Show that the holder lives; False when the lease is another's now, or was given back.

        CloudError: it is not known, and another try may do.
        """
        with self._calls:
            if self._released or self._taken_by:
                return False
            begun = self._cloud.clock.now()
            mine = self._look_for_a_successor()
            if mine and not self._taken_by:
                self._renewals += 1
                parameter.overwrite(self._cloud, mine.name, self._holder.note(self._renewals))
                if self._cloud.clock.now() - self._heard_at >= self._takeover_s:
                    self._look_for_a_successor()  # this came late: one may have come before it
            elif not self._taken_by and not self._claim() and self._seen:
                # It was deleted, by a hand, and somebody else was quicker to create the next.
                self._taken_by = str(lease_holder.read(list(self._seen)[-1].value))
            self._heard_at = max(self._heard_at, begun)
            return not self._taken_by

    def release(self) -> None:
        """Delete what is ours, and what was there before it; never raises."""
        name = f"{self.path}/{self.generation or self._highest + 1}"
        command = aws_command("ssm", "delete-parameter", region=self._cloud.region, name=name)
        with undo(self._cloud.leftovers, f"lease {name}", command), self._calls:
            self._released = True
            if self._claimed:
                # What a call that was cut off has made is shown after a moment.
                unknown_for_s = 0 if self.generation else _SHOWN_S
                give_back = partial(retry, self._give_back, self._cloud.clock)
                poll(give_back, timeout_s=unknown_for_s, clock=self._cloud.clock)

    def _give_back(self) -> bool | None:
        """Looked at first: the name may be another's by now. None where ours is not there (yet)."""
        mine, others, _ = self._look()
        if mine is None:
            return None
        for other in others:
            if generation_of(other) < generation_of(mine):
                parameter.delete(self._cloud, other.name)
        parameter.delete(self._cloud, mine.name)
        return True

    def _claim(self) -> bool:
        """One look, and one try where nobody else lives; whether it is ours."""
        mine, others, free = self._look()
        if mine is None and free:
            self._create(self._highest + 1)
            mine, others, free = self._look()
        if mine is None:
            return False
        if not free or any(generation_of(other) > generation_of(mine) for other in others):
            parameter.delete(self._cloud, mine.name)
            self._claimed = False
            self._holder = self._holder.again()  # what was deleted may still be shown for a moment
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

    def _look_for_a_successor(self) -> Parameter | None:
        mine, others, _ = self._look()
        if any(generation_of(other) >= self.generation for other in others):
            self._taken_by = str(lease_holder.read(others[-1].value))
        return mine

    def _look(self) -> tuple[Parameter | None, list[Parameter], bool]:
        """Ours; the others by generation; whether all of these may be taken for dead."""
        asked = self._cloud.clock.now()
        there = sorted(
            filter(generation_of, parameter.below(self._cloud, self.path)), key=generation_of
        )
        now = self._cloud.clock.now()
        mine = [one for one in there if lease_holder.read(one.value).token == self._holder.token]
        others = [one for one in there if one not in mine]
        self._seen = {other: self._seen.get(other, now) for other in others}
        self._highest = max([self._highest, *map(generation_of, there)])
        free = all(
            asked - since >= self._takeover_s or lease_holder.read(other.value).has_ended()
            for other, since in self._seen.items()
        )
        return (mine[-1] if mine else None), others, free

    def _create(self, generation: int) -> None:
        self._heard_at = self._cloud.clock.now()
        claimed = self._claimed
        self._claimed = True  # also where the call is cut off: it may have taken effect
        note = self._holder.note(self._renewals)
        try:
            parameter.create(self._cloud, f"{self.path}/{generation}", note, self._tags)
        except CloudError as error:
            # Another was first, or boto has asked again and met its own work: a look will tell.
            if error.code != "ParameterAlreadyExists":
                self._claimed = claimed or not was_refused(error)
                raise


def generation_of(one: Parameter) -> int:
    """0 for what has another name than we give."""
    last = one.name.rpartition("/")[2]
    return int(last) if last.isdecimal() else 0


class _Renewer:
    """Renews all leases of this process, in one thread that lives as long as there are any."""

    def __init__(self) -> None:
        self._due: dict[Lease, float] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @contextmanager
    def renewing(self, ours: Lease) -> Iterator[None]:
        with self._changed:
            self._due[ours] = time.monotonic() + ours.renew_s
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
                self._thread.start()
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._due.pop(ours, None)
                self._changed.notify()

    def _run(self) -> None:
        while ours := self._next():
            pause_s = min(_RETRY_S, ours.renew_s)
            try:
                lost = not ours.renew()
                pause_s = ours.renew_s
            except Exception:  # whatever it is with this one, the others are to be renewed
                lost = False
            with self._changed:
                if lost:
                    self._due.pop(ours, None)
                elif ours in self._due:
                    self._due[ours] = time.monotonic() + pause_s

    def _next(self) -> Lease | None:
        """The lease that is due next, when it is; None when there are none any more."""
        with self._changed:
            while self._due:
                ours = min(self._due, key=self._due.__getitem__)
                early_s = self._due[ours] - time.monotonic()
                if early_s <= 0:
                    return ours
                self._changed.wait(early_s)
            self._thread = None
            return None


_RENEWER = _Renewer()
