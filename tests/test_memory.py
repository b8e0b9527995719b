import pytest
import torch

from ssl_framework.functional import alignment, tolerance, uniformity, unit
from ssl_framework.memory import IdentityMemory, Queue, SampleBank
from tests.golden import core_view, golden, mix_raw


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


@pytest.mark.parametrize(("size", "batch"), [(8, 4), (10, 4), (7, 7), (5, 3), (6, 1)])
def test_the_mean_age_is_that_of_the_rows_that_were_pushed(size: int, batch: int) -> None:
    queue = Queue(size, 2)
    queue.rows.fill_(-1)
    for step in range(9):
        pushed = [row for row in queue.read()[:, 0].tolist() if row >= 0]
        ages = [step - row // batch for row in pushed]
        assert queue.mean_age(step, batch) == pytest.approx(sum(ages) / max(1, len(ages)))
        queue.push(keys(step * batch, batch))


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


def test_golden_tolerance_and_a_loop_over_pairs() -> None:
    x, label = core_view(0), torch.tensor([0, 0, 1, 1, 2, 2])
    name = "tolerance: all ordered pairs with self, labels [0,0,1,1,2,2], points Z0"
    assert tolerance(x, label).item() == pytest.approx(golden(name), abs=1e-7)
    label = torch.tensor([3, 0, 3, 5, 0, 3])
    pairs = [float(x[i] @ x[j]) for i in range(6) for j in range(6) if label[i] == label[j]]
    assert tolerance(x, label).item() == pytest.approx(sum(pairs) / 36, abs=1e-12)


def bank(num_samples: int = 6) -> SampleBank:
    return SampleBank({"number": torch.full((num_samples,), -1.0), "vector": torch.zeros(num_samples, 2)})


def test_a_bank_gives_back_what_was_written_and_the_start_elsewhere() -> None:
    memory = bank()
    index = torch.tensor([4, 1])
    memory.write(index, {"number": torch.tensor([10.0, 20.0]), "vector": torch.tensor([[1.0, 2.0], [3.0, 4.0]])})
    assert memory.column("number").tolist() == [-1, 20, -1, -1, 10, -1]
    assert memory.read("number", torch.tensor([1, 0, 4])).tolist() == [20, -1, 10]
    assert memory.read("vector", index).tolist() == [[1, 2], [3, 4]]
    assert memory.read("visited", torch.arange(6)).tolist() == [False, True, False, False, True, False]
    memory.write(torch.tensor([1]), {"number": torch.tensor([5.0])})
    assert memory.column("number")[1] == 5 and memory.column("vector")[1].tolist() == [3, 4]


def test_of_a_sample_that_comes_several_times_the_last_row_counts() -> None:
    memory = bank()
    values = torch.arange(1.0, 8.0)
    memory.write(torch.tensor([3, 0, 3, 5, 0, 3, 2]), {"number": values, "vector": values[:, None].repeat(1, 2)})
    assert memory.column("number").tolist() == [5, -1, 7, 6, -1, 4]
    assert memory.column("vector")[:, 1].tolist() == [5, 0, 7, 6, 0, 4]


def test_what_is_read_from_a_bank_is_a_copy() -> None:
    memory, index = bank(), torch.tensor([2, 3])
    whole, some = memory.column("number"), memory.read("number", index)
    memory.write(index, {"number": torch.tensor([1.0, 2.0])})
    assert whole.tolist() == [-1] * 6 and some.tolist() == [-1, -1]


def test_a_bank_is_persistent_and_refuses_that_of_another_data_set() -> None:
    memory, other = bank(), bank()
    memory.write(torch.tensor([2]), {"number": torch.tensor([1.0])})
    other.load_state_dict(memory.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(memory.buffers(), other.buffers(), strict=True))
    assert bool(other.visited[2]) and len(other.state_dict()) == 3
    holder = torch.nn.Module()
    holder.bank = bank(7)
    with pytest.raises(ValueError) as error:
        holder.load_state_dict({f"bank.{name}": value for name, value in memory.state_dict().items()})
    assert str(error.value) == (
        "the checkpoint holds the state of 6 training samples, but the training set has 7: "
        "go on with the data set that the run began with"
    )


def test_a_bank_knows_what_it_has_written_over() -> None:
    """Back to every write, also where a sample came twice, and where a column was changed as a whole."""
    bank = SampleBank({"row": torch.arange(8.0).view(4, 2), "age": torch.zeros(4)})
    states = [{name: x.clone() for name, x in bank.named_buffers()}]
    bank.undo = []
    for index, scale in (([1, 3, 1], 10.0), ([3, 0, 0], 20.0)):
        rows = scale + torch.arange(6.0).view(3, 2)
        bank.write(torch.tensor(index), {"row": rows, "age": torch.full((3,), scale)})
        states.append({name: x.clone() for name, x in bank.named_buffers()})
    bank.remember("age")
    bank.get_buffer("age").fill_(7)
    for writes, state in enumerate(states):
        found = bank.as_before(writes)
        assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)
    assert bank.get_buffer("age").tolist() == [7] * 4


def test_identities_move_towards_what_resembles_all_that_they_were() -> None:
    memory, rows = IdentityMemory(3, 8).double(), mix_raw(0)
    m, seen = rows[0], [rows[0] / rows[0].norm()]
    for e in rows[1:4]:
        direction = e / e.norm()
        share = max(0.0, sum(float(direction @ other) for other in seen) / len(seen))
        m, seen = (1 - share) * m + share * e, [*seen, direction]
    memory.write(torch.tensor([1, 2, 1]), rows[[0, 5, 1]])
    memory.write(torch.tensor([1, 1]), rows[2:4])
    expected = golden("identity_memory: state after rows 0..3 of raw0")
    assert memory.read(torch.tensor([1]))[0].tolist() == pytest.approx(expected, abs=1e-7)
    torch.testing.assert_close(memory.rows[1], m)
    assert torch.equal(memory.rows[2], rows[5]) and not memory.rows[0].any()


def test_an_embedding_unlike_all_before_moves_nothing() -> None:
    memory = IdentityMemory(1, 2)
    memory.write(torch.zeros(2, dtype=torch.long), torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    assert memory.read(torch.tensor([0])).tolist() == [[1, 0]]


def test_noise_takes_an_identity_for_another_that_was_written() -> None:
    memory = IdentityMemory(5, 2)
    memory.write(torch.tensor([0, 3]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    asked = torch.zeros(400, dtype=torch.long)
    before = memory.read(asked[:1])
    found = memory.read(asked, 0.2, torch.Generator().manual_seed(0))
    assert found[:, 1].mean().item() == pytest.approx(0.1, abs=0.05)  # half of the noise draws the same one
    assert torch.equal(memory.read(asked, 0.2, torch.Generator().manual_seed(0)), found)
    memory.write(torch.tensor([0]), torch.tensor([[5.0, 5.0]]))
    assert before.tolist() == [[1, 0]]
