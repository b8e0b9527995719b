"""Mixtures compared with images and with mixtures: SDMP, and what it shares with PatchMix."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ssl_framework.build import build_data, build_module
from ssl_framework.mixers.targets import common_targets, overlap, targets
from ssl_framework.objectives.mixture_pairs import Pair, mixture_pairs
from ssl_framework.objectives.mocov3 import MoCoV3
from ssl_framework.objectives.sdmp import SDMP, log_of_mean
from ssl_framework.types import Batch, Clock, Mix, Outputs, Samples
from tests.golden import golden, mix_rows
from tests.objectives import loops
from tests.small_runs import config, small

LAM = [0.9, 0.6, 0.8, 0.7, 0.55, 1.0]
HEADS = ("predictor", "projector")


def mix(of: int = 0, lam: list[float] = LAM, partner: list[int] | None = None) -> Mix:
    """Pairs of the batch and the batch backwards, if not told otherwise."""
    share, own = torch.tensor(lam, dtype=torch.float64), torch.arange(len(lam))
    other = own.flip(0) if partner is None else torch.tensor(partner)
    return Mix(torch.empty(0), torch.stack([own, other], dim=1), torch.stack([share, 1 - share], dim=1), None, of)


def views(head: str, first: int) -> list[Outputs | None]:
    """Two clean views and two mixtures."""
    return [{head: 2 * loops.random_unit(6, 5, first + v)} for v in range(4)]


def rows(outputs: list[Outputs | None], head: str) -> list[Tensor]:
    return [view[head] / 2 for view in outputs if view is not None]


Shares = dict[int, float]


def three_terms(
    q: list[Tensor],
    k: list[Tensor],
    tau: float,
    cost: Callable[[Shares, Shares], float],
    overlaps: list[Shares],
    sources: list[Shares],
) -> list[float]:
    """Both directions between images; the means of both from mixtures to images and to mixtures.

    Args:
        cost: share of some keys, and the logits of all -> number.
        overlaps: of each sample: what its mixture has in common with the mixtures of the other view.
        sources: of each sample: how much its mixtures show of whom.
    """
    n, terms = len(q[0]), [0.0, 0.0, 0.0]
    for v in range(2):
        for i in range(n):
            to_image = {j: loops.dot(q[v][i], k[1 - v][j]) / tau for j in range(n)}
            terms[0] += cost({i: 1.0}, to_image) / n
            to_image = {j: loops.dot(q[2 + v][i], k[1 - v][j]) / tau for j in range(n)}
            terms[1] += cost(sources[i], to_image) / n / 2
            to_mixture = {j: loops.dot(q[2 + v][i], k[3 - v][j]) / tau for j in range(n)}
            terms[2] += cost(overlaps[i], to_mixture) / n / 2
    return terms


def log_of_mean_by_loop(share: Shares, logits: Shares) -> float:
    whole = loops.log_sum_exp(list(logits.values()))
    return -math.log(sum(c * math.exp(logits[j] - whole) for j, c in share.items()))


def test_golden() -> None:
    partner = [1, 2, 0, 5, 3, 4]
    pair = Pair(mix_rows(0), mix_rows(1), targets(mix(partner=partner)))
    value = log_of_mean(pair, 0.2).mean().item()
    assert value == pytest.approx(golden("sdmp: log of the mixture of probabilities"), abs=1e-7)


def test_equals_the_loop() -> None:
    """The weights between mixtures are 1 / (1 + c) and c / (1 + c), c = min(l_i, 1 - l_j) + min(1 - l_i, l_j)."""
    student, teacher = views("predictor", 0), views("projector", 4)
    batch = Batch([], torch.arange(6), mix=[None, None, mix(0), mix(1)])
    out = SDMP(0.3)(student, teacher, batch, loops.CLOCK)
    common = [min(LAM[i], 1 - LAM[5 - i]) + min(1 - LAM[i], LAM[5 - i]) for i in range(6)]
    overlaps = [{i: 1 / (1 + c), 5 - i: c / (1 + c)} for i, c in enumerate(common)]
    sources = [{i: lam, 5 - i: 1 - lam} for i, lam in enumerate(LAM)]
    terms = three_terms(
        rows(student, "predictor"), rows(teacher, "projector"), 0.3, log_of_mean_by_loop, overlaps, sources
    )
    for name, term in zip(("clean", "mixed", "mixtures"), terms, strict=True):
        assert out[f"{name}_loss"].item() == pytest.approx(term, abs=1e-10)
    assert out["loss"].item() == pytest.approx(2 * 0.3 * sum(terms), abs=1e-10)


def test_shares_that_differ_between_the_views_are_compared_by_their_overlap() -> None:
    other = [0.5, 0.2, 0.8, 0.1, 0.55, 0.3]
    got = common_targets(mix(0), mix(1, other))
    for i in range(6):
        own = min(LAM[i], other[i]) + min(1 - LAM[i], 1 - other[i])
        partner = min(LAM[i], 1 - other[5 - i]) + min(1 - LAM[i], other[5 - i])
        assert got[i, i].item() == pytest.approx(own / (own + partner), abs=1e-10)
        assert got[i, 5 - i].item() == pytest.approx(partner / (own + partner), abs=1e-10)
    torch.testing.assert_close(got.sum(dim=1), torch.ones(6, dtype=torch.float64))


def test_mixtures_without_anything_in_common_take_their_own_place() -> None:
    whole, turned = mix(0, [1.0] * 6), mix(1, [0.0] * 6, [1, 2, 3, 4, 5, 5])
    assert overlap(targets(whole), targets(turned)).sum(dim=1).tolist() == [0, 1, 1, 1, 1, 2]
    got = common_targets(whole, turned)
    expected = [
        [1.0, 0, 0, 0, 0, 0],
        *([float(j == i - 1) for j in range(6)] for i in range(1, 5)),
        [0, 0, 0, 0, 0.5, 0.5],
    ]
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))


def test_unmixed_it_is_mocov3_twice_and_without_mixtures_once() -> None:
    """A mixture that shows one image alone, and is encoded as that image is, asks what the image asks."""
    student, teacher = views("predictor", 0)[:2], views("projector", 4)[:2]
    whole = [None, None, mix(0, [1.0] * 6), mix(1, [1.0] * 6)]
    batch = Batch([], torch.arange(6), mix=whole)
    once = MoCoV3(0.2)(student, teacher, loops.batch(6), loops.CLOCK)["loss"]
    out = SDMP(0.2)(student + student, teacher + teacher, batch, loops.CLOCK)
    torch.testing.assert_close(out["loss"], 2 * once)
    outside = SDMP(0.2)(student, teacher, loops.batch(6), loops.CLOCK)
    torch.testing.assert_close(outside["loss"], once)
    assert set(outside) == {"loss", "clean_loss"}


def test_half_and_half_of_equal_images_is_found_by_either() -> None:
    """One of two equal keys holds half the probability: the logarithm of the mean does not mind which."""
    q, keys = torch.eye(2, dtype=torch.float64)[:1], torch.eye(2, dtype=torch.float64)
    for share in (0.5, 0.9):
        pair = Pair(q, keys, torch.tensor([[share, 1 - share]]))
        assert log_of_mean(pair, 1e-3).item() == pytest.approx(-math.log(share), abs=1e-6)
        same = Pair(q, keys[[0, 0]], pair.share)
        assert log_of_mean(same, 0.2).item() == pytest.approx(math.log(2), abs=1e-6)


def test_no_gradient_reaches_the_keys_and_every_view_gets_some() -> None:
    student, teacher = views("predictor", 0), views("projector", 4)
    for view in student + teacher:
        assert view is not None
        next(iter(view.values())).requires_grad_()
    batch = Batch([], torch.arange(6), mix=[None, None, mix(0), mix(1)])
    SDMP(0.2)(student, teacher, batch, loops.CLOCK)["loss"].backward()
    assert all(view["predictor"].grad.abs().sum() > 1e-3 for view in student if view is not None)
    assert all(view["projector"].grad is None for view in teacher if view is not None)


def test_mixtures_of_one_view_only_are_refused() -> None:
    batch = Batch([], torch.arange(6), mix=[None, None, mix(1), mix(1)])
    with pytest.raises(ValueError, match=r"mixer\.views names view 1 only, .*: set mixer\.views=\[0,1\]"):
        mixture_pairs(views("predictor", 0), views("projector", 4), batch, *HEADS)
    with pytest.raises(ValueError, match="temperature is 0: it must be above 0"):
        SDMP(0)


def seen_by(method: str, *overrides: str) -> list[list[int]]:
    """Which views student and teacher encode in one step, call by call."""
    cfg = small(method, *overrides)
    data = build_data(cfg).pretrain
    module = build_module(cfg, True, data.shape[0])
    found: list[list[int]] = []
    for encoder in (module.student, module.teacher):
        forward = encoder.forward

        def spy(images: list[Tensor], *rest: object, forward: Callable = forward) -> list[Outputs | None]:
            out = forward(images, *rest)
            found.append([v for v, view in enumerate(out) if view is not None])
            return out

        encoder.forward = spy
    module.losses(Samples(data.rows[:8], torch.arange(8), None), Clock(5, 0, 10))
    return found


@pytest.mark.parametrize(
    "overrides",
    [(), ("teacher_views=[0,1]", "student_views=[0,1]"), ("mixer=mixup",), ("data.micro_batch_size=4",)],
)
def test_the_teacher_sees_mixtures_where_they_are_asked_for(overrides: tuple[str, ...]) -> None:
    found = seen_by("sdmp", *overrides)
    assert len(found) >= 2 and all(views == [0, 1, 2, 3] for views in found)


def test_before_the_mixer_begins_both_see_the_clean_views() -> None:
    assert seen_by("sdmp", "mixer.start=0.9") == [[0, 1], [0, 1]]


def test_mixers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="SDMP needs a mixer, but the config has mixer=none"):
        build_module(config("method=sdmp", "mixer=none"), True)
    with pytest.raises(ValueError, match="SDMP needs keys of mixtures, but ManifoldMixup mixes inside the student"):
        build_module(config("method=sdmp", "mixer=manifold_mixup"), True)
    with pytest.raises(ValueError, match=r"mixer\.add is false.*set mixer\.add=true"):
        build_module(config("method=sdmp", "mixer.add=false"), True)
