"""Methods on series, sounds, sequences and graphs: each trains or is refused in a sentence; runs are as on pictures."""

from pathlib import Path

import pytest
import torch

from ssl_framework.build import build_data, build_module
from ssl_framework.data.loader import take
from ssl_framework.exporting import export
from ssl_framework.loading import load_run
from ssl_framework.models.weights import load_checkpoint
from ssl_framework.runs.folder import read_json, read_metrics
from ssl_framework.types import Clock
from tests.small_runs import DEFAULT_DATA, METHODS, MODALITIES, SMALL, SMALL_OF, config, run_in, small
from tests.training.test_resume import assert_identical, interrupt_at, sigterm

MIX = {
    **{name: "Mixup" for name in ("decoupled_mixup", "imix", "imix_byol", "imix_moco", "mixco", "mixco_simclr")},
    **{name: "Mixup" for name in ("rankmixup_mndcg", "rankmixup_mrl", "mixmatch")},
    **{name: "Switch" for name in ("unmix", "unmix_byol", "unmix_simclr")},
    **{"bsim": "CutMix", "patchmix": "PatchMix", "sdmp": "ResizeMix"},
}
"""Methods that mix pictures, and what they mix by."""

MASKED = ("mae", "simmim", "data2vec", "ijepa", "msn", "pmsn", "ibot", "dinov2", "mixed_ae", "tera", "w2v_bert")
"""Methods that hide patches of pictures or frames of sounds, and bring a backbone that has them."""

REFUSED = {
    **{
        name: rf"^{rule} mixes pictures, but view 0 is of modality series: set mixer=none" for name, rule in MIX.items()
    },
    "adainf": r"^generated\.source\.image_size reads data\.image_size, which data=waves has not",
    "cmim": r"^student\.heads\.decoder\.\w+ reads data\.\w+, which data=waves has not",
    "pairing_net": r"^views\.pairs reads data\.pairs, which data=waves has not",
    "margin_pair": "^the method has towers of sound and series, but data=waves has no sound",
    "hicmae": "^the method has towers of image and sound, but data=waves has no image",
    "scatsimclr": "data=waves",
    "genview": "data=waves",
    "mi_views": "data=waves",
    **{
        name: r"^the method has noise or geometry of pictures \(views\), but data=waves has no pictures: choose another"
        for name in ("dacl", "meco", "remixmatch")
    },
    **{name: "data=waves" for name in METHODS if "text" in MODALITIES[DEFAULT_DATA[name]][1:]},
    **{name: "^waves has no text: choose data=" for name in METHODS if MODALITIES[DEFAULT_DATA[name]][0] == "text"},
    **dict.fromkeys(MASKED, r"^backbone\.image_size reads data\.image_size, which data=waves has not"),
    **dict.fromkeys(
        ("densecl", "pixpro", "slotcon", "vicregl"),
        r"^a head has source=map, but the encoder offers \[.*'pooled', .*'tokens'\] at this point: choose another head",
    ),
    "obow": r"^objective, which reads block_-2, needs blocks that can be named, which dilated_net_\w+ has not: choose",
    **{
        name: r"^teacher\.backbone\.image_size reads data\.image_size, which data=waves has not"
        for name in ("coconut", "distill", "hybrid_distillation", "wad")
    },
}
"""Methods that do not fit series, and why."""

REFUSED |= {
    name: rf"^views\.{key} reads data\.{key}, which data=waves has not, being of modality series"
    for name in METHODS
    for main, key in (("node", "features"), ("sequence", "items"))
    if MODALITIES[DEFAULT_DATA[name]] == (main,)
}


@pytest.mark.parametrize("method", [name for name in METHODS if name not in REFUSED and name != "g_simclr"])
def test_a_method_without_pictures_in_it_makes_a_step_on_series(method: str) -> None:
    cfg = config(f"method={method}", "data=waves", *SMALL, *SMALL_OF.get(method, ()))
    data = build_data(cfg)
    module = build_module(cfg, True, data.pretrain.shape[0])
    four_classes = torch.tensor([0, 1, 2, 3, 8, 9, 10, 11])  # each twice: some losses read pairs of a class
    losses = module.losses(take(data.pretrain, four_classes), Clock(0, 0, 10))  # type: ignore[arg-type]
    losses["loss"].backward()
    assert torch.isfinite(losses["loss"])
    without = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert not without  # DDP waits for every gradient
    assert module.student.backbone.net.read.weight.grad.abs().max() > 0


def test_views_of_sounds_that_ask_what_was_changed_are_named() -> None:
    with pytest.raises(
        ValueError, match="spoken_digits has no pictures: choose views=audio_remixmatch or another method"
    ):
        config("method=remixmatch", "data=spoken_digits")
    assert config("method=remixmatch", "data=spoken_digits", "views=audio_remixmatch").views.count == 4


@pytest.mark.parametrize("method", [name for name in METHODS if name in REFUSED])
def test_a_method_of_pictures_is_refused_on_series_in_one_sentence(method: str) -> None:
    with pytest.raises(ValueError, match=REFUSED[method]) as found:
        cfg = config(f"method={method}", "data=waves", *SMALL, *SMALL_OF.get(method, ()))
        build_data(cfg)
        build_module(cfg, True, 48)
    assert "\n" not in str(found.value)


def test_clusters_of_pictures_are_refused_on_series() -> None:
    data = build_data(config("method=g_simclr", "data=waves", *SMALL, *SMALL_OF["g_simclr"]))
    assert data.pseudo_labels is not None
    with pytest.raises(ValueError, match="learns from pictures, but the samples are of shape 1 x 128"):
        data.pseudo_labels(data.pretrain, 0, torch.device("cpu"))  # type: ignore[arg-type]


def test_views_of_a_modality_that_the_data_lack_are_refused() -> None:
    cfg = small("simclr")
    cfg.views = config("data=waves").views
    with pytest.raises(ValueError, match=r"shapes has no series: choose data=(\w+, )*waves or views of image"):
        build_module(cfg, True, 48)


EVALUATED = ("evaluation=frozen", "evaluation.probes.knn.k=[5]", "evaluation.probes.linear.max_iter=5", "report=page")


def test_a_run_on_series_has_its_baselines_page_and_export(tmp_path: Path) -> None:
    run_in(tmp_path, config("method=simclr", "data=waves", *SMALL, *EVALUATED), data="waves")
    result = read_json(tmp_path / "result.json")
    assert list(result["baselines"]) == ["raw_input", "untrained"]
    assert result["metrics"].keys() == result["baselines"]["raw_input"].keys()
    page = (tmp_path / "report.html").read_text()
    assert "raw input" in page and "raw pixels" not in page
    assert (tmp_path / "pictures" / "views.png").is_file() and (tmp_path / "pictures" / "neighbours.png").is_file()
    _, line = export(tmp_path, tmp_path / "net.safetensors")
    assert "DilatedNet(channels=1, width=32, depth=4, dim=64, kernel=3)" in line
    found: dict = {}
    exec(line, found)
    _, module = load_run(tmp_path, [])
    x = torch.randn(2, 1, 128)
    assert torch.equal(found["net"](x).amax(dim=2), module.eval().student.backbone(x)["pooled"])


@pytest.mark.parametrize("method", ["simclr", "mochi"])
def test_a_run_on_series_that_was_stopped_ends_bit_for_bit_as_one_that_was_not(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = config(f"method={method}", "data=waves", *SMALL, *SMALL_OF.get(method, ()))
    run_in(tmp_path / "whole", cfg)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 9, sigterm)
        assert run_in(tmp_path / "parts", cfg) == "SIGTERM"
    assert run_in(tmp_path / "parts", cfg, resume=True) is None
    whole, parts = (load_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("whole", "parts"))
    assert whole["global_step"] == parts["global_step"] == 12
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks"):
        assert_identical(whole[key], parts[key], key)
    assert read_metrics(tmp_path / "whole" / "metrics.csv") == read_metrics(tmp_path / "parts" / "metrics.csv")


TEXTS = ("data=caption_texts", "data.source.num_train=48", "data.source.num_test=24", "data.source.num_graded=9")


@pytest.mark.parametrize("method", ["simclr", "mochi", "byol", "swav", "mv_infonce", "supcon", "barlow_twins"])
def test_methods_of_pictures_make_a_step_on_texts(method: str) -> None:
    """MoCHi among them, which mixes embeddings: mixing that needs no picture."""
    cfg = config(f"method={method}", *TEXTS, *SMALL, *SMALL_OF.get(method, ()))
    data = build_data(cfg)
    module = build_module(cfg, True, data.pretrain.shape[0])
    losses = module.losses(take(data.pretrain, torch.arange(8)), Clock(0, 0, 10))  # type: ignore[arg-type]
    losses["loss"].backward()
    assert torch.isfinite(losses["loss"])
    assert not [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ("method=imix",),
            r"^Mixup mixes pictures, but view 0 is of modality text: set mixer=none, or choose",
        ),
        (("mixer=cutmix",), r"^CutMix mixes pictures, but view 0 is of modality text: set mixer=none"),
        (("method=mae",), r"^backbone\.image_size reads data\.image_size, which data=caption_texts has not"),
        (("method=clip",), r"^the method has towers of image and text, but data=caption_texts has no image: choose"),
    ],
)
def test_what_is_done_to_pictures_is_refused_on_texts_in_one_sentence(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words) as found:
        build_module(config(*overrides, *TEXTS, *SMALL), True, 48)
    assert "\n" not in str(found.value)


def test_a_run_on_texts_that_was_stopped_ends_bit_for_bit_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, which is drawn anew in every step."""
    cfg = config("method=mochi", *TEXTS, *SMALL, *SMALL_OF["mochi"], "evaluation=none")
    run_in(tmp_path / "whole", cfg, data="caption_texts")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 9, sigterm)
        assert run_in(tmp_path / "parts", cfg, data="caption_texts") == "SIGTERM"
    assert run_in(tmp_path / "parts", cfg, resume=True, data="caption_texts") is None
    whole, parts = (load_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("whole", "parts"))
    for key in ("state_dict", "optimizer_states"):
        assert_identical(whole[key], parts[key], key)


def test_a_run_on_texts_is_scored_as_texts_are_and_its_page_shows_words(tmp_path: Path) -> None:
    evaluated = ("evaluation=text", *EVALUATED[1:], "trainer.max_epochs=1")
    run_in(tmp_path, config("method=simclr", *TEXTS, *SMALL, *evaluated), data="caption_texts")
    result = read_json(tmp_path / "result.json")
    assert list(result["baselines"]) == ["raw_input", "untrained", "chance"]
    names = {name.split("/")[-1] for name in result["metrics"]}
    assert names == {"top1", "spearman", "recall@1", "recall@5", "recall@10", "mrr", "ndcg@10", "pooled_auc"}
    assert result["baselines"]["chance"].keys() < result["metrics"].keys()
    assert result["baselines"]["raw_input"].keys() == result["metrics"].keys()
    assert (tmp_path / "report.html").is_file()


SOUNDS = ("data=spoken_digits", "data.source.num_train=48", "data.source.num_test=24", "data.length=2048")


@pytest.mark.parametrize("method", ["simclr", "mochi", "byol", "swav", "imix", "unmix_simclr", "patchmix", "mae"])
def test_methods_of_pictures_and_their_mixers_make_a_step_on_sounds(method: str) -> None:
    """Log-mel pictures have one channel: nothing that mixes, hides or compares places of pictures needs to know."""
    cfg = config(f"method={method}", *SOUNDS, *SMALL, *SMALL_OF.get(method, ()))
    data = build_data(cfg)
    module = build_module(cfg, True, data.pretrain.shape[0])
    losses = module.losses(take(data.pretrain, torch.arange(8)), Clock(0, 0, 10))  # type: ignore[arg-type]
    losses["loss"].backward()
    assert torch.isfinite(losses["loss"])
    assert not [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]


def test_a_run_on_sounds_that_was_stopped_ends_bit_for_bit_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ("method=mochi", *SOUNDS, *SMALL, *SMALL_OF["mochi"])
    run_in(tmp_path / "whole", config(*said, *EVALUATED), data="spoken_digits")
    cfg = config(*said, *EVALUATED[:-1])  # one page is enough
    with monkeypatch.context() as patch:
        interrupt_at(patch, 9, sigterm)
        assert run_in(tmp_path / "parts", cfg, data="spoken_digits") == "SIGTERM"
    assert run_in(tmp_path / "parts", cfg, resume=True, data="spoken_digits") is None
    whole, parts = (load_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("whole", "parts"))
    for key in ("state_dict", "optimizer_states"):
        assert_identical(whole[key], parts[key], key)
    results = [read_json(tmp_path / name / "result.json") for name in ("whole", "parts")]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert list(results[0]["baselines"]) == ["raw_input", "untrained"]
    assert (tmp_path / "whole" / "pictures" / "views.png").is_file()


ITEMS = ("data=item_markov", "data.items=20", "data.source.categories=4", "data.length=8", "data.source.history=[4,9]")


@pytest.mark.parametrize("method", ["simclr", "mochi", "byol", "swav", "barlow_twins", "supcon", "supervised"])
def test_methods_of_pictures_make_a_step_on_sequences_of_items(method: str) -> None:
    cfg = config(f"method={method}", *ITEMS, *SMALL, *SMALL_OF.get(method, ()))
    data = build_data(cfg)
    module = build_module(cfg, True, data.pretrain.shape[0])
    losses = module.losses(take(data.pretrain, torch.arange(8)), Clock(0, 0, 10))  # type: ignore[arg-type]
    losses["loss"].backward()
    assert torch.isfinite(losses["loss"])
    assert not [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]


def test_mixing_of_pictures_is_refused_on_sequences() -> None:
    cfg = config("method=imix", *ITEMS, *SMALL)
    with pytest.raises(ValueError, match=r"^Mixup mixes pictures, but view 0 is of modality sequence: set mixer=none"):
        build_module(cfg, True, 48)


def test_a_run_on_sequences_has_its_references_and_export(tmp_path: Path) -> None:
    small = (*ITEMS, *SMALL, "evaluation=recommendation", "evaluation.probes.next_item.k=[5]")
    run_in(tmp_path, config("method=simclr", *small), data="item_markov")
    result = read_json(tmp_path / "result.json")
    references = ["raw_input", "untrained", "chance", "popularity", "transitions"]
    assert list(result["baselines"]) == references and result["sample"] == "sequence"
    assert all(result["baselines"][name].keys() == result["metrics"].keys() for name in references)
    assert result["baselines"]["chance"]["next_item[l2=0.1]/hr@5"] == pytest.approx(25)
    _, line = export(tmp_path, tmp_path / "net.safetensors")
    found: dict = {}
    exec(line, found)
    _, module = load_run(tmp_path, [])
    x = torch.randint(1, 21, (2, 8))
    assert torch.equal(found["net"](x)[:, -1], module.eval().student.backbone(x)["pooled"])


NODES = ("data=sbm", "data.features=8", "data.source.degree=4")


@pytest.mark.parametrize(
    "method",
    ["simclr", "mochi", "byol", "swav", "barlow_twins", "mocov3", "nnclr", "dino", "vicreg", "supcon", "supervised"],
)
def test_methods_of_pictures_make_a_step_on_nodes_of_a_graph(method: str) -> None:
    cfg = config(f"method={method}", *NODES, *SMALL, *SMALL_OF.get(method, ()))
    data = build_data(cfg)
    module = build_module(cfg, True, data.pretrain.shape[0])
    losses = module.losses(take(data.pretrain, torch.arange(8)), Clock(0, 0, 10))  # type: ignore[arg-type]
    losses["loss"].backward()
    assert torch.isfinite(losses["loss"])
    assert not [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]


def test_a_batch_in_parts_has_the_loss_of_the_whole_on_a_graph() -> None:
    """Batch statistics are those of all nodes of a view, whichever of them are encoded."""
    found = []
    for size in ("null", "3"):
        cfg = config("method=simclr", *NODES, *SMALL, f"data.micro_batch_size={size}", "student.join_views=false")
        data = build_data(cfg)
        torch.manual_seed(0)
        module = build_module(cfg, True, 48)
        module.student.heads.eval()  # whose batch statistics are those of a part
        torch.manual_seed(1)
        losses = module.losses(take(data.pretrain, torch.arange(8)), Clock(0, 0, 10))  # type: ignore[arg-type]
        losses["loss"].backward()
        found.append((losses["loss"], module.student.backbone.net.layers[0].weight.grad))
    torch.testing.assert_close(found[0], found[1])


def test_a_run_on_a_graph_that_was_stopped_ends_bit_for_bit_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = (
        "evaluation=nodes",
        "evaluation.probes.few.labels=2",
        "evaluation.probes.few.draws=2",
        "evaluation.probes.clustering=null",
    )
    cfg = config("method=mochi", *NODES, *SMALL, *SMALL_OF["mochi"], *draws)
    run_in(tmp_path / "whole", cfg, data="sbm")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 9, sigterm)
        assert run_in(tmp_path / "parts", cfg, data="sbm") == "SIGTERM"
    assert run_in(tmp_path / "parts", cfg, resume=True, data="sbm") is None
    whole, parts = (load_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("whole", "parts"))
    for key in ("state_dict", "optimizer_states"):
        assert_identical(whole[key], parts[key], key)
    results = [read_json(tmp_path / name / "result.json") for name in ("whole", "parts")]
    assert results[0]["metrics"] == results[1]["metrics"] and results[0]["sample"] == "node"
    assert list(results[0]["baselines"]) == ["raw_input", "smoothed", "untrained"]
