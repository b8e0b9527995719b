"""Images of a training sample from a latent-variable generator, changed where it costs the sample least: Serez et al.,
A Mutual Information Perspective on Multiple Latent Variable Generative Models for Positive View Generation, TMLR 2025
(arXiv:2501.13718).

A small variational auto-encoder (Kingma and Welling, ICLR 2014, arXiv:1312.6114) learns the training images before the
run. Its latent vector is read in chunks. How much a chunk says of the picture is bounded below by InfoNCE between
generated pairs that share this chunk and nothing else; the chunks that say least are turned away from where the sample
lies, as far as samples can still be told from each other by the same bound.

N images, M of them measured, L latent numbers in G chunks, K images of a sample, C channels, H x W pixels.
"""

import math
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Len
from torch import Tensor, nn

from ssl_framework.arguments import Count, OpenFraction, Positive, PositiveFraction, Seed, Several, guarded
from ssl_framework.data.base import Split, chosen
from ssl_framework.data.images.denoising_clusters import layer
from ssl_framework.data.pseudo_labels import CHUNK
from ssl_framework.data.residence import note
from ssl_framework.functional import nce, unit

ANGLES = 16
"""Steps in which the largest turn is sought, up to a quarter circle, where nothing of a chunk is left."""


class VAE(nn.Module):
    """Convolutions that halve the picture, a Gaussian of L numbers, and the mirror image; pictures in [0, 1].

    Args:
        shape: C, H, W.
        widths: channels of the layers.
        latent: L.
    """

    def __init__(self, shape: Sequence[int], widths: Sequence[int], latent: int) -> None:
        super().__init__()
        channels, self.size = shape[0], tuple(shape[1:])
        self.encode = nn.Sequential(*(layer(a, b, down=True) for a, b in pairwise([channels, *widths])))
        with torch.no_grad():
            self.inner = tuple(self.encode.eval()(torch.zeros(1, *shape)).shape[1:])
        self.encode.train()
        self.gaussian = nn.Linear(math.prod(self.inner), 2 * latent)
        self.spread = nn.Linear(latent, math.prod(self.inner))
        self.decode = nn.Sequential(*(layer(a, b, down=False) for a, b in pairwise([*widths[::-1], widths[0]])))
        self.last = nn.Conv2d(widths[0], channels, 3, padding=1)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] -> mean and logarithm of the variance, [B, L] each."""
        mean, log_variance = self.gaussian(self.encode(x).flatten(1)).chunk(2, dim=1)
        return mean, log_variance.clamp(-10, 10)

    def generate(self, z: Tensor) -> Tensor:
        """[B, L] -> [B, C, H, W]"""
        inner = F.relu(self.spread(z)).unflatten(1, self.inner)
        return self.last(F.interpolate(self.decode(inner), self.size)).sigmoid()


@guarded
class LatentViews:
    """The generator, trained and measured at its first call, on the CPU.

    Args:
        widths: channels of the auto-encoder's layers, each of which halves the picture.
        chunk: latent numbers of a chunk.
        chunks: G.
        noise: standard deviation of a pixel around the generated one, in the likelihood; the smaller, the more the
            latent numbers say.
        steps, batch_size, lr: of Adam.
        measured: M, images that mutual information is estimated from, at most.
        temperatures: of InfoNCE on cosines of the encoder's means; the one with the highest bound counts.
        turned: share of the chunks that are changed, those that say least; at least one.
        kept: share of what tells unchanged pictures apart that a change must leave, in (0, 1).
        variations: K.
        seed: of weights, order and draws.
    """

    slow: ClassVar[bool] = True

    def __init__(
        self,
        widths: Annotated[Sequence[Count], Len(1)],
        chunk: Count,
        chunks: Several,
        noise: Positive,
        steps: Count,
        batch_size: Several,
        lr: Positive,
        measured: Several,
        temperatures: Annotated[Sequence[Positive], Len(1)],
        turned: PositiveFraction,
        kept: OpenFraction,
        variations: Count,
        seed: Seed,
    ) -> None:
        self.widths = widths
        self.chunk = chunk
        self.chunks = chunks
        self.noise = noise
        self.steps = steps
        self.batch_size = batch_size
        self.lr = lr
        self.measured = measured
        self.temperatures = temperatures
        self.turned = turned
        self.kept = kept
        self.variations = variations
        self.seed = seed

    def __call__(self, real: Split) -> Tensor:
        """[N, K, C, H, W] uint8; the global random state stays as it was."""
        began = time.monotonic()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            vae = VAE(real.shape[1:], self.widths, self.chunk * self.chunks)
            self.train(vae, real)
            vae.eval()
            with torch.no_grad():
                index = torch.arange(real.shape[0]).split(CHUNK)
                z = torch.cat([vae.posterior(floats(real, part))[0] for part in index])  # [N, L]
                some = z[torch.randperm(len(z))[: self.measured]]  # [M, L]
                says = self.information(vae, some)  # [G] nats
                least = says.argsort()[: max(1, round(self.turned * self.chunks))]  # [changed]
                angle = self.furthest(vae, some, least)
                moved = [self.turn(z, least, angle, within=True) for _ in range(self.variations)]  # K x [N, L]
                images = torch.stack([self.pictures(vae, each) for each in moved], dim=1)  # [N, K, C, H, W]
        note(
            f"a generator was trained on {len(z):,} images in {time.monotonic() - began:.0f} s; its chunks say "
            f"{', '.join(f'{value:.2f}' for value in says.tolist())} nats of a picture, of {math.log(len(some)):.2f}; "
            f"views turn the chunks {', '.join(map(str, least.sort().values.tolist()))} by up to "
            f"{math.degrees(angle):.0f} degrees"
        )
        return images

    def train(self, vae: VAE, real: Split) -> None:
        """Maximises the evidence lower bound. Changes the weights."""
        optimizer = torch.optim.Adam(vae.parameters(), self.lr)
        for _ in range(self.steps):
            x = floats(real, torch.randint(real.shape[0], (self.batch_size,)))  # [B, C, H, W]
            mean, log_variance = vae.posterior(x)  # [B, L] each
            z = mean + (log_variance / 2).exp() * torch.randn_like(mean)
            wrong = (vae.generate(z) - x).square().sum(dim=(1, 2, 3)) / (2 * self.noise**2)  # [B]
            prior = (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1) / 2  # [B]
            optimizer.zero_grad()
            (wrong + prior).mean().backward()
            optimizer.step()

    def information(self, vae: VAE, z: Tensor) -> Tensor:
        """Lower bound of the mutual information of each chunk and the picture, in nats: [M, L] -> [G].

        A pair of pictures shares the chunk; all others are another sample's. The critic reads the chunk off both.
        """
        found = []
        for g in range(self.chunks):
            own = slice(g * self.chunk, (g + 1) * self.chunk)
            other = z.roll(1, dims=0).clone()  # [M, L]
            other[:, own] = z[:, own]
            first, second = (vae.posterior(self.generated(vae, x))[0][:, own] for x in (z, other))  # [M, chunk] each
            found.append(bound(first, second, self.temperatures))
        return torch.stack(found)

    def furthest(self, vae: VAE, z: Tensor, changed: Tensor) -> float:
        """Largest turn of the changed chunks, in radians, that leaves ``kept`` of the bound between pictures as they
        are and pictures turned so far."""
        steps = [math.pi / 2 * step / ANGLES for step in range(ANGLES + 1)]
        means = [
            vae.posterior(self.generated(vae, self.turn(z, changed, angle, within=False)))[0] for angle in steps
        ]  # of [M, L]; the first is as it is
        bounds = [bound(means[0], each, self.temperatures) for each in means]
        enough = [value >= self.kept * bounds[0] for value in bounds]
        return max(angle for step, angle in enumerate(steps) if all(enough[: step + 1]))

    def turn(self, z: Tensor, changed: Tensor, angle: float, within: bool) -> Tensor:
        """Chunks turned towards random places of the prior, which stays what it was: [N, L] -> [N, L].

        Args:
            z: [N, L].
            changed: [n] numbers of the chunks.
            angle: radians; at a right angle nothing is left of a chunk.
            within: by an angle that is uniform from 0 to ``angle`` for every sample, instead of by all of it.
        """
        turn = angle * (torch.rand(len(z), 1) if within else torch.ones(len(z), 1))  # [N, 1]
        away = torch.cos(turn) * z + torch.sin(turn) * torch.randn_like(z)  # [N, L]
        mine = torch.isin(torch.arange(self.chunks), changed).repeat_interleave(self.chunk)  # [L]
        return torch.where(mine, away, z)

    def generated(self, vae: VAE, z: Tensor) -> Tensor:
        """[N, L] -> [N, C, H, W] float32 in [0, 1]."""
        return torch.cat([vae.generate(part) for part in z.split(CHUNK)])

    def pictures(self, vae: VAE, z: Tensor) -> Tensor:
        """[N, L] -> [N, C, H, W] uint8."""
        return torch.cat([(vae.generate(part) * 255).round().to(torch.uint8) for part in z.split(CHUNK)])


def bound(a: Tensor, b: Tensor, temperatures: Sequence[float]) -> Tensor:
    """``log M`` less InfoNCE, a lower bound of the mutual information of two representations, at the temperature where
    it is highest: two [M, D] -> scalar."""
    own = torch.arange(len(a))  # [M]
    losses = [nce(unit(a), unit(b), own, temperature).mean() for temperature in temperatures]
    return math.log(len(a)) - torch.stack(losses).amin()


def floats(images: Split, index: Tensor) -> Tensor:
    """Images at positions [B]: [B, C, H, W] float32 in [0, 1], on the CPU."""
    return chosen(images.rows, index.to(images.rows.device)).cpu().float() / 255
