"""The choice: an architecture, and the network chosen with the weights it goes on with, which need no training."""

import copy
import dataclasses
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from lwdc.architecture import Architecture
from lwdc.data import Batch
from lwdc.pipeline.prepare import Prepared
from lwdc.pipeline.settling import Settled, settle
from lwdc.refitting import fitting, refit
from lwdc.strategies import Chooser
from lwdc.surgery import discretise, inherit_mixture
from lwdc.training import recalibrate


@dataclasses.dataclass(frozen=True)
class Choice:
    """What goes on to fine-tuning."""

    architecture: Architecture
    network: nn.Module
    weights: str  # whose it has, "supernet" or "baseline"
    valid: float  # accuracy of the network on the validation split
    measured: list[float | None]  # each cost as measured, in its unit; None for counted ones
    probabilities: dict[str, float]  # by site, of the operator that stays
    warnings: list[str]


def choose_network(
    prepared: Prepared, chooser: Chooser, supernet: nn.Module, baseline: nn.Module, note: Callable[[str, str], None]
) -> Choice:
    """Settle on what ``chooser`` finds in the searched ``supernet``, or on what its gates began with.

    The latter is tried after a search by gradients, within budgets, and goes on where it is clearly better, or nearer
    to budgets that nothing that was searched keeps as measured. Gates of the supernet are left where they point.
    """
    settled = settle(prepared, chooser, baseline, note)
    if prepared.front is not None or prepared.menu is not None:
        _reestimate_norms(prepared, supernet)
    settings, mixes = prepared.settings, not chooser.hard
    fresh = prepared.placed(prepared.supernet(baseline)) if settings.inherit else None

    def made(chooser: Chooser, settled: Settled, what: str) -> Choice:
        architecture, measured, _, missed = settled
        starts = chosen_network(prepared, supernet, fresh, baseline, architecture, mixes=mixes)
        whose = settings.weights if settings.weights in starts else max(starts, key=lambda whose: starts[whose][1])
        said = ", ".join(f"{right:.1%} with the {start}'s weights" for start, (_, right) in starts.items())
        goes_on = "the best of it goes on" if settings.weights == "better" else f"the {whose}'s go on"
        note(f"of the validation examples {what} has right {said}; {goes_on}", "info")
        network, right = starts[whose]
        probabilities = chooser.decidedness(architecture)
        warnings = [] if missed is None else [missed]
        return Choice(architecture, network, whose, right, measured, probabilities, warnings)

    choice = made(chooser, settled, "the network chosen")
    if fresh is None or prepared.menu is not None or not prepared.has_beginning or not settings.search.epochs:
        return choice
    beginning = prepared.lesson(fresh)
    begun = settle(prepared, beginning, baseline, note)
    if begun.architecture == choice.architecture or begun.excess > settled.excess:
        return choice
    other = made(beginning, begun, "what gates begin with")
    if other.valid > choice.valid + _CLEARLY:
        why = "is better than"
    elif begun.excess < settled.excess:
        why = "is nearer to the budget as measured than" if begun.excess else "keeps the budget as measured, unlike"
    else:
        return choice
    warning = f"what gates begin with {why} what they have learned, and goes on"
    note(warning, "warning")
    return dataclasses.replace(other, warnings=[*other.warnings, warning])


_CLEARLY = 0.01  # of accuracy: what was searched for goes on unless its beginning is better by more


def chosen_network(
    prepared: Prepared,
    supernet: nn.Module,
    fresh: nn.Module | None,
    baseline: nn.Module,
    architecture: Architecture,
    *,
    mixes: bool,
) -> dict[str, tuple[nn.Module, float]]:
    """The network chosen, and its accuracy on the validation split, by whose weights it takes.

    The supernet's have been trained on; where its gates mix (``mixes``) what is chosen takes the best approximation of
    the mixture and is refitted to it. The baseline's are inherited once more, by a ``fresh`` supernet, and refitted to
    the baseline: after a short search, in which the mixture has fallen behind, they are the better ones. Of a supernet
    that many architectures share, its own have more right at first and less after fine-tuning. Where there is no
    ``fresh`` supernet only the other's come into question. Nothing is changed in place.
    """

    images = images_to_refit(prepared) if mixes or fresh is not None else None

    def begin(supernet: nn.Module, reference: nn.Module | None) -> nn.Module:
        network, _ = discretise(supernet, architecture)
        if reference is not None and images is not None:
            refit(network, reference, architecture, images)
        prepared.seed("recalibrate")
        recalibrate(network, _batches(prepared), prepared.settings.recalibrate_batches, prepared.fabric)
        return network

    trained = copy.deepcopy(supernet)
    if mixes:  # else operators were trained one at a time, and are what they shall be
        inherit_mixture(trained, architecture)
    starts = {"supernet": begin(trained, supernet if mixes else None)}
    del trained
    if fresh is not None:
        starts["baseline"] = begin(fresh, baseline)
    return {whose: (network, prepared.accuracy(network, "valid")) for whose, network in starts.items()}


def _reestimate_norms(prepared: Prepared, supernet: nn.Module) -> None:
    """Re-estimate the batch norms of a supernet that was trained at every budget for the one chosen, in place.

    Gates that are random are so here as they were in training.
    """
    prepared.seed("recalibrate")
    recalibrate(supernet, _batches(prepared), prepared.settings.recalibrate_batches, prepared.fabric)


def images_to_refit(prepared: Prepared) -> Tensor | None:
    """The first training images, as many as the settings say or memory bears; None where none are asked for."""
    settings = prepared.settings
    if settings.refit_images == 0:
        return None
    most = fitting(settings.refit_images, settings.data.input_size)
    images: list[Tensor] = []
    for batch, _ in _batches(prepared):
        images.append(batch)
        if sum(map(len, images)) >= most:
            break
    return torch.cat(images)[:most]


def _batches(prepared: Prepared) -> Iterator[Batch]:
    settings = prepared.settings
    return settings.data.train(seed=settings.seed, epoch=0, batch_size=settings.search.batch_size)
