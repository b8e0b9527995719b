import math

import pytest
import torch
from torch import Tensor

from ssl_framework.build import build_module
from ssl_framework.objectives.sepclr import SepCLR, align, k_jem, uniform
from tests.golden import core_view, golden
from tests.objectives import loops
from tests.small_runs import small

LABEL = torch.tensor([0, 3, 1, 2, 0, 3])  # 0 and 1 are background


def sepclr(tau: float = 0.5, weights: tuple[float, float, float] = (100.0, 10.0, 7.0)) -> SepCLR:
    return SepCLR(tau, [0, 1], *weights)


def terms(c: list[Tensor], s: list[Tensor], label: Tensor = LABEL, tau: float = 0.5) -> dict[str, Tensor]:
    outputs = [{"common": a, "salient": b} for a, b in zip(c, s, strict=True)]
    return sepclr(tau)(outputs, None, loops.batch(len(label), label), loops.CLOCK)


def vectors(seed: int, n: int = 6, d: int = 4) -> Tensor:
    return 0.7 * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_golden() -> None:
    z0, z1, z2 = core_view(0), core_view(1), core_view(2)
    assert align(z0, z1, 0.5).mean().item() == pytest.approx(golden("sepclr: align(Z0,Z1)"), abs=1e-7)
    found = uniform(torch.cat([z0, z1]), 0.5).item()
    assert found == pytest.approx(golden("sepclr: uniform(12 points)"), abs=1e-7)
    assert k_jem(z0, z2, 0.5).item() == pytest.approx(golden("sepclr: k-JEM, c=Z0, s=Z2"), abs=1e-7)


def reference(c: list[Tensor], s: list[Tensor], label: list[int], tau: float) -> dict[str, float]:
    """The formulas by loops over samples and pairs."""
    n = len(label)
    target = [y not in (0, 1) for y in label]
    c = [torch.stack([row / math.sqrt(loops.dot(row, row)) for row in view]) for view in c]
    zero = torch.zeros(s[0].shape[1], dtype=torch.float64)
    fixed = [[row if t else zero for row, t in zip(view, target, strict=True)] for view in s]

    def squared(x: Tensor, y: Tensor) -> float:
        return loops.dot(x - y, x - y) / (2 * tau)

    def uniformity(rows: list[Tensor]) -> float:
        pairs = [math.exp(-squared(rows[i], rows[j])) for i in range(n) for j in range(i)]
        return math.log(sum(pairs) / len(pairs))

    joint = 0.0
    for a, b in zip(c, fixed, strict=True):
        for i in range(n):
            kernels = [math.exp(-squared(a[i], a[j]) - squared(b[i], b[j])) for j in range(n)]
            joint += math.log(sum(kernels) / n) / (2 * n)
    targets = [i for i in range(n) if target[i]]
    others = [i for i in range(n) if not target[i]]
    return {
        "common": sum(squared(c[0][i], c[1][i]) for i in range(n)) / n + sum(uniformity([*view]) for view in c),
        "salient": sum(squared(s[0][i], s[1][i]) for i in targets) / len(targets) + sum(map(uniformity, fixed)),
        "background": sum(squared(view[i], zero) for view in s for i in others) / (2 * len(others)),
        "joint_entropy": joint,
    }


@pytest.mark.parametrize("tau", [0.5, 0.2])
def test_equals_the_loop(tau: float) -> None:
    c, s = [vectors(0), vectors(1)], [vectors(2), vectors(3)]
    found, expected = terms(c, s, tau=tau), reference(c, s, LABEL.tolist(), tau)
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, abs=1e-10), name
    weighted = (1, 100, 10, 7)
    total = sum(w * expected[name] for w, name in zip(weighted, expected, strict=True))
    assert found["loss"].item() == pytest.approx(total, abs=1e-8)


def test_gradient_equals_that_of_the_dense_formula() -> None:
    x = vectors(0).requires_grad_()
    (got,) = torch.autograd.grad(uniform(x, 0.3) + k_jem(x[:, :2], x[:, 2:], 0.3), x)
    dense = torch.pdist(x).square().mul(-1 / 0.6).exp().mean().log()
    kernel = (x[:, None] - x).square().sum(dim=2).mul(-1 / 0.6).exp()
    (expected,) = torch.autograd.grad(dense + kernel.mean(dim=1).log().mean(), x)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_background_images_do_not_reach_the_salient_uniformity() -> None:
    s = [vectors(2).requires_grad_(), vectors(3).requires_grad_()]
    found = sepclr(weights=(1.0, 0.0, 1.0))(
        [{"common": vectors(v), "salient": x} for v, x in enumerate(s)], None, loops.batch(6, LABEL), loops.CLOCK
    )
    (grad,) = torch.autograd.grad(found["loss"], s[0])
    background = LABEL < 2
    assert grad[background].abs().max() == 0 and grad[~background].abs().min() > 0


def test_closed_cases() -> None:
    """Equal vectors have potential one everywhere; k-JEM counts the diagonal, uniformity does not."""
    same, zero = torch.ones(6, 3, dtype=torch.float64), torch.zeros(6, 3, dtype=torch.float64)
    found = terms([same, same], [zero, zero])
    assert [round(found[name].item(), 10) for name in ("common", "salient", "background", "joint_entropy")] == [0] * 4
    far = 100 * torch.eye(6, dtype=torch.float64)
    assert k_jem(far, far, 0.5).item() == pytest.approx(-math.log(6))


@pytest.mark.parametrize("label", [[0] * 6, [3] * 6])
def test_a_batch_without_background_or_without_target(label: list[int]) -> None:
    found = terms([vectors(0), vectors(1)], [vectors(2), vectors(3)], torch.tensor(label))
    empty = "salient" if label[0] == 0 else "background"
    assert found[empty].item() == pytest.approx(0, abs=1e-12) and found["loss"].isfinite()


def test_invariances() -> None:
    c, s = [vectors(0), vectors(1)], [vectors(2), vectors(3)]
    expected = terms(c, s)["loss"]
    order = torch.randperm(6, generator=torch.Generator().manual_seed(3))
    turn = torch.linalg.qr(loops.random_unit(4, 4, 4)).Q
    permuted = terms([x[order] for x in c], [x[order] for x in s], LABEL[order])["loss"]
    rotated = terms([x @ turn for x in c], [x @ turn for x in s])["loss"]
    torch.testing.assert_close(torch.stack([permuted, rotated]), expected.repeat(2), rtol=1e-10, atol=1e-10)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"temperature is 0\.0: it must be above 0"):
        sepclr(0.0)
    with pytest.raises(ValueError, match=r"background_classes is \[\]: it must be a list of one or more whole numbers"):
        SepCLR(0.5, [], 1, 1, 1)
    for position, name in enumerate(("salient", "background", "joint_entropy")):
        with pytest.raises(ValueError, match=rf"{name}_weight is -1\.0: it must be at least 0"):
            sepclr(weights=tuple(-1.0 if i == position else 1.0 for i in range(3)))  # type: ignore[arg-type]


def test_two_encoders_without_shared_weights_and_what_is_scored() -> None:
    images = torch.rand(4, 3, 32, 32)
    student = build_module(small("sepclr"), has_labels=True).student.eval()
    both = student.embed(images)
    assert both.shape == (4, 2 * 192)
    torch.testing.assert_close(both[:, :192], student.backbone(images)["pooled"])
    torch.testing.assert_close(both[:, 192:], student.beside["salient_features"](images)["pooled"])
    assert (both[:, :192] - both[:, 192:]).abs().max() > 0.01
    salient = student([images])[0]["salient"]
    torch.testing.assert_close(salient, student.heads["salient"]({"salient_features": both[:, 192:]}))
    for override, words in (
        ("student.scored=[poled]", r"student\.scored is \['poled'\]: name one or more of pooled, salient_features"),
        (
            "+student.heads.salient_features=${student.heads.salient}",
            "names a backbone already: call the head otherwise",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            build_module(small("sepclr", override), has_labels=True)
