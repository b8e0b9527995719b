import math

import pytest
import torch
from torch import Tensor, nn

from ssl_framework.memory import Queue
from ssl_framework.objectives.amcl import AMCL, AMCLBarlow, AMCLMoCo, PairTemperature, contrast
from ssl_framework.objectives.barlow_twins import BarlowTwins
from tests.golden import core_view, golden
from tests.objectives import loops

HEADS = ["projector_0", "projector_1"]
LOGGED = ("loss", "temperature_positive", "temperature_negative", "share_at_bound")


def temperature(dim: int = 5, low: float = 0.1, up: float = 2.0, init: float = 0.5) -> PairTemperature:
    torch.manual_seed(0)
    made = PairTemperature(dim, 7, low, up, init).double()
    with torch.no_grad():  # large enough that temperatures differ much
        for p in made.phi.parameters():
            p.mul_(4)
    return made


def outputs(*views: list[Tensor]) -> list:
    """One entry a view, of one embedding a head."""
    return [dict(zip(HEADS, view, strict=True)) for view in views]


def rows(count: int, n: int = 5, first: int = 0) -> list[Tensor]:
    return [loops.random_unit(n, 5, first + seed) for seed in range(count)]


def phi(t: PairTemperature, x: list[float]) -> list[float]:
    """The perceptron by loops over its weights."""
    first, _, last = t.phi
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)

    def layer(linear: nn.Linear, inputs: list[float]) -> list[float]:
        rows = zip(linear.weight.tolist(), linear.bias.tolist(), strict=True)
        return [sum(w * v for w, v in zip(row, inputs, strict=True)) + bias for row, bias in rows]

    return layer(last, [max(0.0, h) for h in layer(first, x)])


def tau_of(t: PairTemperature, score: float) -> float:
    return t.low + (t.up - t.low) / (1 + math.exp(score - t.bias.item()))


def tau_of_pair(t: PairTemperature, a: Tensor, b: Tensor) -> float:
    mapped = zip(phi(t, a.tolist()), phi(t, b.tolist()), strict=True)
    return tau_of(t, sum(x * y for x, y in mapped))


def omega(tau: float, dim: int) -> float:
    return dim / 2 * math.log(tau) + 1 / tau


def at_bound(t: PairTemperature, tau: float) -> float:
    return float(min(tau - t.low, t.up - tau) < 0.01 * (t.up - t.low))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def one_anchor(
    anchor: Tensor, positive: Tensor, negatives: list[Tensor], t: PairTemperature, beta: float, num_hard: int | None
) -> list[float]:
    """Loss, temperature of the positive, mean one of the negatives that count, share at a bound."""
    dim, tau = len(anchor), tau_of_pair(t, anchor, positive)
    ranked = sorted(((loops.dot(anchor, n), tau_of_pair(t, anchor, n)) for n in negatives), reverse=True)
    counted = ranked if num_hard is None else ranked[:num_hard]
    similarity = loops.dot(anchor, positive)
    loss = -similarity / tau + beta * omega(tau, dim) - beta * mean([omega(x, dim) for _, x in counted])
    scaled = [s / x for s, x in counted]
    loss += mean(scaled) if num_hard is not None else loops.log_sum_exp([similarity / tau, *scaled])
    bound = (at_bound(t, tau) + mean([at_bound(t, x) for _, x in counted])) / 2
    return [loss, tau, mean([x for _, x in counted]), bound]


def combined(heads: list[list[list[float]]]) -> list[float]:
    """Heads x anchors x values: mean over anchors, then losses are summed and the rest averaged over heads."""
    means = [[mean(list(column)) for column in zip(*head, strict=True)] for head in heads]
    return [sum(head[0] for head in means)] + [mean([head[i] for head in means]) for i in (1, 2, 3)]


def assert_equals(out: dict[str, Tensor], expected: list[float]) -> None:
    for name, value in zip(LOGGED, expected, strict=True):
        assert out[name].item() == pytest.approx(value, abs=1e-9), name


def test_golden() -> None:
    """Its temperatures are .2 + .6 sigmoid(3 s); ours fall with the inner product, so the score's sign is turned."""

    class Rising(PairTemperature):
        def forward(self, score: Tensor) -> Tensor:
            return super().forward(-3 * score)

    t = Rising(4, 1, 0.2, 0.8, 0.5).double()
    t.phi = nn.Sequential()  # the identity
    z0, z1 = core_view(0), core_view(1)
    value = contrast(z0, z1, z1, torch.arange(6)[:, None], t, 0.1, 1)[0].item()
    name = "amcl: loss of one head, anchors Z0, candidates Z1, tau_ij = .2 + .6 sigmoid(3 s_ij)"
    assert value == pytest.approx(golden(name), abs=1e-7)


@pytest.mark.parametrize("num_hard", [1, 3, None])
def test_simclr_equals_the_loop(num_hard: int | None) -> None:
    t, (a0, a1, b0, b1) = temperature(), rows(4)
    out = AMCL(HEADS, t, 0.3, num_hard)(outputs([a0, 2 * b0], [a1, b1]), None, loops.batch(5), loops.CLOCK)
    heads = []
    for x, y in ((a0, a1), (b0, b1)):
        z = [*x, *y]
        negatives = [[z[j] for j in range(10) if j % 5 != i % 5] for i in range(10)]
        heads.append([one_anchor(z[i], z[(i + 5) % 10], negatives[i], t, 0.3, num_hard) for i in range(10)])
    assert_equals(out, combined(heads))


def moco(t: PairTemperature, queues: list[Tensor], num_hard: int | None) -> AMCLMoCo:
    made = AMCLMoCo(HEADS, t, 0.3, num_hard, lambda: Queue(*queues[0].shape)).double()
    for memory, content in zip(made.queues.values(), queues, strict=True):
        memory.rows.copy_(content)  # type: ignore[union-attr, operator]
    return made


@pytest.mark.parametrize("num_hard", [1, 3, None])
def test_moco_equals_the_loop_and_keeps_a_queue_for_each_head(num_hard: int | None) -> None:
    t, q, k, queues = temperature(), rows(2), rows(2, first=2), rows(2, n=9, first=4)
    objective = moco(t, queues, num_hard)
    out = objective([outputs(q)[0], None], [None, outputs([2 * k[0], k[1]])[0]], loops.batch(5), loops.CLOCK)
    heads = [
        [one_anchor(q[c][i], k[c][i], list(queues[c]), t, 0.3, num_hard) for i in range(5)] for c in range(len(HEADS))
    ]
    assert_equals(out, combined(heads))
    for c, memory in enumerate(objective.queues.values()):
        torch.testing.assert_close(memory.read(), torch.cat([k[c], queues[c][5:]]))  # type: ignore[operator]


def standardised(z: Tensor) -> list[list[float]]:
    """Columns."""
    out = []
    for column in z.T.tolist():
        deviation = math.sqrt(mean([(x - mean(column)) ** 2 for x in column]) + 1e-5)
        out.append([(x - mean(column)) / deviation for x in column])
    return out


def test_barlow_equals_the_loop() -> None:
    t, (a0, a1, b0, b1) = temperature(dim=1), rows(4, n=6)
    objective = AMCLBarlow(HEADS, t, beta=0.02, off_diagonal_weight=0.3, scale=0.5)
    out = objective(outputs([a0, b0], [a1, b1]), None, loops.batch(6), loops.CLOCK)
    total, positives, negatives, bounds = 0.0, [], [], []
    for x, y in ((a0, a1), (b0, b1)):
        left, right = standardised(x), standardised(y)
        for i in range(5):
            for j in range(5):
                correlation = mean([u * v for u, v in zip(left[i], right[j], strict=True)])
                pairs = zip(left[i], right[j], strict=True)
                tau = tau_of(t, mean([phi(t, [u])[0] * phi(t, [v])[0] for u, v in pairs]))
                bounds.append(at_bound(t, tau))
                (positives if i == j else negatives).append(tau)
                if i == j:
                    total += (1 - correlation / tau) ** 2 + 0.02 * omega(tau, 5)
                else:
                    total += 0.3 * correlation**2 / tau - 0.02 * omega(tau, 5)
    assert_equals(out, [0.5 * total, mean(positives), mean(negatives), mean(bounds)])
    assert len({round(tau, 3) for tau in positives + negatives}) > 20  # else the test could not see which is which


def constant(dim: int, tau: float) -> PairTemperature:
    """The same temperature for every pair."""
    made = PairTemperature(dim, 3, 0.01, 2.0, tau).double()
    for p in made.phi.parameters():
        nn.init.zeros_(p)
    return made


def test_with_one_temperature_the_softmax_is_nt_xent_and_barlow_is_barlow_twins() -> None:
    a0, a1, b0, b1 = rows(4)
    views = outputs([a0, b0], [a1, b1])
    value = AMCL(HEADS, constant(5, 0.3), 0.5, None)(views, None, loops.batch(5), loops.CLOCK)
    expected = loops.nt_xent(a0, a1, 0.3) + loops.nt_xent(b0, b1, 0.3)
    assert value["loss"].item() == pytest.approx(expected, abs=1e-7)
    assert value["temperature_positive"].item() == pytest.approx(0.3, abs=1e-7)
    plain = sum(BarlowTwins(0.3, 0.5, head)(views, None, loops.batch(5), loops.CLOCK)["loss"].item() for head in HEADS)
    objective = AMCLBarlow(HEADS, constant(1, 1.0), 0.0, 0.3, 0.5)
    assert objective(views, None, loops.batch(5), loops.CLOCK)["loss"].item() == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize("num_hard", [2, None])
def test_invariances(num_hard: int | None) -> None:
    """Temperatures read the embeddings, so a rotation changes the loss; the order of samples does not."""
    a0, a1, b0, b1 = rows(4)
    losses = []
    for order in (torch.arange(5), torch.tensor([3, 1, 4, 0, 2])):
        views = outputs([a0[order], b0[order]], [a1[order], b1[order]])
        objectives = (AMCL(HEADS, temperature(), 0.3, num_hard), AMCLBarlow(HEADS, temperature(1), 0.02, 0.3, 0.5))
        losses.append([o(views, None, loops.batch(5), loops.CLOCK)["loss"].item() for o in objectives])
    assert losses[0] == pytest.approx(losses[1], abs=1e-10)


def test_temperatures_stay_between_their_bounds_and_fall_with_the_score() -> None:
    t = temperature(low=0.1, up=2.0, init=0.5)
    tau = t(torch.tensor([-1e4, -1.0, 0.0, 1.0, 1e4], dtype=torch.float64))
    assert tau.tolist() == sorted(tau.tolist(), reverse=True)
    assert (tau[0].item(), tau[-1].item()) == pytest.approx((2.0, 0.1))
    assert tau[2].item() == pytest.approx(0.5, abs=1e-6)
    assert t.at_bound(tau).tolist() == [1, 0, 0, 0, 1]


def test_every_weight_of_the_temperature_gets_a_gradient() -> None:
    t = temperature()
    views = outputs(rows(2), rows(2, first=2))
    AMCL(HEADS, t, 0.3, 1)(views, None, loops.batch(5), loops.CLOCK)["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in t.parameters())


def test_refused_settings() -> None:
    for low, up in ((0.0, 2.0), (2.0, 2.0), (3.0, 2.0)):
        said = "low is 0.0: it must be above 0" if low == 0 else f"low is {low} and up is {up}: it takes 0 < low"
        with pytest.raises(ValueError, match=said):
            PairTemperature(4, 4, low, up, 0.1)
    with pytest.raises(ValueError, match=r"objective\.temperature\.init is 3: it must lie between low=0\.1 and up=2"):
        PairTemperature(4, 4, 0.1, 2, 3)
    with pytest.raises(ValueError, match=r"objective\.heads is empty: name at least one of student\.heads"):
        AMCL([], temperature(), 0.1, 1)
    with pytest.raises(ValueError, match="beta is -1: it must be at least 0"):
        AMCLMoCo(HEADS, temperature(), -1, 1, lambda: Queue(4, 5))
    with pytest.raises(ValueError, match="num_hard is 0: it must be at least 1, or null"):
        AMCL(HEADS, temperature(), 0.1, 0)
    with pytest.raises(ValueError, match=r"objective\.num_hard is 5, but there are only 4 negatives"):
        AMCLMoCo(HEADS, temperature(), 0.1, 5, lambda: Queue(4, 5))
    views = outputs(rows(2, n=3), rows(2, n=3, first=2))
    with pytest.raises(ValueError, match=r"objective\.num_hard is 5, but there are only 4 negatives.*data\.batch_size"):
        AMCL(HEADS, temperature(), 0.1, 5)(views, None, loops.batch(3), loops.CLOCK)
    with pytest.raises(ValueError, match=r"objective\.temperature\.dim is 5: for Barlow Twins it must be 1"):
        AMCLBarlow(HEADS, temperature(), 0.1, 0.3, 1.0)
    with pytest.raises(ValueError, match="scale is 0: it must be above 0"):
        AMCLBarlow(HEADS, temperature(1), 0.1, 0.3, 0)
    with pytest.raises(ValueError, match="off_diagonal_weight is -1: it must be at least 0"):
        AMCLBarlow(HEADS, temperature(1), 0.1, -1, 1)
