"""The one-hot gate from the trainable gate function."""

import torch

from lwdc.gates import TrainableGate


def test_the_gradient_is_the_shape_on_the_margin_to_the_best_other() -> None:
    gate = TrainableGate(3, temperature=0.5).double()
    gate.logits.data.copy_(torch.tensor([0.2, 1.0, 0.7]))
    found = torch.stack([torch.autograd.grad(w, gate.logits, retain_graph=True)[0] for w in gate.sample()])

    def shape(margin: float) -> float:
        s = torch.sigmoid(torch.tensor(margin / 0.5, dtype=torch.float64))
        return float(s * (1 - s) / 0.5)

    a, b, c = shape(0.2 - 1.0), shape(1.0 - 0.7), shape(0.7 - 1.0)
    wanted = torch.tensor([[a, -a, 0], [0, b, -b], [0, -c, c]], dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_a_descent_on_the_gate_alone_changes_the_choice() -> None:
    gate = TrainableGate(3)
    gate.logits.data.copy_(torch.tensor([0.5, 0.0, 0.0]))
    optimiser = torch.optim.SGD(gate.parameters(), lr=1.0)
    for _ in range(20):
        optimiser.zero_grad()
        (gate() * torch.tensor([3.0, 1.0, 2.0])).sum().backward()
        optimiser.step()
    assert gate().tolist() == [0, 1, 0]


def test_one_candidate_is_always_chosen() -> None:
    gate = TrainableGate(1)
    weights = gate()
    assert weights.tolist() == [1]
    weights.sum().backward()
    assert bool(gate.logits.grad.isfinite().all())
