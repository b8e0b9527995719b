"""Public models of pictures and texts in the place of a run's towers (extra "open_clip")."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ssl_framework.data.pairs.captioned_shapes import ShapeVocabulary
from ssl_framework.evaluation.request import evaluate_request, request_of
from ssl_framework.models import open_clip_towers

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
DATA = ("data=captioned_shapes", "data.source.num_train=30", "data.source.num_test=20", "trainer=cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights of the model "tiny", as open_clip's training and its hub folders have them."""
    package = pytest.importorskip("open_clip")
    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny.json").write_text(json.dumps(TINY))
    package.add_model_config(folder / "tiny.json")
    torch.manual_seed(3)
    state = package.create_model("tiny", pretrained=None).state_dict()
    torch.save({"epoch": 1, "state_dict": {f"module.{name}": x for name, x in state.items()}}, folder / "epoch_1.pt")
    save_file({name: x.contiguous() for name, x in state.items()}, folder / "open_clip_model.safetensors")
    return folder


def record_of(*arguments: str) -> dict[str, Any]:
    return evaluate_request(request_of([*arguments, *DATA, "evaluation=cross_modal"]))


def test_its_towers_give_its_own_embeddings_and_both_layouts_the_same_scores(files: Path) -> None:
    import open_clip

    words = ShapeVocabulary()
    texts = ["a small red circle", "the big blue star on the left"]
    pixels = torch.randn(2, 3, 32, 32)
    torch.manual_seed(0)
    net = open_clip.create_model("tiny", pretrained=str(files / "open_clip_model.safetensors")).eval()
    with torch.no_grad():
        wanted = net.encode_image(pixels), net.encode_text(open_clip.get_tokenizer("tiny")(texts))
        own = open_clip_towers.network("tiny").eval()
        open_clip_towers.load(own, torch.load(files / "epoch_1.pt"), "epoch_1.pt")
        towers = open_clip_towers.towers_of(own, "tiny", words)
        found = [
            towers.tower(name).encode(x)["projector"]
            for name, x in {"image": pixels, "text": words.encode(texts, 12).long()}.items()
        ]
    torch.testing.assert_close(found, list(wanted), rtol=1e-5, atol=1e-6)
    scores = [
        record_of(f"backbone={files / name}", "model=open_clip:tiny")
        for name in ("epoch_1.pt", "open_clip_model.safetensors")
    ]
    first, second = (score["metrics"] for score in scores)
    assert first == second != scores[0]["references"]["untrained"]
    assert scores[0]["model"]["trained"] and scores[0]["model"]["dim"] == 16
    assert set(scores[0]["references"]) == {"raw_pixels", "untrained", "chance"}
    random = record_of("backbone=open_clip:tiny")
    assert random["metrics"] == {name: scores[0]["references"]["untrained"][name] for name in random["metrics"]}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["backbone=open_clip:tiny", "data=shapes"], "compares pictures with texts, but data=shapes has no text"),
        (["backbone=open_clip:tiny", "data=waves"], "reads pictures, but data=waves is of series"),
        (["backbone=open_clip:tinny", "data=captioned_shapes"], "no model 'tinny' .did you mean tiny.."),
        (["backbone=open_clip:tiny", "model=x", "data=captioned_shapes"], "leave model=x out"),
        (["backbone=open_clip:tiny", "pretrained=true", "data=captioned_shapes"], "nothing is fetched for open_clip"),
        (["backbone=FOLDER/epoch_1.pt", "model=open_clip:ViT-S-32-alt", *DATA], "lacks visual.transformer.resblocks.1"),
        (["backbone=FOLDER/tiny.pt", "model=open_clip:tiny", *DATA], "does not exist: give a file of open_clip's"),
        (["backbone=FOLDER/odd.pt", "model=open_clip:tiny", *DATA], "holds no logit_scale"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(arguments: list[str], said: str, files: Path) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, files / "odd.pt")
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        evaluate_request(request_of([item.replace("FOLDER", str(files)) for item in arguments]))


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ValueError, match=r"open_clip_torch: pip install -e '\.\[open_clip\]'"):
        evaluate_request(request_of(["backbone=open_clip:ViT-B-32", "data=captioned_shapes"]))
