"""The benchmarks measure in turns, report ratios of neighbours, and write what they print."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ssl_framework.device import keep_freed_memory
from ssl_framework.report.pictures.mixtures import mixer_names
from ssl_framework.runs.groups import CONFIGS
from tools.benchmark import command, mixers, scale, timing
from tools.benchmark.loss import dense, rows, step, tiled
from tools.benchmark.peers import need, random_images
from tools.benchmark.step import Product, bare_loop


def test_competitors_take_turns_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    seconds = timing.interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=2)
    assert calls == ["a", "b"] * 3 and [len(taken) for taken in seconds.values()] == [2, 2]


def test_a_ratio_is_taken_round_by_round() -> None:
    assert timing.ratio([2.0, 6.0, 40.0], [1.0, 2.0, 10.0]) == {"median": 3.0, "min": 2.0, "max": 4.0}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the kernel's record")
def test_peak_memory_is_that_of_the_call() -> None:
    """Also where the process has kept as much memory from before."""
    keep_freed_memory()
    small = [torch.ones(2**18) for _ in range(700)]  # 700 MiB in blocks that come from the heap
    del small
    assert 400 < timing.peak_extra_mib(lambda: torch.ones(2**27)) < 640  # 512 MiB of float32


def test_tiled_and_dense_compute_the_same() -> None:
    z, other = rows(300), rows(300)
    other.data.copy_(z.data)
    step(z, tiled), step(other, dense)
    torch.testing.assert_close(z.grad, other.grad)


def test_product_and_bare_loop_run_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = random_images(16, 32)
    product = Product("tiny", 16, pixels, precision="32-true")
    seconds = product.against({"bare": bare_loop(product, pixels, 2)}, steps=2, rounds=3)
    assert {name: len(taken) for name, taken in seconds.items()} == {"ours": 3, "bare": 3}


def test_the_command_prints_and_writes_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    figures = {"ours_over_kornia": {"median": 4.5678, "min": 4.0, "max": 5.0}}
    measured = ModuleType("measured")
    measured.run = lambda quick: figures if quick else {}  # type: ignore[attr-defined]
    monkeypatch.setattr(command, "module_of", lambda name: measured)
    command.main(["views", "--quick", "--json", str(tmp_path / "out" / "figures.json")])
    written = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert written["views"] == figures and written["about"]["versions"]["torch"]
    printed = capsys.readouterr().out
    assert "4.57" in printed and "kornia" in printed


@pytest.mark.parametrize("name", [*command.NAMES, *command.APART])
def test_every_benchmark_is_there(name: str) -> None:
    assert callable(command.module_of(name).run)


def test_a_missing_competitor_is_said_with_the_way_to_install_it() -> None:
    with pytest.raises(ValueError, match=r"no_such_peer is not installed.*pip install -e \.\[bench\]"):
        need("no_such_peer")


def test_every_mixer_is_measured_beside_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    names = mixer_names()
    assert set(names) == {path.stem for path in (CONFIGS / "mixer").iterdir()} - {"none"}
    monkeypatch.setattr(mixers, "mixer_names", lambda: ["cutmix", "patchmix"])
    found = mixers.run(quick=True)
    assert list(found) == [f"{m}/{key}" for m in ("cutmix", "patchmix") for key in ("over_step", "milliseconds")]
    assert all(0 < figure["min"] <= figure["median"] <= figure["max"] for figure in found.values())
    assert all(command.meaning("mixers", name) for name in found)


def test_every_figure_of_the_record_has_a_meaning() -> None:
    record = json.loads((Path(__file__).resolve().parents[2] / "results" / "speed" / "benchmark.json").read_text())
    assert set(record) == {*command.NAMES, "about"} and not record["about"]["quick"]
    for benchmark in command.NAMES:
        for name in record[benchmark]:
            assert command.meaning(benchmark, name), (benchmark, name)


def test_the_record_keeps_what_the_project_promises() -> None:
    """Limited by the backbone alone, on two CPU cores; medians of ratios measured in turns."""
    record = json.loads((Path(__file__).resolve().parents[2] / "results" / "speed" / "benchmark.json").read_text())
    middle = {f"{b}/{name}": value["median"] for b in command.NAMES for name, value in record[b].items()}
    assert middle["step/tiny/ours_over_bare"] >= 0.95 and middle["step/resnet18/ours_over_bare"] >= 0.95
    assert middle["step/tiny/ours_over_lightly"] >= 2.5
    assert middle["views/ours_over_lightly"] >= 12 and middle["views/ours_over_kornia"] >= 3
    assert middle["loss/peak_extra_mib"] < 1024 and middle["loss/tiled_over_dense"] <= 1.5
    assert middle["knn/ours_over_faiss"] <= 1.2 and middle["knn/peak_extra_mib"] < 500
    assert middle["startup/help_seconds"] < 2 and middle["startup/first_step_over_imports"] <= 2.5


def test_an_images_cost_is_compared_with_that_in_the_smallest_set() -> None:
    """With its share of the epoch's order."""
    rest = {"loader_microseconds_an_image": 1.0, "start_seconds": 2.0, "memory_mib": 3.0}
    figures = {
        f"bank/{count}": {"microseconds_an_image": cost, "order_microseconds_an_image": order, **rest}
        for count, cost, order in ((100_000, 105.0, 0.5), (10_000, 99.0, 1.0))
    }
    table = scale.table(figures)
    assert [[*column.cells] for column in table.columns[1:4]] == [
        ["10,000", "100,000"],
        ["99.0", "105.0"],
        ["1.000", "1.055"],
    ]
    assert scale.quartile([0.0, 1.0, 2.0, 3.0, 13.0]) == pytest.approx(1e6 / scale.BATCH)
