import math

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.hybrid_distillation import HybridDistillation, least_redundant, relation_loss
from ssl_framework.training.parts import begin_with_weights
from tests.golden import golden, mix_raw
from tests.objectives import loops


def objective(keep: float = 0.5) -> HybridDistillation:
    torch.manual_seed(0)
    found = HybridDistillation(6, 0.7, 1.3, 0.5, keep)
    found.meet({"patches": 5})
    return found.double()


def test_golden() -> None:
    name = "hybrid_distillation: relation term KL(teacher || student) of softmax(X X^T / sqrt d), mean over rows"
    assert relation_loss(mix_raw(1), mix_raw(0)).item() == pytest.approx(golden(name), abs=1e-7)


def relations(x: Tensor) -> list[list[float]]:
    found = []
    for row in x:
        logits = [loops.dot(row, other) / math.sqrt(x.shape[1]) for other in x]
        found.append([math.exp(logit - loops.log_sum_exp(logits)) for logit in logits])
    return found


def views() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Three samples of four patches and two layers; teachers of other widths."""
    student = {"patch_features": mix_raw(0, 12, 6).view(3, 4, 6), "layers": mix_raw(1, 24, 6).view(3, 2, 4, 6)}
    teacher = {"patches": mix_raw(2, 12, 5).view(3, 4, 5), "second.layers": mix_raw(3, 24, 8).view(3, 2, 4, 8)}
    return student, teacher


def test_equals_the_loop() -> None:
    own, (student, teacher) = objective(), views()
    out = own([student], [teacher], loops.batch(3), loops.CLOCK)
    errors, divergences = [], []
    for b in range(3):
        x = student["patch_features"][b]
        mean = x.mean(dim=0)
        alike = [loops.dot(row, mean) / float(row.norm() * mean.norm()) for row in x]
        for n in sorted(range(4), key=lambda n: alike[n])[:2]:
            known = teacher["patches"][b, n]
            deviation = math.sqrt(float(((known - known.mean()) ** 2).mean()) + 1e-5)
            for t in range(5):
                predicted = loops.dot(own.regressor.weight[t].detach(), x[n]) + own.regressor.bias[t].item()
                error = abs(predicted - (known[t].item() - known.mean().item()) / deviation)
                errors.append(error**2 / 1.0 if error < 0.5 else error - 0.25)
        for layer in range(2):
            p = relations(teacher["second.layers"][b, layer])
            q = relations(student["layers"][b, layer])
            divergences += [sum(x * math.log(x / y) for x, y in zip(p[n], q[n], strict=True)) for n in range(4)]
    feature, relation = sum(errors) / len(errors), sum(divergences) / len(divergences)
    assert out["feature_loss"].item() == pytest.approx(feature, abs=1e-10)
    assert out["relation_loss"].item() == pytest.approx(relation, abs=1e-10)
    assert out["loss"].item() == pytest.approx(0.7 * feature + 1.3 * relation, abs=1e-10)


def test_patches_that_are_like_the_mean_are_left_out() -> None:
    x = torch.tensor([[[1.0, 0], [1, 0.1], [1, -0.1], [-1, 5]]])
    assert least_redundant(x, 1).tolist() == [[2]] or least_redundant(x, 1).tolist() == [[3]]
    assert sorted(least_redundant(x, 4)[0].tolist()) == [0, 1, 2, 3]


def test_the_second_teacher_has_relations_of_any_width_and_as_many_layers() -> None:
    student, teacher = views()
    teacher["second.layers"] = teacher["second.layers"][:, :1]
    with pytest.raises(ValueError, match="the student has 4 patches and 2 layers, its teachers 4 and 4 patches and 1"):
        objective()([student], [teacher], loops.batch(3), loops.CLOCK)


def test_both_teachers_need_weights() -> None:
    from ssl_framework.build import build_module
    from tests.small_runs import small

    cfg = small("hybrid_distillation")
    module = build_module(cfg, False, 48)
    with pytest.raises(ValueError, match=r"no weights are named for it: set teacher\.backbone\.weights="):
        begin_with_weights(module)
    assert module.teacher is not None
    module.teacher.encoder.backbone.weights = "somewhere"
    with pytest.raises(ValueError, match=r"no weights are named for it: set teacher\.second\.weights="):
        begin_with_weights(module)
