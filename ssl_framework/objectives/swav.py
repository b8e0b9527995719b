"""SwAV: Caron et al., Unsupervised Learning of Visual Features by Contrasting Cluster Assignments, NeurIPS 2020
(arXiv:2006.09882), eq. 1 to 5.

Every view predicts to which prototypes another view of its sample was assigned. Assignments are balanced over the
global batch by Sinkhorn-Knopp, so that not all samples choose the same prototype; there are no negatives. A mixture
beside the views is one more view, which predicts the assignments of its sources, by their shares (Un-Mix,
arXiv:2003.05438).
"""

from collections.abc import Callable
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from ssl_framework.arguments import Count, Fraction, Positive, Several, guarded
from ssl_framework.distributed import gather, own_rows
from ssl_framework.functional import sinkhorn, unit
from ssl_framework.memory import Queue
from ssl_framework.objectives.base import Objective, parted
from ssl_framework.objectives.infonce import mean_of_sources
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class SwAV(Objective):
    """Swapped prediction of cluster assignments, with any number of views of any sizes.

    Args:
        temperature: tau, of the predicted distribution over prototypes.
        epsilon: of the entropy that smooths the assignments; at least 0.025, so that exp(2 / epsilon) fits in float32.
        iterations: of Sinkhorn-Knopp.
        num_prototypes: K.
        dim: D, width of the head's output.
        num_assign: so many first views are assigned (the large crops); all others predict them, and they each other.
        frozen: share of the run in which the prototypes stay as they are, in [0, 1]; 1 keeps them random.
        queue: builds the memory of features that are assigned together with a batch which is small against K, one for
            each assigned view; ``None`` for none. It fills from the first step on and is read once it is full and
            ``queue_start`` is reached.
        queue_start: share of the run after which the queue is used, in [0, 1].
        head: name of the student's head whose output is compared.
    """

    accepts = frozenset({"added mixtures"})
    num_views = (2, None)

    def __init__(
        self,
        temperature: Positive,
        epsilon: Annotated[float, Ge(0.025)],
        iterations: Count,
        num_prototypes: Several,
        dim: Count,
        num_assign: Count,
        frozen: Fraction,
        queue: Callable[[], Queue] | None,
        queue_start: Fraction,
        head: str = "projector",
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.epsilon = epsilon
        self.iterations = iterations
        self.num_assign = num_assign
        self.frozen = frozen
        self.queue_start = queue_start
        self.head = head
        self.reads = (head,)
        self.prototypes = nn.Parameter(unit(torch.randn(num_prototypes, dim)))  # [K, D]
        self.queues = nn.ModuleList([] if queue is None else [queue() for _ in range(num_assign)])

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        clean, mixtures = parted(student, batch, self.head)
        z = [unit(x) for x in clean]  # V x [B, D]
        if len(z) < self.num_assign:
            raise ValueError(f"objective.num_assign is {self.num_assign}, but the student encodes only {len(z)} views")
        with torch.no_grad():
            self.prototypes.copy_(unit(self.prototypes))
        log_p = [self.predict(x) for x in z]  # V x [B, K]
        codes = [self.assign(view, z[view], clock) for view in range(self.num_assign)]  # A x [B, K]
        pairs = [(code, log_p[v]) for a, code in enumerate(codes) for v in range(len(z)) if v != a]
        seen = [v for v, view in enumerate(student) if view is not None]
        for z_mixed, mix in mixtures:
            log_p_mixed = self.predict(unit(z_mixed))  # [B, K]
            pairs += [(mean_of_sources(code, mix), log_p_mixed) for a, code in enumerate(codes) if seen[a] != mix.of]
        return {"loss": torch.stack([-(code * p).sum(dim=1).mean() for code, p in pairs]).mean()}

    def predict(self, z: Tensor) -> Tensor:
        """Logarithm of the predicted distribution over prototypes: [B, D] unit rows -> [B, K]."""
        return (z @ self.prototypes.T / self.temperature).log_softmax(dim=1)

    @torch.no_grad()
    def assign(self, view: int, z: Tensor, clock: Clock) -> Tensor:
        """The assignments Q of this rank's samples, balanced over those of all ranks and the queue.

        Args:
            view: position among the assigned views.
            z: [B, D] unit rows.
            clock: tells whether the queue is full and due.

        Returns:
            [B, K], rows sum to one.

        Changes the view's queue, if there is one.
        """
        rows = gather(z)  # [W * B, D]
        count = len(rows)
        if self.queues:
            queue = self.queues[view]
            assert isinstance(queue, Queue)
            if clock.progress >= self.queue_start and clock.step * count >= queue.size:
                rows = torch.cat([queue.read(), rows])  # [rows of the queue + W * B, D]
            queue.push(z)
        return own_rows(sinkhorn(rows @ self.prototypes.T, self.epsilon, self.iterations)[-count:])

    def after_backward(self, clock: Clock) -> None:
        # Zero instead of the authors' None, with which torch's fused SGD fails once others have momentum. What weight
        # decay and momentum then still do acts along the prototype, and the next normalisation undoes it.
        if clock.progress < self.frozen and self.prototypes.grad is not None:
            self.prototypes.grad.zero_()
