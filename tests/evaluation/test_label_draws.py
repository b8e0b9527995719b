"""The linear probe on draws of labels: other labels each time, equally many of each class, and its spread."""

import statistics

import pytest
import torch

from ssl_framework.evaluation.features import Frozen
from ssl_framework.evaluation.probes.few_labels import LabelDraws
from ssl_framework.evaluation.probes.linear import LinearProbe

PROBE = LinearProbe(weight_decay=0.01, max_iter=20)


def split(count: int, seed: int = 0) -> Frozen:
    y = torch.arange(count) % 3
    x = torch.nn.functional.one_hot(y, 3) + torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    return Frozen(x.float(), y)


def test_it_is_the_mean_of_linear_probes_on_so_many_labels_a_class() -> None:
    train, test, seen = split(60), split(30, 1), []

    class Noted(LinearProbe):
        def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]:
            seen.append(train)
            return super().__call__(train, test)

    found = LabelDraws(labels=5, draws=3, linear=Noted(0.01, 20), seed=4)(train, test)
    assert [part.y.bincount().tolist() for part in seen] == [[5, 5, 5]] * 3
    assert not torch.equal(seen[0].x, seen[1].x)
    each = [float(*PROBE(part, test).values()) for part in seen]
    name = "linear[labels=5,draws=3,l2=0.01]"
    assert found == {f"{name}/top1": pytest.approx(statistics.mean(each)), f"{name}/spread": statistics.stdev(each)}
    assert LabelDraws(labels=5, draws=3, linear=PROBE, seed=4)(train, test) == found


def test_a_class_of_fewer_labels_gives_all_it_has_and_what_cannot_be_is_skipped() -> None:
    train, test = split(9), split(6, 1)
    found = LabelDraws(labels=50, draws=2, linear=PROBE, seed=0)(train, test)
    assert found["linear[labels=50,draws=2,l2=0.01]/spread"] == pytest.approx(0, abs=1e-9)
    assert (
        LabelDraws(labels=2, draws=1, linear=PROBE, seed=0)(train, test)["linear[labels=2,draws=1,l2=0.01]/spread"] == 0
    )
    probe = LabelDraws(labels=2, draws=1, linear=PROBE, seed=0)
    with pytest.warns(UserWarning, match="skipped: it needs classes"):
        assert probe(train._replace(y=train.y.float()), test) == {}
    with pytest.warns(UserWarning, match="skipped: the train split has only one class"):
        assert probe(train._replace(y=train.y * 0), test) == {}
