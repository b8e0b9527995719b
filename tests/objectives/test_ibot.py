import math

import pytest
import torch
from torch import Tensor

from ssl_framework.build import build_module
from ssl_framework.memory import Centre
from ssl_framework.objectives.ibot import IBOT, koleo
from ssl_framework.objectives.targets import Balanced, Centred
from ssl_framework.types import Clock
from tests.golden import core_view, golden, mix_raw
from tests.objectives import loops
from tests.small_runs import small

FIRST = Clock(0, 0, 10)


def objective(patch_weight: float = 1.0, koleo_weight: float = 0.0, patch_head: str | None = "patches") -> IBOT:
    centres = [Centred(Centre(8, 0.9).double()) for _ in range(2)]
    return IBOT(0.1, 0.07, 0.04, 0.5, *centres, patch_weight, koleo_weight, "projector", patch_head)


def view(image: Tensor, patches: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    found = {"projector": image, "patches": patches, "pooled": image}
    return found if mask is None else {**found, "mask": mask}


MASK = (torch.arange(6)[:, None] + torch.arange(4)) % 3 == 0  # [6, 4]


def test_golden_patch_loss() -> None:
    seen, whole = mix_raw(0, 24, 8).view(6, 4, 8), mix_raw(1, 24, 8).view(6, 4, 8)
    student, teacher = [view(mix_raw(0), seen, MASK)] * 2, [view(mix_raw(1), whole)] * 2
    value = objective()(student, teacher, loops.batch(6), FIRST)["patch_loss"].item()
    name = "ibot: patch loss, centre 0, mean over hidden patches of each image, then over images"
    assert value == pytest.approx(golden(name), abs=1e-7)


def test_golden_koleo() -> None:
    name = "koleo: -mean log distance to the nearest other row"
    assert koleo(core_view(0)).item() == pytest.approx(golden(name), abs=1e-6)  # the authors' code adds in float32


def test_golden_sinkhorn() -> None:
    found = Balanced(3)(mix_raw(2), 0.07, torch.ones(6).bool())
    name = "dinov2: Sinkhorn-Knopp targets of the teacher, row 0"
    assert found[0].tolist() == pytest.approx(golden(name), abs=1e-6)


def softmax(row: Tensor, tau: float, centre: Tensor | None = None) -> list[float]:
    shifted = row if centre is None else row - centre
    logits = [float(x) / tau for x in shifted]
    total = loops.log_sum_exp(logits)
    return [math.exp(x - total) for x in logits]


def cross_entropy(target: Tensor, row: Tensor, tau: float, centre: Tensor | None = None) -> float:
    p, q = softmax(target, tau, centre), softmax(row, 0.1)
    return -sum(a * math.log(b) for a, b in zip(p, q, strict=True))


def test_two_steps_equal_the_loop() -> None:
    """With masks that hide nothing in some images, a warm-up of the temperature, and centres that move after each."""
    own = objective(patch_weight=0.5, koleo_weight=0.1)
    masks = [MASK & (torch.arange(6) < 4)[:, None], MASK.flip(1)]
    centre, patch_centre = torch.zeros(8, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
    for step, tau in ((0, 0.04), (3, 0.04 + 0.03 * 0.6)):
        s = [(mix_raw(step + v), mix_raw(step + v + 1, 24, 8).view(6, 4, 8)) for v in range(2)]
        t = [(mix_raw(step + v + 2), mix_raw(step + v + 3, 24, 8).view(6, 4, 8)) for v in range(2)]
        student = [view(*one, mask) for one, mask in zip(s, masks, strict=True)]
        small = {"projector": mix_raw(step + 5), "pooled": mix_raw(5)}  # a small crop, whole
        out = own([*student, small], [*(view(*one) for one in t), None], loops.batch(6), Clock(step, 0, 10))
        images = [*(one[0] for one in s), mix_raw(step + 5)]
        pairs = [(v, w) for v in range(2) for w in range(3) if v != w]
        between = sum(cross_entropy(t[v][0][b], images[w][b], tau, centre) for v, w in pairs for b in range(6)) / 24
        hidden = 0.0
        for v in range(2):
            for b in range(6):
                places = masks[v][b].nonzero().flatten().tolist()
                costs = [cross_entropy(t[v][1][b, n], s[v][1][b, n], tau, patch_centre) for n in places]
                hidden += sum(costs) / max(len(costs), 1) / 12
        spread = 0.0
        for v in range(2):
            x = s[v][0] / s[v][0].norm(dim=1, keepdim=True)
            nearest = [min(float((x[i] - x[j]).norm()) for j in range(6) if j != i) for i in range(6)]
            spread -= sum(math.log(d + 1e-8) for d in nearest) / 6
        assert out["image_loss"].item() == pytest.approx(between, abs=1e-10)
        assert out["patch_loss"].item() == pytest.approx(hidden, abs=1e-10)
        assert out["koleo"].item() == pytest.approx(spread, abs=1e-10)
        assert out["loss"].item() == pytest.approx(between + 0.5 * hidden + 0.1 * spread, abs=1e-10)
        centre = 0.9 * centre + 0.1 * torch.cat([one[0] for one in t]).mean(dim=0)
        patch_centre = 0.9 * patch_centre + 0.1 * torch.cat([one[1] for one in t]).mean(dim=(0, 1))
    torch.testing.assert_close(own.targets.centre.mean, centre)
    torch.testing.assert_close(own.patch_targets.centre.mean, patch_centre)


def test_a_shared_head_has_the_class_token_first_and_the_patches_last() -> None:
    shared, apart = objective(patch_head=None), objective()
    student, teacher = ([(mix_raw(v + s), mix_raw(v + s + 1, 24, 8).view(6, 4, 8)) for v in range(2)] for s in (0, 2))
    whole = [shared_view(*one) for one in student], [shared_view(*one) for one in teacher]
    for one in whole[0]:
        one["mask"] = MASK
    value = shared(*whole, loops.batch(6), FIRST)["loss"]
    parts = [view(*one, MASK) for one in student], [view(*one) for one in teacher]
    torch.testing.assert_close(value, apart(*parts, loops.batch(6), FIRST)["loss"])


@pytest.mark.parametrize("head", ["dino", "simclr"])
def test_a_shared_head_of_vectors_is_refused_when_it_is_built(head: str) -> None:
    cfg = small("ibot", f"head={head}", "student.heads.projector.hidden=[32]", "student.heads.projector.out=16")
    with pytest.raises(
        ValueError,
        match=r"^IBOT reads tokens of projector, which gives one vector a sample: choose head=.*ibot.* or an",
    ):
        build_module(cfg, True, 48)


def shared_view(image: Tensor, patches: Tensor) -> dict[str, Tensor]:
    """With a register between the class token and the patches."""
    return {"projector": torch.cat([image[:, None], 9 * image[:, None], patches], dim=1)}


def test_rows_that_do_not_count_take_no_part_in_the_balance() -> None:
    rows, counts = mix_raw(2), torch.tensor([1, 1, 0, 1, 0, 1]).bool()
    found = Balanced(3)(rows, 0.1, counts)
    assert (found[~counts] == 0).all()
    torch.testing.assert_close(found[counts], Balanced(3)(rows[counts], 0.1, torch.ones(4).bool()))
    assert (Balanced(3)(rows, 0.1, torch.zeros(6).bool()) == 0).all()


def test_equal_rows_have_a_finite_koleo() -> None:
    x = torch.ones(4, 3, requires_grad=True)
    koleo(x).backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()
