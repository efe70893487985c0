"""Search in a learned latent: encode the network to compress, descend on the score, decode along the way."""

import dataclasses
import functools
import random
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from lwdc.architecture import Architecture
from lwdc.errors import SpaceError
from lwdc.proposers.autoencoder import Autoencoder, train, untrained
from lwdc.proposers.base import Proposer
from lwdc.proposers.menu import Code, Menu
from lwdc.proposers.pictures import picture_of
from lwdc.proposers.random_search import draw_unknown
from lwdc.proposers.scores import Score, kept
from lwdc.records import EmbeddingRecord


@torch.enable_grad()
def descend(start: Tensor, loss: Callable[[Tensor], Tensor], *, steps: int, rate: float = 0.05) -> Tensor:
    """Where latents get to that follow the gradient of their loss, with Adam: ``(steps + 1, *start.shape)``.

    ``loss`` gives one number a latent, ``(B,)``. ``start`` is left as it is, and no parameter's gradient is touched.
    """
    latent = start.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([latent], lr=rate)
    visited = [start.detach()]
    for _ in range(steps):
        (latent.grad,) = torch.autograd.grad(loss(latent).sum(), latent)
        optimiser.step()
        visited.append(latent.detach().clone())
    return torch.stack(visited)


class Latent(Proposer):
    """Rounds of training an autoencoder on all that is known, and of descending on the score in its latent.

    Architectures are drawn at random until ``begin`` have been told. Then a round begins whenever all that the last one
    proposed has been asked for: the autoencoder is trained from new weights on the trials and on ``unlabelled`` random
    architectures; the original network, the ``best`` trials and ``drawn`` random architectures are encoded; their
    latents follow the gradient of the score, less ``penalty`` times the excess over each bound as a share of it. Every
    few steps they are decoded and made cheaper at random decisions until they keep the bounds. What is new is encoded
    again, ranked by the score of the accuracy read there and of the exact cost, and the first ``proposals`` are
    proposed, then ``explore`` random ones; these also make up for what is missing. The score has to be arithmetic that
    tensors can do.

    ``cost`` says what of the latent's cost is descended on: ``decoder``, what is expected of the decoder's
    probabilities with exact costs, or ``head``, the regressed one, as the abstract says. ``flat`` is the size of a flat
    latent; None keeps one position a decision. With ``once`` there is one round alone, in which nothing is drawn to
    make up for what is missing: afterwards it asks for nothing more.

    In the spirit of Ashok, Architecture Compression, 2019, of which the abstract alone is known: a continuous
    embedding that regresses accuracy and parameter count, the network to compress encoded, gradient descent, and the
    last point decoded. Rounds, ranking, further starts and the expected cost are ours; ``flat``, ``once``,
    ``cost="head"`` and no starts but the original are the nearest to what it says.
    """

    def __init__(
        self,
        menu: Menu,
        *,
        score: Score = kept,
        reference: float = 1.0,
        seed: int = 0,
        begin: int = 40,
        proposals: int = 16,
        explore: int = 4,
        once: bool = False,
        best: int = 10,
        drawn: int = 30,
        flat: int | None = None,
        cost: Literal["decoder", "head"] = "decoder",
        penalty: float = 2.0,
        unlabelled: int = 600,
        training_steps: int = 300,
        descent_steps: int = 60,
    ) -> None:
        if begin < 2 or proposals < 1 or min(explore, best, drawn, unlabelled) < 0:
            raise SpaceError(
                f"the latent search begins with 2 or more architectures and proposes 1 or more a round; found "
                f"begin={begin}, proposals={proposals}, explore={explore}, best={best}, drawn={drawn} and "
                f"unlabelled={unlabelled}."
            )
        if cost not in ("decoder", "head"):
            raise SpaceError(f"the latent search descends on the cost of the 'decoder' or of the 'head', not {cost!r}.")
        if (flat is not None and flat < 2) or min(training_steps, descent_steps) < 1:
            raise SpaceError(
                f"a flat latent has 2 or more numbers, and there is a step at least; found flat={flat}, "
                f"training_steps={training_steps} and descent_steps={descent_steps}."
            )
        super().__init__(menu, score, reference, seed)
        self.begin, self.proposals, self.explore, self.once = begin, proposals, explore, once
        self.best, self.drawn, self.flat, self.cost, self.penalty = best, drawn, flat, cost, penalty
        self.unlabelled, self.training_steps, self.descent_steps = unlabelled, training_steps, descent_steps
        self.model: Autoencoder | None = None
        self._queue: list[Code] = []
        self._path: Tensor | None = None
        self._pool_seed = self.rng.getrandbits(32)

    def predict(self, architecture: Architecture) -> float | None:
        code = self.history.menu.encode(architecture)
        if self.model is None:
            return None
        with torch.no_grad():
            accuracy = float(self.model.accuracy(self.model.encode([code])))
        return min(max(accuracy, 0.0), 1.0)

    def picture(self) -> EmbeddingRecord | None:
        if self.model is None or self._path is None:
            return None
        trials = self.history.scored
        with torch.no_grad():
            latents = self.model.encode([trial.code for trial in trials]).flatten(1)
        return picture_of(trials, latents, self._path)

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "queue": [list(code) for code in self._queue],
            "pool_seed": self._pool_seed,
            "model": None if self.model is None else self.model.state_dict(),
            "path": self._path,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._queue = [tuple(code) for code in state["queue"]]
        self._path = state["path"]
        self._pool_seed = state.get("pool_seed", self._pool_seed)  # earlier versions have none
        self.__dict__.pop("_pool", None)
        self.model = None
        if state["model"] is not None:
            self.model = untrained(self.history.menu, 0, flat=self.flat)
            self.model.load_state_dict(state["model"])

    def loss(self, latent: Tensor) -> Tensor:
        """What is descended on, ``(B,)``: minus the score as the latent tells it, and what exceeded bounds add."""
        assert self.model is not None
        menu, (first, *others) = self.history.menu, self.model.expected_shares(self.model.logits(latent))
        if self.cost == "head":
            first = self.model.share(latent)
        loss = -self.history.score(self.model.accuracy(latent) / self.history.reference, first)
        for share, table, bound in zip((first, *others), menu.tables, menu.bounds, strict=True):
            if bound is not None:
                loss = loss + self.penalty * (share * (table.total / max(bound, 1)) - 1).relu()
        return loss

    def propose(self) -> Code | None:
        history = self.history
        if len(history.trials) < self.begin or len(history.scored) < 2:
            return draw_unknown(history, self.rng)
        self._queue = [code for code in self._queue if not history.is_known(code)]
        if not self._queue and not (self.once and self.model is not None):
            # Where no draw finds anything new the space is searched to its end: nothing is trained for that.
            if draw_unknown(history, self.rng) is None:
                return None
            self._begin_round()
        return self._queue.pop(0) if self._queue else None

    def _begin_round(self) -> None:
        """Train, descend and rank: fill the queue."""
        menu = self.history.menu
        self.model = untrained(menu, self.rng.getrandbits(63), flat=self.flat)
        seed = self.rng.getrandbits(63)
        train(self.model, self.history.scored, self._pool, seed=seed, steps=self.training_steps)
        found, visited = self._descend()
        ranked = sorted(found, key=self._expected(list(found)).__getitem__, reverse=True)
        self._queue = ranked[: self.proposals]
        self._path = visited[:0, 0]
        if ranked:
            step, start = found[ranked[0]]
            self._path = visited[: step + 1, start].clone()
        wanted = len(self._queue) if self.once else self.proposals
        for _ in range(wanted + self.explore - len(self._queue)):
            code = draw_unknown(self.history, self.rng)
            if code is not None and code not in self._queue:
                self._queue.append(code)

    def _descend(self) -> tuple[dict[Code, tuple[int, int]], Tensor]:
        """What descents decode to that is new and within the bounds, each with its step and start, and all latents."""
        assert self.model is not None
        history, menu = self.history, self.history.menu
        drawn = [menu.draw(self.rng) for _ in range(self.drawn)]
        codes = [menu.original, *(trial.code for trial in history.best(self.best)), *(c for c in drawn if c)]
        with torch.no_grad():
            start = self.model.encode(codes)
        visited = descend(start, self.loss, steps=self.descent_steps)
        decoded: dict[Code, tuple[int, int]] = {}
        for step in sorted({*range(_EVERY, self.descent_steps, _EVERY), self.descent_steps}):
            with torch.no_grad():
                codes = self.model.decode(visited[step])
            for index, code in enumerate(codes):
                decoded.setdefault(code, (step, index))
        found: dict[Code, tuple[int, int]] = {}
        for code, where in decoded.items():
            held = menu.within(code, self.rng)
            if held is not None and not history.is_known(held):
                found.setdefault(held, where)
        return found, visited.flatten(2)

    def _expected(self, codes: list[Code]) -> dict[Code, float]:
        """The score of each, with the accuracy that is expected of it and its exact cost."""
        if not codes:
            return {}
        assert self.model is not None
        with torch.no_grad():
            accuracies = self.model.accuracy(self.model.encode(codes)).tolist()
        history = self.history
        return {
            code: history.score(accuracy / history.reference, history.menu.share(code))
            for code, accuracy in zip(codes, accuracies, strict=True)
        }

    @functools.cached_property
    def _pool(self) -> list[Code]:
        """Architectures without a label: half within the bounds, half of any cost, as descents begin there too."""
        menu, rng = self.history.menu, random.Random(self._pool_seed)
        free = dataclasses.replace(menu, bounds=(None,) * len(menu.bounds))
        drawn = [(menu, free)[index % 2].draw(rng) for index in range(self.unlabelled)]
        return [code for code in drawn if code is not None]


_EVERY = 5  # steps of a descent, after which it is decoded
