"""Path training: a supernet whose weights serve any architecture, because each step trains one drawn at random."""

from torch import nn

from lwdc.selection import advance
from lwdc.strategies.idle import spare_idle
from lwdc.training import Plain


class PathLesson(Plain):
    """For a supernet with ``SinglePath`` gates: what a step has not drawn stays as it is."""

    def __init__(self, supernet: nn.Module) -> None:
        self.supernet = supernet

    def begin(self, progress: float) -> None:
        advance(self.supernet, progress)

    def after_backward(self) -> None:
        spare_idle(self.supernet)
