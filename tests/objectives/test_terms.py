"""A sum of objectives weighs what each says of its views; CL2L, BarLIP, SiamLIP and SwALIP are made of it."""

import pytest
import torch
from torch import Tensor

from ssl_framework.functional import sinkhorn
from ssl_framework.objectives.barlow_twins import BarlowTwins
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.clip import CLIP
from ssl_framework.objectives.regression import Regression
from ssl_framework.objectives.simsiam import SimSiam
from ssl_framework.objectives.supcon import SupCon
from ssl_framework.objectives.terms import Terms
from tests.golden import golden, mix_raw, mix_rows
from tests.objectives import loops
from tests.test_wiring import refused


def loss(objective: Objective, *views: dict[str, Tensor]) -> dict[str, Tensor]:
    return objective.double()([dict(view) for view in views], None, loops.batch(len(views[0]["a"])), loops.CLOCK)


def clip(head: str, smoothing: float = 0.0) -> CLIP:
    return CLIP(0.1, 100, smoothing, head=head)


def test_golden_of_cl2l() -> None:
    views = [{"a": mix_raw(v), "b": mix_raw(v)} for v in range(4)]
    terms = {"global": clip("a"), "local": clip("b", 0.1)}
    found = loss(Terms(terms, {"global": 0.5, "local": 0.5}, {"global": [[0, 1]], "local": [[2, 3]]}), *views)
    assert found["loss"].item() == pytest.approx(golden("cl2l: global raw0/raw1, one local pair G(6,8,2)/G(6,8,3)"))
    assert found["local_scale"].item() == pytest.approx(10)


def test_golden_of_more() -> None:
    views = [{"a": mix_rows(v)} for v in (1, 0, 2)]  # X-ray, report, ECG
    objective = Terms(
        {"main": clip("a"), "other": clip("a")}, {"main": 1.0, "other": 1.0}, {"main": [[0, 1]], "other": [[1, 2]]}
    )
    expected = golden("more: report with X-ray plus report with ECG")
    assert loss(objective, *views)["loss"].item() == pytest.approx(expected, abs=1e-6)


def test_golden_of_barlip_siamlip_and_swalip() -> None:
    barlip = BarlowTwins(5e-3, 0.025, head="a")
    views = [{"a": mix_raw(0), "b": mix_raw(1)}, {"a": mix_raw(1), "b": mix_raw(0)}]
    expected = golden("barlip: term of raw0, raw1 (batch norm without affine, eps 1e-5)")
    assert loss(barlip, *views)["loss"].item() == pytest.approx(expected, abs=1e-7)
    # Picture and text predict each other: both predictions are the other's projection, rotated by the fixture alone.
    siamlip = loss(SimSiam(True, "a", "a"), *views)["loss"].item()
    assert 2 + 2 * siamlip == pytest.approx(golden("siamlip: 2 - 2 cos(raw0, raw1)"), abs=1e-7)
    found = sinkhorn(mix_rows(0) @ mix_rows(1).T, 0.05, 3)[0, 0].item()
    assert found == pytest.approx(golden("swalip: Sinkhorn assignment entry [0,0] of A B^T"), abs=1e-7)


def test_the_mean_over_tuples_counts_times_the_weight() -> None:
    views = [{"a": loops.random_unit(5, 4, v), "b": loops.random_unit(5, 4, 10 + v)} for v in range(4)]
    objective = Terms({"x": clip("a"), "y": clip("b")}, {"x": 2.0, "y": 0.5}, {"x": [[0, 2], [1, 3]], "y": [[0, 3]]})
    pairs = [loss(clip("a"), views[a], views[b])["loss"] for a, b in ((0, 2), (1, 3))]
    other = loss(clip("b"), views[0], views[3])["loss"]
    torch.testing.assert_close(loss(objective, *views)["loss"], sum(pairs) + 0.5 * other)
    assert objective.reads == ("a", "b") and objective.num_views == (4, None)


def test_it_asks_for_what_its_terms_ask() -> None:
    both = Terms({"x": clip("a"), "y": SupCon(0.1, 0.1, head="b")}, {"x": 1.0, "y": 1.0}, {"x": [[0, 1]]})
    assert both.requires == {"label"} and both.reads == ("a", "b") and both.num_views == (2, None)


@pytest.mark.parametrize(
    ("terms", "weights", "views", "words"),
    [
        ({}, {}, {}, "objective.terms has none"),
        ({"x": clip("a")}, {}, {}, "objective.terms has x, but objective.weights has none"),
        ({"x": clip("a")}, {"x": 1.0}, {"y": [[0, 1]]}, "and objective.views y: give every term one weight"),
        ({"x": clip("a")}, {"x": 1.0}, {"x": []}, "objective.views.x names no view"),
        ({"x": clip("a")}, {"x": 0.0}, {}, r"of each name to a number above 0"),
    ],
)
def test_bad_values(terms: dict, weights: dict, views: dict, words: str) -> None:
    with pytest.raises(ValueError) as error:
        Terms(terms, weights, views)
    assert words in str(error.value)


def test_terms_that_need_more_than_views_are_refused() -> None:
    class Mixed(Regression):
        requires = frozenset({"mixer"})

    with pytest.raises(ValueError, match=r"objective\.terms\.x is Mixed, which needs mixer: choose an objective"):
        Terms({"x": Mixed("mse")}, {"x": 1.0}, {})


def test_too_few_views_are_refused() -> None:
    message = refused("method=cl2l", "views=image_text")
    assert message.startswith("Terms takes at least 4 views of a sample from each encoder, but student_views names 2")
