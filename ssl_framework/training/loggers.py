"""Loggers whose runs have a name elsewhere: they go on with it when a run is resumed, and end with the run."""

import contextlib
import os
import re
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger, WandbLogger
from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from ssl_framework.arguments import guarded


class Tracker(ABC):
    """What a run of one's own at a logger's has in common."""

    @abstractmethod
    def begin(self, config: dict[str, Any]) -> str:
        """Begins a run there, or goes on with the one whose name was given.

        Args:
            config: of the run, resolved, which the logger shows beside it.

        Returns:
            The name under which it goes on.
        """

    @abstractmethod
    def end(self, whole: bool) -> None:
        """Ends it, so that the next run of this process is another one; ``whole`` unless something has failed."""


@guarded
class WandbRun(WandbLogger, Tracker):
    """Weights & Biases. A resumed run goes on with its run there, also offline: ``wandb sync`` puts the parts together.

    Args:
        project, entity, group, name, notes, job_type: as ``wandb.init`` takes them.
        save_dir: in whose folder ``wandb`` the files lie.
        offline: nothing is sent; ``wandb sync <save_dir>/wandb/offline-run-*`` does it later.
        tags: of the run.
        prefix: before the names of metrics.
        id: of the run there; ``None``: a new one, or what a sweep's agent says.
    """

    def __init__(
        self,
        project: str,
        save_dir: str,
        offline: bool,
        entity: str | None = None,
        group: str | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
        notes: str | None = None,
        job_type: str | None = None,
        prefix: str = "",
        id: str | None = None,
    ) -> None:
        # Lightning's own switch would be one of the whole process.
        mode: dict[str, Any] = {"mode": "offline"} if offline else {}
        about: dict[str, Any] = {"entity": entity, "group": group, "notes": notes, "job_type": job_type}
        about["tags"] = [*tags] or None
        super().__init__(project=project, save_dir=save_dir, name=name, prefix=prefix, id=id, **about, **mode)

    def begin(self, config: dict[str, Any]) -> str:
        temporary.open()
        self.experiment.config.update(config, allow_val_change=True)
        return str(self.experiment.id)

    def end(self, whole: bool) -> None:
        self.experiment.finish(exit_code=0 if whole else 1)
        temporary.close()


class Temporary:
    """The folders that wandb makes when it is imported and leaves in a process that does not end by itself: a rank, a
    fork, one that is told to end at once."""

    def __init__(self) -> None:
        self.folders: list[Path] = []
        self.place: Path | None = None

    def open(self) -> None:
        """Imports wandb, or makes its folders again."""
        if self.place is None:
            self.place, before = Path(tempfile.mkdtemp(prefix="wandb-")), tempfile.tempdir
            tempfile.tempdir = str(self.place)
            try:
                import wandb  # noqa: F401
            finally:
                tempfile.tempdir = before
            self.folders = [path for path in self.place.iterdir() if "wandb" in path.name]
        for folder in self.folders:
            folder.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        """Removes them; they hold what was sent or written."""
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)
        if self.place is not None:
            with contextlib.suppress(OSError):
                self.place.rmdir()


temporary = Temporary()


@guarded
class TrackioRun(Logger, Tracker):
    """Trackio: a dashboard of one's own, ``trackio show``, from files in a folder; ``pip install trackio``.

    Args:
        project: the dashboard's.
        save_dir: in whose folder ``trackio`` its files lie, one for all runs of a process (``TRACKIO_DIR``).
        name: of the run; ``None``: trackio makes one up.
        group: of the run.
        space_id: a Space of the Hugging Face Hub that gets all of it as well; ``None``: nothing is sent.
        id: name of the run that is gone on with; ``None``: a new one.
    """

    def __init__(
        self,
        project: str,
        save_dir: str,
        name: str | None = None,
        group: str | None = None,
        space_id: str | None = None,
        id: str | None = None,
    ) -> None:
        super().__init__()
        self.project, self.group, self.space = project, group, space_id
        self.folder = Path(save_dir).absolute() / "trackio"
        self.wanted, self.known = name, id
        self.run: Any = None

    @property
    def name(self) -> str:
        return self.project

    @property
    def version(self) -> str | None:
        return None if self.run is None else str(self.run.name)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        return self.run

    def begin(self, config: dict[str, Any]) -> str:
        """See ``Tracker.begin``.

        Raises:
            ValueError: trackio writes elsewhere in this process.
        """
        os.environ.setdefault("TRACKIO_DIR", str(self.folder))
        import trackio
        from trackio.utils import TRACKIO_DIR

        if TRACKIO_DIR.absolute() != self.folder:
            raise ValueError(
                f"trackio writes into {TRACKIO_DIR} (TRACKIO_DIR), not into {self.folder}: set "
                f"logger.trackio.save_dir={TRACKIO_DIR.parent}, or start a process of its own"
            )
        name, resume = (self.wanted, "never") if self.known is None else (self.known, "allow")
        alone = {"embed": False, "auto_log_cpu": False}  # no dashboard in a notebook, and no numbers of the machine
        about: dict[str, Any] = {"group": self.group, "space_id": self.space, "config": config, **alone}
        self.run = trackio.init(project=self.project, name=name, resume=resume, **about)
        return str(self.run.name)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The config is there from the beginning."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.run.log({name: float(value) for name, value in metrics.items() if name != "epoch"}, step=step)

    def show(self, picture: Path, name: str, title: str, step: int) -> None:
        """A picture of the page."""
        import trackio

        self.run.log({name: trackio.Image(str(picture), caption=title)}, step=step)

    def end(self, whole: bool) -> None:
        import trackio

        trackio.finish()


@guarded
class MLflowRun(MLFlowLogger, Tracker):
    """MLflow, in a database file that ``mlflow ui --backend-store-uri sqlite:///<file>`` shows; ``pip install mlflow``.

    Args:
        experiment: its name.
        save_dir: of ``mlflow.db`` and of the pictures.
        tracking_uri: a server in place of them.
        name: of the run; ``None``: MLflow makes one up.
        tags: name -> text.
        id: of the run there; one that is not known there is begun anew, as ``None`` is.
    """

    def __init__(
        self,
        experiment: str,
        save_dir: str,
        tracking_uri: str | None = None,
        name: str | None = None,
        tags: Mapping[str, str] | None = None,
        id: str | None = None,
    ) -> None:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        folder = Path(save_dir).absolute()
        uri = tracking_uri or f"sqlite:///{folder / 'mlflow.db'}"
        if id is not None:
            try:
                MlflowClient(uri).get_run(id)
            except MlflowException:
                id = None
        self.goes_on = id is not None
        place = None if tracking_uri else (folder / "mlruns").as_uri()
        super().__init__(experiment, name, uri, dict(tags or {}), artifact_location=place, run_id=id)

    def begin(self, config: dict[str, Any]) -> str:
        run = str(self.run_id)
        if self.goes_on:
            self.experiment.update_run(run, status="RUNNING")
        else:  # what was said once stands
            self.log_hyperparams(config)
        return run

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """MLflow's names have no brackets: ``knn[k=20,T=0.1]/top1`` is ``knn_k_20_T_0.1_/top1`` there."""
        super().log_metrics({re.sub(r"[^\w/. -]+", "_", name): value for name, value in metrics.items()}, step)

    def show(self, picture: Path, name: str, title: str, step: int) -> None:
        """A picture of the page."""
        self.experiment.log_artifact(self.run_id, str(picture), os.path.dirname(name))

    def end(self, whole: bool) -> None:
        self.experiment.set_terminated(self.run_id, "FINISHED" if whole else "FAILED")
