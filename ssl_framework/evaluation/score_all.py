"""Several protocols on one backbone and one data set: features computed once, equal probes run once."""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ssl_framework.build import build, build_data, build_module
from ssl_framework.data.base import Split
from ssl_framework.device import use_threads
from ssl_framework.evaluation.features import (
    Bare,
    Frozen,
    Splits,
    extract_frozen,
    extract_layers,
    intervals,
    plain,
    raw_input,
)
from ssl_framework.evaluation.frozen import FrozenEvaluation, defined
from ssl_framework.evaluation.probes.regression import KNNRegression, Ridge
from ssl_framework.evaluation.protocol import protocol_of
from ssl_framework.loading import load_run_config
from ssl_framework.module import SSLModule
from ssl_framework.views.base import ViewMaker


def references(folder: Path, with_raw: bool = True) -> dict[str, dict[str, float]]:
    """What a run with ``evaluation.baselines=true`` would have scored before its first step.

    Args:
        folder: of a run on the CPU or on a GPU; only its config is read.
        with_raw: also of the raw input, which the views have a name for ("raw_pixels").
    """
    cfg = load_run_config(folder)
    torch.manual_seed(cfg.seed)
    use_threads(cfg.trainer.num_threads)
    data = build_data(cfg)
    module = build_module(cfg, data.pretrain.labelled, data.pretrain.shape[0])
    evaluation: FrozenEvaluation = build(cfg.evaluation)
    found = {}
    if with_raw:
        found[module.views.raw_name] = evaluation.score(lambda split: {"": raw_input(module.views, split)}, data)
    found["untrained"] = evaluation.score_module(module, data)
    return {name: plain(scores) for name, scores in found.items()}


FOR_NUMBERS = (KNNRegression, Ridge)
"""Probes for labels that are numbers; classes they would read as numbers too."""


class Chosen(NamedTuple):
    """A protocol as a command has chosen it."""

    name: str  # as in evaluation=<name>
    node: DictConfig  # its settings
    overrides: Sequence[str]  # of the command, those it has taken
    asked: bool  # by its name; not where all are tried


class Features:
    """Features of one module, by split and dtype, each computed once.

    Args:
        module: the encoder and its transform.
        heads: of which any protocol reads the layers; they come out of the same pass.
    """

    def __init__(self, module: SSLModule | Bare, heads: Iterable[str] = ()) -> None:
        self.module = module
        self.heads = tuple(dict.fromkeys(heads))
        self.found: dict[tuple[Any, ...], dict[str, Tensor]] = {}

    def read_by(self, evaluation: FrozenEvaluation) -> Callable[[Split], dict[str, Tensor]]:
        """What ``evaluation.score`` reads, as ``evaluation.features_of`` has it.

        Raises:
            ValueError: the student lacks a head that the evaluation names.
        """
        evaluation.features_of(self.module)
        return lambda images: self.layers(images, evaluation.dtype, evaluation.head_layers)

    def layers(self, images: Split, dtype: torch.dtype, heads: Sequence[str]) -> dict[str, Tensor]:
        """ "" for the backbone's features, "<head>.<number>" for the layers of ``heads``, each [N, D] ``dtype``."""
        student = self.module.student
        # The features of several backbones side by side do not come out of the pass through the heads.
        together = student.scored == ("pooled",) and not student.earlier
        through = self.heads if together else tuple(heads)
        key = (id(images.rows), dtype, through)
        if key not in self.found:
            joint = (
                extract_layers(self.module, images, through, dtype)
                if through
                else {"": extract_frozen(self.module, images, dtype)}
            )
            self.found[key] = {name: part.contiguous() for name, part in joint.items()}  # [N, D] each
        return {name: x for name, x in self.found[key].items() if name == "" or name.rpartition(".")[0] in heads}


class Once:
    """A probe or measure that several protocols have with equal settings; on the same features it runs once.

    Args:
        call: the probe or measure.
        settings: its settings as text.
        memory: (settings, features) -> what was found and said; shared by all, and not kept longer than the features.
    """

    def __init__(self, call: Callable[..., dict[str, float]], settings: str, memory: dict[Any, Any]) -> None:
        self.call = call
        self.settings = settings
        self.memory = memory

    def __call__(self, *splits: Frozen) -> dict[str, float]:
        key = (self.settings, *(split.x.data_ptr() for split in splits))
        if key not in self.memory:
            with noted() as notes:
                found = self.call(*splits)
            self.memory[key] = found, notes
        found, notes = self.memory[key]
        for note in notes:
            warnings.warn(note)
        return dict(found)


@contextmanager
def noted() -> Iterator[list[str]]:
    """Collects what is warned of meanwhile, each sentence once, instead of printing it."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield notes
    notes += dict.fromkeys(str(warning.message) for warning in caught)


def misfit(evaluation: Any, chosen: Chosen, model: SSLModule | Bare, splits: Splits, learnt: Mapping[str, Any]) -> str:
    """Why a protocol cannot be asked of this model and these labels; "" if it can. Changes ``evaluation``: without
    labels only its measures are left."""
    if not isinstance(evaluation, FrozenEvaluation):
        return "" if chosen.asked else "it takes long or trains: ask for it by its name"
    if not evaluation.wanted:
        return "it scores nothing"
    if evaluation.scores is not None and not chosen.asked:
        return "it watches a training: choose it for a run"
    for callback in evaluation.beside:
        if callback is evaluation.online_linear and callback.state_key not in learnt:
            return "its classifier learns along with a run, and this one has none: choose it for a run"
    try:
        evaluation.features_of(model)
        evaluation.check_probes(model)
        if evaluation.cross is not None:
            evaluation.cross.check(model)
            evaluation.cross.check_split(splits.test)
        if evaluation.wordings is not None:
            evaluation.wordings.check_split(splits.test)
        if evaluation.after is not None:
            evaluation.after.check(model)
            evaluation.after.check_split(splits.test)
    except ValueError as error:
        return str(error)
    if not splits.has_labels:
        evaluation.probes, evaluation.head_probes = {}, {}
        return (
            ""
            if evaluation.measures or evaluation.wordings
            else "it needs labels and a test split, which these data lack"
        )
    assert splits.train.label is not None
    numbers = all(isinstance(probe, FOR_NUMBERS) for probe in evaluation.probes.values()) and evaluation.probes
    if numbers and not chosen.asked and not splits.train.label.is_floating_point():
        return "it is for labels that are numbers, and these are classes"
    return ""


def score_all(
    model: SSLModule | Bare,
    splits: Splits,
    protocols: Sequence[Chosen],
    untrained: Callable[[], SSLModule | Bare] | None = None,
    with_references: bool = False,
    learnt: Mapping[str, Any] | None = None,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Scores one model by several protocols.

    Args:
        model: on the device where features are computed.
        splits: of one data set.
        protocols: in the order in which they are run, their settings resolved.
        untrained: makes the same model without its weights, for the references; ``None``: it is untrained itself.
        with_references: whether the raw input and the untrained model are scored too, where ``evaluation.baselines``
            says so.
        learnt: states of the callbacks of a run on these data, by their names.

    Returns:
        One record a protocol that has scored anything: "protocol", "metrics", "intervals", "references", "notes",
        "seconds"; and protocol -> why it has not.

    Raises:
        ValueError: a protocol that was asked for by its name does not fit.
    """
    built = {chosen.name: build(chosen.node) for chosen in protocols}
    left_out = {}
    for chosen in protocols:  # all of them first, so that nothing is computed in vain
        if reason := misfit(built[chosen.name], chosen, model, splits, learnt or {}):
            if chosen.asked:
                raise ValueError(f"evaluation={chosen.name} does not fit: {reason}")
            left_out[chosen.name] = reason
    fitting = [chosen for chosen in protocols if chosen.name not in left_out]
    frozen = [own for chosen in fitting if isinstance(own := built[chosen.name], FrozenEvaluation)]
    features = Features(model, (head for own in frozen for head in own.head_layers))
    others: dict[str, Features | None] = {}
    if with_references and any(own.with_baselines for own in frozen):
        others[model.views.raw_name] = None
        if untrained is not None:
            others["untrained"] = Features(untrained().to(model.device), features.heads)
    raw = Raw(model.views)
    memory: dict[Any, Any] = {}
    records = []
    for chosen in fitting:
        evaluation, started = built[chosen.name], time.perf_counter()
        references: dict[str, dict[str, float]] = {}
        protocol = {**protocol_of(chosen.node, chosen.overrides), "preprocessing": model.views.describe()}
        with noted() as notes:
            if isinstance(evaluation, FrozenEvaluation):
                share_probes(evaluation, chosen.node, memory)
                if isinstance(evaluation.online_linear, L.Callback):
                    evaluation.online_linear.load_state_dict((learnt or {})[evaluation.online_linear.state_key])
                scores = evaluation.score(features.read_by(evaluation), splits, model.student, online=True)
                scores |= across(evaluation, model, splits)
                for name, source in others.items() if evaluation.with_baselines and scores else ():
                    references[name] = reference(evaluation, splits, source, raw)
                if with_references and evaluation.with_baselines:
                    references |= evaluation.chance(model, splits)
            else:
                protocol["images"], scores = evaluation.images_shown, defined(evaluation.score_module(model, splits))
        if not scores:
            left_out[chosen.name] = "; ".join(notes) or "it found nothing to score"
            continue
        records.append(
            {
                "protocol": protocol,
                "metrics": plain(scores),
                "intervals": intervals(scores),
                "references": {name: found for name, found in references.items() if found},
                "notes": notes,
                "seconds": round(time.perf_counter() - started, 2),
            }
        )
    return records, left_out


def across(evaluation: FrozenEvaluation, model: SSLModule | Bare, splits: Splits) -> dict[str, float]:
    """What an evaluation asks of a model beside its features: of its towers, and what it leaves to another one."""
    found = {} if evaluation.cross is None else defined(evaluation.cross.score(model, splits.test))
    return found if evaluation.after is None else found | defined(evaluation.after.score_module(model, splits))


def share_probes(evaluation: FrozenEvaluation, node: DictConfig, memory: dict[Any, Any]) -> None:
    """Has the probes and measures of an evaluation run once on the same features. Changes ``evaluation``."""
    probes: dict[str, Any] = evaluation.probes
    measures: dict[str, Any] = evaluation.measures
    for kind, calls in (("probes", probes), ("measures", measures)):
        for name, call in calls.items():
            calls[name] = Once(call, OmegaConf.to_yaml(node[kind][name]), memory)


def reference(evaluation: FrozenEvaluation, splits: Splits, source: Features | None, raw: "Raw") -> dict[str, float]:
    """The scores of an untrained model, or of the raw input (``source`` is ``None``); nothing, with one warning, where
    that does not fit in memory."""
    if source is not None:
        scores = evaluation.score(source.read_by(evaluation), splits, source.module.student)
        return plain(scores | across(evaluation, source.module, splits))
    try:
        return plain(evaluation.score(raw, splits))
    except ValueError as error:
        warnings.warn(str(error))
        return {}


class Raw:
    """The raw input of each split, made once, as ``score`` reads features.

    Args:
        views: say what the raw input is.
    """

    def __init__(self, views: ViewMaker) -> None:
        self.views = views
        self.made: dict[int, Tensor] = {}

    def __call__(self, split: Split) -> dict[str, Tensor]:
        """By the name of the layer, which is "": [N, D]."""
        if id(split.rows) not in self.made:
            self.made[id(split.rows)] = raw_input(self.views, split)
        return {"": self.made[id(split.rows)]}


def metrics_of(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """All metrics of several protocols together; equal names are equal measurements."""
    return {name: value for record in records for name, value in record["metrics"].items()}
