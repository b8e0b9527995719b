"""A run that begins with public weights, timm's by name or a file's, at what they expect of images; and never again."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants as hub
import pytest
import timm
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from ssl_framework.api import compose
from ssl_framework.build import build, build_data, build_module
from ssl_framework.evaluation.request import evaluate
from ssl_framework.exporting import export
from ssl_framework.loading import load_run
from ssl_framework.models.encoder import Encoder
from ssl_framework.report.evaluations import results_of
from ssl_framework.runs.folder import RunFolder, read_json
from ssl_framework.runs.plain import read_config
from ssl_framework.training.parts import begin_with_weights
from ssl_framework.training.recipe import settle_recipe
from ssl_framework.training.resumed import refuse_fetching
from tests.small_runs import command_in, put_together, run_in, small

NAME = "test_resnet"
"""timm's own, of 0.5 M parameters and 160 px."""

WEIGHTS = ("backbone=timm", f"backbone.name={NAME}", "backbone.pretrained=true")
SCORED = ("evaluation=frozen", "evaluation.probes.linear=null", "evaluation.probes.knn.k=3")
THEIRS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
SMALL = (
    *("trainer=cpu", "report=none", "data.source.num_train=16", "data.source.num_test=8", "data.batch_size=8"),
    *("trainer.max_steps=1", "optimizer.lr_per_256=1e-12", "optimizer.weight_decay=0", *SCORED),
)


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A cache as the hub's client keeps it, with weights under the name that timm asks for, and no network."""
    cache, about = tmp_path_factory.mktemp("hub"), timm.get_pretrained_cfg(NAME)
    assert about is not None
    folder = cache / f"models--{about.hf_hub_id.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    torch.manual_seed(7)
    state = timm.create_model(NAME).state_dict()
    save_file(state, folder / "snapshots" / ("0" * 40) / "model.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, "HF_HUB_CACHE", str(cache))
        patch.setattr(hub, "HF_HUB_OFFLINE", True)
        yield SimpleNamespace(cache=cache, state=state)


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> Callable[..., SimpleNamespace]:
    """``python train.py ARGUMENTS`` in this process: exit code, stdout and stderr."""
    return command_in(tmp_path, monkeypatch, capfd)


def settled(*overrides: str, run: Path = Path("nowhere"), data: str = "shapes") -> tuple[Any, str]:
    """The data's keys and the line, for a command with these overrides."""
    cfg = put_together(f"data={data}", *overrides)
    said = settle_recipe(cfg, data, overrides, RunFolder(run))
    return cfg.data, said


def test_the_command_begins_with_them_and_never_needs_them_again(
    public: SimpleNamespace, command: Callable[..., SimpleNamespace], tmp_path: Path
) -> None:
    arguments = (*SMALL, *WEIGHTS, "data.image_size=48", "hydra.run.dir=run")
    first = command(*arguments)
    assert not first.code, first.err
    assert "data.mean=[0.5,0.5,0.5], data.std=[0.5,0.5,0.5]: as timm's test_resnet (r160_in1k) expects" in first.out
    taken = "backbone.pretrained=true: timm's test_resnet, r160_in1k: 66 of 66 tensors taken"
    assert taken.replace("66", str(len(public.state) - 2)) in first.out
    stored = read_config(tmp_path / "run" / "config.yaml")
    assert stored["views"]["image_size"] == stored["backbone"]["image_size"] == 48  # as typed
    assert {key: stored["views"][key] for key in THEIRS} == THEIRS
    result = read_json(tmp_path / "run" / "result.json")
    assert set(result["baselines"]) == {"before", "raw_pixels", "untrained"}
    assert "  before: knn[k=3,T=0.1]/top1 " in first.out and "┃ before ┃ untrained ┃" in first.out

    moved = public.cache.rename(public.cache.with_name("moved"))
    try:
        again = command("resume=run", "trainer.max_steps=2")
        assert not again.code and read_json(tmp_path / "run" / "result.json")["resumed_at"] == 1, again.err
        assert read_json(tmp_path / "run" / "result.json")["baselines"] == result["baselines"]
        complete = command(*arguments, "trainer.max_steps=2")
        assert not complete.code and "complete: the run has its result" in complete.out, complete.err
        evaluate(tmp_path / "run", [])
        (scores,) = results_of(read_json(tmp_path / "run" / "evaluation.json"))
        assert list(scores["references"]) == ["before", "raw_pixels", "untrained"]
        export(tmp_path / "run", tmp_path / "e.safetensors")
        got = load_file(tmp_path / "e.safetensors")
        torch.testing.assert_close(got["conv1.0.weight"], public.state["conv1.0.weight"])
        anew = command(*SMALL, *WEIGHTS, "hydra.run.dir=anew")
        assert "timm cannot load the pretrained weights of test_resnet" in anew.err
        assert "set backbone.pretrained=false, or backbone.weights=<a file of weights of test_resnet>" in anew.err
    finally:
        moved.rename(public.cache)


def test_one_channel_takes_the_sum_of_three(public: SimpleNamespace) -> None:
    backbone = build(OmegaConf.create({**small("simclr", *WEIGHTS).backbone, "channels": 1, "image_size": 32}))
    begin_with_weights(SimpleNamespace(student=Encoder(backbone, {}), teacher=None))  # type: ignore
    first = public.state["conv1.0.weight"]
    assert torch.allclose(backbone.net.state_dict()["conv1.0.weight"], first.sum(dim=1, keepdim=True))


def test_before_is_what_the_weights_score_also_where_the_run_is_killed_before_its_first_evaluation(
    public: SimpleNamespace, tmp_path: Path
) -> None:
    settings = (*WEIGHTS, *SCORED, "data.image_size=32", "data.source.num_train=24", "data.source.num_test=16")
    cfg = small("simclr", *settings, "trainer.max_epochs=2", "trainer.checkpoint_every_n_epochs=1")
    module, data = build_module(cfg, True, 24), build_data(cfg)
    begin_with_weights(module)
    scores = build(cfg.evaluation).score_module(module, data)

    class Killed(Exception):
        pass

    def kill(*args: Any) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssl_framework.training.progress.Progress.on_train_epoch_start", kill)
        with pytest.raises(Killed):
            run_in(tmp_path / "none", cfg)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "ssl_framework.training.progress.Progress.on_train_epoch_start",
            lambda self, trainer, module: kill() if trainer.current_epoch == 1 else None,
        )
        with pytest.raises(Killed):
            run_in(tmp_path / "run", cfg)
    moved = public.cache.rename(public.cache.with_name("moved"))
    try:
        run_in(tmp_path / "run", cfg, resume=True)
    finally:
        moved.rename(public.cache)
    baselines = read_json(tmp_path / "run" / "result.json")["baselines"]
    assert baselines["before"] == {name: float(value) for name, value in scores.items()}
    assert set(baselines) == {"before", "raw_pixels", "untrained"}


def test_a_run_without_weights_has_no_row_of_them(tmp_path: Path) -> None:
    run_in(tmp_path, small("simclr", *SCORED, "trainer.max_steps=1"))
    assert set(read_json(tmp_path / "result.json")["baselines"]) == {"raw_pixels", "untrained"}


def test_the_weights_are_the_datas_measure_where_nobody_says_otherwise(tmp_path: Path) -> None:
    data, said = settled(*WEIGHTS)
    assert (data.image_size, list(data.mean), list(data.std)) == (160, *THEIRS.values())
    assert said.startswith("data.image_size=160, data.mean=[0.5,0.5,0.5]") and "as timm's test_resnet" in said
    typed, said = settled(*WEIGHTS, "data.image_size=32", "data.mean=[0.1,0.2,0.3]")
    assert (typed.image_size, list(typed.mean), list(typed.std)) == (32, [0.1, 0.2, 0.3], THEIRS["std"])
    assert said.startswith("data.std=[0.5,0.5,0.5]: ")
    grey, _ = settled(*WEIGHTS, data="digits")
    assert list(grey.mean) == [0.5] and list(grey.std) == [0.5]
    bands, _ = settled(*WEIGHTS, "data.channels=5", "data.mean=[0,0,0,0,0]", data="folder")
    assert (bands.image_size, list(bands.mean)) == (160, [0] * 5) and list(bands.std) == [0.229, 0.224, 0.225]
    assert bands.stored_size == 183  # 160 px are 7/8 of it
    kept, _ = settled(*WEIGHTS, "data.stored_size=99", data="folder")
    assert (kept.image_size, kept.stored_size) == (160, 99)  # which the source refuses
    sized, _ = settled(*WEIGHTS, "data.image_size=64", data="folder")
    assert (sized.image_size, sized.stored_size, list(sized.mean)) == (64, 96, THEIRS["mean"])
    assert settled("data=waves", data="waves")[1] == settled()[1] == ""
    experiment, _ = settled("method=mochi", "experiment=mochi/imagenet100", *WEIGHTS, data="folder")
    assert (experiment.image_size, experiment.stored_size) == (224, 256)  # the experiment's


def test_a_run_or_its_export_says_what_it_was_trained_with(tmp_path: Path) -> None:
    own = ("data.mean=[0.4,0.5,0.6]", "data.image_size=24")
    run_in(tmp_path / "run", small("simclr", *own, "trainer.max_steps=1"))
    export(tmp_path / "run", tmp_path / "e.safetensors")
    for name in ("run", "e.safetensors"):
        data, said = settled(f"backbone.weights={tmp_path / name}")
        assert (data.image_size, list(data.mean)) == (24, [0.4, 0.5, 0.6])
        assert said.startswith(f"data.image_size=24, data.mean=[0.4,0.5,0.6]: as {tmp_path / name} was trained with")
    with pytest.raises(FileNotFoundError, match="which does not exist"):
        settled(f"backbone.weights={tmp_path / 'nowhere'}")
    weights = f"backbone.weights={tmp_path / 'e.safetensors'}"
    run_in(tmp_path / "next", small("simclr", weights, *own, "trainer.max_steps=1"))
    (tmp_path / "e.safetensors").unlink()
    data, said = settled(weights, run=tmp_path / "next")  # the same command goes on
    assert data.image_size == 24 and f"as the weights that {tmp_path / 'next'} began with" in said


def test_the_api_composes_what_the_command_does() -> None:
    views = compose("data=shapes", *WEIGHTS).config.views
    assert (views.image_size, list(views.mean)) == (160, THEIRS["mean"])


def test_a_file_of_others_is_measured_as_timm_measures_its_network(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "large.pth")
    torch.save(timm.create_model("ssl_resnet18_small").state_dict(), tmp_path / "small.pth")
    large, said = settled("backbone=resnet18", f"backbone.weights={tmp_path / 'large.pth'}")
    assert (large.image_size, list(large.mean)) == (224, [0.485, 0.456, 0.406]) and "timm's resnet18 expects" in said
    own, said = settled("backbone=resnet18", f"backbone.weights={tmp_path / 'small.pth'}")
    assert own.image_size == 32 and said == ""


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("backbone=resnet18", "backbone.pretrained=true"), "which takes the place of resnet18 up to 64 px: leave"),
        (("backbone=tiny", "backbone.pretrained=true"), "timm has no pretrained weights of ssl_tiny"),
        ((*WEIGHTS, "backbone.weights=file"), "backbone.pretrained is true, and backbone.weights=file: choose one"),
        (("+backbone.options.pretrained=true",), "backbone.options has pretrained, which is said elsewhere: weights"),
        (("+backbone.options.checkpoint_path=x",), "backbone.options has checkpoint_path, which is said elsewhere"),
    ],
)
def test_what_cannot_be_begun_with_is_refused_in_one_sentence(overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        begin_with_weights(build_module(small("simclr", *overrides), True))


def test_a_stored_config_builds_without_them_and_begins_nothing_anew(tmp_path: Path) -> None:
    cfg = small("simclr", "trainer.max_steps=1")
    run_in(tmp_path / "run", cfg)
    stored = OmegaConf.create(OmegaConf.to_container(cfg))
    for node in (stored.backbone, stored.student.backbone):
        node.pretrained = True  # of a network for which timm has none, and no network to ask
    (tmp_path / "run" / "config.yaml").write_text(OmegaConf.to_yaml(stored) + "# whole\n")
    assert load_run(tmp_path / "run", [])[1].student.backbone.pretrained
    content: Any = OmegaConf.to_container(stored)
    refuse_fetching(content, RunFolder(tmp_path / "run"), set())
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(ValueError, match=r"would begin anew with weights that are fetched .*backbone\.pretrained=true"):
        refuse_fetching(content, RunFolder(tmp_path / "run"), set())
    refuse_fetching(content, RunFolder(tmp_path / "run"), {"backbone.pretrained"})
