"""The page of a run while it trains: at each evaluation, at a hundredth of the time, and what it says of an end."""

import base64
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from ssl_framework.report.lines import COLOURS, HEIGHT, Frame, drawn_lines, thinned
from ssl_framework.runs.folder import RunFolder
from ssl_framework.training import live_page, run
from ssl_framework.training.live_page import LivePage
from tests.report.test_page import Parsed
from tests.small_runs import run_in, small
from tests.training.test_going_on import EACH, SHORT
from tests.training.test_resume import crash, interrupt_at, sigterm

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every page that a run writes while it trains; none takes too long, and that of its end is left out."""
    found: list[str] = []
    write = live_page.write_live

    def writing(folder: Path, *args: Any) -> None:
        write(folder, *args)
        found.append((folder / "report.html").read_text())

    monkeypatch.setattr(live_page, "write_live", writing)
    monkeypatch.setattr(live_page, "SHARE", float("inf"))
    monkeypatch.setattr(run, "report_on", lambda *args: None)
    return found


def state_of(page: str) -> str:
    return re.search(r'<p class="under">(.*?)</p>', page, re.DOTALL)[1]  # type: ignore[index]


def curves_in(page: str) -> ElementTree.Element:
    """The SVG of a page."""
    return ElementTree.fromstring(base64.b64decode(re.search(r"data:image/svg\+xml;base64,([^\"]+)", page)[1]))  # type: ignore[index]


def test_the_page_says_how_far_the_run_is_at_each_evaluation(tmp_path: Path, pages: list[str]) -> None:
    cfg = small("simclr", *SHORT, *EACH, "report=page")
    run_in(tmp_path, cfg, method="simclr", command="python train.py <b>&")
    begun, first, second = pages
    words = re.compile(r"Running since [-\d]+ [\d:]+, at step (\d+) of (\d+), epoch (\d) of 2 \(")
    steps = [words.match(state_of(page)) for page in pages]
    total = RunFolder(tmp_path).read_result()["steps"]
    assert [found and found.groups() for found in steps] == [
        ("0", str(total), "1"), (str(total // 2), str(total), "1"), (str(total), str(total), "2")
    ]  # fmt: skip
    assert "no evaluation yet" in begun and "svg" not in begun
    (name, curve) = next(item for item in RunFolder(tmp_path).read_metrics().items() if item[0].startswith("eval/"))
    for page, (_, value) in zip((first, second), curve, strict=True):
        assert name.removeprefix("eval/") in page and f"<td>{value:.1f}" in page
        titles = {found.text for found in curves_in(page).iter(f"{SVG}text")}
        assert {"loss", "learning rate", "norm of the gradient"} <= titles
    assert 'http-equiv="refresh"' in second and not RunFolder(tmp_path).has_page
    (tmp_path / "report.html").write_text(second.replace('http-equiv="refresh"', ""))
    assert RunFolder(tmp_path).has_page
    assert "simclr on shapes, seed 0" in Parsed(tmp_path / "report.html").text


def test_a_page_says_what_has_ended_the_run(tmp_path: Path, pages: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = small("simclr", *SHORT, "report=page")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1, sigterm)
        assert run_in(tmp_path, cfg) == "SIGTERM"
    assert re.match(r"Stopped at step 1 of \d+, epoch 1 of 2 \(.*\); the same command goes on\.$", state_of(pages[-1]))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2, crash)
        with pytest.raises(RuntimeError, match="power cut"):
            run_in(tmp_path, cfg, resume=True)
    assert re.match(r"Failed at step 2 of \d+, .*; RuntimeError: power cut\.$", state_of(pages[-1]))
    assert 'http-equiv="refresh"' in pages[-2] and 'http-equiv="refresh"' not in pages[-1]


def test_a_run_that_cannot_begin_ends_with_its_own_error_and_has_no_page(tmp_path: Path, pages: list[str]) -> None:
    """And not with that of a page that asks for the length of the run."""
    cfg = small("simclr", *SHORT, "report=page", "sampler=same", "pseudo_labels=factor", "pseudo_labels.factor=kind")
    with pytest.raises(ValueError, match="factor is kind, which is no further label of this data set"):
        run_in(tmp_path, cfg)
    assert pages == []


def test_it_takes_a_hundredth_of_the_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock, written = [0.0], list[float]()

    def slow(*args: Any) -> None:
        clock[0] += 2.0
        written.append(clock[0])

    monkeypatch.setattr(live_page, "write_live", slow)
    monkeypatch.setattr(live_page.time, "monotonic", lambda: clock[0])
    evaluation: Any = SimpleNamespace(evaluated_at=-1, metrics={}, intervals={}, baselines={})
    trainer: Any = SimpleNamespace(
        is_global_zero=True, estimated_stepping_batches=9, num_training_batches=3, accumulate_grad_batches=1,
        max_epochs=3, global_step=0,
        strategy=SimpleNamespace(root_device=SimpleNamespace(type="cpu")), should_stop=False,
    )  # fmt: skip
    monkeypatch.setattr(live_page, "device_name", lambda device: "CPU")
    page = LivePage(RunFolder(tmp_path), None, {}, evaluation, None)  # type: ignore[arg-type]
    page.on_train_start(trainer, None)  # type: ignore[arg-type]
    for evaluation.evaluated_at in range(1, 101):  # every ten seconds
        clock[0] += 10
        page.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
    assert 0.008 < 2 * len(written) / clock[0] <= 0.01 and len(written) == 5


def test_a_page_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    def full(*args: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(live_page, "write_live", full)
    monkeypatch.setattr(live_page, "SHARE", float("inf"))
    monkeypatch.setattr(run, "report_on", lambda *args: None)
    run_in(tmp_path, small("simclr", *SHORT, *EACH, "report=page"))
    assert capfd.readouterr().out.count("no page while it trains: the disk is full") == 1


def test_lines_go_through_their_points() -> None:
    assert Frame(0, 10, 0.0, 2.0).at(0, 0.0) == (58, 145) and Frame(0, 10, 0.0, 2.0).at(10, 2.0) == (288, 40)
    assert Frame.around([[(3, 5.0)]]) == (3, 4, 2.5, 7.5)
    assert thinned([(1, 1.0), (2, float("nan")), (3, float("inf")), (4, 2.0)]) == [(1, 1.0), (4, 2.0)]
    assert thinned([(step, float(step % 2)) for step in range(600)]) == [(step, 0.5) for step in range(1, 600, 2)]
    one = {"x": [(0, 1.0), (10, 3.0)], "y": [(0, 3.0), (10, 1.0)]}
    found = ElementTree.fromstring(drawn_lines({"a<b": one, "empty": {"x": [(0, float("nan"))]}}))
    lines = [line.attrib["points"] for line in found.iter(f"{SVG}polyline")]
    assert lines == ["58.0,145.0 288.0,40.0", "58.0,40.0 288.0,145.0"]
    assert [" ".join("".join(words.itertext()).split()) for words in found.iter(f"{SVG}text")] == [
        *("a<b", "x y", "3", "1", "0", "10")
    ]
    found = ElementTree.fromstring(drawn_lines({"first": one, "second": {"y": one["y"]}}, ["y", "x"]))  # runs
    named = [(words.text, words.get("fill")) for words in found.iter(f"{SVG}text")]
    colours = [line.get("stroke") for line in found.iter(f"{SVG}polyline")]
    assert named[0] == ("y", COLOURS[0]) and colours == [COLOURS[1], COLOURS[0], COLOURS[0]]
    assert float(found.get("height", 0)) == 36 + HEIGHT
