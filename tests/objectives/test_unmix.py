"""Terms of mixtures beside a host's clean loss: Un-Mix and BSIM (a term for every source), MixCo (soft InfoNCE)."""

import pytest
import torch
from torch import Tensor

from ssl_framework.build import build_module
from ssl_framework.objectives.byol import BYOL
from ssl_framework.objectives.mixco import MixCo
from ssl_framework.objectives.simclr import SimCLR
from ssl_framework.objectives.supcon import SupCon
from ssl_framework.objectives.unmix import UnMix
from ssl_framework.types import Batch, Clock, Mix, Samples
from tests.objectives import loops
from tests.objectives.test_imix import LAM, PARTNER, mix, soft_cross_entropy
from tests.objectives.test_moco import objective
from tests.small_runs import small

REVERSED = [5, 4, 3, 2, 1, 0]


def rows(*seeds: int) -> list[Tensor]:
    return [loops.random_unit(6, 5, seed) for seed in seeds]


def batch(*mixes: Mix | None) -> Batch:
    return Batch([], torch.arange(6), mix=list(mixes))


def flipped(lam: float, of: int = 0) -> Mix:
    return mix([lam] * 6, REVERSED)._replace(of=of)


def test_on_moco_it_is_what_the_release_computes_with_the_flip() -> None:
    """One share for the batch, partners in reversed order: the clean loss, that of the mixtures, that of their flip."""
    q, k, z, memory = *rows(0, 1, 2), loops.random_unit(9, 5, 3)
    unmix = UnMix(objective(memory, 0.3), 1.0)
    out = unmix(
        [{"projector": q}, None, {"projector": z}],
        [None, {"projector": k}],
        batch(None, None, flipped(0.7)),
        loops.CLOCK,
    )
    clean = loops.moco(q, k, memory, 0.3)
    mixed = 0.7 * loops.moco(z, k, memory, 0.3) + 0.3 * loops.moco(z.flip(0), k, memory, 0.3)
    assert out["loss"].item() == pytest.approx(clean + mixed, abs=1e-10)
    assert out["clean_loss"].item() == pytest.approx(clean, abs=1e-10)
    torch.testing.assert_close(unmix.host.queue.read(), torch.cat([k, memory[6:]]))  # pushed once


def test_on_simclr_it_is_what_the_flip_gives() -> None:
    z0, z1, z = rows(0, 1, 2)
    out = UnMix(SimCLR(0.3), 0.5)(loops.outputs(z0, z1, z), None, batch(None, None, flipped(0.7)), loops.CLOCK)
    mixed = 0.7 * loops.nt_xent(z, z1, 0.3) + 0.3 * loops.nt_xent(z.flip(0), z1, 0.3)
    assert out["loss"].item() == pytest.approx(loops.nt_xent(z0, z1, 0.3) + 0.5 * mixed, abs=1e-10)


def test_on_byol_each_mixture_predicts_the_other_view_s_keys() -> None:
    p, k = rows(0, 1, 2, 3), rows(4, 5)
    student = [{"predictor": x} for x in p]
    mixes = batch(None, None, flipped(0.7), flipped(0.4, of=1))
    out = UnMix(BYOL(), 1.0)(student, loops.outputs(*k), mixes, loops.CLOCK)

    def distance(a: Tensor, b: Tensor) -> float:
        return sum(2 - 2 * loops.dot(x, y) for x, y in zip(a, b, strict=True)) / 6

    expected = distance(p[0], k[1]) + distance(p[1], k[0])
    expected += 0.7 * distance(p[2], k[1]) + 0.3 * distance(p[2].flip(0), k[1])
    expected += 0.4 * distance(p[3], k[0]) + 0.6 * distance(p[3].flip(0), k[0])
    assert out["loss"].item() == pytest.approx(expected, abs=1e-10)


def test_shares_of_each_sample_and_three_sources() -> None:
    """Sources 0.5 + 0.3 + 0.2, or two of them the same sample; each pair by the shares of its mixture."""
    q, k, z, memory = *rows(0, 1, 2), loops.random_unit(9, 5, 3)
    own = torch.arange(6)
    source = torch.stack([own, own.roll(1), torch.tensor([2, 0, 4, 2, 5, 3])], dim=1)
    share = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]], dtype=torch.float64).repeat(3, 1)
    record = Mix(torch.empty(0), source, share, None, 0)
    unmix = UnMix(objective(memory, 0.3), 1.0)
    out = unmix(
        [{"projector": q}, None, {"projector": z}], [None, {"projector": k}], batch(None, None, record), loops.CLOCK
    )
    expected = loops.moco(q, k, memory, 0.3)
    for i in range(6):
        for p in range(3):
            expected += share[i, p].item() * loops.moco(z[i : i + 1], k[source[i, p]][None], memory, 0.3) / 6
    assert out["loss"].item() == pytest.approx(expected, abs=1e-10)


def test_on_moco_mixco_adds_the_soft_loss_over_batch_and_queue() -> None:
    q, k, z, memory = *rows(0, 1, 2), loops.random_unit(9, 5, 3)
    mixco = MixCo(objective(memory, 0.3), 0.1, 0.8)
    out = mixco(
        [{"projector": q}, None, {"projector": z}], [None, {"projector": k}], batch(None, None, mix()), loops.CLOCK
    )
    clean, mixed = loops.moco(q, k, memory, 0.3), soft_cross_entropy(z, torch.cat([k, memory]), 0.1)
    assert out["loss"].item() == pytest.approx(clean + 0.8 * mixed, abs=1e-10)
    assert out["clean_loss"].item() == pytest.approx(clean, abs=1e-10)
    torch.testing.assert_close(mixco.host.queue.read(), torch.cat([k, memory[6:]]))  # pushed once


def test_on_simclr_mixco_asks_the_other_view_with_gradient() -> None:
    views = [z.requires_grad_() for z in rows(0, 1, 2, 3)]
    record = batch(None, None, mix(), mix()._replace(of=1))
    out = MixCo(SimCLR(0.3), 0.1, 0.5)(loops.outputs(*views), None, record, loops.CLOCK)
    z0, z1, m0, m1 = (z.detach() for z in views)
    mixed = 0.5 * soft_cross_entropy(m0, z1, 0.1) + 0.5 * soft_cross_entropy(m1, z0, 0.1)
    assert out["loss"].item() == pytest.approx(loops.nt_xent(z0, z1, 0.3) + mixed, abs=1e-10)
    (out["loss"] - out["clean_loss"]).backward()
    assert all(z.grad is not None and z.grad.abs().sum() > 0.01 for z in views)


def test_equal_sources_count_once() -> None:
    """A sample mixed with itself has one positive, not two: the clean query's loss over the batch and the queue."""
    q, k, memory = *rows(0, 1), loops.random_unit(9, 5, 3)
    own = list(range(6))
    for host, expected in (
        (MixCo(objective(memory, 0.3), 0.3, 1.0), None),
        (UnMix(objective(memory, 0.3), 1.0), loops.moco(q, k, memory, 0.3)),
    ):
        out = host(
            [{"projector": q}, None, {"projector": q}],
            [None, {"projector": k}],
            batch(None, None, mix(LAM, own)),
            loops.CLOCK,
        )
        if expected is None:
            logits = [[loops.dot(q[i], row) / 0.3 for row in (*k, *memory)] for i in own]
            expected = sum(loops.log_sum_exp(logits[i]) - logits[i][i] for i in own) / 6
        assert (out["loss"] - out["clean_loss"]).item() == pytest.approx(expected, abs=1e-10)


def test_outside_the_mixer_s_schedule_only_the_host_is_left() -> None:
    module = build_module(small("unmix", "mixer.stop=0.5"), has_labels=True)
    samples = Samples(torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8), torch.arange(6))
    for step, mixes in ((4, True), (5, False)):
        out = module.losses(samples, Clock(step, 0, 10))
        assert (out["loss"] > out["clean_loss"]).item() == mixes
        assert (out["loss"] == out["clean_loss"]).item() != mixes


def test_a_view_without_another_view_s_keys_is_refused() -> None:
    q, k, z, memory = *rows(0, 1, 2), loops.random_unit(9, 5, 3)
    unmix = UnMix(objective(memory, 0.3), 1.0)
    with pytest.raises(ValueError, match=r"mixer\.views names view 1, but only that view's own keys could answer"):
        unmix(
            [{"projector": q}, None, {"projector": z}],
            [None, {"projector": k}],
            batch(None, None, flipped(0.7, 1)),
            loops.CLOCK,
        )


@pytest.mark.parametrize(
    "build", [lambda host, weight: UnMix(host, weight), lambda host, weight: MixCo(host, 0.1, weight)]
)
def test_what_does_not_fit_is_refused(build) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="weight is 0: it must be above 0"):
        build(SimCLR(0.1), 0)
    with pytest.raises(ValueError, match=r"objective\.host is SupCon, which takes no terms of mixtures: choose SimCLR"):
        build(SupCon(0.1, 0.1), 1.0)
    with pytest.raises(ValueError, match=r"objective\.host is MoCo, .* MoCo with class_oracle: false"):
        build(objective(loops.random_unit(9, 5, 3), 0.3, class_oracle=True), 1.0)
    with pytest.raises(ValueError, match="temperature is 0: it must be above 0"):
        MixCo(SimCLR(0.1), 0, 1.0)


def test_mixtures_beside_the_clean_views_are_needed() -> None:
    with pytest.raises(ValueError, match="UnMix needs a mixer, but the config has mixer=none"):
        build_module(small("unmix_simclr", "mixer=none"), has_labels=True)
    with pytest.raises(ValueError, match=r"UnMix reads mixtures beside the clean views, but mixer\.add is false"):
        build_module(small("unmix_simclr", "mixer.add=false"), has_labels=True)


def test_any_mixer_may_make_the_mixtures() -> None:
    module = build_module(small("mixco_simclr", "mixer=resizemix"), has_labels=True)
    assert module.mixer is not None and module.mixer.add and module.mixer.views == [0, 1]
    samples = Samples(torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8), torch.arange(6))
    torch.manual_seed(1)
    out = module.losses(samples, Clock(0, 0, 10))
    torch.manual_seed(1)
    batch = module.mixer(module.views(samples), Clock(0, 0, 10), module.student)
    z = [view["projector"] / view["projector"].norm(dim=1, keepdim=True) for view in module.student(batch.views)]
    z = [each.detach() for each in z]
    expected, tau = 0.0, module.objective.temperature
    for number, of in ((2, 0), (3, 1)):
        mix = batch.mix[number]
        for i in range(6):
            s = [loops.dot(z[number][i], k) / tau for k in z[1 - of]]
            weighed = sum(float(mix.share[i, p]) * s[int(mix.source[i, p])] for p in range(2))
            expected += module.objective.weight * (loops.log_sum_exp(s) - weighed) / 6
    assert (out["loss"] - out["clean_loss"]).item() == pytest.approx(expected, rel=1e-4)


def test_partners_of_a_mixture_are_its_sources_only() -> None:
    """With the partners of the fixture, too, a term by sources is the sum of losses of pairs."""
    z0, z1, z = rows(0, 1, 2)
    out = UnMix(SimCLR(0.3), 1.0)(loops.outputs(z0, z1, z), None, batch(None, None, mix()), loops.CLOCK)
    expected = 0.0
    for chosen, share in ((list(range(6)), LAM), (PARTNER, [1 - lam for lam in LAM])):
        pair = [z, z1[chosen]]
        for a, b in (pair, pair[::-1]):
            for i in range(6):
                others = [loops.dot(a[i], x) / 0.3 for x in (*(a[j] for j in range(6) if j != i), *b)]
                expected += share[i] * (loops.log_sum_exp(others) - loops.dot(a[i], b[i]) / 0.3) / 12
    assert (out["loss"] - out["clean_loss"]).item() == pytest.approx(expected, abs=1e-10)
