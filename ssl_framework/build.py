"""From a config to objects, and the safety rule for configs that come out of a run folder."""

import copy
import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ssl_framework.arguments import PART, refuse_arguments
from ssl_framework.data.allocations import within_memory
from ssl_framework.data.base import Source
from ssl_framework.data.datamodule import DataModule
from ssl_framework.data.images.generated import WithGenerated
from ssl_framework.data.images.paired import Paired
from ssl_framework.models.base import Resizable
from ssl_framework.models.encoder import Encoder
from ssl_framework.models.towers import Towers
from ssl_framework.module import SSLModule
from ssl_framework.objectives.base import Objective
from ssl_framework.runs.config import leaves
from ssl_framework.runs.messages import nearest
from ssl_framework.views.base import Regional, ViewMaker
from ssl_framework.views.generated import NONE_GENERATED, GeneratedViews
from ssl_framework.wiring import check_modalities, check_words, methods, refuse_missing

last_source: dict[str, Source] = {}
"""The source built last, by its config."""


def build(node: Any) -> Any:
    """Instantiates a config node; an empty group choice (``mixer=none``) is ``None``.

    Raises:
        ValueError: an argument is not what its constructor's annotation says, or what the constructor refused, without
            the wrapping of the library that called it.
        OSError: what a constructor could not read or write.
    """
    if node is None or not node:
        return None
    if OmegaConf.is_config(node):
        refuse_wrong(OmegaConf.to_container(node, resolve=True), node._get_full_key(None))
    try:
        with within_memory(node):
            return instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, (ValueError, OSError)):
            raise cause from error
        if isinstance(cause, ModuleNotFoundError):
            raise ValueError(
                f"{cause.name} is not installed, and this configuration needs it: pip install {cause.name}"
            ) from error
        raise ValueError(sentence_of(error)) from error


def sentence_of(error: InstantiationException) -> str:
    """What could not be built and why, in a line, without the words of the library that tried."""
    _, _, key = str(error).partition("full_key: ")
    where = key.strip() or "a part of the config"
    cause = error.__cause__
    if cause is None:
        return f"{where} cannot be built: {' '.join(str(error).partition('full_key: ')[0].split())}"
    said = " ".join(str(cause).split())
    if isinstance(cause, MemoryError) or "allocate memory" in said or "out of memory" in said:
        return f"{where} does not fit into memory: make it smaller ({said})"
    return f"{where} cannot be built: {said or type(cause).__name__}"


WIDTHS = ("dim", "out")
"""Arguments of an objective's parts that may name an output of the student, which is as wide; see ``with_widths``."""

MEANT_FOR_HYDRA = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")


def refuse_wrong(content: Any, key: str) -> None:
    """Holds what a config gives to constructors against their annotations, at every depth, before one is called.

    Args:
        content: of a node, resolved.
        key: of it in the config, "" where it is a config of its own.

    Raises:
        ValueError: see ``arguments.refuse_arguments``.
    """
    if isinstance(content, dict) and "_target_" in content:
        refuse_node(content, key)
    within = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for name, value in within:
        refuse_wrong(value, f"{key}.{name}" if key else str(name))


def refuse_node(node: Mapping[str, Any], key: str) -> None:
    """The same of one node."""
    target = located(node["_target_"], key)
    named = {name for name in WIDTHS if isinstance(node.get(name), str)} if key.split(".")[0] == "objective" else set()
    given = {
        name: PART if name in named else without_parts(value)
        for name, value in node.items()
        if name not in MEANT_FOR_HYDRA
    }
    names = list(inspect.signature(target).parameters)
    given |= dict(zip(names, map(without_parts, node.get("_args_") or ()), strict=False))
    refuse_arguments(target, given, key, partial=bool(node.get("_partial_")))


def located(target: Any, key: str) -> Any:
    """The class that a node names.

    Raises:
        ValueError: there is none of that name, or its module is not found or cannot be imported.
    """
    module, _, name = str(target).rpartition(".")
    said = f"{key}._target_ is {target!r}"
    try:
        holds = importlib.import_module(module) if module else None
    except ModuleNotFoundError as error:
        if error.name and not module.startswith(error.name):
            raise ValueError(
                f"{error.name} is not installed, and {key}._target_={target} needs it: pip install {error.name}"
            ) from error
        raise ValueError(
            f"{said}, but Python finds no module {error.name}: correct the name, or put the folder in which the module "
            "lies on PYTHONPATH (PYTHONPATH=. where it is this one)"
        ) from error
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"{said}, but {module} cannot be imported ({why}): mend it first") from error
    if not hasattr(holds, name):
        raise ValueError(f"{said}: there is no class of that name{nearest(name, dir(holds) if holds else ())}")
    found = getattr(holds, name)
    if not callable(found):
        raise ValueError(f"{key}._target_ is {target}, which is no class")
    return found


def without_parts(value: Any) -> Any:
    """A value of a config with ``PART`` in place of what will be built."""
    if isinstance(value, dict):
        return PART if "_target_" in value else {name: without_parts(one) for name, one in value.items()}
    return [without_parts(one) for one in value] if isinstance(value, list) else value


def build_data(cfg: DictConfig, folder: Path | None = None, resumed: bool = False) -> DataModule:
    """The data of a run.

    Args:
        cfg: the composed config.
        folder: of the run, for one that trains.
        resumed: whether it goes on from a checkpoint.

    Raises:
        ValueError: parts that do not fit together.
    """
    source, generated = build_source(cfg), OmegaConf.select(cfg, "generated")
    if generated:
        if generated.of != cfg.data.name:
            raise ValueError(
                f"the generated images are of data={generated.of}, but the run is on data={cfg.data.name}: choose "
                "generated=folder with generated.root, generated=arrays with generated.path, or generated=paired with "
                "generated.path for images of each sample"
            )
        maker = build(generated.source)
        beside = bool(generated.get("beside"))  # images of the samples, not further samples
        source = Paired(source, maker, folder, resumed) if beside else WithGenerated(source, maker)
    sampler = build(OmegaConf.select(cfg, "sampler"))  # a run folder of an earlier version has no such key
    groups = build(OmegaConf.select(cfg, "pseudo_labels"))
    labels = OmegaConf.select(cfg, "labels")  # likewise; a method may set keys of none
    labels = build(labels if labels and "_target_" in labels else None)
    rest = (cfg.data.batch_size, cfg.seed, cfg.data.resident_share, sampler, groups, folder, resumed, labels)
    with within_memory(cfg.data):  # which is read now
        return DataModule(source, *rest)


def build_source(cfg: DictConfig) -> Source:
    """The source of ``cfg.data``; that of the call before, if it is the same one."""
    key = OmegaConf.to_yaml(cfg.data.source, resolve=True)
    if key not in last_source:  # the jobs of a multirun on the same data read it once
        last_source.clear()  # first: two data sets need not fit in memory together
        last_source[key] = build(cfg.data.source)
    return last_source[key]


def build_module(cfg: DictConfig, has_labels: bool, num_samples: int | None = None) -> SSLModule:
    """The model of a run.

    Args:
        cfg: the composed config.
        has_labels: whether the training set has labels.
        num_samples: N, samples of the training set, numbered from 0; ``None`` where that is not known.

    Raises:
        ValueError: parts that do not fit together.
    """
    views = build(cfg.views)  # draws nothing
    check_modalities(read_by(views), modalities_of(cfg.data), cfg.data.name)
    if isinstance(views, GeneratedViews) and not OmegaConf.select(cfg, "generated.beside"):
        raise ValueError(NONE_GENERATED)
    refuse_one_tuning(cfg)
    student = build(cfg.student)  # first: at a seed, every method begins with the same backbone
    take_sizes(student, views)
    objective = build(with_widths(cfg.objective, student))
    check_words(objective, student)
    if objective.requires & {"label", "number"} and not has_labels:
        lacking = f"data={cfg.data.name} has none for pretraining: choose another data set"
        if OmegaConf.select(cfg, "generated"):
            lacking = "generated images have none: choose generated=none"
        raise ValueError(f"{type(objective).__name__} needs labels, but {lacking} or a method without labels")
    if num_samples is not None:
        objective.allocate(num_samples)
    elif "index" in objective.requires:
        raise ValueError(
            f"{type(objective).__name__} keeps a state of every training sample, but how many data={cfg.data.name} has "
            "is not known: choose another data set or a method without such a state"
        )
    masker = OmegaConf.select(cfg, "masker")  # a run folder of an earlier version has no such key
    with within_memory(cfg):  # parts tell each other their sizes
        return SSLModule(
            views=views,
            student=student,
            objective=objective,
            optimizer=build(cfg.optimizer),
            teacher=build(cfg.teacher),
            mixer=build(cfg.mixer if cfg.mixer and "_target_" in cfg.mixer else None),  # a method may set keys of none
            masker=build(masker if masker and "_target_" in masker else None),
            feature_mixer=build(cfg.feature_mixer),
            student_views=cfg.student_views,
            teacher_views=cfg.teacher_views,
            micro_batch_size=cfg.data.micro_batch_size,
            seed=cfg.seed,
        )


def refuse_one_tuning(cfg: DictConfig) -> None:
    """Raises ValueError where a tuning of one encoder is chosen for a student of several towers."""
    towers, tuning = OmegaConf.select(cfg, "student.others"), OmegaConf.select(cfg, "student.tuning")
    if towers and tuning and "_target_" in tuning:
        every = ", ".join(map(str, (cfg.student.main, *towers)))
        raise ValueError(
            f"tuning=<name> is for one encoder, but the student has towers of {every}: choose it for one of them, "
            f"+tuning@student.tuning.{next(iter(towers))}=<name>"
        )


def take_sizes(student: Encoder | Towers, views: ViewMaker) -> None:
    """Tells the backbones of pictures of the sides that come to them, where there are several. Changes the student.

    Raises:
        ValueError: a backbone cannot take them.
    """
    made = [(views.modality[v], views.example(v)) for v in range(views.num_views)]
    for encoder, modalities in student.encoders():
        sizes = {shape[-1] for kind, shape in made if len(shape) == 3 and (not modalities or kind in modalities)}
        for backbone in encoder.backbones if len(sizes) > 1 else ():
            if isinstance(backbone, Resizable):
                backbone.take_sizes(sorted(sizes))


def check_data(cfg: DictConfig) -> None:
    """Refuses views of what the data lack, before anything is read.

    Raises:
        ValueError: a modality is missing.
    """
    check_modalities(read_by(build(cfg.views)), modalities_of(cfg.data), cfg.data.name)


def read_by(views: ViewMaker) -> tuple[str, ...]:
    """What a view maker reads of a sample, the main modality first."""
    return views.reads if isinstance(views, Regional) else views.modality


def modalities_of(data: DictConfig) -> tuple[str, ...]:
    """What a sample of a data set consists of, the main modality first; one that does not say has pictures."""
    return tuple(OmegaConf.select(data, "modalities") or ("image",))


def with_widths(node: DictConfig, student: Encoder) -> DictConfig:
    """The objective's node with numbers where a ``dim`` or ``out`` names the output of the student that is as wide: of
    the main tower, or, as ``text.places``, of another one.

    Raises:
        ValueError: the student has no such output.
    """
    found = copy.deepcopy(node)
    OmegaConf.set_readonly(found, False)
    for key, value in list(leaves(OmegaConf.to_container(node, resolve=True))):
        if key.split(".")[-1] in WIDTHS and isinstance(value, str):
            of, _, name = value.rpartition(".")
            tower, output = student, value
            if isinstance(student, Towers) and of in student.towers:
                tower, output = student.tower(of), name
            refuse_missing(node._target_.rpartition(".")[2], [output], tower)
            OmegaConf.update(found, key, tower.dims[output])
    return found


def check_labels(objective: Objective, label: Tensor | None) -> None:
    """Refuses labels that the objective cannot read or has no room for, as far as they are known before the run.

    Args:
        objective: says whether it reads classes, and how many it counts.
        label: [N] of the training set; ``None`` if there are none or they come with the stream.

    Raises:
        ValueError: the labels are numbers instead of classes, some are missing that must not, or one is out of range.
    """
    if label is not None and label.is_floating_point() and "label" in objective.requires:
        raise ValueError(
            f"{type(objective).__name__} needs classes, but the labels of the training set are numbers: choose classes "
            "(data.source.label=shape on data=shapes, data.source.targets=null on a folder), "
            f"{methods(objective, lambda kind: 'number' in kind.requires)}another objective"
        )
    if label is None or label.is_floating_point():
        return
    if "partial labels" not in objective.requires and int(label.min()) < 0:
        raise ValueError(
            f"{type(objective).__name__} wants a label of every training sample or reads none, but some have -1, which "
            f"is no class: set labels=all, or choose "
            f"{methods(objective, lambda kind: 'partial labels' in kind.requires)}another method"
        )
    if objective.num_classes is None:
        return
    highest = int(label.max())
    if highest >= objective.num_classes:
        raise ValueError(
            f"objective.num_classes is {objective.num_classes}, but the training set has a label {highest}: "
            f"set data.num_classes to at least {highest + 1}"
        )
