"""Keys that configs name today and did not at first, at the value that changes nothing: hashes and comparisons of
configs leave them out, so that records and run folders from before are still the same run."""

from typing import Any

ADDED: dict[str, dict[str, Any]] = {
    "models.encoder.EMATeacher": {"final_momentum": None, "shuffle_bn": None},
    "models.heads.MLPHead": {"last_norm": False},
    **{
        f"objectives.{name}": {"head": "projector"}
        for name in [
            "barlow_twins.BarlowTwins",
            "cacr.CACR",
            "cacr_moco.CACRMoCo",
            "dcl.DCL",
            "groco.GroCo",
            "instance_discrimination.InstanceDiscrimination",
            "metrix.Metrix",
            "moco.MoCo",
            "multiview.DHEL",
            "multiview.MultiView",
            "simclr.SimCLR",
            "simlap.SimLAP",
            "sogclr.ISogCLR",
            "sogclr.SogCLR",
            "supcon.SupCon",
            "supremix.SupReMix",
            "swav.SwAV",
        ]
    },
    **{
        f"objectives.{name}": {"student_head": "predictor", "teacher_head": "projector"}
        for name in ("byol.BYOL", "cacr_moco.CACRMoCoV3", "mocov3.MoCoV3", "patchmix.PatchMix", "sdmp.SDMP")
    },
    **{
        f"objectives.{name}": {"head": "classifier"}
        for name in ("decoupled_mixup.DecoupledMixup", "rankmixup.RankMixup", "supervised.Supervised")
    },
    "objectives.conr.ConR": {"regressor": "regressor", "head": "pooled"},
    "objectives.core_tuning.CoreTuning": {"projector": "projector", "classifier": "classifier"},
    "objectives.nnclr.NNCLR": {"projector": "projector", "predictor": "predictor"},
    "objectives.regression.Regression": {"head": "regressor"},
    "objectives.sepclr.SepCLR": {"common": "common", "salient": "salient"},
}
"""Class -> key -> value at which the key is left out."""

ALWAYS_NAMED = "ssl_framework.models.heads.SymmetricReLUHead"
"""The objective of runs with this head has named its head from the first."""


def without_added(content: dict[str, Any]) -> dict[str, Any]:
    """A copy of a nested config as it would have been written at first."""
    node = left_out(content)
    heads = (content.get("student") or {}).get("heads") or {}
    if any(head.get("_target_") == ALWAYS_NAMED for head in heads.values()):
        node["objective"] = content["objective"]
    return node


def left_out(node: Any) -> Any:
    """A copy of a node in which no class has one of its ``ADDED`` keys at the value that changes nothing."""
    if isinstance(node, list):
        return [left_out(value) for value in node]
    if not isinstance(node, dict):
        return node
    added = dict(ADDED.get(str(node.get("_target_")).removeprefix("ssl_framework."), {}))
    if node.get("hidden") == []:  # what normalisation between the layers does not change; one file did not name it
        added["norm"] = True
    return {key: left_out(value) for key, value in node.items() if key not in added or value != added[key]}
