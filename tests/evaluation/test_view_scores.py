"""Scores of augmented views during training: against loops, and training does not notice."""

import math
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssl_framework import functional
from ssl_framework.build import build, build_data, build_module
from ssl_framework.data.base import Split
from ssl_framework.evaluation.during_training.view_scores import (
    EDGES,
    HISTOGRAMS,
    ViewScores,
    append,
    read_scores,
    similarities_of,
    summary,
)
from ssl_framework.evaluation.measures import alignment
from ssl_framework.evaluation.spectrum import lidar
from ssl_framework.functional import unit
from ssl_framework.module import SSLModule
from ssl_framework.runs.folder import read_metrics
from ssl_framework.types import Samples
from tests.small_runs import config, run_in, small
from tests.training.test_resume import assert_identical, crash, interrupt_at, last

SETTINGS: dict[str, Any] = {
    "num_samples": 20, "num_views": 3, "head": None, "temperature": 0.3, "num_hard": 4,
    "lidar_delta": 1e-4, "lidar_epsilon": 1e-8, "every_n_epochs": 1, "seed": 0,
}  # fmt: skip
SCORED = (
    "evaluation=scores",
    "evaluation.probes.knn=null",
    "evaluation.probes.linear=null",
    "evaluation.baselines=false",
    "evaluation.scores.num_samples=20",
    "evaluation.scores.num_hard=4",
    "evaluation.scores.every_n_epochs=1",
)
PREFIX = "scores[n=20,head=projector]"


def rows(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loop(q: Tensor, k: Tensor, tau: float, h: int, label: Tensor) -> dict[str, list[float]]:
    """Every query's numbers, pair by pair."""
    found: dict[str, list[float]] = {name: [] for name in ("pos", "mean", "var", "hard", "npc", "match", "false")}
    for i in range(len(q)):
        cosine = [float(q[i] @ k[j]) for j in range(len(k))]
        others = sorted((j for j in range(len(k)) if j != i), key=lambda j, c=cosine: -c[j])
        mean = sum(cosine[j] for j in others) / len(others)
        total = sum(math.exp(c / tau) for c in cosine)
        found["pos"].append(cosine[i])
        found["mean"].append(mean)
        found["var"].append(sum((cosine[j] - mean) ** 2 for j in others) / len(others))
        found["hard"].append(cosine[others[0]])
        found["npc"].append(1 - math.exp(cosine[i] / tau) / total)
        found["match"].append(sum(math.exp(cosine[j] / tau) / total for j in others[:h]) / h)
        found["false"].append(sum(int(label[j] == label[i]) for j in others[:h]) / h)
    return found


@pytest.mark.parametrize("tile", [functional.TILE, 25])
def test_similarities_are_those_of_loops_in_one_tile_and_in_many(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "TILE", tile)
    q, k, label = unit(rows(11, 5)), unit(rows(11, 5, 1)), torch.arange(11) % 3
    found, expected = similarities_of(q, k, 0.3, 4, label), loop(q, k, 0.3, 4, label)
    for value, name in zip(found, expected, strict=True):
        assert value is not None and torch.allclose(value, torch.tensor(expected[name], dtype=torch.float64)), name
    assert similarities_of(q, k, 0.3, 4).false_negatives is None

    def mean(name: str) -> float:
        return sum(expected[name]) / 11

    assert summary(found, 0.3, 4) == pytest.approx({
        "positive_similarity": mean("pos"),
        "positive_variance": sum((x - mean("pos")) ** 2 for x in expected["pos"]) / 11,
        "negative_similarity": mean("mean"),
        "negative_variance": mean("var"),
        "hardest_similarity": mean("hard"),
        "proxy_accuracy": sum(p > h for p, h in zip(expected["pos"], expected["hard"], strict=True)) / 11,
        "match_probability[hardest=4,T=0.3]": mean("match"),
        "npc_multiplier[T=0.3]": mean("npc"),
        "npc_multiplier_variation[T=0.3]": math.sqrt(sum((x - mean("npc")) ** 2 for x in expected["npc"]) / 11)
        / mean("npc"),
        "false_negatives[hardest=4]": mean("false"),
    })  # fmt: skip


def test_scores_of_embeddings_that_are_apart_and_that_are_all_equal() -> None:
    apart = torch.eye(6, dtype=torch.float64)
    perfect = summary(similarities_of(apart, apart, 0.1, 2, torch.arange(6)), 0.1, 2)
    assert (perfect["positive_similarity"], perfect["negative_similarity"], perfect["proxy_accuracy"]) == (1, 0, 1)
    assert perfect["npc_multiplier[T=0.1]"] == pytest.approx(5 / (math.exp(10) + 5), rel=1e-12)
    assert perfect["false_negatives[hardest=2]"] == 0
    same = unit(torch.ones(6, 4, dtype=torch.float64))
    collapsed = summary(similarities_of(same, same, 0.1, 2, torch.zeros(6)), 0.1, 2)
    assert collapsed["proxy_accuracy"] == 0 and collapsed["false_negatives[hardest=2]"] == 1
    assert collapsed["npc_multiplier[T=0.1]"] == pytest.approx(5 / 6)
    assert collapsed["match_probability[hardest=2,T=0.1]"] == pytest.approx(1 / 6)


@pytest.fixture
def module() -> SSLModule:
    return build_module(small("simclr"), True, 48)


def images(n: int = 30, label: Tensor | None = None) -> Split:
    generator = torch.Generator().manual_seed(0)
    return Split(torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator), label)


def test_all_scores_are_of_the_chosen_heads_views_in_eval_mode(module: SSLModule) -> None:
    scores = ViewScores(**SETTINGS)
    module.student.heads.eval()  # some part is in another mode than the rest
    modes = [part.training for part in module.modules()]
    state = torch.get_rng_state(), random.getstate()
    data = images(label=torch.arange(30) % 4)
    values, counts = scores.measure(module, data)
    assert modes == [part.training for part in module.modules()] and any(modes) and not all(modes)
    assert torch.equal(state[0], torch.get_rng_state()) and state[1] == random.getstate()

    index = torch.randperm(30, generator=torch.Generator().manual_seed(0))[:20].sort().values
    generator = torch.Generator().manual_seed(0)
    samples = Samples(data.rows[index], index)
    views = [*module.views(samples, generator).views, *module.views(samples, generator).views][:3]
    assert not torch.equal(views[0], views[2])
    module.eval()
    with torch.no_grad():
        z = torch.stack([module.student.encode(view)["projector"] for view in views], dim=1)
    q, k = unit(z[:, 0].double()), unit(z[:, 1].double())
    found = similarities_of(q, k, 0.3, 4, data.label[index])  # type: ignore[index]
    expected = summary(found, 0.3, 4) | {"alignment": alignment(q, k)}
    expected["lidar[views=3,delta=0.0001]"] = lidar(z, 1e-4, 1e-8)
    assert values == pytest.approx({f"{PREFIX}/{name}": value for name, value in expected.items()}, rel=1e-5)
    for name in HISTOGRAMS:
        assert np.array_equal(counts[name], np.histogram(getattr(found, name), EDGES)[0]) and counts[name].sum() == 20
    assert scores.measure(module, data)[0] == values
    pooled, _ = ViewScores(**SETTINGS | {"head": "pooled"}).measure(module, data)
    assert pooled["scores[n=20,head=pooled]/alignment"] != values[f"{PREFIX}/alignment"]


@pytest.mark.parametrize("label", [None, torch.rand(8)])
def test_without_classes_there_are_no_false_negatives_and_few_samples_have_fewer_hard_ones(
    module: SSLModule, label: Tensor | None
) -> None:
    values, _ = ViewScores(**SETTINGS | {"num_hard": 9}).measure(module, images(8, label))
    assert "scores[n=8,head=projector]/match_probability[hardest=7,T=0.3]" in values
    assert not [name for name in values if "false_negatives" in name]


def test_what_cannot_be_scored_says_why(module: SSLModule) -> None:
    with pytest.warns(UserWarning, match="scores of views skipped: the train split has fewer than two samples"):
        assert ViewScores(**SETTINGS).measure(module, images(1)) == ({}, {})
    dense = build_module(small("densecl"), True, 48)
    with pytest.warns(UserWarning, match="skipped: head dense_projector gives several vectors a sample"):
        assert ViewScores(**SETTINGS | {"head": "dense_projector"}).measure(dense, images()) == ({}, {})
    torch.nn.init.constant_(next(module.student.heads.parameters()), math.nan)
    with pytest.raises(ValueError, match=r"the outputs of the head projector of \d+ of the \d+ samples"):
        ViewScores(**SETTINGS).measure(module, images())


def test_views_of_another_size_are_left_out() -> None:
    module = build_module(small("swav", "views=multicrop"), True, 48)
    generator, samples = torch.Generator().manual_seed(0), Samples(images(5).rows, torch.arange(5))
    first, second = (module.views(samples, generator).views for _ in range(2))
    assert {view.shape[-1] for view in first[:2]} == {32} and {view.shape[-1] for view in first[2:]} == {16}
    z = ViewScores(**SETTINGS).embeddings(module, images(5), torch.arange(5))
    with torch.no_grad():
        expected = [module.eval().student.encode(view)["projector"] for view in (*first[:2], second[0])]
    assert torch.allclose(z, torch.stack(expected, dim=1), atol=1e-6)


def test_views_of_generated_images_are_scored_where_the_samples_have_such() -> None:
    module = build_module(small("genview"), True, 48)
    beside = {"generated": images(30).rows[torch.randperm(30)][:, None]}
    data = images(30)._replace(beside=beside)  # type: ignore[arg-type]
    index, generator = torch.arange(30), torch.Generator().manual_seed(0)
    made = module.views(Samples(data.rows[:], index, beside=beside), generator).views  # type: ignore[arg-type]
    z = ViewScores(**SETTINGS | {"num_views": 2}).embeddings(module, data, index)
    with torch.no_grad():
        expected = [module.eval().student.encode(view)["projector"] for view in made]
    assert torch.allclose(z, torch.stack(expected, dim=1), atol=1e-6)
    with pytest.warns(UserWarning, match="scores of views skipped: views show generated images of every sample, but"):
        assert ViewScores(**SETTINGS).measure(module, images()) == ({}, {})


def test_views_of_the_main_modality_are_scored_where_there_are_texts() -> None:
    cfg = small("clip", "data=captioned_shapes")
    data = build_data(cfg).train
    module = build_module(cfg, True, 48)
    values, _ = ViewScores(**SETTINGS).measure(module, data)
    head = ViewScores(**SETTINGS).head_of(module.student)
    assert 0 < values[f"scores[n=20,head={head}]/positive_similarity"] < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0}, "temperature is 0: it must be above 0"),
        ({"temperature": {"init": 1.0}}, "it must be a number above 0"),
        ({"num_hard": 20}, "num_hard is 20: it must be at least 1 and below num_samples, which is 20"),
        ({"num_hard": 0}, "num_hard is 0: it must be at least 1"),
        ({"num_views": 1}, "num_views is 1: it must be between 2 and 1000"),
        ({"lidar_delta": 0.0}, "lidar_delta is 0.0: it must be above 0"),
        ({"lidar_epsilon": -1.0}, "lidar_epsilon is -1.0: it must be at least 0"),
        ({"every_n_epochs": -1}, "every_n_epochs is -1: it must be at least 0"),
    ],
)
def test_settings_without_meaning_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViewScores(**SETTINGS | change)


@pytest.mark.parametrize("head", ["neck", "map", "places"])  # features of many vectors a sample are no head either
def test_an_unknown_head_is_refused_before_the_first_step(head: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"scores\.head is {head}, but the student has projector, pooled$"):
        run_in(tmp_path, small("simclr", *SCORED, f"evaluation.scores.head={head}"))
    assert not (tmp_path / "metrics.csv").exists()


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    run_in(folder, small("mocov2", *SCORED))
    return folder


def test_a_run_logs_its_scores_and_trains_as_without_them(scored: Path, tmp_path: Path) -> None:
    run_in(tmp_path, small("mocov2"))
    for key in ("state_dict", "optimizer_states"):
        assert_identical(last(tmp_path)[key], last(scored)[key], key)
    with_scores, without = read_metrics(scored / "metrics.csv"), read_metrics(tmp_path / "metrics.csv")
    logged = {name: curve for name, curve in with_scores.items() if name.startswith(f"eval/{PREFIX}/")}
    assert {name: curve for name, curve in with_scores.items() if name not in logged} == without
    assert [step for step, _ in logged[f"eval/{PREFIX}/match_probability[hardest=4,T=0.2]"]] == [6, 12]
    assert f"eval/{PREFIX}/false_negatives[hardest=4]" in logged

    file = read_scores(scored / "scores.npz")
    assert file["step"].tolist() == [6, 12] and file["epoch"].tolist() == [1, 2]
    assert np.array_equal(file["edges"], EDGES) and file["positive"].shape == (2, len(EDGES) - 1)
    (_, mean), (_, later) = logged[f"eval/{PREFIX}/positive_similarity"]
    centres = (EDGES[1:] + EDGES[:-1]) / 2
    assert (file["positive"] @ centres / 20).tolist() == pytest.approx([mean, later], abs=0.01)


def test_killed_and_resumed_the_file_is_that_of_the_whole_run(
    scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = small("mocov2", *SCORED, "trainer.checkpoint_every_n_epochs=2", "trainer.max_epochs=3")
    run_in(tmp_path / "whole", cfg)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 16, crash)
        with pytest.raises(RuntimeError, match="power cut"):
            run_in(tmp_path / "parts", cfg)
    assert last(tmp_path / "parts")["global_step"] == 12
    after = read_scores(tmp_path / "parts" / "scores.npz")
    append(tmp_path / "parts" / "scores.npz", 15, 3, {name: after[name][0] for name in HISTOGRAMS})
    run_in(tmp_path / "parts", cfg, resume=True)
    whole, parts = (read_scores(tmp_path / name / "scores.npz") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and whole["step"].tolist() == [6, 12, 18]
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)
    assert not [path for path in (tmp_path / "parts").iterdir() if path.name.startswith(".scores")]
    assert read_metrics(tmp_path / "whole" / "metrics.csv") == read_metrics(tmp_path / "parts" / "metrics.csv")


def test_a_new_run_in_a_used_folder_begins_a_new_file(scored: Path, tmp_path: Path) -> None:
    (tmp_path / "scores.npz").write_bytes((scored / "scores.npz").read_bytes())
    run_in(tmp_path, small("mocov2", *SCORED, "trainer.max_steps=3"))
    assert read_scores(tmp_path / "scores.npz")["step"].tolist() == [3]


def test_the_config_takes_the_objectives_temperature_where_there_is_one() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = {method: config(f"method={method}", "evaluation=scores") for method in ("dcl", "byol")}
    assert [cfg.evaluation.scores.temperature for cfg in found.values()] == [0.1, 0.2]
    scores = build(found["dcl"].evaluation).beside[0]
    assert isinstance(scores, ViewScores) and (scores.num_samples, scores.num_hard) == (1000, 64)
