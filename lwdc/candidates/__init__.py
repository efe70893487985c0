"""Candidates: what may stand at a site. One file a family; importing this package registers them all."""

from lwdc.candidates import (
    branches,
    epitome,
    factorised,
    fixed,
    ghost,
    grouped,
    low_rank,
    original,
    partial,
    separable,
    shift,
    shuffled,
    sized,
    tucker,
    wsnet,
)
from lwdc.candidates.base import DoesNotFit, Operator
from lwdc.candidates.chain import Chain, Layer
from lwdc.candidates.registry import (
    Candidate,
    build,
    candidate_names,
    check,
    label,
    origin,
    register_candidate,
)

__all__ = [
    "Candidate",
    "Chain",
    "DoesNotFit",
    "Layer",
    "Operator",
    "branches",
    "build",
    "candidate_names",
    "check",
    "epitome",
    "factorised",
    "fixed",
    "ghost",
    "grouped",
    "label",
    "low_rank",
    "origin",
    "original",
    "partial",
    "register_candidate",
    "separable",
    "shift",
    "shuffled",
    "sized",
    "tucker",
    "wsnet",
]
