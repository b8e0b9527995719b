"""Altered log-mel pictures and what they were (TERA: Liu et al., TERA: Self-Supervised Learning of Transformer Encoder
Representation for Speech, TASLP 2021, arXiv:2007.06028, section III-B).

Each alteration is off where its share is 0. ``Batch.targets`` are the clean pictures, and where the view is altered.

B samples, T points, M mel bands, F frames.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Interval, Len
from torch import Tensor

from ssl_framework.arguments import BelowOne, Count, Fraction, NonNegative, Positive, Several, guarded
from ssl_framework.types import Batch, Samples
from ssl_framework.views.audio import AudioViews

ZERO, OTHER = 0.8, 0.9
"""Of altered frames, up to which draw they are set to the mean, and up to which replaced by others; else they stay."""


@guarded
class AlteredAudio(AudioViews):
    """One view of every sound: its log-mel picture with hidden or exchanged frames, hidden bands, and noise.

    Args:
        rate, length, mels, frames, mean, std: as of ``AudioViews``.
        time: share of the frames that is altered, in blocks that may overlap; one draw a sound says whether all of them
            are set to the mean (80 %), replaced by other frames of the sound (10 %) or kept (10 %). Kept ones are to be
            said, too.
        block: frames of a block.
        bands: greatest share of the bands that is set to the mean in one piece.
        noisy: probability of a sound getting noise in every place, all of which are then to be said.
        noise_std: standard deviation of that noise, in units of ``std``.

    Raises:
        ValueError: a number out of its range, nothing is altered, or a block is longer than a sound.
    """

    num_views = 1
    tells = frozenset({"originals"})

    def __init__(
        self,
        rate: Annotated[int, Interval(ge=1000, le=192_000)],
        length: Several,
        mels: Annotated[int, Interval(ge=4, le=512)],
        frames: Annotated[int, Interval(ge=4, le=8192)],
        mean: Annotated[Sequence[float], Len(1, 1)],
        std: Annotated[Sequence[Positive], Len(1, 1)],
        time: BelowOne,
        block: Count,
        bands: BelowOne,
        noisy: Fraction,
        noise_std: NonNegative,
    ) -> None:
        super().__init__(self.num_views, rate, length, mels, frames, mean, std)
        if block > frames:
            raise ValueError(f"views.block is {block}, but a sound has {frames} frames: set it to fewer")
        if time == bands == noisy == 0:
            raise ValueError("views.time, views.bands and views.noisy are 0: set one above 0, or nothing is altered")
        self.block = block
        self.blocks = max(1, round(frames * time / block)) if time > 0 else 0
        self.widest = round(mels * bands)
        self.noisy, self.noise_std = noisy, noise_std

    @torch.no_grad()
    def forward(self, samples: Samples, generator: torch.Generator | None = None) -> Batch:
        """[B, T] -> [B, 1, M, F] float32, normalised; as targets the clean ones, and [B, 1, M, F] bool."""
        clean = self.clean(samples.inputs)  # type: ignore[arg-type]  # [B, 1, M, F]
        where = clean.device if generator is None else generator.device

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=where).to(clean.device)

        frames, source = self.frames_of(uniform(len(clean), 2, self.frames), uniform(len(clean)))  # [B, F] each
        kept = source[:, None, None].clamp(min=0).expand_as(clean)  # [B, 1, M, F]
        view = clean.gather(3, kept) * (source >= 0)[:, None, None]  # [B, 1, M, F]
        bands = self.bands_of(uniform(len(clean)), uniform(len(clean)))[:, None, :, None]  # [B, 1, M, 1]
        view = view.masked_fill(bands, 0.0)
        noisy = (uniform(len(clean)) < self.noisy)[:, None, None, None]  # [B, 1, 1, 1]
        normal = torch.randn(clean.shape, generator=generator, device=where).to(clean.device)  # [B, 1, M, F]
        view = torch.where(noisy, view + self.noise_std * normal, view)
        altered = (frames[:, None, None] | bands | noisy).expand_as(clean)  # [B, 1, M, F]
        return Batch([view], samples.index, samples.label, targets=[clean, altered])

    def frames_of(self, order: Tensor, choice: Tensor) -> tuple[Tensor, Tensor]:
        """Which frames are altered, and which frame of the sound is shown at each place, -1 for none.

        Args:
            order: [B, 2, F] in [0, 1], by which the beginnings of blocks, and of what replaces them, are chosen.
            choice: [B] in [0, 1], what becomes of them.

        Returns:
            [B, F] bool, [B, F] int64.
        """
        starts = order[:, :, : self.frames - self.block + 1].argsort(dim=2)[:, :, : self.blocks]  # [B, 2, blocks]
        at = torch.arange(self.frames, device=order.device).expand(len(order), -1)  # [B, F]
        altered, other = torch.zeros_like(at, dtype=torch.bool), at  # [B, F] each
        for begin, instead in starts.permute(2, 1, 0)[..., None]:  # [B, 1] each, block after block
            inside = (at >= begin) & (at < begin + self.block)  # [B, F]
            altered, other = altered | inside, torch.where(inside, at - begin + instead, other)
        shown = torch.where(choice[:, None] < OTHER, other, at)  # [B, F]
        return altered, shown.masked_fill(altered & (choice[:, None] < ZERO), -1)

    def bands_of(self, width: Tensor, place: Tensor) -> Tensor:
        """Which bands are hidden, 0 to ``widest`` neighbours: two [B] in [0, 1] -> [B, M] bool."""
        count = (width * (self.widest + 1)).long().clamp(max=self.widest)[:, None]  # [B, 1]
        begin = (place[:, None] * (self.mels - count + 1)).long()  # [B, 1]
        at = torch.arange(self.mels, device=width.device)  # [M]
        return (at >= begin) & (at < begin + count)
