"""Training in stages (MCL): Zhang et al., Learning the Unlearned: Mitigating Feature Suppression in Contrastive
Learning, ECCV 2024 (arXiv:2402.11816).

The images are clustered by what one stage has learned, and the next stage trains a new encoder with negatives from the
anchor's own cluster only: what tells those apart is what the earlier stages have missed. The representation is that of
all stages side by side.

A stage is an ordinary run in a folder of its own; ``go_through`` runs one after another. From the one before it takes
the backbones (``Encoder.take_over``), the clusters, which are here, and the baselines: only the first begins untrained.

N images, D features, K clusters a stage.
"""

import contextlib
import copy
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ssl_framework.arguments import Several, guarded
from ssl_framework.data.base import Split, chosen
from ssl_framework.data.pseudo_labels import CHUNK, clusters, read_pseudo_labels
from ssl_framework.functional import unit
from ssl_framework.loading import load_run
from ssl_framework.models.weights import load_newest
from ssl_framework.runs.folder import RunFolder
from ssl_framework.training.launch import descend
from ssl_framework.training.parts import Parts


def go_through(cfg: DictConfig, folder: Path, about: dict[str, Any], first: bool) -> str | None:
    """Runs the stages of a run one after another; most runs have one, which is the run itself.

    Stage s lies in ``folder/stage_<s>``, the last in ``folder``. In a run that is resumed, finished stages are left
    out, the one that was interrupted goes on, and later ones start.

    Args:
        cfg: of the whole run, which is that of its last stage.
        folder: of the run, prepared.
        about: what the run is called, and whether it is resumed.
        first: whether this process writes the folders.

    Returns:
        Name of the signal that stopped the run, ``None`` if it ran to its end.
    """
    last = OmegaConf.select(cfg, "student.earlier") or 0
    if last <= 0:
        return descend(cfg, folder, about, about["resume"])
    for stage in range(last + 1):
        where = folder_of(folder, stage, last)
        if stage < last and about["resume"] and RunFolder(where).state == "done":
            continue
        own = stage_config(cfg, stage)
        goes_on = about["resume"] and bool(RunFolder(where).checkpoint_files)
        if goes_on and own.trainer.precision == "auto":  # settled when the stage began
            own.trainer.precision = RunFolder(where).read_config().trainer.precision
        before = functools.partial(begin_after, folder_of(folder, stage - 1, last)) if stage else None
        with claimed(RunFolder(where)) if first and stage < last else contextlib.nullcontext():
            if first:
                open_folder(own, where, {**about, "resume": goes_on})
                print(f"stage {stage + 1} of {last + 1}: {os.path.relpath(where)}", flush=True)
            if (stopped_by := descend(own, where, about, goes_on, before)) is not None:
                return stopped_by
    return None


@contextlib.contextmanager
def claimed(stage: RunFolder) -> Iterator[None]:
    """Holds the folder of a stage, which may be resumed as a run of its own.

    Raises:
        ValueError: another process does.
    """
    with stage.claimed() as mine:
        if not mine:
            raise ValueError(f"{stage.held_by}: wait for it to end")
        yield


def folder_of(folder: Path, stage: int, last: int) -> Path:
    """Where a stage lies."""
    return folder if stage == last else folder / f"stage_{stage}"


def open_folder(own: DictConfig, where: Path, about: dict[str, Any]) -> None:
    """Writes what a stage is, and removes the record of a try that was killed before its first checkpoint."""
    if not about["resume"]:
        RunFolder(where).forget_try()
    RunFolder(where).prepare(own, about)


def stage_config(cfg: DictConfig, stage: int) -> DictConfig:
    """The config of one stage: it has the backbones of those before it; the first has no clusters to go by."""
    own = copy.deepcopy(cfg)
    OmegaConf.set_struct(own, False)
    own.student.earlier = stage
    if stage == 0:
        own.sampler = {"_target_": "ssl_framework.data.samplers.Uniform"}
        own.pseudo_labels = {}
    return own


def begin_after(previous: Path, parts: Parts) -> None:
    """Gives a stage what the one before it has learned.

    Args:
        previous: folder of the stage before.
        parts: of this one.
    """
    if not parts.resumed:
        parts.module.student.take_over(load_newest(RunFolder(previous))["state_dict"])
    parts.evaluation.baselines = RunFolder(previous).read_result().get("baselines", {})
    if isinstance(parts.data.pseudo_labels, StageClusters):
        parts.data.pseudo_labels.previous = str(previous)


@guarded
class StageClusters:
    """Pseudo-labels of a stage: k-means on the features of the stage before, within what earlier stages told apart.

    Args:
        num_clusters: K of every stage; after s stages there are at most K^s pseudo-labels.
        previous: folder of the stage before, which ``begin_after`` fills in.
    """

    def __init__(self, num_clusters: Several, previous: str | None = None) -> None:
        if num_clusters < 1:
            raise ValueError(f"pseudo_labels.num_clusters is {num_clusters}: it must be at least 1")
        self.num_clusters = num_clusters
        self.previous = previous

    def __call__(self, images: Split, seed: int, device: torch.device) -> Tensor:
        """[N] int64: the clusters of all stages so far as the digits of one number, the first stage's last.

        Raises:
            ValueError: there is no stage before.
        """
        if self.previous is None:
            raise ValueError(
                "pseudo_labels=stages clusters what the stage before has learned, but this run has no stages: set "
                "student.earlier to at least 1"
            )
        folder = Path(self.previous)
        _, module = load_run(folder, [])
        module.to(device).eval()
        parts = []
        with torch.no_grad():
            for index in torch.arange(images.shape[0]).split(CHUNK):
                part = chosen(images.rows, index.to(images.rows.device)).to(device)  # [n, C, H, W]
                parts.append(unit(module.student.backbone(module.views.clean(part))["pooled"]).cpu())  # [n, D]
        found = clusters(torch.cat(parts), self.num_clusters, seed)  # [N]
        done = len(module.student.earlier)
        if done == 0:
            return found
        return read_pseudo_labels(RunFolder(folder).pseudo_labels_file) + self.num_clusters**done * found  # [N]
