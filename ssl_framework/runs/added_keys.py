"""What configs say today and did not at first, or the other way round, where it changes nothing: hashes and comparisons
of configs are made of the first form, so that records and run folders from before are still the same run."""

import copy
from typing import Any

KEYS: dict[tuple[str, Any], str] = {
    ("final_momentum", None): "models.encoder.EMATeacher",
    ("second", None): "models.frozen_teacher.FrozenTeacher",
    ("heads", None): "models.frozen_teacher.FrozenTeacher",
    ("shuffle_bn", None): "models.encoder.EMATeacher",
    ("last_norm", False): "models.heads.MLPHead",
    ("checkpoint_activations", False): "models.backbone.Backbone",
    ("pretrained", False): "models.backbone.Backbone",
    ("frozen_stages", 0): "models.backbone.Backbone",
    ("masked_tokens", None): "models.backbone.Backbone",
    ("last_layers", 0): "models.backbone.Backbone",
    ("layer_decay", 1.0): "optim.OptimizerRecipe",
    ("final_weight_decay", None): "optim.OptimizerRecipe",
    ("clip_rate", False): "optim.LARS",
    ("hidden", 0.0): "models.series.SeriesBackbone",
    ("weak", 0): "views.audio.AudioViews",
    ("question", None): "views.audio.AudioViews",
    ("alike", False): "mixers.mixing.Mixing",
    ("by_area", False): "mixers.rules.ResizeMix",
    ("unlabelled", False): "data.images.arrays.TorchvisionSource",
    ("negatives", "predictions"): "objectives.nnclr.NNCLR",
    ("bits", None): "data.images.folder.FolderSource data.images.files.FilesSource",
    ("on_error", "refuse"): (
        "data.images.files.FilesSource data.images.litdata_shards.LitDataSource "
        "data.images.webdataset_shards.WebDatasetSource"
    ),
    ("table", None): "data.images.folder.FolderSource data.images.files.FilesSource",
    ("columns", None): "data.images.folder.FolderSource data.images.files.FilesSource",
    ("head", "projector"): (
        "objectives.barlow_twins.BarlowTwins objectives.cacr.CACR objectives.cacr_moco.CACRMoCo objectives.dcl.DCL "
        "objectives.groco.GroCo objectives.instance_discrimination.InstanceDiscrimination objectives.metrix.Metrix "
        "objectives.moco.MoCo objectives.multiview.DHEL objectives.multiview.MultiView objectives.simclr.SimCLR "
        "objectives.simlap.SimLAP objectives.sogclr.ISogCLR objectives.sogclr.SogCLR objectives.supcon.SupCon "
        "objectives.supremix.SupReMix objectives.swav.SwAV"
    ),
    ("groups", 1): "objectives.clip.CLIP",
    ("causal", False): "models.text.TextTransformer",
    ("experts", 0): "models.text.TextTransformer",
    ("expert_layers", None): "models.text.TextTransformer",
    ("routing", "domain"): "models.text.TextTransformer",
    ("top_k", 1): "models.text.TextTransformer",
    ("mutual_information", 0.0): "objectives.mnr.MNR",
    ("train_domains", None): "data.texts.domains.OfDomains",
    ("folder", None): "data.pairs.words.CaptionVocabulary",
    ("mismatched", 0.0): "data.pairs.captioned_shapes.CaptionedShapes",
    ("poisoned", 0.0): "data.pairs.captioned_shapes.CaptionedShapes",
    ("head", "classifier"): (
        "objectives.decoupled_mixup.DecoupledMixup objectives.rankmixup.RankMixup objectives.supervised.Supervised"
    ),
    ("head", "regressor"): "objectives.regression.Regression",
    ("head", "pooled"): "objectives.conr.ConR",
    ("regressor", "regressor"): "objectives.conr.ConR",
    ("student_head", "predictor"): (
        "objectives.byol.BYOL objectives.cacr_moco.CACRMoCoV3 objectives.mocov3.MoCoV3 objectives.patchmix.PatchMix "
        "objectives.sdmp.SDMP"
    ),
    ("teacher_head", "projector"): (
        "objectives.byol.BYOL objectives.cacr_moco.CACRMoCoV3 objectives.mocov3.MoCoV3 objectives.patchmix.PatchMix "
        "objectives.sdmp.SDMP"
    ),
    ("projector", "projector"): "objectives.core_tuning.CoreTuning objectives.nnclr.NNCLR",
    ("classifier", "classifier"): "objectives.core_tuning.CoreTuning",
    ("predictor", "predictor"): "objectives.nnclr.NNCLR",
    ("common", "common"): "objectives.sepclr.SepCLR",
    ("salient", "salient"): "objectives.sepclr.SepCLR",
    ("search", 1.0): "objectives.pairing_net.PairingNet",
    ("matching", 0.0): "objectives.pairing_net.PairingNet",
    ("pairs", 0.0): "objectives.coconut.COCONUT",
    ("pair_head", "projector"): "objectives.coconut.COCONUT",
}
"""Key and the value at which it is left out -> the classes whose argument it is."""

SHORT_VIT = "vit_tiny_patch16_224"
"""timm's name of ``backbone=vit_tiny``, which has six of its blocks."""

ALWAYS_NAMED = "ssl_framework.models.heads.SymmetricReLUHead"
"""The objective of runs with this head has named its head from the first."""


def once_partial(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes that were marked with ``_partial_: true`` until their constructors took all that a config says: heads,
    the teacher, and SimLAP's gate."""
    student = below(content, "student")
    encoders = [student, *below(student, "towers").values()]
    heads = [head for encoder in encoders for head in below(encoder, "heads").values()]
    return [node for node in (*heads, content.get("teacher"), gate_of(content)) if node and isinstance(node, dict)]


def below(node: Any, key: str) -> dict[str, Any]:
    """The mapping at a key; an empty one where there is none: what a file holds is not known yet."""
    found = node.get(key) if isinstance(node, dict) else None
    return found if isinstance(found, dict) else {}


def gate_of(content: dict[str, Any]) -> dict[str, Any] | None:
    """SimLAP's gate, to which its objective gave the number of classes at first."""
    gate = below(below(content, "objective"), "gate")
    return gate if str(gate.get("_target_")).endswith("objectives.simlap.LabelGate") else None


def as_built_now(content: dict[str, Any]) -> dict[str, Any]:
    """A copy of a stored config in which nothing is marked with ``_partial_`` that is so no more."""
    found = copy.deepcopy(content)
    for node in once_partial(found):
        node.pop("_partial_", None)
    if gate := gate_of(found):
        gate.setdefault("num_classes", found["objective"].get("num_classes"))
    return found


def as_built_first(content: dict[str, Any]) -> dict[str, Any]:
    """The other way round."""
    found = copy.deepcopy(content)
    for node in once_partial(found):
        node["_partial_"] = True
    if (gate := gate_of(found)) and gate.get("num_classes") == found["objective"].get("num_classes"):
        gate.pop("num_classes", None)
    return found


def without_added(content: dict[str, Any]) -> dict[str, Any]:
    """A copy of a nested config as it would have been written at first."""
    node = left_out(as_built_first(content))
    heads = (content.get("student") or {}).get("heads") or {}
    if any(head.get("_target_") == ALWAYS_NAMED for head in heads.values()):
        node["objective"] = content["objective"]
    if (node.get("trainer") or {}).get("strategy") == "ddp":  # so it was before there was another
        del node["trainer"]["strategy"]
    if not node.get("masker"):  # likewise
        node.pop("masker", None)
    for key in ("max_minutes", "stop_early"):
        if (node.get("trainer") or {}).get(key, 0) is None:
            del node["trainer"][key]
    if not node.get("labels"):  # labels=all
        node.pop("labels", None)
    data = node.get("data") or {}
    if data.get("tokenizer_folder", 0) is None:
        del data["tokenizer_folder"]
    for (key, value), classes in KEYS.items():  # what a source reads stands once more beside it
        source = str((data.get("source") or {}).get("_target_")).removeprefix("ssl_framework.")
        if source in classes.split() and key in data and data[key] == value:
            del data[key]
    return node


def left_out(node: Any) -> Any:
    """A copy of a node in which no class has one of its ``KEYS`` at the value that changes nothing."""
    if isinstance(node, list):
        return [left_out(value) for value in node]
    if not isinstance(node, dict):
        return node
    target = str(node.get("_target_")).removeprefix("ssl_framework.")
    added = {key: value for (key, value), classes in KEYS.items() if target in classes.split()}
    if node.get("name") == SHORT_VIT and below(node, "options").get("depth") == 6:  # one file did not name them
        added["weights"] = None
    if node.get("hidden") == []:  # what normalisation between the layers does not change; one file did not name it
        added["norm"] = True
    if node.get("matching") == 0:  # of a term that is not there
        added["points"] = node.get("points")
    return {key: left_out(value) for key, value in node.items() if key not in added or value != added[key]}
