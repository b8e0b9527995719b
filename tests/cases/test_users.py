"""What users of the field bring, and what should come of it: launchers, paths, and settings that others have, too.

Most wishes have a test beside the part that fulfils them, named in ``BESIDE``; here is what is no single part's.
"""

import ast
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from ssl_framework.models.weights import load_checkpoint
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.groups import choices
from ssl_framework.training.resumed import point_to_resumed_folder
from ssl_framework.training.trainer import build_trainer
from tests.forked import Command
from tests.small_runs import SMALL, config, run_in, small

ROOT = Path(__file__).resolve().parents[1]

BESIDE = {
    "a torchrun of the training command is one run": "training/test_launch.py::test_torchrun_starts_the_processes",
    "launched processes are one run": (
        "training/test_launch.py::test_a_multirun_of_launched_processes_is_that_of_one_which_launches"
    ),
    "launched processes end together": (
        "training/test_launch.py::test_launched_processes_stop_together_share_a_folder_and_go_on"
    ),
    "Ctrl-C at torchrun": "training/test_launch.py::test_ctrl_c_at_torchrun_has_its_processes_save_and_end",
    "a rank that dies ends the run": "training/test_launch.py::test_a_rank_that_is_killed_ends_the_others",
    "a killed run goes on by its own command": (
        "commands/test_again.py::test_the_same_command_ends_a_run_that_was_killed"
    ),
    "a class of one's own": (
        "examples/test_plugin.py::test_without_the_package_its_run_is_refused_and_the_sentence_says_how_to_trust_it"
    ),
    "a class in a folder beside the command": (
        "cases/test_own_folder.py::test_data_a_network_and_a_loss_beside_the_command_go_through_every_command"
    ),
    "public weights": "models/test_layouts.py::test_the_backbone_comes_out_whole",
    "what was dropped is said": "models/test_layouts.py::test_one_line_says_what_was_taken_and_dropped",
    "another objective": "test_compositions.py::test_another_objective_replaces_the_methods_whole",
    "another head": "test_compositions.py::test_another_head_replaces_the_methods_whole",
    "an argument that no file names": "test_compositions.py::test_arguments_that_methods_leave_alone_can_be_set",
    "a precision that there is not": "test_faults.py::test_a_run_refuses_it_in_one_sentence",
    "broken pictures": "data/test_bands.py::test_a_run_with_broken_files_ends_and_counts_them",
    "a bound by steps": "training/test_going_on.py::test_from_every_checkpoint_to_the_same_end",
    "a bound by steps, killed": (
        "tools/test_chaos.py::test_so_does_one_with_a_queue_bounded_by_steps_that_saves_by_steps"
    ),
    "names of splits": "data/test_bands.py::test_folders_of_splits_have_many_names",
    "bits of files": "data/test_bands.py::test_the_highest_bit_that_is_used_becomes_white",
    "endings of files": "data/test_bands.py::test_every_ending_that_is_listed_can_be_read",
    "files left out": "data/test_bands.py::test_files_that_are_left_out_are_counted",
    "help through a pager that is closed": "runs/test_stopping.py::test_a_closed_pipe_is_no_error",
    "an exported net has the interface of timm's": ("commands/test_export.py::test_our_networks_have_timms_interface"),
    "paths of runs": "commands/test_again.py::test_a_run_in_a_folder_of_any_name_goes_on",
    "paths of data": "commands/test_again.py::test_data_and_weights_may_have_any_name",
    "several jobs of several processes": (
        "commands/test_run.py::test_a_sweep_over_two_ranks_goes_on_after_a_job_that_a_rank_refuses"
    ),
}
"""Wish -> where it is tested, in the folder of the tests."""


@pytest.mark.parametrize("wish", BESIDE)
def test_every_other_wish_is_tested_where_it_was_fulfilled(wish: str) -> None:
    file, name = BESIDE[wish].split("::")
    tree = ast.parse((ROOT / file).read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


SLURM = {
    **{"SLURM_JOB_ID": "4242", "SLURM_JOB_NAME": "train", "SLURM_JOB_NODELIST": "localhost", "SLURM_NTASKS": "1"},
    **{"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_STEP_NUM_TASKS": "1"},
}
"""Of a batch job of one task."""


@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "1"},
        {"LOCAL_RANK": "1"},
        {"SLURM_PROCID": "1"},
        SLURM,
        {**SLURM, "SLURM_NTASKS": "2", "SLURM_PROCID": "1"},
        {"JSM_NAMESPACE_RANK": "1", "LSB_JOBID": "3", "LSB_DJOB_RANKFILE": "/nowhere", "JSM_NAMESPACE_SIZE": "2"},
        {"KUBERNETES_PORT": "1", "MASTER_ADDR": "elsewhere", "MASTER_PORT": "1", "WORLD_SIZE": "3"},
    ],
    ids=lambda variables: "+".join(variables),
)
def test_a_run_that_nothing_launched_is_alone_whatever_stands_around_it(
    variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # what Lightning reads of them as it is imported
    trainer = build_trainer(config("trainer=cpu", "trainer.precision=32-true").trainer, tmp_path, [], [])
    assert (trainer.world_size, trainer.global_rank, trainer.local_rank, trainer.node_rank) == (1, 0, 0, 0)
    assert trainer.is_global_zero and rank_zero_only.rank == 0


def test_a_bound_by_steps_is_raised_and_taken_away_and_a_group_keeps_what_it_does_not_name(tmp_path: Path) -> None:
    """The last command is typed in a batch job, and starts ranks of its own there."""
    arguments = (*SMALL, "trainer=cpu", "data.source.num_train=24", "hydra.run.dir=run")
    commands: list[tuple[tuple[str, ...], int]] = [
        ((*arguments, "trainer.max_epochs=2"), 6),
        (("resume=run", "trainer.max_epochs=3", "trainer.max_steps=7"), 7),
        (("resume=run", "trainer=ddp_cpu", "trainer.max_steps=-1"), 9),
    ]
    run = RunFolder(tmp_path / "run")
    for words, steps in commands:
        done = Command(tmp_path, *words, environment=SLURM if "trainer=ddp_cpu" in words else {}).end()
        assert done.returncode == 0 and "nan" not in done.stdout, done.stderr
        assert run.read_result()["steps"] == load_checkpoint(run.checkpoint_file)["global_step"] == steps
    assert run.read_result()["processes"] == 2
    assert run.read_about()["overrides"].count("trainer.max_epochs=3") == 1


@pytest.mark.parametrize("optimizer", choices("optimizer"))
def test_every_optimizer_clips_in_mixed_precision(optimizer: str, tmp_path: Path) -> None:
    once = ("trainer.precision=bf16-mixed", "trainer.max_steps=1", "trainer.max_epochs=1", f"optimizer={optimizer}")
    run_in(tmp_path, small("amcl", *once))  # clips by its own default
    ended = load_checkpoint(RunFolder(tmp_path).checkpoint_file)
    assert ended["global_step"] == 1
    assert not any(group.get("fused") for group in ended["optimizer_states"][0]["param_groups"])


def test_clipping_in_mixed_precision_bounds_the_gradient(tmp_path: Path) -> None:
    """A step of plain SGD is the rate times the gradient: one of length 0.5 goes 0.25 further than one of 0.25."""
    once = ("trainer.precision=bf16-mixed", "trainer.max_steps=1", "trainer.max_epochs=1", "optimizer=sgd")
    plain = ("optimizer.algorithm.momentum=0", "optimizer.weight_decay=0", "optimizer.warmup=0")
    ends = []
    for length in (0.25, 0.5):
        run_in(tmp_path / str(length), small("simclr", *once, *plain, f"trainer.gradient_clip_val={length}"))
        ends.append(load_checkpoint(RunFolder(tmp_path / str(length)).checkpoint_file)["state_dict"])
    short, long = ends
    distance = sum((long[name] - short[name]).double().square().sum() for name in short if "running_" not in name)
    rate = config("optimizer=sgd").optimizer.lr_per_256 * 8 / 256
    assert distance.sqrt().item() == pytest.approx(0.25 * rate, rel=1e-3)


def test_neighbours_that_are_not_there_are_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    cfg = config("evaluation=knn_cifar", *SMALL[:-1], "trainer.max_epochs=1", "evaluation.every_n_epochs=1")
    with pytest.warns(UserWarning, match=r"k-NN with k=\[200\] skipped: the train split has only 48 samples"):
        run_in(tmp_path, cfg)
    assert "evaluation:" not in capsys.readouterr().out


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes in each of two splits, in a folder called data."""
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in "ab":
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(4):
                picture = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(picture).save(tmp_path / "data" / split / name / f"{number}.png")
    return tmp_path


def test_a_run_whose_data_have_moved_goes_on_with_them_and_a_wrong_place_changes_nothing(pictures: Path) -> None:
    arguments = ("data=folder", "data.root=data", "data.image_size=8", "data.batch_size=8", "trainer=cpu")
    more = (*SMALL[5:], "trainer.max_epochs=1", "trainer.log_every_n_steps=1", "hydra.run.dir=run")
    assert Command(pictures, *arguments, *more).end().returncode == 0
    before = [(pictures / "run" / name).read_bytes() for name in ("config.yaml", "run.json")]
    (pictures / "data").rename(pictures / "a=b, c")
    further = ("resume=run", "trainer.max_epochs=2")
    for words in ((*further, "data.root=nowhere"), further):
        refused = Command(pictures, *words).end()
        assert refused.returncode == 1 and "does not exist: set data.root" in refused.stderr
    assert "data.root=data does" in refused.stderr
    assert before == [(pictures / "run" / name).read_bytes() for name in ("config.yaml", "run.json")]
    done = Command(pictures, *further, "data.root=a=b, c", "data.store=arrays").end()  # a key of data=folder only
    assert done.returncode == 0, done.stderr
    assert RunFolder(pictures / "run").read_config().data.root == "a=b, c"


def test_keys_of_a_command_that_resumes_are_those_of_the_runs_choices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    typed = ["data=files", "method=byol", "trainer.max_epochs=2", "head=gone", "backbone@teacher.backbone=timm"]
    run.write_about({"method": "byol", "data": "files", "overrides": typed, "command": ""})
    found = point_to_resumed_folder(["resume=run", "method=byol", "data.num_workers=2"])
    assert found == [typed[0], typed[4], "resume=run", "method=byol", "data.num_workers=2", "hydra.run.dir='run'"]


def test_jobs_do_not_change_the_folder_in_which_paths_are_read(tmp_path: Path) -> None:
    refused = Command(tmp_path, *SMALL, "hydra.job.chdir=true", "hydra.run.dir=run").end()
    assert refused.returncode == 1 and not (tmp_path / "run").exists()
    assert refused.stderr == (
        "error: hydra.job.chdir=true: paths are read from the folder in which the command is typed: leave it out\n"
    )
