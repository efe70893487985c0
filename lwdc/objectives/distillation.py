"""Distillation from the original network (Hinton et al., 2015)."""

import dataclasses

import torch.nn.functional as F
from torch import Tensor

from lwdc.errors import TrainingError


@dataclasses.dataclass(frozen=True)
class Distillation:
    """``(1 - weight)`` of the cross-entropy plus ``weight`` of the softened divergence from the teacher.

    The divergence is multiplied by the squared temperature, so that its gradient keeps its size.
    """

    weight: float = 0.7
    temperature: float = 3.0

    @property
    def needs_teacher(self) -> bool:
        """With a weight of 0 this is plain cross-entropy, and no teacher runs."""
        return self.weight > 0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1 or self.temperature <= 0:
            raise TrainingError(
                f"distillation needs a weight in [0, 1] and a positive temperature, found {self.weight} and "
                f"{self.temperature}."
            )

    def __call__(self, logits: Tensor, labels: Tensor, teacher: Tensor | None) -> Tensor:
        """``logits`` and ``teacher`` ``(B, classes)``, ``labels`` ``(B,)``; a scalar.

        Where images are mixed labels are shares of classes, ``(B, classes)``.
        """
        if not self.needs_teacher:
            return F.cross_entropy(logits, labels)
        assert teacher is not None, "distillation needs the teacher's logits"
        t = self.temperature
        divergence = F.kl_div(
            F.log_softmax(logits / t, dim=1),
            F.log_softmax(teacher / t, dim=1),
            log_target=True,
            reduction="batchmean",
        )
        return (1 - self.weight) * F.cross_entropy(logits, labels) + self.weight * t * t * divergence
