"""The fit loop: one for the baseline, the search and the fine-tuning."""

import contextlib
import dataclasses
import hashlib
import math
import time
import weakref
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from lwdc.candidates.sampling import advance_starts, starts_of
from lwdc.data import DataModule
from lwdc.data.seeding import seed_all, seeded
from lwdc.errors import CheckpointError, DataError, TrainingError
from lwdc.records import EpochRecord, SearchState
from lwdc.training.average import Average
from lwdc.training.evaluate import accuracy
from lwdc.training.execution import AS_IT_STANDS, Execution
from lwdc.training.nonfinite import all_finite, first_not_finite, gradients
from lwdc.training.ranks import check_gates, drawing_apart, shard_of, share_buffers, total
from lwdc.training.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class StepRecord:
    """One optimiser step. After it a checkpoint may be taken."""

    phase: str
    epoch: int  # counted from 1
    epochs: int
    step: int  # within the epoch, counted from 1
    steps: int
    loss: float | None  # None between the steps whose loss was looked at


class Lesson(Protocol):
    """What a phase adds to plain training. The default, ``Plain``, adds nothing."""

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """Optimisers beside that of the weights, stepped with it."""

    def begin(self, progress: float) -> None:
        """Before a step, at the share ``progress`` in [0, 1] of the phase."""

    def extra_loss(self) -> Tensor | None:
        """A scalar added to the objective."""

    def after_backward(self) -> None:
        """Between the backward pass and the optimisers' step."""

    def end(self) -> None:
        """After a step."""

    def state(self) -> SearchState | None:
        """What to say at the end of an epoch."""

    def state_dict(self) -> dict[str, Any]:
        """What ``load_state_dict`` needs to go on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state, in place."""


class Plain:
    """Nothing beside the objective."""

    def optimisers(self) -> list[torch.optim.Optimizer]:
        return []

    def begin(self, progress: float) -> None:
        del progress

    def extra_loss(self) -> Tensor | None:
        return None

    def after_backward(self) -> None:
        return

    def end(self) -> None:
        return

    def state(self) -> SearchState | None:
        return None

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        del state


class Fit:
    """Trains ``model`` in place, as a generator: whoever iterates may log, save or stop after any step.

    Everything random in a step is a function of ``(seed, phase, step)``, so that going on from a saved
    state repeats what would have happened, bit for bit on the same machine.

    Several ranks share every batch, and what they train is what one rank would have trained, but for rounding,
    for what is drawn for each example (dropout, mixup), and for batch norms, which see the examples of their own rank
    unless they are synced (``execution``, on GPUs). All ranks call everything together.
    """

    def __init__(
        self,
        phase: str,
        model: nn.Module,
        data: DataModule,
        recipe: Recipe,
        *,
        seed: int,
        fabric: Fabric,
        parameters: list[nn.Parameter] | None = None,
        teacher: nn.Module | None = None,
        lesson: Lesson | None = None,
        execution: Execution = AS_IT_STANDS,
    ) -> None:
        self.phase, self.data, self.recipe, self.seed, self.fabric = phase, data, recipe, seed, fabric
        self.model, self.teacher = model, teacher
        self.lesson: Lesson = lesson or Plain()
        execution.check(data.input_size)
        several = fabric.world_size > 1
        self.execution = dataclasses.replace(execution, sync_norms=execution.sync_norms and several)
        recipe.check_ranks(fabric.world_size)
        self.steps = data.steps(recipe.batch_size)
        self.step = 0  # optimiser steps done
        self._totals = torch.zeros(2, dtype=torch.float64)  # of this epoch: loss and right answers
        self._skipped = 0  # steps of this epoch whose loss or gradient was not finite
        self._seconds = 0.0  # of this epoch, before an interruption
        if recipe.objective.needs_teacher and teacher is None:
            raise TrainingError(f"the objective of phase {phase!r} needs a teacher, and there is none.")
        starts = starts_of(model)
        if recipe.ema is not None and (lesson is not None or starts):
            why = "epitomes' starts become whole halfway" if starts else "its lesson knows another network"
            raise TrainingError(f"phase {phase!r} cannot average weights: {why}. Leave ema out.")
        scaler = getattr(fabric.strategy.precision, "scaler", None)
        recipe.check_precision(scaled=scaler is not None)
        if scaler is not None:  # not what a phase before has left, which a resumed run does not know
            scaler.load_state_dict(_BEGINNINGS.setdefault(scaler, scaler.state_dict()))
        self._mixup = recipe.mixing(data.num_classes, fabric.world_size, data.input_size)
        self._advances_starts = bool(starts) and lesson is None  # a search does so with its gates
        given = {id(p) for p in starts}
        trained = parameters if parameters is not None else list(model.parameters())
        trained = [p for p in trained if p.requires_grad and id(p) not in given]
        if not trained:
            raise TrainingError(f"phase {phase!r} has nothing to train: all weights are frozen (requires_grad).")
        optimiser = recipe.optim(trained)
        others = [*([recipe.starts_optim(starts)] if starts else []), *self.lesson.optimisers()]
        if execution.channels_last:  # before several ranks agree on how gradients lie in memory
            model.to(memory_format=torch.channels_last)
        self._module = fabric.setup_module(model)
        self._optimisers: list[Any] = [fabric.setup_optimizers(o) for o in (optimiser, *others)]
        self._scheduler = recipe.scheduler(optimiser, self.steps) if recipe.epochs else None
        self._average = None if recipe.ema is None else Average(model, recipe.ema)
        if teacher is not None:
            teacher.to(fabric.device).eval().requires_grad_(False)

    @property
    def total(self) -> int:
        """Optimiser steps of the whole phase."""
        return self.steps * self.recipe.epochs

    def run(self) -> Iterator[StepRecord | EpochRecord]:
        """Train from where the state stands to the end."""
        others = [] if self._average is None else [self._average.module]
        if self.teacher is not None and self.recipe.objective.needs_teacher:
            others.append(self.teacher)
        with self.execution.of(self.model), dataclasses.replace(self.execution, sync_norms=False).of(*others):
            while self.step < self.total or self._at_unfinished_epoch():
                epoch, start = divmod(self.step, self.steps)
                if start == 0 and self._at_unfinished_epoch():  # the last step is done, the validation is not
                    yield self._finish(epoch - 1)
                    continue
                yield from self._train(epoch, start)
                yield self._finish(epoch)
        if self._average is not None:
            self.model.load_state_dict(self._average.module.state_dict())

    def _train(self, epoch: int, start: int) -> Iterator[StepRecord]:
        clock = time.perf_counter()
        batches = self.data.train(
            seed=self.seed, epoch=epoch, batch_size=self.recipe.batch_size, start=start, shard=shard_of(self.fabric)
        )
        self.model.train()
        for index, (images, labels) in enumerate(batches, start=start):
            loss = self._step(images, labels)
            now = time.perf_counter()
            self._seconds, clock = self._seconds + now - clock, now
            yield StepRecord(self.phase, epoch + 1, self.recipe.epochs, index + 1, self.steps, loss)
            self.model.train()
            clock = time.perf_counter()
        if self.step < (epoch + 1) * self.steps:
            raise DataError(
                f"the data set {self.data.name!r} gave {self.step - epoch * self.steps} batches of {self.steps} in "
                f"epoch {epoch + 1} of phase {self.phase!r}: its train() must give as many as its steps() says."
            )

    def _step(self, images: Tensor, labels: Tensor) -> float | None:
        seed_all(derive_seed(self.seed, self.phase, self.step))
        if self._advances_starts:
            advance_starts(self.model, self.step / self.total)
        self.lesson.begin(self.step / self.total)
        skips = self.recipe.nonfinite == "skip"
        before = [buffer.clone() for buffer in self.model.buffers()] if skips else []
        for optimiser in self._optimisers:
            optimiser.zero_grad(set_to_none=True)
        found = self._backward(images, labels)
        self.lesson.after_backward()
        # To skip, the step must wait for the device; else losses are looked at when that costs little.
        taken = self.recipe.nonfinite == "stop" or self._is_finite(found[0])
        if taken:
            self._update()
            if self._average is not None:
                self._average.update(self.model)
        else:
            for buffer, value in zip(self.model.buffers(), before, strict=True):
                buffer.copy_(value)
            self._skipped += 1
        self.step += 1
        if self._scheduler is not None:
            self._scheduler.step_update(self.step)
        self.lesson.end()
        if not taken:
            self._check_skipped()
            return None
        self._totals = self._totals.to(found.device) + found
        return self._look_at_loss(found[0])

    def _is_finite(self, loss: Tensor) -> bool:
        """Whether the loss and all gradients are, on every rank."""
        spoilt = 1 - all_finite([loss, *gradients(self._optimisers)]).long()
        return int(total(spoilt, self.fabric)) == 0

    def _backward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Add the gradients of the batch; this rank's part of its mean loss, and how many it has right: ``(2,)``."""
        pieces, ranks = self.recipe.accumulate, self.fabric.world_size
        images, targets = self.execution.laid_out(images), labels
        if self._mixup is not None:
            with seeded(derive_seed(self.seed, f"{self.phase}/mixup", self.step) % 2**32):
                images, targets = self._mixup(images.clone(), labels)
        found = []
        parts = zip(*(whole.tensor_split(pieces) for whole in (images, labels, targets)), strict=True)
        for piece, (inputs, answers, goals) in enumerate(parts):
            share, last = len(answers) / self.recipe.batch_size, piece == pieces - 1
            with self._apart(piece), contextlib.ExitStack() as stack:
                if ranks > 1 and not last:
                    stack.enter_context(self.fabric.no_backward_sync(self._module))
                logits = self._module(inputs)
                loss = self.recipe.objective(logits, goals, self._taught(inputs))
                scale = share * ranks  # as the ranks' gradients are averaged
                objective = loss if scale == 1 else loss * scale
                extra = self.lesson.extra_loss() if last else None
                self.fabric.backward(objective if extra is None else objective + extra)
            right = (logits.detach().argmax(dim=1) == answers).sum()
            found.append(torch.stack([loss.detach() * share, right]).double())
        return found[0] if pieces == 1 else torch.stack(found).sum(0)

    def _apart(self, piece: int) -> contextlib.AbstractContextManager[None]:
        pieces = self.recipe.accumulate
        place = self.fabric.global_rank * pieces + piece
        seed = derive_seed(self.seed, f"{self.phase}/{place}", self.step) if place else None
        return drawing_apart(self.model, seed, self.fabric.device, again=pieces > 1)

    def _taught(self, images: Tensor) -> Tensor | None:
        if self.teacher is None or not self.recipe.objective.needs_teacher:
            return None
        with torch.no_grad(), self.fabric.autocast():
            taught: Tensor = self.teacher(images).float()
        return taught

    def _update(self) -> None:
        if self.recipe.clip_norm is not None:
            self.fabric.clip_gradients(
                self._module, self._optimisers[0], max_norm=self.recipe.clip_norm, error_if_nonfinite=False
            )
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        if scaler is None:
            for optimiser in self._optimisers:
                optimiser.step()
            return
        for optimiser in self._optimisers:
            if any(p.grad is not None for group in optimiser.param_groups for p in group["params"]):
                scaler.step(optimiser.optimizer)
        scaler.update()  # once for all of them, whose gradients were scaled alike

    def _look_at_loss(self, loss: Tensor) -> float | None:
        # On a GPU reading the loss waits for it: there, not at every step.
        if loss.is_cuda and self.step % _LOOK_EVERY and self.step % self.steps:
            return None
        now, summed = total(torch.stack([loss, self._totals[0]]), self.fabric).tolist()
        self._check_finite(summed if loss.is_cuda else now)
        return float(now)

    def _check_finite(self, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss of phase {self.phase!r} is {value} at step {self.step} of {self.total}. "
                f"{_REMEDIES}, or skip such steps (nonfinite=skip)."
            )

    def _check_skipped(self) -> None:
        if self._skipped > self.steps / 2:
            raise TrainingError(
                f"at step {self.step} of {self.total} of phase {self.phase!r}, {self._skipped} of the {self.steps} "
                f"steps of the epoch have been skipped: their loss or gradient was not finite. {_REMEDIES}."
            )

    def _finish(self, epoch: int) -> EpochRecord:
        clock = time.perf_counter()
        loss, right = (total(self._totals, self.fabric) / (self.steps - self._skipped)).tolist()
        check_gates(self.model, self.fabric, f"after epoch {epoch + 1} of phase {self.phase!r}")
        kept = self.model if self._average is None else self._average.module
        share_buffers(self.model, self.fabric)
        if self._average is not None:
            share_buffers(kept, self.fabric)
        record = EpochRecord(
            phase=self.phase,
            epoch=epoch + 1,
            epochs=self.recipe.epochs,
            step=self.step,
            loss=loss,
            train_accuracy=right / self.recipe.batch_size,
            valid_accuracy=accuracy(
                kept,
                self.data.batches("valid", self.recipe.batch_size, shard_of(self.fabric)),
                self.fabric,
                self.execution,
            ),
            learning_rate=self._optimisers[0].param_groups[0]["lr"],
            seconds=self._seconds + time.perf_counter() - clock,
            search=self.lesson.state(),
            skipped=self._skipped,
        )
        self._totals, self._skipped, self._seconds = torch.zeros(2, dtype=torch.float64), 0, 0.0
        self._finished_epochs = epoch + 1
        return record

    _finished_epochs = 0

    def _at_unfinished_epoch(self) -> bool:
        return self.step > 0 and self.step % self.steps == 0 and self._finished_epochs < self.step // self.steps

    def state_dict(self) -> dict[str, Any]:
        """Everything that going on needs, as tensors and plain data.

        Raises ``TrainingError`` if a loss since the last look was not finite, or a weight is not: no checkpoint shall
        hold that.
        """
        totals = total(self._totals, self.fabric)
        self._check_finite(float(totals[0]))
        if (name := first_not_finite(self.model)) is not None:
            raise TrainingError(
                f"the weights {name!r} of phase {self.phase!r} are not finite after step {self.step} of {self.total}. "
                f"{_REMEDIES}, or skip such steps (nonfinite=skip)."
            )
        return {
            "phase": self.phase,
            "step": self.step,
            "finished_epochs": self._finished_epochs,
            "totals": totals.cpu(),
            "skipped": self._skipped,
            "seconds": self._seconds,
            "model": self.model.state_dict(),
            "average": {} if self._average is None else self._average.module.state_dict(),
            "optimisers": [o.state_dict() for o in self._optimisers],
            "scheduler": self._scheduler.state_dict() if self._scheduler is not None else {},
            "precision": self.fabric.strategy.precision.state_dict(),
            "lesson": self.lesson.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state, in place. Raises ``CheckpointError`` if it belongs to something else."""
        try:
            assert state["phase"] == self.phase, f"it is of phase {state['phase']!r}"
            self.model.load_state_dict(state["model"])
            if self._average is not None:
                self._average.module.load_state_dict(state["average"])
            for optimiser, saved in zip(self._optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(saved)
            if self._scheduler is not None:
                self._scheduler.load_state_dict(state["scheduler"])
            self.fabric.strategy.precision.load_state_dict(state.get("precision", {}))
            self.lesson.load_state_dict(state["lesson"])
            self.step, self._finished_epochs = state["step"], state["finished_epochs"]
            first = self.fabric.global_rank == 0  # the totals are those of all ranks
            self._totals, self._seconds = state["totals"] * first, state["seconds"]
            self._skipped = state.get("skipped", 0)
        except (KeyError, RuntimeError, ValueError, AssertionError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"the checkpoint does not fit phase {self.phase!r} of this run: {str(error).splitlines()[0]}"
            ) from error


_BEGINNINGS: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()  # of scales of the loss
_LOOK_EVERY = 20
_REMEDIES = "Lower the learning rate, clip the gradient (clip_norm), warm up longer"


def derive_seed(seed: int, phase: str, step: int) -> int:
    """One number from all three, well mixed."""
    digest = hashlib.blake2b(f"{seed}/{phase}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
