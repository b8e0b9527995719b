"""The energy of MECO as a score of what is no data: an AUROC by hand, and a run that scores itself."""

from pathlib import Path

import pytest
import torch

from ssl_framework.build import build, build_module
from ssl_framework.data.base import Split
from ssl_framework.evaluation.after_training.energy import Energy
from ssl_framework.evaluation.features import Splits
from ssl_framework.runs.folder import read_json
from tests.small_runs import config, run_in, small


class Images:
    """A data set of one test split."""

    def __init__(self, images: torch.Tensor) -> None:
        self.split = Split(images)

    def load(self, split: str) -> Split:
        assert split == "test"
        return self.split


def test_it_counts_pairs_in_which_the_other_image_has_more_energy() -> None:
    """A head that gives the mean grey: other images are brighter in 11 of 12 pairs; their size is brought to ours."""
    module = build_module(config("method=meco", "data=digits", "data.channels=1"), False)
    student = module.student
    student.embed_layers = lambda x, heads: {"": x, f"{heads[0]}.1": x.mean(dim=(1, 2, 3))[:, None]}  # type: ignore
    own, other = torch.tensor([10, 20, 90]), torch.tensor([40, 100, 120, 200])
    images = [v[:, None, None, None].expand(-1, 1, size, size).to(torch.uint8) for v, size in ((own, 8), (other, 12))]
    evaluation = Energy("energy/1", "energy", 10, {"bright": Images(images[1]), "none": None}, 0)
    found = evaluation.score(module, Splits(Split(images[0]), Split(images[0])))
    assert found["energy[images=10]/auroc_bright"] == pytest.approx(100 * 11 / 12)
    assert set(found) == {"energy[images=10]/auroc_noise", "energy[images=10]/auroc_bright"}


def test_a_student_without_energy_is_refused() -> None:
    module = build_module(small("simclr"), True)
    evaluation = build(config("evaluation=energy").evaluation)
    images = Split(torch.zeros(4, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"evaluation\.head is energy, but the student has no head .* method=meco"):
        evaluation.score(module, Splits(images, images))
    with pytest.raises(ValueError, match=r"has no head of that name with one number"):  # before a training
        evaluation.check(module)


def test_a_run_of_meco_scores_its_energy_at_the_end(tmp_path: Path) -> None:
    short = ("data=digits", "trainer.max_steps=2", "evaluation=energy", "evaluation.others.shapes.num_test=20")
    cfg = config("method=meco", "report=none", "data.batch_size=32", *short)
    run_in(tmp_path, cfg)
    metrics = read_json(tmp_path / "result.json")["metrics"]
    assert set(metrics) == {"energy[images=1000]/auroc_noise", "energy[images=1000]/auroc_shapes"}
    assert all(0 <= value <= 100 for value in metrics.values())
