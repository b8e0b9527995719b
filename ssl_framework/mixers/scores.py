"""Where an image has something to show: score maps, for mixing rules and label laws that look before they cut.

    SpectralResidual  Hou and Zhang, Saliency Detection: A Spectral Residual Approach, CVPR 2007: no network
    Activation        mean absolute activation of the student's last map
    ClassActivation   what the classifier's weights of the sample's own class make of that map (SnapMix,
                      arXiv:2012.04846)
    Gradient          how much each pixel moves the student's pooled features; reads no label
    ClassAttention    what the class token of the student's last block attends to (TransMix, arXiv:2111.09833)

All have one signature: images [B, C, h, w] and a context -> [B, h', w'] at least 0, with sum one for every image; an
image in which nothing stands out has the same score everywhere. A network is looked through in evaluation mode, so its
statistics, its gradients and the random numbers of the step stay as they are.

B samples, C channels, h x w pixels, h' x w' places of the map, N tokens, D dimensions.
"""

import contextlib
from collections.abc import Iterator
from typing import Annotated, Protocol

import torch
import torch.nn.functional as F
from annotated_types import Ge
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from ssl_framework.arguments import NonNegative, guarded
from ssl_framework.functional import full_precision
from ssl_framework.mixers.base import Context
from ssl_framework.models.encoder import Encoder
from ssl_framework.models.heads import Classifier

AT_ONCE = 256
"""Images whose activations the gradient keeps at a time; in evaluation mode the result is that of all at once."""


EMPTY = 1e-2
"""Amplitudes of a spectrum count as at least this share of their mean."""


class Score(Protocol):
    """Says of every place of an image how much it matters."""

    def __call__(self, x: Tensor, context: Context) -> Tensor:
        """[B, C, h, w] -> [B, h', w'] at least 0, with sum one for every image."""
        ...


@guarded
class SpectralResidual:
    """What is unexpected in the spectrum of the grey image: ``|F^-1 exp(R + i P)|^2``, smoothed (equations 3 to 5).

    P is the phase and R = L - h * L the logarithm of the amplitude, less its mean over 3 x 3 neighbours.

    Args:
        size: in pixels; larger images are first averaged down to it (the paper: 64).
        sigma: of the smoothing, in pixels of the smaller image; 0 for none.
    """

    def __init__(self, size: Annotated[int, Ge(3)], sigma: NonNegative) -> None:
        self.size = size
        self.sigma = sigma

    def __call__(self, x: Tensor, context: Context) -> Tensor:
        """[B, h', w'] with h' and w' at most ``size``."""
        h, w = (min(side, self.size) for side in x.shape[2:])
        grey = F.adaptive_avg_pool2d(full_precision(x).mean(dim=1), (h, w))  # [B, h', w']
        spectrum = torch.fft.fft2(grey)  # [B, h', w'] complex
        amplitude = spectrum.abs()  # [B, h', w']
        # Bins that are empty but for rounding, as drawn shapes have them, would otherwise decide.
        floor = EMPTY * amplitude.mean(dim=(1, 2), keepdim=True) + torch.finfo(amplitude.dtype).tiny  # [B, 1, 1]
        level = torch.maximum(amplitude, floor).log()  # [B, h', w']
        # The spectrum is periodic, so the neighbours of its border lie at the opposite one.
        around = F.pad(level[:, None], (1, 1, 1, 1), mode="circular")  # [B, 1, h' + 2, w' + 2]
        residual = level - F.avg_pool2d(around, 3, stride=1)[:, 0]  # [B, h', w']
        saliency = torch.fft.ifft2(torch.polar(residual.exp(), spectrum.angle())).abs().square()  # [B, h', w']
        spread = grey.amax(dim=(1, 2), keepdim=True) - grey.amin(dim=(1, 2), keepdim=True)  # [B, 1, 1]
        flat = spread <= 1e-5 * grey.abs().amax(dim=(1, 2), keepdim=True)  # [B, 1, 1]
        return shares(smooth(saliency, self.sigma).masked_fill(flat, 1.0))


class Activation:
    """Mean absolute activation over the channels of the last map, or of the last patch tokens of a ViT."""

    def __call__(self, x: Tensor, context: Context) -> Tensor:
        """[B, h', w'], the map's places or the grid of patches."""
        return shares(last_map(x, student(context, self), self).abs().mean(dim=1))


@guarded
class ClassActivation:
    """Class activation map of the sample's own class, less its least value: the last map, or the last patch tokens of a
    ViT, weighed by a linear classifier's row of that class.

    Args:
        head: of the student, linear in the pooled features.
    """

    def __init__(self, head: str) -> None:
        self.head = head

    def __call__(self, x: Tensor, context: Context) -> Tensor:
        """[B, h', w'], the map's places or the grid of patches.

        Raises:
            ValueError: the student has no such head, or the samples have no classes.
        """
        head = class_head(context, self.head, self)
        assert context.label is not None
        maps = last_map(x, student(context, self), self)  # [B, D, h', w']
        weight = head.linear.weight.detach().float()[context.label]  # [B, D]
        with torch.autocast(x.device.type, enabled=False):
            activation = torch.einsum("bd,bdhw->bhw", weight, maps)  # [B, h', w']
        return shares(activation - activation.amin(dim=(1, 2), keepdim=True))


@guarded
class Gradient:
    """Absolute gradient of the pooled features' squared norm, summed over channels and smoothed.

    PuzzleMix takes the gradient of the classification loss instead, which pretraining without labels lacks.

    Args:
        sigma: of the smoothing, in pixels; 0 for none.
    """

    def __init__(self, sigma: NonNegative) -> None:
        self.sigma = sigma

    def __call__(self, x: Tensor, context: Context) -> Tensor:
        """[B, h, w]."""
        network = student(context, self)
        with looking(network), torch.enable_grad():
            slopes = torch.cat([self.slope(network, part) for part in x.split(AT_ONCE)])  # [B, C, h, w]
        return shares(smooth(slopes.float().abs().sum(dim=1), self.sigma))

    def slope(self, network: Encoder, x: Tensor) -> Tensor:
        """Gradient at some images [b, C, h, w], of the same shape; no parameter's gradient changes."""
        x = x.detach().requires_grad_()
        pooled = network.backbone(x)["pooled"].float()  # [b, D]
        return torch.autograd.grad(pooled.square().sum(), x)[0]


class ClassAttention:
    """Attention of the class token to the patches in the last block of a timm ViT, mean over heads.

    Without a class token: the attention that each patch receives, mean over heads and tokens.
    """

    def __call__(self, x: Tensor, context: Context) -> Tensor:
        """[B, h', w'], the grid of patches."""
        network = student(context, self)
        net = transformer(network, self)
        layers = [layer for layer in net.blocks.modules() if isinstance(layer, Attention)]
        if not layers:
            raise ValueError(without_attention(network, self))
        last, inputs = layers[-1], []  # fused attention keeps its weights to itself: they are computed again
        handle = last.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        try:
            with looking(network), torch.no_grad():
                network.backbone(x)
                q, k, _ = last.qkv(inputs[0]).unflatten(2, (3, last.num_heads, -1)).permute(2, 0, 3, 1, 4)
                q, k = last.q_norm(q), last.k_norm(k)  # [B, heads, N, D] each
                asking = q[:, :, :1] if net.has_class_token else q  # [B, heads, 1 or N, D]
                weights = (asking @ k.transpose(2, 3)).float().mul(last.scale).softmax(dim=3)  # [B, heads, 1 or N, N]
        finally:
            handle.remove()
        received = weights.mean(dim=(1, 2))[:, net.num_prefix_tokens :]  # [B, N] of the patches
        return shares(received.unflatten(1, grid(net, x)))


def shares(score: Tensor) -> Tensor:
    """[B, h, w] at least 0, so scaled that every map sums to one; a map of zeros becomes a constant."""
    total = score.sum(dim=(1, 2), keepdim=True)  # [B, 1, 1]
    something = total > torch.finfo(score.dtype).tiny  # [B, 1, 1]
    constant = torch.full_like(score, 1 / (score.shape[1] * score.shape[2]))
    return torch.where(something, score / torch.where(something, total, 1.0), constant)


def smooth(score: Tensor, sigma: float) -> Tensor:
    """Gaussian means of [B, h, w], over the pixels that there are: the border weighs no less than the middle."""
    if sigma == 0:
        return score
    with torch.autocast(score.device.type, enabled=False):
        for _ in range(2):
            place = torch.arange(score.shape[1], device=score.device, dtype=score.dtype)  # [h]
            near = (-0.5 * ((place[:, None] - place) / sigma).square()).softmax(dim=1)  # [h, h], rows sum to one
            score = (near @ score).transpose(1, 2)  # [B, w, h], then [B, h, w]
    return score


@contextlib.contextmanager
def looking(network: Encoder) -> Iterator[None]:
    """The network in evaluation mode, each part back in its own mode afterwards; autocast forgets the weights that it
    has cast meanwhile (see ``gradient_cache.without_graph``)."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        torch.clear_autocast_cache()


@torch.no_grad()
def last_map(x: Tensor, network: Encoder, score: object) -> Tensor:
    """The backbone's last map, or the last patch tokens of a ViT in their grid: [B, D, h', w'] float32."""
    with looking(network):
        outputs = network.backbone(x)
    if "map" in outputs:
        return outputs["map"].float()
    net = transformer(network, score)
    tokens = outputs["tokens"][:, net.num_prefix_tokens :].float()  # [B, N, D]
    return tokens.transpose(1, 2).unflatten(2, grid(net, x))  # [B, D, h', w']


def class_head(context: Context, name: str, part: object) -> Classifier:
    """The student's classifier of that name.

    Raises:
        ValueError: there is none, or the samples have no classes.
    """
    head = dict(student(context, part).heads.items()).get(name)
    if not isinstance(head, Classifier) or context.label is None or context.label.is_floating_point():
        raise ValueError(
            f"{type(part).__name__} reads class scores of the student's head {name} and the samples' classes, which "
            "this run lacks: choose a method that learns classes, on data with them, or another score or mixer.labels"
        )
    return head


def student(context: Context, score: object) -> Encoder:
    """The network to look through.

    Raises:
        ValueError: there is none.
    """
    if context.network is None:
        raise ValueError(
            f"{type(score).__name__} looks through the student, but the mixer was given none: choose SpectralResidual "
            "as the mixer's score"
        )
    return context.network


def transformer(network: Encoder, score: object) -> VisionTransformer:
    """The backbone's net, if it is a timm ViT.

    Raises:
        ValueError: it is none.
    """
    net = network.backbone.net
    if not isinstance(net, VisionTransformer):
        raise ValueError(without_attention(network, score))
    return net


def without_attention(network: Encoder, score: object) -> str:
    """Why a score cannot be had from this backbone."""
    return (
        f"{type(score).__name__} reads a timm ViT with standard attention, but backbone.name is "
        f"{network.backbone.name}: choose backbone=vit_tiny, or Activation as the mixer's score"
    )


def grid(net: VisionTransformer, x: Tensor) -> tuple[int, int]:
    """Rows and columns of patches."""
    h, w = x.shape[2:]
    return net.patch_embed.dynamic_feat_size((h, w))
