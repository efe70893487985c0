"""Surgery: a network into a supernet, and a supernet into an ordinary network again."""

import copy
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_args

import torch
from torch import Tensor, nn

from lwdc.architecture import Architecture
from lwdc.candidates import Candidate, Operator, build, label, low_rank
from lwdc.candidates.base import with_settings
from lwdc.candidates.original import trained_weight
from lwdc.errors import ArchitectureError, SpaceError, unknown_name
from lwdc.gates import Gate, Softmax
from lwdc.gates.checking import check_gate, make_gate
from lwdc.selection import Mixing, SelectionOp, draw, forget, selection_ops, supernet_ops
from lwdc.sites import Site, check_network, find_sites
from lwdc.space import Choice, Plan, SearchSpace, make_plan
from lwdc.tracing import Shape, call_layers, reference, replace, uncompiled

Copied = Callable[[Any], Any]  # of a part of a network, that copy which a copy of the network holds


def wrap(
    model: nn.Module,
    space: SearchSpace | None = None,
    gate: Callable[[int], Gate] = Softmax,
    input_size: Shape | None = None,
    *,
    inherit: bool = True,
    mixing: Mixing = "auto",
    plan: Plan | None = None,
) -> nn.Module:
    """A copy of ``model`` with a selection operator at every site of ``space``; ``model`` is not changed.

    ``input_size`` is ``(channels, height, width)`` or ``(channels, length)``; timm networks know theirs. With
    ``inherit`` every operator starts from the best closed-form approximation of the trained weight, else from
    fresh weights of the same output variance. ``plan`` is a space already laid on this very network. Of what
    ``torch.compile`` returned the network itself is copied: compile the supernet.
    """
    model = uncompiled(model)
    if selection_ops(model):
        raise SpaceError("this network is a supernet already: wrap the network that it was made from.")
    if mixing not in get_args(Mixing):
        raise SpaceError(unknown_name("mixing", mixing, get_args(Mixing)))
    if not isinstance(space, SearchSpace | None):
        raise SpaceError(
            f"space is a lwdc.SearchSpace, like lwdc.SearchSpace(exclude=['head.*']), or None; found {space!r:.200}. "
            "The shape of an input is given as input_size=."
        )
    check_network(model)
    plan = plan or make_plan(model, space or SearchSpace(), _size(model, input_size))
    supernet = copy.deepcopy(model)
    modules = dict(supernet.named_modules(remove_duplicate=False))
    shared: dict[str, Gate] = {}
    replacements: dict[nn.Module, nn.Module] = {}
    for choice in plan.choices:
        layer = modules[choice.site.name]
        weight = trained_weight(choice.site, layer, reference(supernet))
        if choice.group not in shared:
            made = make_gate(gate, len(choice.candidates))
            if not shared:
                check_gate(made)
            shared[choice.group] = made.to(weight.device)
        replacements[layer] = _selection_op(choice, layer, weight, shared[choice.group], inherit, mixing)
    replace(supernet, replacements)
    supernet.lwdc_input_size = plan.input_size  # type: ignore[assignment]
    supernet.lwdc_fast_paths = call_layers(supernet, replacements.values())  # type: ignore[assignment]
    supernet.register_forward_pre_hook(_sample_gates)
    supernet.register_forward_hook(_forget_gates, always_call=True)
    return supernet


def default_input_size(model: nn.Module) -> Shape:
    """The image shape that a timm network was made for. Raises ``SpaceError`` for other networks."""
    config = getattr(model, "pretrained_cfg", None)
    size = config.get("input_size") if isinstance(config, Mapping) else getattr(config, "input_size", None)
    if size is None:
        raise SpaceError("this network does not say what inputs it takes: give input_size=(channels, height, width).")
    return tuple(size)


def _size(model: nn.Module, given: Shape | None) -> Shape:
    return default_input_size(model) if given is None else given


def discretise(supernet: nn.Module, architecture: Architecture | None = None) -> tuple[nn.Module, Architecture]:
    """Keep one operator per site, as plain PyTorch modules; ``supernet`` is not changed.

    The default architecture takes every gate's best candidate. Returns the network and its architecture. Raises
    ``SpaceError`` for what is no supernet, and for what holds one, like DistributedDataParallel: give the one it holds.
    """
    supernet = as_wrapped(supernet)
    architecture = chosen_architecture(supernet) if architecture is None else architecture
    check_names(architecture, selection_ops(supernet))

    def released(op: SelectionOp, copied: Copied) -> nn.Module:
        operator = copied(op.operators[candidate_index(op, architecture)])
        assert isinstance(operator, Operator)
        return with_settings(operator.release(copied(op.bias)).train(op.training), op.conv)

    return _unwrapped(supernet, released), architecture


def original_network(supernet: nn.Module) -> nn.Module:
    """A copy with every site's own convolution back in place; ``supernet`` is not changed."""

    def original(op: SelectionOp, copied: Copied) -> nn.Module:
        conv: nn.Module = copied(op.conv)
        if op.froze:
            conv.get_parameter("weight").requires_grad_(True)
        return conv

    return _unwrapped(supernet, original)


def input_size_of(supernet: nn.Module) -> Shape:
    """The image shape that the supernet was wrapped for."""
    return as_wrapped(supernet).lwdc_input_size  # type: ignore[return-value]


def as_wrapped(supernet: nn.Module) -> nn.Module:
    """What ``wrap`` returned, also where ``torch.compile`` was given it. Raises ``SpaceError`` for anything else."""
    supernet_ops(supernet)
    network, kind = uncompiled(supernet), type(supernet).__name__
    held = {"": network, "module": getattr(network, "module", None), **dict(network.named_modules())}
    # Of its own: some that hold a supernet hand on what they lack.
    name = next((name for name, module in held.items() if "lwdc_input_size" in getattr(module, "__dict__", {})), None)
    if name is None:
        raise SpaceError(f"this {kind} is but a part of a supernet: give all that lwdc.wrap returned.")
    if name:
        path = f".{name}" if all(map(str.isidentifier, name.split("."))) else f".get_submodule({name!r})"
        raise SpaceError(f"this {kind} is no supernet but holds one: give its {path}.")
    return network


def chosen_architecture(supernet: nn.Module) -> Architecture:
    """Every gate's best candidate by its final score."""
    return Architecture({name: op.candidates[op.chosen] for name, op in supernet_ops(supernet).items()})


def point_at(supernet: nn.Module, architecture: Architecture) -> None:
    """Make every gate one-hot at the architecture's choice, in place."""
    ops = supernet_ops(supernet)
    check_names(architecture, ops)
    pointed: dict[Gate, int] = {}
    for op in ops.values():
        index = candidate_index(op, architecture)
        if pointed.setdefault(op.gate, index) != index:
            raise ArchitectureError(f"{op.site} is tied to another site, and the architecture parts them.")
    for gate, index in pointed.items():
        gate.point_at(index)


def begin_with_prior(supernet: nn.Module, weight: float) -> None:
    """Begin the gates with what each operator keeps of the trained layer, in place: an operator that keeps more leads.

    The logits are ``weight * log(1 - error ** 2)`` of the inheritance errors: the share of the kernel's energy, taken
    as a tenth at least; the mean over sites that share a gate. Where nothing was inherited gates stay uniform. Ours.
    """
    logs: dict[Gate, list[Tensor]] = {}
    for op in supernet_ops(supernet).values():
        if op.errors:
            kept = 1 - torch.tensor([op.errors[name] for name in op.labels]).square()
            logs.setdefault(op.gate, []).append(kept.clamp_min(_LEAST_KEPT).log())
    with torch.no_grad():
        for gate, by_site in logs.items():
            gate.logits.copy_(weight * torch.stack(by_site).mean(0))
            gate.average.zero_()  # of logits before


_LEAST_KEPT = 0.1  # else an operator that inherits nothing, like a skip, could never come back


def inherit_mixture(supernet: nn.Module, architecture: Architecture) -> None:
    """Let every operator of the architecture take the best approximation of its site's mixture, in place. Ours.

    What works after a search with gates that mix is the mixture, and its operators are but parts of it; where all are
    linear it is one kernel, which the chosen one inherits as it did the trained layer's. Other sites stay as they are.
    """
    weights = [(op, op.as_weight()) for op in supernet_ops(supernet).values()]  # all before any is changed
    for op, weight in weights:
        if weight is not None:
            op.operators[candidate_index(op, architecture)].inherit(weight)  # type: ignore[operator]
    low_rank.forget()


def candidate_index(op: SelectionOp, architecture: Architecture) -> int:
    """Where the architecture's choice stands among the site's candidates. Raises ``ArchitectureError``."""
    candidate = architecture.choices.get(op.site.name)
    if candidate is None:
        raise ArchitectureError(f"the architecture says nothing of {op.site}.")
    if candidate not in op.candidates:
        raise ArchitectureError(f"{op.site} has candidates {', '.join(op.labels)}, not {label(candidate)!r}.")
    return op.candidates.index(candidate)


def rebuild(model: nn.Module, architecture: Architecture, input_size: Shape | None = None) -> nn.Module:
    """A copy of ``model`` with the architecture's operators, freshly initialised; ``model`` is not changed."""
    model = uncompiled(model)
    check_network(model)
    network = copy.deepcopy(model)
    sites = find_sites(network, _size(model, input_size)).sites
    by_name = {name: site for site in sites for name in (site.name, *site.aliases)}
    check_names(architecture, by_name)
    modules = dict(network.named_modules(remove_duplicate=False))
    replacements: dict[nn.Module, nn.Module] = {}
    for name, candidate in architecture.choices.items():
        if candidate["op"] != "original":
            weight = trained_weight(by_name[name], modules[name], reference(network))
            replacements[modules[name]] = _fresh(candidate, by_name[name], modules[name], weight)
    replace(network, replacements)
    call_layers(network, replacements.values())
    return network


def check_names(architecture: Architecture, known: Collection[str]) -> None:
    """Raise ``ArchitectureError`` unless all sites of the architecture are ``known``."""
    if not isinstance(architecture, Architecture):
        raise ArchitectureError(
            f"found {architecture!r:.200} where an architecture belongs: give lwdc.Architecture(choices), "
            "or what lwdc.Architecture.load reads from a file."
        )
    missing = [name for name in architecture.choices if name not in known]
    if missing:
        raise ArchitectureError(
            f"the architecture replaces {missing[:5]}, which this network lacks; it has {list(known)[:10]}, ..."
        )


def _fresh(candidate: Candidate, site: Site, layer: nn.Module, weight: Tensor) -> nn.Module:
    try:
        operator = build(candidate, site).to(weight.device, weight.dtype)
    except SpaceError as error:
        raise ArchitectureError(f"{label(candidate)!r} does not fit {site}: {error}") from error
    operator.reset(float(weight.norm()))
    return with_settings(operator.release(layer._parameters.get("bias")).train(layer.training), layer)


def _selection_op(
    choice: Choice, layer: nn.Module, weight: Tensor, gate: Gate, inherit: bool, mixing: Mixing
) -> SelectionOp:
    operators, errors = [], {}
    for candidate in choice.candidates:
        operator = build(candidate, choice.site).to(weight.device, weight.dtype)
        if inherit:
            errors[label(candidate)] = _inherited(operator, weight, candidate)
        else:
            operator.reset(float(weight.norm()))
        operators.append(operator)
    low_rank.forget()
    return SelectionOp(
        choice.site, layer, choice.candidates, tuple(operators), gate, mixing=mixing, errors=errors
    ).train(layer.training)


def _inherited(operator: Operator, weight: Tensor, candidate: Candidate) -> float:
    """The error that ``inherit`` gives. Raises ``SpaceError`` unless it is a number, as that of a finite weight is."""
    error: Any = operator.inherit(weight)
    if isinstance(error, float | int) and (math.isfinite(error) or not weight.isfinite().all()):
        return error
    raise SpaceError(
        f"operator {label(candidate)!r} at {operator.site}: inherit returns the relative error ||W - K|| / ||W|| as a "
        f"float, 1.0 where nothing is taken over, found {error!r:.100}."
    )


def _sample_gates(supernet: nn.Module, args: Any) -> None:
    """Before a forward pass."""
    del args
    draw(supernet)


def _forget_gates(supernet: nn.Module, args: Any, output: Any) -> None:
    """After a forward pass, also a failed one."""
    del args, output
    forget(supernet)


def _unwrapped(supernet: nn.Module, instead: Callable[[SelectionOp, Copied], nn.Module]) -> nn.Module:
    """A copy without what ``wrap`` added, with ``instead(op, copied)`` where a selection operator stands.

    Of what an operator holds only that is copied which ``copied`` is asked for: a copy costs what the network does.
    """
    supernet = as_wrapped(supernet)
    ops = list(selection_ops(supernet).values())
    memo: dict[int, Any] = {id(op): op for op in ops}
    network = copy.deepcopy(supernet, memo)
    replacements: dict[nn.Module, nn.Module] = {op: instead(op, lambda part: copy.deepcopy(part, memo)) for op in ops}
    replace(network, replacements)
    for module, name, value in network.lwdc_fast_paths:  # type: ignore[union-attr]
        setattr(module, name, value)
    call_layers(network, [module for module in replacements.values() if not isinstance(module, nn.Linear)])
    del network.lwdc_input_size, network.lwdc_fast_paths
    for hooks in (network._forward_pre_hooks, network._forward_hooks):
        for key in [key for key, hook in hooks.items() if hook in (_sample_gates, _forget_gates)]:
            del hooks[key]
    for key in [k for k in network._forward_hooks_always_called if k not in network._forward_hooks]:
        del network._forward_hooks_always_called[key]
    return network
