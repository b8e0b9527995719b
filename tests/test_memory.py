import pytest
import torch

from ssl_framework.functional import alignment, uniformity, unit
from ssl_framework.memory import Queue
from tests.golden import core_view, golden


def keys(first: int, count: int) -> torch.Tensor:
    """Rows that carry a running number in their first column."""
    rows = torch.zeros(count, 2)
    rows[:, 0] = torch.arange(first, first + count)
    return rows


@pytest.mark.parametrize(("size", "batch"), [(8, 4), (10, 4), (7, 7), (5, 3)])
def test_first_in_first_out_across_the_wrap(size: int, batch: int) -> None:
    queue = Queue(size, 2)
    pushed: list[float] = []
    for step in range(9):
        queue.push(keys(step * batch, batch))
        pushed += range(step * batch, (step + 1) * batch)
    assert sorted(queue.read()[:, 0].tolist()) == pushed[-size:]
    oldest = queue.read()[queue.cursor, 0].item()
    assert oldest == pushed[-size]


def test_read_is_a_copy() -> None:
    queue = Queue(4, 2)
    before = queue.read()
    expected = before.clone()
    queue.push(keys(0, 4))
    assert torch.equal(before, expected) and not torch.equal(queue.read(), expected)


def test_starts_with_unit_rows() -> None:
    torch.testing.assert_close(Queue(64, 8).read().norm(dim=1), torch.ones(64))


def test_a_batch_larger_than_the_queue_is_refused() -> None:
    with pytest.raises(ValueError, match=r"5 keys but the queue holds 4.*objective\.queue\.size.*data\.batch_size"):
        Queue(4, 2).push(keys(0, 5))


def test_state_is_persistent() -> None:
    queue, other = Queue(6, 2), Queue(6, 2)
    queue.push(keys(0, 4))
    other.load_state_dict(queue.state_dict())
    for each in (queue, other):
        each.push(keys(4, 4))
    assert torch.equal(queue.read(), other.read()) and other.cursor == 2


def test_unit_keeps_float64_and_zero_rows() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    assert torch.equal(unit(x), torch.tensor([[0.6, 0.8], [0.0, 0.0]], dtype=torch.float64))
    assert unit(x.half()).dtype == torch.float32


def test_golden_alignment_and_uniformity() -> None:
    z0, z1 = core_view(0), core_view(1)
    assert alignment(z0, z1).item() == pytest.approx(golden("alignment: mean squared distance Z0, Z1"), abs=1e-7)
    assert uniformity(z0).item() == pytest.approx(golden("uniformity: 6 points Z0"), abs=1e-7)
    both = uniformity(torch.cat([z0, z1])).item()
    assert both == pytest.approx(golden("uniformity: 12 points Z0 and Z1"), abs=1e-7)
