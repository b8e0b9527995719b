"""Small runs inside the test process: composed from the shipped configs, on few images, with the tiny backbone."""

import copy
import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from ssl_framework.build import modalities_of
from ssl_framework.commands import train as main
from ssl_framework.runs.config import hosted
from ssl_framework.runs.groups import CONFIGS
from ssl_framework.training.run import run

SMALL = (
    "data.source.num_train=48",
    "data.source.num_test=32",
    "data.batch_size=8",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
    "report=none",
    "evaluation=none",
)
"""Two epochs of six steps on the embedded data set."""


def skip_without(model: str) -> None:
    """Leaves a test out where timm is too old for a model."""
    if not timm.is_model(model):
        pytest.skip(f"timm {timm.__version__} has no {model}")


SMALL_QUEUE = ("objective.queue.size=24",)
SMALL_HOST_QUEUE = ("objective.host.queue.size=24",)
SMALL_MIXER = ("feature_mixer.num_hard=8", "feature_mixer.num_pair=6", "feature_mixer.num_query=4")
SMALL_PROJECTOR = ("student.heads.projector.hidden=[32]", "student.heads.projector.out=16")
SMALL_PREDICTOR = ("student.heads.predictor.hidden=[32]", "student.heads.predictor.out=16")
SMALL_DENSE = ("student.heads.dense_projector.hidden=[32,32]", "student.heads.dense_projector.out=16")
SMALL_VIT = (
    *("backbone.options.patch_size=8", "backbone.options.depth=2"),
    *("+backbone.options.embed_dim=24", "+backbone.options.num_heads=2"),
)
SMALL_OF = {
    "mocov2": SMALL_QUEUE,
    **dict.fromkeys(("mae", "simmim", "ijepa", "msn", "pmsn", "mixed_ae"), SMALL_VIT),
    "ibot": (*SMALL_VIT, "student.heads.projector.hidden=[32]", "student.heads.projector.out=16"),
    "dinov2": (
        *SMALL_VIT,
        *(
            f"student.heads.{head}.{key}"
            for head in ("projector", "patch_projector")
            for key in ("hidden=[32]", "out=16")
        ),
    ),
    "hybrid_distillation": (
        *(
            item.replace("backbone", key, 1)
            for key in ("backbone", "teacher.backbone", "teacher.second")
            for item in SMALL_VIT
        ),
        *(f"{key}.last_layers=2" for key in ("backbone", "teacher.second")),
    ),
    "data2vec": (*SMALL_VIT, "backbone.last_layers=2"),
    "mochi": (*SMALL_QUEUE, *SMALL_MIXER),
    "feature_transform": SMALL_QUEUE,
    "hallucinator": SMALL_QUEUE,
    "synco": (*SMALL_QUEUE, "feature_mixer.num_hard=8", "feature_mixer.counts=[3,2,3,2,1,1]"),
    "amcl_moco": SMALL_QUEUE,
    "amcl_barlow": tuple(f"student.heads.projector_{c}.{size}" for c in range(3) for size in ("hidden=[32]", "out=16")),
    "barlow_twins": SMALL_PROJECTOR,
    "mocov3": SMALL_PROJECTOR + SMALL_PREDICTOR,
    "sdmp": SMALL_PROJECTOR + SMALL_PREDICTOR,
    "patchmix": SMALL_PROJECTOR + SMALL_PREDICTOR,
    "cacr": ("views.groups.0.count=3",),
    "cacr_moco": (*SMALL_QUEUE, "views.groups.0.count=3"),
    "cacr_mocov3": (*SMALL_PROJECTOR, *SMALL_PREDICTOR, "views.groups.0.count=3"),
    "nnclr": SMALL_PROJECTOR + SMALL_PREDICTOR + SMALL_QUEUE,
    "simsiam": SMALL_PROJECTOR + SMALL_PREDICTOR,
    "nnsiam": SMALL_PROJECTOR + SMALL_PREDICTOR + SMALL_QUEUE,
    # Without decay the projector's bias would stay, which the predictor's normalisation takes off.
    "nnbyol": (*SMALL_PROJECTOR, *SMALL_PREDICTOR, *SMALL_QUEUE, "optimizer.exclude_bias_and_norm=false"),
    "ressl": SMALL_PROJECTOR + SMALL_QUEUE,
    **dict.fromkeys(("vicreg", "tico", "mmcr", "frossl", "w_mse"), SMALL_PROJECTOR),
    "vicregl": SMALL_PROJECTOR + SMALL_DENSE,
    "slotcon": SMALL_DENSE,
    "vibcreg": ("student.heads.mlp.hidden=[32]", "student.heads.mlp.out=16", "student.heads.projector.group=8"),
    **dict.fromkeys(("lejepa", "visreg"), ("student.heads.projector.hidden=[32]", "objective.num_directions=8")),
    "adainf": ("generated.source.num_train=40",),
    "g_simclr": ("pseudo_labels.num_clusters=16", "pseudo_labels.widths=[4,8]", "pseudo_labels.epochs=1"),
    **{f"metrix_{loss}": ("sampler.per_class=2",) for loss in ("contrastive", "multi_similarity", "proxy_anchor")},
    **{method: ("sampler.per_class=2",) for method in ("proto_triplet", "icnn")},
    "wad": ("labels.share=1.0", "labels.known=0.5"),
    "sbcl": ("labels=all", "objective.warmup=1", "objective.least=2"),  # a long tail of 48 images is too short
    "augmented_tuning": ("labels.share=0.8",),
    **dict.fromkeys(("gopro", "ctp_tft"), ("labels.known=0.8",)),  # of 48 pictures half are too few
    "gpc": ("objective.warmup=1",),
    **dict.fromkeys(("mixmatch", "remixmatch", "fixmatch", "mean_teacher", "deep_cotraining"), ("labels.share=0.5",)),
    "meow": ("objective.num_clusters=[4,6]",),
    "pairing_net": ("objective.matching=1.0",),  # both of its losses
    "groco": ("objective.num_negatives=5",),
    "densecl": (*SMALL_QUEUE, "objective.dense_queue.size=24", "objective.dense_start=0"),
    "obow": ("objective.vocabulary.size=32",),
    "swav": (*SMALL_QUEUE, "objective.num_prototypes=30", "objective.frozen=0"),
    "dino": (
        "student.heads.projector.hidden=[32]",
        "student.heads.projector.bottleneck=8",
        "student.heads.projector.out=30",
    ),
    "deepcluster_v2": ("objective.num_clusters=6",),
    "pcl": (*SMALL_HOST_QUEUE, "objective.num_clusters=[4,6]"),
    "smog": (*SMALL_QUEUE, "objective.num_groups=6"),
    "all4one": (
        *SMALL_PROJECTOR,
        *SMALL_PREDICTOR,
        *(item.replace("predictor", "second_predictor") for item in SMALL_PREDICTOR),
        *SMALL_QUEUE,
        "objective.transformer.depth=1",
    ),
    "beclr": (*SMALL_PROJECTOR, *SMALL_PREDICTOR, "objective.memory.size=40", "objective.memory.num_clusters=4"),
    "mcl": ("pseudo_labels.num_clusters=2",),
    "imix_moco": SMALL_QUEUE,
    **dict.fromkeys(("albef", "contriever", "cocosoda"), SMALL_QUEUE),
    "mi_views": ("generated.source.widths=[4,8]", "generated.source.steps=4"),
    "mixco": SMALL_HOST_QUEUE,
    "scatsimclr": ("backbone.options.orientations=2", "student.heads.projector.hidden=[32]"),
    "unmix": SMALL_HOST_QUEUE,
}
METHODS = sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml"))
DATA = sorted(path.stem for path in (CONFIGS / "data").glob("*.yaml"))
MODALITIES = {name: modalities_of(OmegaConf.load(CONFIGS / "data" / f"{name}.yaml")) for name in DATA}
"""What a sample of each data set consists of, the main modality first."""

DEFAULT_DATA = {
    method: chosen[1] if (chosen := re.search(r"override /data: (\w+)", text)) else "shapes"
    for method in METHODS
    if (text := (CONFIGS / "method" / f"{method}.yaml").read_text())
}
"""The data that a method trains on where the command names none: they have what it needs."""


def fits(method: str, data: str) -> bool:
    """Whether the data have every modality that the method needs, its main one first."""
    needed = MODALITIES[DEFAULT_DATA[method]]
    return set(needed) <= set(MODALITIES[data]) and needed[0] == MODALITIES[data][0]


PICTURES = [name for name, (main, *_) in MODALITIES.items() if main == "image"]
"""Data sets whose samples are pictures, with texts or without, on which every image method runs."""


GROUPS = {path.name for path in CONFIGS.iterdir() if path.is_dir()}
ALONE = ("data", "backbone", "mixer", "trainer", "evaluation", "report")
"""Groups whose node is what the chosen file says, unless a file for the whole config says more of them."""


@functools.cache
def composed(*overrides: str) -> DictConfig:
    """What Hydra composes, unresolved; not to be changed, as all tests that ask for the same get the same object."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hosted(compose("train", overrides=list(overrides)))


@functools.cache
def for_the_whole(choice: str) -> str:
    """The file of a choice such as "method=byol" if it may say something of every group; otherwise nothing."""
    group, _, name = choice.partition("=")
    file = CONFIGS / group / f"{name}.yaml"
    text = file.read_text() if file.is_file() else ""
    return text if "@package _global_" in text or re.search(r"^  - override /", text, re.MULTILINE) else ""


@functools.cache
def brings_parts(choice: str) -> bool:
    """Whether data such as "data=waves" bring views or a backbone of their own."""
    file = CONFIGS / f"{choice.replace('=', '/')}.yaml"
    return file.is_file() and re.search(r"^  - (override )?/", file.read_text(), re.MULTILINE) is not None


def put_together(*overrides: str) -> DictConfig:
    """What Hydra composes of these overrides. Whole files are composed once for all configs that share them; the rest
    is set afterwards, by Hydra's own code, in a tenth of the time."""
    files = {key: item for item in overrides if (key := item.partition("=")[0]) in GROUPS}
    if any(re.match(rf"[+~]?({'|'.join(GROUPS)})(@|=|$)", item) for item in overrides if item not in files.values()):
        return copy.deepcopy(composed(*overrides))  # adds or takes away a file, or chooses one twice
    if brings_parts(files.get("data", "")):
        return copy.deepcopy(composed(*overrides))  # such data choose other parts, which comes before any other key
    rest = [item for item in overrides if item not in files.values()]
    said = "".join(for_the_whole(choice) for choice in files.values())
    alone = {
        group: choice
        for group, choice in files.items()
        if group in ALONE and not for_the_whole(choice) and not re.search(rf"^{group}:", said, re.MULTILINE)
    }
    cfg = copy.deepcopy(composed(*sorted(files[group] for group in files.keys() - alone)))
    for group, choice in alone.items():
        cfg[group] = copy.deepcopy(composed(choice)[group])
    ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(rest), cfg)
    return cfg


@functools.cache
def resolved(*overrides: str) -> DictConfig:
    """The resolved config that the command line would compose; not to be changed."""
    cfg = put_together(*overrides)
    OmegaConf.resolve(cfg)
    return cfg


def config(*overrides: str) -> DictConfig:
    """A copy of the resolved config that the command line would compose."""
    return copy.deepcopy(resolved(*overrides))


def small(method: str, *overrides: str) -> DictConfig:
    """A method's config, shrunk."""
    return config(f"method={method}", *SMALL, *SMALL_OF.get(method, ()), *overrides)


def run_in(folder: Path, cfg: DictConfig, resume: bool = False, **about: Any) -> str | None:
    """One run in this process; ``folder`` is prepared as the command does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
    names = {"method": "test", "data": "shapes", "overrides": [], "command": "test", **about}
    return run(cfg, folder, names, resume)


def multirun_in(
    folder: Path, sweep: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> Callable[..., SimpleNamespace]:
    """``python train.py -m ... hydra.sweep.dir=<sweep>`` in a folder and this process: exit code, stdout and stderr."""
    call = command_in(folder, monkeypatch, capfd)
    return lambda *arguments: call("-m", *arguments, f"hydra.sweep.dir={sweep}")


def command_in(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> Callable[..., SimpleNamespace]:
    """``python train.py ARGUMENTS`` in a folder and this process: exit code, stdout and stderr."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def call(*arguments: str) -> SimpleNamespace:
        monkeypatch.setattr(main, "failures", [])
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        code: Any = 0
        try:
            main.main()
        except SystemExit as ended:
            code = ended.code
        return SimpleNamespace(code=code, **capfd.readouterr()._asdict())

    return call
