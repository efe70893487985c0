"""Building a backbone with the weights that a run starts from: fresh, timm's, or those of a file."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import timm
from torch import nn

from lwdc.backbones.backbone import Backbone
from lwdc.backbones.merging import merge
from lwdc.backbones.weights import load_weights
from lwdc.errors import BackboneError


def create(
    backbone: Backbone, *, pretrained: bool = False, weights: Path | str | None = None
) -> tuple[nn.Module, list[str]]:
    """The network, and notes on what of it does not come from the weights asked for.

    ``pretrained`` takes timm's own weights, which may need a download; ``weights`` those of a local file, which of a
    network that is to be reparameterised may be from before or after it.
    Raises ``BackboneError`` if they cannot be had or do not fit.
    """
    if pretrained and weights is not None:
        raise BackboneError(f"both pretrained=true and weights={str(weights)!r} are set; keep one of the two.")
    if pretrained:
        return _create_pretrained(backbone)
    if weights is None:
        return backbone.create(), []
    if not backbone.reparameterise:
        network = backbone.create()
        return network, load_weights(network, Path(weights))
    return _create_merged(backbone, Path(weights))


def _create_merged(backbone: Backbone, weights: Path) -> tuple[nn.Module, list[str]]:
    network = dataclasses.replace(backbone, reparameterise=False).create()
    try:
        notes = load_weights(network, weights)
    except BackboneError:
        merged = backbone.create()
        with contextlib.suppress(BackboneError):
            return merged, load_weights(merged, weights)
        raise
    merge(network)
    return network, notes


def _create_pretrained(backbone: Backbone) -> tuple[nn.Module, list[str]]:
    backbone.check_name()
    if not timm.models.is_model_pretrained(backbone.name):
        raise BackboneError(
            f"timm has no pretrained weights for {backbone.name!r}; set pretrained=false, "
            "or give a local file with weights=FILE."
        )
    options = {**backbone.options, "pretrained": True}
    try:
        network = dataclasses.replace(backbone, options=options).create()
    except BackboneError as error:
        backbone.create()  # if the options are at fault, this says so better
        raise _unavailable(backbone.name, error) from error
    # Whatever the hub client, its transport or the proxy between may raise.
    except Exception as error:
        raise _unavailable(backbone.name, error) from error
    return network, _adaptations(backbone, vars(network)["pretrained_cfg"])


def _unavailable(name: str, error: Exception) -> BackboneError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return BackboneError(
        f"the pretrained weights of {name!r} could not be had ({reason}); without a network, set "
        "pretrained=false and give a local file with weights=FILE (safetensors, or a torch state dict)."
    )


def _adaptations(backbone: Backbone, source: dict[str, Any]) -> list[str]:
    notes = []
    if source["num_classes"] != backbone.num_classes:
        notes.append(
            f"the pretrained weights have {source['num_classes']} classes, the network "
            f"{backbone.num_classes}: its classifier {source['classifier']!r} starts from fresh weights."
        )
    if source["input_size"][0] != backbone.in_chans:
        notes.append(
            f"the pretrained weights take {source['input_size'][0]} channels, the network "
            f"{backbone.in_chans}: timm adapted the first convolution {source['first_conv']!r}."
        )
    return notes
