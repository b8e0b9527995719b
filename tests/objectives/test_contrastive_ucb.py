"""Contrastive UCB: the golden values, a loop, the transitions of a low-rank decision process found from samples alone,
and a bonus that is spent by trying."""

import math

import pytest
import torch

from ssl_framework.objectives.contrastive_ucb import bonus, transition_loss
from tests.golden import golden, mix_rows

PHI = torch.tensor([[1.0, 0], [0.5, 0.5], [0, 1], [0.25, 0.75]], dtype=torch.float64)  # [4 pairs (s, a), 2]
PSI = torch.tensor([[4.0, 0], [4, 4], [0, 4], [0, 0]], dtype=torch.float64) / 8  # [4 next states, 2]
COUNT = (8 * PHI @ PSI.T).round().long()  # [4, 4]: how often s' follows in 4 or 8 trials, P = COUNT / sum


def outcomes(f: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """f [4, 4] of what followed, as often as it did (every pair is tried alike), and of noise that is uniform."""
    return f.flatten().repeat_interleave(COUNT.flatten()), f.flatten()


def test_golden() -> None:
    phi, psi, noise = (mix_rows(s).abs() for s in range(3))
    found = transition_loss((phi * psi).sum(dim=1), (phi * noise).sum(dim=1)).item()
    name = "contrastive_ucb: mean log(1 + 1/f) of real transitions + mean log(1 + f) of noise"
    assert found == pytest.approx(golden(name), abs=1e-7)
    name = "contrastive_ucb: bonus sqrt(phi^T (I + sum phi phi^T)^-1 phi) of the rows of B after A"
    assert bonus(mix_rows(0), mix_rows(1), 1.0).tolist() == pytest.approx(golden(name), abs=1e-7)


def test_the_loss_equals_the_loop() -> None:
    real, noise = [0.3, 2.0, 1.1], [0.2, 0.7]
    expected = sum(math.log(1 + 1 / f) for f in real) / 3 + sum(math.log(1 + f) for f in noise) / 2
    assert transition_loss(torch.tensor(real).double(), torch.tensor(noise).double()).item() == pytest.approx(expected)


def test_features_of_the_decision_process_are_found_from_its_transitions() -> None:
    """The least loss is at f = P / P_noise, which two features of each side can give."""
    truth = COUNT.double() / 8 / 0.25  # [4, 4]
    assert (COUNT.sum(dim=1) == 8).all()
    torch.manual_seed(0)
    parts = [torch.randn(4, 2, dtype=torch.float64).requires_grad_() for _ in range(2)]
    solver = torch.optim.Adam(parts, 0.1)
    for _ in range(250):
        ratio = parts[0].square() @ parts[1].square().T + 1e-6  # [4, 4]
        solver.zero_grad()
        transition_loss(*outcomes(ratio)).backward()
        solver.step()
    torch.testing.assert_close(ratio.detach(), truth, atol=1e-4, rtol=0)


def test_the_bonus_falls_with_the_trials_of_a_direction_alone() -> None:
    one, other = torch.eye(2, dtype=torch.float64)
    found = bonus(one.repeat(8, 1), torch.stack([one, other]), 1.0)
    assert found.tolist() == pytest.approx([1 / 3, 1])
    assert bonus(one[None], torch.stack([one, other]), 1.0, scale=3.0, most=2.5).tolist() == pytest.approx(
        [3 / math.sqrt(2), 2.5]
    )


def test_whoever_follows_the_bonus_tries_everything() -> None:
    arms, tried = torch.eye(4, dtype=torch.float64), [0]
    for _ in range(11):
        tried.append(int(bonus(arms[tried], arms, 1.0).argmax()))
    assert sorted(tried) == sorted([*range(4)] * 3)
