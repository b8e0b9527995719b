"""What went wrong once, and what comes of it now: a sentence, or a run that ends as one that nothing disturbed.

A campaign of hostile and unlucky starts found 31 kinds of wrong numbers, dead ends and foreign code, and some hundred
values that were taken or ended in a traceback. Most have a test beside the part that mends them, named in ``BESIDE``;
here are those that a typed command answers at once, one line each.
"""

import ast
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ssl_framework.commands import train
from ssl_framework.commands.evaluate import main as evaluate_main
from ssl_framework.commands.export import main as export_main
from ssl_framework.training.metrics_log import lost_rows

ROOT = Path(__file__).resolve().parent
TINY = ("data=digits", "trainer=cpu", "trainer.max_epochs=1", "evaluation=none", "report=none", "hydra.run.dir=run")

BESIDE = {
    # wrong numbers without a word
    "C1": "training/test_going_on.py::test_from_every_checkpoint_to_the_same_end",
    "C2": "tools/test_chaos.py::test_a_run_killed_again_and_again_ends_as_one_that_was_not",
    "C3": "tools/test_chaos.py::test_so_does_one_with_a_queue_bounded_by_steps_that_saves_by_steps",
    "C4": "commands/test_again.py::test_all_jobs_of_a_multirun_mean_the_same_precision",
    "C5": "commands/test_again.py::test_names_are_kept_twice",
    "C6": "commands/test_again.py::test_a_resumed_run_says_the_command_that_repeats_it_even_if_run_json_was_lost",
    "C7": "training/test_going_on.py::test_from_every_checkpoint_to_the_same_end",
    "C8": "commands/test_again.py::test_a_fork_holds_nothing",
    "C9 checkpoint": "training/test_checkpoints.py::test_every_byte_of_the_tensors_is_covered_by_a_checksum",
    "C9 export": "models/test_exported.py::test_no_bit_can_flip_without_a_word",
    "C10": "training/test_nonfinite.py::test_a_gradient_that_is_not_finite_is_never_saved",
    "C11": "training/test_nonfinite.py::test_weights_that_an_update_has_broken_are_not_saved",
    "C12": "evaluation/test_nonfinite_features.py::test_features_that_are_not_finite_are_not_scored",
    "C13": "data/test_shards.py::test_a_shard_that_was_cut_at_any_block_is_refused_and_not_counted",
    "C15": "commands/test_again.py::test_a_damaged_result_in_a_sweep_is_made_again",
    "C18": "training/test_checkpoints.py::test_a_run_goes_on_from_a_checkpoint_that_has_everything_or_not_at_all",
    # stuck
    "D1": "commands/test_again.py::test_the_same_command_ends_a_run_that_was_killed",
    "D3": "commands/test_again.py::test_any_path_is_resumed_bare_or_quoted_and_as_printed",
    "D6": "runs/test_stopping.py::test_no_process_outlives_a_parent_that_is_killed",
    "D8": "runs/test_stopping.py::test_a_second_signal_ends_at_once_what_the_first_has_not",
    "D9": "training/test_checkpoints.py::test_partial_files_of_killed_processes_are_swept",
    # pages of traceback
    "JSON of another kind": "runs/test_folder.py::test_a_result_that_is_none_is_named",
    # foreign files
    "S1": "hostile/test_files.py::test_what_a_file_of_weights_says_of_itself_is_never_constructed",
    "S2": "hostile/test_files.py::test_shards_are_checked_where_they_are_opened",
    "S3": "hostile/test_files.py::test_a_study_of_a_stranger_names_no_foreign_class",
    "S4": "hostile/test_files.py::test_an_image_is_of_the_listed_formats",
    "S6": "hostile/test_paths.py::test_a_class_under_another_name_is_not_trusted",
    "S8": "hostile/test_paths.py::test_what_the_rules_make_of_a_config",
    "S9": "hostile/test_paths.py::test_what_the_rules_make_of_a_config",
    "S10": "hostile/test_files.py::test_a_config_that_never_ends_is_no_file",
    "S13": "hostile/test_files.py::test_no_cell_is_a_formula",
}
"""Case -> where it is tested, in this folder."""


@pytest.mark.parametrize("case", BESIDE)
def test_every_other_case_is_tested_where_it_was_mended(case: str) -> None:
    file, name = BESIDE[case].split("::")
    defined = {
        node.name for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.FunctionDef)
    }
    assert name in defined


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Callable[..., Any]:
    """A command typed in an empty folder: its exit code and what it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def call(main: Callable[..., Any], *arguments: str) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        code: Any = 0
        try:
            main() if main is train.main else main(list(arguments))
        except SystemExit as ended:
            code = ended.code
        train.failures.clear()
        found = capfd.readouterr()
        text = found.err + (f"{code}\n" if isinstance(code, str) else "")
        return SimpleNamespace(code=1 if isinstance(code, str) else code or 0, err=text, out=found.out)

    return call


def assert_one_sentence(done: SimpleNamespace, names: str) -> None:
    """It is refused in one sentence with ``names`` in it."""
    sentences = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert done.code == 1 and "Traceback" not in done.err, done
    assert len(sentences) == 1, [sentence[:120] for sentence in sentences]
    assert names in sentences[0] and "Error in call to" not in sentences[0], sentences


VALUES = {
    # numbers of another kind
    "objective.temperature=true": "objective.temperature",
    "objective.temperature=null": "objective.temperature",
    "objective.temperature=inf": "objective.temperature",
    "optimizer.momentum=nan": "momentum",
    "optimizer.weight_decay=-1": "weight_decay",
    "optimizer.weight_decay=nan": "weight_decay",
    "student.heads.projector.out=0": "student.heads.projector.out",
    "data.micro_batch_size=nan": "data.micro_batch_size",
    "data.source.test_fraction=abc": "data.source.test_fraction",
    "trainer.accumulate_grad_batches=1.5": "trainer.accumulate_grad_batches",
    "trainer.accumulate_grad_batches=0": "trainer.accumulate_grad_batches",
    "trainer.log_every_n_steps=-1": "trainer.log_every_n_steps",
    "trainer.log_every_n_steps=0": "trainer.log_every_n_steps",
    "trainer.checkpoint_every_n_epochs=nan": "trainer.checkpoint_every_n_epochs",
    "trainer.checkpoint_every_n_epochs=1.5": "trainer.checkpoint_every_n_epochs",
    "trainer.gradient_clip_val=-1": "trainer.gradient_clip_val",
    "trainer.num_threads=true": "trainer.num_threads",
    "trainer.num_threads=100000000": "trainer.num_threads",
    "trainer.precision=8-true": "trainer.precision",
    "trainer.accelerator=mps": "trainer.accelerator",
    "trainer.num_nodes=2": "num_nodes",
    "seed=1.5": "seed",
    "seed=-1": "seed",
    "trainer.devices=1000000000": "trainer.devices",
    # what is no choice
    "method=null": "method",
    "method=3": "method",
    "student=null": "student",
    "~student.heads.projector": "projector",
    # places that cannot be
    "hydra.run.dir=file/run": "file",
    "hydra.run.dir=/proc/run": "/proc/run",
    f"hydra.run.dir={'x' * 300}": "xxx",
    "resume=nowhere": "nowhere",
}
"""Override -> what the sentence names."""


@pytest.mark.parametrize("override", VALUES)
def test_a_run_refuses_it_in_one_sentence(override: str, said: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = said(train.main, *(item for item in TINY if item.partition("=")[0] != override.partition("=")[0]), override)
    assert_one_sentence(done, VALUES[override])
    assert not (tmp_path / "run").exists()


EMPTY_RUNS = {
    "config.yaml cut": ("config.yaml", "objective:\n  _target_: [ssl"),
    "config.yaml empty": ("config.yaml", ""),
    "config.yaml with a tab": ("config.yaml", "student:\n\t_target_: a\n"),
    "config.yaml with a python tag": ("config.yaml", "student: !!python/object/apply:os.getcwd []\n"),
    "config.yaml a list": ("config.yaml", "[1, 2]\n"),
}
COMMANDS = {"evaluate": evaluate_main, "export": export_main}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("how", EMPTY_RUNS)
def test_a_damaged_config_is_named(how: str, command: str, said: Callable[..., Any], tmp_path: Path) -> None:
    file, content = EMPTY_RUNS[how]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / file).write_text(content)
    assert_one_sentence(said(COMMANDS[command], "run=run"), file)


def test_outputs_that_is_a_file_is_named(said: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "outputs").touch()
    assert_one_sentence(said(train.main, *TINY[:-1]), "outputs")


def test_outputs_that_is_a_link_to_itself_is_named(said: Callable[..., Any], tmp_path: Path) -> None:
    os.symlink("outputs", tmp_path / "outputs")
    assert_one_sentence(said(train.main, *TINY[:-1]), "outputs")


@pytest.mark.parametrize(
    ("steps", "at", "every", "said"),
    [
        ([], 0, 1, ""),
        ([], 9, 10, ""),
        ([], 10, 10, "was lost, and the run goes on at step 10"),
        ([9, 9, 19], 25, 10, ""),
        ([9], 25, 10, "ends with step 9, and the run goes on at step 25"),
        ([0, 1, 2], 4, 1, "ends with step 2, and the run goes on at step 4"),
        ([0, 1, 2, 3], 4, 1, ""),
        ([9, 19], 25, 1, ""),
    ],
    ids=["new", "none yet", "lost", "whole", "cut", "one row short", "to the last", "written less often before"],
)
def test_rows_that_were_lost_are_named(steps: list[int], at: int, every: int, said: str) -> None:
    """An evaluation's row, of the state after a step, tells nothing of the rows of training."""
    rows = [*((step, "train/loss", "1.0") for step in steps), (at, "eval/knn/top1", "50.0")]
    found = lost_rows(rows, at, every)
    assert found.startswith("metrics.csv ") == bool(said) and said in found
