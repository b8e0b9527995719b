"""scripts/evaluate.py: any protocol, any backbone, any data set; the same numbers as by hand and as in training."""

import csv
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from ssl_framework.build import build
from ssl_framework.commands.evaluate import main
from ssl_framework.data.base import Split
from ssl_framework.data.images.arrays import Digits
from ssl_framework.evaluation import foreign
from ssl_framework.evaluation import score_all as several
from ssl_framework.evaluation.features import Frozen, Splits
from ssl_framework.evaluation.probes.knn import KNN
from ssl_framework.evaluation.probes.linear import LinearProbe
from ssl_framework.evaluation.probes.retrieval import Retrieval
from ssl_framework.evaluation.request import evaluate, protocols_of
from ssl_framework.evaluation.score_all import Chosen, score_all
from ssl_framework.exporting import export
from ssl_framework.loading import load_run
from ssl_framework.runs.folder import read_json
from ssl_framework.runs.overrides import composed, override_each, stored
from ssl_framework.views.image_ops import with_channels
from tests.small_runs import run_in, small

FEW = ("data.source.num_train=48", "data.source.num_test=32")
FAST = ("evaluation.probes.knn.k=5", "evaluation.probes.linear=null")
KNN5, LINEAR = "knn[k=5,T=0.1]/top1", "linear[l2=0.0001]/top1"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on 48 images of 32 x 32 RGB; not to be changed, but for what evaluations write."""
    folder = tmp_path_factory.mktemp("run")
    probes = ("evaluation.probes.knn.k=5", "evaluation.probes.linear.max_iter=5")
    assert run_in(folder, small("simclr", "evaluation=frozen", *probes, "trainer.max_epochs=1")) is None
    return folder


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[str, str], Splits]:
    """The words for a data set of 60 grey images of 8 x 8, scikit-learn's digits in fashion_mnist's place; and it."""
    root, source, parts = tmp_path_factory.mktemp("grey"), Digits(0.2, 0), []
    for split, count in (("train", 40), ("test", 20)):
        images = source.load(split)
        assert isinstance(images.rows, Tensor) and images.label is not None
        parts.append(Split(images.rows[:count], images.label[:count]))
        np.savez(root / f"{split}.npz", images=images.rows[:count, 0].numpy(), labels=images.label[:count].numpy())
    return ("data=fashion_mnist", f"data.root={root}"), Splits(*parts)


def record_of(*arguments: str, out: Path) -> dict[str, Any]:
    """What the command writes."""
    main([*arguments, f"out={out}"])
    return read_json(out)


def refused(*arguments: str) -> str:
    """What the command says instead of doing it: one line."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    message = str(ended.value)
    assert message.startswith("error: ") and "\n" not in message and "Traceback" not in message
    return message


def test_the_default_evaluation_is_that_of_the_run_to_the_last_digit(run: Path) -> None:
    main([f"run={run}"])
    record, result = read_json(run / "evaluation.json"), read_json(run / "result.json")
    for key in ("metrics", "intervals", "protocol"):
        expected = dict(result[key])
        if key == "protocol":
            record[key].pop("preprocessing")
            record[key].pop("changed"), expected.pop("changed")
        assert record[key] == expected, key
    assert record["references"] == result["baselines"]
    assert record["images"] == {"train": [48, 3, 32, 32], "test": [32, 3, 32, 32]} and record["data"] == "shapes"
    assert record["command"] == f"python scripts/evaluate.py run={run}"
    assert record["versions"] == result["versions"] and record["commit"] == result["commit"]
    assert record["source"]["num_train"] == 48 and {"device", "cpu", "model", "wall_seconds"} <= record.keys()


def test_the_number_of_threads_is_the_runs(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("ssl_framework.evaluation.request.use_threads", asked.append)
    evaluate(run, ["trainer.num_threads=1", *FAST])
    assert asked == [1]


def test_a_stored_protocol_takes_the_place_of_the_runs(run: Path, tmp_path: Path) -> None:
    record = record_of(
        f"run={run}", "evaluation=retrieval", "evaluation.probes.retrieval.k=[1,3]", out=tmp_path / "r.json"
    )
    assert record["protocol"]["name"] == "retrieval/1"
    assert record["protocol"]["changed"] == ["evaluation.probes.retrieval.k=[1,3]"]
    _, module = load_run(run, [])
    test = build(load_run(run, [])[0].data.source).load("test")
    features = module.eval().student.embed(module.views.clean(test.rows)).detach()
    expected = Retrieval([1, 3])(Frozen(features, test.label), Frozen(features, test.label))
    assert record["metrics"] == pytest.approx(expected, abs=1e-9)


def test_several_protocols_are_each_as_alone_and_share_features_and_probes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, quick = ["frozen", "head_layers", "measures"], "evaluation.probes.linear.max_iter=5"
    alone = {name: record_of(f"run={run}", f"evaluation={name}", quick, out=tmp_path / "a.json") for name in names}
    seen: Counter[str] = Counter()
    for name in ("extract_frozen", "extract_layers"):
        original = getattr(several, name)
        monkeypatch.setattr(several, name, lambda *a, f=original, n=name: seen.update([n]) or f(*a))
    fit = LinearProbe.fit
    monkeypatch.setattr(LinearProbe, "fit", lambda *a: seen.update(["fit"]) or fit(*a))
    words = (f"evaluation={','.join(names)}", quick, "evaluation.baselines=false")
    record = record_of(f"run={run}", *words, out=tmp_path / "b.json")
    assert [result["protocol"]["name"] for result in record["results"]] == [f"{name}/1" for name in names]
    for name, result in zip(names, record["results"], strict=True):
        assert (result["metrics"], result["intervals"]) == (alone[name]["metrics"], alone[name]["intervals"])
    assert seen == {"extract_layers": 2, "fit": 3}  # train and test; the backbone and two layers of the head


def test_a_protocol_that_the_run_did_not_have_stands_beside_references_of_its_own(run: Path, tmp_path: Path) -> None:
    quick = "evaluation.probes.linear.max_iter=5"
    record = record_of(f"run={run}", "evaluation=measures", quick, out=tmp_path / "measures.json")
    assert record["protocol"]["name"] != "frozen/1" and LINEAR in record["metrics"]
    known = read_json(run / "result.json")["baselines"]
    for name in ("untrained", "raw_pixels"):  # the run scored the same probe by its own protocol
        assert record["references"][name][LINEAR] == known[name][LINEAR]


def test_all_protocols_are_scored_or_left_out_with_their_reason(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    record = record_of(f"run={run}", "evaluation=all", "evaluation.probes.linear.max_iter=5", out=tmp_path / "all.json")
    scored = [result["protocol"]["name"].split("/")[0] for result in record["results"]]
    left_out = record["left_out"]["shapes"]
    assert scored[0] == "frozen" and sorted([*scored, *left_out]) == stored("evaluation")
    assert "student has no classifier" in left_out["classifier"]
    assert left_out["none"] == "it scores nothing" and "these are classes" in left_out["regression"]
    printed = capsys.readouterr().out
    assert "left out on shapes: none: it scores nothing" in printed and printed.splitlines()[-1] == str(
        tmp_path / "all.json"
    )
    rows_of = {line.split("│")[1].strip() for line in printed.splitlines() if line.startswith("│")}
    assert rows_of == {"", *(result["protocol"]["name"] for result in record["results"])}
    (again,) = [line for line in printed.splitlines() if "knn_imagenet/1" in line]
    assert "all above" in again  # the grid of k and temperatures has them
    changed = {result["protocol"]["name"]: result["protocol"]["changed"] for result in record["results"]}
    assert changed["frozen/1"] and changed["measures/1"] and not changed["retrieval/1"]
    rows = list(csv.DictReader((tmp_path / "all.csv").open()))
    written = {(r["protocol"], r["metric"]): float(r["value"]) for r in rows if r["features"] == "trained"}
    assert written == {
        (result["protocol"]["name"], name): pytest.approx(value, nan_ok=True)
        for result in record["results"]
        for name, value in result["metrics"].items()
    }


OF_PAIRS = (
    *("attack", "base_to_new", "captioning", "captions", "fusion", "grounding", "mapping", "regions", "reranking"),
    "volume",
)
"""Protocols of pictures with texts or sounds."""

OF_TEXTS = (
    *("text", "text_pairs", "text_domains", "text_scores", "text_constructs", "text_reward"),
    *("fragments", "matching"),
)
"""Protocols of texts, and of pairs."""


def test_labels_that_are_numbers_leave_the_protocols_that_read_numbers(run: Path, tmp_path: Path) -> None:
    record = record_of(f"run={run}", "evaluation=all", "data.source.label=scale_value", out=tmp_path / "all.json")
    scored = {result["protocol"]["name"] for result in record["results"]}
    assert scored == {"regression/1", "measures/1", "dense_knn/1"}  # the last reads masks as well
    others = {
        name: why
        for name, why in record["left_out"]["shapes"].items()
        if name
        not in (
            "none",
            "classifier",
            "one_class",
            "target_classes",
            "tasks",
            "scores",
            "online_linear",
            "cross_modal",
            "recommendation",  # of sequences
            *OF_PAIRS,
            *OF_TEXTS,
        )
        and not re.search("numbers|ask for it by its name", why)
    }
    assert others == {}


def by_hand(embed: Any, splits: Splits, size: int, mean: Any, std: Any) -> dict[str, Any]:
    """k-NN accuracy on grey images as a backbone for RGB of another size sees them, image by image."""
    rows = []
    for part in splits:
        seen = []
        for image in part.rows[torch.arange(len(part.rows))]:
            x = F.interpolate(image[None] / 255, (size, size), mode="bilinear", antialias=True)  # [1, 1, size, size]
            seen.append((torch.cat([x, x, x], dim=1)[0] - mean) / std)  # [3, size, size]
        with torch.no_grad():
            rows.append(Frozen(embed(torch.stack(seen)), part.label))  # type: ignore[arg-type]
    return {KNN5: pytest.approx(KNN(5, 0.1)(*rows)[KNN5])}


def test_other_data_are_brought_to_size_and_channels_and_stand_beside_references(
    run: Path, grey: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (data, root), splits = grey
    out = tmp_path / "t.json"
    record = record_of(f"run={run}", f"{data},shapes", root, *FAST, out=out)
    other, own = record["results"]
    assert (other["data"], own["data"]) == ("fashion_mnist", "shapes")
    _, module = load_run(run, [])
    views = module.eval().views
    assert other["metrics"] == by_hand(module.student.embed, splits, 32, views.mean, views.std)
    assert other["images"] == {"train": [40, 1, 8, 8], "test": [20, 1, 8, 8]}
    for words in ("short side to 32 px", "grey repeated to RGB", "minus mean [0.5019"):
        assert words in other["protocol"]["preprocessing"]
    raw = [Frozen(part.rows.flatten(1).float() / 255, part.label) for part in splits]
    assert other["references"]["raw_pixels"] == KNN(5, 0.1)(*raw)
    result = read_json(run / "result.json")  # the run's own data set is as the run had it
    assert own["metrics"][KNN5] == result["metrics"][KNN5]
    for name in ("raw_pixels", "untrained"):
        assert own["references"][name][KNN5] == result["baselines"][name][KNN5]
        assert other["references"][name].keys() == {KNN5}
    lines = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [(first.strip(), second.strip()) for first, second, _ in lines] == [
        *(("fashion_mnist", "trained"), ("", "untrained"), ("", "raw pixels")),
        *(("shapes", "trained"), ("", "untrained"), ("", "raw pixels")),
    ]
    low, high = other["intervals"][KNN5]
    assert lines[0][2].strip() == f"{other['metrics'][KNN5]:.1f} ({low:.1f}, {high:.1f})"
    assert lines[2][2].strip() == f"{other['references']['raw_pixels'][KNN5]:.1f}"


def test_a_data_set_that_cannot_be_read_does_not_stop_the_others(run: Path, grey: Any, tmp_path: Path) -> None:
    (data, root), _ = grey
    words = (f"run={run}", f"{data},cifar10", root, *FAST, "evaluation.baselines=false")
    record = record_of(*words, out=tmp_path / "t.json")
    assert record["data"] == "fashion_mnist" and KNN5 in record["metrics"]
    assert list(record["left_out"]) == ["cifar10"] and "data.channels=3" in record["left_out"]["cifar10"]["frozen"]
    assert "error: nothing can be scored: frozen: " in refused(f"run={run}", "data=cifar10,svhn", root, *FAST)


def test_references_can_be_left_out(run: Path, grey: Any, tmp_path: Path) -> None:
    record = record_of(f"run={run}", *grey[0], *FAST, "evaluation.baselines=false", out=tmp_path / "t.json")
    assert record["references"] == {} and record["protocol"]["changed"] == list(FAST)
    assert record["overrides"] == [grey[0][1], *FAST, "evaluation.baselines=false"]


def test_channels_are_repeated_or_turned_into_luma() -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4), dtype=np.uint8))
    grey = with_channels(pixels, 1)
    theirs = np.stack([np.asarray(Image.fromarray(x.permute(1, 2, 0).numpy()).convert("L")) for x in pixels])
    assert grey.dtype == torch.uint8 and grey.shape == (2, 1, 5, 4)
    assert (grey[:, 0].int() - torch.from_numpy(theirs).int()).abs().max() <= 1
    assert torch.equal(with_channels(grey, 3), torch.cat([grey] * 3, dim=1))
    assert with_channels(pixels, 3) is pixels and with_channels(grey, 1) is grey


def test_an_exported_backbone_has_the_numbers_of_its_run(run: Path, grey: Any, tmp_path: Path) -> None:
    export(run, tmp_path / "net.safetensors")
    probes = ("evaluation.probes.knn.k=5", "evaluation.probes.linear.max_iter=5")
    record = record_of(
        f"backbone={tmp_path / 'net.safetensors'}", "data=shapes", *FEW, *probes, out=tmp_path / "f.json"
    )
    result = read_json(run / "result.json")
    assert record["metrics"] == result["metrics"] and record["references"] == result["baselines"]
    assert {row["features"] for row in csv.DictReader((tmp_path / "f.csv").open())} == {
        "given weights", "untrained", "raw pixels",
    }  # fmt: skip
    assert record["model"]["weights"].startswith(f"{tmp_path / 'net.safetensors'}, sha256 ")
    other = record_of(f"backbone={tmp_path / 'net.safetensors'}", *grey[0], *FAST, out=tmp_path / "f.json")
    _, module = load_run(run, [])
    assert other["metrics"] == by_hand(module.eval().student.embed, grey[1], 32, module.views.mean, module.views.std)


def test_random_weights_are_those_of_the_seed(grey: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["backbone=timm:ssl_tiny", *grey[0], "seed=3", "views.channels=3", "views.image_size=16", *FAST])
    (path,) = tmp_path.glob("outputs/evaluations/ssl_tiny/*/evaluation.json")
    record = read_json(path)
    torch.manual_seed(3)
    net: Any = timm.create_model("ssl_tiny", num_classes=0).eval()
    assert record["metrics"] == by_hand(net, grey[1], 16, 0.2860, 0.3530)
    assert record["model"] | {"weights": "random", "trained": False, "dim": 192, "seed": 3} == record["model"]
    assert record["references"].keys() == {"raw_pixels"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights of timm's resnet10t, and with files that hold something else."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    state = timm.create_model("resnet10t").state_dict()
    save_file(state, folder / "net.safetensors")
    torch.save({"state_dict": state}, folder / "net.pt")
    save_file({"a": torch.zeros(2)}, folder / "odd.safetensors")
    (folder / "broken.safetensors").write_text("weights")
    torch.save({"x": time.sleep}, folder / "code.pt")
    torch.save([1, 2], folder / "list.pt")
    return folder


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt"])
def test_a_file_of_a_timm_model_loads_without_its_classifier(name: str, files: Path, grey: Any, tmp_path: Path) -> None:
    arguments = (f"backbone={files / name}", "model=resnet10t", *grey[0], "views.image_size=16", *FAST)
    record = record_of(*arguments, "evaluation.baselines=false", out=tmp_path / "f.json")
    assert "mean [0.286, 0.286, 0.286]" in record["protocol"]["preprocessing"]  # of grey data, for three channels
    torch.manual_seed(0)
    net: Any = timm.create_model("resnet10t").eval()
    expected = by_hand(
        lambda x: net.forward_head(net.forward_features(x), pre_logits=True), grey[1], 16, 0.2860, 0.3530
    )
    assert record["metrics"] == expected


def test_pretrained_weights_bring_their_own_normalisation_and_size(
    tmp_path: Path, files: Path, grey: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = timm.get_pretrained_cfg("resnet10t")
    assert about is not None
    own = {"image_size": about.input_size[1], "channels": 3, "mean": list(about.mean), "std": list(about.std)}
    for found in (
        foreign.Foreign.read("timm:resnet10t", None, "true"),
        foreign.Foreign.read(str(files / "net.safetensors"), "resnet10t", "true"),
    ):
        assert found.trained_with == own
    create, asked = timm.create_model, []

    def fetch(name: str, pretrained: bool = False, **options: Any) -> Any:
        asked.append(pretrained)
        torch.manual_seed(9 if pretrained else 1)
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", fetch)
    arguments = ("backbone=timm:resnet10t", "pretrained=true", *grey[0], "views.image_size=16", *FAST)
    record = record_of(*arguments, "evaluation.baselines=false", out=tmp_path / "p.json")
    assert True in asked and f"mean [{about.mean[0]:.4g}" in record["protocol"]["preprocessing"]
    assert record["model"]["trained"] and record["model"]["weights"].startswith("timm's ")

    def offline(name: str, pretrained: bool = False, **options: Any) -> Any:
        if pretrained:
            raise OSError("no network\nsecond line")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    assert "timm cannot load the pretrained weights of resnet10t (OSError: no network)" in refused(*arguments)


def test_a_run_that_was_not_evaluated_is_by_the_default_protocol() -> None:
    found, taken, _ = protocols_of(composed("evaluation", "none"), None, ["evaluation.probes.knn.k=5"])
    assert list(found) == ["frozen"] and taken == [["evaluation.probes.knn.k=5"]]
    assert list(protocols_of(composed("evaluation", "none"), "none", [])[0]) == ["none"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("evaluation=frozen", "say which run: python scripts/evaluate.py run=outputs/latest"),
        ("run={run} backbone=timm:resnet18", "two backbones"),
        ("run={run} run={run}", "run= is there twice"),
        ("run={run} model=resnet18", "model= goes with backbone="),
        ("{run}", "is not of the form key=value (did you mean run="),
        ("run={run}/checkpoints/last.ckpt", "last.ckpt is a file: name the folder of the run, "),
        ("run={run} evalution=frozen", r"there is no evalution= (did you mean evaluation?)"),
        ("run={run} method=byol", "there is no method=: evaluate takes run="),
        ("run={run} frozen", "'frozen' is not of the form key=value"),
        ("run={run} out=there", "out=there is not the name of a .json file"),
        ("run={run} evaluation=frozn", r"there is no evaluation=frozn (did you mean frozen?); evaluation can be: "),
        ("run={run} evaluation=,", "evaluation= names nothing"),
        ("run={run} data=shapez", r"there is no data=shapez (did you mean shapes?)"),
        ("run={run} evaluation=classifier", "evaluation=classifier does not fit: "),
        ("run={run} evaluation=none", "evaluation=none does not fit: it scores nothing"),
        ("run={run} evaluation=retrieval data.source.label=scale_value", "nothing can be scored: retrieval: "),
        ("run={run} evaluation.probes.kn.k=3", r"evaluation.probes has: knn, linear (did you mean knn?)"),
        ("run={run} evaluation=retrieval evaluation.probes.knn.k=5", "evaluation.probes has: retrieval"),
        ("run={run} evaluation.probes.knn.k=abc", "evaluation.probes.knn.k is abc: it must be a number"),
        ("run={run} evaluation.probes.knn.k=1,2", "gives several values: write one, or a list in brackets"),
        ("run={run} evaluation.probes.knn.k=[1,a]", "it must be a number"),
        (
            "run={run} trainer.devices=2",
            "evaluation=frozen runs in one process: leave out what sets trainer.devices to 2",
        ),
        (
            "run={run} trainer=ddp_cpu",
            "evaluation=frozen runs in one process: leave out what sets trainer.devices to 2",
        ),
        ("run={run} evaluation.baselines=3", "evaluation.baselines is 3: it must be true or false"),
        ("run={run} evaluation.probes.knn.k=[1,", "evaluation.probes.knn.k=[1, cannot be read"),
        ("backbone=timm:resnet18", "say on which data: data=<name>"),
        ("backbone=timm:resnet81 data=digits", r"timm has no model 'resnet81' (did you mean"),
        ("backbone=timm:resnet18 model=resnet18 data=digits", "names its model: leave model=resnet18 out"),
        ("backbone=timm:ssl_tiny pretrained=true data=digits", "timm has no pretrained weights of ssl_tiny"),
        ("backbone=timm:resnet18 pretrained=yes data=digits", "pretrained=yes is neither true nor false"),
        ("backbone=timm:vit_tiny_patch16_224 data=digits", "cannot take 1 x 8 x 8 images"),
        ("backbone=resnet18 data=digits", "timm's model of that name is backbone=timm:resnet18"),
        ("backbone={files} data=digits", "is a folder: a run is evaluated with run="),
        ("backbone={files}/none.safetensors data=digits", "none.safetensors does not exist: give a .safetensors file"),
        ("backbone={files}/odd.safetensors data=digits", "does not say which model its weights are of: add model="),
        (
            "backbone={files}/odd.safetensors model=resnet10t data=digits",
            "it holds no weight of resnet10t: its names are a ...",
        ),
        ("backbone={files}/net.safetensors model=resnet10 data=digits", "timm has no model 'resnet10'"),
        (
            "backbone={files}/net.safetensors model=resnet14t data=digits",
            "net.safetensors: it does not fit resnet14t: layer1.0.conv1.weight is",
        ),
        ("backbone={files}/broken.safetensors data=digits", "is no .safetensors file"),
        ("backbone={files}/code.pt model=resnet10t data=digits", "code.pt: it holds no weights: save the model's"),
        ("backbone={files}/list.pt model=resnet10t data=digits", "holds no weights"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(
    arguments: str, words: str, run: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in refused(*arguments.format(run=run, files=files).split())
    assert not list(tmp_path.iterdir())  # nothing is left behind


def test_a_stored_source_follows_the_key_it_was_made_of() -> None:
    resolved = composed("data", "cifar10")
    resolved.data.source.root = "data"  # as a run has it, without the interpolation
    assert override_each([resolved], ["data.root=/elsewhere"], "there") == [["data.root=/elsewhere"]]
    assert resolved.data.source.root == "/elsewhere"


def test_data_without_labels_leave_the_measures(run: Path) -> None:
    cfg, module = load_run(run, [])
    train, test = (build(cfg.data.source).load(split)._replace(label=None) for split in ("train", "test"))
    chosen = [Chosen(name, composed("evaluation", name).evaluation, [], False) for name in ("frozen", "measures")]
    (record,), left_out = score_all(module, Splits(train, test), chosen)
    assert list(record["metrics"]) and all(name.startswith("measures[") for name in record["metrics"])
    assert left_out == {"frozen": "it needs labels and a test split, which these data lack"}
    asked = [chosen[0]._replace(asked=True)]
    with pytest.raises(ValueError, match=r"evaluation=frozen does not fit: it needs labels"):
        score_all(module, Splits(train, test), asked)


def test_an_evaluation_that_trains_is_run_where_it_is_asked_for(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Trains:
        images_shown = "augmented images"

        def score_module(self, module: Any, data: Splits) -> dict[str, float]:
            return {"finetune[epochs=1]/top1": float(len(data.test.rows))}

    cfg, module = load_run(run, [])
    splits = Splits(*(build(cfg.data.source).load(split) for split in ("train", "test")))
    monkeypatch.setattr(several, "build", lambda node: Trains())
    chosen = Chosen("finetune", composed("evaluation", "frozen").evaluation, [], True)
    (record,), _ = score_all(module, splits, [chosen])
    assert record["metrics"] == {"finetune[epochs=1]/top1": 32.0}
    assert record["protocol"]["images"] == "augmented images"
    assert score_all(module, splits, [chosen._replace(asked=False)]) == (
        [],
        {"finetune": "it takes long or trains: ask for it by its name"},
    )


def test_a_run_of_pictures_is_not_scored_on_series(run: Path) -> None:
    assert refused(f"run={run}", "data=waves") == (
        "error: the backbone reads samples of modality image, but those of data=waves are of series: choose data of "
        "image"
    )


def test_the_place_of_the_record_is_tried_before_anything_is_computed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("ssl_framework.evaluation.request.evaluate_request", lambda request: {"metrics": {"a": 1.0}})
    evaluate(run, [f"out={tmp_path}/new/x.json"])  # makes the folder
    assert (tmp_path / "new" / "x.json").is_file()
    monkeypatch.setattr("ssl_framework.evaluation.request.evaluate_request", lambda request: pytest.fail("computed"))
    for place, words in ((f"{tmp_path}/file/x.json", "File exists|Not a directory"), ("/proc/x.json", "No such file")):
        with pytest.raises(OSError, match=words):
            evaluate(run, [f"out={place}"])
    with pytest.raises(ValueError, match=r"out=.*new is not the name of a \.json file"):
        evaluate(run, [f"out={tmp_path}/new"])
