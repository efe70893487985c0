"""The softmax gate."""

import torch

from lwdc.gates import Softmax


def test_weights_are_the_tempered_softmax_in_every_mode() -> None:
    gate = Softmax(3, temperature=0.5)
    gate.logits.data.copy_(torch.tensor([0.1, 0.3, -0.2]))
    wanted = torch.softmax(gate.logits / 0.5, 0)
    for weights in (gate.train()(), gate.eval()(), gate.expected(), gate.probabilities()):
        torch.testing.assert_close(weights, wanted)
