"""Cross-entropy with the labels."""

import dataclasses

import torch.nn.functional as F
from torch import Tensor

from lwdc.errors import TrainingError


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """Mean cross-entropy, optionally with label smoothing."""

    label_smoothing: float = 0.0
    needs_teacher: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise TrainingError(f"label_smoothing must lie in [0, 1), found {self.label_smoothing}.")

    def __call__(self, logits: Tensor, labels: Tensor, teacher: Tensor | None) -> Tensor:
        """``logits`` ``(B, classes)``, ``labels`` ``(B,)``, or ``(B, classes)`` where images are mixed; a scalar."""
        del teacher  # Only distillation looks at it.
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
