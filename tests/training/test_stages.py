"""A run in stages: each stage is a run of its own that takes over what the ones before have learned."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from ssl_framework.build import build_data, build_module
from ssl_framework.data.pseudo_labels import clusters
from ssl_framework.data.samplers import Same, Uniform
from ssl_framework.evaluation.request import evaluate
from ssl_framework.functional import unit
from ssl_framework.loading import load_run
from ssl_framework.models.weights import load_checkpoint
from ssl_framework.runs.config import config_hash, refuse_other_config
from ssl_framework.runs.folder import RunFolder, read_json
from ssl_framework.training.progress import Progress
from ssl_framework.training.stages import StageClusters, folder_of, go_through, stage_config
from tests.small_runs import SMALL, config, small
from tests.training.test_resume import assert_identical, crash, sigterm

NAMES = {"method": "mcl", "data": "shapes", "overrides": [], "command": "python train.py method=mcl"}
SETTINGS = ("trainer.max_epochs=1", "evaluation=frozen", "evaluation.probes.linear=null", "trainer=cpu")
SETTINGS += ("trainer.log_every_n_steps=1",)


def go(folder: Path, cfg: DictConfig, resume: bool = False) -> str | None:
    """All stages, as the command runs them once it has composed the config."""
    folder.mkdir(exist_ok=True)
    return go_through(cfg, folder, {**NAMES, "resume": resume}, first=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three stages."""
    folder = tmp_path_factory.mktemp("stages") / "whole"
    assert go(folder, small("mcl", *SETTINGS)) is None
    return folder


def checkpoint(folder: Path) -> dict:
    return load_checkpoint(folder / "checkpoints" / "last.ckpt")


def test_one_stage_is_the_run_itself(tmp_path: Path) -> None:
    """And the last stage of several has the config of the whole."""
    for name, last in (("simclr", 0), ("mcl", 2)):
        cfg = small(name)
        assert folder_of(tmp_path, last, last) == tmp_path
        assert last == 0 or stage_config(cfg, last) == cfg


def test_stages_may_go_by_other_pseudo_labels(tmp_path: Path) -> None:
    cfg = config("method=mcl", "pseudo_labels=classes", *SMALL)
    first, second = (stage_config(cfg, stage) for stage in range(2))
    assert isinstance(build_data(first).sampler, Uniform) and isinstance(build_data(second).sampler, Same)


def test_a_multirun_knows_a_run_in_stages_again_and_one_of_an_earlier_version(tmp_path: Path) -> None:
    cfg = small("mcl", *SETTINGS)
    old = small("mcl", *SETTINGS, "+previous=elsewhere", "+pseudo_labels.previous=elsewhere")
    assert config_hash(old) == config_hash(cfg)
    for stored in (cfg, stage_config(cfg, 2), old):
        (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(stored))
        refuse_other_config(cfg, RunFolder(tmp_path))
        with pytest.raises(ValueError, match=r"objective\.temperature=0\.2, but here it is 0\.3"):
            refuse_other_config(small("mcl", *SETTINGS, "objective.temperature=0.3"), RunFolder(tmp_path))


def test_the_first_stage_is_the_plain_method(whole: Path, tmp_path: Path) -> None:
    assert go(tmp_path / "plain", small("simclr", *SETTINGS)) is None
    first, plain = checkpoint(whole / "stage_0"), checkpoint(tmp_path / "plain")
    assert_identical(first["state_dict"], plain["state_dict"])
    assert not (whole / "stage_0" / "pseudo_labels.npy").exists()


def test_each_stage_begins_with_the_backbones_before_it_and_leaves_them(whole: Path) -> None:
    states = [checkpoint(whole / name)["state_dict"] for name in ("stage_0", "stage_1", ".")]
    names = [name.removeprefix("student.backbone.") for name in states[0] if name.startswith("student.backbone.")]
    for stage, state in enumerate(states):
        assert sum(name.startswith("student.earlier.") for name in state) == stage * len(names)
        for before in range(stage):
            for name in names:
                trained = states[before][f"student.backbone.{name}"]
                assert torch.equal(state[f"student.earlier.{before}.{name}"], trained)
    assert any(
        not torch.equal(states[0][f"student.backbone.{name}"], states[1][f"student.backbone.{name}"]) for name in names
    )


def test_clusters_are_digits_of_all_stages_and_batches_keep_to_one(whole: Path) -> None:
    labels = [torch.from_numpy(np.load(whole / name / "pseudo_labels.npy")) for name in ("stage_1", ".")]
    cfg, module = load_run(whole, [])
    pretrain = build_data(cfg).pretrain
    module.eval()
    with torch.no_grad():
        views = module.views.clean(pretrain.rows)
        found = [clusters(unit(b(views)["pooled"]), 2, cfg.seed) for b in module.student.earlier]
    assert torch.equal(labels[0], found[0]) and torch.equal(labels[1], found[0] + 2 * found[1])
    data = build_data(cfg, whole, resumed=True)
    draw = data.draw()
    assert draw is not None
    for batch in draw(0, 3):
        assert len(set(labels[1][batch].tolist())) == 1
    assert data.num_batches() == sum(n // 8 for n in Counter(labels[1].tolist()).values())


def test_the_features_of_all_stages_are_scored_side_by_side(whole: Path) -> None:
    _, module = load_run(whole, [])
    images = torch.rand(4, 3, 32, 32)
    module.eval()
    embedded = module.student.embed(images)
    parts = [*module.student.earlier, module.student.backbone]
    torch.testing.assert_close(embedded, torch.cat([unit(part(images)["pooled"]) for part in parts], dim=1))
    result = read_json(whole / "result.json")
    assert result["metrics"] == evaluate(whole, [])
    first = read_json(whole / "stage_0" / "result.json")
    assert result["baselines"] == first["baselines"] != {}
    (whole / "evaluation.json").unlink()


def interrupt(monkeypatch: pytest.MonkeyPatch, batch: int, how) -> None:  # type: ignore[no-untyped-def]
    """Something happens after the batch of that number, counted over all stages."""
    original, seen = Progress.on_train_batch_end, [0]

    def hook(self: Progress, *args: object) -> None:
        original(self, *args)  # type: ignore[arg-type]
        seen[0] += 1
        if seen[0] == batch:
            how()

    monkeypatch.setattr(Progress, "on_train_batch_end", hook)


@pytest.mark.parametrize(("stage", "how"), [(0, sigterm), (1, crash), (2, sigterm)])
def test_interrupted_in_any_stage_and_resumed(
    stage: int,
    how: Callable[[], None],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two batches into a stage; after a crash nothing of it is saved, and it starts again."""
    cfg, parts, names = small("mcl", *SETTINGS), tmp_path / "parts", ("stage_0", "stage_1", ".")
    before = sum(checkpoint(whole / name)["global_step"] for name in names[:stage])
    with monkeypatch.context() as patch:
        interrupt(patch, before + 2, how)
        if how is sigterm:
            assert go(parts, cfg) == "SIGTERM"
        else:
            with pytest.raises(RuntimeError, match="power cut"):
                go(parts, cfg)
    assert [(parts / name / "result.json").exists() for name in names] == [number < stage for number in range(3)]
    assert RunFolder(parts).has_checkpoint
    written = {path: path.read_bytes() for path in parts.glob("stage_*/result.json")}
    assert go(parts, cfg, resume=True) is None
    assert all(path.read_bytes() == content for path, content in written.items())  # finished stages are left alone
    for name in names:
        for key in ("state_dict", "optimizer_states", "callbacks"):
            assert_identical(checkpoint(whole / name)[key], checkpoint(parts / name)[key], f"{name} {key}")
        assert (whole / name / "metrics.csv").read_text() == (parts / name / "metrics.csv").read_text()


def test_a_stage_goes_on_in_the_precision_it_began_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = small("mcl", "student.earlier=1", *SETTINGS, "trainer.precision=auto")
    seen: list[str] = []
    with monkeypatch.context() as patch:
        interrupt(patch, 2, sigterm)
        assert go(tmp_path / "parts", cfg) == "SIGTERM"
        interrupt(patch, 2, sigterm)
        patch.setattr(
            "ssl_framework.training.parts.settle_precision", lambda cfg, *_: seen.append(cfg.trainer.precision)
        )
        assert go(tmp_path / "parts", cfg, resume=True) == "SIGTERM"
    assert seen == ["32-true"]


def test_a_stage_has_the_names_of_the_run_and_a_refused_run_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    cfg = small("mcl", *SETTINGS, "optimizer.lr_per_256=-1")
    RunFolder(folder).prepare(cfg, NAMES)
    with pytest.raises(ValueError, match=r"optimizer\.lr_per_256 is -1"):
        go(folder, cfg)
    assert json.loads((folder / "stage_0" / "run.json").read_text())["method"] == "mcl"
    RunFolder(folder).discard_unless_trained()
    assert not folder.exists()


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"student\.earlier is -1: it must be between 0 and 1000"):
        build_module(small("mcl", "student.earlier=-1"), has_labels=True)
    with pytest.raises(ValueError, match=r"StageClusters's num_clusters is 0"):
        StageClusters(0, None)
    cfg = small("simclr", "sampler=same", "pseudo_labels=stages", *SETTINGS)
    with pytest.raises(ValueError, match=r"but this run has no stages: set student\.earlier to at least 1"):
        go(tmp_path / "run", cfg)
