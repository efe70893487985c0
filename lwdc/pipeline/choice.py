"""The choice: an architecture, and the network chosen with the best weights to go on from."""

import copy
import dataclasses
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from lwdc.architecture import Architecture
from lwdc.data import Batch
from lwdc.errors import TrainingError
from lwdc.evaluators import Subject
from lwdc.evaluators.fine_tuned import train as train_briefly
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
    valid: float  # accuracy of the network on the validation split
    worth: float  # what it was chosen by: the same, or that after a trial
    measured: list[float | None]  # each cost as measured, in its unit; None for counted ones
    probabilities: dict[str, float]  # by site, of the operator that stays
    warnings: list[str]


def choose_network(
    prepared: Prepared, chooser: Chooser, supernet: nn.Module, baseline: nn.Module, note: Callable[[str, str], None]
) -> Choice:
    """Settle on what ``chooser`` finds in the searched ``supernet``, or on what its gates began with.

    The latter is tried after a search by gradients, within budgets, and goes on where it is clearly better, or keeps
    the budgets as measured where nothing that was searched does. Gates of the supernet are left where they point.
    """
    settled = settle(prepared, chooser, baseline, note)
    if prepared.front is not None or prepared.menu is not None:
        _reestimate_norms(prepared, supernet)
    settings, mixes = prepared.settings, not chooser.hard
    fresh = prepared.placed(prepared.supernet(baseline)) if settings.inherit else None

    def made(chooser: Chooser, settled: Settled, what: str) -> Choice:
        architecture, measured, missed = settled
        starts = chosen_network(prepared, supernet, fresh, baseline, architecture, mixes=mixes)
        said = ", ".join(f"{start.valid:.1%} with the {whose}'s weights" for whose, start in starts.items())
        if trial := _trial_steps(prepared):
            starts = {whose: tried(start, prepared, baseline, trial) for whose, start in starts.items()}
            said += f"; after {trial} steps of fine-tuning {' and '.join(f'{s.worth:.1%}' for s in starts.values())}"
        note(f"of the validation examples {what} has right {said}; the best of it goes on", "info")
        best = max(starts.values(), key=lambda start: start.worth)
        probabilities = chooser.decidedness(architecture)
        warnings = [] if missed is None else [missed]
        return Choice(architecture, best.network, best.valid, best.worth, measured, probabilities, warnings)

    choice = made(chooser, settled, "the network chosen")
    if fresh is None or prepared.menu is not None or not prepared.has_beginning or not settings.search.epochs:
        return choice
    beginning = prepared.lesson(fresh)
    begun = settle(prepared, beginning, baseline, note)
    if begun.architecture == choice.architecture or begun.missed is not None:
        return choice
    other = made(beginning, begun, "what gates begin with")
    better = other.worth > choice.worth + _CLEARLY
    if not better and settled.missed is None:
        return choice
    why = "is better than" if better else "keeps the budget as measured, unlike"
    warning = f"what gates begin with {why} what they have learned, and goes on"
    note(warning, "warning")
    return dataclasses.replace(other, warnings=[warning])


_CLEARLY = 0.01  # of accuracy: what was searched for goes on unless its beginning is better by more


@dataclasses.dataclass(frozen=True)
class Start:
    """Weights with which the network chosen may go on."""

    network: nn.Module
    valid: float  # accuracy on the validation split
    worth: float  # the same, or that after a trial


def chosen_network(
    prepared: Prepared,
    supernet: nn.Module,
    fresh: nn.Module | None,
    baseline: nn.Module,
    architecture: Architecture,
    *,
    mixes: bool,
) -> dict[str, Start]:
    """The network chosen, by whose weights it takes.

    The supernet's have been trained on; where its gates mix (``mixes``) what is chosen takes the best approximation of
    the mixture and is refitted to it. The baseline's are inherited once more, by a ``fresh`` supernet, and refitted to
    the baseline: after a short search, in which the mixture has fallen behind, and of a supernet that many
    architectures share, they are the better ones. Where there is no such supernet only the other's come into question.
    Nothing is changed in place.
    """

    def begin(supernet: nn.Module, reference: nn.Module | None) -> Start:
        network, _ = discretise(supernet, architecture)
        if reference is not None:
            refit_to(reference, network, architecture, prepared)
        prepared.seed("recalibrate")
        recalibrate(network, _batches(prepared), prepared.settings.recalibrate_batches, prepared.fabric)
        valid = prepared.accuracy(network, "valid")
        return Start(network, valid, valid)

    trained = copy.deepcopy(supernet)
    if mixes:  # else operators were trained one at a time, and are what they shall be
        inherit_mixture(trained, architecture)
    starts = {"supernet": begin(trained, supernet if mixes else None)}
    del trained
    if fresh is not None:
        starts["baseline"] = begin(fresh, baseline)
    return starts


def tried(start: Start, prepared: Prepared, baseline: nn.Module, steps: int) -> Start:
    """Its worth after so many steps of fine-tuning on a copy, the learning rate rising and falling once. Ours.

    What has more right before fine-tuning is not what has more right after it: weights that many architectures have
    shared are soon overtaken by those of the trained network. 0 for what diverges.
    """
    network = copy.deepcopy(start.network)
    settings = prepared.settings
    subject = Subject(
        network, baseline, prepared.backbone.create, settings.data, settings.finetune, settings.seed, prepared.fabric
    )
    prepared.seed("try")
    try:
        train_briefly(network, subject, steps, settings.seed)
    except TrainingError:
        return dataclasses.replace(start, worth=0.0)
    prepared.seed("recalibrate")
    recalibrate(network, _batches(prepared), settings.recalibrate_batches, prepared.fabric)
    return dataclasses.replace(start, worth=prepared.accuracy(network, "valid"))


def _trial_steps(prepared: Prepared) -> int:
    """As many as asked for, and no more than fine-tuning has; none where there is nothing to compare."""
    settings = prepared.settings
    if settings.from_scratch or not settings.inherit or not settings.search.epochs:
        return 0
    return min(settings.trial_steps, settings.finetune.epochs * settings.data.steps(settings.finetune.batch_size))


def _reestimate_norms(prepared: Prepared, supernet: nn.Module) -> None:
    """Re-estimate the batch norms of a supernet that was trained at every budget for the one chosen, in place.

    Gates that are random are so here as they were in training.
    """
    prepared.seed("recalibrate")
    recalibrate(supernet, _batches(prepared), prepared.settings.recalibrate_batches, prepared.fabric)


def refit_to(reference: nn.Module, network: nn.Module, architecture: Architecture, prepared: Prepared) -> None:
    """``refit`` on the training images that the settings ask for, if any; in place on ``network``."""
    images = _examples(prepared)
    if images is not None:
        refit(network, reference, architecture, images)


def _examples(prepared: Prepared) -> Tensor | None:
    """The first training images, as many as the settings say or memory bears."""
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
