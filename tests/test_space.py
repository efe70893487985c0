"""Search spaces laid on a network."""

from typing import Any

import pytest
import timm
import torch
from timm.layers import Conv2dSame, ScaledStdConv2d
from torch import Tensor, nn

from lwdc.candidates import label
from lwdc.errors import SpaceError
from lwdc.space import LEAN, Plan, SearchSpace, make_plan

TWO: list[dict[str, Any]] = [{"op": "original"}, {"op": "grouped", "groups": 2}]


class Net(nn.Module):
    """A stem, two blocks of which one has a 1x1 shortcut, a depthwise layer and a convolution as classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block1 = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1))
        self.block2 = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=16))
        self.downsample = nn.Conv2d(8, 16, 1)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.block1(x)
        x = self.block2(x) + self.downsample(x)
        return self.head(x.mean((2, 3), keepdim=True)).flatten(1)


def plan(**space: Any) -> Plan:
    return make_plan(Net(), SearchSpace(**{"candidates": TWO, **space}), (3, 8, 8))


def sites(found: Plan) -> list[str]:
    return [choice.site.name for choice in found.choices]


def labels(found: Plan, site: str) -> list[str]:
    (choice,) = [c for c in found.choices if c.site.name == site]
    return ["_".join(map(str, c.values())) for c in choice.candidates]


def test_patterns_match_every_name_of_a_site() -> None:
    network = nn.Sequential()
    network.first, network.held = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
    network.again = network.held
    own: list[dict[str, Any]] = [{"op": "original"}, {"op": "separable"}]
    space = SearchSpace(TWO, per_site={"again": own}, stem=True)
    assert labels(make_plan(network, space, (3, 16, 16)), "held") == ["original", "separable"]


def test_stem_and_shortcuts_are_left_alone_unless_asked_for() -> None:
    found = plan()
    assert sites(found) == ["block1.0", "block1.1", "block2.0", "head"]
    reasons = dict(found.left_alone)
    assert reasons["stem"] == "the stem (stem=true includes it)"
    assert reasons["downsample"] == "a shortcut (shortcuts=true includes it)"
    everything = plan(stem=True, shortcuts=True, candidates=[{"op": "original"}, {"op": "low_rank", "ratio": 0.3}])
    assert {"stem", "downsample"} <= set(sites(everything))


def test_a_downsampling_stage_of_several_layers_is_no_shortcut() -> None:
    model = Net()
    model.downsample = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 16, 3, padding=1))
    found = make_plan(model, SearchSpace(TWO), (3, 8, 8))
    assert {"downsample.0", "downsample.1"} <= set(sites(found))


def test_stem_and_classifier_are_those_that_timm_names() -> None:
    model = Net()
    model.pretrained_cfg = {"first_conv": "block1.0", "classifier": ("head", "head_dist")}
    found = make_plan(model, SearchSpace(TWO), (3, 8, 8))
    assert dict(found.left_alone)["block1.0"].startswith("the stem")
    assert dict(found.left_alone)["head"] == "the classifier (classifier=true includes it)"
    found = make_plan(model, SearchSpace(TWO, classifier=True, stem=True), (3, 8, 8))
    assert {"block1.0", "head"} <= set(sites(found))


def test_a_stem_that_timm_names_by_its_container_is_the_layer_that_reads_the_image() -> None:
    model = Net()
    model.pretrained_cfg = {"first_conv": "stem.conv_kxk.conv", "classifier": None}
    assert "stem" in dict(make_plan(model, SearchSpace(TWO), (3, 8, 8)).left_alone)


def test_include_and_exclude_take_patterns() -> None:
    assert sites(plan(include=["block*"])) == ["block1.0", "block1.1", "block2.0"]
    found = plan(include=["block*"], exclude=["*.1"])
    assert sites(found) == ["block1.0", "block2.0"]
    reasons = dict(found.left_alone)
    assert reasons["block1.1"] == "excluded by '*.1'" and reasons["head"] == "not included"


def test_a_later_pattern_has_the_last_word_on_candidates() -> None:
    three = [*TWO, {"op": "skip"}]
    found = plan(per_site={"block*": [{"op": "original"}, {"op": "separable"}], "*1.0": three})
    assert labels(found, "block1.0") == ["original", "grouped_2", "skip"]
    assert labels(found, "block2.0") == ["original", "separable"]
    assert labels(found, "head") == ["original", "grouped_2"]


def test_groups_that_do_not_divide_are_dropped_there_and_said_so() -> None:
    found = make_plan(Net(), SearchSpace([*TWO, {"op": "grouped", "groups": 8}]), (3, 8, 8))
    assert labels(found, "block1.0") == ["original", "grouped_2", "grouped_8"]
    assert labels(found, "head") == ["original", "grouped_2"]
    (head,) = [c for c in found.choices if c.site.name == "head"]
    assert head.dropped == (("grouped_8", "groups=8 does not divide 16 -> 4 channels"),)


def test_a_site_with_one_candidate_is_left_alone_and_listed() -> None:
    assert dict(plan().left_alone)["block2.1"] == "fewer than two candidates fit (original)"
    found = plan(per_site={"head": [{"op": "original"}, {"op": "skip"}]})
    assert dict(found.left_alone)["head"] == "fewer than two candidates fit (original)"


def test_what_costs_more_than_the_original_is_dropped_unless_asked_for() -> None:
    wide = [{"op": "original"}, {"op": "kernel", "size": 5}, {"op": "skip"}]
    found = plan(candidates=wide, include=["block1.0"])
    assert labels(found, "block1.0") == ["original", "skip"]
    macs, params = 64 * 8 * 8, 8 * 8
    assert found.choices[0].dropped == (
        (
            "kernel_5",
            f"costs more than the original: {25 * macs:,} MACs and {25 * params + 8:,} parameters "
            f"against {9 * macs:,} and {9 * params + 8:,}",
        ),
    )
    assert labels(plan(candidates=wide, include=["block1.0"], costlier=True), "block1.0") == [
        "original", "kernel_5", "skip"
    ]  # fmt: skip


def test_branches_are_sums_of_what_fits_within_the_cost_of_the_original() -> None:
    single = [*TWO, {"op": "separable"}, {"op": "low_rank", "ratio": 0.25}, {"op": "kernel", "size": 5}]
    found = plan(candidates=single, include=["block1.0"], branches=2)
    (choice,) = found.choices
    assert [label(c) for c in choice.candidates] == [
        "original", "grouped_2", "separable", "low_rank_0.25",
        "sum(grouped_2+separable)", "sum(grouped_2+low_rank_0.25)", "sum(separable+low_rank_0.25)",
    ]  # fmt: skip
    macs = dict(zip(map(label, choice.candidates), choice.macs, strict=True))
    assert macs["sum(separable+low_rank_0.25)"] == macs["separable"] + macs["low_rank_0.25"]
    assert [name for name, _ in choice.dropped] == ["kernel_5"]  # and nothing made of it

    every = plan(candidates=[*TWO, {"op": "separable"}, {"op": "pointwise"}], include=["block1.0"], branches=3)
    assert every.choices[0].dropped == ()  # 288 + 136 + 64 weights are fewer than 576
    (name, reason), *_ = plan(
        candidates=[{"op": "original"}, {"op": "grouped", "groups": 2}, {"op": "factorised", "ratio": 0.875}],
        include=["block1.0"], branches=2,
    ).choices[0].dropped  # fmt: skip
    assert name == "sum(grouped_2+factorised_0.875)"
    assert reason.startswith("costs more than the original: ")


def test_a_sum_that_is_listed_is_neither_doubled_nor_dropped_twice() -> None:
    listed = {"op": "sum", "of": [{"op": "separable"}, TWO[1]]}
    costly = {"op": "sum", "of": [{"op": "factorised", "ratio": 0.875}, TWO[1]]}
    single = [*TWO, {"op": "separable"}, {"op": "factorised", "ratio": 0.875}]
    (choice,) = plan(candidates=[*single, listed, costly], include=["block1.0"], branches=2).choices
    found = [label(c) for c in choice.candidates]
    assert "sum(separable+grouped_2)" in found and "sum(grouped_2+separable)" not in found
    assert [name for name, _ in choice.dropped].count("sum(factorised_0.875+grouped_2)") == 1
    assert not any(name == "sum(grouped_2+factorised_0.875)" for name, _ in choice.dropped)


def test_branches_are_made_of_a_list_for_a_site_too() -> None:
    found = plan(per_site={"block1.0": [*TWO, {"op": "separable"}], "head": [TWO[1]]}, branches=2)
    assert len({c.site.name: c for c in found.choices}["block1.0"].candidates) == 4
    assert len({c.site.name: c for c in found.choices}["head"].candidates) == 1


@pytest.mark.parametrize("branches", [0, -1, 1.5, True, "2"])
def test_a_number_of_branches_without_sense_is_refused(branches: Any) -> None:
    with pytest.raises(SpaceError, match="branches is a whole number from 1 on, found"):
        SearchSpace(branches=branches)


def test_costs_are_whole_numbers_counted_by_hand() -> None:
    candidates = [*TWO, {"op": "separable"}, {"op": "pointwise"}, {"op": "low_rank", "ratio": 0.5}, {"op": "zero"}]
    (choice,) = plan(candidates=candidates, include=["block1.0"]).choices
    assert choice.params == (576 + 8, 288 + 8, 72 + 64 + 8, 64 + 8, 4 * 72 + 4 * 8 + 8, 8)
    assert choice.macs == tuple(64 * (n - 8) for n in choice.params)


@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_the_original_is_counted_as_it_is_and_not_as_a_plain_convolution(kernel: int) -> None:
    class Gained(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 1)
            self.same = Conv2dSame(8, 8, kernel)
            self.gained = ScaledStdConv2d(8, 8, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.gained(self.same(self.stem(x)))

    same, gained = make_plan(Gained(), SearchSpace(TWO), (3, 8, 8)).choices
    assert same.macs[0] == 64 * 8 * 8 * kernel**2
    assert gained.params[0] == 8 * 8 * 9 + 8 + 8  # weight, bias, gain


def test_every_call_of_a_site_is_counted() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(self.stem(x))[..., ::2, ::2])

    (choice,) = make_plan(Twice(), SearchSpace(TWO), (3, 8, 8)).choices
    assert choice.macs == ((64 + 16) * 576, (64 + 16) * 288)
    assert choice.params == (576, 288)


def test_sites_of_one_tie_share_a_group() -> None:
    found = plan(tie=["block1.*"])
    groups = {c.site.name: c.group for c in found.choices}
    assert groups == {"block1.0": "block1.0", "block1.1": "block1.0", "block2.0": "block2.0", "head": "head"}


def test_the_default_space_fits_a_real_network() -> None:
    model = timm.create_model("resnet18", num_classes=10)
    found = make_plan(model, SearchSpace(), (3, 64, 64))
    assert len(found.choices) == 16
    assert labels(found, "layer1.0.conv1") == [
        "original",
        "factorised_0.75",
        "factorised_0.5",
        "factorised_0.25",
        "factorised_0.125",
        "low_rank_0.25",
        "low_rank_0.125",
        "separable",
        "pointwise",
    ]
    assert {name for name, _ in found.left_alone} == {
        "conv1",
        "maxpool",  # nothing in the space stands in for it
        "fc",
        *(f"layer{i}.0.downsample.0" for i in (2, 3, 4)),
    }
    assert len(LEAN) == 10


def test_laying_a_space_leaves_the_network_alone() -> None:
    model = Net().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    make_plan(model, SearchSpace(TWO), (3, 8, 8))
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"include": ["layer*"]},
            r"no site matches include=\['layer\*'\] exclude=\[\]; this network has stem, block1.0, block1.1, block2.0, "
            "block2.1, downsample, head",
        ),
        ({"exclude": ["*"]}, "no site matches include="),
        (
            {"include": ["block1*", "blok2*"]},
            "include pattern 'blok2.' matches no site that it could change; the sites are",
        ),
        (
            {"exclude": ["layer4*"]},
            "exclude pattern 'layer4.' matches no site that it could change; .* Correct or remove",
        ),
        ({"per_site": {"layer*": TWO}}, "per_site pattern 'layer.' matches no site that it could change"),
        ({"per_site": {"stem": TWO}}, "per_site pattern 'stem' matches no site that it could change"),
        (
            {"candidates": [{"op": "original"}, {"op": "grouped", "groups": 7}]},
            r"no site has two candidates that fit. At 'block1.0' \(8, 8, 8\) -> \(8, 8, 8\): "
            "grouped_7: groups=7 does not divide 8 -> 8 channels. Add candidates that fit, or allow costlier ones",
        ),
        ({"candidates": [{"op": "original"}]}, "no site has two candidates that fit. .*: only one was listed"),
        ({"candidates": []}, "no site has two candidates that fit"),
        (
            {"tie": ["block9*"]},
            r"tie pattern 'block9\*' matches 0 site\(s\), it needs at least two; the sites are block1.0",
        ),
        ({"tie": ["head"]}, r"tie pattern 'head' matches 1 site\(s\)"),
        ({"tie": ["block1*", "block*"]}, r"site 'block1.0' is tied twice, the second time by 'block\*'"),
        (
            {"tie": ["block1*"], "candidates": [*TWO, {"op": "separable"}]},
            r"sites tied by 'block1\*' have different candidates: \[\('original', 'grouped_2'\), "
            r"\('original', 'grouped_2', 'separable'\)\]; give them one list that fits all, through per_site",
        ),
    ],
)
def test_a_space_that_cannot_be_laid_is_refused(space: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        plan(**space)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"candidates": [{"op": "orignal"}]}, r"unknown operator 'orignal'\. Did you mean 'original'"),
        ({"per_site": {"*": [{"op": "groupd", "groups": 2}]}}, r"unknown operator 'groupd'\. Did you mean 'grouped'"),
        ({"candidates": [{"op": "grouped"}]}, "operator 'grouped' cannot be built from {}"),
        ({"candidates": [*TWO, TWO[1]]}, "candidate 'grouped_2' is listed twice; remove one"),
    ],
)
def test_a_mistake_in_a_list_is_refused_before_any_network_is_seen(space: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        SearchSpace(**space)


def test_a_network_without_a_site_is_told_so() -> None:
    with pytest.raises(SpaceError, match="this network has no layer that could be a site"):
        make_plan(nn.Sequential(nn.Flatten(), nn.ReLU()), SearchSpace(), (3, 2, 2))


def test_a_network_of_one_classifier_is_told_how_to_include_it() -> None:
    with pytest.raises(SpaceError, match=r"1: the classifier \(classifier=true includes it\)"):
        make_plan(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), SearchSpace(), (3, 2, 2))


class Tied(nn.Module):
    """A stem, layers of one weight, and a classifier."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 2)
        self.blocks = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(layers)))
        for block in self.blocks:
            block.weight = self.blocks[0].weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def test_a_network_of_tied_layers_is_told_why_they_are_left_alone() -> None:
    said = (
        r"no site is left to choose at, stem: the stem \(stem=true includes it\); head: the classifier "
        r"\(classifier=true includes it\); blocks.0, blocks.1: it shares its weight: 'blocks.0', 'blocks.1' hold the "
        "same"
    )
    with pytest.raises(SpaceError, match=f"{said}\\.$"):
        make_plan(Tied(2), SearchSpace(), (3, 8, 8))
    with pytest.raises(SpaceError, match=r"blocks.4, \.\.\. \(9 in all\): .*'blocks.4' and 4 more hold the same"):
        make_plan(Tied(9), SearchSpace(), (3, 8, 8))
    with pytest.raises(SpaceError, match=r"no layer that could be a site \(0, 1, .*\(9 in all\): it shares its weight"):
        make_plan(Tied(9).blocks, SearchSpace(), (8, 8, 8))


def test_of_many_reasons_some_are_said() -> None:
    class Branched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pairs = nn.ModuleList(Tied(2).blocks for _ in range(7))
            self.stem = nn.Conv2d(3, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return sum((pair(x) for pair in self.pairs), x)

    with pytest.raises(SpaceError, match=r"pairs.3.0, pairs.3.1: it shares .*; \.\.\. \(8 reasons in all\)\.$"):
        make_plan(Branched(), SearchSpace(), (3, 8, 8))


def test_linear_layers_choose_among_low_ranks() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 2))
    found = make_plan(model, SearchSpace(), (3, 2, 2))
    assert labels(found, "1") == ["original", "low_rank_0.25", "low_rank_0.125"]
    assert found.choices[0].macs == (192, 84, 56)


def test_pooling_layers_choose_among_what_costs_as_little() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(3, 2, 1))
    pools = [{"op": name} for name in ("original", "max_pool", "avg_pool", "skip", "zero", "pointwise")]
    found = make_plan(model, SearchSpace(pools), (3, 9, 9))
    assert labels(found, "1") == ["original", "avg_pool", "skip", "zero"]
    dropped = dict(found.choices[0].dropped)
    assert dropped["max_pool"] == "it is the original"
    assert "costs more" in dropped["pointwise"]  # a depthwise 1x1 multiplies, a maximum does not


def test_long_lists_of_sites_are_cut() -> None:
    model = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(25)))
    with pytest.raises(SpaceError, match=r"18, 19, \.\.\. \(25 in all\)"):
        make_plan(model, SearchSpace(include=["x"]), (3, 2, 2))


def test_a_list_of_one_replaces_the_layer() -> None:
    found = plan(candidates=[{"op": "grouped", "groups": 2}], per_site={"head": [{"op": "original"}]})
    assert {tuple(c["op"] for c in choice.candidates) for choice in found.choices} == {("grouped",)}
    assert dict(found.left_alone)["head"] == "fewer than two candidates fit (original)"


def test_a_list_for_a_site_of_which_nothing_fits_is_refused_with_all_reasons() -> None:
    with pytest.raises(SpaceError, match=r"nothing that per_site 'block1\.0' lists fits 'block1\.0'") as refusal:
        plan(per_site={"block1.0": [{"op": "grouped", "groups": 7}, {"op": "low_rank", "ratio": 2}]})
    assert "grouped_7: groups=7 does not divide" in str(refusal.value)
    assert "low_rank_2: ratio=2 is not between 0 and 1" in str(refusal.value)
    assert "Add {op: original} to leave such layers as they are" in str(refusal.value)


def test_where_the_network_reads_a_weight_only_candidates_with_one_of_that_shape_fit() -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.read, self.called = (nn.Conv2d(8, 8, 3) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.called(self.read(self.stem(x).to(self.read.weight.dtype)))

    found = make_plan(Reading(), SearchSpace([*TWO, {"op": "separable"}, {"op": "dilated"}]), (8, 12, 12))
    assert [choice.site.read for choice in found.choices] == [True, False]
    dropped, kept = (dict(choice.dropped) for choice in found.choices)
    assert set(dropped) == {"grouped_2", "separable"} and not kept
    assert all("reads this layer's weight" in reason for reason in dropped.values())
