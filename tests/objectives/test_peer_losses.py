"""Losses against lightly's where its examples train otherwise than the authors, so that no run can be repeated: equal
embeddings give the same value and gradient. Skipped without the ``bench`` extra; test_replay.py has the rest.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ssl_framework.memory import Queue
from ssl_framework.objectives.densecl import DenseCL
from ssl_framework.objectives.frossl import FroSSL
from ssl_framework.objectives.ibot import koleo
from ssl_framework.objectives.lejepa import LeJEPA, directions
from ssl_framework.objectives.mmcr import MMCR
from ssl_framework.objectives.msn import MSN
from ssl_framework.objectives.smog import SMoG
from ssl_framework.objectives.vicregl import VICRegL
from ssl_framework.objectives.visreg import VISReg
from ssl_framework.objectives.w_mse import WMSE
from ssl_framework.views.places import centres
from tests.objectives import loops, maps

lightly = pytest.importorskip("lightly.loss")

Loss = Callable[..., Tensor]


def embeddings(count: int, rows: int = 10, dim: int = 4, seed: int = 0) -> list[Tensor]:
    """Leaves [rows, dim] that are not of unit length."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, dim, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(count)]


def same(ours: Loss, theirs: Loss, inputs: list[Tensor], tolerance: float = 1e-10) -> None:
    """Value, and gradient of every input."""
    found, expected = ours(*inputs), theirs(*inputs)
    torch.testing.assert_close(found, expected.reshape(()), rtol=tolerance, atol=tolerance)
    mine, other = (torch.autograd.grad(loss.sum(), inputs) for loss in (found, expected))
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def of_students(objective: torch.nn.Module) -> Loss:
    return lambda *z: objective(loops.outputs(*z), None, loops.batch(len(z[0])), loops.CLOCK)["loss"]


def test_mmcr_of_unit_rows_half_of_them_as_the_teachers() -> None:
    def theirs(*z: Tensor) -> Tensor:
        a, b, c, d = (torch.nn.functional.normalize(x) for x in z)  # as the authors; lightly's example does not
        return lightly.MMCRLoss(lmda=0.005)(torch.stack([a, b], dim=1), torch.stack([c, d], dim=1))

    same(of_students(MMCR(0.005)), theirs, embeddings(4))


def test_frossl_without_centring() -> None:
    loss = lightly.FroSSLLoss(invariance_weight=1.4)
    same(of_students(FroSSL(1.4, centre=False)), lambda *z: loss(list(z)), embeddings(3))


def test_w_mse_of_one_sub_batch() -> None:
    loss = lightly.WMSELoss(embedding_dim=4, w_size=10, num_samples=2).double()
    same(of_students(WMSE(10, 1, 0.0)), lambda *z: loss(torch.cat(z)), embeddings(2))


def test_lejepa_along_the_same_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    z = embeddings(3)
    along = directions(8, z[0], loops.CLOCK)  # [8, 4]
    loss = lightly.LeJEPALoss(lambda_param=0.05, sigreg_num_vectors=8)
    monkeypatch.setattr(type(loss.sigreg), "_generate_unit_vectors", lambda *_: along.T)

    def theirs(*z: Tensor) -> Tensor:
        return loss(local_proj=torch.stack(z[2:]), global_proj=torch.stack(z[:2]))

    same(of_students(LeJEPA(0.05, 2, 8, 17, 3.0)), theirs, z, 1e-6)  # lightly's places of the integral are float32


def test_visreg_along_the_same_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    z = embeddings(3)
    along = directions(8, z[0], loops.CLOCK)  # [8, 4]
    loss = lightly.VISRegLoss(lambda_param=0.6, num_slices=8, eps=1e-12)

    def theirs(*z: Tensor) -> Tensor:
        with monkeypatch.context() as patched:
            patched.setattr(torch, "randn", lambda *_, **__: along.T)
            return loss(local_proj=torch.stack(z[2:]), global_proj=torch.stack(z[:2]))

    same(of_students(VISReg(0.6, 2, 8)), theirs, z, 1e-5)  # lightly's quantiles are float32


def test_koleo_of_dinov2() -> None:
    same(koleo, lightly.KoLeoLoss(), embeddings(1), 1e-6)  # lightly adds 1e-8 to every coordinate's difference


def test_densecl_of_equal_memories() -> None:
    """Of one step: lightly's memory of positions then takes all keys, the authors' one mean a view."""
    from lightly.models.utils import select_most_similar

    ours = DenseCL(0.2, 0.5, 0.0, Queue(12, 4).double(), Queue(15, 4).double())
    whole, dense = (lightly.NTXentLoss(temperature=0.2, memory_bank_size=(rows, 4)).double() for rows in (12, 15))
    whole.memory_bank.bank.copy_(ours.queue.rows)
    dense.memory_bank.bank.copy_(ours.dense_queue.rows)
    q, k = embeddings(2, 5)
    dense_q, dense_k = embeddings(2, 5 * 6, seed=1)
    map_q, map_k = (x.detach() for x in embeddings(2, 5 * 6, 3, seed=2))
    k, dense_k = k.detach(), dense_k.detach()

    def picture(x: Tensor) -> Tensor:
        return x.view(5, 2, 3, -1).permute(0, 3, 1, 2)  # [B, D, h, w]

    def mine(q: Tensor, dense_q: Tensor) -> Tensor:
        student = [{"projector": q, "dense_projector": picture(dense_q), "map": picture(map_q)}]
        teacher = [{"projector": k, "dense_projector": picture(dense_k), "map": picture(map_k)}]
        return ours(student, teacher, loops.batch(5), loops.CLOCK)["loss"]

    def theirs(q: Tensor, dense_q: Tensor) -> Tensor:
        found = select_most_similar(map_q.view(5, 6, 3), map_k.view(5, 6, 3), dense_k.view(5, 6, 4))
        return 0.5 * (whole(q, k) + dense(dense_q, found.flatten(0, 1)))

    same(mine, theirs, [q, dense_q], 1e-6)  # the memories' rows are of unit length in float32 only


@pytest.mark.parametrize("exponent", [0.0, 0.25])
def test_msn_and_pmsn(exponent: float) -> None:
    ours = MSN(4, 7, 0.1, 0.25, 3, 0.6, exponent).double()
    made = {"temperature": 0.1, "sinkhorn_iterations": 3, "regularization_weight": 0.6}
    loss = lightly.PMSNLoss(power_law_exponent=exponent, **made) if exponent else lightly.MSNLoss(**made)
    (target,) = embeddings(1, seed=1)
    target = target.detach()

    def mine(*anchors: Tensor) -> Tensor:
        teacher = loops.outputs(target)
        return ours(loops.outputs(*anchors), teacher, loops.batch(10), loops.CLOCK)["loss"]

    def theirs(*anchors: Tensor) -> Tensor:
        return loss(torch.cat(anchors), target, ours.prototypes, target_sharpen_temperature=0.25)

    same(mine, theirs, embeddings(2), 1e-6 if exponent else 1e-10)  # lightly's prior is float32


def test_vicregl() -> None:
    ours = VICRegL(25.0, 25.0, 1.0, 0.75, (3, 2))
    loss = lightly.VICRegLLoss(alpha=0.75, num_matches=(3, 2))
    boxes = [[(0.02 + 0.01 * b, 0.05, 0.6, 0.7), (0.13, 0.02 * b, 0.78, 0.66 + 0.01 * b)] for b in range(5)]
    places = [maps.cut(*(pair[v] for pair in boxes)) for v in range(2)]
    grids = [centres(place, 2, 2).view(5, 2, 2, 2) for place in places]
    z, local = embeddings(2, 5), embeddings(2, 5 * 4, 3, seed=1)

    def dense(x: Tensor) -> Tensor:
        return x.view(5, 2, 2, 3)

    def mine(a: Tensor, b: Tensor, p: Tensor, q: Tensor) -> Tensor:
        views = [{"projector": x, "dense_projector": dense(y).permute(0, 3, 1, 2)} for x, y in ((a, p), (b, q))]
        return ours(views, None, maps.batch(*places), loops.CLOCK)["loss"]

    same(mine, lambda a, b, p, q: loss([(a, dense(p)), (b, dense(q))], grids), [*z, *local])


def test_smog_with_groups_that_the_keys_move() -> None:
    from lightly.models.modules.heads import SMoGPrototypes

    ours = SMoG(0.1, 5, 0.99, 300, 10, Queue(20, 4).double(), 4).double()
    theirs = SMoGPrototypes(ours.groups.clone(), beta=0.99).double()
    for step in range(3):
        q, k = embeddings(2, seed=step)
        key = torch.nn.functional.normalize(k.detach())
        joined, groups = theirs.assign_groups(key), theirs.get_updated_group_features(key)
        expected = torch.nn.functional.cross_entropy(theirs(q, groups, temperature=0.1), joined)
        theirs.set_group_features(groups)
        student, teacher = loops.outputs(q, head="predictor"), loops.outputs(key)
        found = ours(student, teacher, loops.batch(10), loops.CLOCK._replace(step=0, total_steps=1000))["loss"]
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(ours.groups, theirs.group_features.data, rtol=1e-10, atol=1e-10)
        grads = [torch.autograd.grad(loss, q)[0] for loss in (found, expected)]
        torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-10)
