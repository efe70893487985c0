"""The single-path gate: evenly drawn, pointed for good, and nothing to learn."""

import pytest
import torch

from lwdc.gates import SinglePath


def test_every_candidate_is_drawn_equally_often_and_alone() -> None:
    gate = SinglePath(4)
    draws = torch.stack([gate() for _ in range(4000)])
    assert draws.sum(1).tolist() == [1.0] * 4000 and set(draws.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(draws.mean(0), torch.full((4,), 0.25), rtol=0, atol=0.03)


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_pointed_at_a_candidate_it_takes_no_other(precision: torch.dtype) -> None:
    gate = SinglePath(5).to(precision)
    assert gate.eval()().tolist() == [1, 0, 0, 0, 0]
    gate.point_at(3)
    for form in (*(gate.train()() for _ in range(200)), gate.eval()(), gate.expected(), gate.scores().exp()):
        assert form.round(decimals=9).tolist() == [0, 0, 0, 1, 0]


def test_it_has_nothing_to_train() -> None:
    gate = SinglePath(3)
    assert gate.takes_one and not any(p.requires_grad for p in gate.parameters())
