"""Features: what can be said of every candidate at every decision before anything is trained, as numbers in [0, 1].

Tensors are float32 on the CPU, whatever the defaults of the process are.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from lwdc.proposers.menu import Code, Menu


def static_features(menu: Menu) -> Tensor:
    """Per decision and candidate: ``(decisions, most candidates, features)``; zeros where there is no candidate.

    The features are log(1 + x) of parameters, multiply-accumulates and every cost, each divided by the largest of the
    space, then the decision's place, log channels in and out, log positions of the output and stride, divided alike.
    Networks of any depth have the same ones. Ours.
    """
    rows = [[_of(menu, index, k) for k in range(count)] for index, count in enumerate(menu.counts)]
    found = torch.zeros(len(rows), max(menu.counts), len(rows[0][0]), dtype=torch.float32, device="cpu")
    for index, row in enumerate(rows):
        found[index, : len(row)] = torch.tensor(row, device="cpu")
    return found / found.flatten(0, 1).amax(0).clamp_min(1e-12)


def is_candidate(menu: Menu) -> Tensor:
    """Where there is a candidate: ``(decisions, most candidates)``, boolean."""
    counts = torch.tensor(menu.counts, device="cpu")
    return torch.arange(max(menu.counts), device="cpu")[None] < counts[:, None]


def one_hot(menu: Menu, codes: list[Code]) -> Tensor:
    """Architectures as ``(architectures, decisions, most candidates)``, 1 at what is taken."""
    return functional.one_hot(torch.tensor(codes, device="cpu"), max(menu.counts)).float()


def encoded(menu: Menu, codes: list[Code]) -> Tensor:
    """Architectures as sequences over the decisions: ``(architectures, channels, decisions)``.

    The channels are the one-hot choice and the static features of what is chosen.
    """
    taken = one_hot(menu, codes)
    features = torch.einsum("blk,lkf->blf", taken, static_features(menu))
    return torch.cat([taken, features], dim=2).transpose(1, 2)


def _of(menu: Menu, index: int, candidate: int) -> list[float]:
    decision = menu.decisions[index]
    site = decision.choices[0].site
    params = sum(choice.params[candidate] for choice in decision.choices)
    macs = sum(choice.macs[candidate] for choice in decision.choices)
    costs = [by_decision[index][candidate] for by_decision in menu.costs]
    counted = [math.log1p(x) for x in (params, macs, *costs)]
    positions = math.prod(site.output_shape[1:] if site.dims else site.output_shape[:-1])
    shape = [math.log1p(x) for x in (site.in_channels, site.out_channels, positions)]
    return [*counted, (index + 1) / len(menu.decisions), *shape, math.prod(site.stride)]
