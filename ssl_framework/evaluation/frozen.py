"""Evaluation on frozen features: extracted once, of clean images, in eval mode, and read by every probe."""

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from ssl_framework.arguments import Natural, guarded
from ssl_framework.data.base import Split
from ssl_framework.data.datamodule import DataModule
from ssl_framework.distributed import alone, rank, same_on_all_ranks, shares_of, whole, world_size
from ssl_framework.evaluation.after_training.base import AfterRun
from ssl_framework.evaluation.cross_modal import Crossing
from ssl_framework.evaluation.features import (
    DTYPES,
    Bare,
    Frozen,
    HeadProbe,
    KnowsChance,
    KnowsReferences,
    Measure,
    Probe,
    Readout,
    Splits,
    extract_frozen,
    extract_layers,
    intervals,
    plain,
    raw_input,
    refuse_non_finite,
)
from ssl_framework.evaluation.wordings import AcrossWordings
from ssl_framework.models.encoder import Encoder
from ssl_framework.models.heads import Classifier
from ssl_framework.module import SSLModule
from ssl_framework.runs.suggestions import choices, chosen, nodes_of
from ssl_framework.views.base import Further

BEFORE = "before"
"""Name of the reference that the weights are which a run begins with."""


def due(trainer: L.Trainer, every_n_epochs: int) -> bool:
    """Whether something that is measured every n epochs (0: only at the end) is measured at the end of this epoch."""
    done = trainer.current_epoch + 1
    last = done == trainer.max_epochs or trainer.global_step == trainer.max_steps
    return not trainer.should_stop and bool(last or (every_n_epochs and done % every_n_epochs == 0))


def ended(trainer: L.Trainer) -> bool:
    """Whether the run has made all its steps; one bounded by max_steps may end inside an epoch."""
    return trainer.global_step >= trainer.estimated_stepping_batches


@guarded
class FrozenEvaluation(L.Callback):
    """Runs every probe on the frozen features every n epochs and at the end; scores the raw input (of pictures: pixels)
    and the untrained backbone with the same probes once, with the first evaluation, so that training need not wait. A
    run that begins with weights from elsewhere scores them before its first step, for it may not find them again.

    Args:
        probes: name -> probe.
        every_n_epochs: 0 for only at the end.
        baselines: whether to score the raw input, the untrained backbone, and weights that the run begins with.
        features: "float32" or "bfloat16", in which the backbone's features are computed and kept; probes compute in
            float32.
        head_layers: names of heads of the student each of whose layers is scored as well, with the same probes, in
            metrics ``<head>.<number of the layer>/<metric>``.
        head_probes: name of a classifier of the student -> name -> probe of it, in metrics ``<head>/<metric>``.
        measures: name -> measure of the train split's features; the only ones that data without labels leave.
        protocol: name and version of these settings as they are shipped, such as "frozen/1"; it goes into the result.
        scores: ``ViewScores``, a callback beside this one; ``None``: none.
        online_linear: ``OnlineLinear``, a callback beside this one and a probe of the student that trains; ``None``:
            none.
        cross: scores the embeddings of two towers against each other, or a head's own answers, in metrics of its own,
            and says what chance would score, which becomes a reference; ``None``: nothing.
        after: an evaluation of finished runs that reads the student's maps, say, in metrics of its own; ``None``: none.
        wordings: scores the features of several texts of a sample against each other, in metrics of its own; ``None``:
            nothing.

    Logs ``eval/<metric>``. ``metrics`` holds the latest values, ``intervals`` their 95 % intervals over test samples,
    ``baselines`` the references, ``seconds`` what this process has spent on all of it.
    """

    def __init__(
        self,
        probes: Mapping[str, Probe | None] | None,
        every_n_epochs: Natural,
        baselines: bool = True,
        features: str = "float32",
        head_layers: Sequence[str] = (),
        head_probes: Mapping[str, Mapping[str, HeadProbe | None]] | None = None,
        measures: Mapping[str, Measure | None] | None = None,
        protocol: str = "unnamed",
        scores: L.Callback | None = None,
        online_linear: Probe | None = None,
        cross: Crossing | None = None,
        after: AfterRun | None = None,
        wordings: AcrossWordings | None = None,
    ) -> None:
        if features not in DTYPES:
            raise ValueError(f"evaluation.features is {features}: choose one of {', '.join(DTYPES)}")
        self.probes = {name: probe for name, probe in (probes or {}).items() if probe is not None}
        self.every_n_epochs = every_n_epochs
        self.with_baselines = baselines
        self.dtype = DTYPES[features]
        self.head_layers = tuple(head_layers)
        self.head_probes = {
            head: present
            for head, probes in (head_probes or {}).items()
            if (present := {name: probe for name, probe in probes.items() if probe is not None})
        }
        self.measures = {name: measure for name, measure in (measures or {}).items() if measure is not None}
        self.protocol = protocol
        self.scores = scores
        self.online_linear = online_linear
        self.cross = cross
        self.after = after
        self.wordings = wordings
        self.metrics: dict[str, float] = {}
        self.intervals: dict[str, tuple[float, float]] = {}
        self.baselines: dict[str, dict[str, float]] = {}
        self.evaluated_at = -1
        self.seconds = 0.0
        self.initial: dict[str, Tensor] | None = None
        self.initial_objective: dict[str, Tensor] = {}  # where something asks the objective
        self.from_weights = False  # said by whoever gives the student weights from elsewhere

    @property
    def wanted(self) -> bool:
        """Whether there is anything to score with."""
        scored = [self.probes, self.head_probes, self.measures, self.online_linear]
        scored += [self.cross, self.after, self.wordings]
        return any(map(bool, scored))

    @property
    def beside(self) -> list[L.Callback]:
        """The callbacks of this evaluation that read views instead of frozen features."""
        return [callback for callback in (self.scores, self.online_linear) if isinstance(callback, L.Callback)]

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("metrics", "intervals", "baselines", "evaluated_at")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.metrics, self.baselines, self.evaluated_at = state["metrics"], state["baselines"], state["evaluated_at"]
        self.intervals = state.get("intervals", {})  # a checkpoint of an earlier version has none

    def features_of(self, module: SSLModule | Bare) -> Callable[[Split], dict[str, Tensor]]:
        """What ``score`` reads of a module's student: images -> name of the layer ("" is the backbone) -> [N, D].

        Raises:
            ValueError: the student lacks a head of ``head_layers`` or of ``head_probes``.
        """
        self.readouts_of(module.student)
        unknown = [name for name in self.head_layers if name not in module.student.heads]
        if unknown:
            raise ValueError(
                f"evaluation.head_layers names {unknown}, but the student has {list(module.student.heads)}"
            )
        if not self.head_layers:
            return lambda images: {"": extract_frozen(module, images, self.dtype)}
        return lambda images: extract_layers(module, images, self.head_layers, self.dtype)

    def readouts_of(self, student: Encoder) -> dict[str, Readout]:
        """The classifiers that ``head_probes`` names, as they are now, on the CPU.

        Raises:
            ValueError: the student has no such classifier, or evaluators do not read the features that it reads.
        """
        found = {}
        for name in self.head_probes:
            head = dict(student.heads).get(name)
            if not isinstance(head, Classifier) or head.source != "pooled":
                raise ValueError(
                    f"evaluation.head_probes names {name}, but the student has no classifier of that name on its "
                    f"pooled features: choose {methods_with_classifier(name)}evaluation=frozen"
                )
            if student.scored != ("pooled",) or student.earlier:
                raise ValueError(
                    f"evaluation.head_probes names {name}, which reads pooled features, but evaluators read those of "
                    "student.scored and student.earlier: set evaluation=frozen"
                )
            weights = head.linear.weight, head.linear.bias
            found[name] = Readout(*(whole(weight.detach()).float().cpu() for weight in weights))
        return found

    def score(
        self,
        features: Callable[[Split], dict[str, Tensor]],
        data: DataModule | Splits,
        student: Encoder | None = None,
        online: bool = False,
    ) -> dict[str, float]:
        """All probes and measures on one or several kinds of features; computed on rank 0, the same result everywhere.

        Args:
            features: images -> name -> [N, D]; every rank takes part. A name that is not "" stands before its metrics.
            data: gives the train and the test split; both are labelled if there are probes.
            student: whose features they are and whose classifiers are judged; ``None``: no student's.
            online: whether ``online_linear`` has learnt from the student and is judged, too.

        Returns:
            Metric -> value, an ``Accuracy`` where every test sample was scored once.

        Raises:
            ValueError: a feature is not finite.
        """
        fitted = self.probes or self.head_probes or self.measures or online or self.wordings is None
        train_x = checked(features(data.train), student, "train") if fitted else {}
        learnt = [self.online_linear] if online and self.online_linear is not None else []
        test_x = checked(features(data.test), student, "test") if self.probes or self.head_probes or learnt else None
        classifiers = {} if student is None else self.readouts_of(student)
        texts = {} if self.wordings is None else self.wordings.embedded(features, data.test)
        result: list[Any] = [None]
        if rank() == 0:
            scores: dict[str, float] = {}
            for layer in train_x:
                # Not as a part of wider rows, of which a sum may come out another in its last bit.
                label = None if data.train.label is None else data.train.label.cpu()
                train = Frozen(train_x[layer].contiguous(), label, in_memory(data.train))  # type: ignore[arg-type]
                own: dict[str, float] = {}
                if test_x is not None:
                    assert data.test.label is not None
                    test = Frozen(test_x[layer].contiguous(), data.test.label.cpu(), in_memory(data.test))
                    for probe in [*self.probes.values(), *([] if layer else learnt)]:
                        own |= probe(train, test)
                for measure in self.measures.values():
                    own |= measure(train)
                scores |= {f"{layer}/{name}" if layer else name: value for name, value in own.items()}
                for head, readout in ({} if layer else classifiers).items():
                    for head_probe in self.head_probes[head].values():
                        found = head_probe(train, test, readout)
                        scores |= {f"{head}/{name}": value for name, value in found.items()}
            for layer, each in texts.items():
                assert self.wordings is not None
                own = self.wordings.score(each)
                scores |= {f"{layer}/{name}" if layer else name: value for name, value in own.items()}
            result = [defined(scores)]
        if world_size() > 1:
            torch.distributed.broadcast_object_list(result, src=0)
        return result[0]

    def score_module(
        self, module: SSLModule | Bare, data: DataModule | Splits, online: bool = False
    ) -> dict[str, float]:
        """All probes and measures on the student's features, and what its towers say of each other; see ``score``. What
        ``after`` finds, rank 0 does."""
        reads = self.probes or self.head_probes or self.measures or self.wordings or (online and self.online_linear)
        scores = self.score(self.features_of(module), data, module.student, online) if reads else {}
        if self.cross is not None:
            scores |= defined(self.cross.score(module, data.test))
        if self.after is not None:
            found: list[Any] = [None]
            if rank() == 0:
                with alone():
                    found = [defined(self.after.score_module(module, data))]
            if world_size() > 1:
                torch.distributed.broadcast_object_list(found, src=0)
            scores |= found[0]
        return scores

    def chance(self, module: SSLModule | Bare, data: DataModule | Splits) -> dict[str, dict[str, float]]:
        """What random answers would score, as a reference named "chance", and what others would that read no features;
        nothing where no part of this knows it."""
        found = {} if self.cross is None else self.cross.chance(module, data.test)
        found |= {} if self.wordings is None else self.wordings.chance(data.test)
        found |= {} if self.after is None else self.after.chance(module, data)
        further: dict[str, dict[str, float]] = {}
        for shared in self.probes.values():
            probe = getattr(shared, "call", shared)  # what several protocols have in common knows it, too
            if isinstance(probe, KnowsChance):
                assert data.train.label is not None and data.test.label is not None
                found |= probe.chance(data.train.label.cpu(), data.test.label.cpu())
            if isinstance(probe, KnowsReferences):
                for name, scores in probe.references(*map(unread, (data.train, data.test))).items():
                    further[name] = {**further.get(name, {}), **scores}
        return ({"chance": found} if found else {}) | further

    def check_probes(self, module: SSLModule | Bare) -> None:
        """Refuses probes that are of one modality alone, as they say, on samples of another.

        Raises:
            ValueError: there is one.
        """
        own = module.views.modality[0]
        for name, probe in self.probes.items():
            wanted = getattr(probe, "modality", own)
            if wanted != own:
                raise ValueError(
                    f"evaluation.probes.{name} is of samples of modality {wanted}, but these are of {own}: choose "
                    f"another evaluation=<name>, or data of {wanted}"
                )

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, SSLModule)
        self.features_of(pl_module)  # refuses unknown heads before an epoch is spent
        self.check_probes(pl_module)
        if self.cross is not None:
            self.cross.check(pl_module)
        if self.after is not None:
            self.after.check(pl_module)
        if self.initial is None:
            self.initial = copied(pl_module.student)  # now: a resumed run is given its weights after this hook
        if self.after is not None and self.after.reads_objective:
            self.initial_objective = copied(pl_module.objective)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        if (labelled := [*self.probes, *self.head_probes]) and not data.has_labels:
            if rank() == 0:
                rest = f"; of the training images: {', '.join(self.measures)}" if self.measures else ""
                warnings.warn(
                    f"evaluation skipped: {', '.join(labelled)} need labels and a test split, "
                    f"which this data set lacks{rest}"
                )
            self.probes, self.head_probes = {}, {}
        if self.wordings is not None:
            self.wordings.check_split(data.test)
        if self.after is not None:
            self.after.check_split(data.test)
        if not self.wanted or not self.with_baselines or "untrained" in self.baselines:
            self.initial = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.from_weights and self.wanted and self.with_baselines and BEFORE not in self.baselines:
            assert isinstance(pl_module, SSLModule)
            started = time.perf_counter()
            self.baselines[BEFORE] = plain(self.score_module(pl_module, trainer.datamodule))  # type: ignore[attr-defined]
            self.seconds += time.perf_counter() - started

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.wanted and due(trainer, self.every_n_epochs):
            self.evaluate(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.wanted and ended(trainer) and self.evaluated_at != trainer.global_step:
            self.evaluate(trainer, pl_module)

    def evaluate(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Scores the student as it is now. Changes ``metrics``."""
        assert isinstance(pl_module, SSLModule)
        started = time.perf_counter()
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        same_on_all_ranks(pl_module.student.buffers())  # batch statistics: a checkpoint has those of rank 0
        if self.initial is not None:
            trained, views = copied(pl_module.student), pl_module.views
            pl_module.student.load_state_dict(shares_of(self.initial, pl_module.student))
            if self.probes or self.measures or self.wordings or self.after is None:
                raw = self.score(lambda split: {"": raw_input(views, split)}, data)
                self.baselines = {**self.baselines, views.raw_name: plain(raw)}
                for name, read in views.further().items() if isinstance(views, Further) else ():
                    found = self.score(lambda split, read=read: {"": read(split.rows)}, data)  # type: ignore[misc]
                    self.baselines[name] = plain(found)
            learnt = copied(pl_module.objective) if self.initial_objective else {}
            if learnt:
                pl_module.objective.load_state_dict(shares_of(self.initial_objective, pl_module.objective))
            self.baselines = {**self.baselines, "untrained": plain(self.score_module(pl_module, data))}
            self.baselines |= self.chance(pl_module, data)
            pl_module.student.load_state_dict(trained)
            if learnt:
                pl_module.objective.load_state_dict(learnt)
            self.initial = None
        scores = self.score_module(pl_module, data, online=True)
        self.metrics, self.intervals = plain(scores), intervals(scores)
        self.evaluated_at = trainer.global_step
        self.seconds += time.perf_counter() - started
        logged = {f"eval/{name}": value for name, value in self.metrics.items()}
        for logger in trainer.loggers:
            logger.log_metrics(logged, step=trainer.global_step)


def checked(layers: dict[str, Tensor], student: Encoder | None, split: str) -> dict[str, Tensor]:
    """The features of a split by layer, [N, D] each; without a student they are the raw input.

    Raises:
        ValueError: one of them is not finite.
    """
    own = "the raw input" if student is None else "the backbone's features"
    for layer, x in layers.items():
        refuse_non_finite(x, f"the outputs of the layer {layer}" if layer else own, split)
    return layers


def in_memory(split: Split) -> Tensor | None:
    """The samples of a split on the CPU, if they lie in memory."""
    return split.rows.cpu() if isinstance(split.rows, Tensor) else None


def unread(split: Split) -> Frozen:
    """Labels and samples of a split, without features."""
    assert split.label is not None
    return Frozen(torch.zeros(len(split.label), 0), split.label.cpu(), in_memory(split))


def defined(scores: dict[str, float]) -> dict[str, float]:
    """Those that are numbers; of the others one warning."""
    if undefined := [name for name, value in scores.items() if not math.isfinite(value)]:
        warnings.warn(f"{', '.join(undefined)} skipped: not defined for these samples")
    return {name: value for name, value in scores.items() if math.isfinite(value)}


def copied(module: nn.Module) -> dict[str, Tensor]:
    """The state of a module as it is now."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def count_parameters(module: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def methods_with_classifier(name: str) -> str:
    """``method=supervised or ``: the methods whose heads have a classifier of that name on the pooled features."""
    heads = nodes_of("head")
    target = f"{Classifier.__module__}.{Classifier.__qualname__}"

    def has(head: str | None) -> bool:
        node = heads.get(head or "", {}).get(name, {})
        return (node.get("_target_"), node.get("source")) == (target, "pooled")

    return choices("method", lambda node: has(chosen(node, "head")))
