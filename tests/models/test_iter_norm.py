"""The head that whitens: against an eigendecomposition, in training and in evaluation."""

import pytest
import torch

from ssl_framework.models.heads import IterNorm, built
from tests.objectives import loops


def head(width: int, group: int, iterations: int = 12, momentum: float = 0.5) -> IterNorm:
    torch.manual_seed(0)
    return built(IterNorm("pooled", group, iterations, 1e-6, momentum), {"pooled": width}).double()


def test_each_group_is_whitened_by_the_inverse_root_of_its_covariance() -> None:
    mixing = torch.eye(6, dtype=torch.float64) + 0.4 * loops.random_unit(6, 6, 1)  # [6, 6]
    x = 3 * loops.random_unit(40, 6, 0) @ mixing + 2  # [40, 6]
    y = head(6, 3)({"pooled": x})
    for part in (slice(0, 3), slice(3, 6)):
        centred = x[:, part] - x[:, part].mean(dim=0)
        values, vectors = torch.linalg.eigh(centred.T @ centred / 40 + 1e-6 * torch.eye(3, dtype=torch.float64))
        expected = centred @ (vectors @ values.rsqrt().diag() @ vectors.T)
        torch.testing.assert_close(y[:, part], expected, rtol=1e-4, atol=1e-4)


def test_running_statistics_take_the_batchs_place_in_evaluation() -> None:
    norm, x = head(4, 2), loops.random_unit(30, 4, 1) + 1
    for _ in range(40):
        trained = norm({"pooled": x})
    torch.testing.assert_close(norm.eval()({"pooled": x}), trained)
    before = norm.running_mean.clone()
    norm({"pooled": 5 * x})
    assert torch.equal(norm.running_mean, before)
    assert norm({"pooled": x[:1]}).shape == (1, 4)


def test_gradient_and_equal_rows() -> None:
    x = loops.random_unit(6, 4, 2).requires_grad_()
    norm = head(4, 2, iterations=5, momentum=0.0)
    assert torch.autograd.gradcheck(lambda x: norm({"pooled": x}), (x,))
    assert torch.isfinite(norm({"pooled": torch.ones(5, 4, dtype=torch.float64)})).all()


def test_a_group_has_to_divide_the_width() -> None:
    with pytest.raises(ValueError, match="IterNorm's group is 4, which does not divide the 6 numbers it whitens"):
        head(6, 4)
