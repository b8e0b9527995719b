"""What the README shows is what the configs, the tests and the records of runs say."""

import json
import re
from pathlib import Path

import pytest

from ssl_framework.report.readme import filled

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
RECORDS = sorted(path.parent for path in (ROOT / "results").glob("*/result.json"))


def test_every_generated_block_is_up_to_date() -> None:
    """To mend it: python -m ssl_framework.report.readme"""
    assert filled(README, ROOT) == README
    assert README.count("<!-- end -->") >= 5


def test_every_file_and_picture_it_points_to_exists() -> None:
    links = re.findall(r"\]\((?!http|#)([^)]+)\)", README)
    assert len(links) > 10
    for link in links:
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.name)
def test_a_record_is_one_run(record: Path) -> None:
    """The printed table, the metrics file and result.json of a record agree, and carry command and commit."""
    result, output = json.loads((record / "result.json").read_text()), (record / "output.txt").read_text()
    assert result["command"] in (record / "command.txt").read_text() and result["commit"]
    for name, value in result["metrics"].items():
        (row,) = [line for line in output.splitlines() if line.startswith(f"│ {name} ")]
        references = [result["baselines"][kind][name] for kind in ("untrained", "raw_pixels")]
        assert [float(cell) for cell in row.split("│")[2:5]] == [
            pytest.approx(v, abs=0.051) for v in (value, *references)
        ]


def test_the_records_keep_what_the_project_promises() -> None:
    """The default job beats both references by 15 points, MoCHi on CIFAR-10 raw pixels by 8 (k-NN, final epoch)."""
    metric = "knn[k=20,T=0.1]/top1"
    default = json.loads((ROOT / "results" / "default" / "result.json").read_text())
    assert default["metrics"][metric] >= 15 + max(v[metric] for v in default["baselines"].values())
    mochi = json.loads((ROOT / "results" / "mochi_cifar10" / "result.json").read_text())
    assert mochi["metrics"][metric] >= 8 + mochi["baselines"]["raw_pixels"][metric]
