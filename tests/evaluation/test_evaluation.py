"""Probes on data whose answer is known, k-NN against scikit-learn, and what extraction may not change."""

import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from ssl_framework.build import build, build_data, build_module
from ssl_framework.data.base import Split
from ssl_framework.evaluation.features import (
    Frozen,
    extract,
    extract_frozen,
    extract_layers,
    raw_input,
    samples_at_once,
)
from ssl_framework.evaluation.frozen import FrozenEvaluation
from ssl_framework.evaluation.probes.knn import KNN, largest, neighbours
from ssl_framework.evaluation.probes.linear import LinearProbe, LinearSGD
from ssl_framework.evaluation.probes.retrieval import Retrieval
from ssl_framework.evaluation.request import evaluate
from ssl_framework.evaluation.score_all import references
from ssl_framework.models.backbone import Backbone
from ssl_framework.models.encoder import Encoder
from ssl_framework.models.heads import Head
from ssl_framework.runs.folder import read_json
from ssl_framework.views.image import Views
from tests.small_runs import config, run_in, small


def clusters(n: int, classes: int, spread: float, seed: int) -> Frozen:
    """Gaussian clusters around fixed directions in 16 dimensions."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, 16, generator=torch.Generator().manual_seed(99))
    y = torch.arange(n) % classes
    return Frozen(centres[y] + spread * torch.randn(n, 16, generator=generator), y)


SGD = LinearSGD([0.03, 0.3], 20, 32, momentum=0.9, weight_decay=0.0, held_out=0.1, seed=0)
PROBES = [KNN(20, 0.1), LinearProbe(1e-4, 100), SGD]


@pytest.mark.parametrize("probe", PROBES)
def test_separable_data_gives_100_percent(probe: KNN | LinearProbe | LinearSGD) -> None:
    value = next(iter(probe(clusters(300, 5, 0.05, 0), clusters(200, 5, 0.05, 1)).values()))
    assert value == 100.0


@pytest.mark.parametrize("probe", PROBES)
def test_shuffled_labels_give_chance(probe: KNN | LinearProbe | LinearSGD) -> None:
    train, test = clusters(2000, 5, 0.05, 0), clusters(2000, 5, 0.05, 1)
    shuffled = [x._replace(y=torch.randint(5, (2000,), generator=torch.Generator().manual_seed(i))) for i, x in
                enumerate((train, test))]  # fmt: skip
    value = next(iter(probe(*shuffled).values()))
    assert abs(value - 20) < 4  # four and a half standard errors of 2000 draws


@pytest.mark.parametrize("k", [1, 20, 200])
def test_knn_equals_scikit_learn(k: int) -> None:
    train, test = clusters(600, 7, 1.5, 0), clusters(500, 7, 1.5, 1)
    theirs = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.1)
    )
    expected = 100 * theirs.fit(train.x.numpy(), train.y.numpy()).score(test.x.numpy(), test.y.numpy())
    got = KNN(k, 0.1, chunk=64)(train, test)
    assert got == {f"knn[k={k},T=0.1]/top1": pytest.approx(expected, abs=1e-9)}
    assert 30 < expected < 95


def test_knn_of_several_k_is_that_of_each() -> None:
    train, test = clusters(600, 7, 1.5, 0), clusters(500, 7, 1.5, 1)
    assert KNN([5, 50], 0.1)(train, test) == KNN(5, 0.1)(train, test) | KNN(50, 0.1)(train, test)


def test_a_grid_of_k_and_temperature_is_that_of_each_pair_from_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = clusters(600, 7, 1.5, 0), clusters(500, 7, 1.5, 1)
    expected = {}
    for k in (20, 5, 200):
        for t in (0.5, 0.02):
            expected |= KNN(k, t)(train, test)
    passes = []

    def counted(bank: torch.Tensor, x: torch.Tensor, k: int, chunk: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        passes.append((len(bank), len(x), k))
        return neighbours(bank, x, k, chunk)

    monkeypatch.setattr("ssl_framework.evaluation.probes.knn.neighbours", counted)
    got = KNN([20, 5, 200, 5], [0.5, 0.02], chunk=64)(train, test)  # the second 5 says nothing new
    assert got == expected and list(got) == list(expected) and passes == [(600, 500, 200)]
    assert len(set(got.values())) > 3 and all(value.count == 500 for value in got.values())


@pytest.mark.parametrize(
    ("choice", "ks", "temperatures"),
    [
        ("knn_cifar", [200], [0.1]),
        ("knn_imagenet", [20], [0.07]),
        ("knn_grid", [1, 5, 10, 20, 50, 100, 200], [0.02, 0.07, 0.1, 0.5]),
    ],
)
def test_the_conventions_of_knn_have_configs(choice: str, ks: list[int], temperatures: list[float]) -> None:
    probes = build(config(f"evaluation={choice}").evaluation).probes
    assert list(probes) == ["knn"] and (probes["knn"].ks, probes["knn"].temperatures) == (ks, temperatures)


def test_knn_does_not_depend_on_the_length_of_features_or_overflow_at_small_temperature() -> None:
    train, test = clusters(300, 5, 1.0, 0), clusters(200, 5, 1.0, 1)
    scaled = [x._replace(x=1000 * x.x) for x in (train, test)]
    assert KNN(20, 0.1)(train, test) == KNN(20, 0.1)(*scaled)
    (tiny,), (nearest,) = KNN(20, 1e-3)(train, test).values(), KNN(1, 1.0)(train, test).values()
    assert tiny == pytest.approx(nearest, abs=1.0)


def test_more_neighbours_than_samples_are_left_out_with_one_line() -> None:
    with pytest.warns(UserWarning, match=r"k-NN with k=\[200\] skipped: the train split has only 100 samples"):
        got = KNN([20, 200], 0.1)(clusters(100, 5, 0.1, 0), clusters(50, 5, 0.1, 1))
    assert list(got) == ["knn[k=20,T=0.1]/top1"]


def test_linear_probe_is_near_scikit_learn_and_repeats() -> None:
    train, test = clusters(1000, 7, 1.5, 0), clusters(2000, 7, 1.5, 1)
    scaler = StandardScaler().fit(train.x.numpy())
    theirs = LogisticRegression(C=1 / (1e-4 * 1000), max_iter=1000)
    theirs.fit(scaler.transform(train.x.numpy()), train.y.numpy())
    expected = 100 * theirs.score(scaler.transform(test.x.numpy()), test.y.numpy())
    got = LinearProbe(1e-4, 300)(train, test)["linear[l2=0.0001]/top1"]
    assert got == pytest.approx(expected, abs=0.3)
    assert got == LinearProbe(1e-4, 300)(train, test)["linear[l2=0.0001]/top1"]


def test_a_dead_feature_does_not_break_the_linear_probe() -> None:
    train, test = clusters(300, 5, 0.05, 0), clusters(200, 5, 0.05, 1)
    dead = [x._replace(x=torch.cat([x.x, torch.full((len(x.x), 1), 3.0)], dim=1)) for x in (train, test)]
    assert LinearProbe(1e-4, 100)(*dead) == {"linear[l2=0.0001]/top1": 100.0}


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: KNN(0, 0.1), "k is 0: it must be at least 1"),
        (
            lambda: KNN([], 0.1),
            r"k is \[\]: it must be a whole number, at least 1",
        ),
        (
            lambda: KNN(5, 0.0),
            r"temperature is 0\.0: it must be above 0",
        ),
        (lambda: KNN(5, [0.1, -1.0]), r"temperature is \[0\.1, -1\.0\]: it must be above 0"),
        (
            lambda: KNN(5, []),
            r"temperature is \[\]: it must be a number above 0",
        ),
        (lambda: LinearProbe(-1.0, 5), r"weight_decay is -1\.0: it must be at least 0"),
        (lambda: Retrieval([1, 0]), r"k is \[1, 0\]: it must be a list of one or more whole numbers"),
        (lambda: Retrieval([]), r"k is \[\]: it must be a list of one or more whole numbers"),
    ],
)
def test_bad_settings_are_refused(build, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=words):
        build()


def test_extraction_keeps_the_order_over_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssl_framework.evaluation.features.CHUNK_VALUES", 3 * 7 * 16)
    pixels = torch.randint(0, 256, (30, 3, 4, 4), dtype=torch.uint8)
    sizes = []

    def embed(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return x.flatten(1)

    assert torch.equal(extract(embed, Split(pixels, None), "cpu"), pixels.flatten(1).float())
    assert sizes == [7, 7, 7, 7, 2]


@pytest.mark.parametrize(
    ("device", "side", "count"), [("cpu", 32, 128), ("cpu", 224, 2), ("cpu", 999, 1), ("cuda", 32, 2048)]
)
def test_as_many_samples_at_once_as_the_device_does_well(device: str, side: int, count: int) -> None:
    assert samples_at_once(Split(torch.empty(1, 3, side, side, dtype=torch.uint8), None), device) == count


def test_extraction_is_in_eval_mode_and_restores_every_mode_and_buffer() -> None:
    cfg = small("byol")
    data, module = build_data(cfg), build_module(cfg, has_labels=True)
    module.train()
    module.student.heads.eval()  # a part someone froze on purpose
    modes = {name: part.training for name, part in module.named_modules()}
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    first = extract_frozen(module, data.train)
    assert {name: part.training for name, part in module.named_modules()} == modes
    assert all(torch.equal(before[name], buffer) for name, buffer in module.named_buffers())
    assert torch.equal(first, extract_frozen(module, data.train))
    one = extract_frozen(module, Split(data.train.rows[:1], None))
    torch.testing.assert_close(first[:1], one)  # batch statistics would make one image different


def test_raw_pixels() -> None:
    pixels = torch.tensor([[[[0, 255]]]], dtype=torch.uint8)
    assert raw_input(Views([{}], 8, 1, [0.5], [0.5]), Split(pixels, None)).tolist() == [[0.0, 1.0]]


def test_probes_warn_only_where_said() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        KNN(20, 0.1)(clusters(100, 5, 0.1, 0), clusters(50, 5, 0.1, 1))


def test_the_untrained_backbone_is_that_of_the_seed_also_after_a_resume(tmp_path: Path) -> None:
    """It is scored with the first evaluation, here after the run was resumed."""
    overrides = ("evaluation=frozen", "evaluation.probes.knn.k=5", "evaluation.probes.linear=null")
    cfg = small("simclr", *overrides, "evaluation.every_n_epochs=2")
    run_in(tmp_path, small("simclr", "trainer.max_steps=6"))
    run_in(tmp_path, cfg, resume=True)
    L.seed_everything(cfg.seed, verbose=False)
    data = build_data(cfg)
    module = build_module(cfg, True)
    train, test = (Frozen(extract_frozen(module, part), part.label) for part in (data.train, data.test))
    assert read_json(tmp_path / "result.json")["baselines"]["untrained"] == KNN(5, 0.1)(train, test)


def test_references_scored_later_are_the_baselines_of_the_run(tmp_path: Path) -> None:
    overrides = ["evaluation=frozen", "evaluation.probes.knn.k=5", "evaluation.probes.linear=null"]
    overrides += ["data.source.num_train=300", "data.source.num_test=300"]
    run_in(tmp_path, small("mochi", *overrides, "trainer.max_steps=1"))
    baselines = read_json(tmp_path / "result.json")["baselines"]
    assert references(tmp_path) == baselines


def test_rates_trained_together_equal_each_trained_alone_by_torch() -> None:
    train = clusters(90, 3, 2.0, seed=0)
    rates = [0.02, 0.2, 1.5]
    probe = LinearSGD(rates, epochs=3, batch_size=32, momentum=0.9, weight_decay=1e-3, held_out=0.5, seed=4)
    weight, bias = probe.fit(train.x, train.y, 3)
    for number, rate in enumerate(rates):
        generator = torch.Generator().manual_seed(4)
        layer = torch.nn.Linear(16, 3)
        layer.weight.data = 0.01 * torch.randn(3, 16, generator=generator)
        layer.bias.data.zero_()
        solver = torch.optim.SGD(layer.parameters(), lr=rate * 32 / 256, momentum=0.9, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(solver, T_max=9)
        for _ in range(3):
            for index in torch.randperm(90, generator=generator).split(32):
                solver.zero_grad()
                torch.nn.functional.cross_entropy(layer(train.x[index]), train.y[index]).backward()
                solver.step()
                schedule.step()
        torch.testing.assert_close(weight[number], layer.weight.data, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(bias[number], layer.bias.data, rtol=1e-4, atol=1e-5)


def test_the_rate_is_chosen_without_the_test_split() -> None:
    train, test = clusters(300, 5, 0.5, seed=0), clusters(100, 5, 0.5, seed=1)
    probe = LinearSGD([1e-9, 0.3], 10, 32, momentum=0.9, weight_decay=0.0, held_out=0.2, seed=0)
    wrong = Frozen(test.x, (test.y + 1) % 5)
    assert probe(train, test) == {"linear_sgd[epochs=10]/top1": 100.0, "linear_sgd[epochs=10]/learning_rate": 0.3}
    assert probe(train, wrong) == {"linear_sgd[epochs=10]/top1": 0.0, "linear_sgd[epochs=10]/learning_rate": 0.3}


def test_features_in_bfloat16_take_half_the_memory_and_score_alike() -> None:
    module = build_module(small("simclr"), True)
    images = build_data(small("simclr")).train
    whole, half = extract_frozen(module, images), extract_frozen(module, images, torch.bfloat16)
    assert half.dtype == torch.bfloat16 and whole.dtype == torch.float32
    torch.testing.assert_close(half.float(), whole, rtol=0.05, atol=0.02)
    train, test = clusters(200, 4, 0.3, seed=0), clusters(50, 4, 0.3, seed=1)
    for probe in PROBES:
        values = probe(Frozen(train.x.bfloat16(), train.y), Frozen(test.x.bfloat16(), test.y))
        assert next(iter(values.values())) == 100.0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"learning_rates": []}, r"learning_rates is \[\]"),
        ({"held_out": 1.0}, r"held_out is 1\.0"),
        ({"epochs": 0}, "epochs is 0: it must be at least 1"),
    ],
)
def test_refused_sgd_settings(change: dict, message: str) -> None:
    settings = {"learning_rates": [0.1], "epochs": 1, "batch_size": 8, "momentum": 0.9, "weight_decay": 0.0}
    with pytest.raises(ValueError, match=message):
        LinearSGD(**{**settings, "held_out": 0.1, "seed": 0, **change})


def test_unknown_feature_type_is_refused() -> None:
    with pytest.raises(ValueError, match=r"evaluation\.features is float16: choose one of float32, bfloat16"):
        FrozenEvaluation({}, 0, features="float16")


@pytest.mark.parametrize("count, k", [(1000, 7), (1000, 62), (1000, 63), (1003, 20), (20, 5), (20, 20)])
def test_largest_equals_a_full_sort(count: int, k: int) -> None:
    values = torch.randn(9, count, generator=torch.Generator().manual_seed(0))
    expected = values.sort(dim=1, descending=True)
    found, row = largest(values.T.contiguous(), k)
    assert torch.equal(found, expected.values[:, :k]) and torch.equal(row, expected.indices[:, :k])


def test_every_layer_of_a_head_comes_out_of_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal to the layers called one after another, and in the order of the images over chunks."""
    module = build_module(small("byol"), True)
    images = build_data(small("byol")).train
    monkeypatch.setattr("ssl_framework.evaluation.features.CHUNK_VALUES", 3 * 20 * 32 * 32)
    passes = []
    module.student.backbone.register_forward_hook(lambda *_: passes.append(1))
    layers = extract_layers(module, images, ["projector", "predictor"])
    assert len(passes) == 3  # 48 images
    module.eval()
    with torch.no_grad():
        h = module.student.backbone(module.views.clean(images.rows))["pooled"]
        expected = {"": h}
        for name in ("projector", "predictor"):
            first, last = module.student.heads[name].layers[:3], module.student.heads[name].layers[3:]
            expected[f"{name}.1"] = first(h)
            expected[f"{name}.2"] = h = last(first(h))
    assert list(layers) == ["", "projector.1", "projector.2", "predictor.1", "predictor.2"]
    for name, x in layers.items():
        torch.testing.assert_close(x, expected[name], rtol=1e-4, atol=1e-5)
    assert torch.equal(layers[""], extract_frozen(module, images))


def test_each_layer_is_scored_by_the_same_probes_and_again_later(tmp_path: Path) -> None:
    overrides = ("evaluation=head_layers", "evaluation.probes.knn.k=5", "evaluation.probes.linear.max_iter=5")
    run_in(tmp_path, small("simclr", *overrides, "trainer.max_epochs=1"))
    result = read_json(tmp_path / "result.json")
    names = [f"{layer}{probe}" for layer in ("", "projector.1/", "projector.2/")
             for probe in ("knn[k=5,T=0.1]/top1", "linear[l2=0.0001]/top1")]  # fmt: skip
    assert list(result["metrics"]) == list(result["baselines"]["untrained"]) == names
    assert list(result["baselines"]["raw_pixels"]) == names[:2]
    assert evaluate(tmp_path, []) == result["metrics"]
    alone = evaluate(tmp_path, ["evaluation.head_layers=[]"])
    assert alone == {name: result["metrics"][name] for name in names[:2]}
    with pytest.raises(
        ValueError, match=r"evaluation\.head_layers names \['neck'\], but the student has \['projector'\]"
    ):
        evaluate(tmp_path, ["evaluation.head_layers=[neck]"])


def test_layers_reach_the_probes_as_the_features_they_are() -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def probe(train: Frozen, test: Frozen) -> dict[str, float]:
        seen.append((train.x, test.x))
        return {"mean": train.x.mean().item()}

    cfg = small("simclr")
    data, module = build_data(cfg), build_module(cfg, True)
    evaluation = FrozenEvaluation({"probe": probe}, 0, head_layers=["projector"])
    metrics = evaluation.score(evaluation.features_of(module), data)
    train, test = (extract_layers(module, images, ["projector"]) for images in (data.train, data.test))
    assert list(metrics) == ["mean", "projector.1/mean", "projector.2/mean"]
    for (x, y), layer in zip(seen, train, strict=True):
        assert torch.equal(x, train[layer]) and torch.equal(y, test[layer])


def test_heads_that_do_not_exist_are_refused_before_the_first_epoch(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"head_layers names \['projector'\], but the student has \['reweight'\]"):
        run_in(tmp_path, small("reweight_head", "evaluation=head_layers"))
    assert not (tmp_path / "checkpoints").exists()


def test_a_head_of_maps_is_refused() -> None:
    class Maps(Head):
        def build(self, width: int) -> None:
            self.out = width

        def forward(self, outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
            return outputs["map"]

    student = Encoder(Backbone("ssl_tiny", None, 32, 3), {"maps": Maps("pooled")})
    assert list(student.embed_layers(torch.zeros(2, 3, 32, 32), [])) == [""]
    with pytest.raises(ValueError, match=r"head_layers names maps, which gives several vectors a sample"):
        student.embed_layers(torch.zeros(2, 3, 32, 32), ["maps"])


def test_the_default_evaluation_scores_the_backbone_alone() -> None:
    for choice in ("frozen", "sgd"):
        assert build(config(f"evaluation={choice}").evaluation).head_layers == ()


def retrieved(test: Frozen, ks: list[int]) -> dict[str, float]:
    """Recall@k and mAP@R by loops; equally similar images in the order of the split."""
    z = [row / row.norm().clamp(min=1e-12) for row in test.x.double()]
    found, precision = {k: [] for k in ks}, []
    for i, own in enumerate(test.y.tolist()):
        others = sorted((j for j in range(len(z)) if j != i), key=lambda j: (-round(float(z[i] @ z[j]), 6), j))
        right = [test.y[j].item() == own for j in others]
        if wanted := sum(right):
            for k in ks:
                found[k].append(any(right[:k]))
            precision.append(sum(sum(right[: r + 1]) / (r + 1) for r in range(wanted) if right[r]) / wanted)
    share = {f"recall@{k}": 100 * sum(hits) / len(hits) for k, hits in found.items()}
    return {f"retrieval[test,cosine]/{k}": v for k, v in share.items()} | {
        "retrieval[test,cosine]/map@r": 100 * sum(precision) / len(precision)
    }


def test_retrieval_equals_the_loop_over_chunks_of_queries() -> None:
    """Classes of unequal size, one of a single image, which does not ask; the train split is not read."""
    test = clusters(60, 7, 1.5, 1)
    test = test._replace(y=torch.cat([test.y[:59], torch.tensor([50])]))
    got = Retrieval([1, 2, 4, 8], chunk=7)(clusters(10, 5, 1.0, 0), test)
    expected = {name: pytest.approx(value, abs=1e-4) for name, value in retrieved(test, [1, 2, 4, 8]).items()}
    assert got == expected
    assert 5 < got["retrieval[test,cosine]/map@r"] < got["retrieval[test,cosine]/recall@1"] < 95
    longer = test._replace(x=test.x * torch.linspace(1, 50, 60)[:, None])  # cosines do not see it
    assert Retrieval([1, 2, 4, 8])(test, longer) == expected


def test_retrieval_of_separated_classes_is_perfect_and_a_rank_beyond_the_split_counts_all() -> None:
    got = Retrieval([1, 500])(clusters(10, 5, 0.05, 0), clusters(20, 5, 0.05, 1))
    assert got == dict.fromkeys([f"retrieval[test,cosine]/{name}" for name in ("recall@1", "recall@500", "map@r")], 100)


def test_equally_similar_images_come_in_the_order_of_the_split() -> None:
    """A collapsed representation: everyone's neighbours are the first images of the split."""
    test = Frozen(torch.ones(4, 3), torch.tensor([0, 1, 1, 0]))
    got = Retrieval([1, 2])(test, test)
    # The first neighbours of 0, 1, 2, 3 are 1, 0, 0, 0; the second 2, 2, 1, 1.
    assert got["retrieval[test,cosine]/recall@1"] == 25.0 and got["retrieval[test,cosine]/recall@2"] == 75.0
    assert got == {name: pytest.approx(value) for name, value in retrieved(test, [1, 2]).items()}


def test_retrieval_without_two_of_a_class_is_skipped_with_one_line() -> None:
    test = Frozen(torch.randn(4, 3), torch.arange(4))
    with pytest.warns(UserWarning, match="retrieval skipped: no class has two images in the test split"):
        assert Retrieval([1])(test, test) == {}


@pytest.mark.parametrize(
    ("evaluation", "key"), [("scores", "scores.num_views"), ("clustering", "probes.clustering.seeds")]
)
def test_what_is_done_anew_each_time_has_a_bound(evaluation: str, key: str) -> None:
    cfg = config(f"evaluation={evaluation}", f"evaluation.{key}=1000000000")
    with pytest.raises(
        ValueError, match=rf"^evaluation\.{re.escape(key)} is 1000000000: it must be between [12] and 1000"
    ):
        build(cfg.evaluation)
