"""Runs that began alike as one network."""

import pytest
import torch

from ssl_framework.models.merging import merged

START = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.zeros(2), "steps": torch.tensor(0)}
FIRST = {"a": torch.tensor([[1.0, 5.0]]), "b": torch.zeros(2), "steps": torch.tensor(3)}  # 3 away
SECOND = {"a": torch.tensor([[2.0, 2.0]]), "b": torch.zeros(2), "steps": torch.tensor(4)}  # 1 away


def test_a_run_has_a_share_of_a_tensor_as_it_has_moved_it() -> None:
    found = merged(START, [FIRST, SECOND])
    torch.testing.assert_close(found["a"], torch.tensor([[1 + 1 / 4, 2 + 3 * 3 / 4]]))
    assert torch.equal(found["b"], START["b"]) and found["steps"] == 3
    torch.testing.assert_close(merged(START, [FIRST, SECOND], guided=False)["a"], torch.tensor([[1.5, 3.5]]))


def test_one_run_alone_stays_as_it_is() -> None:
    assert all(torch.equal(x, FIRST[name]) for name, x in merged(START, [FIRST]).items())


def test_other_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="state 1 and the beginning differ in a: merge runs of one network"):
        merged(START, [FIRST, {**SECOND, "a": torch.zeros(3)}])
    with pytest.raises(ValueError, match="differ in c"):
        merged(START, [{**FIRST, "c": torch.zeros(1)}])
    with pytest.raises(ValueError, match="there is no state to merge"):
        merged(START, [])
