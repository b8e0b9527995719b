"""The functions for notebooks: the same configs, numbers and refusals as the commands."""

import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
from omegaconf import OmegaConf

import ssl_framework
from ssl_framework.loading import load_run
from ssl_framework.runs.folder import read_json
from tests.small_runs import SMALL, config, run_in, small
from tests.training.test_resume import interrupt_at, sigterm

ROOT = Path(__file__).resolve().parents[1]
SIMCLR = ("method=simclr", *SMALL, "trainer=cpu")
OPTIONS = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> ssl_framework.Run:
    folder = tmp_path_factory.mktemp("api") / "run"
    return ssl_framework.compose(*SIMCLR, "evaluation=frozen", "evaluation.probes.knn.k=5").fit(folder)


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, ssl_framework; assert 'compose' in dir(ssl_framework); "
        "print({'torch', 'hydra', 'lightning'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
    with pytest.raises(AttributeError, match="module 'ssl_framework' has no attribute 'fit'"):
        ssl_framework.fit  # noqa: B018


def test_a_composition_is_what_the_command_composes() -> None:
    found = ssl_framework.compose(*SIMCLR)
    assert found.config == config(*SIMCLR)
    assert found.about["method"] == "simclr" and found.about["data"] == "shapes"
    assert found.about["command"] == "python train.py " + " ".join(SIMCLR)
    with pytest.raises(Exception, match="read-only"):
        found.config.seed = 3


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("method=simclrr", r"there is no method=simclrr \(did you mean simclr\?\); method can be: "),
        ("objective.temprature=1", r"there is no key objective.temprature \(did you mean temperature\?\)"),
        ("objective.temperature=hot", r"objective.temperature is 'hot': it must be a number above 0"),
        ("seeed=1", r"there is no key seeed \(did you mean seed\?\)"),
        (
            "method=mae backbone=text_tiny",
            r"method=mae sets backbone.masked_tokens, which backbone=text_tiny does not have: choose .*vit_tiny",
        ),
    ],
)
def test_what_the_command_refuses_is_refused_in_the_same_words(override: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ssl_framework.compose(*override.split())


def test_keys_that_a_method_sets_for_its_own_choice_stay_where_another_choice_has_them() -> None:
    found = ssl_framework.compose("method=mae", "backbone=vit_nano").config
    assert found.backbone.masked_tokens == "drop"


def test_a_fit_is_the_run_of_the_command(finished: ssl_framework.Run, tmp_path: Path) -> None:
    run_in(tmp_path, small("simclr", "trainer=cpu", "evaluation=frozen", "evaluation.probes.knn.k=5"))
    there = load_run(tmp_path, [])[1].state_dict()
    assert all(torch.equal(there[name], tensor) for name, tensor in finished.module.state_dict().items())
    assert finished.metrics == read_json(tmp_path / "result.json")["metrics"] != {}
    assert finished.result["command"].startswith("python train.py method=simclr")
    with pytest.raises(ValueError, match=r"already holds a run: continue it with resume\(folder\)"):
        ssl_framework.compose(*SIMCLR).fit(finished.folder)


def test_a_trainer_of_ones_own_takes_the_same_steps(finished: ssl_framework.Run) -> None:
    composition = ssl_framework.compose(*SIMCLR)
    state = torch.get_rng_state()
    data = composition.data()
    module = composition.module(data)
    assert torch.equal(torch.get_rng_state(), state)
    L.Trainer(accelerator="cpu", max_epochs=2, **OPTIONS).fit(module, datamodule=data)
    assert all(torch.equal(module.state_dict()[name], x) for name, x in finished.module.state_dict().items())


def test_a_trainer_may_count_steps_alone_and_widths_follow_from_what_is_composed() -> None:
    composition = ssl_framework.compose("method=obow", *SMALL, "objective.vocabulary.size=32")
    data = composition.data()
    module = composition.module(data)  # whose objective is as wide as the student's output
    L.Trainer(accelerator="cpu", max_steps=1, **OPTIONS).fit(module, datamodule=data)
    assert module.total_steps == 1


def test_pseudo_labels_of_a_trainer_of_ones_own_need_a_folder(tmp_path: Path) -> None:
    own = ("pseudo_labels=classes", "sampler=distinct", "data.batch_size=4")
    composition = ssl_framework.compose("method=simclr", *(item for item in SMALL if "batch_size" not in item), *own)
    data = composition.data()
    with pytest.raises(ValueError, match=r"kept in a folder: name one, composition\.data\(folder="):
        L.Trainer(accelerator="cpu", max_steps=1, **OPTIONS).fit(composition.module(data), datamodule=data)
    data = composition.data(tmp_path / "own")
    L.Trainer(accelerator="cpu", max_steps=1, **OPTIONS).fit(composition.module(data), datamodule=data)
    assert (tmp_path / "own" / "pseudo_labels.npy").is_file()


def test_a_loaded_run_embeds_as_evaluation_does(finished: ssl_framework.Run) -> None:
    run = ssl_framework.load(finished.folder)
    images = ssl_framework.compose(*SIMCLR).data().test.rows[torch.arange(32)]  # [32, 3, 32, 32]
    want = torch.cat([run.encoder.embed(run.module.views.clean(image[None])) for image in images]).detach()
    torch.testing.assert_close(run.embed(images), want)
    assert run.config == OmegaConf.load(finished.folder / "config.yaml") and not run.encoder.training
    assert run.evaluate() == run.metrics
    assert set(run.evaluate("evaluation=retrieval")) > {"retrieval[test,cosine]/map@r"}


def test_a_run_that_a_signal_stopped_goes_on_as_if_nothing_had_been(
    finished: ssl_framework.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    composition = ssl_framework.compose(*SIMCLR, "evaluation=frozen", "evaluation.probes.knn.k=5")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5, sigterm)
        with pytest.raises(KeyboardInterrupt, match=r"stopped by SIGTERM; resume\('.*parts'\) goes on"):
            composition.fit(tmp_path / "parts")
    parts = ssl_framework.resume(tmp_path / "parts")
    same = zip(finished.module.state_dict().values(), parts.module.state_dict().values(), strict=True)
    assert parts.result["resumed_at"] == 5 and all(torch.equal(x, y) for x, y in same)
    assert parts.metrics == finished.metrics
    with pytest.raises(ValueError, match=r"a run is resumed as it was configured: leave seed=1 out"):
        ssl_framework.resume(tmp_path / "parts", "seed=1")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        ssl_framework.resume(tmp_path / "nowhere")


def test_objective_and_views_of_a_composition_take_plain_tensors() -> None:
    composition = ssl_framework.compose("method=dcl", "views=byol", "objective.temperature=0.5")
    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    views = composition.views()
    found = views.of(images, torch.Generator().manual_seed(0))
    again = views.of(images, torch.Generator().manual_seed(0))
    assert len(found) == 2 and all(torch.equal(x, y) for x, y in zip(found, again, strict=True))
    assert found[0].shape == (4, 3, 32, 32) and found[0].dtype == torch.float32
    z0, z1 = torch.eye(4), torch.eye(4)  # aligned pairs, orthogonal to all others: -2 + log(6) by DCL's equation 6
    torch.testing.assert_close(composition.objective().loss_of(z0, z1), torch.tensor(6.0).log() - 2)
