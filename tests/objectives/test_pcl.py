import math

import pytest
import torch
from torch import Tensor

from ssl_framework.functional import Clusters, unit
from ssl_framework.memory import Queue
from ssl_framework.objectives.moco import MoCo
from ssl_framework.objectives.pcl import PCL, concentration, proto_nce
from ssl_framework.types import Batch, Clock
from tests.golden import core_view, golden
from tests.objectives import loops

ASSIGNED = torch.tensor([0, 0, 0, 1, 1, 2])
CENTRES = torch.stack([core_view(1)[k == ASSIGNED].mean(dim=0) for k in range(3)])  # [3, 4]
PHI = "pcl: concentrations phi after clipping to the 10th and 90th percentile and scaling to mean .2"


def objective(warmup: float = 0.0) -> PCL:
    torch.manual_seed(0)
    pcl = PCL(MoCo(0.2, Queue(12, 4)), [2, 3], 5, 0.2, 10, warmup, 4)
    pcl.allocate(7)
    return pcl.double()


def step(pcl: PCL, q: Tensor, k: Tensor, clock: Clock = loops.CLOCK) -> dict[str, Tensor]:
    return pcl([{"projector": q}, None], [None, {"projector": k}], Batch([], torch.arange(len(q))), clock)


def test_golden_concentrations() -> None:
    found = concentration(core_view(1), Clusters(CENTRES, ASSIGNED), 10, 0.2)
    assert found.tolist() == pytest.approx(golden(PHI), abs=1e-7)


def test_golden_prototype_term_and_not_the_one_of_the_released_code() -> None:
    phi = torch.tensor(golden(PHI)).double()
    found = proto_nce(core_view(0), torch.arange(6), unit(CENTRES), phi, ASSIGNED).item()
    assert found == pytest.approx(golden("pcl: ProtoNCE term over all 3 prototypes, queries Z0"), abs=1e-7)
    released = golden(
        "pcl: the same as released (one column a sample, so samples of one cluster are each other's negatives)"
    )
    assert released - found > 0.8


def test_concentrations_of_single_empty_and_equal_clusters() -> None:
    """A cluster of one and one of none have the largest; nothing is zero, were all rows alike."""
    centres = torch.cat([CENTRES, torch.ones(1, 4).double()])
    phi = concentration(core_view(1), Clusters(centres, ASSIGNED), 10, 0.2)
    assert phi[2] == phi[3] == phi.max() and phi.mean().item() == pytest.approx(0.2)
    same = torch.ones(6, 4).double()
    torch.testing.assert_close(
        concentration(same, Clusters(same[:3], ASSIGNED), 10, 0.2), torch.full((3,), 0.2).double()
    )
    tight = torch.cat([same, core_view(1)[4:]])
    centres = torch.cat([same[:3], core_view(1)[4:].mean(dim=0, keepdim=True)])
    phi = concentration(tight, Clusters(centres, torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])), 10, 0.2)
    assert phi.min().item() == pytest.approx(0.2 / 20)


def test_equals_the_loop_after_an_epoch() -> None:
    """MoCo's loss and the mean over two clusterings of the keys; sample 6 was not seen."""
    pcl, q, k = objective(), loops.random_unit(6, 4, 1), loops.random_unit(6, 4, 2)
    first = step(pcl, q, k)
    assert first["prototype_loss"] == 0 and first["loss"] == first["instance_loss"]
    pcl.on_epoch(Clock(6, 1, 12))
    queue, total = pcl.host.queue.read(), 0.0
    for m, count in enumerate((2, 3)):
        prototypes, phi, assigned = pcl.clustering(m)
        assert assigned[6] == -1 and (assigned[:6] >= 0).all() and assigned.max() < count
        raw = []
        for c in range(count):
            rows = [k[i] for i in range(6) if assigned[i] == c]
            centre = sum(rows) / len(rows)  # type: ignore[arg-type]
            torch.testing.assert_close(prototypes[c], centre / centre.norm())
            raw.append(sum((x - centre).norm().item() for x in rows) / len(rows) / math.log(len(rows) + 10))
        assert torch.tensor(raw).argsort().tolist() == phi.argsort().tolist() or 0.0 in raw
        for i in range(6):
            logits = [loops.dot(q[i], p) / float(t) for p, t in zip(prototypes, phi, strict=True)]
            total += (loops.log_sum_exp(logits) - logits[int(assigned[i])]) / 6 / 2
    value = step(pcl, q, k)
    assert value["prototype_loss"].item() == pytest.approx(total, abs=1e-10)
    assert value["loss"].item() == pytest.approx(loops.moco(q, k, queue, 0.2) + total, abs=1e-10)


def test_nothing_is_clustered_in_the_warm_up_or_before_the_first_epoch_is_done() -> None:
    pcl, q, k = objective(warmup=0.5), loops.random_unit(6, 4, 1), loops.random_unit(6, 4, 2)
    step(pcl, q, k)
    for clock, clustered in ((Clock(9, 0, 12), False), (Clock(5, 1, 12), False), (Clock(6, 1, 12), True)):
        pcl.on_epoch(clock)
        assert bool((pcl.get_buffer("assigned_0") >= 0).any()) == clustered


def test_more_clusters_than_samples_are_refused() -> None:
    with pytest.raises(ValueError, match=r"objective\.num_clusters is 3, but the training set has only 2 samples"):
        objective().allocate(2)
