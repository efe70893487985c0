"""After the choice: the network chosen, with the best weights to go on from that need no training."""

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lwdc.architecture import Architecture
from lwdc.data import Batch
from lwdc.pipeline.prepare import Prepared
from lwdc.refitting import refit
from lwdc.surgery import discretise, inherit_mixture
from lwdc.training import recalibrate


def chosen_network(
    prepared: Prepared, supernet: nn.Module, baseline: nn.Module, architecture: Architecture, *, mixes: bool
) -> tuple[nn.Module, dict[str, float]]:
    """The network chosen, and its accuracy on the validation split by whose weights it takes: the better ones stay.

    The supernet's have been trained on; where its gates mix (``mixes``) what is chosen takes the best approximation of
    the mixture and is refitted to it. The baseline's are inherited once more and refitted to the baseline: after a
    short search, in which the mixture has fallen behind, they are the better ones. Without ``strategy.inherit`` only
    the supernet's come into question. Nothing is changed in place.
    """
    trained = copy.deepcopy(supernet)
    if mixes:  # else operators were trained one at a time, and are what they shall be
        inherit_mixture(trained, architecture)
    starts = {"supernet": discretise(trained, architecture)[0]}
    if mixes:
        refit_to(supernet, starts["supernet"], architecture, prepared)
    if prepared.settings.inherit:
        inherited = prepared.placed(prepared.supernet(baseline))
        starts["baseline"] = discretise(inherited, architecture)[0]
        refit_to(baseline, starts["baseline"], architecture, prepared)
    found = {}
    for start, network in starts.items():
        prepared.seed("recalibrate")
        recalibrate(network, _batches(prepared), prepared.settings.recalibrate_batches, prepared.fabric)
        found[start] = prepared.accuracy(network, "valid")
    return starts[max(found, key=lambda start: found[start])], found


def refit_to(reference: nn.Module, network: nn.Module, architecture: Architecture, prepared: Prepared) -> None:
    """``refit`` on the first training images, as many as the settings say or memory bears; in place on ``network``."""
    settings = prepared.settings
    most = min(settings.refit_images, max(2, _MOST_VALUES // math.prod(settings.data.input_size)))
    images: list[Tensor] = []
    for batch, _ in _batches(prepared):
        if sum(map(len, images)) >= most:
            break
        images.append(batch)
    if images:
        refit(network, reference, architecture, torch.cat(images)[:most])


_MOST_VALUES = 2**24  # of all images together, which pass through the network at once: 111 of 3 x 224 x 224


def _batches(prepared: Prepared) -> Iterator[Batch]:
    settings = prepared.settings
    return settings.data.train(seed=settings.seed, epoch=0, batch_size=settings.search.batch_size)
