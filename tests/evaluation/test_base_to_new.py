import pytest
import torch

from ssl_framework.evaluation.base_to_new import BaseToNew, base_to_new
from tests.small_runs import run_in, small


def test_each_part_is_scored_among_its_own_classes() -> None:
    logits = torch.tensor([[1.0, 0, 9, 9], [1, 0, 9, 9], [9, 9, 0, 1], [9, 9, 0, 1], [9, 9, 1, 0], [0, 1, 0, 0]])
    found = base_to_new(logits, torch.tensor([0, 1, 3, 3, 3, 1]), 0.5)
    name = "base_to_new[base=2,new=2]"
    assert found == pytest.approx({f"{name}/base": 200 / 3, f"{name}/new": 200 / 3, f"{name}/harmonic": 200 / 3})
    one = base_to_new(logits[[0, 2]], torch.tensor([0, 2]), 0.5)
    assert one == pytest.approx({f"{name}/base": 100, f"{name}/new": 0, f"{name}/harmonic": 0})
    assert base_to_new(logits[:2], torch.tensor([2, 3]), 1.0) == {"base_to_new[base=4,new=0]/base": 50.0}


def test_a_student_without_class_scores_is_refused(tmp_path: object) -> None:
    with pytest.raises(ValueError, match=r"reads the class scores of the head classifier, which the student has not"):
        run_in(tmp_path, small("simclr", "evaluation=base_to_new"))  # type: ignore[arg-type]


def test_chance_is_that_of_each_part() -> None:
    class Student:
        dims = {"classifier": 6}  # noqa: RUF012

    class Module:
        student = Student()

    found = BaseToNew("classifier", 0.5).chance(Module(), None)  # type: ignore[arg-type]
    assert found == pytest.approx(
        dict.fromkeys((f"base_to_new[base=3,new=3]/{part}" for part in ("base", "new", "harmonic")), 100 / 3)
    )
