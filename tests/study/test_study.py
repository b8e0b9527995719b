"""Studies: what a table says of its runs, how it is written, and that the runs it lacks are run however often the study
is stopped."""

import base64
import csv
import html.parser
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from scipy.stats import ttest_1samp, ttest_rel

from ssl_framework.commands import study as command
from ssl_framework.commands.study import main
from ssl_framework.report.render import as_csv, latex, markdown, page, plot, text_of
from ssl_framework.report.results_csv import read_csv, write_csv
from ssl_framework.report.sheet import (
    Effect,
    Entry,
    Published,
    Sheet,
    against_baseline,
    best,
    cells,
    holm,
    is_accuracy,
    mean_and_spread,
    paired_p,
    verdicts,
)
from ssl_framework.runs.config import config_hash, refuse_other_config
from ssl_framework.runs.folder import RunFolder, protocol_id
from ssl_framework.runs.overrides import latest_of
from ssl_framework.runs.plugins import FOLDERS
from ssl_framework.runs.typed_paths import quoted
from ssl_framework.study import engine
from ssl_framework.study.cells import POOL, Run, cells_of, runs_of
from ssl_framework.study.declaration import read_study
from ssl_framework.study.engine import NO_PAGE, NO_TABLE, Engine, job_overrides
from ssl_framework.study.record import entries_of, seconds_to
from ssl_framework.study.request import parse
from tests.forked import PID, Command, study
from tests.small_runs import composed, small

KNN = "top-1, k-NN"
VALUES: dict[tuple[str, str], dict[int, float]] = {
    ("A", "8"): {0: 50.0, 1: 52.0, 2: 51.5}, ("A", "64"): {0: 60.0, 1: 61.0, 2: 59.0},
    ("B", "8"): {0: 53.0, 1: 55.5, 2: 54.0}, ("B", "64"): {0: 59.0, 1: 61.5, 2: 59.5},
    ("C", "8"): {0: 40.0, 1: 41.0, 2: 42.5}, ("C", "64"): {0: 66.0, 1: 66.8, 2: 65.1},
}  # fmt: skip


def entry(row: str, column: str, seed: int, value: float | None, **more: Any) -> Entry:
    """A finished run with this value, or without one in the state that ``more`` gives."""
    values = {} if value is None else {KNN: value}
    return Entry(row, column, seed, "done", values, 100.0 + seed, config_hash=row + column)._replace(**more)


def sheet(entries: Sequence[Entry] | None = None, **more: Any) -> Sheet:
    if entries is None:
        entries = [entry(*place, seed, value) for place, own in VALUES.items() for seed, value in own.items()]
    rows, columns = (tuple(dict.fromkeys(e[i] for e in entries)) for i in (0, 1))
    seeds = tuple(sorted({e.seed for e in entries}))
    return Sheet("A title", "batch", rows, columns, (KNN,), seeds, tuple(entries), "A")._replace(**more)


def test_mean_spread_and_number_of_seeds_of_a_cell() -> None:
    found = cells(sheet())
    assert found["A", "8"].values(KNN) == [50.0, 52.0, 51.5]
    assert mean_and_spread([50.0, 52.0, 51.5], KNN) == "51.2 ± 1.0"  # 51.1667, 1.0408
    assert text_of(found["A", "8"], KNN) == "51.2 ± 1.0 (3)"
    assert text_of(cells(sheet([entry("A", "8", 0, 50.0)]))["A", "8"], KNN) == "50.0 (1)"
    assert mean_and_spread([0.01234, 0.02], "RankMe") == "0.0162 ± 0.0054"  # 0.01617, 0.005416


def test_significance_is_the_paired_t_test_corrected_after_holm() -> None:
    against = against_baseline(sheet(), cells(sheet()))
    raw = {}
    for (row, column), own in VALUES.items():
        if row != "A":
            theirs = VALUES["A", column]
            raw[row, column] = float(ttest_rel([own[s] for s in range(3)], [theirs[s] for s in range(3)]).pvalue)
    assert set(against) == set(raw) and 0 < min(raw.values()) < 0.05 < max(raw.values())
    ordered, largest = sorted(raw, key=lambda place: raw[place]), 0.0
    for rank, place in enumerate(ordered):
        largest = max(largest, min(1.0, raw[place] * (len(raw) - rank)))
        assert against[place].p == pytest.approx(largest, rel=1e-9)
        assert against[place].significant == (largest < 0.05)
    assert against["B", "8"].difference == pytest.approx(3.0) and against["B", "8"].n == 3
    assert against["B", "8"].spread == pytest.approx(0.5)


def test_holm_leaves_out_what_has_no_p() -> None:
    corrected = holm({"a": 0.01, "b": math.nan, "c": 0.04, "d": 0.03})
    assert math.isnan(corrected.pop("b"))
    assert corrected == pytest.approx({"a": 0.03, "c": 0.06, "d": 0.06})  # not 0.04 for c, which is larger than d


@pytest.mark.parametrize("differences", [[], [1.0], [2.0, 2.0], [52.1 - 52.0, 48.3 - 48.2], [0.0, 0.0, 0.0]])
def test_no_p_where_nothing_is_known_of_the_spread(differences: list[float]) -> None:
    """In the fourth, differences of rounded numbers are equal up to the last bit."""
    found = paired_p([differences, [1.0, 2.0, 4.0]])
    assert math.isnan(found[0]) and found[1] == pytest.approx(ttest_rel([1.0, 2.0, 4.0], [0.0] * 3).pvalue, rel=1e-12)


def test_only_seeds_of_both_are_compared() -> None:
    entries = [entry("A", "8", s, v) for s, v in ((0, 50.0), (1, 52.0), (2, 51.0))]
    entries += [entry("B", "8", s, v) for s, v in ((1, 53.0), (2, 53.0), (3, 90.0))]
    (value,) = against_baseline(sheet(entries), cells(sheet(entries))).values()
    assert (value.n, value.difference) == (2, 1.5)
    assert value.p == pytest.approx(float(ttest_rel([53.0, 53.0], [52.0, 51.0]).pvalue))


def test_the_best_is_that_of_each_column_and_only_where_more_is_better() -> None:
    assert best(sheet(), cells(sheet()), KNN) == {("B", "8"), ("C", "64")}
    entries = [entry("A", "8", 0, math.nan), entry("B", "8", 0, 1.0), entry("C", "8", 0, 2.0)]
    assert best(sheet(entries), cells(sheet(entries)), KNN) == {("C", "8")}
    for metric, wanted in (("knn[k=5,T=0.1]/top1", True), ("top-1 error", False), ("RankMe", False)):
        assert is_accuracy(metric) is wanted
        assert bool(best(renamed(metric), cells(renamed(metric)), metric)) is wanted
        assert ("Bold" in markdown(renamed(metric))) is wanted


def renamed(metric: str) -> Sheet:
    entries = [e._replace(values={metric: e.values[KNN]}) for e in sheet().entries]
    return sheet(entries, metrics=(metric,))


def test_an_effect_is_judged_by_the_criterion_that_was_written_for_it() -> None:
    """Differences of cells and of differences, each tested over the seeds that all its places have."""
    effects = (
        Effect("B is better", (("B", "8"),), (("A", "8"),), 1.0, KNN),
        Effect("much better", (("B", "8"),), (("A", "8"),), 3.5, KNN),
        Effect("C gains by 64", (("C", "64"), ("A", "8")), (("C", "8"), ("A", "64")), 1.0, KNN),
        Effect("A is better", (("A", "64"),), (("C", "64"),), 1.0, KNN),
        Effect("B at 64", (("B", "64"),), (("A", "64"),), 0.0, KNN),
    )
    entries = [*sheet().entries, entry("B", "8", 3, 99.0)]  # of a seed that the others lack
    found = verdicts(sheet(entries, effects=effects), cells(sheet(entries)))
    assert [verdict.word for verdict in found] == ["seen", "not seen", "seen", "opposite", "not seen"]
    assert [round(verdict.difference, 4) for verdict in found] == [3.0, 3.0, 15.9667, -5.9667, 0.0]
    assert {verdict.n for verdict in found} == {3} and found[2].spread == pytest.approx(0.8505, abs=1e-4)
    raw = [float(ttest_1samp(values, 0.0).pvalue) for values in ([3, 3.5, 2.5], [16, 16.8, 15.1], [-6, -5.8, -6.1])]
    assert found[3].p == pytest.approx(5 * raw[2]) and found[2].p == pytest.approx(4 * raw[1])
    assert found[0].p == found[1].p == pytest.approx(3 * raw[0])  # the smaller of two equal ones counts for both
    lines = markdown(sheet(entries, effects=effects[:1])).splitlines()
    assert f"| B is better | {KNN}: (B, 8) - (A, 8) at least 1.0 | +3.0 ± 0.5 (n 3, p 0.0091) | seen |" in lines
    one = sheet([e for e in entries if e.seed == 0], effects=effects[:1])
    assert "| +3.0 (n 1) | open |" in markdown(one) and "criterion was written before the runs" in markdown(one)
    none = sheet([e for e in entries if e.row == "A"], rows=("A", "B"), columns=("8", "64"), effects=effects[:1])
    assert "at least 1.0 | - | open |" in markdown(none)


def test_what_failed_is_missing_or_did_not_end_is_counted() -> None:
    entries = [entry("A", "8", s, 50.0) for s in range(4)]
    entries += [entry("B", "8", 0, 53.0), entry("B", "8", 1, None, state="failed", error="ValueError: no")]
    entries += [entry("B", "8", 2, None, state="interrupted")]  # seed 3 is in no entry
    entries += [entry("C", "8", s, None, state="missing") for s in range(4)]
    found = cells(sheet(entries))
    assert text_of(found["B", "8"], KNN) == "53.0 (1, 1 failed, 1 unfinished, 1 missing)"
    assert text_of(found["C", "8"], KNN) == "4 missing"
    assert text_of(found["A", "8"], "another metric") == "-"
    without = [*entries[:2], entry("A", "8", 2, None), entry("A", "8", 3, 52.0)]  # finished, without the metric
    assert text_of(cells(sheet(without))["A", "8"], KNN) == "50.7 ± 1.2 (3, 1 without it)"


def test_runs_of_different_configs_are_never_averaged() -> None:
    entries = [entry("A", "8", s, 50.0) for s in range(2)]
    entries += [entry("B", "8", s, 60.0 + s, config_hash=str(s)) for s in range(2)]
    wanted = sheet(entries)
    found = cells(wanted)
    assert found["B", "8"].values(KNN) == [] and text_of(found["B", "8"], KNN) == "2 different configs"
    assert against_baseline(wanted, found) == {} and best(wanted, found, KNN) == set()


def test_a_column_that_mixes_protocols_is_refused() -> None:
    entries = [entry("A", "8", 0, 50.0, protocol="frozen/1#aa"), entry("B", "64", 0, 50.0, protocol="frozen/2#bb")]
    assert "Protocol: frozen/1#aa, frozen/2#bb." in markdown(sheet(entries))  # columns apart
    entries += [entry("B", "8", 0, 50.0)]  # of a version that did not say
    assert "frozen/1#aa, frozen/2#bb" in markdown(sheet(entries)) and "not said (an earlier version)" in page(
        sheet(entries), []
    )
    entries += [entry("C", "8", 0, 50.0, protocol="frozen/2#bb")]
    for write in (cells, markdown, as_csv, latex):
        with pytest.raises(ValueError, match=r"column 8 mixes protocols: A was .* frozen/1#aa, C with frozen/2#bb"):
            write(sheet(entries))  # type: ignore[operator]


def test_a_protocol_is_its_name_and_all_its_settings() -> None:
    one, other = ({"name": "frozen/1", "settings": {"k": k}} for k in (20, 200))
    assert protocol_id({"protocol": one}).startswith("frozen/1#") and protocol_id({}) == ""
    assert protocol_id({"protocol": one}) != protocol_id({"protocol": other})


ODD = "50 % of x_1 & {y} $|a|<b^2 #3~ \\z [k=1] ±→τ"
PUBLISHED = Published("CIFAR-10", "a README", "memory", {"A": {"8": 78.3}, "B": {"8": 84.6, "64": 80.0}})


def odd_sheet() -> Sheet:
    """With names that every form has to escape, and published numbers."""
    entries = [e._replace(row=ODD if e.row == "C" else e.row) for e in sheet().entries]
    return sheet(entries, published=PUBLISHED, metrics=(KNN, "RankMe"), target=50.0)


def test_markdown_has_every_number_with_its_n_beside_the_published_ones() -> None:
    text = markdown(odd_sheet())
    lines = text.splitlines()
    assert "| batch → | 8 | 64 |" in lines and "| A | 51.2 ± 1.0 (3) | 60.0 ± 1.0 (3) |" in lines
    assert "| B | **54.2 ± 1.3 (3)** * | 60.0 ± 1.3 (3) |" in lines
    assert lines[lines.index("| A | 51.2 ± 1.0 (3) | 60.0 ± 1.0 (3) |") + 1] == "| A, published | 78.3 | - |"
    assert any(line.startswith("| B | +3.0 ± 0.5 (n 3, p 0.018) | +0.0 ± 0.9 (n 3, p 1) |") for line in lines)
    assert "| B, published | +6.3 | - |" in lines
    assert "from memory, unchecked: no target" in text and "corrected after Holm" in text
    tables = [line.replace("\\|", "") for line in lines if line.startswith("|")]
    assert {line.count("|") for line in tables} == {4, 6}  # 2 columns; the table of costs has 4, with a target
    assert "| A | 6 | 0.17 | 101 | - (0 of 6) |" in lines


def test_the_cost_says_of_how_many_runs_it_knows() -> None:
    entries = [entry("A", "8", 0, 50.0, seconds=1800.0, reached=60.0), entry("A", "8", 1, 50.0, seconds=None)]
    lines = markdown(sheet(entries, target=50.0)).splitlines()
    assert "| A | 2 | 0.50 (1 of 2) | 1800 | 60 (1 of 2) |" in lines


def test_csv_gives_back_every_number() -> None:
    found, wanted = list(csv.DictReader(io.StringIO(as_csv(odd_sheet())))), odd_sheet()
    assert len(found) == len(wanted.rows) * len(wanted.columns) * len(wanted.metrics)
    line = next(f for f in found if (f["row"], f["column"], f["metric"]) == ("B", "8", KNN))
    assert (line["n"], float(line["mean"]), float(line["std"])) == ("3", 54.1667, 1.2583)
    assert (line["published"], float(line["difference"]), float(line["difference_std"])) == ("84.6", 3.0, 0.5)
    assert (
        float(line["p_holm"]) == pytest.approx(2 * ttest_rel([53, 55.5, 54], [50, 52, 51.5]).pvalue, rel=1e-3)
        and float(line["seconds"]) == 101.0
    )
    assert [f["row"] for f in found if f["metric"] == KNN][-1] == ODD
    assert {f["mean"] for f in found if f["metric"] == "RankMe"} == {""}


def test_latex_escapes_what_it_must_and_every_line_has_its_cells() -> None:
    text = latex(odd_sheet())
    written = (
        r"50 \% of x\_1 \& \{y\} \$$|$a$|$$<$b\textasciicircum{}2 \#3\textasciitilde{} \textbackslash{}z {[}k=1] "
        r"$\pm$$\rightarrow$$\tau$"
    )
    assert written in text and r"\textbf{54.2 $\pm$ 1.3 (3)} *" in text and r"\textit{A, published}" in text
    for table in text.split(r"\begin{tabular}{")[1:]:
        columns, _, rest = table.partition("}")
        body = rest.partition(r"\bottomrule")[0]
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert rows and {line.replace(r"\&", "").count("&") for line in rows} == {len(columns) - 1}
        unescaped = body.replace("\\\\", "").replace(r"\{", "").replace(r"\}", "")
        assert unescaped.count("{") == unescaped.count("}") and body.replace(r"\$", "").count("$") % 2 == 0
    assert all(line.isascii() for line in text.splitlines() if not line.startswith("%"))


class Page(html.parser.HTMLParser):
    """Collects what a page consists of, and that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.sources: list[str] = []
        self.cells: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data


def test_the_page_needs_nothing_but_itself() -> None:
    wanted = odd_sheet()
    read = Page(page(wanted, ["What is asked: <b>?"]))
    assert read.open == [] and not {"script", "link", "iframe"} & set(read.tags)
    assert len(read.sources) == 1 and read.sources[0].startswith("data:image/png;base64,")
    picture = base64.b64decode(read.sources[0].partition(",")[2])
    assert picture == plot(wanted, KNN) and picture.startswith(b"\x89PNG\r\n")
    assert ODD in read.cells and "54.2 ± 1.3 (3) *" in read.cells and "&lt;b&gt;?" in page(wanted, ["<b>?"])
    assert "\\*" not in page(wanted, [])


@pytest.mark.parametrize(
    ("rows", "columns"),
    [("AB", ("8", "64")), ("AB", ("x", "y")), (("1", "2"), ("8", "64")), ("AB", ("x",)), ("AB", ("8", "nan"))],
    ids=["lines", "points", "heat map", "one column", "not finite"],
)
def test_pictures_differ_when_values_do(rows: Sequence[str], columns: Sequence[str]) -> None:
    def drawn(value: float) -> bytes | None:
        values = [value, 50.0, 60.0, 55.0]
        places = [(row, column) for row in rows for column in columns]
        return plot(sheet([entry(*p, 0, v) for p, v in zip(places, values[: len(places)], strict=True)]), KNN)

    assert drawn(1.0) == drawn(1.0) != drawn(2.0)
    assert (drawn(1.0) or b"").startswith(b"\x89PNG")


def test_nothing_is_drawn_of_nothing() -> None:
    assert plot(sheet([entry("A", "8", 0, None, state="missing")]), KNN) is None
    assert plot(sheet([entry("A", "8", 0, 1.0), entry("B", "8", 0, math.nan)]), KNN) is None
    assert "<img" not in page(sheet([entry("A", "8", 0, 1.0)]), [])


def test_a_record_gives_back_its_entries() -> None:
    entries = [
        entry("A, b", "8", 0, 50.125, protocol="frozen/1#aa", reached=3.5), entry('B "q"', "64", 1, 1e-7, seconds=None),
        entry("C", "8", 2, None, state="failed", error="ValueError: a, b", seconds=None, config_hash=""),
        entry("D", "8", 0, math.nan),
    ]  # fmt: skip
    again = read_csv(write_csv(entries))
    assert again[:3] == entries[:3] and math.isnan(again[3].values[KNN])
    assert read_csv(write_csv([])) == []


def test_seconds_to_a_target_are_the_share_of_its_step(tmp_path: Path) -> None:
    run = RunFolder(tmp_path).summary()._replace(seconds=200.0, steps=100)
    assert seconds_to(run, "m/top1", 50.0) is None
    rows = [(10, "eval/m/top1", 30.0), (25, "eval/m/top1", 50.0), (50, "eval/m/top1", 45.0), (50, "eval/n", 99.0)]
    lines = ["step,name,value", *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "metrics.csv").write_text("\n".join(lines) + "\n")
    assert seconds_to(run, "m/top1", 50.0) == 50.0
    assert seconds_to(run, "m/top1", 30.0) == 20.0
    assert seconds_to(run, "m/top1", 50.1) is None
    assert seconds_to(run._replace(seconds=None), "m/top1", 50.0) is None  # it did not go in one piece


# Engine, with processes in place of runs that do what a test wants of them.

PRELUDE = """
import fcntl, os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
log = os.open(folder.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def tries():
    with open(folder / "tries", "a") as file: file.write("x")
    return len((folder / "tries").read_text())
def done(): (folder / "result.json").write_text('{"metrics": {}}')
def failed(): (folder / "error.txt").write_text("ValueError: no"); sys.exit(1)
"""


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes every run the process that the code says, with ``folder`` in it."""
    monkeypatch.setattr(engine, "PAUSE", 0.02)

    def become(code: str) -> None:
        def begin(self: Engine, run: Run, slot: int) -> subprocess.Popen:
            run.folder.path.mkdir(parents=True, exist_ok=True)
            return subprocess.Popen([sys.executable, "-S", "-c", PRELUDE + code, str(run.folder)])

        monkeypatch.setattr(Engine, "begin", begin)

    return become


def runs_in(folder: Path, count: int) -> list[Run]:
    return [Run(("method=simclr",), seed, RunFolder(folder / f"run{seed}")) for seed in range(count)]


def test_so_many_runs_at_a_time(stub: Callable[[str], None], tmp_path: Path) -> None:
    stub("os.write(log, b'+'); time.sleep(0.3); os.write(log, b'-'); done()")
    ended: list[Run] = []
    assert Engine(2)(runs_in(tmp_path, 5), ended.append) is None
    assert sorted(ended) == runs_in(tmp_path, 5) and all(run.folder.state == "done" for run in ended)
    going = [0]
    for mark in (tmp_path / "log").read_text():
        going.append(going[-1] + (1 if mark == "+" else -1))
    assert len(going) == 11 and max(going) == 2


def test_a_failed_run_is_tried_twice_and_the_others_go_on(stub: Callable[[str], None], tmp_path: Path) -> None:
    stub(
        "n = tries()\n"
        "if folder.name == 'run0' or (folder.name == 'run1' and n == 1): failed()\n"
        "if folder.name == 'run2': os.kill(os.getpid(), signal.SIGKILL)\n"
        "(folder / 'error.txt').unlink(missing_ok=True); done()"
    )
    ended: list[Run] = []
    assert Engine(1)(runs_in(tmp_path, 4), ended.append) is None
    states = {run.seed: run.folder.state for run in ended}
    assert len(ended) == 4 and states == {0: "failed", 1: "done", 2: "missing", 3: "done"}
    assert [len((run.folder.path / "tries").read_text()) for run in runs_in(tmp_path, 4)] == [2, 2, 2, 1]
    assert runs_in(tmp_path, 1)[0].folder.read_error() == "ValueError: no"
    stub("tries(); done()")  # what was wrong is mended
    assert Engine(1)(runs_in(tmp_path, 1), ended.append) is None and runs_in(tmp_path, 1)[0].folder.state == "done"


def test_a_signal_stops_the_runs_and_what_is_left_runs_on_the_next_start(
    stub: Callable[[str], None], tmp_path: Path
) -> None:
    stub(
        "def save(*_): (folder / 'config.yaml').write_text('saved'); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "if (folder / 'config.yaml').exists() or folder.name == 'run1': done(); sys.exit()\n"
        "os.kill(os.getppid(), signal.SIGTERM); time.sleep(30)"
    )
    ended: list[Run] = []
    before = signal.getsignal(signal.SIGTERM)
    assert Engine(1)(runs_in(tmp_path, 2), ended.append) == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    assert [run.folder.state for run in ended] == ["interrupted"] and not (tmp_path / "run1").exists()
    assert Engine(1)(runs_in(tmp_path, 2), ended.append) is None
    assert [run.folder.state for run in runs_in(tmp_path, 2)] == ["done", "done"]


def test_a_second_signal_ends_runs_that_do_not_listen(stub: Callable[[str], None], tmp_path: Path) -> None:
    stub(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "for _ in range(2): os.kill(os.getppid(), signal.SIGTERM); time.sleep(0.3)\n"
        "time.sleep(30); done()"
    )
    started = time.monotonic()
    assert Engine(1)(runs_in(tmp_path, 1), lambda run: None) == signal.SIGTERM
    assert time.monotonic() - started < 20 and runs_in(tmp_path, 1)[0].folder.state == "missing"


def test_runs_are_told_to_save_when_the_study_ends_with_an_error(stub: Callable[[str], None], tmp_path: Path) -> None:
    stub(
        "def save(*_): (folder / 'saved').write_text('yes'); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "os.write(log, b'+')\n"
        "while os.fstat(log).st_size < 2: time.sleep(0.02)\n"
        "if folder.name == 'run0': done(); sys.exit()\n"
        "time.sleep(30)"
    )

    def ended(run: Run) -> None:
        raise BrokenPipeError("nobody reads")

    with pytest.raises(BrokenPipeError):
        Engine(2)(runs_in(tmp_path, 2), ended)
    deadline = time.monotonic() + 20
    while not (tmp_path / "run1" / "saved").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (tmp_path / "run1" / "saved").exists()


@pytest.mark.parametrize("last", ["done()", "os._exit(9)"])
def test_a_run_that_another_process_holds_is_waited_for(last: str, stub: Callable[[str], None], tmp_path: Path) -> None:
    """Where that one ends without a result, it is run here."""
    stub("tries(); done()")
    run = runs_in(tmp_path, 1)[0]
    run.folder.path.mkdir()
    hold = "held = os.open(folder / '.held', os.O_RDWR | os.O_CREAT); fcntl.flock(held, fcntl.LOCK_EX); "
    hold += "print(flush=True); time.sleep(0.6); "
    other = subprocess.Popen(
        [sys.executable, "-S", "-c", PRELUDE + hold + last, str(run.folder)], stdout=subprocess.PIPE
    )
    assert other.stdout is not None and other.stdout.readline()
    with run.folder.claimed() as mine:
        assert not mine
    ended: list[Run] = []
    assert Engine(1)([run], ended.append) is None
    other.wait()
    assert ended == [run] and run.folder.state == "done"
    assert (run.folder.path / "tries").exists() is (last != "done()")


def test_a_run_that_another_took_a_moment_before_was_not_tried(stub: Callable[[str], None], tmp_path: Path) -> None:
    stub("n = tries()\nif n == 5: done()")  # four times it ends well, as it does where another process holds the run
    assert Engine(1)(runs_in(tmp_path, 1), lambda run: None) is None
    assert runs_in(tmp_path, 1)[0].folder.state == "done"


def test_what_a_run_is_started_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each its share of cores and GPUs on this machine; a launcher has its own."""
    begun: list[SimpleNamespace] = []
    monkeypatch.setattr(
        engine.subprocess, "Popen", lambda command, env, **rest: begun.append(SimpleNamespace(command=command, env=env))
    )
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    run = Run(("method=simclr", "seed=0"), 0, RunFolder(tmp_path / "a, b" / "run"))
    for at_once, slot, launch, gpus, threads in (
        (1, 0, (), "0,1,2", "8"), (2, 0, (), "0,2", "4"), (2, 1, (), "1", "4"), (4, 3, (), "0", "2"),
        (2, 1, ("hydra/launcher=submitit_slurm",), "0,1,2", None),
    ):  # fmt: skip
        Engine(at_once, launch).begin(run, slot)
        one = begun[-1]
        assert (one.env["CUDA_VISIBLE_DEVICES"], one.env.get("OMP_NUM_THREADS")) == (gpus, threads)
        assert one.command[3:] == ["-m", NO_PAGE, *job_overrides(run), *launch, NO_TABLE]
    assert f"hydra.sweep.dir={quoted(str(tmp_path / 'a, b'))}" in job_overrides(run)
    with pytest.raises(ValueError, match="jobs is 0: it must be at least 1"):
        Engine(0)


# Cells.

TABLE = {
    "title": "A table", "paper": "Nobody (arXiv:0000.00000)", "question": "Does it run?",
    "metrics": {KNN: "knn[k=5,T=0.1]/top1"}, "seeds": [0], "axis": "batch size", "baseline": "SimCLR",
    "rows": {"SimCLR": ["method=simclr"], "DCL": ["method=dcl"]}, "columns": {"16": ["data.batch_size=16"]},
    "scales": {"small": {"note": "Shows nothing.", "overrides": [
        "data.source.num_train=64", "data.source.num_test=32", "trainer.max_epochs=10", "trainer=cpu",
        "trainer.precision=32-true", "trainer.num_threads=1", "trainer.log_every_n_steps=1",
        "evaluation.baselines=false", "evaluation.every_n_epochs=0", "evaluation.probes.linear=null",
        "evaluation.probes.knn.k=[5]",
    ]}},
}  # fmt: skip


def declare(folder: Path, **changes: Any) -> str:
    """A study in the file ``folder/table.yaml``, as the command takes it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.yaml").write_text(yaml.safe_dump(TABLE | changes, sort_keys=False))
    return f"study={folder / 'table.yaml'}"


def test_runs_are_known_by_what_they_compute(tmp_path: Path) -> None:
    """Two rows and studies that want the same run share it; the order of overrides and places change nothing."""
    declare(
        tmp_path, rows={"a": ["method=simclr"], "b": ["objective.temperature=0.2"], "c": ["method=dcl"]}, baseline=None
    )
    study = read_study("table", tmp_path)
    found = cells_of(study, "small", ["data.root=elsewhere"], seeds=(0, 1))
    assert [(c.row, c.run.seed) for c in found] == [(row, seed) for seed in (0, 1) for row in "abc"]
    folders = [c.run.folder for c in found]
    assert folders[0] == folders[1] != folders[2] and len(runs_of(found)) == 4
    assert folders[0] == cells_of(study, "small")[0].run.folder and folders[0].path.parent == POOL
    assert found[0].run.overrides[-2:] == ("data.root=elsewhere", "seed=0")
    assert latest_of(["a=1", "b.c=2", "+d=3", "a=4", "~d"]) == ["b.c=2", "a=4", "~d"]


def test_metrics_are_filled_in_by_lines(tmp_path: Path) -> None:
    metrics = {"top-1": "knn[k={k},T=0.1]/top1"}
    lines = {"a": {"overrides": [], "metric": {"k": 5}}, "b": {"overrides": [], "metric": {"k": 7}}}
    declare(tmp_path, rows=lines, metrics=metrics, baseline=None)
    found = cells_of(read_study("table", tmp_path), "small")
    assert [c.metrics for c in found] == [("knn[k=5,T=0.1]/top1",), ("knn[k=7,T=0.1]/top1",)]
    assert found[0].run.folder == found[1].run.folder
    declare(tmp_path, metrics=metrics)
    with pytest.raises(ValueError, match=r"has \{k\} in 'top-1', which neither rows.SimCLR.metric nor columns.16"):
        read_study("table", tmp_path)


def test_states_of_a_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    assert (run.state, run.read_result(), run.read_error(), run.read_metrics()) == ("missing", {}, "", {})
    run.path.mkdir()
    for file, state in ((run.config_file, "interrupted"), (run.error_file, "failed"), (run.result_file, "done")):
        file.write_text('{"metrics": {}}\n')
        assert run.state == state
    assert run.read_result() == {"metrics": {}}


def test_a_run_that_lacks_the_metric_is_named_with_what_it_has(tmp_path: Path) -> None:
    declare(tmp_path)
    study = read_study("table", tmp_path)
    found = cells_of(study, "small", pool=tmp_path / "pool")
    result = {"metrics": {"nc1": 2.0}, "wall_seconds": 3.0, "config_hash": "x", "resumed_at": 0}
    found[0].run.folder.path.mkdir(parents=True)
    found[0].run.folder.result_file.write_text(json.dumps(result))
    with pytest.raises(ValueError, match=r"wants knn\[k=5,T=0.1\]/top1, which .* lacks; it has: nc1"):
        entries_of(study, found)
    result["metrics"] = {"knn[k=5,T=0.1]/top1": 12.3456789, "x": 1}
    found[0].run.folder.result_file.write_text(json.dumps(result))
    entries, about = entries_of(study, found)
    assert [(e.row, e.state, e.values, e.seconds) for e in entries] == [
        ("SimCLR", "done", {KNN: 12.3457}, 3.0), ("DCL", "missing", {}, None)
    ]  # fmt: skip
    assert set(about) >= {"versions", "commit", "device"}


def test_an_interrupted_run_goes_on_with_other_loggers_and_places_and_with_nothing_else(tmp_path: Path) -> None:
    """Two studies share runs: one may have been started with wandb, or with its data elsewhere."""
    stored = small("simclr", "data.root=here", "logger=wandb_offline", "logger.wandb.save_dir=x", "data.download=true")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(to_plain(stored)))))
    refuse_other_config(small("simclr", "data.root=there"), RunFolder(tmp_path))
    assert config_hash(stored) == config_hash(small("simclr"))
    for override in ("seed=1", "objective.temperature=0.3", "data.batch_size=16"):
        with pytest.raises(ValueError, match=f"holds a run with {override.split('=')[0]}="):
            refuse_other_config(small("simclr", override), RunFolder(tmp_path))


def to_plain(cfg: Any) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(cfg, resolve=True)


# Command.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scale=small"], "say which study: study= one of adainf/inflation, align/noise, amcl/heads, "),
        (["--dryrun", "study=dcl/batch_size"], "'--dryrun' is not of the form key=value (--help lists what is known)"),
        (["study=dcl/batch_sizes"], "there is no study=dcl/batch_sizes (did you mean dcl/batch_size?)"),
        (["study=no/where.yaml"], "study=no/where.yaml: there is no such file"),
        (["study=dcl/batch_size", "scale=large"], "has no scale=large: choose one of paper, small"),
        (["study=dcl/batch_size", "jobs=0"], "jobs is 0: it must be at least 1"),
        (["study=dcl/batch_size", "jobs=two"], "jobs has 'two', which is not a whole number"),
        (["study=dcl/batch_size", "seeds=0,x"], "seeds has 'x', which is not a whole number"),
        (["study=dcl/batch_size", "target=high"], "target has 'high', which is not a number"),
        (["study=dcl/batch_size", "seed=1"], "seed=1: each cell is run with several seeds; give them as seeds=0,1,2"),
        (["study=dcl/batch_size", "hydra.sweep.dir=x"], "hydra.sweep.dir=x: a study has its own folders and sweeper"),
        (["study=dcl/batch_size", "hydra/sweeper=search"], "a study has its own folders and sweeper"),
        (["study=dcl/batch_size", "trainer.max_epoch=2"], "no key trainer.max_epoch (did you mean max_epochs?)"),
        (["study=dcl/batch_size", "data=cifr10"], "there is no data=cifr10"),
        (["study=dcl/batch_size", "data.batch_size=8,16"], "data.batch_size"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals_are_one_sentence(arguments: list[str], message: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = str(ended.value.code)
    assert said.startswith("error: ") and message in said and "\n" not in said
    assert not list(tmp_path.iterdir())


def test_refusals_of_a_declaration_that_the_command_cannot_fill(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a metric cannot be called seconds, which is a column of the record"):
        parse([declare(tmp_path, metrics={"seconds": "x/top1"})])
    with pytest.raises(ValueError, match="target is 1, but the study's first metric, RankMe, is no accuracy"):
        parse([declare(tmp_path, metrics={"RankMe": "rankme"}), "target=1"])


def test_what_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    name = declare(tmp_path)
    asked = parse([name, "seeds=1,2,1", "jobs=3", "data.root=x", "hydra/launcher=submitit_slurm", "--dry-run",
                   "+hydra.launcher.setup=[a]", "logger.wandb.project=p", "target=40", "record=r"])  # fmt: skip
    assert (asked.study.name, asked.scale, asked.seeds, asked.jobs, asked.target) == ("table", "small", (1, 2), 3, 40.0)
    assert asked.extra == ("data.root=x",) and asked.dry_run and asked.record == Path("r")
    assert asked.launch == ("hydra/launcher=submitit_slurm", "+hydra.launcher.setup=[a]", "logger.wandb.project=p")
    main(["--help"])
    assert "submitit_slurm" in capsys.readouterr().out


def test_runs_of_a_study_are_grouped_in_wandb() -> None:
    asked = parse(["study=dcl/batch_size", "logger=wandb_offline"])
    cfg = composed(*asked.launch)
    assert cfg.logger.wandb.group == "dcl/batch_size" and cfg.logger.wandb.offline is True
    assert not parse(["study=dcl/batch_size"]).launch


def test_a_dry_run_runs_nothing_and_says_how_long_the_rest_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from ssl_framework.study import estimate

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Engine, "__call__", lambda *args: pytest.fail("a run was begun"))
    measured: list[Any] = []

    def seconds(cfg: Any) -> float:
        measured.append(cfg)
        if cfg.objective._target_.endswith("SimCLR"):
            return 60.0
        raise FileNotFoundError("no data there")

    monkeypatch.setattr(estimate, "training_seconds", seconds)
    monkeypatch.setenv(FOLDERS, str(tmp_path))  # a file of any other place is not measured
    rows = {"DCL": ["method=dcl"], "DCLW": ["method=dclw"]}
    declare(tmp_path / "study" / "no_data", rows=rows, baseline="DCL")
    main(["study=no_data/table", "--dry-run"])
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "in all 2 of unknown time" and out.count("no data there") == 1
    measured.clear()
    name, file = "study=declared/table", declare(tmp_path / "study" / "declared")
    main([file, "--dry-run"])
    assert not measured and capsys.readouterr().out.splitlines()[-1] == "in all 2 of unknown time"
    done = cells_of(read_study("declared/table"), "small")[1].run
    main([name, "seeds=0,1,2", "--dry-run", "jobs=2"])
    out = capsys.readouterr().out
    assert len(measured) == 2 and out.count("missing, about 60 s") == 3 and out.count("missing, time unknown") == 3
    assert "no step can be measured here: no data there" in out
    assert "in all about 90 s" in out.replace("2 min", "90 s") and "3 runs of unknown time" in out
    done.folder.path.mkdir(parents=True)
    done.folder.result_file.write_text('{"wall_seconds": 30.0, "metrics": {}}')
    main([name, "seeds=0,1", "--dry-run"])
    out = capsys.readouterr().out
    assert out.count(": done |") == 1 and "DCL | 16 | seed 1: missing, about 30 s" in out
    done_too = cells_of(read_study("declared/table"), "small")[0].run.folder
    done_too.path.mkdir(parents=True)
    done_too.result_file.write_text('{"wall_seconds": 30.0, "metrics": {}}')
    main([name, "--dry-run"])
    assert capsys.readouterr().out.splitlines()[-1] == "nothing to run"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs", "study"]


def test_the_estimate_counts_the_steps_of_a_run() -> None:
    from ssl_framework.study.estimate import training_seconds

    short, long = (training_seconds(small("simclr", f"trainer.max_epochs={n}")) for n in (2, 200))
    assert short > 0 and long / short > 10  # a hundred times, but for noise


# From the command to the table, stopped twice on the way.


def wait_for(path: Path, process: Command, words: str = "") -> None:
    """Until the file is there with these words, which the process shall write."""
    deadline = time.monotonic() + 60
    while not (path.exists() and words in path.read_text()):
        assert time.monotonic() < deadline and process.process.is_alive(), path
        time.sleep(0.01)


def test_a_study_killed_twice_ends_with_the_table_of_one_that_was_not(tmp_path: Path) -> None:
    name = declare(tmp_path / "declared")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    first, second = (parts / c.run.folder.path for c in cells_of(read_study("table", tmp_path / "declared"), "small"))
    process = Command(parts, name, become=study)
    wait_for(first / "metrics.csv", process)
    process.send_signal(signal.SIGTERM)
    done = process.end()
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert done.stdout.splitlines()[-1] == f"stopped by SIGTERM; to continue: python scripts/study.py {name}"
    assert "1 unfinished" in done.stdout and "1 missing" in done.stdout and not second.exists()

    process = Command(parts, name, become=study)
    wait_for(second / "metrics.csv", process)
    alone = int((second / PID).read_text())  # the run that is to go on without its study
    os.kill(alone, signal.SIGSTOP)  # until another study has found it
    process.send_signal(signal.SIGKILL)
    process.end()
    left = not (second / "result.json").exists()

    process = Command(parts, name, "record=record", become=study)
    wait_for(process.files[0], process, "2 different runs")
    os.kill(alone, signal.SIGCONT)
    plain = Command(whole, name, "record=record", become=study)
    done, undisturbed = process.end(), plain.end()
    assert done.returncode == undisturbed.returncode == 0, done.stderr + undisturbed.stderr
    assert left and "2 different runs, 1 done, 1 to run" in done.stdout
    results = [json.loads((folder / "result.json").read_text()) for folder in (first, second)]
    assert 0 < results[0]["resumed_at"] < results[0]["steps"] == results[1]["steps"] == 40
    assert results[1]["resumed_at"] == 0  # it was waited for, not run again
    tables = [folder / "outputs" / "studies" / "table" / "small" for folder in (whole, parts)]
    values = [[e.values[KNN] for e in read_csv((table / "results.csv").read_text())] for table in tables]
    assert values[0] == values[1] and len(values[0]) == 2
    rows = [list(csv.reader(io.StringIO((table / "table.csv").read_text()))) for table in tables]
    assert [row[:-1] for row in rows[0]] == [row[:-1] for row in rows[1]]  # but for the seconds
    assert (parts / "record" / "results.csv").read_bytes() == (tables[1] / "results.csv").read_bytes()
    assert sorted(path.name for path in tables[0].iterdir()) == [
        "about.json", "command.txt", "plot.png", "results.csv", "table.csv", "table.html", "table.md", "table.tex"
    ]  # fmt: skip
    about = json.loads((tables[0] / "about.json").read_text())
    assert about["scale"] == "small" and about["device"].startswith("CPU") and about["versions"]["torch"]


def test_a_study_whose_runs_fail_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def fail(self: Engine, runs: Sequence[Run], ended: Callable[[Run], None]) -> None:
        for number, run in enumerate(runs):
            run.folder.path.mkdir(parents=True)
            if number == 0:
                run.folder.error_file.write_text("ValueError: no space left\n")
            ended(run)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Engine, "__call__", fail)
    with pytest.raises(SystemExit) as ended:
        command.main([declare(tmp_path / "declared")])
    out = capsys.readouterr().out
    assert ended.value.code == 1 and "2 runs have no result; why: " in out
    assert "[1/2] SimCLR, batch size 16, seed 0: failed: ValueError: no space left" in out
    assert "[2/2] DCL, batch size 16, seed 0: did not end (see " in out
    assert "| SimCLR | 1 failed |" in out and "| DCL | 1 missing |" in out
