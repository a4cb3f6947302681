"""What runs attempts on cases: this process alone, or (in `viscera.batch.dask_workers`) workers of dask.distributed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from viscera.batch.leases import worker_name
from viscera.batch.tasks import Fate, Make, Order, Outcome, attempt
from viscera.core.errors import VisceraError


@dataclass(frozen=True, kw_only=True)
class Ended:
    """An attempt that has ended.

    Attributes:
        order: The case.
        outcome: How it went.
        place: Which worker it was, for `Pool.submit` to avoid; empty where there is no choice.
        died: Whether the worker died, so that nothing is recorded.
    """

    order: Order
    outcome: Outcome
    place: str = ""
    died: bool = False


class Pool(Protocol):
    """Runs attempts, as many at a time as it has slots."""

    def slots(self) -> int:
        """How many attempts can run at once at present."""
        ...

    def submit(self, order: Order, *, avoid: str = "") -> None:
        """Have `attempt` run on `order`, preferably on another worker than `avoid`."""
        ...

    def ended(self, timeout: float) -> Ended | None:
        """An attempt that has ended, waited for so many seconds; None if none has."""
        ...

    def at_work(self) -> Mapping[str, str]:
        """The name of the case each worker is at."""
        ...


class OwnProcess:
    """This process, one case after the other; what kills it ends the run, and the next run goes on."""

    def __init__(self, make: Make | None = None) -> None:
        self._make = make
        self._order: Order | None = None

    def slots(self) -> int:
        """One."""
        return 1

    def submit(self, order: Order, *, avoid: str = "") -> None:
        """Keep `order` until `ended` is called, which works on it."""
        self._order = order

    def ended(self, timeout: float) -> Ended | None:
        """The attempt on the order submitted, made now."""
        if (order := self._order) is None:
            return None
        self._order = None
        try:
            return Ended(order=order, outcome=attempt(order, self._make))
        except VisceraError as error:
            return Ended(order=order, outcome=unrecorded(order, str(error), worker_name()))

    def at_work(self) -> Mapping[str, str]:
        """The case submitted."""
        return {} if self._order is None else {worker_name(): self._order.name}


def unrecorded(order: Order, why: str, worker: str) -> Outcome:
    """The outcome of an attempt that failed and could not be recorded."""
    return Outcome(name=order.name, fate=Fate.FAILED, why=why, worker=worker)
