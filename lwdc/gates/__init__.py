"""Gates: from logits to mixing weights. One file each; ``base.py`` says what every gate promises."""

from lwdc.gates.base import Gate
from lwdc.gates.gumbel import GumbelSoftmax
from lwdc.gates.independent import Independent
from lwdc.gates.lwdc import TrainableGate
from lwdc.gates.one_hot import OneHot
from lwdc.gates.reinmax import ReinMax
from lwdc.gates.single_path import SinglePath
from lwdc.gates.softmax import Softmax

__all__ = ["Gate", "GumbelSoftmax", "Independent", "OneHot", "ReinMax", "SinglePath", "Softmax", "TrainableGate"]
