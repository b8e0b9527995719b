import math

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.deepcluster_v2 import DeepClusterV2, classification
from ssl_framework.types import Batch, Clock
from tests.golden import golden, mix_raw
from tests.objectives import loops

SAMPLES = 9


def objective(num_clusterings: int = 2, num_assign: int = 2) -> DeepClusterV2:
    torch.manual_seed(0)
    deepcluster = DeepClusterV2(0.1, 3, num_clusterings, 5, num_assign, 4)
    deepcluster.allocate(SAMPLES)
    return deepcluster.double()


def step(deepcluster: DeepClusterV2, *views: Tensor, index: Tensor | None = None) -> dict[str, Tensor]:
    index = torch.arange(len(views[0])) if index is None else index
    return deepcluster(loops.outputs(*views), None, Batch([], index), loops.CLOCK)


def test_golden() -> None:
    logits = torch.stack([torch.stack([mix_raw(2 * h + v) for h in range(2)]) for v in range(2)]) / 0.1  # [V, H, B, K]
    classes = torch.tensor([[0, 1, 2, 3, 4, 5], [7, 0, 7, 1, 2, -1]])
    expected = golden("deepcluster_v2: loss, two heads, two views, one sample unassigned in head 1")
    assert classification(logits, classes).item() == pytest.approx(expected, abs=1e-7)


def test_equals_the_loop_with_three_views_and_unassigned_samples() -> None:
    deepcluster, views = objective(), [loops.random_unit(5, 4, v) for v in range(3)]
    index = torch.tensor([8, 0, 3, 1, 7])
    deepcluster.assigned[0, 3] = deepcluster.assigned[1, 7] = deepcluster.assigned[1, 0] = -1
    total = 0.0
    for h in range(2):
        costs = []
        for z in views:
            for b, sample in enumerate(index.tolist()):
                k = int(deepcluster.assigned[h, sample])
                if k >= 0:
                    logits = [loops.dot(z[b], c) / 0.1 for c in deepcluster.centres[h]]
                    costs.append(loops.log_sum_exp(logits) - logits[k])
        total += sum(costs) / len(costs) / 2
    assert step(deepcluster, *(3 * z for z in views), index=index)["loss"].item() == pytest.approx(total, abs=1e-10)


def test_the_embeddings_of_the_last_epoch_are_clustered_and_their_samples_predict_the_clusters() -> None:
    """Three directions, of which each view sees some of the samples; one sample was never seen."""
    deepcluster = objective(num_clusterings=3)
    truth = torch.tensor([0, 1, 2, 2, 1, 0, 0, 1])
    z = torch.eye(4).double()[truth] + 0.01 * loops.random_unit(8, 4, 1)
    step(deepcluster, z, -z)
    deepcluster.on_epoch(Clock(10, 0, 20))
    assert (deepcluster.assigned >= 0).all(), "the first epoch keeps the classes that were drawn"
    deepcluster.on_epoch(Clock(10, 1, 20))
    assert (deepcluster.assigned[:, 8] == -1).all()
    for h, seen in enumerate((z, -z, z)):  # from the first, the second and again the first view
        for k in range(3):
            members = deepcluster.assigned[h, :8] == k
            if members.any():
                mean = torch.nn.functional.normalize(seen, dim=1)[members].mean(dim=0)
                torch.testing.assert_close(deepcluster.centres[h, k], mean / mean.norm())
    found = {tuple(sorted((deepcluster.assigned[h, :8] == k).sum().item() for k in range(3))) for h in range(3)}
    assert (2, 3, 3) in found
    again = objective(num_clusterings=3)
    again.load_state_dict(deepcluster.state_dict())
    again.on_epoch(Clock(10, 1, 20))
    assert torch.equal(again.assigned, deepcluster.assigned) and torch.equal(again.centres, deepcluster.centres)


def test_no_sample_assigned_costs_nothing_and_gives_no_gradient_to_centres() -> None:
    deepcluster, z = objective(), loops.random_unit(5, 4, 0).requires_grad_()
    assert not list(deepcluster.parameters())
    deepcluster.assigned.fill_(-1)
    loss = step(deepcluster, z, z)["loss"]
    loss.backward()
    assert loss == 0 and z.grad is not None and not z.grad.any()


def test_closed_case_all_centres_alike() -> None:
    deepcluster, z = objective(), loops.random_unit(5, 4, 0)
    deepcluster.centres.copy_(deepcluster.centres[0, 0].expand_as(deepcluster.centres))
    assert step(deepcluster, z, z)["loss"].item() == pytest.approx(math.log(3), abs=1e-12)


def test_refused_settings() -> None:
    few = DeepClusterV2(0.1, 3, 2, 5, 2, 4)
    with pytest.raises(ValueError, match=r"objective\.num_clusters is 3, but the training set has only 2 samples"):
        few.allocate(2)
    with pytest.raises(ValueError, match=r"objective\.num_assign is 2, but the student encodes only 1 views"):
        step(objective(), loops.random_unit(5, 4, 0))
