"""The short form of results/memory: a run's memory stays flat, and a leak is seen."""

import gc

import pytest
import torch

from tests.small_runs import small
from tools.memory_check import Memory, is_flat, measured, rows_of, table

SHORT = (
    *("data.source.num_train=96", "data.batch_size=4", "trainer.max_epochs=4"),
    *("evaluation=frozen", "evaluation.every_n_epochs=1", "evaluation.baselines=false"),
    *("evaluation.probes.linear=null", "evaluation.probes.knn.k=5"),
)
"""96 steps and four evaluations."""


@pytest.fixture
def aside() -> None:
    """What other tests have left in this process is not counted again and again, here or in the tests that follow."""
    gc.collect()
    gc.freeze()


@pytest.mark.usefixtures("aside")
def test_memory_stays_flat() -> None:
    rows = rows_of(small("mocov2", *SHORT))
    assert [row.step for row in rows] == [24, 48, 72, 96]
    assert is_flat(rows), table(rows)


@pytest.mark.parametrize("column", ["resident", "python", "objects", "tensors"])
def test_what_grows_is_seen(column: str) -> None:
    """Half a percent of the resident memory, or less of the others, at each of twenty evaluations."""
    each = {"resident": 5.0, "python": 0.1, "objects": 500, "tensors": 1}
    first = Memory(100, 1000.0, 50.0, 500_000, 400)
    grown = [first._replace(**{column: getattr(first, column) + n * each[column]}) for n in range(20)]
    assert is_flat([first] * 20) and not is_flat(grown) and "NOT flat" in table(grown)


@pytest.mark.usefixtures("aside")
def test_a_row_counts_what_is_there() -> None:
    before = measured(0)
    held = [torch.zeros(1) for _ in range(7)]
    after = measured(1)
    assert after.tensors - before.tensors == len(held) and after.step == 1 and after.resident > 10
