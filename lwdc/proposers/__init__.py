"""Proposers: searches that see nothing of an architecture but what it costs and how well it does."""

from lwdc.proposers.base import Proposer, ProposerFactory
from lwdc.proposers.evolution import Evolution
from lwdc.proposers.history import History, Trial
from lwdc.proposers.latent import Latent
from lwdc.proposers.local_search import LocalSearch
from lwdc.proposers.menu import Code, Decision, Menu
from lwdc.proposers.random_search import RandomSearch
from lwdc.proposers.scores import Score, compression, kept

__all__ = [
    "Code",
    "Decision",
    "Evolution",
    "History",
    "Latent",
    "LocalSearch",
    "Menu",
    "Proposer",
    "ProposerFactory",
    "RandomSearch",
    "Score",
    "Trial",
    "compression",
    "kept",
]
