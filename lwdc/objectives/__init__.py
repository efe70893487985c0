"""Objectives: what training makes small, from logits, labels and (where asked for) a teacher's logits."""

from lwdc.objectives.cross_entropy import CrossEntropy
from lwdc.objectives.distillation import Distillation

__all__ = ["CrossEntropy", "Distillation"]
