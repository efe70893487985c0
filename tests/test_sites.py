"""Finding the layers that may be replaced, without computing anything."""

import copy
import warnings
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, fx, nn
from torch.nn.utils import parametrizations, prune

from lwdc import wrap
from lwdc.counting import count_macs
from lwdc.errors import SpaceError
from lwdc.sites import Layout, find_sites
from lwdc.tracing import BY_SHAPES


class Net(nn.Module):
    """Convolutions registered in another order than they are used; one used twice, one held twice, one never."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Conv2d(4, 4, 3)
        self.late = Conv2dSame(4, 6, (3, 2), stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.ReLU())])
        self.early = nn.Conv2d(3, 4, 3, stride=(1, 2), padding=1)
        self.again = self.blocks[0][0]
        self.up = nn.ConvTranspose2d(6, 6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.early(x))
        x = self.blocks[0](x)
        x = F.max_pool2d(self.again(x), 2)
        return self.up(self.late(x))


@pytest.fixture
def layout() -> Layout:
    return find_sites(Net(), (3, 8, 16))


def test_sites_come_in_order_of_use(layout: Layout) -> None:
    assert [site.name for site in layout.sites] == ["early", "blocks.0.0", "late"]
    assert [site.index for site in layout.sites] == [0, 1, 2]


def test_a_site_describes_its_layer(layout: Layout) -> None:
    early, block, late = layout.sites
    assert (early.stride, early.padding, early.bias, early.same) == ((1, 2), ((1, 1), (1, 1)), True, False)
    assert (block.groups, block.bias, block.kernel_size) == (4, False, (3, 3))
    assert late.same and late.kernel_size == (3, 2)
    assert late.padding == ((0, 1), (0, 0))  # of a map of (4, 4)
    assert str(early) == "'early' (3, 8, 16) -> (4, 8, 8)"


def test_a_module_used_twice_and_held_twice_is_one_site(layout: Layout) -> None:
    block = layout.sites[1]
    assert block.aliases == ("again",)
    assert block.calls == (((4, 8, 8), (4, 8, 8)),) * 2


def test_what_cannot_be_a_site_is_named_with_the_reason(layout: Layout) -> None:
    reasons = dict(layout.left_alone)
    assert reasons["up"] == "ConvTranspose2d is not supported as a site"
    assert reasons["unused"].startswith("not called in a forward pass: it is unused, or")


@pytest.mark.parametrize("name", ["resnet18", "test_efficientnet", "convnext_atto"])
def test_shapes_are_those_of_a_real_forward_pass(name: str) -> None:
    model = timm.create_model(name).eval()
    seen: dict[str, list[Any]] = {}
    for key, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.MaxPool2d)):
            module.register_forward_hook(
                lambda m, args, y, key=key: seen.setdefault(key, []).append(
                    (tuple(args[0].shape[1:]), tuple(y.shape[1:]))
                )
            )
    with torch.no_grad():
        model(torch.zeros(1, 3, 64, 64))
    for module in model.modules():
        module._forward_hooks.clear()
    sites = find_sites(model, (3, 64, 64)).sites
    assert {site.name: list(site.calls) for site in sites} == seen
    assert [site.name for site in sites] == list(seen)


def test_the_network_is_left_as_it_was() -> None:
    model = Net().train()
    model.blocks.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    keys = [set(vars(m)) for m in model.modules()]
    find_sites(model, (3, 8, 16))
    assert [m.training for m in model.modules()] == modes
    assert [set(vars(m)) for m in model.modules()] == keys
    assert not any(m._forward_hooks for m in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_caches_that_a_forward_pass_fills_stay_empty() -> None:
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.cache: dict[str, Tensor] = {}

        def forward(self, x: Tensor) -> Tensor:
            self.cache.setdefault("bias", torch.ones(1) * self.conv.weight.sum())
            return self.conv(x) + self.cache["bias"]

    model = Caching()
    find_sites(model, (3, 8, 8))
    assert not model.cache
    model(torch.zeros(1, 3, 8, 8))


def test_a_network_that_looks_at_values_is_traced_with_real_ones() -> None:
    class Looking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3)
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            return self.a(x) if float(x.sum()) > 0 else self.b(x)

    model = Looking()
    layout = find_sites(model, (3, 8, 8))
    assert [site.name for site in layout.sites] == ["b"]
    assert [name for name, _ in layout.left_alone] == ["a"]
    assert count_macs(model, [(3, 8, 8)]) == 36 * 4 * 3 * 9
    assert float(model.count) == 0


def test_a_network_whose_tensors_are_not_all_registered_is_traced_and_counted() -> None:
    class Holding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.scales = [torch.ones(4, 1, 1)]

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) * self.scales[0]

    model = Holding()
    assert find_sites(model, (3, 8, 8)).sites[0].output_shape == (4, 8, 8)
    assert count_macs(model, [(3, 8, 8)]) == 64 * 3 * 4
    assert model.scales[0].device.type == "cpu" and model(torch.zeros(1, 3, 8, 8)).shape == (1, 4, 8, 8)


class Tokens(nn.Module):
    """Linear layers on tokens, on windows folded into the batch and on one vector; pools of every kind."""

    def __init__(self) -> None:
        super().__init__()
        listed: Any = [2, 2]  # as MViT gives it
        self.pools = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(listed, stride=1), nn.MaxPool2d((1, 1)))
        self.up = nn.MaxPool2d(2, ceil_mode=True)
        self.even = nn.MaxPool2d(2, ceil_mode=True)
        self.indexed = nn.MaxPool2d(2, return_indices=True)
        self.tokens = nn.Linear(4, 6)
        self.windows = nn.Linear(6, 6, bias=False)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.even(self.up(self.pools(x)))  # 16 -> 8 -> 7 -> 4 -> 2
        x, _ = self.indexed(F.pad(x, (0, 2, 0, 2)))
        x = self.tokens(x.permute(0, 2, 3, 1))
        x = self.windows(x.reshape(-1, 2, 6)).reshape(-1, 4, 6)
        x, _ = self.attention(x, x, x)
        return self.head(x.mean(1))


def test_linear_layers_are_sites_without_axes() -> None:
    sites = {site.name: site for site in find_sites(Tokens(), (4, 16, 16)).sites}
    assert [name for name, site in sites.items() if site.kind == "linear"] == ["tokens", "windows", "head"]
    assert sites["tokens"].calls == (((4, 4), (4, 6)),)  # all positions of an image at once
    assert sites["windows"].calls == (((4, 6), (4, 6)),)  # also those that were folded into the batch
    assert sites["head"].calls == (((6,), (3,)),)
    assert (sites["head"].dims, sites["head"].bias, sites["windows"].bias) == (0, True, False)


def test_pooling_layers_with_a_window_are_sites() -> None:
    layout = find_sites(Tokens(), (4, 16, 16))
    sites = {site.name: site for site in layout.sites if site.pools}
    assert list(sites) == ["pools.0", "pools.1", "even"]
    first = sites["pools.0"]
    assert (first.kernel_size, first.stride, first.padding, first.groups) == ((3, 3), (2, 2), ((1, 1), (1, 1)), 4)
    assert (sites["pools.1"].kind, sites["pools.1"].stride) == ("avg_pool", (1, 1))
    reasons = dict(layout.left_alone)
    assert reasons["pools.2"] == "it pools nothing"
    assert "ceil_mode" in reasons["up"]
    assert "indices" in reasons["indexed"]


def test_weights_read_without_a_call_are_no_sites() -> None:
    reasons = dict(find_sites(Tokens(), (4, 16, 16)).left_alone)
    assert reasons["attention.out_proj"].startswith("not called")


def reasons_for(network: nn.Module, size: tuple[int, ...]) -> dict[str, str]:
    """Why layers of ``network`` are no sites; the rest of it must have stayed one."""
    layout = find_sites(network, size)
    assert layout.sites
    return dict(layout.left_alone)


def test_a_pool_shared_by_stages_of_different_widths_is_no_site() -> None:
    pool = nn.MaxPool2d(2)
    network = nn.Sequential(nn.Conv2d(3, 6, 5), pool, nn.Conv2d(6, 16, 5), pool)
    assert reasons_for(network, (3, 32, 32)) == {"1": "it is used on maps of different channels"}


def test_layers_that_are_called_as_no_stand_in_could_be_are_no_sites() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.AvgPool1d(3, 1, 1)
            self.named, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.pool(self.conv(x).mean((2, 3)))  # (B, F): torch reads one map of B channels
            return self.last(self.named(input=x))

    reasons = reasons_for(Odd(), (3, 8, 8))
    assert reasons["pool"] == "it is called on 2 axes, without those of batch and channels"
    assert reasons["named"] == "it is called with arguments that a stand-in does not take"


class _Flipped(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flip(-1))


class _Halved(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight / 2, bias)


class _Named(nn.Conv2d):
    """A subclass that computes what its base does."""


def _hooked() -> nn.Module:
    conv = nn.Conv2d(3, 3, 3)
    conv.register_forward_hook(lambda module, args, y: y * 2)
    return conv


def _with_bias_computed() -> nn.Module:
    return parametrizations.weight_norm(nn.Conv2d(3, 3, 3), "bias", dim=None)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: _Flipped(3, 3, 3), "_Flipped has a forward of its own"),
        (lambda: _Halved(3, 3, 3), "_Halved convolves in its own way"),
        (lambda: parametrizations.weight_norm(nn.Conv2d(3, 3, 3)), "its weight is computed, by weight norm"),
        (lambda: parametrizations.spectral_norm(nn.Conv2d(3, 3, 3)), "its weight is computed, by weight norm"),
        (_with_bias_computed, "its bias is computed, by weight norm"),
        (_hooked, "it has hooks, which its stand-in would not run"),
    ],
)
def test_layers_that_compute_otherwise_are_left_alone_with_the_reason(layer: Any, reason: str) -> None:
    (name, found), *more = find_sites(nn.Sequential(layer(), nn.ReLU()), (3, 8, 8)).left_alone
    assert name == "0" and found.startswith(reason) and not more


def test_layers_that_share_a_parameter_are_no_sites() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    network[1].weight = network[0].weight
    shared = "it shares its weight: '0', '1' hold the same"
    assert reasons_for(network, (3, 8, 8)) == {"0": shared, "1": shared}


def test_layers_that_are_called_past_the_networks_modules_are_no_sites() -> None:
    class Listing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)
            self.kept = [self.second]

        def forward(self, x: Tensor) -> Tensor:
            return self.kept[0](self.first(x))

    class Reading(Listing):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(self.second(self.first(x)), self.kept[0].weight)

    for network in (Listing(), Reading()):
        assert "by a reference outside of its modules" in reasons_for(network, (3, 8, 8))["second"]


def _graph() -> nn.Module:
    return fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 3, 3)))


def _without_values() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 3, device="meta"))


def _lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(3, 3), nn.LazyBatchNorm2d(affine=False), nn.Conv2d(3, 3, 3))


def _pruned() -> nn.Module:
    return nn.Sequential(prune.l1_unstructured(nn.Conv2d(3, 3, 3), "weight", 0.5))


def _weight_normed() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and in use
        return nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 3, 3)))


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (_graph, "is a torch.fx graph"),
        (_without_values, "'0.weight', '0.bias': on the meta device"),
        (_lazy, r"'0.weight', '0.bias', '1.running_mean', .*: of a lazy layer, .* Run one batch through"),
        (_pruned, "'0.weight': computed before the forward pass and kept"),
        (_weight_normed, "'0.weight': computed before the forward pass and kept"),
    ],
)
def test_networks_whose_copies_would_be_others_are_refused(made: Any, reason: str) -> None:
    network = made()
    for look in (find_sites, lambda model, size: wrap(model, input_size=size)):
        with pytest.raises(SpaceError, match=reason):
            look(network, (3, 8, 8))


def test_a_network_of_lazy_layers_is_left_as_it_was_and_wrapped_once_it_has_seen_a_batch() -> None:
    network, images = _lazy(), torch.randn(2, 3, 8, 8)
    with pytest.raises(SpaceError, match="lazy"):
        find_sites(network, (3, 8, 8))
    network(images)
    assert [site.name for site in find_sites(network, (3, 8, 8)).sites] == ["0", "2"]


def test_subclasses_that_keep_the_forward_are_sites() -> None:
    assert len(find_sites(nn.Sequential(_Named(3, 3, 3)), (3, 8, 8)).sites) == 1


def test_a_network_that_is_a_convolution_is_left_alone() -> None:
    assert find_sites(nn.Conv2d(3, 3, 3), (3, 8, 8)).left_alone == (
        ("", "it is the whole network: put it into a container"),
    )


def test_heads_folded_into_the_batch_count_as_so_many_uses() -> None:
    class Folding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x.reshape(-1, 2, *x.shape[2:]))

    (site,) = find_sites(Folding(), (6, 8, 8)).sites
    assert site.calls == (((2, 8, 8), (2, 6, 6)),) * 3


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_paddings_given_as_words_are_read(padding: str) -> None:
    (site,) = find_sites(nn.Sequential(nn.Conv1d(3, 3, 4, padding=padding, dilation=1)), (3, 9)).sites
    assert site.padding == (((1, 2),) if padding == "same" else ((0, 0),))
    assert site.dims == 1 and not site.same


def test_an_image_of_the_wrong_size_is_refused_with_the_cause_in_one_line() -> None:
    with pytest.raises(SpaceError, match=r"does not accept an input of shape \(1, 8, 8\): .*3 channels") as caught:
        find_sites(Net(), (1, 8, 8))
    assert "\n" not in str(caught.value) and "Give the input_size" in str(caught.value)
    with pytest.raises(SpaceError, match=r"does not accept an input of shape \(3, 1, 1\)"):
        find_sites(nn.Sequential(nn.Conv2d(3, 3, 3)), (3, 1, 1))


def test_the_precision_and_the_copy_follow_the_network() -> None:
    model = Net().to(torch.bfloat16)
    assert find_sites(copy.deepcopy(model), (3, 8, 16)) == find_sites(model, (3, 8, 16))


def test_no_memory_is_spent_on_a_large_image() -> None:
    layout = find_sites(nn.Sequential(nn.Conv2d(3, 512, 1)), (3, 100_000, 100_000))  # 20 TB
    assert layout.sites[0].output_shape == (512, 100_000, 100_000)
    for way in BY_SHAPES:  # none leaves it to the next
        way(nn.Sequential(nn.Conv2d(3, 512, 1)), (3, 100_000, 100_000))()
