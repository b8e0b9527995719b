"""Every method composes with every data set; what exists and the nearest name are said of what does not."""

import functools
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from ssl_framework.build import build_module, check_data
from ssl_framework.runs.config import config_hash, hosted
from ssl_framework.runs.folder import read_json
from ssl_framework.runs.groups import CONFIGS, composing
from ssl_framework.runs.messages import explain
from tests.forked import Command
from tests.small_runs import (
    DEFAULT_DATA,
    GROUPS,
    METHODS,
    MODALITIES,
    PICTURES,
    SMALL,
    composed,
    config,
    fits,
    put_together,
    run_in,
)

ROOT = Path(__file__).parent.parent
OF_MODALITY = {
    **dict.fromkeys(("series", "series_tiny", "series_lstm", "series_transformer"), ("data=waves",)),
    **dict.fromkeys(("ts2vec", "whole_series", "autotcl"), ("data=waves",)),
    **{name: ("data=item_markov",) for name in ("sequence", "sasrec", "mclrec")},
    **dict.fromkeys(("graph", "gcn", "pyg", "bgrl", "dgi", "grace", "meow", "whole_graph"), ("data=sbm",)),
    **dict.fromkeys(
        ("audio", "frames", "tera", "audio_once", "audio_weak", "audio_remixmatch", "w2v_bert"), ("data=spoken_digits",)
    ),
    "sound_series": ("data=dances",),
    "sound_text": ("data=spoken_words",),
    "fragments": ("data=fragments",),
    **dict.fromkeys(("text", "text_eda", "text_tiny"), ("data=caption_texts",)),
    **dict.fromkeys(("text_experts", "text_routed"), ("data=caption_domains",)),
}
"""Choices that read keys which data of pictures have not."""

EXPERIMENTS = sorted(
    str(path.relative_to(CONFIGS / "experiment").with_suffix("")) for path in (CONFIGS / "experiment").rglob("*.yaml")
)


HASHES = json.loads((ROOT / "tests" / "runs" / "hashes.json").read_text())
"""Of every choice as it was composed before the package was divided into rooms."""


def targets(node: object) -> list[str]:
    """Every ``_target_`` below a node."""
    if isinstance(node, dict):
        own = [node["_target_"]] if "_target_" in node else []
        return own + [t for value in node.values() for t in targets(value)]
    return [t for value in node for t in targets(value)] if isinstance(node, list) else []


def plain(cfg: DictConfig) -> dict:
    content = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(content, dict)
    return content


@functools.cache
def unresolved(*overrides: str) -> tuple[dict, dict]:
    """The data node of a composition, and everything else, with interpolations as they are written."""
    content = OmegaConf.to_container(composed(*overrides))
    assert isinstance(content, dict)
    return content.pop("data"), content


@pytest.mark.parametrize("method", METHODS)
def test_a_method_leaves_the_data_alone(method: str) -> None:
    assert unresolved(f"method={method}")[0] == unresolved(f"data={DEFAULT_DATA[method]}")[0]


@pytest.mark.parametrize("data", PICTURES)
def test_a_data_set_leaves_everything_else_alone(data: str) -> None:
    assert unresolved(f"data={data}")[1] == unresolved()[1]


# So a composition of both is the one's data node in the other's rest. They are put together here: composing all pairs
# would take minutes. That the outcome is Hydra's is checked for every method and for every data set.


def merged(method: str, data: str) -> dict:
    """The resolved config of a method with a data set."""
    whole = {**unresolved(f"method={method}")[1], "data": unresolved(f"data={data}")[0]}

    @functools.cache
    def cfg() -> DictConfig:
        found = without_data(method)
        found["data"] = whole["data"]
        return found

    return resolved(whole, whole, cfg)


@functools.lru_cache(maxsize=1)
def without_data(method: str) -> DictConfig:
    """A method's config, to which data are given."""
    return OmegaConf.create(unresolved(f"method={method}")[1])


def resolved(node: Any, whole: dict, cfg: Callable[[], DictConfig]) -> Any:
    """A copy with every ``${a.b}`` replaced by what stands there; other interpolations are left to OmegaConf.

    Args:
        node: of ``whole``.
        whole: a config, as it is written.
        cfg: makes it a config of OmegaConf, once.
    """
    if isinstance(node, dict):
        return {key: resolved(value, whole, cfg) for key, value in node.items()}
    if isinstance(node, list):
        return [resolved(value, whole, cfg) for value in node]
    if not (isinstance(node, str) and "${" in node):
        return node
    path = re.fullmatch(r"\$\{([a-z_0-9]+(?:\.[a-z_0-9]+)*)\}", node)
    asked = re.fullmatch(r"\$\{oc\.select:([a-z_0-9]+(?:\.[a-z_0-9]+)*),(.*)\}", node)
    if asked is not None:
        return resolved(found_at(asked[1], whole, yaml.safe_load(asked[2])), whole, cfg)
    if path is None:
        cfg()["wanted"] = node
        value: Any = cfg()["wanted"]
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    return resolved(found_at(path[1], whole), whole, cfg)


def found_at(path: str, whole: dict, *otherwise: Any) -> Any:
    """What stands at ``a.b`` of a config; what is to stand for it, if nothing does."""
    value: Any = whole
    for key in path.split("."):
        if otherwise and (not isinstance(value, dict) or key not in value):
            return otherwise[0]
        value = value[key]
    return value


@pytest.mark.parametrize("method", METHODS)
def test_what_is_put_together_is_the_method_with_its_default_data(method: str) -> None:
    assert merged(method, DEFAULT_DATA[method]) == plain(composed(f"method={method}"))


@pytest.mark.parametrize("data", PICTURES)
def test_what_is_put_together_is_what_hydra_composes(data: str) -> None:
    methods = [method for method in METHODS if DEFAULT_DATA[method] in PICTURES]
    method = methods[PICTURES.index(data) * 7 % len(methods)]
    assert merged(method, data) == plain(composed(f"method={method}", f"data={data}"))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_composes_with_every_data_set(method: str) -> None:
    fitting = [data for data in PICTURES if fits(method, data)]
    assert bool(fitting) == (DEFAULT_DATA[method] in PICTURES)
    for data in fitting:
        content = merged(method, data)
        assert content["data"]["name"] == data
        views = content["views"].get("parts", [content["views"]])[0]  # of the main modality, as the encoder
        encoder = next(iter(content["student"].get("towers", {"": content["student"]}).values()))
        assert views["image_size"] == content["data"]["image_size"] == content["backbone"]["image_size"], data
        assert views["channels"] == content["data"]["channels"] == content["backbone"]["channels"], data
        assert views["mean"] == content["data"]["mean"] and views["blur"] == content["data"]["blur"], data
        assert encoder["backbone"] == content["backbone"], data


ALIKE = {MODALITIES[data]: data for data in reversed(PICTURES)}
"""What samples consist of -> the first such data set, for all of which the same is said."""


NAMED = ("ctp_tft", "gopro")
"""Methods of pictures alone whose classes need names: refused by those (tests/models/test_prompts.py)."""


@pytest.mark.parametrize(
    ("method", "data"),
    [
        (m, d)
        for m in METHODS
        for d in ALIKE.values()
        if DEFAULT_DATA[m] in PICTURES and not fits(m, d) and m not in NAMED
    ],
)
def test_a_method_is_refused_by_name_on_data_that_lack_what_it_needs(method: str, data: str) -> None:
    missing = " and no ".join(name for name in MODALITIES[DEFAULT_DATA[method]] if name not in MODALITIES[data])
    wanted = sorted(name for name in MODALITIES if fits(method, name))
    with pytest.raises(ValueError) as error:
        check_data(OmegaConf.create(merged(method, data)))
    said = f"no {missing}" if missing else "text beside its image, but the views are of text first"
    assert str(error.value).startswith(f"{data} has {said}: choose data={', '.join(wanted)} or views of")


# Data of another modality say what may be changed and by what it is encoded; the method says everything else.


def test_data_of_another_modality_bring_their_views_and_backbone() -> None:
    waves, shapes = plain(config("method=byol", "data=waves")), plain(config("method=byol"))
    changed = {key for key in waves if waves[key] != shapes[key]}
    assert changed == {"data", "views", "backbone", "student"}
    assert waves["views"] == {**waves["data"]["views"], "count": 2}
    assert waves["student"] == {**shapes["student"], "backbone": waves["backbone"]}
    assert waves["backbone"]["_target_"] == "ssl_framework.models.series.SeriesBackbone"


@pytest.mark.parametrize(("method", "count"), [("simclr", 2), ("mv_infonce", 4), ("supervised", 1)])
def test_the_method_says_how_many_views_there_are(method: str, count: int) -> None:
    assert config(f"method={method}", "data=waves").views.count == count


def test_the_command_line_wins_over_data_of_another_modality() -> None:
    cfg = config("data=waves", "data.views.crop=[0.5,0.5]", "views.groups.0.count=3", "backbone.width=16")
    assert cfg.views.crop == [0.5, 0.5] and cfg.views.count == 3 and cfg.student.backbone.width == 16
    cfg = config("data=waves", "views=series", "views.count=5", "views.jitter=0.5")
    assert cfg.views.count == 5 and cfg.views.jitter == 0.5 and cfg.data.views.count == 2


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("data=waves", "views=byol"), "views=byol is about pictures, but data=waves has no pictures: leave it out"),
        (("data=waves", "views.groups.0.flip=0"), r"views\.groups\.0\.flip=0 is about pictures, but data=waves"),
        (
            ("data=waves", "method=dacl"),
            r"the method has noise or geometry of pictures \(views\), but data=waves has no",
        ),
        (
            ("data=waves", "backbone=resnet18"),
            r"backbone\.image_size reads data\.image_size, which data=waves has not, being of modality series: choose "
            "backbone=series_lstm, backbone=series_tiny, backbone=series_transformer or other data, such as "
            "data=shapes$",
        ),
        (
            ("method=clip", "data=waves"),
            "the method has towers of image and text, but data=waves has no image: choose data=captioned_shapes.* or "
            "a method of series$",
        ),
        (
            ("data=cifar10", "views=series"),
            r"views\.length reads data\.length, which data=cifar10 has not, being of mod",
        ),
        (("data=shapes", "backbone=series_tiny", "views=series"), r"views\.length reads data\.length"),
        (("method=grace", "data=shapes"), r"views\.features reads data\.features, which data=shapes has not"),
    ],
)
def test_what_does_not_fit_the_modality_of_the_data_is_refused(overrides: tuple[str, ...], words: str) -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"), pytest.raises(ValueError, match=words):
        hosted(compose("train", list(overrides)), overrides)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_builds(method: str) -> None:
    module = build_module(config(f"method={method}"), has_labels=True, num_samples=5000)
    if (
        "override /backbone" in (CONFIGS / "method" / f"{method}.yaml").read_text()
        or DEFAULT_DATA[method] not in PICTURES
    ):
        return  # it chooses one of its own, or its data do
    assert sum(p.numel() for p in module.student.backbone.parameters()) == 9 * (
        3 * 32 + 32 * 64 + 64 * 128 + 128 * 192
    ) + 2 * (32 + 64 + 128 + 192)


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=mochi", *SMALL, "feature_mixer.num_hard=8", "objective.queue.size=24"),
        (
            "trainer=ddp_cpu",
            "method=imix",
            "mixer=cutmix",
            "data=cifar10",
            "backbone=vit_tiny",
        ),  # says more of its mixer
        ("evaluation=head_layers", "~evaluation.probes.linear", "+views.groups.0.note=x", "method=supervised"),
        ("experiment=study_small", "data=shapes", "evaluation=scores", "method=amcl", "~student.heads.projector_1"),
        ("mixer=mixup", "mixer.add=false", "seed=1", "mixer=cutmix"),  # the later one
        ("method=clip", "data.tokens=24", "text_backbone=tiny", "evaluation=none"),
        ("+trainer=cpu", "~mixer"),
    ],
)
def test_configs_of_tests_are_put_together_as_hydra_composes_them(overrides: tuple[str, ...]) -> None:
    def content(compose: Callable[..., DictConfig]) -> Any:
        try:
            return json.dumps(OmegaConf.to_container(compose(*overrides)))  # with the order of its keys
        except Exception as refusal:
            return repr(refusal)

    assert content(put_together) == content(composed)


EARLIER_END = {"scale": False, "scale_and_shift": True}
"""How projectors ended before they had the last normalisation of the authors' code: ``last_norm`` today -> then."""

OF_SOGCLR = ("method=sogclr", "method=isogclr", "head=mlp3")


@pytest.mark.parametrize("choice", HASHES)
def test_a_choice_has_the_hash_it_had(choice: str) -> None:
    cfg = config(choice)
    projector = cfg.student.get("heads", {}).get("projector", {})
    if choice in OF_SOGCLR:
        projector.last_norm = False
    elif (end := projector.get("last_norm")) in EARLIER_END:
        projector.last_norm = EARLIER_END[end]
    assert config_hash(cfg) == HASHES[choice]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes(experiment: str) -> None:
    assert targets(plain(config(f"experiment={experiment}")))


@pytest.mark.parametrize(
    "group",
    [g for g in sorted(GROUPS) if g not in ("method", "experiment", "data", "study", "hparams_search", "hydra")],
)
def test_every_choice_of_every_group_composes_and_every_target_imports(group: str) -> None:
    choices = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
    assert choices
    texts = {method: (CONFIGS / "method" / f"{method}.yaml").read_text() for method in METHODS}
    host = [f"method={method}" for method, text in texts.items() if f"- /{group}:" in text][:1]  # that alone has it
    for choice in choices:
        if group == "logger":  # needs the run folder, which the command line provides
            node = OmegaConf.to_container(OmegaConf.load(CONFIGS / group / f"{choice}.yaml"))
        else:
            node = plain(composed(*host, f"{group}={choice}", *OF_MODALITY.get(choice, ())))
        for target in set(targets(node)):
            get_class(target)


GIVEN_ELSEWHERE = {
    **dict.fromkeys(("noise", "beside", "labels", "measures", "scores", "online_linear", "cross", "after"), "a part"),
    **dict.fromkeys(("head_probes", "transport", "columns", "targets", "table"), "likewise, or a mapping"),
    **dict.fromkeys(("make_store", "make_cache", "keep_sizes", "store", "num_threads", "chunk"), "changes no number"),
    **dict.fromkeys(("scored", "earlier", "head_layers", "further"), "belongs to a few methods or evaluations"),
    **dict.fromkeys(("previous", "id", "job_type", "prefix"), "the command gives it"),
    **dict.fromkeys(("test_folder", "bits"), "of a real data set; generated images have none"),
    "name": "a modality, which the objective knows by it",
    **dict.fromkeys(
        ("wordings", "span", "unchanged"), "of methods that need several texts of a sample, or pieces of one"
    ),
    "causal": "text_backbone=causal says it; without, attention is in both directions",
    **dict.fromkeys(
        ("experts", "expert_layers", "routing", "top_k"), "backbone=text_experts says it; without, there is one for all"
    ),
    "domains": "data=docstring_domains says it; without, there are no classes",
    "join_views": "configs/train.yaml has it for every student",
    "main_heads": "heads of the main tower alone, which one method has",
    "tuning": "a group of its own",
    "alter": "a part of views=text_eda",
}
"""Arguments with a default that YAML files need not name, and why."""


def nodes(node: object) -> list[dict[str, Any]]:
    """Every mapping with a ``_target_`` of the package below a node."""
    if isinstance(node, list):
        return [found for value in node for found in nodes(value)]
    if not isinstance(node, dict):
        return []
    own = [node] if str(node.get("_target_")).startswith("ssl_framework.") else []
    return own + [found for value in node.values() for found in nodes(value)]


def test_files_name_every_argument_that_a_constructor_has() -> None:
    """So that an override needs no plus sign, and a file says all there is to choose. Parts have their own groups."""
    files = [path for group in GROUPS for path in (CONFIGS / group).glob("*.yaml") if group not in ("study", "hydra")]
    for path in files:
        for node in nodes(yaml.load(path.read_text(), yaml.CSafeLoader)):
            taken = inspect.signature(get_class(node["_target_"])).parameters.values()
            later = ("lr", "weight_decay") if path.parent.name == "optimizer" else ()  # the recipe gives them
            left = {one.name for one in taken if one.default is not one.empty} - node.keys() - {*later}
            assert not left - GIVEN_ELSEWHERE.keys(), f"{path}: {node['_target_']} also takes {sorted(left)}"


def test_mocov2_with_the_feature_mixer_is_mochi() -> None:
    assert plain(config("method=mocov2", "feature_mixer=mochi")) == plain(config("method=mochi"))


def test_the_command_line_wins_over_the_method() -> None:
    cfg = config("method=mochi", "feature_mixer=none", "views=byol", "optimizer=lars")
    assert not cfg.feature_mixer and len(cfg.views.groups) == 2
    assert cfg.optimizer.algorithm._target_ == "ssl_framework.optim.LARS"


@pytest.mark.parametrize(
    ("data", "backbone", "expected"),
    [
        ("cifar10", "resnet18", "ssl_resnet18_small"),
        ("stl10", "resnet18", "resnet18"),
        ("fashion_mnist", "resnet50", "ssl_resnet50_small"),
    ],
)
def test_the_stem_follows_the_image_size(data: str, backbone: str, expected: str) -> None:
    module = build_module(config(f"data={data}", f"backbone={backbone}"), has_labels=True)
    assert module.student.backbone.name == expected
    first = module.student.backbone.net.conv1
    assert first.in_channels == config(f"data={data}").data.channels
    assert first.kernel_size == ((3, 3) if expected.startswith("ssl_") else (7, 7))


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("method=mochy", ["there is no method=mochy (did you mean mochi?)", "byol", "simclr"]),
        ("metod=mochi", ["metod", "did you mean method?"]),
        (
            "objective.temprature=0.1",
            ["objective.temprature (did you mean temperature?)", "objective has: temperature"],
        ),
        ("trainer.max_epoch=1", ["trainer.max_epoch (did you mean max_epochs?)"]),
        ("sed=1", ["sed (did you mean seed?)"]),
        ("objective.temperature=", []),
        ("teacher=null", ["teacher=null chooses nothing: choose teacher=none"]),
        ("head=mlp4", ["there is no head=mlp4 (did you mean mlp3?)"]),
    ],
)
def test_misspelt_names_are_refused_with_what_exists_and_the_nearest(
    argument: str, words: list[str], tmp_path: Path
) -> None:
    done = Command(tmp_path, argument, "trainer.max_epochs=0").end()
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("method=SimCLR", "there is no method=SimCLR (did you mean simclr?); method can be: "),
        ("simclr", "simclr is not key=value (did you mean method=simclr?): python train.py --help lists groups"),
        ("run", "run is not key=value: python train.py --help lists groups"),
        ("batch_size=8", "there is no key batch_size (did you mean data.batch_size?); the config has: "),
        ("epochs=8", "there is no key epochs (did you mean trainer.max_epochs?); the config has: "),
        ("optimizer.lr=8", "there is no key optimizer.lr (did you mean optimizer.lr_per_256?); optimizer has: "),
        ("device=cpu", "there is no key device (did you mean trainer.devices?); "),
        ("masker.ratio=0.5", "there is no key masker.ratio: masker is empty here: choose masker=block, ijepa, "),
        ("output_dir=x", "there is no key output_dir (did you mean hydra.run.dir?); "),
        (
            "data=spoken_digits views.weak=2",
            "there is no key views.weak: the data have views of their own, so set data.",
        ),
        (
            "data=spoken_digits views.weaks=2",
            "there is no key views.weaks (did you mean weak?); the data have views of their own, and data.views has: ",
        ),
        ("trainer=gpu", "there is no trainer=gpu (trainer=auto takes a GPU); trainer can be: auto, cpu, "),
        ("backbone=test_resnet", "; a model of timm is backbone=timm backbone.name=test_resnet"),
    ],
)
def test_what_others_call_it_is_answered_with_our_name(
    argument: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with composing(), pytest.raises(HydraException) as refused:
        compose("train", argument.split())
    assert words in explain(refused.value)


def test_several_values_of_a_single_run_are_told_what_they_may_be() -> None:
    said = "Ambiguous value for argument 'seed=1,2'\n1. To use it as a list, use key=[value1,value2]\n2. ..."
    assert explain(HydraException(said)) == (
        "seed=1,2 gives several values: add -m for a run of each, or write seed=[1,2] for a list"
    )


def test_help_and_the_config_answer_without_torch() -> None:
    code = (
        "import sys; sys.argv = ['train.py', '--cfg', 'job']\n"
        "from ssl_framework.commands.train import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules, 'lightning' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "temperature: 0.2" in done.stdout
    assert done.stderr.split() == ["False", "False"]
    done = subprocess.run([sys.executable, "train.py", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert "byol, cacr" in done.stdout and all(
        f"{group}: " in done.stdout for group in ("head", "objective", "teacher")
    )
    assert "python train.py resume=outputs/latest" in done.stdout


def test_the_gpu_experiment_rehearses_on_a_cpu(tmp_path: Path) -> None:
    """The same config, a few images, two steps, uncompiled; ends in the protocol's metric at the final epoch."""
    generator = np.random.default_rng(0)
    for name, count in (("train", 220), ("test", 20)):
        arrays = {"images": generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)}
        np.savez(tmp_path / f"{name}.npz", labels=np.arange(count) % 10, **arrays)
    small = (
        "trainer=cpu",
        "trainer.compile=false",
        "trainer.max_steps=2",
        "data.batch_size=8",
        "backbone=tiny",
        "report=none",
    )
    run_in(tmp_path / "run", config("experiment=simclr/cifar10_200", f"data.root={tmp_path}", *small))
    assert list(read_json(tmp_path / "run" / "result.json")["metrics"]) == ["knn[k=200,T=0.1]/top1"]
