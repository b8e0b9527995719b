"""Evaluations that train: on images whose classes are known, their rates and splits, and what they leave as it was."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_framework.build import build, build_module
from ssl_framework.data.base import Split
from ssl_framework.data.datamodule import DataModule
from ssl_framework.evaluation.after_training.base import AfterRun
from ssl_framework.evaluation.after_training.finetune import FineTune, Network, augmented_views, batches, layer_groups
from ssl_framework.evaluation.after_training.linear_augmented import LinearAugmented
from ssl_framework.evaluation.features import Accuracy, Bare, Frozen, extract_frozen
from ssl_framework.evaluation.probes.few_labels import FewLabels
from ssl_framework.evaluation.probes.linear import LinearProbe
from ssl_framework.evaluation.request import evaluate
from ssl_framework.models.backbone import Backbone
from ssl_framework.module import SSLModule
from ssl_framework.runs.folder import read_json
from tests.small_runs import config, run_in, small

CROPS = {"scale": [0.766, 1.0], "ratio": [1.0, 1.0], "flip": 0.5}
SHIPPED = ["dense", "energy", "finetune", "linear_augmented", "rkhs_complexity", "semi_supervised_finetune"]


def bars(n: int, classes: int, seed: int, shuffled: bool = False) -> Split:
    """Horizontal bars, as many rows bright as the class says, with noise: flips and crops keep the class."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(n) % classes
    bright = torch.arange(16)[None, :] % 8 < 2 * label[:, None]  # [n, 16]
    pixels = 60 + 120 * bright[:, None, :, None] + torch.randint(40, (n, 1, 16, 16), generator=generator)
    if shuffled:
        label = label[torch.randperm(n, generator=generator)]
    return Split(pixels.to(torch.uint8), label)


def noise(n: int, seed: int) -> Split:
    """Of no class, so that the answers are a matter of chance."""
    generator = torch.Generator().manual_seed(seed)
    return Split(torch.randint(256, (n, 1, 16, 16), generator=generator, dtype=torch.uint8), torch.arange(n) % 3)


class Data:
    """The two splits that an evaluation reads."""

    has_labels = DataModule.has_labels

    def __init__(self, train: Split, test: Split) -> None:
        self.train, self.test = train, test


def toy(shuffled: bool = False, num_train: int = 192, num_test: int = 90) -> Any:
    return Data(bars(num_train, 3, 0, shuffled), bars(num_test, 3, 1, shuffled))


def module_of(*overrides: str) -> SSLModule:
    """An untrained module for grey images of 16 px."""
    sizes = ("data.image_size=16", "data.channels=1", "data.mean=[0.5]", "data.std=[0.25]", "seed=3")
    cfg = small("simclr", *sizes, *overrides)
    torch.manual_seed(0)
    return build_module(cfg, True)


def tune(**changes: Any) -> FineTune:
    settings: dict[str, Any] = {
        **{"protocol": "finetune/1", "shares": [1.0], "epochs": [4], "lr_per_256": 4e-3, "batch_size": 32},
        **{"algorithm": torch.optim.AdamW, "weight_decay": 0.05, "layer_decay": 0.75, "warmup": 0.1},
        **{"augmentation": CROPS, "precision": "float32", "seed": 0},
    }
    return FineTune(**{**settings, **changes})


def linear(**changes: Any) -> LinearAugmented:
    settings: dict[str, Any] = {
        **{"protocol": "linear_augmented/1", "learning_rates": [0.01, 0.1, 1.0], "epochs": 4, "batch_size": 32},
        **{"momentum": 0.9, "weight_decay": 0.0, "held_out": 0.1, "augmentation": CROPS, "seed": 0},
    }
    return LinearAugmented(**{**settings, **changes})


BOTH = {"finetune": tune, "linear_augmented": linear}


def top1(found: dict[str, float]) -> float:
    return next(value for name, value in found.items() if name.endswith("/top1"))


# --- both


@pytest.mark.parametrize("name", BOTH)
def test_separable_classes_reach_100_percent(name: str) -> None:
    found = BOTH[name]().score_module(module_of(), toy())
    assert top1(found) == 100.0
    value = top1(found)
    assert isinstance(value, Accuracy) and value.count == 90


@pytest.mark.parametrize("name", BOTH)
def test_shuffled_labels_give_chance(name: str) -> None:
    found = BOTH[name]().score_module(module_of(), toy(shuffled=True, num_test=900))
    assert abs(top1(found) - 100 / 3) < 7  # four and a half standard errors of 900 images


@pytest.mark.parametrize("name", BOTH)
def test_the_same_seed_gives_the_same_number_and_the_module_stays_as_it_is(name: str) -> None:
    module, data = module_of(), Data(noise(96, 0), noise(300, 1))
    before = {key: value.clone() for key, value in module.state_dict().items()}
    module.student.heads.eval()
    modes = [part.training for part in module.modules()]
    wants = [p.requires_grad for p in module.parameters()]
    state = torch.get_rng_state()
    first = BOTH[name]().score_module(module, data)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert [part.training for part in module.modules()] == modes
    assert [p.requires_grad for p in module.parameters()] == wants and all(p.grad is None for p in module.parameters())
    torch.manual_seed(99)
    assert BOTH[name]().score_module(module, data) == first
    assert BOTH[name](seed=1).score_module(module, data) != first


@pytest.mark.parametrize("name", BOTH)
def test_test_labels_reach_no_choice(name: str) -> None:
    """The answers are the same whatever the test labels are: right answers and wrong ones together are all."""
    data = toy(shuffled=True)
    right = top1(BOTH[name]().score_module(module_of(), data))
    total = right
    for _ in range(2):
        assert data.test.label is not None
        data.test = data.test._replace(label=(data.test.label + 1) % 3)
        total += top1(BOTH[name]().score_module(module_of(), data))
    assert total == pytest.approx(100)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(
    ("label", "words"),
    [
        (None, "needs labels and a test split, which this data set lacks"),
        (torch.arange(192) / 7, "needs classes, but the labels are numbers: choose evaluation=regression"),
        (torch.zeros(192, dtype=torch.int64), "needs several classes, but the train split has one"),
    ],
)
def test_labels_it_cannot_train_on_are_refused(name: str, label: Tensor | None, words: str) -> None:
    data = toy()
    data.train = data.train._replace(label=label)
    with pytest.raises(ValueError, match=f"evaluation={name} {words}"):
        BOTH[name]().score_module(module_of(), data)


@pytest.mark.parametrize("name", BOTH)
def test_an_augmentation_it_cannot_make_is_refused(name: str) -> None:
    far = {**CROPS, "scale": [0.2, 1.5]}
    for augmentation, words in (
        ({**CROPS, "count": 2}, "has count"),
        ({"scal": [1]}, "scal is unknown"),
        (far, "scale "),
    ):
        with pytest.raises(ValueError, match=rf"evaluation\.augmentation.{words}|evaluation\.augmentation {words}"):
            BOTH[name](augmentation=augmentation)


@pytest.mark.parametrize("name", BOTH)
def test_several_processes_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssl_framework.evaluation.after_training.base.world_size", lambda: 2)
    with pytest.raises(ValueError, match=f"evaluation={name} runs in one process, but there are 2"):
        BOTH[name]().score_module(module_of(), toy())


@pytest.mark.parametrize("name", BOTH)
def test_a_backbone_from_elsewhere_scores_as_the_same_one_of_a_run(name: str) -> None:
    module, data = module_of(), Data(noise(96, 0), noise(300, 1))
    assert BOTH[name]().score_module(Bare(module.views, module.student), data) == BOTH[name]().score_module(
        module, data
    )


# --- fine-tuning


def test_a_rate_of_zero_leaves_the_network_and_the_classifier_as_they_begin() -> None:
    module, data = module_of("backbone=vit_tiny", "backbone.options.depth=1"), toy()  # no batch statistics that move
    found = tune(lr_per_256=0.0).score_module(module, data)
    network = Network(copy.deepcopy(module.student.backbone), 3, torch.Generator().manual_seed(0))
    x = extract_frozen(module, data.test)  # [M, D]
    assert network.head.weight.std().item() == pytest.approx(0.01, rel=0.1)
    answer = torch.nn.functional.linear(x, network.head.weight, network.head.bias).argmax(dim=1)
    assert found == {
        "finetune[epochs=4,lr=0,decay=0.75]/top1": 100 * int((answer == data.test.label).sum()) / len(answer)
    }


def rates(network: Network, **changes: Any) -> dict[str, tuple[float, float]]:
    """Of every parameter its learning rate and weight decay."""
    settings = {"lr": 1.0, "weight_decay": 0.1, "layer_decay": 0.5, **changes}
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = layer_groups(network, **settings)
    found = {names.pop(id(p)): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert not names  # each is in one group
    return found


def network_of(name: str, size: int = 32, **options: Any) -> Network:
    return Network(Backbone(name, None, size, 3, options), 5, torch.Generator().manual_seed(0))


def test_rates_of_a_vit_are_those_of_beit() -> None:
    network = network_of("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3)
    found = rates(network)
    expected = {
        **{"head.weight": 1.0, "head.bias": 1.0, "backbone.net.norm.weight": 0.5},
        **{"backbone.net.blocks.2.mlp.fc1.weight": 0.5, "backbone.net.blocks.1.attn.qkv.bias": 0.25},
        **{"backbone.net.blocks.0.norm1.weight": 0.125, "backbone.net.patch_embed.proj.weight": 0.0625},
        **{"backbone.net.pos_embed": 0.0625, "backbone.net.cls_token": 0.0625},
    }
    assert {name: found[name][0] for name in expected} == expected
    without = {name for name, (_, decay) in found.items() if decay == 0}
    assert {"backbone.net.pos_embed", "backbone.net.cls_token", "head.bias"} <= without
    assert without == {n for n, p in network.named_parameters() if p.ndim == 1 or "pos_embed" in n or "cls_token" in n}


def test_rates_of_convolutional_nets_fall_from_block_to_block() -> None:
    found = rates(network_of("ssl_tiny"))
    for i in range(4):  # a convolution and its norm
        assert found[f"backbone.net.features.{3 * i}.weight"] == (0.5 ** (4 - i), 0.1)
        assert found[f"backbone.net.features.{3 * i + 1}.bias"] == (0.5 ** (4 - i), 0.0)
    found = rates(network_of("ssl_resnet18_small"))  # stem and 8 blocks
    assert found["backbone.net.conv1.weight"][0] == 0.5**9
    assert found["backbone.net.layer1.0.conv1.weight"][0] == 0.5**8
    assert found["backbone.net.layer4.1.bn2.weight"] == (0.5, 0.0)
    found = rates(network_of("ssl_mlp", img_size=32, width=8))
    assert [found[f"backbone.net.features.{i}.weight"][0] for i in (1, 2, 4, 5)] == [0.25, 0.25, 0.5, 0.5]
    assert found["head.weight"] == (1.0, 0.1)


def test_a_norm_behind_the_pooling_has_the_rate_of_the_classifier() -> None:
    found = rates(network_of("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=1, global_pool="avg"))
    assert found["backbone.net.fc_norm.weight"][0] == 1.0 and found["backbone.net.blocks.0.norm1.bias"][0] == 0.5


def test_a_decay_of_one_is_one_rate_and_needs_no_layers() -> None:
    network = network_of("ssl_tiny")
    assert {rate for rate, _ in rates(network, layer_decay=1.0).values()} == {1.0}
    network.backbone.net = torch.nn.Linear(2, 2)  # which cannot say what its layers are
    assert {rate for rate, _ in rates(network, layer_decay=1.0).values()} == {1.0}
    with pytest.raises(ValueError, match=r"does not say how deep its parameters lie: set evaluation\.layer_decay=1"):
        rates(network)


def test_the_step_is_that_of_the_rate_of_the_layer_and_the_schedule() -> None:
    """One step of plain SGD: each parameter moves by rate x gradient."""
    module, data = module_of(), toy(num_train=32)
    label, rows = data.train.label, torch.arange(32)
    probe = tune(algorithm=torch.optim.SGD, weight_decay=0.0, layer_decay=0.5, warmup=0.0, lr_per_256=0.8)
    network = probe.fit(module, data.train, rows, label, epochs=1)
    again = Network(copy.deepcopy(module.student.backbone), 3, generator := torch.Generator().manual_seed(0)).train()
    views = augmented_views(module, CROPS)
    (samples,) = batches(data.train, rows, label, 1, 32, 0, views)
    view = views(samples, generator).views[0]
    torch.nn.functional.cross_entropy(again(view), samples.label).backward()
    begun = dict(again.named_parameters())
    for name, moved in network.named_parameters():
        factor = 1.0 if "head" in name else 0.5 ** (4 - int(name.split(".")[3]) // 3)
        torch.testing.assert_close(moved, begun[name] - 0.8 * 32 / 256 * factor * begun[name].grad)
        assert not torch.equal(moved, begun[name])


def test_the_images_of_a_share_are_those_of_the_linear_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    data, seen = toy(num_train=240), {}

    def fit(self: Any, module: SSLModule, images: Split, rows: Tensor, label: Tensor, epochs: int) -> Network:
        seen["tuned", epochs] = rows
        return Network(module.student.backbone, 3, torch.Generator())

    monkeypatch.setattr(FineTune, "fit", fit)
    found = tune(shares=[0.05, 0.25], epochs=[6, 3], seed=5).score_module(module_of(), data)
    assert list(found) == [f"finetune[labels={s},lr=0.004,decay=0.75]/top1" for s in ("5%,epochs=6", "25%,epochs=3")]

    class Recorded(LinearProbe):
        def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]:
            seen["probed", 6 if len(train.x) < 20 else 3] = train.x[:, 0]
            return {"top1": 0.0}

    index = torch.arange(240.0)[:, None]
    FewLabels([0.05, 0.25], Recorded(1e-4, 1), 5)(Frozen(index, data.train.label), Frozen(index, data.train.label))
    for epochs, size in ((6, 12), (3, 60)):
        assert seen["tuned", epochs].tolist() == seen["probed", epochs].long().tolist()
        assert data.train.label[seen["tuned", epochs]].bincount().tolist() == [size // 3] * 3


def test_every_epoch_has_every_image_once_in_an_order_of_its_own() -> None:
    data, rows, views = toy(), torch.arange(10, 30), augmented_views(module_of(), CROPS)
    served = list(batches(data.train, rows, data.train.label, 2, 5, 0, views))
    orders = [torch.cat([s.index for s in served[first : first + 4]]) for first in (0, 4)]
    assert all(order.sort().values.tolist() == rows.tolist() for order in orders)
    assert orders[0].tolist() != orders[1].tolist()
    for samples in served:
        assert torch.equal(samples.inputs, data.train.rows[samples.index])  # type: ignore[index]
        assert torch.equal(samples.label, data.train.label[samples.index])  # type: ignore[arg-type]
    assert len(list(batches(data.train, rows, data.train.label, 1, 6, 0, views))) == 3


def test_bfloat16_trains_as_well() -> None:
    assert top1(tune(precision="bfloat16").score_module(module_of(), toy())) > 95


def test_what_fine_tuning_cannot_do_is_refused() -> None:
    for changes, words in (
        (
            {"shares": [0.0]},
            r"shares is \[0\.0\]: it must be a list of one or more numbers",
        ),
        ({"epochs": [1, 2]}, r"evaluation\.epochs is \[1, 2\]: give as many as evaluation\.shares \(1\)"),
        ({"epochs": [0]}, r"epochs is \[0\]: it must be a list of one or more whole numbers"),
        ({"lr_per_256": -1.0}, r"lr_per_256 is -1\.0: it must be at least 0"),
        ({"warmup": 1.0}, r"warmup is 1\.0: it must be at least 0 and below 1"),
        ({"batch_size": 1}, "batch_size is 1: it must be at least 2"),
        ({"layer_decay": 0.0}, r"layer_decay is 0\.0: it must be above 0 and at most 1"),
        ({"precision": "float16"}, r"evaluation\.precision is float16"),
    ):
        with pytest.raises(ValueError, match=words):
            tune(**changes)
    with pytest.raises(ValueError, match=r"finetune diverged: lower evaluation\.lr_per_256, now 1e\+30"):
        tune(lr_per_256=1e30, algorithm=torch.optim.SGD).score_module(module_of(), toy())
    module = module_of()
    module.student.scored = ("pooled", "other")
    with pytest.raises(ValueError, match="finetune trains one backbone, but evaluators of this run read those of"):
        tune().score_module(module, toy())


# --- linear classifiers on augmented images


def test_the_rate_is_chosen_on_images_that_were_held_out() -> None:
    probe = linear(learning_rates=[1e-9, 1.0])
    found = probe.score_module(module_of(), toy())
    assert found["linear_augmented[epochs=4]/learning_rate"] == 1.0
    assert list(found) == ["linear_augmented[epochs=4]/top1", "linear_augmented[epochs=4]/learning_rate"]


def test_rates_trained_together_equal_each_trained_alone() -> None:
    module, data = module_of(), toy()
    start = 0.01 * torch.randn(3, 192, generator=torch.Generator().manual_seed(1))
    embed = copy.deepcopy(module.student).eval().requires_grad_(False).embed
    rest = (module, data.train, torch.arange(100), data.train.label, embed, start)
    weight, bias = linear(learning_rates=[0.05, 0.5]).fit(*rest)
    for number, rate in enumerate([0.05, 0.5]):
        alone = linear(learning_rates=[rate]).fit(*rest)
        torch.testing.assert_close(weight[number], alone[0][0])
        torch.testing.assert_close(bias[number], alone[1][0])
    assert not torch.allclose(weight[0], weight[1])


def test_what_the_linear_classifier_cannot_do_is_refused() -> None:
    for changes, words in (
        ({"learning_rates": []}, r"learning_rates is \[\]: it must be a list of one or more numbers"),
        ({"held_out": 1.0}, r"held_out is 1\.0: it must be above 0 and below 1"),
        ({"epochs": 0}, "epochs is 0: it must be at least 1"),
    ):
        with pytest.raises(ValueError, match=words):
            linear(**changes)


# --- from a run folder


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run_in(folder, small("simclr", "trainer.max_steps=1"))
    return folder


def test_a_run_refuses_what_is_of_finished_runs(tmp_path: Path) -> None:
    for name in SHIPPED:
        evaluation = build(config(f"evaluation={name}").evaluation)
        assert isinstance(evaluation, AfterRun) and evaluation.name == name
    with pytest.raises(ValueError, match="evaluation=finetune is of finished runs: choose evaluation=frozen"):
        run_in(tmp_path, small("simclr", "evaluation=finetune"))


def test_a_finished_run_is_evaluated_in_one_process(run_folder: Path) -> None:
    short = ["evaluation.epochs=[1,1]", "evaluation.shares=[0.25,1.0]", "evaluation.batch_size=8"]
    metrics = evaluate(run_folder, ["evaluation=semi_supervised_finetune", *short])
    record = read_json(run_folder / "evaluation.json")
    names = ["finetune[labels=25%,epochs=1,lr=0.05,decay=1]/top1", "finetune[epochs=1,lr=0.05,decay=1]/top1"]
    assert list(metrics) == names == list(record["intervals"]) and record["metrics"] == metrics
    assert record["protocol"]["name"] == "semi_supervised_finetune/1" and record["protocol"]["changed"] == short
    assert record["protocol"]["images"].startswith("trained on augmented images of the train split")
    assert record["protocol"]["settings"]["augmentation"]["flip"] == 0.5
    assert evaluate(run_folder, ["evaluation=semi_supervised_finetune", *short]) == metrics
    with pytest.raises(ValueError, match="evaluation=finetune runs in one process"):
        evaluate(run_folder, ["evaluation=finetune", "trainer.devices=2"])


@pytest.mark.parametrize("name", ["finetune", "linear_augmented", "dense"])
def test_other_data_of_other_channels_and_size_can_be_asked_for(run_folder: Path, name: str) -> None:
    """Digits are 8 x 8 and grey, the run's images 32 x 32 and RGB."""
    short = {
        "finetune": ["evaluation.epochs=[1]", "evaluation.shares=[0.05]"],
        "linear_augmented": ["evaluation.epochs=1"],
        "dense": ["evaluation.probes.segmentation=null", "evaluation.probes.correspondence.images=20"],
    }
    metrics = evaluate(run_folder, [f"evaluation={name}", "data=digits", *short[name]])
    assert all(0 < value <= 100 for value in metrics.values())
    if name == "dense":
        with pytest.raises(ValueError, match="segmentation needs a mask of every image, which this data set lacks"):
            evaluate(run_folder, ["evaluation=dense", "data=digits"])


def test_the_labels_of_the_two_semi_supervised_protocols_are_the_same() -> None:
    frozen = config("evaluation=semi_supervised").evaluation.probes.semi_supervised
    tuned = config("evaluation=semi_supervised_finetune").evaluation
    assert (frozen.shares, frozen.seed) == (tuned.shares, tuned.seed)
