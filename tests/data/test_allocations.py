"""Sizes that no memory holds are refused by the key that says them, before anything is asked for."""

from pathlib import Path

import pytest
import torch

from ssl_framework.build import build, build_data, build_module
from ssl_framework.data import allocations
from ssl_framework.data.allocations import refuse_more_than_free, within_memory
from tests.small_runs import config, run_in, small


@pytest.mark.parametrize(
    ("method", "override", "said"),
    [
        ("mocov2", "objective.queue.size=10000000000", r"10,000,000,000 x 128 numbers takes 5,120\.0 GB, but"),
        ("simclr", "student.heads.projector.out=10000000000", r"takes [\d,.]+ GB.*lower .*out=10000000000"),
        ("simclr", "student.heads.projector.hidden=[5000000000]", r"takes [\d,.]+ GB.*lower .*hidden.0=5000000000"),
        ("simclr mixer=adamixup", "mixer.rule.widths.2=1000000000", r"lower mixer\.rule\.widths\.2=1000000000"),
        ("swav", "objective.num_prototypes=10000000000", r"lower objective\.num_prototypes=10000000000"),
    ],
)
def test_weights_and_memories(method: str, override: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build_module(small(*method.split(), override), has_labels=True)


def test_data() -> None:
    with pytest.raises(ValueError, match=r"takes [\d,.]+ GB, but .*lower data\.source\.num_train=10000000000"):
        build_data(config("data=shapes", "data.source.num_train=10000000000"))


@pytest.mark.parametrize(
    ("method", "override", "said"),
    [
        ("mochi", "feature_mixer.num_pair=100000000", r"lower feature_mixer\.num_pair=100000000 and feature_mixer"),
        ("mochi", "feature_mixer.num_query=100000000", r"100,000,006 synthetic negatives for each of 8 queries"),
        ("synco", "feature_mixer.counts=[1,0,0,90000000,0,0]", r"lower feature_mixer\.counts=\[1, 0, 0, 90000000"),
        ("simclr", "views.image_size=60000", "lower data.batch_size=8, the views' size or the count of"),
    ],
)
def test_what_a_step_makes(method: str, override: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        run_in(tmp_path, small(method, override))


def test_what_fits_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers come of it, and memory is asked for only where that matters."""
    monkeypatch.setattr(allocations, "free_memory", lambda device: 2**26 + 4)
    with within_memory({}):
        torch.manual_seed(3)
        inside = torch.randn(5)
        assert torch.zeros(2**24 + 1).numel() == 2**24 + 1
        with pytest.raises(ValueError, match=r"a tensor of 16,777,218 numbers takes 0\.1 GB, but 0\.1 GB"):
            torch.empty(2**24 + 2)
    torch.manual_seed(3)
    assert torch.equal(inside, torch.randn(5))
    refuse_more_than_free(2**26, "cpu", "", "")
    assert build({}) is None
