"""One run of lightly, scored by this project's protocol: python -m tools.parity.theirs METHOD SEED FOLDER

A run that was stopped goes on behind its last whole epoch: everything random in one is drawn from seed and epoch.
"""

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from ssl_framework.build import build_source
from ssl_framework.data.base import Split
from ssl_framework.evaluation.request import evaluate_request, request_of
from ssl_framework.models.backbone import Backbone
from ssl_framework.runs.folder import write_json
from ssl_framework.runs.overrides import composed, override_each
from tools.benchmark.peers import Pictures, need
from tools.parity.cases import BATCH, CASES, DECAY, EPOCHS, MOMENTUM, RISE, VIEWS, WARMUP
from tools.parity.peers import At, Peer, Taught, peer

SIZE = 32


def transform_of(method: str, mean: list[float], std: list[float]) -> Callable[[Image.Image], Any]:
    """lightly's transform with the parameters of the method's own views here."""
    made = need("lightly.transforms")
    both = {"input_size": SIZE, "gaussian_blur": 0.0, "normalize": {"mean": mean, "std": std}}
    views = VIEWS[method]
    if views == "byol":
        byol = need("lightly.transforms.byol_transform")
        return byol.BYOLTransform(byol.BYOLView1Transform(**both), byol.BYOLView2Transform(**both))
    if views == "mocov2":
        return made.MoCoV2Transform(cj_strength=1.0, min_scale=0.2, **both)
    if views == "vicreg":
        return made.VICRegTransform(cj_strength=0.5, min_scale=0.2, **both)
    return made.SimCLRTransform(cj_strength=0.5, min_scale=0.08, **both)


def data(root: str) -> Any:
    """The config of cifar10_10k."""
    found = [composed("data", "cifar10_10k")]
    override_each(found, [f"data.root={root}"], "data")
    return found[0]


def new_peer(method: str, seed: int) -> Peer:
    """With the backbone that a run of this project begins with at that seed."""
    torch.manual_seed(seed)
    return peer(method, Backbone("ssl_tiny", None, SIZE, 3, channels_last=["cpu"]), CASES[method].widths)


class Training:
    """A peer in training, epoch by epoch.

    Args:
        method: as in configs/method.
        seed: of weights and order.
        images: of ``cifar10_10k``.
        cfg: its config.
        epochs: of the whole run.
        workers: processes that make views.
    """

    def __init__(self, method: str, seed: int, images: Split, cfg: Any, epochs: int, workers: int) -> None:
        self.seed = seed
        self.model = new_peer(method, seed)
        transform = transform_of(method, list(cfg.data.mean), list(cfg.data.std))
        pictures = Pictures(images.rows, len(images.rows), transform)
        self.loader = DataLoader(pictures, BATCH, shuffle=True, drop_last=True, num_workers=workers)
        self.total = epochs * len(self.loader)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trained, CASES[method].rate, momentum=MOMENTUM, weight_decay=DECAY)
        schedule = need("lightly.utils.scheduler").CosineWarmupScheduler
        warm = {"warmup_epochs": round(WARMUP * self.total), "max_epochs": self.total}
        self.schedule = schedule(self.optimizer, **warm, end_value=0.0)
        self.losses: list[float] = []
        self.seconds = 0.0

    def epoch(self, number: int) -> None:
        """Trains for one; the time of its first batch, in which workers start, does not count."""
        torch.manual_seed(1000 * self.seed + number)
        random.seed(1000 * self.seed + number)
        began = 0.0
        for (x0, x1), _ in self.loader:
            began = began or time.perf_counter()
            at = At(len(self.losses), self.total, self.momentum(len(self.losses)))
            loss = self.model.loss(x0, x1, at)
            self.losses.append(loss.item())
            loss.backward()
            self.model.after_backward(at)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.schedule.step()
        self.seconds += time.perf_counter() - began

    def momentum(self, step: int) -> float:
        """Rising to 1; MoCo's is constant."""
        if not isinstance(self.model, Taught) or type(self.model).__name__ == "MoCo":
            return RISE
        return need("lightly.utils.scheduler").cosine_schedule(step, self.total, RISE, 1.0)

    def parts(self) -> dict[str, Any]:
        """What is saved."""
        return {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}

    def save(self, path: Path) -> None:
        """Writes the whole state, or nothing."""
        state = {name: part.state_dict() for name, part in self.parts().items()}
        banks = [b for name, b in self.model.named_buffers() if name.endswith(("bank", "bank_ptr"))]  # not persistent
        said = {"losses": self.losses, "seconds": self.seconds, "banks": banks}
        torch.save({**state, **said}, path.with_suffix(".new"))
        path.with_suffix(".new").rename(path)

    def load(self, path: Path) -> None:
        """Goes on with a saved state."""
        state = torch.load(path, weights_only=True)
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        banks = [b for name, b in self.model.named_buffers() if name.endswith(("bank", "bank_ptr"))]
        for own, saved in zip(banks, state["banks"], strict=True):
            own.copy_(saved)
        self.losses, self.seconds = state["losses"], state["seconds"]


def main() -> None:
    """Trains, scores and writes result.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method")
    parser.add_argument("seed", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--root", default="data")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--images", type=int, default=None, help="only the first so many; no scores")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    cfg = data(given.root)
    images = build_source(cfg).load("pretrain")
    if given.images:
        images = images._replace(rows=images.rows[: given.images])
    training = Training(given.method, given.seed, images, cfg, given.epochs, given.workers)
    state = given.folder / "state.pt"
    if state.exists():
        training.load(state)
    for number in range(len(training.losses) // len(training.loader), given.epochs):
        training.epoch(number)
        training.save(state)
    seen = (len(training.losses) - given.epochs) * BATCH
    result = {"steps": len(training.losses), "losses": training.losses, "images_per_second": seen / training.seconds}
    if given.images is None:
        weights = given.folder / "backbone.safetensors"
        net = training.model.backbone.inner.net
        save_file({name: x.contiguous() for name, x in net.state_dict().items()}, weights)
        words = [f"backbone={weights}", "model=ssl_tiny", "data=cifar10_10k", f"data.root={given.root}", "trainer=cpu"]
        result["metrics"] = evaluate_request(request_of([*words, "evaluation.baselines=false"]))["metrics"]
    write_json(given.folder / "result.json", result)
    state.unlink()


if __name__ == "__main__":
    main()
