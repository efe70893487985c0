"""Ranks: the processes of one run, of which the first writes, measures and decides, and all train."""

import contextlib
import copy
import datetime
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric

from lwdc.errors import Elsewhere, LwdcError, TrainingError
from lwdc.pipeline.compute import Compute

T = TypeVar("T")

_PATIENCE = datetime.timedelta(days=7)  # for what the first rank does alone: tables of latencies, exports


class Ranks:
    """The processes that ``compute`` asks for, of which this is one; starts them if nobody else has.

    Raises ``LwdcError`` for what cannot be had here. Every method is called by all ranks, in the same order.
    """

    def __init__(self, compute: Compute) -> None:
        self.compute = compute
        compute.check_started()
        self.fabric: Fabric = compute.fabric()
        self.index, self.count = self.fabric.global_rank, self.fabric.world_size
        if self.count > 1:
            # On the CPU: no GPU waits for what is said here. What is waited for in training is waited for not long.
            quick = datetime.timedelta(seconds=compute.timeout_s)
            self._quick: Any = torch.distributed.new_group(backend="gloo", timeout=quick)
            self._patient: Any = torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes and decides."""
        return self.index == 0

    def alone(self) -> "Ranks":
        """For what one rank does on its own: only its device."""
        if self.count == 1:
            return self
        alone = copy.copy(self)
        alone.fabric, alone.index, alone.count = self.compute.alone().fabric(), 0, 1
        return alone

    def from_first(self, work: Callable[[], T]) -> T:
        """What ``work`` returns on the first rank, which alone does it, on every one.

        An ``LwdcError`` there is an ``Elsewhere`` on the others.
        """
        if self.count == 1:
            return work()
        answer: list[Any] = [None, None]  # a failure, what was found
        failure: LwdcError | None = None
        if self.first:
            try:
                answer[1] = work()
            except LwdcError as error:
                failure, answer[0] = error, str(error)
        with self.noticing_loss():
            torch.distributed.broadcast_object_list(answer, 0, group=self._patient)
        if failure is not None:
            raise failure
        if answer[0] is not None:
            raise Elsewhere(answer[0])
        found: T = answer[1]
        return found

    def most(self, *numbers: int) -> list[int]:
        """The largest of every number among the ranks, within the time that they wait in training."""
        if self.count == 1:
            return list(numbers)
        values = torch.tensor(numbers)
        torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX, group=self._quick)
        return [int(value) for value in values]

    def gather(self, found: Iterable[T]) -> list[T]:
        """What all ranks have found, in their order, on each of them."""
        if self.count == 1:
            return list(found)
        lists: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(lists, list(found), group=self._patient)
        return [item for of_rank in lists for item in of_rank]

    def wait(self) -> None:
        """Until all ranks have come here, however long it takes."""
        if self.count > 1:
            torch.distributed.all_reduce(torch.zeros(1), group=self._patient)

    @contextlib.contextmanager
    def noticing_loss(self) -> Iterator[None]:
        """Raises ``TrainingError`` where another rank does not answer."""
        try:
            yield
        except RuntimeError as error:
            if self.count == 1 or not re.search(_LOST, str(error), re.IGNORECASE):
                raise
            raise TrainingError(
                f"another process of this run is lost, or has not answered for {self.compute.timeout_s:g} s "
                f"(compute.timeout_s); rank {self.index} stops: {str(error).splitlines()[0][:160]}."
            ) from error


_LOST = r"gloo|nccl|process ?group|connection (closed|reset|refused)|timed? ?out|broken pipe|peer"
