"""How views of one sample and of different samples score while a run trains: distributions, hardness, false negatives.

``FrozenEvaluation`` reads clean images; here the views are augmented as in training, and compared where the objective
compares them. A query is the first view of a sample, its positive the second view, its negatives the second views of
all other samples of a fixed subset. N samples, q views, D dimensions of the embedding.
"""

import math
import warnings
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import lightning as L
import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor

from ssl_framework.arguments import Count, Natural, NonNegative, Positive, Seed, Several, guarded
from ssl_framework.data.base import Split
from ssl_framework.data.datamodule import DataModule
from ssl_framework.data.loader import each_tensor, take
from ssl_framework.distributed import is_divided, rank
from ssl_framework.evaluation.features import in_eval_mode, refuse_non_finite
from ssl_framework.evaluation.frozen import due, ended
from ssl_framework.evaluation.measures import alignment
from ssl_framework.evaluation.spectrum import lidar
from ssl_framework.functional import tiles, unit
from ssl_framework.module import SSLModule
from ssl_framework.runs.durable import replacing
from ssl_framework.runs.folder import RunFolder
from ssl_framework.types import Samples
from ssl_framework.wiring import is_feature

EDGES = np.linspace(-1, 1, 101)
"""Of the histograms' bins; fixed, so that those of all epochs, runs and methods can be laid over each other."""


HISTOGRAMS = ("positive", "mean_negative", "hardest_negative")


CHUNK = 256
"""Samples whose views exist at a time."""


class Similarities(NamedTuple):
    """What each of N queries finds, float64; cosines unless said otherwise."""

    positive: Tensor  # [N]
    mean_negative: Tensor  # [N] mean over its N - 1 negatives
    negative_variance: Tensor  # [N] likewise, divided by N - 1
    hardest_negative: Tensor  # [N]
    multiplier: Tensor  # [N] one minus the positive's share of the softmax over all N keys
    match_probability: Tensor  # [N] mean share of its h hardest negatives in that softmax
    false_negatives: Tensor | None  # [N] share of its class among these h; None without classes


def similarities_of(
    q: Tensor, k: Tensor, temperature: float, num_hard: int, label: Tensor | None = None
) -> Similarities:
    """Compares every query with every key, at most ``functional.TILE`` pairs at a time; cost ``2 N^2 D`` operations.

    Args:
        q, k: [N, D] unit rows in float64; k[i] is the positive of q[i].
        temperature: tau of the softmax.
        num_hard: h, from 1 to N - 1.
        label: [N] int64.
    """
    found = []
    for rows in tiles(len(q), len(k)):
        cosine = (q[rows] @ k.T).clamp(-1, 1)  # [R, N]: rounding may leave the interval
        own = torch.arange(len(q))[rows, None] == torch.arange(len(k))  # [R, N]
        positive = cosine[own]  # [R]
        mean = cosine.masked_fill(own, 0.0).sum(dim=1) / (len(k) - 1)  # [R]
        variance = (cosine - mean[:, None]).square().masked_fill(own, 0.0).sum(dim=1) / (len(k) - 1)  # [R]
        hard = cosine.masked_fill(own, -math.inf).topk(num_hard, dim=1)  # [R, h]
        share = (cosine / temperature).softmax(dim=1)  # [R, N]
        multiplier = share.masked_fill(own, 0.0).sum(dim=1)  # [R]: not 1 - share, which rounds a small one away
        match = share.gather(1, hard.indices).mean(dim=1)  # [R]
        false = None if label is None else (label[hard.indices] == label[rows, None]).double().mean(dim=1)  # [R]
        found.append((positive, mean, variance, hard.values[:, 0], multiplier, match, false))
    whole = [None if parts[0] is None else torch.cat(parts) for parts in zip(*found, strict=True)]  # 7 x [N]
    return Similarities._make(whole)


def summary(found: Similarities, temperature: float, num_hard: int) -> dict[str, float]:
    """Means over the queries, and what else is one number."""
    hard, tau = f"hardest={num_hard}", f"T={temperature:g}"
    scores = {
        "positive_similarity": found.positive.mean(),
        "positive_variance": found.positive.var(correction=0),
        "negative_similarity": found.mean_negative.mean(),
        "negative_variance": found.negative_variance.mean(),
        "hardest_similarity": found.hardest_negative.mean(),
        "proxy_accuracy": (found.positive > found.hardest_negative).double().mean(),
        f"match_probability[{hard},{tau}]": found.match_probability.mean(),
        f"npc_multiplier[{tau}]": found.multiplier.mean(),
        f"npc_multiplier_variation[{tau}]": found.multiplier.std(correction=0) / found.multiplier.mean(),
    }
    if found.false_negatives is not None:
        scores[f"false_negatives[{hard}]"] = found.false_negatives.mean()
    return {name: value.item() for name, value in scores.items()}


@guarded
class ViewScores(L.Callback):
    """Every n epochs and at the end: encodes augmented views of a fixed subset of the train split, and says how they
    score. Samples and augmentations are the same every time, so that only the encoder makes the difference.

    Training does not notice: the encoder is in eval mode meanwhile and put back, and nothing is drawn from the global
    random numbers. Rank 0 works, the others go on to their next step and wait there.

    Cost: N q forward passes and ``2 N^2 D`` operations. On the default job (10,000 images, one CPU thread) 0.07 of an
    epoch each time.

    Args:
        num_samples: N at most, the first ones of an order drawn from the seed.
        num_views: q views of each, at least 2; LiDAR reads all of them, the other scores the first two. They are the
            run's own train views of the modality and size of the first; more than it makes at a time are drawn anew.
        head: whose output is compared; ``None``: the student's first head, or its pooled features if it has none.
        temperature: tau of matching probability and multiplier. The shipped config takes the objective's own where that
            is one number, else 0.2.
        num_hard: h, the hardest negatives that matching probability and false negatives are about; at most N - 1.
        lidar_delta, lidar_epsilon: of ``spectrum.lidar``.
        every_n_epochs: 0 for only at the end.
        seed: of the order and of the augmentations.

    Logs, as ``eval/scores[n=<N>,head=<head>]/<score>``:

    - ``positive_similarity``, ``positive_variance`` over samples, ``negative_similarity`` and ``negative_variance``
      (over the negatives of a query, mean over queries), by which feature transformation (ICCV 2021,
      arXiv:2108.02982, section 3) chooses momentum and temperature; ``hardest_similarity``.
    - ``match_probability``: mean share of the h hardest negatives in the softmax over positive and negatives at
      temperature tau (MoCHi, NeurIPS 2020, arXiv:2010.01028, section 3).
    - ``proxy_accuracy``: share of queries whose positive scores above every negative (likewise).
    - ``false_negatives``: share of the query's own class among its h hardest negatives (likewise, class oracle); only
      where labels are classes.
    - ``npc_multiplier``: mean over queries of one minus the positive's share in that softmax, which scales every
      gradient of InfoNCE, and ``npc_multiplier_variation``, its standard deviation over its mean (DCL, ECCV 2022,
      arXiv:2110.06848, section 3); of N - 1 negatives, whatever the batch size.
    - ``alignment`` (arXiv:2005.10242) of the two views, and ``lidar`` (arXiv:2312.04000) of all q.

    Writes ``scores.npz`` beside ``metrics.csv``: ``edges`` [bins + 1], and with one row a time of measuring ``step``,
    ``epoch`` and the counts ``positive``, ``mean_negative`` and ``hardest_negative`` [T, bins] of the queries.
    """

    def __init__(
        self,
        num_samples: Several,
        num_views: Annotated[int, Interval(ge=2, le=1000)],
        head: str | None,
        temperature: Positive,
        num_hard: Count,
        lidar_delta: Positive,
        lidar_epsilon: NonNegative,
        every_n_epochs: Natural,
        seed: Seed,
    ) -> None:
        where = "evaluation.scores"
        if not 1 <= num_hard < num_samples:
            raise ValueError(
                f"{where}.num_hard is {num_hard}: it must be at least 1 and below num_samples, which is {num_samples}"
            )
        self.num_samples = num_samples
        self.num_views = num_views
        self.head = head
        self.temperature = temperature
        self.num_hard = num_hard
        self.lidar_delta = lidar_delta
        self.lidar_epsilon = lidar_epsilon
        self.every_n_epochs = every_n_epochs
        self.seed = seed
        self.measured_at = -1

    def head_of(self, student: Any) -> str:
        """The name of the head of an encoder, or of the main one of several, that is read, or of its pooled features.

        Raises:
            ValueError: the student has no such output of one vector a sample.
        """
        vectors = [name for name in student.dims if name == "pooled" or not is_feature(name)]
        names = list(dict.fromkeys([*student.heads, *vectors]))
        if self.head is not None and self.head not in names:
            raise ValueError(f"evaluation.scores.head is {self.head}, but the student has {', '.join(names)}")
        return self.head or names[0]

    @torch.no_grad()
    def embeddings(self, module: SSLModule, images: Split, index: Tensor) -> Tensor:
        """What the head makes of q views of the samples [N], on the CPU: [N, q, D] float32, not normalised."""
        generator, head = torch.Generator().manual_seed(self.seed), self.head_of(module.student)
        kinds, parts = module.views.modality, []
        with in_eval_mode(module), torch.autocast(module.device.type, enabled=False):
            for part in index.split(CHUNK):
                samples, views = at(images, part, module.device), list[Tensor]()
                while len(views) < self.num_views:
                    made = module.views(samples, generator).views  # V x [b, C, h_v, w_v]
                    own = [view for view, kind in zip(made, kinds, strict=True) if kind == kinds[0]]
                    views += [view for view in own if view.shape == made[0].shape]
                # As the class has it: a compiled ``encode`` would be compiled once more for this mode.
                encode = type(module.student).encode
                encoded = [encode(module.student, view)[head] for view in views[: self.num_views]]
                parts.append(torch.stack(encoded, dim=1).float().cpu())  # [b, q, D], or more where it is no vector
        return torch.cat(parts)

    def measure(self, module: SSLModule, images: Split) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """All scores, and the counts of the histograms; nothing of either, with a warning, where there are none.

        Raises:
            ValueError: an embedding is not finite.
        """
        order = torch.randperm(len(images.rows), generator=torch.Generator().manual_seed(self.seed))
        index = order[: self.num_samples].sort().values  # [N]
        try:
            module.views(at(images, index[:1], module.device), torch.Generator())
        except ValueError as error:  # such as views of what only the training samples have beside them
            warnings.warn(f"scores of views skipped: {error}")
            return {}, {}
        z = self.embeddings(module, images, index)  # [N, q, D]
        if len(z) < 2 or z.ndim != 3:
            why = "the train split has fewer than two samples"
            why = f"head {self.head_of(module.student)} gives several vectors a sample" if z.ndim != 3 else why
            warnings.warn(f"scores of views skipped: {why}")
            return {}, {}
        refuse_non_finite(z, f"the outputs of the head {self.head_of(module.student)}", "train")
        label = images.label
        label = None if label is None or label.is_floating_point() else label[index.to(label.device)].cpu()  # [N]
        q, k, num_hard = unit(z[:, 0].double()), unit(z[:, 1].double()), min(self.num_hard, len(z) - 1)
        found = similarities_of(q, k, self.temperature, num_hard, label)
        scores = summary(found, self.temperature, num_hard)
        scores["alignment"] = alignment(q, k)
        scores[f"lidar[views={self.num_views},delta={self.lidar_delta:g}]"] = lidar(
            z, self.lidar_delta, self.lidar_epsilon
        )
        prefix = f"scores[n={len(z)},head={self.head_of(module.student)}]"
        counts = {name: np.histogram(getattr(found, name).numpy(), EDGES)[0] for name in HISTOGRAMS}
        return {f"{prefix}/{name}": value for name, value in scores.items()}, counts

    def state_dict(self) -> dict[str, Any]:
        return {"measured_at": self.measured_at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.measured_at = state["measured_at"]

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, SSLModule)
        self.head_of(pl_module.student)  # refuses an unknown head before an epoch is spent

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if rank() == 0:
            keep_until(path_of(trainer), trainer.global_step - (self.measured_at != trainer.global_step))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if due(trainer, self.every_n_epochs):
            self.log_scores(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if ended(trainer) and self.measured_at != trainer.global_step:
            self.log_scores(trainer, pl_module)

    def log_scores(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measures the student as it is now."""
        assert isinstance(pl_module, SSLModule)
        self.measured_at = trainer.global_step
        if rank() != 0 and not is_divided(pl_module):
            return
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        scores, counts = self.measure(pl_module, data.train)  # of divided weights no rank can go without the others
        if rank() != 0 or not scores:
            return
        for logger in trainer.loggers:
            logger.log_metrics({f"eval/{name}": value for name, value in scores.items()}, step=trainer.global_step)
        append(path_of(trainer), trainer.global_step, trainer.current_epoch + 1, counts)


def at(images: Split, index: Tensor, device: torch.device) -> Samples:
    """The samples at positions [B], with what stands beside them, on ``device``."""
    return each_tensor(take(images, index.to(images.rows.device)), lambda x: x.to(device))


def path_of(trainer: L.Trainer) -> Path:
    """The file of the histograms in the run folder."""
    return RunFolder(Path(trainer.default_root_dir)).scores_file


def read_scores(path: Path) -> dict[str, np.ndarray]:
    """The arrays of ``scores.npz``, as ``ViewScores`` describes them."""
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def append(path: Path, step: int, epoch: int, counts: dict[str, np.ndarray]) -> None:
    """Adds a row to every array; the file is whole at any time."""
    row = {"step": np.int64(step), "epoch": np.int64(epoch), **counts}
    before = read_scores(path) if path.exists() else {}
    rows = {name: np.concatenate([*([before[name]] if before else []), [value]]) for name, value in row.items()}
    write_scores(path, rows)


def keep_until(path: Path, step: int) -> None:
    """Removes what a run that goes on after ``step`` updates will write again; all of it at step 0."""
    if not path.exists():
        return
    before = read_scores(path)
    stays = before["step"] <= step  # [T]
    if not stays.any():
        path.unlink()
    elif not stays.all():
        write_scores(path, {name: value[stays] for name, value in before.items() if name != "edges"})


def write_scores(path: Path, rows: dict[str, np.ndarray]) -> None:
    """Writes the file whole or not at all."""
    with replacing(path) as partial:
        np.savez(partial, edges=EDGES, **rows)  # type: ignore[arg-type]
