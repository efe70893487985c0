"""The autoencoder: architectures as points in a continuous space, with their accuracy and cost read off, and back."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lwdc.proposers.features import encoded, is_candidate
from lwdc.proposers.history import Trial
from lwdc.proposers.menu import Code, Menu


class Autoencoder(nn.Module):
    """1-D convolutions over the sequence of decisions, into a latent and back, and heads that read the latent.

    The latent has 4 numbers a decision, ``(B, 4, decisions)``, or ``flat`` numbers in all, ``(B, flat)``; wherever a
    ``latent`` is taken it may have either shape's batch. Everything is float32, on the CPU.

    In the spirit of Ashok, Architecture Compression, 2019, of which the abstract alone is known: a 1-D convolutional
    encoder and decoder whose embedding also regresses accuracy and parameter count. All else is ours.
    """

    mask: Tensor
    costs: Tensor
    rest: Tensor
    scales: Tensor  # mean and standard deviation of accuracies, then of logarithms of shares

    def __init__(self, menu: Menu, *, flat: int | None = None, width: int = 32) -> None:
        super().__init__()
        self.menu = menu
        decisions, most = len(menu.counts), max(menu.counts)
        channels = encoded(menu, [menu.original]).shape[1]
        self.encoder = nn.Sequential(
            nn.Conv1d(channels, width, 3, padding=1, **_HERE),
            nn.ReLU(),
            nn.Conv1d(width, width, 3, padding=1, **_HERE),
            nn.ReLU(),
            *_into_latent(width, decisions, flat),
        )
        self.decoder = nn.Sequential(
            *_out_of_latent(width, decisions, flat),
            nn.ReLU(),
            nn.Conv1d(width, width, 3, padding=1, **_HERE),
            nn.ReLU(),
            nn.Conv1d(width, most, 3, padding=1, **_HERE),
        )
        size = flat or _CHANNELS * decisions
        self.accuracy_head, self.cost_head = _head(size), _head(size)
        self.register_buffer("scales", torch.tensor([0.0, 1.0, 0.0, 1.0], **_HERE))
        self.register_buffer("mask", is_candidate(menu), persistent=False)
        costs, rest = _shares(menu)
        self.register_buffer("costs", costs, persistent=False)
        self.register_buffer("rest", rest, persistent=False)

    def encode(self, codes: Sequence[Code]) -> Tensor:
        """The latents of architectures."""
        return self.encoder(encoded(self.menu, list(codes)))

    def logits(self, latent: Tensor) -> Tensor:
        """Of every candidate at every decision, ``(B, decisions, most candidates)``; minus infinity where none is."""
        return self.decoder(latent).transpose(1, 2).masked_fill(~self.mask, -math.inf)

    def decode(self, latent: Tensor) -> list[Code]:
        """The architectures that are nearest to latents."""
        return [tuple(code) for code in self.logits(latent).argmax(2).tolist()]

    def accuracy(self, latent: Tensor) -> Tensor:
        """The accuracy as it was told, ``(B,)``, by the head; not held within [0, 1]."""
        return self.accuracy_head(latent).squeeze(1) * self.scales[1] + self.scales[0]

    def share(self, latent: Tensor) -> Tensor:
        """The first cost as a share of the original's, ``(B,)``, by the head."""
        return (self.cost_head(latent).squeeze(1) * self.scales[3] + self.scales[2]).exp()

    def expected_shares(self, logits: Tensor) -> Tensor:
        """Every cost as a share of the original's, ``(costs, B)``, if each decision were drawn by its logits.

        Exact where all probabilities are 0 and 1. Of a cost that is a peak it is the largest expectation.
        """
        expected = torch.einsum("blk,clk->cbl", logits.softmax(2), self.costs)
        return torch.stack(
            [
                part.amax(1).clamp_min(float(rest)) if table.peak else part.sum(1) + rest
                for part, rest, table in zip(expected, self.rest, self.menu.tables, strict=True)
            ]
        )


def untrained(menu: Menu, seed: int, *, flat: int | None = None, width: int = 32) -> Autoencoder:
    """An autoencoder with weights drawn from ``seed``; the state of the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach accelerators as well
        return Autoencoder(menu, flat=flat, width=width)


@torch.enable_grad()
def train(
    model: Autoencoder, labelled: Sequence[Trial], unlabelled: Sequence[Code], *, seed: int, steps: int = 300
) -> None:
    """Fit it to reconstruct all architectures, to their costs, and to the accuracies of the labelled ones; in place.

    Reconstruction and cost are free for any architecture, so that only the accuracies have to be paid for. Noise is
    added to latents, so that between two architectures the decoder changes smoothly enough to be descended on. The
    trials are those of successful evaluations.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    codes = [*(trial.code for trial in labelled), *unlabelled]
    accuracies = torch.tensor([trial.accuracy for trial in labelled], **_HERE)
    log_shares = torch.tensor([math.log(max(model.menu.share(code), 1e-9)) for code in codes], **_HERE)
    model.scales.copy_(torch.tensor([*_scale(accuracies), *_scale(log_shares)], **_HERE))
    accuracies = (accuracies - model.scales[0]) / model.scales[1]
    log_shares = (log_shares - model.scales[2]) / model.scales[3]
    sequences, taken = encoded(model.menu, codes), torch.tensor(codes, device="cpu")
    optimiser = torch.optim.Adam(model.parameters(), lr=_RATE)
    for _ in range(steps):
        known = torch.randint(len(labelled), (min(_LABELLED, len(labelled)),), generator=generator, device="cpu")
        free = torch.randint(len(codes), (_FREE,), generator=generator, device="cpu")
        batch = torch.cat([known, free])
        latent = model.encoder(sequences[batch])
        noisy = latent + _NOISE * torch.randn(latent.shape, generator=generator, **_HERE)
        loss = (
            functional.cross_entropy(model.logits(noisy).transpose(1, 2), taken[batch])
            + functional.mse_loss(model.cost_head(noisy).squeeze(1), log_shares[batch])
            + functional.mse_loss(model.accuracy_head(noisy[: len(known)]).squeeze(1), accuracies[known])
            + _SMALL * latent.square().mean()
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


_HERE: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}  # whatever a run's own defaults are
_CHANNELS = 4  # of the latent, a decision
_HIDDEN = 64  # of the heads
_RATE = 2e-3
_NOISE = 0.1
_SMALL = 1e-3  # pull of the latents to zero
_LABELLED, _FREE = 32, 64  # of one step: with known accuracy, and of all


def _into_latent(width: int, decisions: int, flat: int | None) -> list[nn.Module]:
    if flat is None:
        return [nn.Conv1d(width, _CHANNELS, 1, **_HERE)]
    return [nn.Flatten(), nn.Linear(width * decisions, flat, **_HERE)]


def _out_of_latent(width: int, decisions: int, flat: int | None) -> list[nn.Module]:
    if flat is None:
        return [nn.Conv1d(_CHANNELS, width, 1, **_HERE)]
    return [nn.Linear(flat, width * decisions, **_HERE), nn.Unflatten(1, (width, decisions))]


def _head(size: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(size, _HIDDEN, **_HERE), nn.ReLU(), nn.Linear(_HIDDEN, 1, **_HERE))


def _shares(menu: Menu) -> tuple[Tensor, Tensor]:
    """Costs as shares of the originals', ``(costs, decisions, most candidates)``, and what is outside, ``(costs,)``."""
    costs = torch.zeros(len(menu.tables), len(menu.counts), max(menu.counts), **_HERE)
    for which, table in enumerate(menu.tables):
        for index, by_candidate in enumerate(menu.costs[which]):
            costs[which, index, : len(by_candidate)] = torch.tensor([cost / table.total for cost in by_candidate])
    return costs, torch.tensor([table.rest / table.total for table in menu.tables], **_HERE)


def _scale(values: Tensor) -> tuple[float, float]:
    """Mean and standard deviation."""
    return float(values.mean()), float(values.std(correction=0).clamp_min(1e-6))
