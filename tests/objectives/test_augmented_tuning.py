import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.augmented_tuning import AugmentedTuning
from ssl_framework.types import Batch, Clock
from tests.objectives import loops

LABEL = torch.tensor([2, -1, 0, -1])
CLOCK = Clock(3, 0, 10, 5)


def student() -> list[dict[str, Tensor]]:
    torch.manual_seed(0)
    return [{"pooled": torch.randn(4, 6).double(), "classifier": torch.randn(4, 3).double()} for _ in range(2)]


def loss(objective: AugmentedTuning, label: Tensor = LABEL) -> dict[str, Tensor]:
    objective.through_heads = lambda x: {"classifier": x[:, :3]}
    return objective([*student()], None, Batch([], torch.arange(4), label), CLOCK)


def entropy(row: Tensor, shares: dict[int, float]) -> float:
    return sum(share * (loops.log_sum_exp(row.tolist()) - float(row[c])) for c, share in shares.items())


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_equals_the_loop(weight: float) -> None:
    views = student()
    named = sum(entropy(view["classifier"][i], {int(LABEL[i]): 1.0}) for view in views for i in (0, 2)) / 4
    contrast = loops.nt_xent(*(view["pooled"] / view["pooled"].norm(dim=1, keepdim=True) for view in views), 0.2)
    assert loss(AugmentedTuning(3, 0.2, weight, None))["loss"].item() == pytest.approx(named + weight * contrast)


def test_mixtures_are_of_labelled_samples_with_both_classes() -> None:
    """A mixture lies between two samples: which, and where, tells its partner and share."""
    seen: list[Tensor] = []
    objective, views = AugmentedTuning(3, 0.2, 0.0, 0.4), student()
    objective.through_heads = lambda x: {"classifier": seen.append(x) or x[:, :3]}  # type: ignore[func-returns-value]
    out = objective([*views], None, Batch([], torch.arange(4), LABEL), CLOCK)["loss"].item()
    x, mixed, expected, partners = views[0]["pooled"], seen[0], 0.0, set()
    for i in (0, 2):
        fits = []
        for j in (0, 2):
            way = x[i] - x[j] if i != j else torch.ones(6).double()
            share = float(((mixed[i] - x[j]) @ way) / (way @ way)) if i != j else 1.0
            if torch.allclose(share * x[i] + (1 - share) * x[j], mixed[i]):
                fits.append((j, share))
        (partner, share) = fits[0]
        partners.add(partner)
        shares = {int(LABEL[i]): share} | ({} if partner == i else {int(LABEL[partner]): 1 - share})
        expected += entropy(mixed[i, :3], shares) + entropy(views[0]["classifier"][i], {int(LABEL[i]): 1.0})
    assert out == pytest.approx(expected / 4)
    assert partners <= {0, 2}


def test_without_a_label_there_is_the_contrast_alone() -> None:
    none = torch.full((4,), -1)
    for mixup in (None, 0.4):
        out = loss(AugmentedTuning(3, 0.2, 0.5, mixup), none)
        assert out["loss"].item() == pytest.approx(0.5 * out["contrast_loss"].item()) and out["class_loss"] == 0
