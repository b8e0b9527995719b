"""The trained backbone in the formats of other libraries. Each is checked where it is written: what is read back gives
the same features as the run's network.

    timm         safetensors under the network's own names, for ``timm.create_model(..., checkpoint_path=...)``
    torchvision  safetensors under torchvision's names
    detectron2   a .pkl of arrays under Detectron2's names, for ``MODEL.WEIGHTS``
    mmdet        a .pth for MMDetection's ``init_cfg``
    onnx         a graph from pixels to features, normalisation included
    torch        the same as a program of ``torch.export``
    hub          a folder that timm and the Hugging Face Hub load, with a model card of the run's result

B images, C channels, S pixels a side, D features.
"""

import contextlib
import copy
import json
import logging
import pickle
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save_file
from timm.models import save_for_hf
from timm.models.resnet import ResNet
from torch import Tensor, nn

from ssl_framework.loading import load_run
from ssl_framework.models.backbone import Backbone
from ssl_framework.models.exported import write_exported
from ssl_framework.models.tuning import fold
from ssl_framework.models.weights import refuse_non_finite_weights
from ssl_framework.module import SSLModule
from ssl_framework.runs.durable import replacing
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.messages import nearest
from ssl_framework.runs.system import refuse_unwritable, writing

TOLERANCE = 1e-4
"""Largest difference of a feature, of features whose largest is 1, between the run's network and what was written."""


class Trained(NamedTuple):
    """What is exported."""

    cfg: DictConfig
    module: SSLModule  # in eval mode
    folder: Path

    @property
    def net(self) -> nn.Module:
        """The network itself."""
        return self.module.student.backbone.net

    @property
    def weights(self) -> dict[str, Tensor]:
        """Its weights and buffers under its own names; one that several names share, as in CoaT, once for each."""
        state, first = self.net.state_dict(), dict[int, str]()
        for name, x in state.items():
            first.setdefault(x.untyped_storage().data_ptr(), name)
        shared = {name for name, x in state.items() if first[x.untyped_storage().data_ptr()] != name}
        own = {name: x.detach().contiguous() for name, x in state.items()}
        return {name: x.clone() if name in shared else x for name, x in own.items()}

    def pixels(self) -> Tensor:
        """[2, C, S, S] float32 in [0, 1] of a seed, to compare by."""
        views = self.cfg.views
        shape = (2, views.channels, views.image_size, views.image_size)
        return torch.rand(shape, generator=torch.Generator().manual_seed(0))


class FromPixels(nn.Module):
    """Pixels in [0, 1], of the side that the network was trained with, to its pooled features.

    Args:
        backbone: the network.
        mean: C numbers that are subtracted.
        std: C numbers by which is divided.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.net = backbone.net
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))  # [C, 1, 1]
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))  # [C, 1, 1]

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, C, S, S] float32 -> [B, D]."""
        return self.net.forward_head(self.net.forward_features((pixels - self.mean) / self.std), pre_logits=True)


def load(folder: Path) -> Trained:
    """The network of a run; what was tuned beside it becomes part of its weights.

    Raises:
        FileNotFoundError, ValueError: no such run, one that is not trusted, or one of prefixes.
    """
    cfg, module = load_run(folder, [])
    fold(module.student.backbone)
    return Trained(cfg, module.eval(), folder)


def of_pictures(trained: Trained, format: str) -> FromPixels:
    """The network with its normalisation.

    Raises:
        ValueError: it is no network of pictures.
    """
    backbone = trained.module.student.backbone
    if not isinstance(backbone, Backbone):
        raise ValueError(f"format={format} is for networks of pictures, but this run trained {backbone.name}: use timm")
    views = trained.cfg.views
    return FromPixels(backbone, list(views.mean), list(views.std)).eval()


def to_timm(trained: Trained, out: Path) -> str:
    """Weights and what they were trained with; returns the call that loads them."""
    views = OmegaConf.masked_copy(trained.cfg.views, ["image_size", "channels", "mean", "std"])
    layout = OmegaConf.masked_copy(trained.cfg.backbone, ["options", "channels_last"])
    backbone = trained.module.student.backbone
    metadata = {**backbone.about(), "format": "pt"}
    # What scripts/evaluate.py backbone=<file> needs.
    metadata["trained_with"] = json.dumps(OmegaConf.to_container(OmegaConf.merge(views, layout)))
    write_exported(out, trained.weights, metadata)
    return backbone.load_line(out)


TORCHVISION = {
    **{name: name for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")},
    **{name: name for name in ("wide_resnet50_2", "wide_resnet101_2", "resnext50_32x4d", "resnext101_32x8d")},
    **{f"vit_{size}_patch{patch}_224": f"vit_{size[0]}_{patch}" for size in ("base", "large") for patch in (16, 32)},
}
"""timm's name -> torchvision's name of the same network."""

TO_TORCHVISION = (  # of a transformer
    (r"^cls_token$", "class_token"),
    (r"^patch_embed\.proj\.", "conv_proj."),
    (r"^pos_embed$", "encoder.pos_embedding"),
    (r"^norm\.", "encoder.ln."),
    (r"^blocks\.(\d+)\.", r"encoder.layers.encoder_layer_\1."),
    (r"\.attn\.qkv\.", ".self_attention.in_proj_"),
    (r"\.attn\.proj\.", ".self_attention.out_proj."),
    (r"\.norm(\d)\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
)

TO_DETECTRON2 = (  # of a ResNet
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"^layer1\.", "res2."),
    (r"^layer2\.", "res3."),
    (r"^layer3\.", "res4."),
    (r"^layer4\.", "res5."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)


def renamed(state: Mapping[str, Tensor], table: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    """The same tensors under the names that a table makes."""
    found = {}
    for name, x in state.items():
        for pattern, instead in table:
            name = re.sub(pattern, instead, name)
        found[name] = x
    return found


def to_torchvision(trained: Trained, out: Path) -> str:
    """Weights of a network that torchvision has, too; returns the call that loads them.

    Raises:
        ValueError: it has none such.
    """
    import torchvision

    name = trained.module.student.backbone.name
    theirs = TORCHVISION.get(name)
    if theirs is None:
        raise ValueError(f"torchvision has no network like {name}: format=torchvision is for {', '.join(TORCHVISION)}")
    weights = trained.weights
    found = weights if theirs == name else renamed(weights, TO_TORCHVISION)
    options = {} if theirs == name else {"image_size": trained.cfg.views.image_size}
    net = torchvision.models.get_model(theirs, weights=None, **options)
    try:
        left = net.load_state_dict(found, strict=False)
    except RuntimeError as error:  # another stem, or fewer blocks
        reason = str(error).splitlines()[1].strip()
        raise ValueError(f"the run's {name} is not torchvision's {theirs}: {reason}") from error
    if rest := [key for key in (*left.missing_keys, *left.unexpected_keys) if not key.startswith(("fc.", "heads."))]:
        raise ValueError(f"the run's {name} is not torchvision's {theirs}: {rest[0]} is in one of them only")
    save_file(found, str(out), metadata={"format": "pt"})
    said = "".join(f", {key}={value}" for key, value in options.items())
    return (
        f"net = torchvision.models.get_model({theirs!r}, weights=None{said})\n"
        f"net.load_state_dict(safetensors.torch.load_file({str(out)!r}), strict=False)  # all but the classifier"
    )


def only_resnet(trained: Trained, format: str) -> None:
    """Raises ValueError unless the network is a ResNet with torchvision's stem."""
    net = trained.net
    if not isinstance(net, ResNet) or not isinstance(net.conv1, nn.Conv2d) or net.conv1.kernel_size != (7, 7):
        raise ValueError(
            f"format={format} is for ResNets with a stem of 7 x 7, but this run trained "
            f"{trained.module.student.backbone.name}: choose another format"
        )


def to_detectron2(trained: Trained, out: Path) -> str:
    """A ResNet under Detectron2's names, as a pickle of arrays, which is the format that it reads."""
    only_resnet(trained, "detectron2")
    kept = {name: x for name, x in trained.weights.items() if not name.endswith("num_batches_tracked")}
    arrays = {name: x.numpy() for name, x in renamed(kept, TO_DETECTRON2).items()}
    out.write_bytes(pickle.dumps({"model": arrays, "__author__": "ssl_framework", "matching_heuristics": True}))
    return f"MODEL.WEIGHTS: {out}  # in Detectron2's config, with MODEL.RESNETS.STRIDE_IN_1X1: False, INPUT.FORMAT: RGB"


def to_mmdet(trained: Trained, out: Path) -> str:
    """A ResNet as MMDetection loads it."""
    only_resnet(trained, "mmdet")
    torch.save({"state_dict": {f"backbone.{name}": x for name, x in trained.weights.items()}}, out)
    return f"backbone=dict(init_cfg=dict(type='Pretrained', checkpoint={str(out)!r}, prefix='backbone.'))"


def to_onnx(trained: Trained, out: Path) -> str:
    """A graph from "pixels" [B, C, S, S] float32 in [0, 1] to "features" [B, D], for any B.

    Raises:
        ValueError: a package is missing, or the graph does not give the network's features.
    """
    runtime = needed("onnxruntime")
    for name in ("onnx", "onnxscript"):
        needed(name)
    net, pixels = of_pictures(trained, "onnx"), trained.pixels()
    with quiet():
        torch.onnx.export(
            net,
            (pixels,),
            str(out),
            input_names=["pixels"],
            output_names=["features"],
            dynamic_shapes={"pixels": {0: torch.export.Dim("B")}},
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    session = runtime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    check("onnx", net, pixels, lambda x: torch.from_numpy(session.run(["features"], {"pixels": x.numpy()})[0]))
    return f"onnxruntime.InferenceSession({str(out)!r}).run(['features'], {{'pixels': pixels}})  # {shape_of(trained)}"


def to_torch(trained: Trained, out: Path) -> str:
    """The same as a program of ``torch.export``, which needs no code of this package."""
    net, pixels = of_pictures(trained, "torch"), trained.pixels()
    with quiet():
        program = torch.export.export(net, (pixels,), dynamic_shapes={"pixels": {0: torch.export.Dim("B")}})
        torch.export.save(program, out)
        again: Any = torch.export.load(out).module()
    check("torch", net, pixels, again)
    return f"torch.export.load({str(out)!r}).module()(pixels)  # {shape_of(trained)}"


def to_hub(trained: Trained, out: Path) -> str:
    """A folder in the layout of the Hugging Face Hub: weights, timm's config, and a card of what the run has found.

    Raises:
        ValueError: the network is none of timm's own, or what timm reads back differs.
    """
    net = of_pictures(trained, "hub")
    backbone: Any = trained.module.student.backbone
    name, views = backbone.name, trained.cfg.views
    plain: Any = copy.deepcopy(trained.net).to(memory_format=torch.contiguous_format)  # as safetensors wants it
    size = {"input_size": (views.channels, views.image_size, views.image_size)}
    plain.pretrained_cfg = {**plain.pretrained_cfg, **size, "mean": tuple(views.mean), "std": tuple(views.std)}
    told = dict(backbone.options)
    if views.channels != 3:  # and timm is not to make weights of three channels fit
        told["in_chans"], plain.pretrained_cfg["first_conv"] = views.channels, None
    try:
        save_for_hf(plain, str(out), model_args=told, safe_serialization=True)
    except RuntimeError as error:  # of safetensors
        raise ValueError(
            f"format=hub has no place for weights that several layers share, as those of {name}: choose format=timm"
        ) from error
    (out / "README.md").write_text(card(trained), encoding="utf-8")
    again = timm.create_model(f"local-dir:{out}", pretrained=True, num_classes=0).eval()
    normalised = (trained.pixels() - net.mean) / net.std  # [2, C, S, S]
    check("hub", trained.net, normalised, again)
    imported = "import ssl_framework.models.backbone  # registers it with timm\n" if name.startswith("ssl_") else ""
    return (
        f"{imported}timm.create_model('local-dir:{out}', pretrained=True, num_classes=0)\n"
        f"hf upload <you>/<name> {out}  # with your own login; then 'hf-hub:<you>/<name>'"
    )


def card(trained: Trained) -> str:
    """The model card: what was trained, how to load it, and the numbers of result.json with their protocol."""
    run = RunFolder(trained.folder)
    about, result = run.read_about(), run.read_result()
    name, views = trained.module.student.backbone.name, trained.cfg.views
    lines = [
        "---",
        "library_name: timm",
        "tags: [image-feature-extraction, timm]",
        "---",
        f"# {name}, pretrained by {about.get('method', 'self-supervision')} on {about.get('data', 'images')}",
        "",
        f"Features of {trained.module.student.backbone.dim} numbers of {views.channels} x {views.image_size} x "
        f"{views.image_size} images, pretrained without a classifier by ssl_framework.",
        "",
        "```python",
        "import timm",
        *(["import ssl_framework.models.backbone  # registers the network"] if name.startswith("ssl_") else []),
        "model = timm.create_model('hf-hub:<you>/<name>', pretrained=True, num_classes=0).eval()",
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
        "```",
        "",
    ]
    if result:
        protocol = result.get("protocol") or {}
        lines += [f"Scored by protocol {protocol.get('name', 'of its own')}, seed {result['seed']}:", ""]
        lines += ["| metric | value |", "|---|---|"]
        lines += [f"| {cell(metric)} | {value:.2f} |" for metric, value in result["metrics"].items()]
        lines += ["", f"Trained for {result['steps']:,} steps. The command that repeats it:", ""]
        lines += ["```", str(result["command"]), "```", ""]
    return "\n".join(lines)


def cell(text: str) -> str:
    """A text as a cell of a markdown table."""
    return text.replace("|", "\\|")


def shape_of(trained: Trained) -> str:
    """What a call is given."""
    views = trained.cfg.views
    return f"pixels: float32 in [0, 1], B x {views.channels} x {views.image_size} x {views.image_size}"


def needed(name: str) -> Any:
    """A package.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return __import__(name)
    except ModuleNotFoundError as error:
        raise ValueError(f"this format needs {name}, which is not installed: pip install -e '.[onnx]'") from error


@torch.no_grad()
def check(format: str, net: Callable[[Tensor], Tensor], pixels: Tensor, again: Callable[[Tensor], Tensor]) -> None:
    """Compares what was written with the network, also for another number of images.

    Raises:
        ValueError: they differ by more than ``TOLERANCE``.
    """
    for batch in (pixels, torch.cat([pixels, pixels.flip(0), pixels[:1]])):
        expected, found = net(batch), again(batch)
        worst = float((expected - found).abs().max() / expected.abs().max().clamp_min(1e-12))
        if not worst <= TOLERANCE:
            raise ValueError(
                f"format={format}: its features differ from the network's by {worst:.1e}: nothing was kept"
            )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences what exporters say of themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


class Format(NamedTuple):
    """A format."""

    write: Callable[[Trained, Path], str]
    ending: str  # of the file; "": a folder


FORMATS = {
    "timm": Format(to_timm, ".safetensors"),
    "torchvision": Format(to_torchvision, ".safetensors"),
    "detectron2": Format(to_detectron2, ".pkl"),
    "mmdet": Format(to_mmdet, ".pth"),
    "onnx": Format(to_onnx, ".onnx"),
    "torch": Format(to_torch, ".pt2"),
    "hub": Format(to_hub, ""),
}


def export(folder: Path, out: Path | None = None, format: str = "timm") -> tuple[Path, str]:
    """Writes the backbone of a run, whole or not at all.

    Args:
        folder: of the run.
        out: the file, or for ``hub`` the folder, which must not exist; ``None``: in the run's folder.
        format: one of ``FORMATS``.

    Returns:
        Where it lies, and how it is loaded.

    Raises:
        OSError, ValueError: no such run or format, nothing can be written there, weights that are not finite, an ending
            that is not the format's, or a network that the
            format has no place for.
    """
    if format not in FORMATS:
        raise ValueError(f"there is no format={format}{nearest(format, list(FORMATS))}: choose {', '.join(FORMATS)}")
    chosen, run = FORMATS[format], RunFolder(folder)
    if out is None:
        out = run.export_file if format == "timm" else run.path / f"{run.export_file.stem}_{format}{chosen.ending}"
    if chosen.ending and out.suffix != chosen.ending:
        raise ValueError(f"out={out} is written as {format}: its name must end in {chosen.ending}")
    refuse_unwritable(out if chosen.ending else out.with_suffix(".partial"))
    trained = load(folder)
    refuse_non_finite_weights(trained.weights, f"the backbone of {folder}")
    out.parent.mkdir(parents=True, exist_ok=True)
    if not chosen.ending:
        if out.exists():
            raise ValueError(f"out={out} exists: format={format} makes a new folder, so remove it or choose another")
        try:
            with writing(out):
                return out, chosen.write(trained, out)
        except BaseException:
            shutil.rmtree(out, ignore_errors=True)
            raise
    with replacing(out) as partial:
        said = chosen.write(trained, partial)
    return out, said.replace(str(partial), str(out))
