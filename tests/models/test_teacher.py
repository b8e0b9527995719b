"""The teacher's momentum against its closed form, at every step of a run."""

import math

import pytest
import torch

from ssl_framework.build import build_module
from ssl_framework.models.encoder import EMATeacher
from ssl_framework.types import Clock
from tests.small_runs import small


def test_a_rising_momentum_is_that_of_the_step_just_made() -> None:
    """As the code of BYOL and DINO: 1 - (1 - m) (1 + cos(pi t / T)) / 2 after step t = 0 ... T - 1."""
    module = build_module(small("byol"), has_labels=True)
    teacher = module.teacher
    assert isinstance(teacher, EMATeacher)
    (name, mine), *_ = teacher.encoder.named_parameters()
    theirs = dict(module.student.named_parameters())[name]
    expected = mine.detach().double().clone()
    with torch.no_grad():
        theirs.add_(1.0)
    momenta = [teacher.update(module.student, Clock(step, 0, 4)) for step in range(4)]
    closed = [1 - (1 - 0.99) * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    assert momenta == pytest.approx(closed, abs=1e-15)
    assert momenta[0] == 0.99 and momenta[2] == pytest.approx(0.995, abs=1e-15)
    for momentum in closed:
        expected = momentum * expected + (1 - momentum) * theirs.detach().double()
    torch.testing.assert_close(mine.double(), expected, rtol=0, atol=1e-6)
