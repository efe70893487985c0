"""ReinMax against its formula."""

import torch

from lwdc.gates import ReinMax


def test_the_backward_pass_is_the_papers_estimate() -> None:
    """Liu et al., NeurIPS 2023: ``2 J(midpoint) - J(softmax) / 2``, J the Jacobian of the softmax at a point."""

    def jacobian(p: torch.Tensor) -> torch.Tensor:
        return torch.diag(p) - torch.outer(p, p)

    for temperature in (1.0, 1.3):
        gate = ReinMax(4, temperature=temperature).double()
        torch.nn.init.normal_(gate.logits)
        logits = gate.logits.detach()
        seen = set()
        for _ in range(20):
            weights = gate.sample()
            seen.add(int(weights.argmax()))
            midpoint = (weights.detach() + torch.softmax(logits / gate.temperature, 0)) / 2
            wanted = 2 * jacobian(midpoint) - jacobian(torch.softmax(logits, 0)) / 2
            found = torch.stack([torch.autograd.grad(w, gate.logits, retain_graph=True)[0] for w in weights])
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
        assert len(seen) > 1


def test_the_estimate_is_exact_to_second_order() -> None:
    """Averaged over draws it is the gradient of the expectation of any quadratic function; throughout a search."""
    gate = ReinMax(3).double()
    gate.advance(1.0)
    torch.nn.init.normal_(gate.logits)
    probabilities = torch.softmax(gate.logits, 0)
    target = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)

    def loss(draw: torch.Tensor) -> torch.Tensor:
        return ((draw - target) ** 2).sum()

    (exact,) = torch.autograd.grad(
        sum(p * loss(e) for p, e in zip(probabilities, torch.eye(3).double(), strict=True)), gate.logits
    )
    total = torch.zeros(3, dtype=torch.float64)
    for index, p in enumerate(probabilities.detach()):
        weights = gate.sample()
        while int(weights.argmax()) != index:
            weights = gate.sample()
        total += p * torch.autograd.grad(loss(weights), gate.logits)[0]
    torch.testing.assert_close(total, exact, rtol=1e-9, atol=1e-9)
