"""The same command, given again: it starts a run, goes on with it or finds it complete, whenever the one before was
killed and whatever file was lost; and one process at a time writes into a folder."""

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from ssl_framework.commands.sweep import refuse_search, swept
from ssl_framework.models.weights import load_checkpoint
from ssl_framework.runs.config import SWEPT, config_hash, job_folder, refuse_unread
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.groups import composing
from ssl_framework.runs.left import ANEW, GOES_ON, NOTHING, left_to_do, refuse_other_run
from ssl_framework.runs.messages import command_line
from ssl_framework.runs.overrides import latest_of, parsed
from ssl_framework.runs.typed_paths import folder_override, path_of, quoted, unquoted, with_paths_quoted
from ssl_framework.training import precision
from tests.forked import Command, train
from tests.small_runs import SMALL, config, multirun_in
from tests.training.test_resume import assert_identical

FAST = ("method=simclr", *SMALL, "trainer=cpu", "trainer.num_threads=1", "data.source.num_train=24")
"""Two epochs of three steps."""

NASTY = ("a=b", "a,b", "it's", 'say "x"', "f(x)", "{x}", "${x}", "a#b", "a b", "größe", "x\\", "`ls`!$HOME")


def killed(arguments: Sequence[str]) -> None:
    """Becomes ``python train.py``, killed after as many renames as the environment says, or in a step."""
    replace, seen = Path.replace, []

    def and_then(path: Path, target: Path) -> Path:
        seen.append(replace(path, target))
        if len(seen) == int(os.environ["KILL_AFTER"]):
            os.kill(os.getpid(), signal.SIGKILL)
        return seen[-1]

    def step(self: Any, trainer: Any, *args: Any) -> None:
        if trainer.global_step == int(os.environ["KILL_IN_STEP"]):
            os.kill(os.getpid(), signal.SIGKILL)

    if "KILL_AFTER" in os.environ:
        Path.replace = and_then  # type: ignore[assignment, method-assign]
    else:
        from ssl_framework.training.progress import Progress

        Progress.on_train_batch_end = step  # type: ignore[method-assign]
    train(arguments)


def begun(folder: Path, *arguments: str, **at: int) -> None:
    """A run that was killed."""
    where = {f"KILL_{name.upper()}": str(number) for name, number in at.items()}
    assert Command(folder, *arguments, become=killed, environment=where).end().returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert Command(folder, *FAST, "hydra.run.dir=run").end().returncode == 0
    return folder / "run"


@pytest.mark.parametrize("at", [{"after": 1}, {"in_step": 2}, {"in_step": 5}], ids=str)
def test_the_same_command_ends_a_run_that_was_killed(at: dict[str, int], whole: Path, tmp_path: Path) -> None:
    arguments = (*FAST, "hydra.run.dir=run")
    begun(tmp_path, *arguments, **at)
    again = Command(tmp_path, *arguments).end()
    assert again.returncode == 0, again.stderr
    assert ("resuming at step 3" in again.stdout) == (at == {"in_step": 5}) and again.stdout.splitlines()[-1] == "run"
    states = [load_checkpoint(RunFolder(path).checkpoint_file) for path in (whole, tmp_path / "run")]
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_identical(states[0][key], states[1][key], key)
    assert (whole / "metrics.csv").read_text() == (tmp_path / "run" / "metrics.csv").read_text()
    assert not list((tmp_path / "run").rglob(".*")) and not list((tmp_path / "outputs").glob(".*"))


def test_a_complete_run_is_named_and_stays(whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    for arguments in ((*FAST, "hydra.run.dir=run"), ("resume=run", "trainer.max_epochs=2")):
        done = Command(whole.parent, *arguments).end()
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert done.stdout.startswith("complete: ") and done.stdout.splitlines()[-1] == "run"
    other = Command(whole.parent, *FAST, "trainer.max_epochs=3", "hydra.run.dir=run").end()
    assert other.returncode == 1 and "holds a run with trainer.max_epochs=2, but here it is 3" in other.stderr
    assert "train.py resume=run trainer.max_epochs=3 goes on there" in other.stderr
    with RunFolder(whole).claimed():
        held = Command(whole.parent, "resume=run", "trainer.max_epochs=3").end()
    assert held.returncode == 1 and f"is being written by another process (pid {os.getpid()} on " in held.stderr
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_a_command_that_names_no_folder_goes_on_with_the_run_it_began(tmp_path: Path) -> None:
    begun(tmp_path, *FAST, in_step=2)
    (folder,) = tmp_path.glob("outputs/simclr/shapes/*")
    other = Command(tmp_path, *FAST, "seed=1", "trainer.max_epochs=1").end()
    assert other.returncode == 0 and len(list(tmp_path.glob("outputs/simclr/shapes/*"))) == 2
    (tmp_path / "outputs" / "latest").unlink()
    (tmp_path / "outputs" / "latest").symlink_to(folder.relative_to(tmp_path / "outputs"))
    again = Command(tmp_path, *FAST).end()
    assert again.returncode == 0, again.stderr
    first, last = again.stdout.splitlines()[0], again.stdout.splitlines()[-1]
    assert first.startswith(f"goes on with {folder.relative_to(tmp_path)}, which this command began; to start anew: ")
    assert first.split()[-1].startswith("hydra.run.dir=outputs/simclr/shapes/")
    assert last == str(folder.relative_to(tmp_path)) and len(list(folder.parent.iterdir())) == 2
    anew = Command(tmp_path, *FAST, "trainer.max_steps=1").end()
    assert anew.returncode == 0 and len(list(folder.parent.iterdir())) == 3


def test_a_resumed_run_says_the_command_that_repeats_it_even_if_run_json_was_lost(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "run.json").unlink()
    done = Command(tmp_path, "resume=run", "trainer.max_epochs=3", "logger=csv").end()
    assert done.returncode == 0 and "resuming at step 6" in done.stdout, done.stderr
    result = RunFolder(tmp_path / "run").read_result()
    assert (result["method"], result["data"], result["steps"]) == ("simclr", "shapes", 9)
    assert result["overrides"] == latest_of([*FAST, "trainer.max_epochs=3", "logger=csv"])
    words = shlex.split(result["command"])[2:]
    assert words == result["overrides"] and Command(tmp_path, *words, "hydra.run.dir=same").end().returncode == 0
    assert RunFolder(tmp_path / "same").read_result()["config_hash"] == result["config_hash"]
    named = [RunFolder(tmp_path / name).read_metrics() for name in ("run", "same")]
    assert named[0] and {name: rows[0] for name, rows in named[0].items()} == {n: r[0] for n, r in named[1].items()}


def names(*overrides: str) -> dict[str, Any]:
    return {"method": "simclr", "data": "shapes", "overrides": list(overrides), "command": command_line(overrides)}


@pytest.fixture
def trained(tmp_path: Path) -> RunFolder:
    """A folder as of a run of ``config()`` that has its result; its checkpoint is empty."""
    run = RunFolder(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    run.prepare(config(), names("seed=0"))
    run.checkpoint_file.touch()
    run.write_result({"metrics": {"knn/top1": 50.0}, "config_hash": config_hash(config())})
    return run


@pytest.mark.parametrize("text", ["", "{", "null", "[1]", "{}", '{"metrics": {"a": "x"}}', '{"metrics": {"a": NaN}}'])
def test_a_damaged_result_is_made_again(text: str, trained: RunFolder, capsys: pytest.CaptureFixture) -> None:
    assert (trained.state, left_to_do(config(), trained)) == ("done", NOTHING)
    trained.result_file.write_text(text)
    assert trained.state == "damaged" and left_to_do(config(), trained) == GOES_ON
    assert f"note: {trained.result_file} is damaged: " in capsys.readouterr().out
    assert trained.state == "interrupted"
    trained.checkpoint_file.unlink()
    assert left_to_do(config(), trained) == ANEW


def test_a_result_of_fewer_epochs_is_no_end(trained: RunFolder) -> None:
    longer = config("trainer.max_epochs=20")
    assert left_to_do(longer, trained) == GOES_ON and trained.result_file.is_file()
    trained.checkpoint_file.unlink()
    with pytest.raises(ValueError, match="has a result, but no checkpoint to go on from"):
        left_to_do(longer, trained)


def cut(text: str) -> str:
    return text[: len(text) // 2]


@pytest.mark.parametrize(
    "damage", [cut, lambda text: "", lambda text: "null", lambda text: "- a", lambda text: "a: b: c"]
)
def test_a_damaged_config_is_written_again_by_its_own_command_alone(
    damage: Callable[[str], str], trained: RunFolder, capsys: pytest.CaptureFixture
) -> None:
    trained.config_file.write_text(damage(trained.config_file.read_text()))
    refuse_other_run(config(), trained, names("seed=0"), "hydra.run.dir")
    assert f"note: {trained.config_file} " in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"the command that writes it again is the run's own: python train.py seed=0"):
        refuse_other_run(config("seed=1"), trained, names("seed=1"), "hydra.run.dir")
    trained.about_file.write_text("[]")
    if not trained.names_in_config():
        with pytest.raises(ValueError, match="nothing else there says which run it was: choose another"):
            refuse_other_run(config(), trained, names("seed=0"), "hydra.run.dir")


@pytest.mark.parametrize("text", [None, "", "{", "[]"])
def test_names_are_kept_twice(text: str | None, trained: RunFolder) -> None:
    trained.about_file.unlink() if text is None else trained.about_file.write_text(text)
    assert trained.read_about() == names("seed=0") == trained.names_in_config()
    trained.write_config(config())
    assert trained.read_about() == names("seed=0")
    assert trained.read_config() == config()


@pytest.mark.parametrize("name", NASTY)
def test_any_path_is_resumed_bare_or_quoted_and_as_printed(name: str, tmp_path: Path) -> None:
    folder = str(tmp_path / name)
    Path(folder).mkdir()
    assert unquoted(quoted(folder)) == folder and path_of(quoted(folder)) == path_of(folder) == Path(folder)
    printed = command_line([f"resume={folder}", folder_override("hydra.run.dir", folder)])
    script = f"set -- {printed.removeprefix('python train.py ')}; printf '%s\\0' \"$@\""
    words = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout.decode().split("\0")[:-1]
    for item in with_paths_quoted([*words, f"resume={quoted(folder)}", f"hydra.run.dir={quoted(folder)}"]):
        key, _, _ = item.partition("=")
        value = OverridesParser.create().parse_override(item).value()
        assert OmegaConf.create({key: value})[key] == folder


def test_a_run_in_a_folder_of_any_name_goes_on(tmp_path: Path) -> None:
    folder = "it's a=b, {c} (ä)#"
    begun(tmp_path, *FAST, f"hydra.run.dir={folder}", in_step=4)
    again = Command(tmp_path, f"resume={folder}").end()
    assert again.returncode == 0 and again.stdout.splitlines()[-1] == folder, again.stderr
    assert RunFolder(tmp_path / folder).state == "done"


@pytest.mark.parametrize("name", [*NASTY, "C:\\data\\x", "[1]", "#1"])
@pytest.mark.parametrize("key", ["data.root", "+backbone.weights"])
def test_data_and_weights_may_have_any_name(key: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.mkdir()
    (item,) = with_paths_quoted([f"{key}={path}"])
    override = OverridesParser.create().parse_override(item)
    assert not override.is_sweep_override()
    assert OmegaConf.create({"value": override.value()}).value == str(path) == parsed(f"{key}={path}")


def test_paths_that_are_not_there_stay_lists_and_sweeps() -> None:
    as_typed = [
        "data.root=a,b",
        "data.source.train_shards=[a,b]",
        "data.root=${oc.env:HOME}/x",
        "backbone.weights=null",
    ]
    assert with_paths_quoted(as_typed) == as_typed
    assert with_paths_quoted(["data.root=no=where"]) == ["data.root='no=where'"]


def test_folders_of_users_own_making_stay_as_hydra_reads_them() -> None:
    as_typed = ["hydra.run.dir=out/${now:%f}", "hydra.sweep.dir='a b'", "resume=null", "data.root=a,b"]
    assert with_paths_quoted(as_typed) == as_typed


def test_a_damaged_result_in_a_sweep_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    multirun = multirun_in(tmp_path, "sweep", monkeypatch, capfd)
    arguments = (*FAST, "trainer.max_epochs=1", "seed=0,1", "evaluation=frozen", "evaluation.baselines=false",
                 "evaluation.probes.linear=null")  # fmt: skip
    assert multirun(*arguments).code == 0
    folders = [RunFolder(path) for path in sorted((tmp_path / "sweep").iterdir()) if path.is_dir()]
    before = [run.read_result()["metrics"] for run in folders]
    folders[0].result_file.write_text('{"metrics"')
    folders[1].about_file.write_text("[]")
    again = multirun(*arguments)
    assert again.code == 0 and again.out.count("has a result already") == 1, again.err
    assert "is damaged: it is no JSON" in again.out and "n  [k=20,T=0.1]" in again.out and "simclr" in again.out
    assert [run.read_result()["metrics"] for run in folders] == before and before[0]
    folders[0].result_file.write_text("[]")
    with pytest.warns(UserWarning, match="left out: .*result.json is damaged: it holds no JSON object"):
        from ssl_framework.report.tables import sweep_table

        assert list(sweep_table(tmp_path / "sweep").columns[1].cells) == ["1"]


def test_what_a_callback_raises_is_said_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    def broken(folder: Path) -> None:
        raise ValueError("no table")

    monkeypatch.setattr("ssl_framework.report.tables.sweep_table", broken)
    done = multirun_in(tmp_path, "sweep", monkeypatch, capfd)(*FAST, "trainer.max_epochs=few")
    assert done.code == 1 and "error: no table" in done.err


def test_all_jobs_of_a_multirun_mean_the_same_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, cpu = OmegaConf.create({"accelerator": "auto"}), OmegaConf.create({"accelerator": "cpu"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert precision.meant_in(tmp_path, trainer) == "bf16-mixed"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert precision.meant_in(tmp_path, trainer) == "bf16-mixed" and precision.meant(trainer) == "32-true"
    assert precision.meant_in(tmp_path, cpu) == "32-true"
    (tmp_path / "precision_auto.txt").write_text("")
    assert precision.meant_in(tmp_path, trainer) == precision.meant_in(tmp_path, trainer) == "32-true"


def test_what_is_swept_is_readable_in_a_long_name_and_old_names_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = [f"data.source.constant_{letter}=1" for letter in "abcdef"] + ["seed=1"]
    monkeypatch.delenv(SWEPT, raising=False)
    old = job_folder(overrides)
    assert len(old) == 120 and "seed" not in old
    monkeypatch.setenv(SWEPT, "seed")
    new = job_folder(overrides, str(tmp_path))
    assert new.startswith("seed-1+data.source.constant_a-1+") and len(new) == 120 and new[-8:] == old[-8:]
    (tmp_path / old).mkdir()
    assert job_folder(overrides, str(tmp_path)) == old
    assert job_folder(["seed=1", "b=2"], str(tmp_path)) == "b-2+seed-1"
    assert swept(["seed=0,1", "a=[1,2]", "b='1,2'", "c=range(3)", "d=1"]) == ["seed=0,1", "c=range(3)"]


def test_a_search_is_refused_before_its_trials() -> None:
    searching: Any = OmegaConf.create({"hparams_search": {"metric": "rankme"}, "evaluation": {"probes": {}}})
    refuse_search(searching)
    searching.evaluation.probes = {"knn": {}}
    with pytest.raises(SystemExit, match="read the test split, by which nothing may be chosen"):
        refuse_search(searching)
    refuse_search(OmegaConf.create({"hparams_search": None, "evaluation": {"probes": {"knn": {}}}}))


def test_a_key_that_nothing_reads_is_refused() -> None:
    with composing():
        for item, said in (("+foo=1", "nothing reads foo: leave"), ("+trainer.foo=1", "trainer has: accelerator, ")):
            with pytest.raises(ValueError, match=said):
                refuse_unread(config(item), [item])
        refuse_unread(config("+backbone.options.foo=1"), ["+backbone.options.foo=1", "++seed=1", "seed=2"])
    refuse_unread(OmegaConf.create({"size": 3, "data": {"image_size": "${size}"}}), ["+size=3"])


def test_a_refused_run_leaves_no_folders_and_not_the_link(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    done = Command(tmp_path, "hydra.run.dir=mine/a/b", "method=byol", "feature_mixer=mochi").end()
    assert done.returncode == 1 and [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert not list((tmp_path / "mine").iterdir())


def test_a_fork_holds_nothing(tmp_path: Path) -> None:
    """A loader's worker that outlives its killed parent does not keep the run from the next start."""
    run = RunFolder(tmp_path / "run")
    holds, done = os.pipe(), os.pipe()
    if (parent := os.fork()) == 0:
        with run.claimed():
            if os.fork() == 0:
                os.write(holds[1], str(os.getpid()).encode())
                os.read(done[0], 1)
                os._exit(0)
            signal.pause()
    worker = int(os.read(holds[0], 20))
    assert run.is_held
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert Path(f"/proc/{worker}").exists() and not run.is_held
    with run.claimed() as mine:
        assert mine
    os.write(done[1], b"x")
    assert not run.held_file.exists()


def test_later_overrides_take_the_place_of_earlier_ones() -> None:
    assert latest_of(["a=1", "+b.c=2", "a=3", "~b.c"]) == ["a=3", "~b.c"]
