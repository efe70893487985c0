"""Verifying lets pass what computes the same, and nothing else."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lwdc.errors import ExportError
from lwdc.export import verify

SIZE = (3, 4, 4)


@pytest.fixture
def module() -> nn.Module:
    """A linear classifier of 5 classes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).eval()


def off_by(module: nn.Module, amount: float) -> Callable[[Tensor], Tensor]:
    """What ``module`` computes, with ``amount`` added to the first logit."""
    return lambda images: module(images) + amount * torch.eye(5)[0]


def test_the_module_itself_passes_with_no_difference(module: nn.Module) -> None:
    assert verify(module, module, SIZE) == (0.0, pytest.approx(1e-4, rel=10), True)


def test_the_difference_is_the_largest_over_all_batches(module: nn.Module) -> None:
    assert verify(module, off_by(module, 5e-5), SIZE).max_difference == pytest.approx(5e-5, rel=0.01)


def test_a_difference_above_the_tolerance_names_file_and_figure(module: nn.Module) -> None:
    with pytest.raises(ExportError, match=r"model\.onnx does not compute .* up to 0\.01, at most 0\.0\d+ is accepted"):
        verify(module, off_by(module, 0.01), SIZE, name="model.onnx")


def test_a_difference_at_one_batch_size_only_is_found(module: nn.Module) -> None:
    def run(images: Tensor) -> Tensor:
        return off_by(module, 0.01 if len(images) == 7 else 0.0)(images)

    assert verify(module, run, SIZE, batch_sizes=(1, 2)).max_difference == 0
    with pytest.raises(ExportError, match=r"0\.01"):
        verify(module, run, SIZE)


def test_large_outputs_may_differ_by_their_share(module: nn.Module) -> None:
    module[1].weight.data *= 1000  # type: ignore[index]
    comparison = verify(module, off_by(module, 0.01), SIZE)
    with torch.no_grad():
        images = torch.randn(7, *SIZE)
        assert comparison.tolerance == pytest.approx(1e-4 * float(module(images).abs().max()), rel=1)


def always(*logits: float) -> nn.Module:
    """A network that answers every image with these logits."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, len(logits))).eval()
    network[1].weight.data.zero_()  # type: ignore[operator, union-attr]
    network[1].bias.data = torch.tensor(logits)  # type: ignore[assignment]
    return network


def test_another_class_first_fails_where_the_margin_is_clear() -> None:
    # Tolerance 0.1, margin 0.15: each logit may move by 0.09, and the order turns.
    with pytest.raises(ExportError, match=r"model\.pt2 ranks other classes first"):
        verify(always(1000.0, 999.85), always(999.91, 999.92), SIZE, name="model.pt2")


def test_ties_within_the_tolerance_may_fall_either_way() -> None:
    assert verify(always(0.5, 0.50001), always(0.50001, 0.5), SIZE).top1_agrees


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_fail(module: nn.Module, value: float) -> None:
    with pytest.raises(ExportError, match=r"model\.onnx returns values that are not finite"):
        verify(module, off_by(module, value), SIZE, name="model.onnx")
    module[1].bias.data.fill_(value)  # type: ignore[index, union-attr, operator]
    with pytest.raises(ExportError, match="the network returns values that are not finite"):
        verify(module, module, SIZE)


def test_another_number_of_classes_fails(module: nn.Module) -> None:
    with pytest.raises(ExportError, match=r"returns \(1, 4\), the network \(1, 5\)"):
        verify(module, lambda images: module(images)[:, :4], SIZE)


def test_a_batch_size_that_does_not_run_fails(module: nn.Module) -> None:
    def run(images: Tensor) -> Tensor:
        if len(images) > 1:
            raise RuntimeError("batch size is fixed at 1.\nMore of it")
        return module(images)

    with pytest.raises(ExportError, match=r"model\.pt2 cannot run a batch of 7: batch size is fixed at 1\."):
        verify(module, run, SIZE, name="model.pt2")


def test_inputs_follow_the_seed_and_reach_both_unchanged(module: nn.Module) -> None:
    seen: list[Tensor] = []

    def run(images: Tensor) -> Tensor:
        seen.append(images.clone())
        logits = module(images)
        images.zero_()
        return logits

    for seed in (0, 0, 1):
        verify(module, run, SIZE, batch_sizes=(2,), seed=seed)
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])


def test_class_names_are_as_many_as_logits(module: nn.Module) -> None:
    verify(module, module, SIZE, class_names="abcde")
    with pytest.raises(ExportError, match="there are 2 class names, and the network gives 5 logits"):
        verify(module, module, SIZE, class_names=["cat", "dog"])
