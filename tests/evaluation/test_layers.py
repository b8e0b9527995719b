"""Layers together: planted ones by hand, loops, and a run that scores itself; tokens; one class against the rest."""

import math

import pytest
import torch
from torch import Tensor

from ssl_framework.build import build, build_module
from ssl_framework.data.base import Split
from ssl_framework.evaluation.features import Frozen, Readout, Splits
from ssl_framework.evaluation.probes.layer_contrast import LayerContrast
from ssl_framework.evaluation.probes.layer_ood import LayerOOD, mahalanobis, nearest
from ssl_framework.evaluation.probes.one_class import OneClass
from ssl_framework.objectives.simctg import isotropy
from ssl_framework.training.parts import build_evaluation
from tests.small_runs import config, small


def rows(count: int, dim: int, seed: int) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def test_the_distance_is_that_of_mahalanobis_and_the_cosine_the_largest() -> None:
    bank, asked = rows(20, 3, 0).double(), rows(4, 3, 1).double()
    mean = bank.mean(dim=0)
    covariance = sum(torch.outer(x - mean, x - mean) for x in bank) / 20
    covariance = covariance + 0.1 * covariance.trace() / 3 * torch.eye(3)  # type: ignore[operator]
    expected = [math.sqrt((x - mean) @ torch.linalg.inv(covariance) @ (x - mean)) for x in asked]
    assert mahalanobis(bank, asked, 0.1).tolist() == pytest.approx(expected)
    cosines = [max(float(x @ y / x.norm() / y.norm()) for y in bank) for x in asked]
    assert nearest(bank, asked).tolist() == pytest.approx(cosines, abs=1e-6)


def test_a_class_that_only_an_early_layer_shows_is_found_by_all_layers() -> None:
    """The early layer has class 2 far away, the last one has noise alone."""
    y = torch.arange(90) % 3
    early = rows(90, 4, 0) + 9 * (y == 2)[:, None] * torch.tensor([1, 1, 0, 0])
    layers = [Frozen(early, y), Frozen(rows(90, 4, 1), y)]
    found = LayerOOD([2], 1e-3)(layers, layers)
    name = "layer_ood[classes=2,layers=2]"
    assert set(found) == {f"{name}/auroc{end}" for end in ("", "_mahalanobis", "_cosine", "_last_layer")}
    assert found[f"{name}/auroc"] > 95 and found[f"{name}/auroc_last_layer"] < 95
    with pytest.raises(ValueError, match=r"ood\.classes is \[7\]: name classes of which the test split has samples"):
        LayerOOD([7], 1e-3)(layers, layers)


def test_the_contrast_of_layers_is_that_of_their_classifiers() -> None:
    y = torch.arange(60) % 3
    centres = 3 * torch.eye(3)
    train, test = (
        [Frozen(centres[y] + rows(60, 3, s), y), Frozen(centres[y] + 0.3 * rows(60, 3, s), y)] for s in (0, 5)
    )
    found = LayerContrast(0.1, 1e-4, 30)(train, test)
    assert list(found) == [
        f"layer_contrast[{what}]/top1" for what in ("layer=1", "layer=2", "amateur=1,alpha=0.1", "amateur=1,adaptive")
    ]
    assert found["layer_contrast[layer=2]/top1"] == found["layer_contrast[amateur=1,adaptive]/top1"] == 100
    assert 50 < found["layer_contrast[layer=1]/top1"] < 100


def test_layers_of_a_module_are_means_over_places_of_its_blocks() -> None:
    module = build_module(small("simclr"), True)
    evaluation = build(config("evaluation=layers", "evaluation.blocks=[1,-1]").evaluation)
    images = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = Split(images, torch.arange(6) % 3)
    first, last = evaluation.layers(module, split, "test")
    block = module.student.backbone.block(1, "")
    seen: list[Tensor] = []
    module.eval()
    with torch.no_grad(), module.student.backbone.changed_at(block, seen.append):
        pooled = module.student.embed(module.views.clean(images))
    torch.testing.assert_close(first.x, seen[0].mean(dim=(2, 3)))
    torch.testing.assert_close(last.x, pooled)  # the mean over the last map is what evaluators read
    assert set(evaluation.score(module, Splits(split, split))) == {
        *(f"layer_ood[classes=0+1,layers=2]/auroc{end}" for end in ("", "_mahalanobis", "_cosine", "_last_layer")),
        *(f"layer_contrast[{a}]/top1" for a in ("layer=1", "layer=2", "amateur=1,alpha=0.1", "amateur=1,adaptive")),
    }
    with pytest.warns(UserWarning, match="evaluation=layers skipped: it needs labels and a test split"):
        assert evaluation.score(module, Splits(Split(images), Split(images))) == {}


def test_a_training_that_could_not_be_scored_at_its_end_does_not_begin() -> None:
    module = build_module(small("simcse"), True)
    evaluation = build_evaluation(config("evaluation=layers"))
    with pytest.raises(ValueError, match=r"evaluation\.blocks needs blocks that can be named, which text_transformer"):
        evaluation.setup(None, module, "fit")  # type: ignore[arg-type]
    assert build_evaluation(config("evaluation=token_isotropy")).setup(None, module, "fit") is None  # type: ignore


def test_isotropy_is_that_of_the_backbones_tokens() -> None:
    module = build_module(small("simcse"), True)
    evaluation = build(config("evaluation=token_isotropy", "evaluation.num_samples=5").evaluation)
    texts = torch.randint(5, 20, (8, 2, 20), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    texts[:, :, 12:] = 0
    found = evaluation.score(module, Splits(Split(texts), Split(texts)))
    module.eval()
    with torch.no_grad():
        expected = isotropy(module.student.features(module.views.clean(texts[:5]))["tokens"]).mean()
    assert found == {"token_isotropy[n=5]/backbone": pytest.approx(expected.item(), abs=1e-6)}
    pictures = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    with pytest.raises(
        ValueError, match=r"evaluation=token_isotropy reads tokens, which .* has not: choose data of texts"
    ):
        evaluation.score(build_module(small("simclr"), True), Splits(Split(pictures), Split(pictures)))


def test_one_class_is_counted_against_the_rest() -> None:
    """Answers by the sign of the one feature: 2 of 3 samples of the class found, 1 of 5 others taken for it."""
    x = torch.tensor([1.0, 1, -1, 1, -1, -1, -1, -1])[:, None]
    test = Frozen(x, torch.tensor([4, 4, 4, 0, 1, 2, 3, 5]))
    readout = Readout(torch.tensor([[-1.0], [1.0]]), torch.zeros(2))
    found = OneClass(4)(test, test, readout)
    assert found == {
        "f1[class=4]": pytest.approx(100 * 4 / 6),
        "balanced_accuracy[class=4]": pytest.approx(100 * (2 / 3 + 4 / 5) / 2),
        "gmean[class=4]": pytest.approx(100 * math.sqrt(2 / 3 * 4 / 5)),
    }
    with pytest.raises(ValueError, match=r"objective\.positive is 9, of which the test split has 0 of 8 samples"):
        OneClass(9)(test, test, readout)
    with pytest.raises(ValueError, match="asks a head of 3 scores about one class: choose a head of two"):
        OneClass(4)(test, test, Readout(torch.zeros(3, 1), torch.zeros(3)))
