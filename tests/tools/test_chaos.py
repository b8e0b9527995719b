"""Runs that are killed ten times and more end as if nothing had happened, and the campaign sees it where they do not.

The whole campaign is ``python -m tools.chaos`` (its record: results/chaos), a part that takes two minutes is
``python -m tools.chaos short``; here is what fits among the other tests.
"""

import tempfile
from pathlib import Path

import pytest
import torch

from ssl_framework.runs.folder import RunFolder
from tools.chaos.__main__ import below
from tools.chaos.compare import differences, left_over
from tools.chaos.kills import LADDER, survive
from tools.chaos.moments import Moment
from tools.chaos.record import read_table, story, summary, write_table
from tools.chaos.runs import METHODS, RUN, Kind
from tools.chaos.starts import start
from tools.chaos.trial import Loss, Reference, Trial, reference

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "results" / "chaos"
BARE = ("report=none", "evaluation.baselines=false")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A run that nothing disturbs."""
    return reference(tmp_path_factory.mktemp("whole"), Kind("byol", "epochs", "epochs", BARE))


def survived(kind: Kind, whole: Reference, place: Path) -> None:
    """The run is killed at every rung of the ladder, and ends as the undisturbed one."""
    found = survive(place, kind, whole, LADDER)
    assert found.is_clean, found
    assert found.struck >= 10 and found.starts == found.struck + 1


def test_a_run_killed_again_and_again_ends_as_one_that_was_not(whole: Reference, tmp_path: Path) -> None:
    survived(Kind("byol", "epochs", "epochs", BARE), whole, tmp_path)


def test_so_does_one_with_a_queue_bounded_by_steps_that_saves_by_steps(tmp_path: Path) -> None:
    kind = Kind("mochi", "steps", "steps", BARE)
    survived(kind, reference(tmp_path, kind), tmp_path)


def test_what_differs_is_named(whole: Reference, tmp_path: Path) -> None:
    other = reference(tmp_path, Kind("byol", "epochs", "epochs", (*BARE, "seed=1")))
    found = differences(whole.folder / RUN, other.folder / RUN)
    assert {"metrics.csv", "result.json metrics", "result.json seed", "result.json overrides"} <= set(found)
    assert any(name.startswith("last.ckpt/state_dict/student.backbone") for name in found)
    run = RunFolder(other.folder / RUN)
    content = torch.load(whole.folder / RUN / "checkpoints" / "last.ckpt", weights_only=True)
    content["optimizer_states"][0]["state"][0]["momentum_buffer"][0] += 1e-7
    for file in (run.result_file, run.metrics_file):
        file.write_bytes((whole.folder / RUN / file.name).read_bytes())
    torch.save(content, run.checkpoint_file)
    (run.path / ".last.ckpt.17").touch()
    named = ["last.ckpt/optimizer_states/0/state/0/momentum_buffer"]
    assert differences(whole.folder / RUN, run.path) == named
    assert left_over(whole.folder, other.folder) == ["run/.last.ckpt.17"]


def test_steps_done_twice_are_counted(whole: Reference) -> None:
    """Struck with 8 updates done, a run that begins again with 2 has lost 6, where 5 may be."""
    loss = Loss(Kind("byol", "epochs", "epochs"))
    first = [(0.0, "step", "0"), (1.0, "update", "8"), (2.0, "struck", "step 9")]
    loss.see(whole.start._replace(log=first))
    loss.see(whole.start._replace(log=[(3.0, "step", "2"), (4.0, "struck", "step 1")]))
    loss.see(whole.start._replace(log=[(5.0, "step", "2")]))
    assert loss.worst == (6, 5)
    loss = Loss(Kind("byol", "epochs", "epochs"))
    loss.see(whole.start._replace(log=first))
    loss.see(whole.start._replace(log=[(3.0, "step", "5")]))
    assert loss.worst == (3, 5)


def test_a_moment_is_struck_before_the_operation(tmp_path: Path) -> None:
    """The third operation on a file in an empty working folder: what the first two have made is there."""
    log = reference_names(tmp_path / "a")
    one = start(made(tmp_path / "b"), Kind("byol", "epochs", "epochs", BARE).arguments, Moment("file", 3))
    assert (one.code, one.struck) == (-9, f"file 3 {log[2]}") and one.orphans == 0
    assert [rest for _, word, rest in one.log if word == "file"] == log[:3]


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def reference_names(folder: Path) -> list[str]:
    """The first operations on files of a run that is killed at its first step."""
    one = start(made(folder), Kind("byol", "epochs", "epochs", BARE).arguments, Moment("step", 1))
    return [rest for _, word, rest in one.log if word == "file"]


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    bad = Trial(
        "byol", "steps", "minutes", "kill", "time 1.2 s", 2, 3, "metrics.csv", 0, 1, 5, 4, 0, 0, 0, "", "error: x"
    )
    good = bad._replace(differs="", manual_steps=0, lost=4)
    write_table(tmp_path / "table.csv", [bad, good])
    assert read_table(tmp_path / "table.csv") == [bad, good] and (bad.is_clean, good.is_clean) == (False, True)
    lines = list(summary([bad, good]))
    assert lines[0].startswith(
        "byol: 4 in 2 runs and 6 starts: 1 differ, 0 dead ends, 1 manual steps, at most 5 steps lost"
    )
    assert lines[-1].startswith(
        "  byol steps/minutes kill time 1.2 s: differs in metrics.csv; 5 steps lost of 4; 1 manual"
    )


def test_the_record_has_a_hundred_kills_a_method_and_none_that_was_not_survived() -> None:
    trials = read_table(RECORD / "table.csv")
    for method in METHODS:
        assert sum(one.struck for one in trials if (one.kind, one.method) == ("kill", method)) >= 100, method
    assert not [one for one in trials if not one.is_clean]
    assert "](results/chaos/" in story(ROOT)
    assert story(ROOT).replace("](", "](../") in (ROOT / "docs" / "trust.md").read_text()


def test_a_record_names_no_folder_of_the_machine() -> None:
    words = Trial(
        "mochi", "both", "steps", "kill", "file /x/y/run/a", 1, 2, "", 0, 0, 0, 0, 0, 0, 0, "", "error: /x/y/run"
    )
    found = below(Path("/x/y"), words)
    assert (found.where, found.said, found.struck) == ("file run/a", "error: run", 1)
    assert f"{tempfile.gettempdir()}/" not in (RECORD / "table.csv").read_text() + (RECORD / "output.txt").read_text()
