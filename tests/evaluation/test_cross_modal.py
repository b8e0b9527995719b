"""Two towers in a run: what is embedded, what is refused, what goes on, and what the page of the run shows."""

import os
import signal
from pathlib import Path

import pytest
import torch

from ssl_framework.build import build, build_data, build_module
from ssl_framework.data.loader import take
from ssl_framework.evaluation.cross_modal import CrossModal
from ssl_framework.evaluation.features import Splits, in_eval_mode
from ssl_framework.evaluation.request import evaluate
from ssl_framework.evaluation.score_all import Chosen, misfit
from ssl_framework.models.towers import Towers
from ssl_framework.models.weights import read_weights
from ssl_framework.report.inspection import Inspection
from ssl_framework.report.pictures.augmented import draw_views
from ssl_framework.report.pictures.similarity import draw_similarity
from ssl_framework.runs.folder import read_json
from ssl_framework.training.parts import begin_with_weights
from ssl_framework.types import Clock
from ssl_framework.views.text import words
from tests.small_runs import run_in, small
from tests.training.test_resume import assert_identical, interrupt_at, last

CROSS = (
    "evaluation=cross_modal",
    "evaluation.probes.linear.max_iter=5",
    "evaluation.cross.probes.retrieval.num_samples=32",
)
KNN = ("evaluation.probes.knn.k=[5]",)


def clip(*overrides: str):  # type: ignore[no-untyped-def]
    cfg = small("clip", *CROSS, *KNN, *overrides)
    torch.manual_seed(0)
    data = build_data(cfg)
    return cfg, data, build_module(cfg, True, len(data.pretrain.rows))


def test_a_method_that_sets_keys_of_its_evaluation_goes_without_one(tmp_path: Path) -> None:
    cfg = small("margin_pair")  # which the settings of small runs give evaluation=none
    assert "cross" not in cfg.evaluation and run_in(tmp_path, cfg) is None


def test_both_towers_embed_the_same_samples_and_the_prompts() -> None:
    cfg, data, module = clip()
    cross: CrossModal = build(cfg.evaluation).cross
    pairs, split, student = cross.pairs(module, data.test), data.test, module.student
    assert isinstance(student, Towers)
    with torch.no_grad(), in_eval_mode(module):
        images = student.tower("image").encode(module.views.clean(split.rows))["projector"]  # [N, D]
        texts = student.tower("text").encode(split.beside["text"][:, 0].long())["projector"]  # [N, D]
        prompt = student.tower("text").encode(split.prompts["position"][4, 2:3].long())["projector"]  # [1, D]
    normal = torch.nn.functional.normalize
    torch.testing.assert_close(pairs.main, normal(images, dim=1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pairs.other, normal(texts, dim=1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pairs.prompts["position"][4, 2:3], normal(prompt, dim=1), rtol=1e-4, atol=1e-5)
    assert pairs.names == ("image", "text") and torch.equal(pairs.group, split.numbers["group"])
    assert {name: tuple(x.shape) for name, x in pairs.prompts.items()} == {
        "shape": (10, 4, 128),
        "colour": (6, 4, 128),
        "scale": (4, 4, 128),
        "background": (5, 4, 128),
        "position": (9, 4, 128),
    }
    assert module.training and student.training  # as before


def test_data_without_the_other_modality_leave_the_protocol_out() -> None:
    cfg, data, module = clip()
    chosen = Chosen("cross_modal", cfg.evaluation, [], False)
    bare = Splits(*(split._replace(beside=None) for split in (data.train, data.test)))
    assert misfit(build(cfg.evaluation), chosen, module, Splits(data.train, data.test), {}) == ""
    assert misfit(build(cfg.evaluation), chosen, module, bare, {}).startswith("evaluation.cross reads text, which the")


def test_a_step_pairs_each_picture_with_its_own_caption() -> None:
    _, data, module = clip("views.parts.1.deletion=0.0")
    index = torch.tensor([5, 3, 40])
    batch = module.views(take(data.pretrain, index))
    assert batch.modality == ("image", "text") and [tuple(v.shape) for v in batch.views] == [(3, 3, 32, 32), (3, 20)]
    for row, sample in zip(batch.views[1], index, strict=True):
        assert (data.pretrain.beside["text"][sample].long() == row).all(dim=1).any()
    assert words(batch.views[1]).any()


def test_micro_batches_give_the_whole_batch_s_loss() -> None:
    values = []
    for size in ("null", "3"):
        _, data, module = clip(f"data.micro_batch_size={size}", "views.parts.1.deletion=0.0", "data.batch_size=8")
        module.eval()  # without batch statistics, which are of a micro-batch
        torch.manual_seed(1)
        values.append(module.losses(take(data.pretrain, torch.arange(8)), Clock(0, 0, 2))["loss"])
    torch.testing.assert_close(values[1], values[0], rtol=1e-5, atol=1e-6)


def test_a_run_interrupted_and_resumed_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = small("clip", *CROSS, *KNN, "evaluation.every_n_epochs=1")
    run_in(tmp_path / "whole", cfg)

    def stop() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        interrupt_at(patch, 5, stop)
        assert run_in(tmp_path / "parts", cfg) == "SIGTERM"
    assert last(tmp_path / "parts")["global_step"] == 5
    assert run_in(tmp_path / "parts", cfg, resume=True) is None
    assert_identical(last(tmp_path / "whole")["state_dict"], last(tmp_path / "parts")["state_dict"])
    assert "objective.log_scale" in last(tmp_path / "whole")["state_dict"]
    whole, parts = (read_json(tmp_path / name / "result.json") for name in ("whole", "parts"))
    assert whole["metrics"] == parts["metrics"] and whole["baselines"] == parts["baselines"]

    # And what a finished run is good for.
    assert whole["baselines"]["chance"]["zero_shot[colour,classes=6,prompts=4]/top1"] == 100 / 6
    assert whole["baselines"]["untrained"].keys() == whole["metrics"].keys()
    again = evaluate(tmp_path / "whole", [])
    assert again == pytest.approx(whole["metrics"])
    seen = Inspection(tmp_path / "whole", [], 40, 0)
    assert "views of one training step" in draw_views(seen, tmp_path / "views.png")
    assert "10 test samples, image in columns and text in rows" in draw_similarity(seen, tmp_path / "pairs.png")
    caption = seen.module.views.picture(seen.data.train.beside["text"][0, 0], "text")
    assert isinstance(caption, str) and len(caption.split()) >= 12 and "<unknown>" not in caption
    other = build_module(small("m2_mix", f"text_backbone.weights={tmp_path / 'whole'}"), True, 48)
    begin_with_weights(other)
    begun, trained = (module.student.tower("text").backbone.net.state_dict() for module in (other, seen.module))
    assert_identical(begun, trained)
    weights = read_weights(tmp_path / "whole")
    assert weights.keys() == seen.module.student.backbone.net.state_dict().keys()  # of the image tower


@pytest.mark.parametrize(
    ("method", "overrides", "words"),
    [
        (
            "simclr",
            ("data=captioned_shapes",),
            "no tower for text: choose method=albef, align, barlip, biovil, cl2l, cleanclip, clip, ",
        ),
        (
            "clip",
            ("evaluation.cross.head=predictor",),
            "evaluation.cross.head is predictor, but the tower for image has",
        ),
        (
            "clip",
            ("evaluation.cross.other=sound",),
            "the student has no tower for sound: choose method=coconut_text, hicmae, margin_pair or evaluation=frozen",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(
    tmp_path: Path, method: str, overrides: tuple[str, ...], words: str
) -> None:
    with pytest.raises(ValueError) as error:
        run_in(tmp_path, small(method, *CROSS, *KNN, *overrides))
    assert words in str(error.value)


def test_an_image_method_trains_on_the_pictures_of_pairs(tmp_path: Path) -> None:
    run_in(tmp_path, small("simclr", "data=captioned_shapes", "evaluation=frozen", *KNN))
    result = read_json(tmp_path / "result.json")
    assert result["steps"] == 12 and "knn[k=5,T=0.1]/top1" in result["metrics"]
