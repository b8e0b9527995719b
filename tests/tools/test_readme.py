"""What the README shows is what the configs, the tests and the records of runs say."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ssl_framework.report.comparison import condense, read_record
from tests.report.test_report import synthetic_job
from tools.pages.method_pages import method_pages, untrained_lines
from tools.pages.methods import SHOWN, golden_of, read_by, read_methods
from tools.pages.protocols import protocols_page
from tools.pages.readme import by_hand, filled
from tools.pages.studies import studies_page

ROOT = Path(__file__).resolve().parents[2]
RECORDS = sorted(path.parent for path in (ROOT / "results").glob("*/result.json"))


def test_every_generated_block_is_up_to_date() -> None:
    """To mend it: python -m tools.pages.readme"""
    blocks = 0
    for name in by_hand(ROOT):
        text = (ROOT / name).read_text()
        assert filled(text, ROOT, "../" * name.count("/")) == text, name
        blocks += text.count("<!-- end -->")
    assert blocks >= 13


def test_the_pages_of_methods_are_up_to_date() -> None:
    """To mend it: python -m tools.pages.readme"""
    pages = method_pages(ROOT)
    for name, text in pages.items():
        assert (ROOT / name).read_text() == text, name
    there = {f"docs/methods/{path.name}" for path in (ROOT / "docs" / "methods").glob("*.md")}
    assert there == {*pages} - {"docs/methods.md"}


OTHERS = ("configs/optimizer", "configs/study", "ssl_framework")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A source tree with two methods and without a record."""
    parts = ("configs/head", "configs/teacher", "configs/objective", "configs/views", "configs/mixer")
    for name in (*parts, "configs/feature_mixer", "tests/golden.json", "tests/objectives", *OTHERS):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "configs" / "method").mkdir()
    for name in ("simclr", "mochi"):
        (tmp_path / "configs" / "method" / f"{name}.yaml").symlink_to(ROOT / "configs" / "method" / f"{name}.yaml")
    return tmp_path


def test_methods_are_described_by_config_and_tests_alone(tree: Path) -> None:
    simclr = (ROOT / "configs" / "method" / "simclr.yaml").read_text()
    marked = simclr.replace(
        "(arXiv:2002.05709).   ", "(arXiv:2002.05709).\n# Differs: one thing\n#   and why.\n# Unverified: another.\n# "
    )
    assert marked != simclr
    (tree / "configs" / "method" / "variant.yaml").write_text(marked)
    mochi, plain, variant = read_methods(tree)
    assert (plain.authors, plain.venue, plain.arxiv, plain.views) == ("Chen et al.", "ICML 2020", "2002.05709", 2)
    assert plain.paper == "A Simple Framework for Contrastive Learning of Visual Representations"
    assert plain.command == "python train.py method=simclr data=cifar10" and plain.tests == [
        "objectives/test_simclr.py"
    ]
    assert plain.golden == {"reference code": 2, "formula": 1} and variant.golden == {}
    assert plain.notes == {"Differs": [], "Unverified": []}
    assert variant.notes == {"Differs": ["one thing and why."], "Unverified": ["another."]}
    assert mochi.golden == {"formula": 1} and mochi.shows == "formula only" and mochi.group == "Teacher and memory"
    assert (mochi.memory, mochi.needs, mochi.feature_mixer) == (["Queue of 4,096"], ["a teacher"], "mochi")
    assert mochi.feature_mixers == ["feature_transform", "hallucinator", "mochi", "synco"]
    assert plain.mixtures == mochi.mixtures == ["in the place of clean views"]
    assert plain.feature_mixers == ["hallucinator", "m_mix", "mochi", "synco"]
    assert mochi.files[:3] == [
        *("configs/objective/mocov2.yaml", "configs/head/mocov2.yaml", "configs/teacher/moco.yaml")
    ]
    assert mochi.files[3:] == ["ssl_framework/objectives/moco.py", "ssl_framework/feature_mixers/mochi.py"]
    pages = method_pages(tree)
    page, tables = pages["docs/methods/variant.md"], pages["docs/methods.md"]
    assert "- one thing and why." in page and "- Not verified: another." in page and "It is not in the [comp" in page
    assert "| loss of `simclr`; unverified detail; differs |" in tables and "k-NN" not in tables
    assert "    z0, z1 = map(unit, outputs_of(student, self.head))  # [B, D] each" in page
    assert "Every view is an anchor" in page and "test_simclr.py" in page and "golden value" not in page


def test_golden_values_are_those_that_a_test_file_reads(tmp_path: Path) -> None:
    """By full name, by a form, and by a form that begins with a variable only for what the file names."""
    path, names = tmp_path / "test_a.py", ["a: loss [tau=1]", "a: loss [tau=2]", "a: weights", "b: loss [tau=1]"]
    entries = [{"name": name, "config": name[0], "kind": "formula"} for name in names]
    for line, expected in (
        ("golden('a: weights')", names[2:3]),
        ("golden(f'a: loss [tau={t}]')", names[:2]),
        ("[golden(f'{n}: loss [tau={t}]') for n in ('a',)]", names[:2]),
        ("[golden(f'{n}: loss [tau=1]') for n in ('a', 'b')]", [names[0], names[3]]),
        ("'a: weights'; other('b')", []),
    ):
        path.write_text(line)
        assert [entry["name"] for entry in read_by(path, entries)] == expected
    path.write_text("golden('a: weights')")
    for module, tests, expected in (
        ("a", {"one": [path]}, {"formula": 1}),
        ("a", {"one": [path], "a": []}, {}),  # the entry belongs to the other method
        ("a", {"one": [path], "two": [path]}, {}),  # whose it is cannot be told
        ("b", {"one": [path]}, {}),  # the loss is another's
    ):
        assert golden_of("one", module, tests, entries) == expected


def test_results_stand_with_their_number_of_seeds_and_protocol(tree: Path, tmp_path: Path) -> None:
    for seed, value in enumerate((50.0, 52.0)):
        synthetic_job(tmp_path / "runs", "simclr", "shapes", seed, value)
    synthetic_job(tmp_path / "runs", "mochi", "shapes", 0, 40.0)
    synthetic_job(tmp_path / "runs", "mochi", "shapes", 1, None)
    (tmp_path / "runs" / "command.txt").write_text("python train.py -m ...\n")
    condense(tmp_path / "runs", tree / "results" / "comparison", with_references=False)
    pages = method_pages(tree)
    tables = pages["docs/methods.md"]
    assert "| | `knn[k=20,T=0.1]` |" in pages["docs/methods/simclr.md"]
    assert "| shapes | 51.0 ± 1.4 (2) |" in pages["docs/methods/simclr.md"]
    (row,) = [line for line in tables.splitlines() if "methods/mochi.md" in line]
    assert row.endswith("| 40.0 (1, 1 failed) |")
    assert "epochs 3, batch 128" in tables and "shapes: 30 pretrain, 30 train, 20 test images" in tables


def test_methods_that_are_no_better_than_an_untrained_network_are_named(tmp_path: Path) -> None:
    """Two pooled deviations of pairs that are two apart are 2.83: 5 is above 2 by more, and 4.8 is not."""
    for seed in (0, 1):
        synthetic_job(tmp_path / "runs", "simclr", "shapes", seed, 4.0 + 2 * seed)
        synthetic_job(tmp_path / "runs", "mochi", "shapes", seed, 3.8 + 2 * seed)
    (tmp_path / "runs" / "command.txt").write_text("python train.py -m ...\n")
    condense(tmp_path / "runs", tmp_path / "record", with_references=False)
    record = read_record(tmp_path / "record")
    assert record is not None
    untrained = {"shapes": {"untrained": {"0": {SHOWN: 1.0}, "1": {SHOWN: 3.0}}}}
    (line, _) = untrained_lines(record._replace(about={**record.about, "references": untrained}))
    assert line == (
        "- shapes: 1 of 2 methods are above the untrained network by more than two pooled deviations; the others: "
        "`mochi`"
    )
    assert untrained_lines(record._replace(about={**record.about, "references": {}})) == []


@pytest.mark.parametrize(
    ("name", "page"), [("evaluation", protocols_page), ("studies", studies_page)], ids=["evaluation", "studies"]
)
def test_a_page_says_what_configs_and_records_say(name: str, page: Callable[[Path], str]) -> None:
    """Every table is computed anew from its record. To mend a page: python -m tools.pages.readme"""
    assert (ROOT / "docs" / f"{name}.md").read_text() == page(ROOT)


def rows_of(output: str) -> dict[str, str]:
    """Metric -> its line of a printed table; a long name goes on in the lines below, where nothing else stands."""
    found: dict[str, str] = {}
    name = ""
    for line in output.splitlines():
        if line.startswith("│ "):
            first, *cells = line.split("│")[1:-1]
            if any(cell.strip() for cell in cells):
                name = first.strip()
                found[name] = line
            else:
                found[name + first.strip()] = found.pop(name)
                name += first.strip()
    return found


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.name)
def test_a_record_is_one_run(record: Path) -> None:
    """The printed table, the metrics file and result.json of a record agree, and carry command and commit."""
    result, output = json.loads((record / "result.json").read_text()), (record / "output.txt").read_text()
    assert result["command"] in (record / "command.txt").read_text() and result["commit"]
    rows = rows_of(output)
    for name, value in result["metrics"].items():
        row = rows[name]
        raw = result["baselines"].get("raw_pixels") or result["baselines"].get("raw_input")  # of one tower only
        references = [found.get(name) for found in (result["baselines"]["untrained"], raw or {})]
        for cell, v in zip(row.split("│")[2:5], (value, *references), strict=True):
            assert cell.strip() == "-" if v is None else float(cell.split()[0]) == pytest.approx(v, abs=0.051)
        ends = [float(end) for end in re.findall(r"[\d.]+", row.partition("(")[2].partition(")")[0])]
        assert ends == [pytest.approx(end, abs=0.051) for end in result["intervals"].get(name, [])]


def test_the_records_keep_what_the_project_promises() -> None:
    """The default job beats both references by 15 points, MoCHi on CIFAR-10 raw pixels by 8 (k-NN, final epoch); the
    default job spends at most a tenth of its training's time on evaluation."""
    metric = "knn[k=20,T=0.1]/top1"
    default = json.loads((ROOT / "results" / "default" / "result.json").read_text())
    assert default["metrics"][metric] >= 15 + max(v[metric] for v in default["baselines"].values())
    took = f"took {default['evaluation_seconds']:.0f} s beside {default['training_seconds']:.0f} s of training"
    assert took in (ROOT / "docs" / "evaluate.md").read_text()
    assert default["evaluation_seconds"] <= 0.1 * default["training_seconds"]
    mochi = json.loads((ROOT / "results" / "mochi_cifar10" / "result.json").read_text())
    assert mochi["metrics"][metric] >= 8 + mochi["baselines"]["raw_pixels"][metric]
    readme, minutes = (ROOT / "README.md").read_text(), []
    for name in ("simclr", "mochi"):
        long = json.loads((ROOT / "results" / "front_page" / name / "result.json").read_text())
        assert long["metrics"][metric] >= 25 + max(v[metric] for v in long["baselines"].values())
        minutes.append(f"{long['wall_seconds'] / 60:.0f}")
    assert f"one CPU core a method, {' and '.join(minutes)} minutes" in readme
