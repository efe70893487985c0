"""Proposers: searches that see nothing of an architecture but what it costs and how well it does."""

from lwdc.proposers.base import Proposer, ProposerFactory
from lwdc.proposers.bayes import Bayes
from lwdc.proposers.evolution import Evolution
from lwdc.proposers.evolve_space import EvolveSpace
from lwdc.proposers.history import History, Trial
from lwdc.proposers.latent import Latent
from lwdc.proposers.local_search import LocalSearch
from lwdc.proposers.menu import Code, Decision, Menu
from lwdc.proposers.nsga2 import Nsga2
from lwdc.proposers.random_search import RandomSearch
from lwdc.proposers.scores import Score, compression, kept

__all__ = [
    "Bayes",
    "Code",
    "Decision",
    "Evolution",
    "EvolveSpace",
    "History",
    "Latent",
    "LocalSearch",
    "Menu",
    "Nsga2",
    "Proposer",
    "ProposerFactory",
    "RandomSearch",
    "Score",
    "Trial",
    "compression",
    "kept",
]
