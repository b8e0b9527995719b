import math

import pytest
import torch

from ssl_framework.models.encoder import Encoder
from ssl_framework.models.text import TextTransformer
from ssl_framework.objectives.mnr import MNR, mutual_information
from ssl_framework.wiring import check_heads
from tests.golden import golden, mix_raw
from tests.objectives import loops


def loss(z0: torch.Tensor, z1: torch.Tensor, scale: float, symmetric: bool) -> float:
    found = MNR(scale, symmetric)(loops.outputs(z0, z1), None, loops.batch(len(z0)), loops.CLOCK)
    return found["loss"].item()


def test_golden() -> None:
    found = [loss(mix_raw(0), mix_raw(1), 1.0, symmetric) for symmetric in (False, True)]
    wanted = golden(
        'mnr: one direction; "plus" variant (targets are argmaxima of in-modal similarity, '
        "always the diagonal for unit rows)"
    )
    assert found == pytest.approx(wanted, rel=1e-7)


def one_way(z0: torch.Tensor, z1: torch.Tensor, scale: float) -> float:
    each = [[scale * loops.dot(a, b) for b in z1] for a in z0]
    return sum(loops.log_sum_exp(row) - row[i] for i, row in enumerate(each)) / len(z0)


def test_equals_the_loop() -> None:
    z0, z1 = (loops.random_unit(5, 3, seed) for seed in (0, 1))
    assert loss(3 * z0, z1, 7.0, False) == pytest.approx(one_way(z0, z1, 7.0), abs=1e-10)
    both = (one_way(z0, z1, 7.0) + one_way(z1, z0, 7.0)) / 2
    assert loss(z0, z1, 7.0, True) == pytest.approx(both, abs=1e-10)


def information(routes: torch.Tensor, domain: torch.Tensor) -> float:
    """Sum of p(d, e) log p(d, e) / (p(d) p(e)), number by number."""
    count, experts = routes.shape
    joint = {(d, e): 0.0 for d in set(domain.tolist()) for e in range(experts)}
    for row, d in zip(routes.tolist(), domain.tolist(), strict=True):
        for e, p in enumerate(row):
            joint[d, e] += p / count
    of_domain = {d: sum(joint[d, e] for e in range(experts)) for d, _ in joint}
    of_expert = [sum(joint[d, e] for d in of_domain) for e in range(experts)]
    return sum(p * math.log(p / (of_domain[d] * of_expert[e])) for (d, e), p in joint.items() if p > 0)


def test_mutual_information_in_closed_form() -> None:
    domain = torch.arange(12) % 4
    perfect = torch.eye(4, dtype=torch.float64)[domain]
    assert mutual_information(perfect, domain).item() == pytest.approx(math.log(4), rel=1e-12)
    assert mutual_information(perfect[:, [2, 0, 3, 1]], domain).item() == pytest.approx(math.log(4), rel=1e-12)
    assert mutual_information(perfect @ torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]]).double(), domain).item() == (
        pytest.approx(math.log(2), rel=1e-12)  # two experts of two domains each
    )
    for useless in (torch.full((12, 4), 0.25), torch.eye(4)[torch.zeros(12).long()]):  # to all alike, or all to one
        assert mutual_information(useless.double(), domain).item() == pytest.approx(0, abs=1e-12)
    assert mutual_information(perfect, 0 * domain).item() == pytest.approx(0, abs=1e-12)  # there is one domain


def test_mutual_information_equals_the_loop_and_has_a_gradient_at_certainty() -> None:
    generator = torch.Generator().manual_seed(0)
    routes = torch.randn(9, 3, generator=generator, dtype=torch.float64).softmax(dim=1)
    domain = torch.tensor([5, 0, 2, 2, 5, 0, 0, 2, 2])
    assert mutual_information(routes, domain).item() == pytest.approx(information(routes, domain), abs=1e-12)
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    mutual_information(logits.softmax(dim=1), torch.tensor([0, 1])).backward()
    torch.testing.assert_close(logits.grad, torch.zeros(2, 2), rtol=0, atol=0)  # the most there is, and not NaN


def test_what_is_known_of_the_domain_is_taken_from_the_loss_with_its_weight() -> None:
    z0, z1 = (loops.random_unit(6, 3, seed) for seed in (0, 1))
    routes = [(4 * loops.random_unit(6, 4, seed)).softmax(dim=1) for seed in (2, 3)]
    student = [{"projector": z, "routes": p} for z, p in zip((z0, z1), routes, strict=True)]
    batch = loops.batch(6)._replace(label=torch.tensor([0, 1, 1, 0, 2, 1]))
    found = MNR(7.0, False, mutual_information=0.3)(student, None, batch, loops.CLOCK)
    known = information(torch.cat(routes), batch.label.repeat(2))
    assert known > 0.05
    assert found["mutual_information"].item() == pytest.approx(known, abs=1e-10)
    assert found["loss"].item() == pytest.approx(one_way(z0, z1, 7.0) - 0.3 * known, abs=1e-10)


def test_a_backbone_without_a_router_is_refused() -> None:
    objective = MNR(7.0, False, "pooled", 0.3)
    assert objective.requires == {"label"} and not MNR(7.0, False).requires
    student = Encoder(TextTransformer(20, 7, 16, 1, 4, experts=3), {})
    with pytest.raises(
        ValueError, match=r"MNR reads routes of the student, .* such as backbone=text_routed on texts, or"
    ):
        check_heads(objective, student)
    check_heads(objective, Encoder(TextTransformer(20, 7, 16, 1, 4, experts=3, routing="token"), {}))
