"""The commands as a user types them: what they print, what lies in the run folder, and what happens to it later."""

import importlib.metadata
import json
import os
import platform
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image

from ssl_framework.commands.evaluate import main as evaluate_main
from ssl_framework.commands.export import main as export_main
from ssl_framework.evaluation.during_training.view_scores import read_scores
from ssl_framework.evaluation.request import evaluate
from ssl_framework.models.weights import load_checkpoint
from ssl_framework.report.tables import sweep_table
from ssl_framework.runs.config import config_hash, job_folder
from ssl_framework.runs.folder import RunFolder, read_metrics
from ssl_framework.runs.groups import CONFIGS
from ssl_framework.runs.numbers import mean_and_spread
from ssl_framework.training.progress import Progress
from ssl_framework.training.resumed import resumed
from tests.forked import Command, train_with_new_ranks
from tests.small_runs import SMALL, SMALL_MIXER, SMALL_QUEUE, config, multirun_in, run_in, small
from tests.training.test_resume import assert_identical

ROOT = Path(__file__).resolve().parents[2]
FAST = (*SMALL[:-1], "evaluation.probes.linear.max_iter=5")
KNN = "knn[k=20,T=0.1]/top1"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    """One finished run of the command line, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    done = Command(folder, "method=mochi", "objective.queue.size=24", "feature_mixer.num_hard=8", *FAST).end()
    assert done.returncode == 0, done.stderr
    return folder, done


def test_the_last_line_is_the_folder_and_latest_points_to_it(finished: Any) -> None:
    folder, done = finished
    last = done.stdout.splitlines()[-1]
    assert (folder / last / "result.json").is_file()
    assert (folder / "outputs" / "latest").resolve() == (folder / last).resolve()


def test_the_output_shows_progress_and_the_table(finished: Any) -> None:
    lines = finished[1].stdout.splitlines()
    assert lines[0].startswith("mochi on shapes: 48 images 32x32x3, batch 8, 0.48 M trainable parameters, ")
    assert [line for line in lines if line.startswith("epoch 2/2  loss ") and "images/s" in line and "s left" in line]
    assert [line for line in lines if KNN in line and "│" in line]
    assert "Traceback" not in finished[1].stderr


def test_result_json_has_what_scripts_rely_on(finished: Any) -> None:
    result = json.loads((finished[0] / "outputs" / "latest" / "result.json").read_text())
    assert set(result["metrics"]) == {KNN, "linear[l2=0.0001]/top1"}
    assert set(result["baselines"]) == {"raw_pixels", "untrained"}
    for values in (result["metrics"], *result["baselines"].values()):
        assert set(values) == {KNN, "linear[l2=0.0001]/top1"} and all(0 <= v <= 100 for v in values.values())
    assert (result["method"], result["data"], result["seed"], result["steps"]) == ("mochi", "shapes", 0, 12)
    assert result["versions"]["torch"] == importlib.metadata.version("torch")
    assert result["versions"]["python"] == platform.python_version()
    assert result["wall_seconds"] > 0 and result["images_per_second"] > 0
    assert result["command"].startswith("python train.py method=mochi objective.queue.size=24 ")
    assert {"config_hash", "commit", "device"} <= result.keys()


def test_the_run_folder_holds_config_metrics_and_checkpoint(finished: Any) -> None:
    folder = finished[0] / "outputs" / "latest"
    cfg = yaml.safe_load((folder / "config.yaml").read_text())
    assert cfg["objective"]["queue"] == {"_target_": "ssl_framework.memory.Queue", "size": 24, "dim": 128}
    assert "${" not in (folder / "config.yaml").read_text()
    curves = read_metrics(folder / "metrics.csv")
    assert [step for step, _ in curves["train/loss"]] == list(range(12))
    result = json.loads((folder / "result.json").read_text())
    assert curves[f"eval/{KNN}"][-1] == (12, pytest.approx(result["metrics"][KNN]))
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoints", "config.yaml", "metrics.csv", "result.json", "run.json"
    ]  # fmt: skip


def test_evaluating_again_gives_the_identical_numbers(finished: Any, capsys: pytest.CaptureFixture) -> None:
    folder = finished[0] / "outputs" / "latest"
    result = json.loads((folder / "result.json").read_text())
    evaluate_main([f"run={folder}"])
    assert json.loads((folder / "evaluation.json").read_text())["metrics"] == result["metrics"]
    assert str(folder / "evaluation.json") == capsys.readouterr().out.splitlines()[-1]
    assert set(evaluate(folder, ["evaluation.probes.knn.k=5"])) == {"knn[k=5,T=0.1]/top1", "linear[l2=0.0001]/top1"}
    (folder / "evaluation.json").unlink()
    (folder / "evaluation.csv").unlink()


def test_evaluation_refuses_what_it_cannot_do(finished: Any, tmp_path: Path) -> None:
    folder = finished[0] / "outputs" / "latest"
    with pytest.raises(ValueError, match=r"no key evaluation\.probes\.knn\.kk"):
        evaluate(folder, ["evaluation.probes.knn.kk=5"])
    with pytest.raises(SystemExit, match="say which run"):
        evaluate_main([])
    with pytest.raises(SystemExit, match=r"error: the run folder .* does not exist"):
        evaluate_main([f"run={tmp_path / 'nowhere'}"])


def test_the_exported_backbone_loads_through_timm(finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder, out = finished[0] / "outputs" / "latest", tmp_path / "backbone.safetensors"
    export_main([f"run={folder}", f"out={out}"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == str(out)
    model: Any = eval(printed[-2], {"timm": timm}).eval()  # the call it tells the user to type
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[f"student.backbone.net.{name}"])
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 192)


def test_a_folder_that_holds_another_run_is_not_overwritten(finished: Any) -> None:
    folder = finished[0]
    before = (folder / "outputs" / "latest" / "result.json").read_bytes()
    run_folder = (folder / "outputs" / "latest").resolve()
    done = Command(folder, f"hydra.run.dir={run_folder}", *FAST).end()
    assert done.returncode == 1 and "holds a run of method=mochi, but this one is of simclr" in done.stderr
    assert "choose another hydra.run.dir, or remove that folder" in done.stderr
    assert (run_folder / "result.json").read_bytes() == before
    assert (folder / "outputs" / "latest").resolve() == run_folder


def test_a_refused_run_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "outputs" / "earlier").mkdir(parents=True)
    (tmp_path / "outputs" / "latest").symlink_to("earlier")
    done = Command(tmp_path, "hydra.run.dir=here", "method=byol", "feature_mixer=mochi").end()
    assert done.returncode == 1 and done.stderr.count("error: MoCHi needs negatives") == 1
    assert not (tmp_path / "here").exists()
    assert os.readlink(tmp_path / "outputs" / "latest") == "earlier"  # still the newest run there is


@pytest.mark.parametrize(
    "override, message",
    [
        ("optimizer.warmup=0.5", "as it was configured, with optimizer.warmup=0.05"),
        ("method=simclr", "is a run of method=mochi"),
        ("feature_mixer=none", "as it was configured: leave feature_mixer=none out"),
    ],
)
def test_resuming_with_other_settings_is_refused(override: str, message: str, finished: Any) -> None:
    folder = RunFolder((finished[0] / "outputs" / "latest").resolve())
    with pytest.raises(ValueError, match=message):
        resumed(config("method=mochi", override), folder, [f"resume={folder}", override])


def test_two_ranks_stopped_by_a_signal_and_resumed_end_bit_for_bit_like_two_that_were_not(tmp_path: Path) -> None:
    arguments = ["method=mochi", "trainer=ddp_cpu", *SMALL, *SMALL_QUEUE, *SMALL_MIXER, "trainer.max_epochs=6"]
    whole = Command(tmp_path, *arguments, "hydra.run.dir=whole", become=train_with_new_ranks).end()
    assert whole.returncode == 0, whole.stderr
    child = Command(tmp_path, *arguments, "hydra.run.dir=parts")
    deadline = time.time() + 60
    while not (tmp_path / "parts" / "metrics.csv").exists() and time.time() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    stopped = child.end()
    printed = stopped.stdout.splitlines()
    assert stopped.returncode == 128 + signal.SIGTERM
    assert printed[-2:] == ["stopped by SIGTERM; to continue: python train.py resume=parts", "parts"]
    step = load_checkpoint(tmp_path / "parts" / "checkpoints" / "last.ckpt")["global_step"]
    assert 0 < step < 36 and not (tmp_path / "parts" / "result.json").exists()

    resumed = Command(tmp_path, "resume=parts").end()
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming at step {step}" in resumed.stdout and resumed.stdout.splitlines()[-1] == "parts"
    first, second = (load_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("whole", "parts"))
    assert first["global_step"] == second["global_step"] == 36
    for key in ("state_dict", "optimizer_states", "callbacks"):
        assert_identical(first[key], second[key], key)
    assert json.loads((tmp_path / "parts" / "result.json").read_text())["method"] == "mochi"
    assert [p.name for p in (tmp_path / "outputs").iterdir()] == ["latest"]  # resuming makes no folder of its own


def test_a_sweep_over_two_ranks_goes_on_after_a_job_that_a_rank_refuses(tmp_path: Path) -> None:
    """One folder a job and one table; what both ranks refuse is said once."""
    settings = [*FAST[:2], *FAST[3:], "trainer.max_epochs=1", "evaluation.baselines=false", "report=page"]
    settings += ["evaluation=scores", "evaluation.scores.num_samples=20", "evaluation.scores.num_hard=4"]
    done = Command(tmp_path, "-m", "trainer=ddp_cpu", "data.batch_size=9,8", *settings).end()
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.count("error: data.batch_size is 9 for all 2 processes together") == 1
    sweep = tmp_path / done.stdout.splitlines()[-1]
    trained, refused = sorted(path for path in sweep.iterdir() if path.is_dir())
    assert trained.name.startswith("data.batch_size-8+") and refused.name.startswith("data.batch_size-9+")
    assert not (refused / "result.json").exists() and "0 (1 failed)" in done.stdout
    assert (trained / "report.html").is_file() and done.stdout.count("report: ") == 1  # rank 0 alone writes it
    result = json.loads((trained / "result.json").read_text())
    assert (result["processes"], result["steps"], result["seed"]) == (2, 6, 0)
    scores = read_scores(trained / "scores.npz")  # by rank 0 alone, once
    assert scores["step"].tolist() == [6] and scores["positive"].sum() == 20
    for metric in ("linear[l2=0.0001]/top1", KNN):
        assert mean_and_spread([result["metrics"][metric]]) in done.stdout
    assert done.stdout.count("M trainable parameters") == 2  # one line a job, not one a rank
    assert not list(tmp_path.glob("outputs/simclr"))


def test_training_on_an_unlabelled_folder_skips_evaluation_with_one_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(tmp_path / "images" / f"{i}.png")
    cfg = config(
        "data=folder", f"data.root={tmp_path / 'images'}", "data.image_size=16", "data.stored_size=16",
        "data.batch_size=8", "trainer.max_epochs=1",
    )  # fmt: skip
    with pytest.warns(UserWarning, match="evaluation skipped: knn, linear need labels and a test split") as caught:
        assert run_in(tmp_path / "run", cfg) is None
    assert len([w for w in caught if "evaluation skipped" in str(w.message)]) == 1
    assert json.loads((tmp_path / "run" / "result.json").read_text())["metrics"] == {}


@pytest.mark.parametrize("data", ["digits"])
def test_another_data_set_trains_without_touching_another_key(data: str, tmp_path: Path) -> None:
    cfg = config("method=mocov2", f"data={data}", "trainer.max_epochs=1", "objective.queue.size=256")
    assert run_in(tmp_path, cfg) is None
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["baselines"]["raw_pixels"][KNN] > 90  # digits are easy for raw pixels


@pytest.mark.parametrize(
    ("logger", "node", "written"),
    [
        ("tensorboard", "tensorboard", "tensorboard/events.out.tfevents.*"),
        ("wandb_offline", "wandb", "wandb/offline-run-*"),
    ],
)
def test_other_loggers_need_no_account_and_metrics_csv_stays(
    logger: str, node: str, written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    cfg = small("simclr", f"logger={logger}", f"logger.{node}.save_dir={tmp_path}", "trainer.max_epochs=1")
    assert run_in(tmp_path, cfg) is None
    assert len(list(tmp_path.glob(written))) == 1
    assert len(read_metrics(tmp_path / "metrics.csv")["train/loss"]) == 6


def test_the_config_hash_ignores_seed_and_places_and_nothing_else() -> None:
    plain = config_hash(config())
    assert config_hash(config("seed=4", "data.root=elsewhere", "data.download=true")) == plain
    assert config_hash(config("objective.temperature=0.3")) != plain
    assert config_hash(config("method=dcl")) != plain


def test_the_sweep_table_groups_by_setting(tmp_path: Path) -> None:
    rows = [("b=1 a=1 seed=0", 10.0), ("b=1 a=1 seed=1", 14.0), ("b=1 a=2 seed=0", 50.0), ("b=1 a=2 seed=1", None)]
    for job, (overrides, value) in enumerate(rows):
        (tmp_path / str(job)).mkdir()
        (tmp_path / str(job) / "run.json").write_text(json.dumps({"overrides": overrides.split()}))
        if value is not None:
            (tmp_path / str(job) / "result.json").write_text(json.dumps({"metrics": {"m/top1": value}}))
    (tmp_path / "3" / "error.txt").write_text("ValueError: no")
    table = sweep_table(tmp_path)
    cells = [list(column.cells) for column in table.columns]
    assert cells == [["a=1", "a=2"], ["2", "1 (1 failed)"], ["12.0 ± 2.8", "50.0"]]
    assert table.caption == "b=1"


def test_a_job_folder_is_named_by_its_overrides_alone() -> None:
    assert job_folder(["method=mv_dhel", "data=shapes", "seed=0"]) == "data-shapes+method-mv_dhel+seed-0"
    assert job_folder(["seed=0", "data=shapes", "method=mv_dhel"]) == "data-shapes+method-mv_dhel+seed-0"
    names = [job_folder([f"data.root={'x' * n}/y"]) for n in (1, 200, 201)]
    names += [job_folder(["data.root=x_y"]), job_folder(["data.root=x y"]), job_folder(["+data.root=x/y"])]
    assert len(set(names)) == 6 and all(re.fullmatch(r"[\w.+-]{1,120}", name) for name in names)


@pytest.fixture
def multirun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Callable[..., Any]:
    """``python train.py -m ... hydra.sweep.dir=sweep`` inside this process."""
    return multirun_in(tmp_path, "sweep", monkeypatch, capfd)


def test_a_multirun_started_again_does_what_is_missing(
    multirun: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Done: skipped. Interrupted: resumed, bit for bit. Failed: tried again. Of another config: refused, untouched."""
    jobs = ("method=glob(simcl*)", "data=shapes", "seed=0,1,2", *SMALL)
    with monkeypatch.context() as patch:
        started = 0

        def stop(self: Progress, trainer: Any, *args: Any) -> None:
            """The second job meets an error at step 9, the multirun its end in the third before a checkpoint."""
            nonlocal started
            started += trainer.global_step == 1
            if (started, trainer.global_step) == (2, 9):
                raise RuntimeError("no space left")
            if (started, trainer.global_step) == (3, 3):
                raise SystemExit("power cut")

        patch.setattr(Progress, "on_train_batch_end", stop)
        first = multirun(*jobs)
    names = [job_folder(["method=simclr", jobs[1], f"seed={seed}", *SMALL]) for seed in range(3)]
    folders = [next((tmp_path / "sweep").glob(f"*{name[-9:]}")) for name in names]
    assert folders[1].name.startswith("method-simclr+seed-1+data.batch_size-8+")  # what is swept can be read
    assert first.code == "power cut" and "RuntimeError: no space left" in first.err
    assert (folders[1] / "error.txt").read_text() == "RuntimeError: no space left\n"
    assert [(folder / "result.json").is_file() for folder in folders] == [True, False, False]
    assert (folders[2] / "metrics.csv").is_file() and not (folders[2] / "checkpoints" / "last.ckpt").exists()
    before = {path: path.stat().st_mtime_ns for path in folders[0].rglob("*")}
    with RunFolder(folders[2]).claimed():
        again = multirun(*jobs)
    assert again.code == 0
    assert again.out.count("has a result already") == 1 and again.out.count("resuming at step 6") == 1
    assert again.out.count("left to the process that is running it") == 1 and "2 (1 unfinished)" in again.out
    assert {path: path.stat().st_mtime_ns for path in folders[0].rglob("*")} == before
    assert not (folders[1] / "error.txt").exists()
    assert run_in(tmp_path / "whole", small("simclr", "seed=1")) is None
    whole, parts = (
        load_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (tmp_path / "whole", folders[1])
    )
    for key in ("state_dict", "optimizer_states", "callbacks"):
        assert_identical(whole[key], parts[key], key)
    assert read_metrics(tmp_path / "whole" / "metrics.csv") == read_metrics(folders[1] / "metrics.csv")

    stored = folders[0] / "config.yaml"
    stored.write_text(stored.read_text().replace("temperature: 0.2", "temperature: 0.3"))
    last = multirun(*jobs)
    assert last.code == 1 and last.err.count("error: ") == 1
    assert "holds a run with objective.temperature=0.3, but here it is 0.2" in last.err
    assert last.out.count("has a result already") == 1 and read_metrics(folders[2] / "metrics.csv")
    assert len((tmp_path / "sweep" / "command.txt").read_text().splitlines()) == 1


def test_a_run_that_ended_before_its_result_was_written_gets_it(tmp_path: Path) -> None:
    cfg = small("simclr", "evaluation=frozen", "evaluation.probes.linear=null", "evaluation.baselines=false")
    assert run_in(tmp_path, cfg) is None
    before = json.loads((tmp_path / "result.json").read_text())
    (tmp_path / "result.json").unlink()
    assert run_in(tmp_path, cfg, resume=True) is None
    after = json.loads((tmp_path / "result.json").read_text())
    assert before["metrics"] and (after["metrics"], after["steps"]) == (before["metrics"], before["steps"])
    assert (before["resumed_at"], after["resumed_at"]) == (0, 12)
    with pytest.raises(ValueError, match="is complete"):
        run_in(tmp_path, cfg, resume=True)


def test_an_installed_wheel_finds_its_configs() -> None:
    """The wheel puts configs inside the package; the source tree has them beside it. The code takes what is there."""
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert '"configs" = "ssl_framework/configs"' in pyproject
    assert os.path.samefile(CONFIGS, ROOT / "configs")
