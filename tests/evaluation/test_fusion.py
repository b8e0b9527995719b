"""A probe of two modalities together: equal to features made sample by sample, and refused where nothing is fused."""

import pytest
import torch

from ssl_framework.build import build, build_data, build_module
from ssl_framework.evaluation.features import Frozen, Splits, in_eval_mode
from ssl_framework.evaluation.probes.linear import LinearProbe
from tests.objectives.test_hicmae import SMALL
from tests.small_runs import small


def test_scores_are_those_of_mean_patches_made_one_by_one() -> None:
    cfg = small("hicmae", *SMALL, "evaluation=fusion", "evaluation.after.max_iter=5")
    torch.manual_seed(0)
    data = build_data(cfg)
    module = build_module(cfg, True, 48)
    evaluation, splits = build(cfg.evaluation).after, Splits(data.train, data.test)
    found = evaluation.score_module(module, splits)
    features = []
    with torch.no_grad(), in_eval_mode(module):
        for split in splits:
            rows: dict[str, list] = {"image": [], "sound": [], "both": [], "fused": []}
            for n in range(len(split.rows)):
                own = module.views.clean(split.rows[n : n + 1])
                sound = module.views.clean(split.beside["sound"][n : n + 1], "sound")
                one = module.student.tower("image").encode(own)["patches"]
                two = module.student.tower("sound").encode(sound)["patches"]
                rows["image"].append(one.mean(dim=1))
                rows["sound"].append(two.mean(dim=1))
                rows["both"].append(torch.cat([one.mean(dim=1), two.mean(dim=1)], dim=1))
                rows["fused"].append(torch.cat([x.mean(dim=1) for x in module.objective.fusion(one, two)], dim=1))
            features.append({how: Frozen(torch.cat(z), split.label) for how, z in rows.items()})
    for how, train in features[0].items():
        expected = LinearProbe(1e-4, 5)(train, features[1][how])["linear[l2=0.0001]/top1"]
        assert found[f"fusion[{how},l2=0.0001]/top1"] == pytest.approx(expected, abs=100 / 32 + 1e-6)
    assert len(found) == 4 and found["fusion[fused,l2=0.0001]/top1"] != found["fusion[both,l2=0.0001]/top1"]


def test_what_fuses_nothing_is_refused() -> None:
    cfg = small("clip", "evaluation=fusion")
    with pytest.raises(ValueError, match="scores what two modalities know together, which CLIP does not: choose"):
        build(cfg.evaluation).after.check(build_module(cfg, True, 48))
