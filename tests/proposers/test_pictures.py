"""Pictures: points in a plane are shown as they lie, and a path among them."""

import pytest
import torch

from lwdc.proposers import Trial
from lwdc.proposers.pictures import picture_of


def test_points_in_a_plane_are_shown_whole() -> None:
    flat = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 1.0], [4.0, 1.0]]).double()
    turn = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0)).double())[0][:2]
    trials = [Trial((0,), 0.5 + 0.1 * i, 0.4, 0.0) for i in range(4)]
    picture = picture_of(trials, 3 + flat @ turn, 3 + flat[:2] @ turn)
    points = torch.tensor(picture.points).double()
    assert picture.explained == pytest.approx(1)
    torch.testing.assert_close(torch.cdist(points, points), torch.cdist(flat, flat))
    assert points.std(0)[0] > points.std(0)[1]
    torch.testing.assert_close(torch.tensor(picture.path).double(), points[:2])
    assert picture.accuracies == pytest.approx((0.5, 0.6, 0.7, 0.8))
