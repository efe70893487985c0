"""After the choice: the network chosen, with the best weights to go on from that need no training."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lwdc.architecture import Architecture
from lwdc.data import Batch
from lwdc.pipeline.prepare import Prepared
from lwdc.refitting import fitting, refit
from lwdc.surgery import discretise, inherit_mixture
from lwdc.training import recalibrate


def chosen_network(
    prepared: Prepared,
    supernet: nn.Module,
    fresh: nn.Module | None,
    baseline: nn.Module,
    architecture: Architecture,
    *,
    mixes: bool,
) -> tuple[nn.Module, dict[str, float]]:
    """The network chosen, and its accuracy on the validation split by whose weights it takes: the better ones stay.

    The supernet's have been trained on; where its gates mix (``mixes``) what is chosen takes the best approximation of
    the mixture and is refitted to it. The baseline's are inherited once more, by a ``fresh`` supernet, and refitted to
    the baseline: after a short search, in which the mixture has fallen behind, they are the better ones. Where there is
    no such supernet only the other's come into question. Nothing is changed in place.
    """

    def begin(supernet: nn.Module, reference: nn.Module | None) -> nn.Module:
        network, _ = discretise(supernet, architecture)
        if reference is not None:
            refit_to(reference, network, architecture, prepared)
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
    found = {start: prepared.accuracy(network, "valid") for start, network in starts.items()}
    return starts[max(found, key=lambda start: found[start])], found


def settle_norms(prepared: Prepared, supernet: nn.Module) -> None:
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
