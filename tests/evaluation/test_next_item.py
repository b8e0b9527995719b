"""The next item: ranks by a loop, ties by all their orders, and the references."""

import itertools
import math
from pathlib import Path

import pytest
import torch

from ssl_framework.evaluation.features import Frozen, KnowsReferences
from ssl_framework.evaluation.probes.next_item import NextItem, readout
from tests.small_runs import run_in, small

PROBE = NextItem(k=[1, 2, 3], penalty=0.1, remove_seen=False)


def split(count: int, items: int = 6, dim: int = 3, seed: int = 0) -> Frozen:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(0, items + 1, (count, 4), generator=generator)
    rows[:, -1].clamp_(min=1)
    return Frozen(torch.randn(count, dim, generator=generator), torch.arange(count) % items, rows)


def test_the_readout_is_ridge_regression_of_single_ones() -> None:
    train, test = split(30), split(5, seed=1)
    z = (train.x - train.x.mean(0)) / train.x.std(0)
    at = (test.x - train.x.mean(0)) / train.x.std(0)
    for item in range(6):
        y = (train.y == item).double()
        weight = torch.linalg.solve(
            z.double().T @ z.double() / 30 + 0.1 * torch.eye(3, dtype=torch.float64), z.double().T @ (y - y.mean()) / 30
        )
        torch.testing.assert_close(
            readout(train, test.x, 0.1, 6)[:, item], at.double() @ weight + y.mean(), atol=1e-6, rtol=1e-5
        )


@pytest.mark.parametrize("remove_seen", [False, True])
def test_ranks_are_those_of_a_loop_over_all_orders_of_equal_scores(remove_seen: bool) -> None:
    probe, test = NextItem(k=[1, 2, 3], penalty=0.1, remove_seen=remove_seen), split(6)
    score = torch.tensor([[3, 1, 2, 2, 0, 2], [0, 0, 0, 0, 0, 0], [5, 4, 3, 3, 1, 0]] * 2).double()
    found = probe.scores(score, test)
    for k in (1, 2, 3):
        hits, gains = [], []
        for row, y, seen in zip(score.tolist(), test.y.tolist(), test.rows.tolist(), strict=True):  # type: ignore
            left = [i for i in range(6) if not (remove_seen and i + 1 in seen) or i == y]
            orders = [
                o for o in itertools.permutations(left) if all(row[a] >= row[b] for a, b in itertools.pairwise(o))
            ]
            ranks = [order.index(y) + 1 for order in orders]
            hits.append(sum(rank <= k for rank in ranks) / len(ranks))
            gains.append(sum(1 / math.log2(rank + 1) for rank in ranks if rank <= k) / len(ranks))
        assert found[f"next_item[l2=0.1]/hr@{k}"] == pytest.approx(100 * sum(hits) / 6)
        assert found[f"next_item[l2=0.1]/ndcg@{k}"] == pytest.approx(100 * sum(gains) / 6)


def test_references_read_no_features() -> None:
    train, test = split(60), split(12, seed=2)
    train = train._replace(y=torch.where(torch.arange(60) < 40, 2, train.y))
    assert isinstance(PROBE, KnowsReferences)
    found = PROBE.references(train._replace(x=torch.zeros(60, 0)), test._replace(x=torch.zeros(12, 0)))
    assert list(found) == ["chance", "popularity", "transitions"]
    assert found["chance"]["next_item[l2=0.1]/hr@2"] == pytest.approx(100 * 2 / 6)
    assert found["popularity"]["next_item[l2=0.1]/hr@1"] == pytest.approx(100 * (test.y == 2).float().mean().item())
    behind = {(int(r[-1]), int(y)) for r, y in zip(train.rows, train.y, strict=True)}  # type: ignore[arg-type]
    scores = []
    for row, y in zip(test.rows, test.y, strict=True):  # type: ignore[arg-type]
        counts = [float(((train.rows[:, -1] == row[-1]) & (train.y == i)).sum()) for i in range(6)]  # type: ignore
        counts = [n + float((train.y == i).sum()) / 61 for i, n in enumerate(counts)]
        best = [i for i, n in enumerate(counts) if n == max(counts)]
        scores.append((int(y) in best) / len(best))
    assert behind and found["transitions"]["next_item[l2=0.1]/hr@1"] == pytest.approx(100 * sum(scores) / 12)


def test_samples_that_are_no_sequences_are_refused_before_a_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is of samples of modality sequence, but these are of image: choose"):
        run_in(tmp_path, small("simclr", "evaluation=recommendation"))
    assert not (tmp_path / "checkpoints").exists()


def test_features_that_say_the_next_item_find_it_and_constant_ones_are_no_better_than_popularity() -> None:
    train, test = split(60), split(12, seed=2)
    told = [part._replace(x=torch.nn.functional.one_hot(part.y, 6).float()) for part in (train, test)]
    assert PROBE(*told)["next_item[l2=0.1]/hr@1"] == 100
    flat = [part._replace(x=torch.ones(len(part.y), 3)) for part in (train, test)]
    assert PROBE(*flat) == pytest.approx(PROBE.references(train, test)["popularity"])
    with pytest.warns(UserWarning, match="the next item skipped: it needs classes"):
        assert PROBE(train._replace(y=train.y.float()), test) == {}
