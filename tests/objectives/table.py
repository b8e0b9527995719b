"""Every objective as the tests build it: one line a method. What all of them must do is tested over this table."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ssl_framework.feature_mixers.feature_transform import FeatureTransform
from ssl_framework.feature_mixers.hallucinator import Hallucinator
from ssl_framework.feature_mixers.m_mix import MMix
from ssl_framework.feature_mixers.mochi import MoCHi
from ssl_framework.feature_mixers.synco import SynCo
from ssl_framework.functional import unit
from ssl_framework.memory import Centre, DyCE, Queue
from ssl_framework.models.dense_heads import DenseHead
from ssl_framework.models.fusion import AttentionPool, Fusion, MutualFusion
from ssl_framework.models.skip_decoder import SkipDecoder
from ssl_framework.objectives.adameow import AdaMEOW
from ssl_framework.objectives.albef import ALBEF
from ssl_framework.objectives.all4one import All4One, Transformer
from ssl_framework.objectives.amcl import AMCL, AMCLBarlow, AMCLMoCo, PairTemperature
from ssl_framework.objectives.any_loss import AnyLoss
from ssl_framework.objectives.augmented_tuning import AugmentedTuning
from ssl_framework.objectives.autotcl import AutoTCL
from ssl_framework.objectives.balanced_mse import BalancedMSE
from ssl_framework.objectives.barlow_twins import BarlowTwins
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.beclr import BECLR
from ssl_framework.objectives.biovil import BioViL
from ssl_framework.objectives.byol import BYOL
from ssl_framework.objectives.cacr import CACR
from ssl_framework.objectives.cacr_moco import CACRMoCo, CACRMoCoV3
from ssl_framework.objectives.circuitgcl import CircuitGCL
from ssl_framework.objectives.cleanclip import CleanCLIP
from ssl_framework.objectives.clip import CLIP
from ssl_framework.objectives.cloc import CLOC, Prompter
from ssl_framework.objectives.cmim import CMIM
from ssl_framework.objectives.coca import CoCa
from ssl_framework.objectives.coconut import COCONUT
from ssl_framework.objectives.cocosoda import CoCoSoDa
from ssl_framework.objectives.codiemb import CoDiEmb
from ssl_framework.objectives.conr import ConR
from ssl_framework.objectives.contrastive_entropy import ContrastiveEntropy
from ssl_framework.objectives.contrastive_gap import ContrastiveGap
from ssl_framework.objectives.contriever import Contriever
from ssl_framework.objectives.core_tuning import CoreTuning
from ssl_framework.objectives.cosent import CoSENT
from ssl_framework.objectives.count import Counting
from ssl_framework.objectives.ctp_tft import CTPTFT
from ssl_framework.objectives.cwcl import CWCL
from ssl_framework.objectives.data2vec import Data2Vec
from ssl_framework.objectives.dcl import DCL
from ssl_framework.objectives.debcse import DebCSE
from ssl_framework.objectives.decoupled_mixup import DecoupledMixup
from ssl_framework.objectives.deep_cotraining import DeepCoTraining
from ssl_framework.objectives.deepcluster_v2 import DeepClusterV2
from ssl_framework.objectives.densecl import DenseCL
from ssl_framework.objectives.dgi import DGI
from ssl_framework.objectives.dialog2flow import Dialog2Flow
from ssl_framework.objectives.dino import DINO
from ssl_framework.objectives.distill import Distill
from ssl_framework.objectives.dito import DITO
from ssl_framework.objectives.fixmatch import FixMatch
from ssl_framework.objectives.frossl import FroSSL
from ssl_framework.objectives.genview import GenView
from ssl_framework.objectives.gopro import GOPro
from ssl_framework.objectives.gpc import GPC
from ssl_framework.objectives.gram import GRAM
from ssl_framework.objectives.groco import GroCo
from ssl_framework.objectives.hicmae import HiCMAE, LayerContrast
from ssl_framework.objectives.hybrid_distillation import HybridDistillation
from ssl_framework.objectives.ibot import IBOT
from ssl_framework.objectives.ijepa import IJEPA
from ssl_framework.objectives.instance_discrimination import (
    Contrastive,
    HardContrastive,
    HardSimpleContrastive,
    InstanceDiscrimination,
    SimpleContrastive,
)
from ssl_framework.objectives.learned_views import LearnedViews
from ssl_framework.objectives.lejepa import LeJEPA
from ssl_framework.objectives.m2_mix import M2Mix
from ssl_framework.objectives.m3col import M3CoL
from ssl_framework.objectives.mae import MAE, SimMIM
from ssl_framework.objectives.margin_pair import MarginPair
from ssl_framework.objectives.mclrec import MCLRec
from ssl_framework.objectives.mean_teacher import MeanTeacher
from ssl_framework.objectives.meco import MECO
from ssl_framework.objectives.meow import MEOW
from ssl_framework.objectives.metric import Contrastive as ContrastivePairs
from ssl_framework.objectives.metric import MetricLoss, MultiSimilarity, ProxyAnchor
from ssl_framework.objectives.metrix import Metrix
from ssl_framework.objectives.mixco import MixCo
from ssl_framework.objectives.mixed_ae import MixedAE
from ssl_framework.objectives.mixmatch import MixMatch
from ssl_framework.objectives.mmcr import MMCR
from ssl_framework.objectives.mnr import MNR
from ssl_framework.objectives.moco import MoCo
from ssl_framework.objectives.mocov3 import MoCoV3
from ssl_framework.objectives.msd import MSD
from ssl_framework.objectives.msn import MSN
from ssl_framework.objectives.multiview import (
    CL1,
    CL2,
    DHEL,
    MVDHEL,
    PVC,
    AverageViewNTXent,
    MultiPositiveNTXent,
    MultiView,
    MVInfoNCE,
    PairwiseNTXent,
)
from ssl_framework.objectives.mw_loss import MWLoss
from ssl_framework.objectives.nn_siamese import NNBYOL, NNSiam
from ssl_framework.objectives.nnclr import NNCLR
from ssl_framework.objectives.obow import OBoW
from ssl_framework.objectives.pairing_net import PairingNet
from ssl_framework.objectives.pamc import PamC
from ssl_framework.objectives.patchmix import PatchMix
from ssl_framework.objectives.pcl import PCL
from ssl_framework.objectives.pixpro import PixPro
from ssl_framework.objectives.point_matching import PointMatching
from ssl_framework.objectives.pretext import Pretext
from ssl_framework.objectives.rankmixup import MNDCG, MRL, RankMixup
from ssl_framework.objectives.regression import Regression
from ssl_framework.objectives.remixmatch import ReMixMatch
from ssl_framework.objectives.rerank_contrastive import Reranker
from ssl_framework.objectives.ressl import ReSSL
from ssl_framework.objectives.sbcl import SBCL
from ssl_framework.objectives.sdmp import SDMP
from ssl_framework.objectives.sepclr import SepCLR
from ssl_framework.objectives.siglip import SigLIP
from ssl_framework.objectives.simclr import SimCLR
from ssl_framework.objectives.simcse import SimCSE
from ssl_framework.objectives.simctg import SimCTG
from ssl_framework.objectives.simlap import LabelGate, SimLAP
from ssl_framework.objectives.simsiam import SimSiam
from ssl_framework.objectives.sirl import SIRL
from ssl_framework.objectives.slotcon import SlotCon
from ssl_framework.objectives.smog import SMoG
from ssl_framework.objectives.sogclr import ISogCLR, SogCLR
from ssl_framework.objectives.split_merge import SplitMerge
from ssl_framework.objectives.supcon import SupCon
from ssl_framework.objectives.supervised import Supervised
from ssl_framework.objectives.supremix import SupReMix
from ssl_framework.objectives.susana import ICNN, ProtoTriplet
from ssl_framework.objectives.swav import SwAV
from ssl_framework.objectives.targets import Balanced, Centred
from ssl_framework.objectives.tera import TERA
from ssl_framework.objectives.terms import Terms
from ssl_framework.objectives.tico import TiCo
from ssl_framework.objectives.ts2vec import TS2Vec
from ssl_framework.objectives.unmix import UnMix
from ssl_framework.objectives.vicreg import VIbCReg, VICReg
from ssl_framework.objectives.vicregl import VICRegL
from ssl_framework.objectives.villa import ViLLA
from ssl_framework.objectives.villa_regions import ViLLARegions
from ssl_framework.objectives.visreg import VISReg
from ssl_framework.objectives.w2v_bert import W2VBert
from ssl_framework.objectives.w_mse import WMSE
from ssl_framework.objectives.wad import WAD
from ssl_framework.objectives.whitened_cse import WhitenedCSE
from ssl_framework.types import Batch, Geometry, Mix, Outputs

DIM = 6
NUM_SAMPLES = 16  # of the training set that the tests draw indices from


class Case(NamedTuple):
    """An objective, and which views the encoders that it reads have seen."""

    build: Callable[[], Objective]
    student: tuple[int, ...] = (0, 1)
    teacher: tuple[int, ...] = ()
    heads: tuple[str, ...] = ("projector",)
    mixed: tuple[int, ...] = ()  # views that a mixer has changed
    added: tuple[int, ...] = ()  # views that are mixtures of view 0, beside the clean ones
    of: tuple[int, ...] = ()  # the views that the added ones are mixtures of, where that is not view 0
    numbers: tuple[str, ...] = ()  # heads that give one number a sample
    least: int = 2  # samples in the smallest global batch it takes
    images: tuple[str, ...] = ()  # heads that give one vector a sample where there are patches
    patches: tuple[int, ...] = ()  # of each view as its encoder gives them; "mask" hides every other one of four
    maps: tuple[str, ...] = ()  # heads that give a map of 2 x 2 positions: each other rotations of the embedding
    partial: bool = False  # some samples have no label
    halves: tuple[str, ...] = ()  # heads half as wide as the others
    likely: tuple[str, ...] = ()  # heads that give a distribution for each sample
    size: float = 1.0  # factor of all outputs: below one where a loss grows with their exponential
    inputs: bool = False  # it reads the views themselves, here as wide as the embeddings
    words: bool = False  # the views behind the first are texts of four tokens, the last one with a word hidden
    regions: int = 0  # of the first view, some of which it does not show; the last views are their texts
    answers: int = 0  # classes of changes of the last view, which the views know
    neighbours: bool = False  # the views tell of which two fragments each pair is, as of three strips of a sheet
    pictures: bool = False  # the views tell what they were, and where they are altered: four frames of DIM bands
    series: bool = False  # views are series of DIM channels and four points
    answers_only: tuple[int, ...] = ()  # views whose outputs say what others are to learn, and learn nothing
    shared: bool = False  # the views tell which of four tokens both show: three, the last and the first

    def batch(self, index: Tensor, label: Tensor, views: list[Tensor]) -> Batch:
        """What an objective is told beside the outputs, alike on any number of ranks."""
        if not self.patches:
            places, mixes = self.geometry(len(label)), self.mixes(len(label))
            return Batch(self.seen(views), index, label, places, mixes, targets=self.targets(index))
        pixels = torch.sin(index[:, None] + torch.arange(4.0 * DIM)).view(-1, DIM, 2, 2)  # [B, DIM, 2, 2]
        if self.words:
            text = torch.stack([0 * index + 1, 5 + index % 3, 5 + index // 2 % 2, 0 * index + 2], dim=1)  # [B, 4]
            if self.regions:
                each = [text.roll(1, dims=1) + (index[:, None] + r) % 3 for r in range(self.regions)]  # R x [B, 4]
                return Batch([pixels, text, *each], index, label, boxes=self.boxes(index))
            hidden = torch.arange(4) == (1 + index % 2)[:, None]  # [B, 4]
            texts = [text, text.masked_fill(hidden, 4)][: self.num_views - 1]
            return Batch([pixels, *texts], index, label)
        targets = [torch.tensor([[0, 1], [2, 3]]).expand(len(index), -1, -1)]  # [B, 2, 2]
        if self.series:
            return Batch([pixels.flatten(2)] * self.num_views, index, label)
        if self.pictures:
            clean = pixels.flatten(2)[:, None]  # [B, 1, DIM, 4]
            return Batch([clean] * self.num_views, index, label, targets=[clean, clean > 0])
        if self.neighbours:  # and which of four points lie on each other, most of them
            targets = [*(self.targets(index) or []), (index[:, None] + torch.arange(4)) % 5 - 1]
        if self.shared:
            targets = [torch.arange(first, first + 3).expand(len(index), -1) for first in (1, 0)]  # 2 x [B, 3]
        mixes = self.mixes(len(label))
        if mixes is not None:
            mixes = [mix and mix._replace(clean=pixels) for mix in mixes]
        return Batch([pixels] * self.num_views, index, label, mix=mixes, targets=targets)

    def seen(self, views: list[Tensor]) -> list[Tensor]:
        """The views V x [B, ...] as a batch has them; none where nothing reads them."""
        return [view.detach()[:, :DIM] for view in views] if self.inputs else []

    def boxes(self, index: Tensor) -> Tensor:
        """Where regions of samples [B] might be, every fourth of them nowhere: [B, R, 4]."""
        number = index[:, None] + torch.arange(self.regions)  # [B, R]
        low = torch.stack([0.1 * (number % 4), 0.2 * (number % 3)], dim=2)  # [B, R, 2]
        return torch.cat([low, low + 0.3], dim=2) * (number % 4 < 3)[..., None]  # [B, R, 4]

    def labels(self, label: Tensor) -> Tensor:
        """What the objective is told of the classes [B]: every third is hidden, if some are."""
        hidden = torch.arange(len(label)) % 3 == 2  # [B]
        return label.masked_fill(hidden, -1) if self.partial else label

    def mixes(self, count: int) -> list[Mix | None] | None:
        """What a mixer might have done to ``count`` samples, alike on any number of ranks: neighbours are mixed, and
        the last of an odd number with itself."""
        if not self.mixed and not self.added:
            return None
        own = torch.arange(count)  # [B]
        source = torch.stack([own, (own ^ 1).clamp(max=count - 1)], dim=1)  # [B, 2]
        share = 0.6 + 0.1 * (own % 4)  # [B]
        mix = Mix(torch.empty(0), source, torch.stack([share, 1 - share], dim=1), None, 0)
        done = {**{v: mix._replace(of=v) for v in self.mixed}, **dict.fromkeys(self.added, mix)}
        done |= {v: mix._replace(of=of) for v, of in zip(self.added, self.of, strict=False)}
        return [done.get(v) for v in range(self.num_views)]

    def targets(self, index: Tensor) -> list[Tensor] | None:
        """What the views may have told of samples [B], alike on any number of ranks."""
        if self.neighbours:
            return [index + index // 2, index + index // 2 + 1]
        return [index % self.answers] if self.answers else None

    @property
    def num_views(self) -> int:
        return 1 + max(self.student + self.teacher)

    def outputs(self, views: list[Tensor], seen: tuple[int, ...]) -> list[Outputs | None]:
        """What an encoder with those heads would give for embeddings V x [B, D]: each head another rotation of them."""
        if self.patches:
            return [self.dense(z, self.patches[v]) if v in seen else None for v, z in enumerate(views)]
        return [
            {head: self.form(head, z.roll(turn, dims=1)) for turn, head in enumerate(self.heads)} if v in seen else None
            for v, z in enumerate(views)
        ]

    def dense(self, z: Tensor, count: int) -> Outputs:
        """The same of heads that give one vector a patch [B, N, D], "layers" for two blocks, and "mask"."""
        tokens = torch.stack([z.roll(i, dims=1) * (1 + i / 4) for i in range(count)], dim=1)  # [B, N, D]
        found = {head: tokens.roll(turn, dims=2) for turn, head in enumerate(self.heads)}
        found |= {head: z.roll(turn, dims=1) for turn, head in enumerate(self.heads) if head in self.images}
        if self.mixed:
            own = found["mixture_decoder"]  # [B, N, D]
            found["mixture_decoder"] = torch.stack([own, tokens.roll(3, dims=2)], dim=1)  # [B, 2, N, D]
        for head in {"layers", "second.layers"} & found.keys():
            found[head] = torch.stack([found[head], tokens.roll(2, dims=2)], dim=1)  # [B, 2, N, D]
        return {**found, "mask": (torch.arange(len(z))[:, None] + torch.arange(4)) % 2 == 0}  # [B, 4]

    def form(self, head: str, z: Tensor) -> Tensor:
        """An embedding [B, D] in the form in which that head gives it."""
        if head in self.maps:
            places = [(1 + place) * z.roll(2 * place, dims=1) for place in range(4)]  # 4 x [B, D]
            return torch.stack(places, dim=2).unflatten(2, (2, 2))  # [B, D, 2, 2]
        if head in self.likely:
            return z.softmax(dim=1)
        return self.size * z[:, : 1 if head in self.numbers else DIM // 2 if head in self.halves else None]

    def geometry(self, count: int) -> list[Geometry]:
        """Where views of ``count`` samples might have been cut, alike on any number of ranks; some have nothing in
        common with others."""
        own = torch.arange(count) % 4  # [B]
        found = []
        for v in range(self.num_views):
            low = torch.stack([0.13 * own, 0.2 * v + 0.03 * own], dim=1)  # [B, 2]
            low[own == 3] += 0.55 * v
            size = torch.stack([0.31 + 0.07 * own, 0.45 - 0.05 * own], dim=1)  # [B, 2]
            found.append(Geometry(torch.cat([low, low + size], dim=1), own % 2 == v % 2))
        return found


def seeded(build: Callable[[], nn.Module]) -> Any:
    """An objective whose memory and weights start alike wherever it is built."""
    torch.manual_seed(5)
    return build()


def allocated(build: Callable[[], Objective]) -> Any:
    """A seeded objective with its state of every training sample."""
    objective = seeded(build)
    objective.allocate(NUM_SAMPLES)
    return objective


def bank(loss: Callable[[], Any]) -> Case:
    return Case(lambda: allocated(lambda: InstanceDiscrimination(DIM, 0.5, loss())), student=(0,))


def moco(**options: Any) -> MoCo:
    return seeded(lambda: MoCo(0.2, Queue(20, DIM), **options))


def mochi(**options: Any) -> MoCo:
    objective = moco(**options)
    objective.feature_mixer = MoCHi(num_hard=6, num_pair=5, num_query=4, warmup=0.0)
    return objective


def synco() -> MoCo:
    objective = moco()
    objective.feature_mixer = SynCo(6, [2, 1, 3, 2, 1, 2], 0.1, 0.1, 0.1, warmup=0.0)
    return objective


def hallucinator(objective: Objective) -> Objective:
    objective.feature_mixer = seeded(lambda: Hallucinator(DIM, [5], 0.1))
    return objective


def on_simclr() -> SimCLR:
    objective = SimCLR(0.2)
    objective.feature_mixer = MoCHi(num_hard=2, num_pair=5, num_query=4, warmup=0.0)
    return objective


def m_mix(objective: Objective) -> Objective:
    objective.feature_mixer = MMix(0.2)
    return objective


def feature_transform() -> MoCo:
    objective = moco()
    objective.feature_mixer = FeatureTransform(2.0, 1.6, True, False, False, False, 0.0)
    return objective


def mixtures_of_both_views(build: Callable[[], Objective]) -> Case:
    views = (0, 1, 2, 3)
    return Case(build, views, views, heads=("projector", "predictor"), added=(2, 3), of=(0, 1))


def nnclr(**options: Any) -> NNCLR:
    return seeded(lambda: NNCLR(0.2, Queue(20, DIM), **options))


def nnbyol() -> NNBYOL:
    return seeded(lambda: NNBYOL(Queue(20, DIM)))


def cacr_moco() -> CACRMoCo:
    return seeded(lambda: CACRMoCo(1.0, 1.0, 1.0, 2.0, Queue(20, DIM)))


def densecl() -> DenseCL:
    return seeded(lambda: DenseCL(0.2, 0.5, 0.0, Queue(20, DIM), Queue(20, DIM)))


def slotcon() -> SlotCon:
    def build() -> SlotCon:
        objective = SlotCon(0.1, 0.07, 0.2, 0.5, 0.9, DenseHead("slots", [5], DIM, norm=False))
        objective.meet({"dense_projector": DIM, "prototypes": DIM})
        return objective

    return seeded(build)


def obow() -> OBoW:
    def build() -> OBoW:
        objective = OBoW(["map"], lambda dim: Queue(24, dim), 10.0, 0.99, 5.0, 1, [2, 1], DIM)
        objective.meet({"map": DIM})
        return objective

    return seeded(build)


def whitened_cse() -> WhitenedCSE:
    """With a head that turns the features as ``Case.outputs`` does."""
    objective = WhitenedCSE(0.2, 2, True, 1e-2)
    objective.through_heads = lambda x: {"projector": x.roll(1, dims=1)}
    return objective


def autotcl() -> AutoTCL:
    """With an encoder that hands on what comes in."""
    objective = seeded(lambda: AutoTCL(LearnedViews(DIM, 4, 1, 3, 0.5, 0.1, 1.0), 0.2, 0.3, 2, 0.1, 1.0, 0.1))
    objective.through_encoder = lambda x, constant: {"points": x.transpose(1, 2)}
    return objective


def deep_cotraining() -> DeepCoTraining:
    """With networks that turn what comes in as ``Case.outputs`` does."""
    objective = DeepCoTraining(DIM, 1.0, 0.5, 0.02)
    objective.through_encoder = lambda x, constant: {"classifier": x, "second_classifier": x.roll(1, dims=1)}
    return objective


def semi(build: Callable[[], Objective], *views: int, **rest: Any) -> Case:
    """A classifier that is told some of the labels."""
    return Case(build, views, heads=("classifier",), partial=True, **rest)


def cocosoda() -> CoCoSoDa:
    return seeded(lambda: CoCoSoDa(0.2, lambda: Queue(20, DIM)))


def worded(
    build: Callable[[], Objective],
    student: tuple[int, ...],
    teacher: tuple[int, ...] = (),
    tokens: str = "token_projector",
) -> Case:
    """Of a picture of three tokens and texts of four."""
    return Case(build, student, teacher, ("projector", tokens), images=("projector",), patches=(3, 4, 4), words=True)


def albef() -> ALBEF:
    def build() -> ALBEF:
        fusion = Fusion(DIM, 1, 2, False, False, 9)
        return ALBEF(0.2, 100.0, lambda: Queue(20, DIM), 0.4, 0.5, 1.0, 1.0, 0.9, fusion)

    return seeded(build)


def coca(gated: bool = False, caption: float = 2.0) -> CoCa:
    return seeded(lambda: CoCa(0.2, 100.0, 1.0, caption, AttentionPool(DIM, 2, 2), Fusion(DIM, 1, 2, True, gated, 9)))


def reranker() -> Reranker:
    return seeded(lambda: Reranker(0.2, 100.0, 2, 1.0, 1.0, Fusion(DIM, 1, 2, False, False, None)))


def cloc() -> Case:
    """Of a picture with two regions, its text and theirs."""
    build = lambda: seeded(lambda: CLOC(0.2, 100.0, 0.7, 2.0, Prompter(DIM, DIM, 2)))  # noqa: E731
    heads = ("projector", "places")
    return Case(build, (0, 1, 2, 3), (), heads, images=heads[:1], patches=(4, 4, 4, 4), words=True, regions=2)


def dito() -> DITO:
    objective = DITO(0.2, 100.0, 3, [0.4, 0.8])
    objective.through_heads = lambda x: {"projector": x.roll(1, dims=1)}
    return objective


def villa() -> ViLLA:
    objective = seeded(lambda: ViLLA(0.2, 100.0, 1.0, 0.2, 9, DIM))
    objective.through_heads = lambda x: {"projector": x.roll(1, dims=1)}
    return objective


def villa_regions() -> ViLLARegions:
    """Of scores of twelve words, and texts that are encoded as sums of the waves that their words stand for."""
    objective = ViLLARegions(0.2, 100.0, 0.1, 2)
    objective.through_heads = lambda x: {"projector": x.roll(1, dims=1)}
    waves = torch.sin(torch.arange(12.0)[:, None] * torch.arange(1, DIM + 1))  # [12, DIM]
    objective.through_encoder = lambda x, constant, view: {
        "projector": waves.to(objective.clip.log_scale)[x].sum(dim=1)
    }
    words = lambda view: view and {"words": torch.cat([view["words"], -view["words"]], dim=2)}  # noqa: E731
    objective.register_forward_pre_hook(lambda _, given: (given[0], [*map(words, given[1])], *given[2:]))
    return objective


def hicmae() -> HiCMAE:
    """Of pictures of four patches of one pixel, two of which are seen."""

    def build() -> HiCMAE:
        decoders = [SkipDecoder(DIM, 8, 1, 2, DIM, 1, True) for _ in range(2)]
        return HiCMAE(True, 0.1, 0.2, *decoders, MutualFusion(DIM, 1, 2))

    return seeded(build)


def m3col(switch: float) -> M3CoL:
    return seeded(lambda: M3CoL(DIM, DIM, 0.1, 0.2, 0.5, 0.5, switch, 0.5))


def cl2l() -> Terms:
    terms = {"global": CLIP(0.2, 100.0), "local": CLIP(0.2, 100.0, 0.1, head="local_projector")}
    return Terms(terms, {"global": 0.5, "local": 0.5}, {"global": [[0, 2]], "local": [[1, 3]]})


def more() -> Terms:
    terms = {"main": CLIP(0.2, 100.0), "other": CLIP(0.3, 100.0)}
    return Terms(terms, {"main": 1.0, "other": 1.0}, {"main": [[0, 1]], "other": [[1, 2]]})


def rocket(build: Callable[[], Objective], *heads: str) -> Case:
    """CLIP and another objective behind a head of its own."""

    def both() -> Terms:
        return seeded(lambda: Terms({"clip": CLIP(0.2, 100.0), "other": build()}, {"clip": 1.0, "other": 0.5}, {}))

    return Case(both, heads=("projector", "second_projector", *heads))


MAPS = ("map", "dense_projector", "propagation", "prototypes")
HEADS = ("projector_0", "projector_1")
BYOL_HEADS = ("projector", "predictor")


def classifier(build: Callable[[], Objective], **seen: Any) -> Case:
    """An objective on class scores of view 0 unless said otherwise; the embeddings are the scores of six classes."""
    return Case(build, **{"student": (0,), "heads": ("classifier",), **seen})


def distill() -> Distill:
    objective = seeded(lambda: Distill(DIM))
    objective.meet({"pooled": DIM})
    return objective


def wad() -> WAD:
    """Some samples are chosen in the second of three steps."""
    objective = seeded(lambda: WAD(DIM, 2, 0.9))
    objective.meet({"pooled": DIM})
    objective.allocate(NUM_SAMPLES)
    return objective


def sbcl() -> SBCL:
    """As after a clustering: classes of two subclasses, and samples that were not seen yet."""
    objective = allocated(lambda: SBCL(6, DIM, 0.2, 0.07, 0.25, 2, 0, 1, 5))
    objective.subclass[:12] = torch.arange(12) % 2 + 2 * torch.tensor([0, 1, 0, 1, 0, 0, 2, 3, 0, 1, 0, 1])
    objective.class_temperature[:4] = torch.tensor([0.2, 0.3, 0.25, 0.1])
    return objective


def gpc() -> GPC:
    """As after a clustering."""
    objective = allocated(lambda: GPC(5, 6, SplitMerge(0.1, 1e-4, 0.1, 0.5), DIM, 0.5, 0.2, 0.35, 1.0, 0.3, 1, 10))
    objective.prototypes[:5] = unit(torch.randn(5, DIM))
    objective.cluster[:12] = torch.arange(12) % 5
    return objective


def ijepa() -> IJEPA:
    objective = seeded(lambda: IJEPA(8, 1, 2))
    seeded(lambda: objective.meet({"patches": DIM}))
    return objective


def ibot() -> IBOT:
    centres = [Centred(Centre(DIM, 0.9)) for _ in range(2)]
    return IBOT(0.1, 0.07, 0.04, 0.5, *centres, 1.0, 0.0)


DINOV2_HEADS = ("projector", "patch_projector", "pooled")


def dinov2() -> IBOT:
    return IBOT(0.1, 0.07, 0.04, 0.5, Balanced(3), Balanced(3), 0.7, 0.1, patch_head="patch_projector")


def mixed_ae() -> MixedAE:
    return MixedAE(False, 0.25, 0.5)


HYBRID_HEADS = ("patch_features", "layers", "patches", "second.layers")


def hybrid() -> HybridDistillation:
    objective = seeded(lambda: HybridDistillation(DIM, 1.0, 1.0, 2.0, 0.5))
    seeded(lambda: objective.meet({"patches": DIM}))
    return objective


def msn(exponent: float, iterations: int) -> Case:
    build = lambda: seeded(lambda: MSN(DIM, 5, 0.1, 0.25, iterations, 1.0, exponent))  # noqa: E731
    return Case(build, student=(1, 2), teacher=(0,))


def dino() -> DINO:
    return DINO(0.1, 0.07, 0.04, 0.5, Centre(DIM, 0.9))


def deepcluster_v2() -> DeepClusterV2:
    return allocated(lambda: DeepClusterV2(0.1, 5, 3, 4, 2, DIM))


def pcl() -> PCL:
    return allocated(lambda: PCL(moco(), [3, 4], 4, 0.2, 10, 0.0, DIM))


def smog() -> SMoG:
    """Its groups begin anew in the last of three steps."""
    return seeded(lambda: SMoG(0.1, 4, 0.9, 2, 4, Queue(16, DIM), DIM))


def all4one() -> All4One:
    transformer = seeded(lambda: Transformer(DIM, 1, 2, 0.0))
    return seeded(lambda: All4One(0.2, 0.1, 3, transformer, Queue(20, DIM), (0.5, 0.5, 0.5), 10.0))


def beclr() -> BECLR:
    """Its memories are full in the second of three steps, which brings neighbours along."""
    return seeded(lambda: BECLR(0.1, 2.0, 2, 0.0, lambda: DyCE(16, DIM, 3, 4, 0.05, 3)))


def temperature(dim: int) -> PairTemperature:
    return PairTemperature(dim, hidden=5, low=0.1, up=2.0, init=0.5)


def amcl_moco(num_hard: int | None) -> AMCLMoCo:
    return seeded(lambda: AMCLMoCo(HEADS, temperature(DIM), 0.1, num_hard, lambda: Queue(20, DIM)))


def swav() -> SwAV:
    """Frozen in the first of three steps; the queue of eight is read from the second on."""
    return seeded(lambda: SwAV(0.1, 0.05, 3, 5, DIM, 2, 0.1, lambda: Queue(8, DIM), 0.2))


def simlap(pairing: str = "permuted", fused: bool = True, renormalise: bool = False) -> SimLAP:
    return seeded(lambda: SimLAP(0.1, 4, pairing, LabelGate(4, 7, 8, DIM, fused), renormalise))


def core_tuning() -> CoreTuning:
    """With heads that turn the features as ``Case.outputs`` does."""
    objective = CoreTuning(0.2, 0.5, 1.0, 0.8, DIM)
    objective.through_heads = lambda x: {"projector": x.roll(1, dims=1), "classifier": x.roll(2, dims=1)}
    return objective


def augmented_tuning(mixup: float | None) -> AugmentedTuning:
    """With a classifier that turns the features as ``Case.outputs`` does."""
    objective = AugmentedTuning(DIM, 0.2, 0.5, mixup)
    objective.through_heads = lambda x: {"classifier": x.roll(1, dims=1)}
    return objective


def metrix(loss: Callable[[], MetricLoss], level: str = "embedding") -> Metrix:
    objective = seeded(lambda: Metrix(loss(), level, 0.4, 2.0, 0.5))
    objective.through_heads = lambda x: {"projector": x.roll(1, dims=1)}
    return objective


def similar_pairs() -> MultiSimilarity:
    return MultiSimilarity(2.0, 20.0, 0.5, 0.1)


def proxies() -> ProxyAnchor:
    return ProxyAnchor(4, DIM, 8.0, 0.1)


def cl4srec() -> Terms:
    terms = {"item": Supervised(DIM, 0.0), "contrast": SimCLR(0.5)}
    return Terms(terms, {"item": 1.0, "contrast": 0.1}, {"item": [[0]], "contrast": [[1, 2]]})


# One line a method: a new objective is added here.
OBJECTIVES: dict[str, Case] = {
    "simclr": Case(lambda: SimCLR(0.2)),
    "adainf": Case(lambda: SimCLR(0.2)),
    "g_simclr": Case(lambda: SimCLR(0.1)),
    "mi_views": Case(lambda: SimCLR(0.2)),
    "mcl": Case(lambda: SimCLR(0.2)),
    "dcl": Case(lambda: DCL(0.2, None)),
    "dclw": Case(lambda: DCL(0.2, 0.5)),
    "supcon": Case(lambda: SupCon(0.2, 0.1)),
    "label_supcon": Case(lambda: SupCon(0.2, 0.1), student=(0, 1)),
    "supcon_ce": Case(
        lambda: Terms({"pairs": SupCon(0.2, 0.1), "again": SupCon(0.5, 0.1)}, {"pairs": 1.0, "again": 0.5}, {}),
    ),
    "mocov2": Case(moco, student=(0,), teacher=(1,)),
    "moco_decoupled": Case(lambda: moco(positive_in_denominator=False), student=(0,), teacher=(1,)),
    "mochi": Case(mochi, student=(0,), teacher=(1,)),
    "moco_dclw": Case(lambda: moco(positive_in_denominator=False, weight_sigma=0.5), student=(0,), teacher=(1,)),
    "moco_class_oracle": Case(lambda: moco(class_oracle=True), student=(0,), teacher=(1,)),
    "mochi_class_oracle": Case(lambda: mochi(class_oracle=True), student=(0,), teacher=(1,)),
    "mochi_on_simclr": Case(on_simclr),
    "synco": Case(synco, student=(0,), teacher=(1,)),
    "hallucinator": Case(lambda: hallucinator(moco()), student=(0,), teacher=(1,)),
    "hallucinator_on_simclr": Case(lambda: hallucinator(SimCLR(0.2))),
    "m_mix": Case(lambda: m_mix(SimCLR(0.4))),
    "m_mix_on_dclw": Case(lambda: m_mix(DCL(0.4, 0.5))),
    "dacl": Case(lambda: SimCLR(0.2)),
    "imix": Case(lambda: SimCLR(0.2), mixed=(0,)),
    "dcl_mixed": Case(lambda: DCL(0.2, None), mixed=(1,), least=3),
    "imix_moco": Case(moco, student=(0,), teacher=(1,), mixed=(0,)),
    "mochi_mixed": Case(mochi, student=(0,), teacher=(1,), mixed=(0,)),
    "imix_byol": Case(lambda: BYOL(), teacher=(0, 1), heads=("projector", "predictor"), mixed=(0, 1)),
    "byol": Case(lambda: BYOL(), teacher=(0, 1), heads=("projector", "predictor")),
    "simsiam": Case(lambda: SimSiam(True), heads=("projector", "predictor")),
    "simsiam_gradient": Case(lambda: SimSiam(False), heads=("projector", "predictor")),
    "nnsiam": Case(lambda: seeded(lambda: NNSiam(Queue(20, DIM))), heads=("projector", "predictor")),
    "nnbyol": Case(nnbyol, teacher=(0, 1), heads=("projector", "predictor")),
    "vicreg": Case(lambda: VICReg(2.5, 2.5, 0.1, 1e-4)),
    "vibcreg": Case(lambda: VIbCReg(1.0, 2.0, 4.0, 1e-4)),
    "w_mse": Case(lambda: WMSE(4, 2, 0.1), student=(0, 1, 2)),
    "tico": Case(lambda: TiCo(8.0, 0.9, DIM), teacher=(0, 1)),
    "ressl": Case(lambda: seeded(lambda: ReSSL(0.1, 0.04, Queue(20, DIM))), student=(0,), teacher=(1,)),
    "mmcr": Case(lambda: MMCR(0.005), student=(0, 1, 2)),
    "frossl": Case(lambda: FroSSL(1.0, True)),
    "frossl_views": Case(lambda: FroSSL(0.5, False), student=(0, 1, 2)),
    "lejepa": Case(lambda: LeJEPA(0.05, 2, 5, 17, 3.0), student=(0, 1, 2)),
    "visreg": Case(lambda: VISReg(0.6, 2, 5), student=(0, 1, 2)),
    "distill": Case(distill, teacher=(0, 1), heads=("projector", "pooled")),
    "deepcluster_v2": Case(deepcluster_v2, student=(0, 1, 2)),
    "all4one": Case(all4one, teacher=(0, 1), heads=("projector", "predictor", "second_predictor")),
    "beclr": Case(beclr, teacher=(0, 1), heads=("projector", "predictor")),
    "pcl": Case(pcl, student=(0,), teacher=(1,)),
    "smog": Case(smog, student=(0,), teacher=(1,), heads=("predictor", "projector")),
    "dino": Case(dino, student=(0, 1, 2), teacher=(0, 1)),
    "feature_transform": Case(feature_transform, student=(0,), teacher=(1,)),
    "sepclr": Case(lambda: SepCLR(0.5, [0], 0.3, 0.2, 0.4), heads=("common", "salient")),
    "mv_infonce": Case(lambda: MultiView(0.2, MVInfoNCE())),
    "mv_dhel": Case(lambda: MultiView(0.2, MVDHEL())),
    "dhel": Case(lambda: DHEL(0.2, True)),
    "mv_cl1": Case(lambda: MultiView(0.2, CL1())),
    "mv_cl2": Case(lambda: MultiView(0.2, CL2())),
    "pvc_geometric": Case(lambda: MultiView(0.2, PVC("geometric"))),
    "pvc_arithmetic": Case(lambda: MultiView(0.2, PVC("arithmetic"))),
    "pairwise_ntxent": Case(lambda: MultiView(0.2, PairwiseNTXent())),
    "average_view_ntxent": Case(lambda: MultiView(0.2, AverageViewNTXent())),
    "multi_positive_ntxent": Case(lambda: MultiView(0.2, MultiPositiveNTXent())),
    "sogclr": Case(lambda: allocated(lambda: SogCLR(0.1, 0.9))),
    "isogclr": Case(lambda: allocated(lambda: ISogCLR(0.1, 0.05, 0.7, 0.9, 0.3, 0.01, 0.9))),
    "instance_discrimination": bank(lambda: Contrastive(0.2)),
    "hard_contrastive": bank(lambda: HardContrastive(0.2, 0.3)),
    "simple_contrastive": bank(lambda: SimpleContrastive(1.0)),
    "hard_simple_contrastive": bank(lambda: HardSimpleContrastive(1.0, 0.3)),
    "barlow_twins": Case(lambda: BarlowTwins(0.0051, 0.1)),
    "mocov3": Case(lambda: MoCoV3(0.2), teacher=(0, 1), heads=("projector", "predictor")),
    "mocov3_mixed": Case(lambda: MoCoV3(0.2), teacher=(0, 1), heads=("projector", "predictor"), mixed=(0, 1)),
    "sdmp": mixtures_of_both_views(lambda: SDMP(0.2)),
    "patchmix": mixtures_of_both_views(lambda: PatchMix(0.2)),
    "nnclr": Case(nnclr, heads=("projector", "predictor")),
    "nnclr_decoupled": Case(lambda: nnclr(positive_in_denominator=False), heads=("projector", "predictor")),
    "nnclr_columns": Case(lambda: nnclr(negatives="columns"), heads=("projector", "predictor")),
    "nnclr_all": Case(lambda: nnclr(negatives="all"), heads=("projector", "predictor")),
    "cacr": Case(lambda: CACR(1.0, 1.0, 1.0, 2.0, 0.0, None), student=(0, 1, 2)),
    "cacr_debiased": Case(lambda: CACR(1.0, 2.0, 1.0, 1.0, 0.1, None), student=(0, 1, 2)),
    "cacr_rbf": Case(lambda: CACR(1.0, 1.0, 1.0, 2.0, 0.0, 2.0), student=(0, 1, 2)),
    "cacr_moco": Case(cacr_moco, student=(0, 1, 2), teacher=(0, 1, 2)),
    "cacr_mocov3": Case(lambda: CACRMoCoV3(0.2), student=(0, 1, 2), teacher=(0, 1), heads=("projector", "predictor")),
    "amcl": Case(lambda: seeded(lambda: AMCL(HEADS, temperature(DIM), 0.1, 1)), heads=HEADS),
    "amcl_smooth": Case(lambda: seeded(lambda: AMCL(HEADS, temperature(DIM), 0.1, None)), heads=HEADS),
    "amcl_moco": Case(lambda: amcl_moco(2), student=(0,), teacher=(1,), heads=HEADS),
    "amcl_moco_smooth": Case(lambda: amcl_moco(None), student=(0,), teacher=(1,), heads=HEADS),
    "amcl_barlow": Case(lambda: seeded(lambda: AMCLBarlow(HEADS, temperature(1), 0.01, 0.005, 0.1)), heads=HEADS),
    "swav": Case(swav, student=(0, 1, 2)),
    "swav_mixtures": Case(swav, student=(0, 1, 2), added=(2,)),
    "simlap": Case(simlap),
    "simlap_cosine": Case(lambda: simlap(renormalise=True), student=(0,)),
    "simlap_distinct": Case(lambda: simlap("distinct", fused=False)),
    "reweight_head": Case(lambda: SimCLR(0.5, head="reweight"), heads=("reweight",)),
    "symmetric_relu_head": Case(lambda: SimCLR(0.5)),
    "core_tuning": Case(core_tuning, student=(0,), heads=("pooled", "projector", "classifier")),
    "augmented_tuning": Case(lambda: augmented_tuning(None), heads=("pooled", "classifier"), partial=True),
    "augmented_tuning_mixed": Case(lambda: augmented_tuning(0.5), heads=("pooled", "classifier"), partial=True),
    "ctp_tft": classifier(lambda: CTPTFT(DIM, 1.0)),
    "gopro": Case(lambda: GOPro(0.2, 0.3, DIM, 1.0), (0, 1, 2), heads=("projector", "classifier", "texts")),
    "metrix_contrastive": Case(lambda: metrix(lambda: ContrastivePairs(0.1, 1.2)), student=(0,)),
    "metrix_multi_similarity": Case(lambda: metrix(similar_pairs), student=(0,)),
    "metrix_proxy_anchor": Case(lambda: metrix(proxies), student=(0,)),
    "metrix_features": Case(lambda: metrix(similar_pairs, "feature"), student=(0,), heads=("pooled", "projector")),
    "metrix_features_of_proxies": Case(lambda: metrix(proxies, "feature"), student=(0,), heads=("pooled", "projector")),
    "metrix_input": Case(lambda: metrix(similar_pairs, "input"), student=(0, 1), added=(1,)),
    "metrix_input_of_proxies": Case(lambda: metrix(proxies, "input"), student=(0, 1), added=(1,)),
    "groco": Case(lambda: GroCo(1.0, 1, 2, True), student=(0, 1, 2)),
    "mixco": Case(lambda: MixCo(moco(), 0.05, 1.0), student=(0, 2), teacher=(1,), added=(2,)),
    "mixco_simclr": Case(lambda: MixCo(SimCLR(0.5), 0.5, 0.5), student=(0, 1, 2, 3), added=(2, 3)),
    "unmix": Case(lambda: UnMix(moco(), 1.0), student=(0, 2), teacher=(1,), added=(2,)),
    "unmix_dclw": Case(lambda: UnMix(moco(weight_sigma=0.5), 1.0), student=(0, 2), teacher=(1,), added=(2,)),
    "unmix_simclr": Case(lambda: UnMix(SimCLR(0.2), 1.0), student=(0, 1, 2), added=(2,)),
    "unmix_byol": Case(lambda: UnMix(BYOL(), 1.0), (0, 1, 2, 3), teacher=(0, 1), heads=BYOL_HEADS, added=(2, 3)),
    "bsim": Case(lambda: UnMix(SimCLR(0.2), 0.5), student=(0, 1, 2, 3), added=(2, 3)),
    "scatsimclr": Case(lambda: Pretext(SimCLR(0.5), 0.3), (0, 1, 2), heads=("projector", "pretext"), answers=4),
    "genview": Case(lambda: GenView(SimCLR(0.2), 1.0), heads=("projector", "map")),
    "genview_byol": Case(lambda: GenView(BYOL(), 1.0), teacher=(0, 1), heads=(*BYOL_HEADS, "map")),
    "groco_all_moved": Case(lambda: GroCo(1.0, 1, None, False), student=(0, 1, 2)),
    "supervised": classifier(lambda: Supervised(DIM, 0.1)),
    "supervised_mixed": classifier(lambda: Supervised(DIM, 0.0), mixed=(0,)),
    "supervised_added": classifier(lambda: Supervised(DIM, 0.0), student=(0, 1, 2), added=(1, 2)),
    "decoupled_mixup": classifier(lambda: DecoupledMixup(DIM, 0.1), mixed=(0,)),
    "decoupled_mixup_added": classifier(lambda: DecoupledMixup(DIM, 0.1), student=(0, 1), added=(1,)),
    "rankmixup_mrl": classifier(lambda: RankMixup(DIM, MRL(2.0), 0.1), student=(0, 1), added=(1,)),
    "rankmixup_mndcg": classifier(lambda: RankMixup(DIM, MNDCG(), 0.1), student=(0, 1, 2, 3), added=(1, 2, 3)),
    "regression": Case(lambda: Regression("mse"), student=(0,), heads=("regressor",), numbers=("regressor",)),
    "regression_mixed": Case(lambda: Regression("huber"), heads=("regressor",), numbers=("regressor",), mixed=(0,)),
    "conr": Case(lambda: ConR(0.5, 0.1, 0.2, 4.0), heads=("pooled", "regressor"), numbers=("regressor",)),
    "clip": Case(lambda: CLIP(0.2, 100.0)),
    "align": Case(lambda: CLIP(0.2, 100.0, label_smoothing=0.1)),
    "m2_encoder": Case(lambda: CLIP(0.2, 100.0, 0.1, "group", groups=2)),
    "m2_encoder_of_four": Case(lambda: CLIP(0.2, 100.0, 0.0, "group", groups=4)),
    "siglip": Case(lambda: SigLIP(0.2, -2.0)),
    "contrastive_gap": Case(lambda: ContrastiveGap(0.2, 100.0, 1.0, 1.0, 1.0, 2.0)),
    "cwcl": Case(lambda: CWCL(0.2, 100.0, 0), heads=("projector", "pooled")),
    "m2_mix": Case(lambda: M2Mix(0.2, 100.0, ["modalities", "main", "other", "both"], 0.5, 0.5, 0.1)),
    "m3col": Case(lambda: m3col(1.0), heads=("projector", "classifier")),
    "m3col_soft": Case(lambda: m3col(0.0), heads=("projector", "classifier")),
    "cleanclip": Case(lambda: CleanCLIP(0.2, 100.0, 1.0), student=(0, 1, 2, 3)),
    "count": Case(lambda: Counting(0.2, 100.0, 1.0, True), student=(0, 1, 2)),
    "albef": worded(albef, (0, 1, 2), (0, 1, 2)),
    "coca": worded(coca, (0, 1)),
    "urbanclip": worded(lambda: coca(caption=1.0), (0, 1)),
    "cosmo": worded(lambda: coca(True), (0, 1)),
    "vladva": worded(coca, (0, 1, 2)),
    "rerank_contrastive": worded(reranker, (0, 1)),
    "biovil_text": worded(lambda: seeded(lambda: BioViL(0.2, 100.0, 1.0, DIM, 9)), (0, 1, 2), tokens="places"),
    "biovil": worded(lambda: seeded(lambda: BioViL(0.2, 100.0, 0.5, DIM, 9)), (0, 1, 2), tokens="places"),
    "dito": Case(dito, heads=("projector", "places"), images=("projector",), patches=(4, 4)),
    "villa": worded(villa, (0, 1), tokens="places"),
    "villa_regions": Case(
        villa_regions, (0,), (1,), ("projector", "places", "words"), images=("projector",), patches=(4, 4), words=True
    ),
    "cloc": cloc(),
    "layer_contrast": Case(lambda: LayerContrast(0.2), heads=("layers",), patches=(3, 4)),
    "hicmae": Case(hicmae, heads=("patch_features", "layers"), patches=(2, 2)),
    "msd": Case(lambda: MSD(0.2, 100.0, 0.4, 0.5), teacher=(0, 1)),
    "gram": Case(lambda: GRAM(0.2, 100.0, 0.1, -1, 1e-6), student=(0, 1, 2)),
    "more": Case(more, student=(0, 1, 2)),
    "cl2l": Case(cl2l, student=(0, 1, 2, 3), heads=("projector", "local_projector")),
    "barlip": rocket(lambda: BarlowTwins(5e-3, 0.025, "second_projector")),
    "siamlip": rocket(lambda: SimSiam(True, "second_projector", "second_predictor"), "second_predictor"),
    "swalip": rocket(lambda: SwAV(0.1, 0.05, 3, 8, DIM, 2, 0.0, None, 0.0, "second_projector")),
    "mae": Case(lambda: MAE(norm_pix=True), student=(0,), heads=("decoder",), patches=(4,)),
    "simmim": Case(lambda: SimMIM(), heads=("pixels",), patches=(4, 4)),
    "data2vec": Case(lambda: Data2Vec(2.0), (0,), (0,), heads=("patch_predictor", "layers"), patches=(4,)),
    "ijepa": Case(ijepa, student=(0,), teacher=(1,), heads=("patch_features", "patches"), patches=(2, 4)),
    "ibot": Case(ibot, (0, 1), (0, 1), patches=(5, 5)),
    "dinov2": Case(dinov2, (0, 1), (0, 1), DINOV2_HEADS, images=("projector", "pooled"), patches=(4, 4)),
    "mixed_ae": Case(mixed_ae, (0,), (), ("mixture_decoder", "patches"), mixed=(0,), patches=(4,)),
    "hybrid_distillation": Case(hybrid, (0,), (0,), HYBRID_HEADS, patches=(4,)),
    "msn": msn(0.0, 3),
    "msn_without_sinkhorn": msn(0.0, 0),
    "pmsn": msn(0.25, 3),
    "densecl": Case(densecl, (0,), (1,), ("projector", "dense_projector", "map"), maps=MAPS),
    "pixpro": Case(lambda: PixPro(0.7), teacher=(0, 1), heads=("dense_projector", "propagation"), maps=MAPS),
    "vicregl": Case(lambda: VICRegL(0.5, 0.5, 0.02, 0.75, (3, 2)), heads=("projector", "dense_projector"), maps=MAPS),
    "vicregl_views": Case(
        lambda: VICRegL(0.5, 0.5, 0.02, 0.75, (3, 9)), (0, 1, 2), heads=("projector", "dense_projector"), maps=MAPS
    ),
    "slotcon": Case(slotcon, teacher=(0, 1), heads=("dense_projector", "prototypes"), maps=MAPS),
    "obow": Case(obow, (1, 2, 3), (0,), heads=("projector", "map"), maps=MAPS),
    "cmim": Case(
        lambda: CMIM(0.2, 1.0, 1.0),
        student=(0,),
        heads=("posterior", "latent", "decoder"),
        halves=("latent",),
        size=0.1,
        inputs=True,
    ),
    "proto_triplet": Case(lambda: ProtoTriplet(0.5)),
    "icnn": Case(lambda: ICNN(3)),
    "meco": Case(lambda: MECO(0.5), heads=("energy",), numbers=("energy",)),
    "wad": Case(wad, (0,), (0,), heads=("classifier", "pooled"), partial=True),
    "sbcl": Case(sbcl),
    "sbcl_warm_up": Case(lambda: allocated(lambda: SBCL(6, DIM, 0.2, 0.07, 0.25, 2, 1, 1, 5))),
    "mixmatch": semi(lambda: MixMatch(DIM, 0.5, 1.0, 0.8), 0, 1),
    "mixmatch_mixed": semi(
        lambda: MixMatch(DIM, 0.5, 1.0, 0.8), 0, 1, 2, 3, added=(2, 3), of=(0, 1), answers_only=(0, 1)
    ),
    "remixmatch": semi(lambda: ReMixMatch(DIM, 0.5, 1.5, 0.5, 0.0, 3), 0, 1, 2),
    "remixmatch_mixed": Case(
        lambda: ReMixMatch(DIM, 0.5, 1.5, 0.5, 0.5, 3),
        (0, 1, 2, 3, 4),
        heads=("classifier", "pretext"),
        added=(3, 4),
        of=(0, 1),
        answers=4,
        answers_only=(0,),
        partial=True,
    ),
    "fixmatch": semi(lambda: FixMatch(DIM, 0.3, 1.0), 0, 1),
    "fixmatch_mixed": semi(lambda: FixMatch(DIM, 0.3, 1.0), 0, 1, 2, 3, added=(2, 3), of=(0, 1), answers_only=(0, 1)),
    "mean_teacher": semi(lambda: MeanTeacher(DIM, 100.0, 0.8), 0, teacher=(1,)),
    "mean_teacher_mixed": semi(lambda: MeanTeacher(DIM, 100.0, 0.8), 0, 2, teacher=(1,), added=(2,)),
    "deep_cotraining": Case(
        deep_cotraining, (0,), heads=("classifier", "second_classifier"), partial=True, inputs=True
    ),
    "deep_cotraining_mixed": Case(
        deep_cotraining, (0, 1), heads=("classifier", "second_classifier"), partial=True, inputs=True, added=(1,)
    ),
    "coconut": Case(lambda: COCONUT(DIM, 2, 0.5, 0.7), (0,), (0,), heads=("classifier", "pooled")),
    "coconut_text": Case(
        lambda: COCONUT(DIM, 1, 0.5, 0.7, pairs=0.6), (0, 1), (0,), heads=("classifier", "pooled", "projector")
    ),
    "gpc": Case(gpc, heads=("projector", "pooled"), partial=True),
    "grace": Case(lambda: SimCLR(0.4)),
    "bgrl": Case(lambda: BYOL(), teacher=(0, 1), heads=("projector", "predictor")),
    "dgi": Case(lambda: seeded(lambda: DGI(DIM))),
    "mclrec": Case(
        lambda: seeded(lambda: MCLRec(DIM, DIM, [4, 2], 1.0, 0.1, 0.01, 0.1)), (0, 1, 2), heads=("pooled", "classifier")
    ),
    "cl4srec": Case(cl4srec, student=(0, 1, 2), heads=("classifier", "projector")),
    "meow": Case(lambda: allocated(lambda: MEOW([2, 3], 5, 0.4, 0.4, 10.0, 1.0, 1, DIM))),
    "adameow": Case(lambda: seeded(lambda: AdaMEOW(0.4, DIM, 4))),
    "pamc": Case(lambda: allocated(lambda: PamC(2, DIM, 0.5, 2.0, 5)), student=(0,), inputs=True),
    "simcse": Case(lambda: SimCSE(0.2)),
    "simcse_of_three": Case(lambda: SimCSE(0.2), student=(0, 1, 2)),
    "whitened_cse": Case(whitened_cse, student=(0, 1, 2), heads=("pooled", "projector")),
    "debcse": Case(lambda: DebCSE(0.2, 3, 4, 0.5, 1), teacher=(0, 1), inputs=True),
    "mw_loss": Case(lambda: MWLoss(0.2, True)),
    "mw_loss_of_own": Case(lambda: MWLoss(0.2, False)),
    "contriever": Case(lambda: seeded(lambda: Contriever(0.2, Queue(20, DIM))), student=(0,), teacher=(1,)),
    "cocosoda": Case(cocosoda, student=(0, 1), teacher=(0, 1, 2, 3)),
    "cosent": Case(lambda: CoSENT(20.0)),
    "mnr_moe": Case(lambda: MNR(5.0, symmetric=False)),
    "mnr, both ways": Case(lambda: MNR(5.0, symmetric=True)),
    "mnr_moe, mutual information": Case(
        lambda: MNR(5.0, symmetric=False, mutual_information=0.5), heads=("projector", "routes"), likely=("routes",)
    ),
    "codiemb": Case(lambda: CoDiEmb(0.2, 1, 0.2, 2.0, 0.5, 5.0, 0.0)),
    "codiemb, both tasks, middle": Case(
        lambda: CoDiEmb(0.2, 2, 0.2, 2.0, 0.5, 5.0, 1.0),
        student=(0, 1, 2, 3),
        heads=("projector", "middle"),
        partial=True,
    ),
    "pairing_net": Case(lambda: PairingNet(0.2, 0.5), neighbours=True),
    "pairing_net, points": Case(
        lambda: PairingNet(0.2, 0.5, matching=0.7, points=PointMatching(1.5, 0.55, 2.0, 4.0, "tokens")),
        heads=("projector", "tokens"),
        images=("projector",),
        patches=(4, 4),
        neighbours=True,
    ),
    "dialog2flow": Case(lambda: Dialog2Flow(0.2, 0.35, ["a b", "b c", "c", "d a b"])),
    "ts2vec": Case(lambda: TS2Vec(0.4), heads=("points",), patches=(4, 4), shared=True),
    "margin_pair": Case(lambda: MarginPair(1.4)),
    "sirl": Case(lambda: SIRL(1.0), student=(0,), least=3),
    "w2v_bert": Case(
        lambda: seeded(lambda: W2VBert(DIM, DIM, 5, 4, 0.2, (2.0, 0.5), 0.9, 1.0, 0.1, 1.0, 0.5)),
        (0,),
        heads=("patch_features", "layers"),
        patches=(4,),
        pictures=True,
    ),
    "autotcl": Case(autotcl, (0,), heads=("points",), patches=(4,), series=True),
    "tera": Case(lambda: TERA(), (0,), heads=("frames",), patches=(4,), pictures=True),
    "circuitgcl": Case(lambda: CircuitGCL(1.0), (0,), (0,), heads=BYOL_HEADS),
    "balanced_mse": Case(lambda: BalancedMSE(0.5), heads=("regressor",), numbers=("regressor",)),
    "supremix": Case(lambda: SupReMix(0.2, 1.5, (2.0, 8.0), 3, 4)),
    "any_loss": Case(lambda: AnyLoss(1, "f_beta", 1.0, 5.0), heads=("detector",)),
    "any_loss_of_recalls": Case(lambda: AnyLoss(1, "gmean2", 1.0, 5.0), student=(0,), heads=("detector",)),
    "simctg": Case(lambda: SimCTG(0.5), heads=("tokens",), patches=(4, 3)),
    "contrastive_entropy": Case(lambda: ContrastiveEntropy(["projector"])),
    "contrastive_entropy_of_layers": Case(
        lambda: ContrastiveEntropy(["block_1", "projector"]), heads=("block_1", "projector"), maps=("block_1",)
    ),
}
