"""Bayesian search: expected improvement under Gaussian processes over a learned embedding of architectures."""

from typing import Any

import torch
from torch import Tensor

from lwdc.architecture import Architecture
from lwdc.errors import SpaceError
from lwdc.proposers.base import Proposer
from lwdc.proposers.embedding_kernel import Embedding, Fitting, Process, expected_improvement
from lwdc.proposers.features import encoded
from lwdc.proposers.history import Trial
from lwdc.proposers.menu import Code, Menu
from lwdc.proposers.pictures import picture_of
from lwdc.proposers.random_search import draw_unknown
from lwdc.proposers.scores import Score, kept
from lwdc.records import EmbeddingRecord


class Bayes(Proposer):
    """Asks by ``kernels`` fresh processes in turn, each fitted to a random half of what was told and the original.

    Each proposes the one of ``candidates`` architectures with the largest expected improvement on the best score of its
    half, or of all where none of its half keeps the bounds. Cao, Wang, Kitani: Learnable Embedding Space for Efficient
    Neural Architecture Compression, ICLR 2019 (ESNAC), as its code has it; there the LSTM has ``layers=4`` and
    ``hidden=64``, and there are 1,000 candidates.

    Left out: its actions (layers removed, channels shrunk, skips added; here every site has its operators), and so
    the encoding of layers, which is that of ``encoded``; labels by ten epochs of matching logits (an evaluator's
    accuracy here); the original's target of 0, which is its accuracy here. What is ours: the first ``begin``
    architectures are drawn at random; half of the candidates are mutations of the ten best; targets are standardised;
    candidates that exceed the bounds are left out, for costs are exact. And processes model accuracies, not scores,
    because costs are known: the expected improvement is on the score, whose deviation is that between the accuracy
    and one deviation more, which is exact for scores that are linear in the accuracy.
    """

    def __init__(
        self,
        menu: Menu,
        *,
        score: Score = kept,
        reference: float = 1.0,
        seed: int = 0,
        begin: int = 16,
        kernels: int = 8,
        candidates: int = 300,
        hidden: int = 32,
        layers: int = 1,
        alpha: float = Fitting.alpha,
        beta: float = Fitting.beta,
        steps: int = Fitting.steps,
        lr: float = Fitting.lr,
    ) -> None:
        if min(begin, kernels, candidates, hidden, layers) < 1 or steps < 0 or min(alpha, beta, lr) <= 0:
            raise SpaceError(
                "bayes needs begin, kernels, candidates, hidden and layers from 1 on, steps from 0 on, and alpha, beta "
                f"and lr above 0; found {begin}, {kernels}, {candidates}, {hidden}, {layers}, {steps}, {alpha}, {beta} "
                f"and {lr}."
            )
        super().__init__(menu, score, reference, seed)
        self.begin, self.kernels, self.candidates = begin, kernels, candidates
        self.hidden, self.layers = hidden, layers
        self.fitting = Fitting(alpha, beta, steps, lr)
        self._processes: list[Process] = []  # those of the last question
        self._halves: list[list[Code]] = []  # what each of them was fitted to
        self._turn = 0  # of the processes, in the question that is being answered

    def ask(self, count: int) -> list[Architecture]:
        self._turn = 0
        if len(self.history.best(self.begin)) >= self.begin:
            self._fit(min(count, self.kernels))
        return super().ask(count)

    def propose(self) -> Code | None:
        """What the process whose turn it is proposes; a random one before there are any."""
        if len(self.history.best(self.begin)) >= self.begin and (codes := self._candidates()):
            improvements = self._improvements(codes, self._turn % len(self._processes))
            self._turn += 1
            return codes[int(improvements.argmax())]
        return draw_unknown(self.history, self.rng)

    def predict(self, architecture: Architecture) -> float | None:
        """The mean over the processes of the last question, which know nothing of what was told since."""
        if not self._processes:
            return None
        sequence = self._sequences([self.history.menu.encode(architecture)])
        means = [process.posterior(sequence)[0].item() for process in self._processes]
        return sum(means) / len(means)

    def picture(self) -> EmbeddingRecord | None:
        """The first process's embedding of all that was told, along its two directions of most variance."""
        trials = self.history.scored
        if not self._processes or len(trials) < 2:
            return None
        with torch.no_grad():
            embedded = self._processes[0].embedding(self._sequences([trial.code for trial in trials]))
        return picture_of(trials, embedded)

    def state_dict(self) -> dict[str, Any]:
        processes = [
            {
                "codes": [list(code) for code in half],
                "targets": process.targets,
                "embedding": process.embedding.state_dict(),
            }
            for process, half in zip(self._processes, self._halves, strict=True)
        ]
        return {**super().state_dict(), "processes": processes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._processes, self._halves = [], []
        for saved in state["processes"]:
            half = [tuple(code) for code in saved["codes"]]
            process = self._process(half, saved["targets"], torch.Generator())
            process.embedding.load_state_dict(saved["embedding"])
            self._processes.append(process)
            self._halves.append(half)

    def half(self) -> list[Trial]:
        """A random half of what succeeded, and the original network if it did; all, where that is not two."""
        original = self.history.menu.original
        scored = self.history.scored
        found = [trial for trial in scored if self.rng.random() < 0.5 or trial.code == original]
        return found if len(found) > 1 else scored

    def _fit(self, count: int) -> None:
        self._processes, self._halves = [], []
        for _ in range(count):
            half = self.half()
            codes = [trial.code for trial in half]
            generator = torch.Generator().manual_seed(self.rng.getrandbits(63))
            targets = torch.tensor([trial.accuracy for trial in half], dtype=torch.float64)
            process = self._process(codes, targets, generator)
            process.fit()
            self._processes.append(process)
            self._halves.append(codes)

    def _process(self, codes: list[Code], targets: Tensor, generator: torch.Generator) -> Process:
        sequences = self._sequences(codes)
        embedding = Embedding(sequences.shape[2], hidden=self.hidden, layers=self.layers, generator=generator)
        return Process(embedding, sequences, targets, self.fitting)

    def _sequences(self, codes: list[Code]) -> Tensor:
        return encoded(self.history.menu, codes).transpose(1, 2)  # (architectures, decisions, channels)

    def _candidates(self) -> list[Code]:
        """Unknown architectures within the bounds: half drawn, half mutations of the best."""
        menu, rng, best = self.history.menu, self.rng, self.history.best(_BRED)
        tried = [menu.draw(rng) for _ in range(self.candidates - self.candidates // 2)]
        for _ in range(self.candidates // 2):
            tried.append(menu.vary(rng.choice(best).code, rng.randint(1, _CHANGES), rng))
        return [code for code in dict.fromkeys(tried) if code is not None and not self.history.is_known(code)]

    def _improvements(self, codes: list[Code], which: int) -> Tensor:
        history, half = self.history, set(self._halves[which])
        trials = history.best(len(history.trials))
        best = next((trial for trial in trials if trial.code in half), trials[0]).score
        accuracies, deviations = self._processes[which].posterior(self._sequences(codes))
        shares = [history.menu.share(code) for code in codes]
        worth = self._scores(accuracies, shares)
        spread = (self._scores(accuracies + deviations, shares) - worth).abs().clamp_min(1e-12)
        return expected_improvement(worth, spread, best)

    def _scores(self, accuracies: Tensor, shares: list[float]) -> Tensor:
        relative = (accuracies / self.history.reference).tolist()
        return torch.tensor([self.history.score(a, s) for a, s in zip(relative, shares, strict=True)]).double()


_BRED, _CHANGES = 10, 3  # how many of the best are mutated, and at how many decisions at most
