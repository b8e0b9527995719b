"""Which training samples a method is told of: partial labels, long tails, and who refuses them."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from ssl_framework.build import build_data, build_module, check_labels
from ssl_framework.data.base import Split
from ssl_framework.data.labels import (
    FewLabels,
    KnownClasses,
    LongTailed,
    PartialLabels,
    TaskLabels,
    long_tail_sizes,
    num_known,
    told,
)
from ssl_framework.data.pseudo_labels import Classes
from ssl_framework.runs.config import config_hash
from ssl_framework.runs.folder import read_json
from ssl_framework.training.parts import build_data_and_module
from tests.small_runs import SMALL, config, run_in, small

Y = torch.arange(60) % 6


def split(label: torch.Tensor | None = Y) -> Split:
    return Split(torch.arange(60)[:, None, None, None].to(torch.uint8), label)


def test_a_share_of_the_known_classes_keeps_its_labels() -> None:
    found = PartialLabels(0.3, 0.5, 0)(split()).label
    assert found is not None
    kept = found >= 0
    assert torch.equal(found[kept], Y[kept]) and (found[~kept] == -1).all()
    assert found[kept].bincount().tolist() == [3, 3, 3]  # of the first half of the classes
    assert torch.equal(PartialLabels(0.3, 0.5, 0)(split()).label, found)
    assert not torch.equal(PartialLabels(0.3, 0.5, 1)(split()).label, found)
    more = PartialLabels(0.6, 1.0, 0)(split()).label
    assert more is not None and (more[kept] >= 0).all() and more[more >= 0].bincount().tolist() == [6] * 6
    assert told(split(more)) == {"samples": 60, "labelled": 36, "classes": 6}


def test_a_long_tail_keeps_fewer_of_each_class_and_the_samples_are_whole() -> None:
    found = LongTailed(10, 0)(split())
    assert found.label is not None and found.label.bincount().tolist() == [10, 6, 3, 2, 1, 1]
    assert torch.equal(Y[found.rows[:, 0, 0, 0].long()], found.label)
    milder = LongTailed(2, 0)(split())
    assert set(found.rows.flatten().tolist()) <= set(milder.rows.flatten().tolist())
    assert long_tail_sizes([500] * 10, 100)[::9] == [500, 5]


def test_a_task_has_its_classes_and_a_few_samples_of_those_before_them() -> None:
    found = TaskLabels(2, 4, 0.25, 0)(split())
    assert found.label is not None and found.label.bincount().tolist() == [2, 2, 10, 10]
    assert torch.equal(Y[found.rows[:, 0, 0, 0].long()], found.label)
    more = TaskLabels(2, 4, 0.5, 0)(split())
    assert set(found.rows.flatten().tolist()) < set(more.rows.flatten().tolist())
    none = TaskLabels(2, 4, 0.0, 0)(split()).label
    assert none is not None and none.unique().tolist() == [2, 3]
    with pytest.raises(
        ValueError, match="takes the classes 6 to 8, but no training sample is of them: there are classes"
    ):
        TaskLabels(6, 9, 0.1, 0)(split())
    with pytest.raises(
        ValueError, match=r"labels\.first is 4 and labels.end 4: a task has the classes from first to end"
    ):
        TaskLabels(4, 4, 0.1, 0)


def test_few_samples_of_each_class_are_left_with_their_labels() -> None:
    found = FewLabels(0.3, 0)(split())
    assert found.label is not None and found.label.bincount().tolist() == [3] * 6
    assert torch.equal(Y[found.rows[:, 0, 0, 0].long()], found.label)
    more = FewLabels(0.6, 0)(split())
    assert set(found.rows.flatten().tolist()) <= set(more.rows.flatten().tolist())
    assert FewLabels(0.001, 0)(split()).label.tolist() != [] and len(FewLabels(0.001, 0)(split()).rows) == 6  # type: ignore[union-attr]


def test_only_samples_of_known_classes_are_left() -> None:
    found = KnownClasses(0.4)(split())
    assert found.label is not None and found.label.tolist() == [y for y in Y.tolist() if y < 3]
    assert torch.equal(Y[found.rows[:, 0, 0, 0].long()], found.label)


def test_known_classes_are_rounded_up() -> None:
    assert [num_known(10, share) for share in (0.01, 0.2, 0.21, 0.5, 1.0)] == [1, 2, 3, 5, 10]


@pytest.mark.parametrize("label", [None, Y.float()])
def test_other_than_classes_are_refused(label: torch.Tensor | None) -> None:
    for choice in (
        PartialLabels(0.5, 0.5, 0),
        LongTailed(10, 0),
        TaskLabels(0, 2, 0.5, 0),
        KnownClasses(0.5),
        FewLabels(0.5, 0),
    ):
        with pytest.raises(ValueError, match=r"labels=\w+ goes by the classes of the training samples, but they have"):
            choice(split(label))
    with pytest.raises(ValueError, match="labels=long_tail picks samples in memory"):
        LongTailed(10, 0)(split()._replace(real=30))


def test_objectives_that_do_not_say_so_refuse_a_sample_without_a_label() -> None:
    for method in ("supcon", "simclr"):
        cfg = config(f"method={method}", "labels=partial", *SMALL)
        with pytest.raises(
            ValueError,
            match=r"some have -1, which is no class: set labels=all, or choose method=augmented_tuning, ",
        ):
            build_data_and_module(cfg, Path("none"), False)
    with pytest.raises(ValueError, match="pseudo_labels=classes takes a class of every training sample, but labels="):
        Classes()(PartialLabels(0.5, 0.5, 0)(split()), 0, torch.device("cpu"))
    cfg = small("gpc")
    data = build_data(cfg)
    check_labels(build_module(cfg, True, 48).objective, data.pretrain.label)  # type: ignore[union-attr]
    assert data.train.label is not None and data.train.label.min() == 0  # evaluators know all


def test_batches_of_a_run_hold_their_share_of_labelled_samples() -> None:
    data = build_data(small("fixmatch", "sampler=labelled", "sampler.share=0.25", "labels.share=0.2"))
    draw = data.draw()
    assert draw is not None and data.pretrain.label is not None
    batches = draw(0, 0)
    assert ((data.pretrain.label[batches] >= 0).sum(dim=1) == round(0.25 * batches.shape[1])).all()
    plain = build_data(small("simclr")).draw()
    assert plain is not None and plain.population.told is None


def test_the_result_says_how_many_labels_there_were_and_all_labels_change_no_hash(tmp_path: Path) -> None:
    run_in(tmp_path, small("gpc", "trainer.max_steps=2"))
    assert read_json(tmp_path / "result.json")["labels"] == {"samples": 48, "labelled": 10, "classes": 5}
    cfg = config(*SMALL)
    before = config_hash(cfg)
    OmegaConf.set_struct(cfg, False)  # as stored by an earlier version
    del cfg["labels"]
    assert config_hash(cfg) == before != config_hash(config("labels=long_tail", *SMALL))
