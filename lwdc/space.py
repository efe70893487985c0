"""Search spaces: which sites may change, and the candidates at each."""

import dataclasses
import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lwdc.candidates import Candidate, DoesNotFit, build, check, label
from lwdc.candidates.registry import told
from lwdc.candidates.sums import sums_of
from lwdc.counting import count_calls, count_macs, count_params
from lwdc.errors import LwdcError, SpaceError
from lwdc.sites import Site, find_sites
from lwdc.tracing import Shape, uncompiled

LEAN: tuple[Candidate, ...] = (
    {"op": "original"},
    {"op": "factorised", "ratio": 0.75},
    {"op": "factorised", "ratio": 0.5},
    {"op": "factorised", "ratio": 0.25},
    {"op": "factorised", "ratio": 0.125},
    {"op": "low_rank", "ratio": 0.25},  # for 1x1 and Linear layers too
    {"op": "low_rank", "ratio": 0.125},
    {"op": "separable"},
    {"op": "kernel", "size": 3},  # for wider layers
    {"op": "pointwise"},
)

COSTLIER = "costs more than the original"  # what a reason to drop a candidate begins with


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """Sites by glob patterns on their names, and candidates for them.

    ``per_site`` maps patterns to candidate lists of their own; the last match wins. A list of one candidate
    replaces the layer: one of ``candidates`` wherever it fits, one of ``per_site`` has to. All sites that one
    ``tie`` pattern matches share one choice. The stem and the classifier (as timm's ``pretrained_cfg``
    names them; else the layer that reads the image, and a Linear layer that comes last) and shortcuts
    (1x1 or pooling) stay as they are unless asked for. A candidate with more multiply-accumulates or
    parameters than the original is dropped unless ``costlier``. ``branches``: where it is above 1, sums of so many
    candidates at most, of different operators that fit the site, are candidates as well.
    """

    candidates: Sequence[Candidate] = LEAN
    include: Sequence[str] = ("*",)
    exclude: Sequence[str] = ()
    per_site: Mapping[str, Sequence[Candidate]] = dataclasses.field(default_factory=dict)
    tie: Sequence[str] = ()
    stem: bool = False
    classifier: bool = False
    shortcuts: bool = False
    costlier: bool = False
    branches: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.branches, bool) or not isinstance(self.branches, int) or self.branches < 1:
            raise SpaceError(f"branches is a whole number from 1 on, found {self.branches!r}.")
        for setting in ("include", "exclude", "tie"):
            if isinstance(patterns := getattr(self, setting), str):
                raise SpaceError(f"{setting} is a list of patterns: write [{patterns!r}], found the text {patterns!r}.")
        if not isinstance(self.per_site, Mapping):
            raise SpaceError(
                f"per_site maps patterns to lists of candidates, {{'layer4.*': [...]}}; found {self.per_site!r:.200}."
            )
        for candidates in (self.candidates, *self.per_site.values()):
            if isinstance(candidates, str | Mapping):
                raise SpaceError(f"candidates are listed, [{{'op': 'original'}}, ...]; found {candidates!r:.200}.")
            for candidate in candidates:
                check(candidate)
            labels = [label(candidate) for candidate in candidates]
            twice = {name for name in labels if labels.count(name) > 1}
            if twice:
                raise SpaceError(f"candidate {sorted(twice)[0]!r} is listed twice; remove one.")

    def candidates_at(self, site: Site) -> Sequence[Candidate]:
        """The candidates asked for at a site, whether they fit or not."""
        patterns = _matching(self.per_site, site)
        return self.per_site[patterns[-1]] if patterns else self.candidates


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a search decides at one site: the candidates that fit, and those dropped, each with the reason."""

    site: Site
    candidates: tuple[Candidate, ...]
    dropped: tuple[tuple[str, str], ...]
    group: str  # sites of one group share a gate; the group has the first site's name
    macs: tuple[int, ...]  # per candidate, over all calls of the site
    params: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A search space laid on a network: the choices in forward order, and what is left alone, with reasons."""

    choices: tuple[Choice, ...]
    left_alone: tuple[tuple[str, str], ...]
    input_size: Shape


def make_plan(model: nn.Module, space: SearchSpace, input_size: Shape) -> Plan:
    """Lay ``space`` on ``model``, which is left as it was.

    Raises ``SpaceError`` if no site matches, none has two candidates that fit, or nothing of a ``per_site`` list fits.
    """
    model = uncompiled(model)
    layout = find_sites(model, input_size)
    left_alone = list(layout.left_alone)
    reserved = _reserved(model, space, layout.sites, input_size)
    wanted: list[Site] = []
    for site in layout.sites:
        reason = reserved.get(site.name) or _outside(space, site)
        if reason:
            left_alone.append((site.name, reason))
        else:
            wanted.append(site)
    if not wanted and layout.sites and set(reserved) == {site.name for site in layout.sites}:
        raise SpaceError(f"no site is left to choose at, {_by_reason([*reserved.items(), *layout.left_alone])}.")
    if not wanted:
        others = "" if layout.sites or not layout.left_alone else f" ({_by_reason(layout.left_alone)})"
        raise SpaceError(
            f"no site matches include={list(space.include)} exclude={list(space.exclude)}; "
            f"this network has {_listed([site.name for site in layout.sites])}{others}."
        )
    _refuse_idle_patterns(space, layout.sites, wanted)
    modules = dict(model.named_modules(remove_duplicate=False))
    measured: dict[Any, tuple[int, int] | str] = {}
    choices = []
    for site in wanted:
        choice = _choice(site, modules[site.name], space, measured)
        if len(choice.candidates) > 1 or _is_imposed(choice):
            choices.append(choice)
            continue
        if not choice.candidates:
            _refuse_lists_that_fit_nowhere(choice, space)
        fitting = ", ".join(label(c) for c in choice.candidates) or "none"
        left_alone.append((site.name, f"fewer than two candidates fit ({fitting})"))
    if not choices:
        first = _choice(wanted[0], modules[wanted[0].name], space, measured)
        reasons = "; ".join(f"{name}: {reason}" for name, reason in first.dropped)
        raise SpaceError(
            f"no site has two candidates that fit. At {first.site}: {reasons or 'only one was listed'}. "
            "Add candidates that fit, or allow costlier ones with costlier=true."
        )
    return Plan(_tied(choices, space), tuple(left_alone), tuple(input_size))


def _is_imposed(choice: Choice) -> bool:
    """Whether the one candidate that was listed replaces the layer: there is nothing left to choose."""
    return len(choice.candidates) == 1 and not choice.dropped and choice.candidates[0]["op"] != "original"


def _refuse_lists_that_fit_nowhere(choice: Choice, space: SearchSpace) -> None:
    patterns = _matching(space.per_site, choice.site)
    if patterns:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in choice.dropped) or "the list is empty"
        raise SpaceError(
            f"nothing that per_site {patterns[-1]!r} lists fits {choice.site}: {reasons}. "
            "Add {op: original} to leave such layers as they are, or narrow the pattern."
        )


def _choice(site: Site, conv: nn.Module, space: SearchSpace, measured: dict[Any, tuple[int, int] | str]) -> Choice:
    kept: list[tuple[Candidate, tuple[int, int]]] = []
    dropped: list[tuple[str, str]] = []
    original = _measure({"op": "original"}, site, conv, measured)
    assert not isinstance(original, str)

    def look_at(candidates: Sequence[Candidate]) -> None:
        for candidate in candidates:
            found = _measure(candidate, site, conv, measured)
            if isinstance(found, str):
                dropped.append((label(candidate), found))
            elif not space.costlier and (found[0] > original[0] or found[1] > original[1]):
                dropped.append((label(candidate), f"{COSTLIER}: {_versus(found, original)}"))
            else:
                kept.append((candidate, found))

    listed = space.candidates_at(site)
    look_at(listed)
    look_at(sums_of([candidate for candidate, _ in kept], space.branches, listed))
    return Choice(
        site=site,
        candidates=tuple(candidate for candidate, _ in kept),
        dropped=tuple(dropped),
        group=site.name,
        macs=tuple(macs for _, (macs, _) in kept),
        params=tuple(params for _, (_, params) in kept),
    )


def _measure(
    candidate: Candidate, site: Site, conv: nn.Module, measured: dict[Any, tuple[int, int] | str]
) -> tuple[int, int] | str:
    """MACs and parameters of a candidate at a site, or why it does not fit; equal sites are measured once."""
    shape = dataclasses.replace(site, name="", index=0, aliases=())
    key = (shape, type(conv), repr(sorted(candidate.items(), key=str)))
    if key not in measured:
        try:
            # The layer itself, because it may hold more than a weight and a bias, such as a gain.
            module = conv if candidate["op"] == "original" else released_on_meta(candidate, site)
            if site.read and getattr(getattr(module, "weight", None), "shape", None) != conv.weight.shape:
                raise DoesNotFit("the network reads this layer's weight, and it would have none of that shape")
        except DoesNotFit as reason:
            measured[key] = str(reason)
        else:
            measured[key] = (_macs(candidate, site, module), count_params(module))
    return measured[key]


def _macs(candidate: Candidate, site: Site, module: nn.Module) -> int:
    """Of all calls of the site. Raises ``SpaceError`` where ``module`` does not give what the layer gave."""
    if candidate["op"] == "original":
        return count_macs(module, [shape for shape, _ in site.calls])
    try:
        macs, outputs = count_calls(module, [shape for shape, _ in site.calls])
    except LwdcError:
        raise
    except Exception as error:
        raise SpaceError(f"operator {label(candidate)!r} cannot run as released at {site}: {told(error)}.") from error
    for given, wanted in site.calls:
        if outputs[given] != wanted:
            raise SpaceError(
                f"operator {label(candidate)!r} at {site.name!r} makes of {given} an output of {outputs[given]}, where "
                f"the layer gives {wanted}; let it keep the site's channels and stride, or raise DoesNotFit."
            )
    return macs


def released_on_meta(candidate: Candidate, site: Site) -> nn.Module:
    """The module a candidate other than the original would leave at a site, on the meta device."""
    with torch.device("meta"):
        bias = torch.empty(site.out_channels) if site.bias else None
        operator = build(candidate, site)
        try:
            module: Any = operator.release(bias)
        except LwdcError:
            raise
        except Exception as error:
            raise SpaceError(f"operator {label(candidate)!r} cannot be released at {site}: {told(error)}.") from error
    if not isinstance(module, nn.Module):
        raise SpaceError(f"operator {label(candidate)!r}: release returns a module, found {module!r:.100}.")
    return module


def _refuse_idle_patterns(space: SearchSpace, sites: Sequence[Site], wanted: Sequence[Site]) -> None:
    names = [name for site in sites for name in (site.name, *site.aliases)]
    for setting, patterns, among in (
        ("include", space.include, names),
        ("exclude", space.exclude, names),
        ("per_site", space.per_site, [name for site in wanted for name in (site.name, *site.aliases)]),
    ):
        for pattern in patterns:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in among):
                raise SpaceError(
                    f"{setting} pattern {pattern!r} matches no site that it could change; "
                    f"the sites are {_listed(among)}. Correct or remove it."
                )


def _reserved(model: nn.Module, space: SearchSpace, sites: Sequence[Site], input_size: Shape) -> dict[str, str]:
    config = getattr(model, "pretrained_cfg", None) or {}
    config = config if isinstance(config, Mapping) else getattr(config, "to_dict", dict)()
    stem, classifier = _layers(model, config.get("first_conv")), _layers(model, config.get("classifier"))
    if not any(site.name in stem for site in sites) and sites and sites[0].input_shape == tuple(input_size):
        stem = (sites[0].name,)
    if not classifier and sites and sites[-1].kind == "linear":
        classifier = (sites[-1].name,)
    found = {}
    for site in sites:
        names = {site.name, *site.aliases}
        if not space.stem and names & set(stem):
            found[site.name] = "the stem (stem=true includes it)"
        elif not space.classifier and names & set(classifier):
            found[site.name] = "the classifier (classifier=true includes it)"
        elif not space.shortcuts and _is_shortcut(site, sites):
            found[site.name] = "a shortcut (shortcuts=true includes it)"
    return found


def _layers(model: nn.Module, entry: Any) -> tuple[str, ...]:
    """The names that a configuration of timm's gives; where merging put one layer for a module, that module's."""
    there = {name for name, _ in model.named_modules()}
    found = []
    for name in (entry,) if isinstance(entry, str) else tuple(entry or ()):
        while name not in there:
            name = name.rpartition(".")[0]
        found.append(name)
    return tuple(found)


def _is_shortcut(site: Site, sites: Sequence[Site]) -> bool:
    """A pooling layer or a 1x1 convolution in a part of the network that says so and has no layer but these.

    Linear layers and wider convolutions do more than fit shapes, and so does what a stage's "downsample"
    holds where that is no shortcut but blocks of their own.
    """
    path = site.name.split(".")
    named = next((i for i, part in enumerate(path) if part in ("downsample", "shortcut")), None)
    if named is None:
        return False
    prefix = ".".join(path[: named + 1])
    held = [other for other in sites if f"{other.name}.".startswith(f"{prefix}.") and not other.pools]
    fits = [other for other in held if other.dims > 0 and math.prod(other.kernel_size) == 1]
    return len(held) == len(fits) <= 1


def _outside(space: SearchSpace, site: Site) -> str:
    if not _matching(space.include, site):
        return "not included"
    excluding = _matching(space.exclude, site)
    return f"excluded by {excluding[0]!r}" if excluding else ""


def _matching(patterns: Iterable[str], site: Site) -> list[str]:
    """Those of ``patterns`` that match one of the site's names."""
    names = (site.name, *site.aliases)
    return [pattern for pattern in patterns if any(fnmatch.fnmatchcase(name, pattern) for name in names)]


def _tied(choices: Sequence[Choice], space: SearchSpace) -> tuple[Choice, ...]:
    groups: dict[str, str] = {}
    for pattern in space.tie:
        matching = [c for c in choices if _matching([pattern], c.site)]
        if len(matching) < 2:
            raise SpaceError(
                f"tie pattern {pattern!r} matches {len(matching)} site(s), it needs at least two; "
                f"the sites are {_listed([c.site.name for c in choices])}."
            )
        labels = {tuple(label(candidate) for candidate in c.candidates) for c in matching}
        if len(labels) > 1:
            raise SpaceError(
                f"sites tied by {pattern!r} have different candidates: {sorted(labels)}; "
                "give them one list that fits all, through per_site"
                + (", without branches." if space.branches > 1 else ".")
            )
        for choice in matching:
            if choice.site.name in groups:
                raise SpaceError(f"site {choice.site.name!r} is tied twice, the second time by {pattern!r}.")
            groups[choice.site.name] = matching[0].site.name
    return tuple(dataclasses.replace(c, group=groups.get(c.site.name, c.site.name)) for c in choices)


def _versus(found: tuple[int, int], original: tuple[int, int]) -> str:
    return f"{found[0]:,} MACs and {found[1]:,} parameters against {original[0]:,} and {original[1]:,}"


def _by_reason(left_alone: Iterable[tuple[str, str]], most: int = 5) -> str:
    """Layers, those with one reason together, and the reason."""
    named: dict[str, list[str]] = {}
    for name, reason in left_alone:
        named.setdefault(reason, []).append(name)
    shown = [f"{_listed(names, most)}: {reason}" for reason, names in named.items()]
    return "; ".join(shown[:most]) + (f"; ... ({len(shown)} reasons in all)" if len(shown) > most else "")


def _listed(names: Sequence[str], most: int = 20) -> str:
    shown = ", ".join(names[:most])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > most else shown or "no layer that could be a site"
