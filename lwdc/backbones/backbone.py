"""Backbone: plain data that names a network, so that a package can build it again."""

import dataclasses
from typing import Any

import timm
from torch import nn

from lwdc.backbones.merging import merge
from lwdc.errors import OF_ONES_OWN, BackboneError, unknown_name


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A timm network by name; ``options`` are further arguments of ``timm.create_model``.

    With ``reparameterise`` the branches that it trains with are merged, as they are for inference.
    """

    name: str
    num_classes: int
    in_chans: int
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    reparameterise: bool = False

    def create(self) -> nn.Module:
        """The network with fresh weights. ``BackboneError`` for an unknown name, unusable options, nothing to merge."""
        self.check_name()
        try:
            network = timm.create_model(self.name, num_classes=self.num_classes, in_chans=self.in_chans, **self.options)
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            raise BackboneError(
                f"{self.name!r} cannot be built with num_classes={self.num_classes}, "
                f"in_chans={self.in_chans} and options={self.options}: {error}. "
                "Options are arguments of timm.create_model: change or drop them."
            ) from error
        if self.reparameterise:
            merge(network)
        return network

    def origin(self) -> str | None:
        """The module that registers it with timm: what to import before it is named. None if timm does not know it."""
        if not timm.is_model(self._network):
            return None
        module = timm.model_entrypoint(self._network).__module__
        return str(module)

    @property
    def _network(self) -> str:
        """Without the weights, which a name may have, too: ``resnet18.a1_in1k``."""
        return self.name.partition(".")[0]

    def check_name(self) -> None:
        """Raises ``BackboneError``, with the nearest names, if timm knows no such network."""
        if not timm.is_model(self._network):
            raise BackboneError(f"{unknown_name('backbone', self.name, timm.list_models())} {OF_ONES_OWN}")
