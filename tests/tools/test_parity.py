"""The comparison with lightly: the table, what is run in which order, and that both sides have one size."""

from pathlib import Path

import pytest
import torch

from ssl_framework.data.base import Split
from tests.small_runs import config
from tools.parity.__main__ import command_of, folder_of, wanted
from tools.parity.cases import BATCH, CASES, EPOCHS, VARIANTS, overrides
from tools.parity.record import apart, key_of, row_of, spread, table

METRICS = {"knn[k=20,T=0.1]/top1": 43.0, "knn[k=200,T=0.1]/top1": 41.0, "linear[l2=0.0001]/top1": 48.5}


def test_a_difference_is_told_in_pooled_deviations() -> None:
    assert apart([44.0, 42.0], [40.0, 38.0]) == "+4.0 (2.8 sd)"  # each deviates by the root of 2
    assert apart([43.0], [40.0, 38.0]) == "+4.0" and apart([1.0, 1.0], [1.0, 1.0]) == "+0.0"
    assert spread([44.0, 42.0]) == "43.0 ± 1.4 (2)" and spread([44.0]) == "44.0 (1)"


def test_the_table_has_a_line_a_method_and_side() -> None:
    losses = [4.0] * 50 + [3.0] * 50
    rows = [row_of(("simclr", side, 0), METRICS, losses) for side in ("lightly", "ours")]
    assert key_of(rows[0]) == ("simclr", "lightly", 0) and rows[0]["steps"] == 100
    lines = table(rows).splitlines()[-2:]
    assert lines[0] == "| simclr | ours | 43.0 (1) | 41.0 (1) | 48.5 (1) | +0.0 | 4.000 | 3.000 |"
    assert lines[1] == "| simclr | lightly | 43.0 (1) | 41.0 (1) | 48.5 (1) |  | 4.000 | 3.000 |"


def test_every_method_is_run_on_both_sides_before_the_next_seed(tmp_path: Path) -> None:
    keys = wanted(())
    assert keys[:2] == [("simclr", "ours", 0), ("simclr", "lightly", 0)]
    assert {key[2] for key in keys[: 2 * len(CASES)]} == {0} and len(keys) == 3 * (2 * len(CASES) + len(VARIANTS))
    assert len({folder_of(tmp_path, key) for key in keys}) == len(keys)
    assert "tools.parity.theirs" in command_of(keys[1], tmp_path, EPOCHS, "data")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert command_of(keys[0], tmp_path, EPOCHS, "data")[1:] == ["train.py", f"resume={tmp_path}"]


def test_a_run_of_the_other_side_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    pytest.importorskip("lightly")
    from tools.parity.theirs import Training, data

    generator = torch.Generator().manual_seed(0)
    images = Split(torch.randint(0, 256, (2 * BATCH, 3, 32, 32), dtype=torch.uint8, generator=generator))
    whole, again = (Training("mocov2", 0, images, data("data"), epochs=2, workers=0) for _ in range(2))
    whole.epoch(0)
    whole.save(tmp_path / "state.pt")
    whole.epoch(1)
    again.load(tmp_path / "state.pt")
    again.epoch(1)
    assert len(whole.losses) == 4 and again.losses == whole.losses


@pytest.mark.parametrize("method", ["simclr", "nnclr", "dino"])
def test_our_side_has_the_sizes_of_the_other(method: str) -> None:
    cfg, widths = config(*overrides(method, "ours")), CASES[method].widths
    heads = cfg.student.heads
    assert set(heads.projector.hidden) == {widths.hidden}
    assert (heads.projector.bottleneck if method == "dino" else heads.projector.out) == widths.out
    if method == "nnclr":
        assert (list(heads.predictor.hidden), heads.predictor.out) == ([widths.predictor], widths.out)
        assert cfg.objective.queue.size == widths.number
    assert cfg.optimizer.lr_per_256 * cfg.data.batch_size / 256 == pytest.approx(CASES[method].rate)
