"""Methods out of lightly's own parts, put together as its documentation does: heads, losses, memories, momentum."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.benchmark.peers import need


class At(NamedTuple):
    """Where a run stands."""

    step: int  # made before this one
    total: int
    momentum: float  # of a teacher that is moved before this step's pass


class Widths(NamedTuple):
    """Sizes that both sides share."""

    features: int  # of the backbone
    hidden: int
    out: int
    predictor: int = 0  # its hidden layer
    number: int = 0  # of prototypes, outputs, or rows of a memory


class Pooled(nn.Module):
    """A backbone of this project as lightly's users have one: pictures to vectors."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.inner = backbone

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, D]"""
        return self.inner(x)["pooled"]


class Peer(nn.Module):
    """Backbone and projector. ``loss`` is what the step of lightly's example does with two views.

    Args:
        backbone: gives vectors.
        projector: lightly's head.
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection_head = projector

    def embed(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, D]"""
        return self.projection_head(self.backbone(x))

    def loss(self, x0: Tensor, x1: Tensor, at: At) -> Tensor:
        """The loss of a batch of two views."""
        raise NotImplementedError(f"{type(self).__name__} must define loss")

    def after_backward(self, at: At) -> None:
        """What the example does between backward and the step."""


class Plain(Peer):
    """SimCLR, DCL, DCLW, Barlow Twins, VICReg: a criterion of the two projections."""

    def __init__(self, backbone: nn.Module, projector: nn.Module, criterion: nn.Module) -> None:
        super().__init__(backbone, projector)
        self.criterion = criterion

    def loss(self, x0: Tensor, x1: Tensor, at: At) -> Tensor:
        return self.criterion(self.embed(x0), self.embed(x1))


class SimSiam(Peer):
    """Predictions against detached projections."""

    def __init__(self, backbone: nn.Module, projector: nn.Module, predictor: nn.Module) -> None:
        super().__init__(backbone, projector)
        self.prediction_head = predictor
        self.criterion = need("lightly.loss").NegativeCosineSimilarity()

    def loss(self, x0: Tensor, x1: Tensor, at: At) -> Tensor:
        z0, z1 = self.embed(x0), self.embed(x1)
        p0, p1 = self.prediction_head(z0), self.prediction_head(z1)
        return 0.5 * (self.criterion(z0.detach(), p1) + self.criterion(z1.detach(), p0))


class NNCLR(Peer):
    """Neighbours and predictions; the second view enters the memory."""

    def __init__(
        self, backbone: nn.Module, projector: nn.Module, predictor: nn.Module, size: tuple[int, int], temperature: float
    ) -> None:
        super().__init__(backbone, projector)
        self.prediction_head = predictor
        self.memory_bank = need("lightly.models.modules").NNMemoryBankModule(size=size)
        self.criterion = need("lightly.loss").NTXentLoss(temperature=temperature)

    def loss(self, x0: Tensor, x1: Tensor, at: At) -> Tensor:
        z0, z1 = self.embed(x0), self.embed(x1)
        p0, p1 = self.prediction_head(z0), self.prediction_head(z1)
        n0, n1 = self.memory_bank(z0.detach(), update=False), self.memory_bank(z1.detach(), update=True)
        return 0.5 * (self.criterion(n0, p1) + self.criterion(n1, p0))


class SwAV(Peer):
    """Swapped prediction of the assignments to prototypes, without a queue."""

    def __init__(self, backbone: nn.Module, projector: nn.Module, out: int, number: int, temperature: float) -> None:
        super().__init__(backbone, projector)
        self.prototypes = need("lightly.models.modules").SwaVPrototypes(out, n_prototypes=number)
        self.criterion = need("lightly.loss").SwaVLoss(sinkhorn_epsilon=0.05, temperature=temperature)

    def loss(self, x0: Tensor, x1: Tensor, at: At) -> Tensor:
        self.prototypes.normalize()
        scores = [self.prototypes(F.normalize(self.embed(x), dim=1)) for x in (x0, x1)]
        return self.criterion(scores, [])


class Taught(Peer):
    """Base of methods with a teacher, which is moved before the pass.

    Args:
        backbone, projector: the student's.
        teacher_head: that begins with weights of its own; ``None``: a copy of the student's.
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module, teacher_head: nn.Module | None = None) -> None:
        super().__init__(backbone, projector)
        self.teacher_backbone = copy.deepcopy(backbone)
        self.teacher_head = copy.deepcopy(projector) if teacher_head is None else teacher_head
        for module in (self.teacher_backbone, self.teacher_head):
            module.requires_grad_(False)

    def keys(self, x: Tensor) -> Tensor:
        """The teacher's projections: [B, C, h, w] -> [B, D]"""
        with torch.no_grad():
            return self.teacher_head(self.teacher_backbone(x))

    def follow(self, momentum: float) -> None:
        """Moves the teacher towards the student."""
        update = need("lightly.models.utils").update_momentum
        update(self.backbone, self.teacher_backbone, m=momentum)
        update(self.projection_head, self.teacher_head, m=momentum)


class MoCo(Taught):
    """Queries against keys and a memory."""

    def __init__(self, backbone: nn.Module, projector: nn.Module, size: tuple[int, int], temperature: float) -> None:
        super().__init__(backbone, projector)
        self.criterion = need("lightly.loss").NTXentLoss(temperature=temperature, memory_bank_size=size)

    def loss(self, x0: Tensor, x1: Tensor, at: At) -> Tensor:
        self.follow(at.momentum)
        return self.criterion(self.embed(x0), self.keys(x1))


class BYOL(Taught):
    """Predictions of the teacher's projections."""

    def __init__(self, backbone: nn.Module, projector: nn.Module, predictor: nn.Module) -> None:
        super().__init__(backbone, projector)
        self.prediction_head = predictor
        self.criterion = need("lightly.loss").NegativeCosineSimilarity()

    def loss(self, x0: Tensor, x1: Tensor, at: At) -> Tensor:
        self.follow(at.momentum)
        p0, p1 = (self.prediction_head(self.embed(x)) for x in (x0, x1))
        return 0.5 * (self.criterion(p0, self.keys(x1)) + self.criterion(p1, self.keys(x0)))


class TiCo(Taught):
    """Projections drawn to the teacher's, against the covariance of both."""

    def __init__(self, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__(backbone, projector)
        self.criterion = need("lightly.loss").TiCoLoss()

    def loss(self, x0: Tensor, x1: Tensor, at: At) -> Tensor:
        self.follow(at.momentum)
        z0, z1 = self.embed(x0), self.embed(x1)
        return 0.5 * (self.criterion(z0, self.keys(x1)) + self.criterion(z1, self.keys(x0)))


class DINO(Taught):
    """The teacher's centred and sharpened outputs, predicted across views; no small crops."""

    def __init__(
        self, backbone: nn.Module, heads: Sequence[nn.Module], number: int, teacher_temperature: float
    ) -> None:
        super().__init__(backbone, *heads)
        loss = need("lightly.loss").DINOLoss
        self.criterion = loss(output_dim=number, teacher_temp=teacher_temperature)

    def loss(self, x0: Tensor, x1: Tensor, at: At) -> Tensor:
        self.follow(at.momentum)
        return self.criterion([self.keys(x) for x in (x0, x1)], [self.embed(x) for x in (x0, x1)])


def peer(method: str, backbone: nn.Module, w: Widths) -> Peer:
    """lightly's form of a method, with the sizes and temperatures of this project's.

    Args:
        method: as in configs/method.
        backbone: of this project.
        w: sizes.

    Raises:
        ValueError: lightly is not installed, or has no such method.
    """
    heads, losses = need("lightly.models.modules.heads"), need("lightly.loss")
    body = Pooled(backbone)
    sizes = (w.features, w.hidden, w.out)
    back = (w.out, w.predictor, w.out)
    made: Mapping[str, Callable[[], Peer]] = {
        "simclr": lambda: Plain(body, heads.SimCLRProjectionHead(*sizes), losses.NTXentLoss(temperature=0.2)),
        "dcl": lambda: Plain(body, heads.SimCLRProjectionHead(*sizes), losses.DCLLoss(temperature=0.1)),
        "dclw": lambda: Plain(body, heads.SimCLRProjectionHead(*sizes), losses.DCLWLoss(temperature=0.1, sigma=0.5)),
        "barlow_twins": lambda: Plain(
            body, heads.BarlowTwinsProjectionHead(*sizes), losses.BarlowTwinsLoss(lambda_param=0.0051)
        ),
        "vicreg": lambda: Plain(body, heads.VICRegProjectionHead(*sizes), losses.VICRegLoss()),
        "simsiam": lambda: SimSiam(body, heads.SimSiamProjectionHead(*sizes), heads.SimSiamPredictionHead(*back)),
        "nnclr": lambda: NNCLR(
            body, heads.NNCLRProjectionHead(*sizes), heads.NNCLRPredictionHead(*back), (w.number, w.out), 0.2
        ),
        "swav": lambda: SwAV(body, heads.SwaVProjectionHead(*sizes), w.out, w.number, 0.1),
        "mocov2": lambda: MoCo(body, heads.MoCoProjectionHead(*sizes), (w.number, w.out), 0.2),
        "byol": lambda: BYOL(body, heads.BYOLProjectionHead(*sizes), heads.BYOLPredictionHead(*back)),
        "tico": lambda: TiCo(body, heads.TiCoProjectionHead(*sizes)),
        "dino": lambda: DINO(
            body, [heads.DINOProjectionHead(*sizes, w.number, batch_norm=True) for _ in range(2)], w.number, 0.04
        ),
    }
    if method not in made:
        raise ValueError(f"there is no peer for method={method}: choose one of {', '.join(sorted(made))}")
    return made[method]()


def take_over(model: Peer, state: Mapping[str, Tensor]) -> None:
    """Gives a peer the weights and memories that a run of this project began with. Changes ``model``.

    Args:
        model: of the same method and sizes.
        state: names and tensors of the project's module.
    """

    def part(prefix: str) -> dict[str, Any]:
        return {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}

    model.backbone.inner.load_state_dict(part("student.backbone."))  # type: ignore[union-attr]
    model.projection_head.layers.load_state_dict(part("student.heads.projector.layers."))  # type: ignore[union-attr]
    if hasattr(model, "prediction_head"):
        model.prediction_head.layers.load_state_dict(part("student.heads.predictor.layers."))  # type: ignore[union-attr]
    with torch.no_grad():
        if "student.heads.projector.last" in state:
            model.projection_head.last_layer.weight_v.copy_(state["student.heads.projector.last"])  # type: ignore[union-attr]
        if (rows := state.get("objective.prototypes")) is not None:  # lightly's have a bias, which the paper's lack
            model.prototypes.heads[0] = nn.Linear(*rows.shape[::-1], bias=False, dtype=rows.dtype)  # type: ignore[union-attr, index]
            model.prototypes.heads[0].weight.copy_(rows)  # type: ignore[union-attr, index]
        if "objective.queue.rows" in state:
            bank = getattr(model, "memory_bank", None) or model.criterion.memory_bank  # type: ignore[union-attr]
            bank.bank.copy_(state["objective.queue.rows"])
    if isinstance(model, Taught):
        model.teacher_backbone.load_state_dict(model.backbone.state_dict())
        model.teacher_head.load_state_dict(model.projection_head.state_dict())


def rising(step: int, total: int, first: float) -> float:
    """The momentum after step ``step`` of ``total`` that rises from ``first`` to 1 along this project's cosine."""
    return 1 - (1 - first) * (1 + math.cos(math.pi * step / total)) / 2
