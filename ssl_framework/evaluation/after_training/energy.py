"""Whether a learnt energy tells data from what are none, as its paper's use of it asks (MECO, arXiv:2306.07485).

N test images, M images of another kind.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import Count, Seed, guarded
from ssl_framework.data.base import Source, Split, chosen
from ssl_framework.data.datamodule import DataModule
from ssl_framework.evaluation.after_training.base import AfterRun, clean, frozen_copy
from ssl_framework.evaluation.features import Bare, Splits, extract, refuse_non_finite
from ssl_framework.models.encoder import Encoder
from ssl_framework.module import SSLModule
from ssl_framework.runs.suggestions import choices, nodes_of
from ssl_framework.runs.suggestions import chosen as chosen_of
from ssl_framework.views.image_ops import with_channels
from ssl_framework.views.marginals import permuted


def methods_with_number(name: str) -> str:
    """``method=meco or ``: the methods whose heads have one of that name that gives one number."""
    heads = nodes_of("head")
    return choices("method", lambda node: heads.get(chosen_of(node, "head") or "", {}).get(name, {}).get("out") == 1)


@guarded
class Energy(AfterRun):
    """The area under the ROC curve of the energy, for test images against each kind of others; 50 is chance.

    Others are noise, which has at every place the pixel of another test image, as a run with ``views=marginals`` saw
    it, and the test splits of other data sets, brought to the test images' size and channels.

    Args:
        protocol: see ``AfterRun``.
        head: name of the student's head of one number, low on data.
        images: of each kind at most, drawn with ``seed``.
        others: name -> data set; ``None`` leaves one out.
        seed: of what is drawn, and of the noise.
    """

    images_shown = "clean test images, noise of their pixels, and test images of other data sets at their size"
    at_the_end = True

    def __init__(
        self, protocol: str, head: str, images: Count, others: Mapping[str, Source | None], seed: Seed
    ) -> None:
        super().__init__(protocol)
        self.head = head
        self.images = images
        self.others = {name: source for name, source in others.items() if source is not None}
        self.seed = seed

    def check(self, module: SSLModule | Bare) -> None:
        self.refuse_without_head(module.student)

    def refuse_without_head(self, student: Encoder) -> None:
        """Raises ValueError if the student has no head of that name that gives one number."""
        if student.dims.get(self.head) != 1:
            raise ValueError(
                f"evaluation.head is {self.head}, but the student has no head of that name with one number: choose "
                f"{methods_with_number(self.head)}another head"
            )

    def score(self, module: SSLModule | Bare, data: DataModule | Splits) -> dict[str, float]:
        """Percent, named ``energy[images=1000]/auroc_noise``, ``/auroc_shapes`` ...

        Raises:
            ValueError: the student has no head of that name that gives one number.
        """
        from sklearn.metrics import roc_auc_score  # slow to import, and few runs need it

        student = frozen_copy(module)
        self.refuse_without_head(student)
        own = self.drawn(data.test)  # [N, C, H, W_px]
        generator = torch.Generator().manual_seed(self.seed)
        kinds = {"noise": permuted(own, generator)}  # [N, C, H, W_px]
        for name, source in self.others.items():
            pixels = with_channels(self.drawn(source.load("test")), own.shape[1]).float()  # [M, C, h, w]
            sized = F.interpolate(pixels, size=own.shape[2:], mode="bilinear", antialias=True, align_corners=False)
            kinds[name] = sized.round().clamp(0, 255).to(torch.uint8)  # [M, C, H, W_px]

        def energies(images: Tensor) -> Tensor:
            """[N, C, H, W_px] uint8 -> [N]"""
            layers = extract(
                lambda x: list(student.embed_layers(clean(module, x), [self.head]).values())[-1],
                Split(images),
                module.device,
            )
            return refuse_non_finite(layers, f"the outputs of the head {self.head}", "test")[:, 0]  # [N]

        known, found = energies(own), {}
        for name, images in kinds.items():
            both = torch.cat([known, energies(images)])  # [N + M]
            is_other = torch.arange(len(both)) >= len(known)  # [N + M]
            value = 100 * float(roc_auc_score(is_other.numpy(), both.numpy()))
            found[f"energy[images={self.images}]/auroc_{name}"] = value
        return found

    def drawn(self, split: Split) -> Tensor:
        """At most ``images`` pictures of a split, on the CPU: [N, C, H, W_px] uint8."""
        count = split.shape[0]
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))  # [N of the split]
        rows = order[: self.images].sort().values  # [N]
        return chosen(split.rows, rows.to(split.rows.device)).cpu()  # [N, C, H, W_px]
