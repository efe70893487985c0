"""What a run says before it begins."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from lwdc.data import ImageFolder
from lwdc.pipeline import BackboneSettings, Settings
from lwdc.pipeline.opening import in_short, opening
from lwdc.pipeline.prepare import Trainable
from lwdc.pipeline.ranks import Ranks


@pytest.mark.parametrize(
    ("name", "weights", "mean", "told"),
    [
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", "w.safetensors", 0.45, True),
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", "w.safetensors", 0.5, False),
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", None, 0.45, False),
        ("vit_tiny_patch16_224", "w.safetensors", 0.45, False),  # may be weights of anyone's
    ],
)
def test_weights_that_were_made_for_another_normalisation_are_told_of(
    settings: Callable[..., Settings], tmp_path: Path, name: str, weights: str | None, mean: float, told: bool
) -> None:
    data = ImageFolder(tmp_path, image_size=32, mean=(mean,) * 3, std=(0.5,) * 3)
    given = settings(backbone=BackboneSettings(name, {"img_size": 32, "depth": 1}, weights=weights), data=data)
    backbone = given.backbone.of(10, 3)
    lines = list(opening(Trainable(given, Ranks(given.compute), backbone, backbone.create(), ()), tmp_path))
    assert any("data.mean=[0.5,0.5,0.5] data.std=[0.5,0.5,0.5]" in line for line in lines) == told


def test_reasons_are_said_in_short_one_line_a_candidate() -> None:
    more = "costs more than the original: {} MACs and 9 parameters against 4 and 4"
    assert in_short(Counter({more.format(8): 2})) == more.format(8)
    reasons = Counter({more.format(8): 2, more.format(9): 3, "it is the original": 1})
    assert in_short(reasons) == "costs more than the original (5); it is the original (1)"
    found = in_short(Counter({f"groups={n} does not divide": 1 for n in range(5)}))
    assert found.count("groups=") == 3 and found.endswith("; 2 more reasons, see lwdc inspect")
    parts = {f"grouped_8: groups=8 does not divide {n} -> {n} channels": 1 for n in (4, 6)}
    assert in_short(Counter(parts)) == "; ".join(f"{reason} (1)" for reason in parts)
