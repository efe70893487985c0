"""Training: one fit loop, its recipes, evaluation and checkpoints."""

from lwdc.training.checkpoint import load_checkpoint, put_tensors, read_tensors, save_checkpoint
from lwdc.training.evaluate import accuracy, recalibrate
from lwdc.training.execution import AS_IT_STANDS, CAN_COMPILE, Execution
from lwdc.training.fit import Fit, Lesson, Plain, StepRecord
from lwdc.training.recipe import Objective, OptimiserFactory, Recipe

__all__ = [
    "AS_IT_STANDS",
    "CAN_COMPILE",
    "Execution",
    "Fit",
    "Lesson",
    "Objective",
    "OptimiserFactory",
    "Plain",
    "Recipe",
    "StepRecord",
    "accuracy",
    "load_checkpoint",
    "put_tensors",
    "read_tensors",
    "recalibrate",
    "save_checkpoint",
]
