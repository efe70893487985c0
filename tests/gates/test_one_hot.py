"""The one-hot gate."""

import torch

from lwdc.gates import OneHot


def test_forward_is_the_choice_and_backward_the_tempered_softmax() -> None:
    gate = OneHot(3, temperature=0.4)
    gate.logits.data.copy_(torch.tensor([0.1, 0.3, -0.2]))
    probe = torch.tensor([1.0, -1.0, 2.0])
    assert gate().tolist() == gate.expected().tolist() == [0, 1, 0]
    (found,) = torch.autograd.grad((gate() * probe).sum(), gate.logits)
    (wanted,) = torch.autograd.grad((torch.softmax(gate.logits / 0.4, 0) * probe).sum(), gate.logits)
    torch.testing.assert_close(found, wanted)
