"""SimCTG and the isotropy: the golden values, a loop, padding that changes nothing, and tokens that spread."""

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.simctg import SimCTG, isotropy
from tests.golden import golden, mix_raw
from tests.objectives import loops


def fixture() -> Tensor:
    """Two texts of 5 and 4 tokens, [2, 5, 8]."""
    states = mix_raw(0, 10) + 1.5
    states = (states / states.norm(dim=1, keepdim=True)).view(2, 5, 8)
    return states * torch.tensor([[1.0] * 5, [1.0] * 4 + [0.0]], dtype=torch.float64)[..., None]


def loss(*states: Tensor, margin: float = 0.5) -> Tensor:
    outputs = loops.outputs(*states, head="tokens")
    return SimCTG(margin)(outputs, None, loops.batch(len(states[0])), loops.CLOCK)["loss"]


def test_golden() -> None:
    name = "simctg: token contrast, margin .5, lengths 5 and 4"
    assert loss(fixture()).item() == pytest.approx(golden(name), abs=1e-7)
    name = "isotropy: 1 - mean cosine of different tokens, sequence 0"
    assert isotropy(fixture())[0].item() == pytest.approx(golden(name), abs=1e-7)


def test_equals_the_loop_over_views_of_other_lengths() -> None:
    views, margin = (mix_raw(1, 6).view(2, 3, 8), mix_raw(2, 8).view(2, 4, 8)), 0.8
    terms, per_text = [], []
    for states in views:
        for text in states:
            own = []
            for i, a in enumerate(text):
                for j, b in enumerate(text):
                    if i != j:
                        own.append(loops.dot(a / a.norm(), b / b.norm()))
            terms += [max(0.0, margin - 1 + s) for s in own]
            per_text.append(1 - sum(own) / len(own))
    assert loss(*views, margin=margin).item() == pytest.approx(sum(terms) / len(terms), abs=1e-10)
    assert torch.cat([isotropy(states) for states in views]).tolist() == pytest.approx(per_text, abs=1e-10)


def test_padding_and_lengths_of_states_change_nothing() -> None:
    states = fixture()
    longer = torch.cat([states, torch.zeros(2, 3, 8)], dim=1)
    assert loss(3 * longer).item() == pytest.approx(loss(states).item(), abs=1e-12)
    assert loss(torch.zeros(2, 3, 8)).item() == 0 and isotropy(torch.zeros(1, 3, 8)).isnan().all()


def test_tokens_that_all_point_one_way_come_apart() -> None:
    torch.manual_seed(0)
    states = (1 + 0.1 * torch.randn(2, 4, 6)).requires_grad_()
    solver = torch.optim.Adam([states], 0.1)
    assert isotropy(states).max() < 0.05
    for _ in range(40):
        solver.zero_grad()
        loss(states).backward()
        solver.step()
    assert isotropy(states.detach()).min() > 0.4 and loss(states) < 0.05
