"""Evaluators: what says how accurate an architecture is, from cheap to dear."""

from lwdc.evaluators.base import Evaluation, Evaluator, Subject, canonical, evaluate, fingerprint, identity
from lwdc.evaluators.fine_tuned import FineTuned
from lwdc.evaluators.from_scratch import FromScratch
from lwdc.evaluators.refitted import Refitted
from lwdc.evaluators.several import evaluate_all
from lwdc.evaluators.shared_weights import SharedWeights

__all__ = [
    "Evaluation",
    "Evaluator",
    "FineTuned",
    "FromScratch",
    "Refitted",
    "SharedWeights",
    "Subject",
    "canonical",
    "evaluate",
    "evaluate_all",
    "fingerprint",
    "identity",
]
