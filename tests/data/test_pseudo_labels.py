"""Pseudo-labels are made once before a run, kept in its folder, and read by a resumed run and by every rank."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_framework.data.base import Split
from ssl_framework.data.images.denoising_clusters import DenoisingClusters
from ssl_framework.data.pseudo_labels import Classes, Factor, LabelFile, clusters
from ssl_framework.models.weights import load_checkpoint
from ssl_framework.runs.folder import read_json
from tests.small_runs import run_in, small
from tests.training.test_resume import assert_identical, interrupt_at, sigterm

CPU = torch.device("cpu")


def two_kinds(n: int = 24) -> Split:
    """Bright and dark noise, alternating."""
    noise = torch.randint(0, 40, (n, 3, 9, 9), generator=torch.Generator().manual_seed(0))
    return Split((noise + 200 * (torch.arange(n) % 2)[:, None, None, None]).to(torch.uint8), torch.arange(n) % 3)


def test_a_further_label_of_the_data_is_taken_by_its_name() -> None:
    task, height = torch.arange(24) % 4, torch.rand(24)
    split = two_kinds()._replace(numbers={"task": task, "height": height})
    assert torch.equal(Factor("task")(split, 0, CPU), task)
    with pytest.raises(ValueError, match=r"factor is height, which is no further label .*; it has task: name one"):
        Factor("height")(split, 0, CPU)
    with pytest.raises(ValueError, match="it has none, or set pseudo_labels=none and sampler=uniform"):
        Factor("task")(two_kinds(), 0, CPU)


def test_labels_of_the_set_and_of_a_file(tmp_path: Path) -> None:
    images = two_kinds()
    assert torch.equal(Classes()(images, 0, CPU), torch.arange(24) % 3)
    with pytest.raises(ValueError, match=r"pseudo_labels=classes takes the labels .* has none for pretraining"):
        Classes()(images._replace(label=None), 0, CPU)
    path = tmp_path / "own.npy"
    np.save(path, np.arange(24, dtype=np.int16))
    assert torch.equal(LabelFile(str(path))(images, 0, CPU), torch.arange(24))
    np.save(path, np.arange(23))
    with pytest.raises(ValueError, match="has 23 labels, but there are 24 training samples"):
        LabelFile(str(path))(images, 0, CPU)
    np.save(path, np.ones((24, 2)))
    with pytest.raises(ValueError, match=r"holds torch\.float64 \[24, 2\], expected integers \[N\]"):
        LabelFile(str(path))(images, 0, CPU)
    np.save(path, np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"cannot be read as \.npy"):
        LabelFile(str(path))(images, 0, CPU)
    with pytest.raises(FileNotFoundError, match="there are no pseudo-labels"):
        LabelFile(str(tmp_path / "none.npy"))(images, 0, CPU)


def test_more_clusters_than_samples() -> None:
    with pytest.raises(ValueError, match=r"num_clusters is 5, but there are only 4 training samples"):
        clusters(torch.rand(4, 2), 5, 0)


def test_a_resumed_run_reads_what_its_first_part_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = small("g_simclr")
    assert run_in(tmp_path / "whole", cfg) is None
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2, sigterm)
        assert run_in(tmp_path / "parts", cfg) == "SIGTERM"
    label = np.load(tmp_path / "parts" / "pseudo_labels.npy")
    assert label.shape == (48,) and len(set(label.tolist())) <= 16
    with monkeypatch.context() as patch:
        patch.setattr(DenoisingClusters, "__call__", lambda *_: pytest.fail("made again"))
        assert run_in(tmp_path / "parts", cfg, resume=True) is None
        with pytest.raises(ValueError, match="is complete"):
            run_in(tmp_path / "parts", cfg, resume=True)
    whole, parts = (load_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("whole", "parts"))
    for key in ("state_dict", "optimizer_states"):
        assert_identical(whole[key], parts[key], key)
    assert read_json(tmp_path / "parts" / "result.json")["steps"] == whole["global_step"] > 4


def test_impossible_batches_are_refused_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.batch_size is 8 and there are only 4 pseudo-labels"):
        run_in(tmp_path, small("g_simclr", "pseudo_labels.num_clusters=4"))
    assert not (tmp_path / "checkpoints").exists()


def test_a_note_says_how_many_images_an_epoch_leaves_out(tmp_path: Path) -> None:
    np.save(tmp_path / "own.npy", [0] * 30 + [1] * 18)
    choice = ("sampler=same", "pseudo_labels=file", f"pseudo_labels.path={tmp_path / 'own.npy'}", "data.batch_size=16")
    with pytest.warns(UserWarning, match="an epoch of sampler=same has 32 of the 48 samples, others each time"):
        run_in(tmp_path, small("simclr", *choice, "trainer.max_epochs=1"))
