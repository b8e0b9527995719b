import pytest
import torch
from torch import Tensor

from ssl_framework.memory import Queue
from ssl_framework.objectives.nn_siamese import NNBYOL, NNSiam
from tests.golden import core_queue, core_view
from tests.objectives import loops


def queue(rows: Tensor) -> Queue:
    own = Queue(*rows.shape).to(rows.dtype)
    own.rows.copy_(rows)
    return own


def nearest(z: Tensor, rows: Tensor) -> Tensor:
    return torch.stack([rows[max(range(len(rows)), key=lambda j: loops.dot(x, rows[j]))] for x in z])


def run(name: str, p: tuple[Tensor, Tensor], z: tuple[Tensor, Tensor], rows: Queue) -> dict[str, Tensor]:
    batch = loops.batch(len(p[0]))
    if name == "nnsiam":
        student = [{"predictor": a, "projector": b} for a, b in zip(p, z, strict=True)]
        return NNSiam(rows)(student, None, batch, loops.CLOCK)  # type: ignore[arg-type]
    return NNBYOL(rows)(loops.outputs(*p, head="predictor"), loops.outputs(*z), batch, loops.CLOCK)


@pytest.mark.parametrize("name", ["nnsiam", "nnbyol"])
def test_equals_the_loop(name: str) -> None:
    p0, p1, z0, z1 = (loops.random_unit(6, 5, seed) for seed in range(4))
    rows = loops.random_unit(13, 5, 4)
    out = run(name, (3 * p0, p1), (z0, 2 * z1), queue(rows))
    n0, n1 = nearest(z0, rows), nearest(z1, rows)
    cosine = sum(loops.dot(p0[i], n1[i]) + loops.dot(p1[i], n0[i]) for i in range(6)) / 6
    assert out["loss"].item() == pytest.approx(-cosine / 2 if name == "nnsiam" else 4 - 2 * cosine, abs=1e-10)
    similarity = sum(loops.dot(a, b) for a, b in zip(z0, n0, strict=True)) / 6
    assert out["neighbour_similarity"].item() == pytest.approx(similarity, abs=1e-10)


@pytest.mark.parametrize("name", ["nnsiam", "nnbyol"])
def test_the_queue_is_read_before_the_first_views_targets_enter(name: str) -> None:
    rows, z0, z1 = core_queue(), core_view(0), core_view(1)
    own = queue(rows)
    assert run(name, (z0, z1), (2 * z0, z1), own)["neighbour_similarity"] < 0.999  # pushed first: its own neighbour
    torch.testing.assert_close(own.read(), torch.cat([z0, rows[6:]]))


def test_with_the_batch_in_the_queue_they_are_simsiam_and_byol() -> None:
    z0, z1, p0, p1 = core_view(0), core_view(1), core_view(2), core_view(3)
    plain = -sum(loops.dot(p0[i], z1[i]) + loops.dot(p1[i], z0[i]) for i in range(6)) / 12
    rows = torch.cat([z0, z1])
    assert run("nnsiam", (p0, p1), (z0, z1), queue(rows))["loss"].item() == pytest.approx(plain, abs=1e-10)
    assert run("nnbyol", (p0, p1), (z0, z1), queue(rows))["loss"].item() == pytest.approx(4 + 4 * plain, abs=1e-10)


def test_gradient_reaches_predictions_alone() -> None:
    p, z = core_view(0).requires_grad_(), core_view(1).requires_grad_()
    run("nnsiam", (p, p), (z, z), queue(core_queue()))["loss"].backward()
    assert z.grad is None and p.grad is not None and p.grad.abs().sum() > 0.1
