"""A run joins whatever launched it, and starts ranks of its own only when nothing did."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed

from ssl_framework.models.weights import load_checkpoint
from ssl_framework.runs import stopping
from ssl_framework.runs.folder import read_metrics
from ssl_framework.training.meeting import Meeting
from ssl_framework.training.place import Place, join, leave_to_launcher, place, settle
from ssl_framework.training.run import threads_as_settled
from tests.forked import Command, torchrun, torchrun_in_namespace, torchrun_of_forks
from tests.runs.test_stopping import end, fork
from tests.small_runs import SMALL, config
from tests.training.test_resume import assert_identical

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def nothing_launched_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, Place(3, 4, 1, 2)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, Place(1, 2, 0, 1)),  # an operator of Kubernetes: one process a pod
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, Place(0, 1, 0, 1)),
        (
            {
                "SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "6",
                "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "2(x3)",
            },
            Place(5, 6, 1, 2),
        ),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "6"}, None),  # the batch script itself
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, None),
        (
            {
                "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4",
                "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
            },
            Place(1, 4, 1, 2),
        ),
        ({"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}, Place(1, 2, 1, 2)),
        ({"MV2_COMM_WORLD_RANK": "0", "MV2_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_LOCAL_SIZE": "2"}, Place(0, 2, 0, 2)),
        ({"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}, Place(1, 2, 0, 1)),
    ],
)  # fmt: skip
def test_launchers_say_where_a_process_stands(variables: dict[str, str], expected: Place | None) -> None:
    assert place(variables) == expected
    if expected is not None:
        assert expected.nodes == expected.world_size // expected.local_size


def test_the_launcher_says_how_many_there_are_and_a_contradiction_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    for trainer in ("cpu", "ddp_cpu", "ddp"):
        cfg = config(f"trainer={trainer}").trainer
        settle(cfg)
        assert (cfg.devices, cfg.num_nodes) == (2, 2)
    with pytest.raises(ValueError, match=r"trainer\.devices is 3, but 2 of this run's processes were launched on this"):
        settle(config("trainer.devices=3").trainer)
    with pytest.raises(ValueError, match=r"trainer\.num_nodes is 3, but the 4 processes .* were launched on 2"):
        settle(config("trainer.num_nodes=3").trainer)
    stored = config("trainer.devices=8").trainer
    leave_to_launcher(stored)
    settle(stored)
    assert stored.devices == 2


def test_what_only_a_launcher_can_give_is_refused_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"trainer\.num_nodes is 2, but nothing has launched processes on several"):
        settle(config("trainer.num_nodes=2").trainer)
    with pytest.raises(ValueError, match=r"trainer\.slurm is true, but srun has not started this process"):
        settle(config("trainer.slurm=true").trainer)
    with pytest.raises(ValueError, match=r"2 processes were launched without saying where the first"):
        join(Place(1, 2, 1, 2))


def test_tasks_of_slurm_meet_at_the_first_machine_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of a job with --ntasks, which Lightning's own environment refuses."""
    step = {"SLURM_JOB_ID": "420042", "SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "gpu[07-08]"}
    for name, value in {**step, "MASTER_ADDR": "", "MASTER_PORT": ""}.items():
        monkeypatch.setenv(name, value)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "")  # so that what join writes is taken back
    monkeypatch.delenv("MASTER_ADDR")
    monkeypatch.delenv("MASTER_PORT")
    join(Place(2, 4, 0, 2))
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("gpu07", "15042")
    assert (os.environ["RANK"], os.environ["WORLD_SIZE"]) == ("2", "4")


def test_a_launched_process_computes_with_the_threads_that_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning sets those of a process that something has launched, as many as the machine has for each."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(8))
    with threads_as_settled(config("trainer.num_threads=1")):
        _set_num_threads_if_needed(num_processes=2)
        assert torch.get_num_threads() == 1
    try:
        with threads_as_settled(config("trainer.num_threads=null")):
            _set_num_threads_if_needed(num_processes=2)
            assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(1)


def own_lines(text: str) -> str:
    """What we have printed: torch up to 2.9 says on stdout itself that "[Gloo] Rank 1 is connected to 1 peer ranks"."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("[Gloo] "))


class Launched:
    """Two processes of one command, started as a launcher starts them; ``own`` gives each its variables."""

    def __init__(self, folder: Path, own: Callable[[int], dict[str, str]], *arguments: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        self.ranks = [Command(folder, *arguments, environment={**where, **own(rank)}) for rank in range(2)]

    def end(self) -> list[subprocess.CompletedProcess]:
        return [rank.end() for rank in self.ranks]


def mpirun(rank: int) -> dict[str, str]:
    return {
        "OMPI_COMM_WORLD_RANK": str(rank), "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_LOCAL_RANK": str(rank), "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    }  # fmt: skip


def pods(rank: int) -> dict[str, str]:
    """Two machines of one process, as an operator of Kubernetes starts them."""
    return {"RANK": str(rank), "WORLD_SIZE": "2"}


def test_a_multirun_of_launched_processes_is_that_of_one_which_launches(tmp_path: Path) -> None:
    """Every process composes it, the first decides and speaks; what all refuse is said once, and the next job runs."""
    small = [item for item in SMALL if item != "report=none"]  # two jobs with a page share a group
    alike = (*small, "trainer.max_epochs=1", "trainer.num_threads=1")
    arguments = ("-m", *alike, "trainer=cpu", "data.batch_size=9,8", "seed=0,1")
    first, second = Launched(tmp_path, mpirun, *arguments).end()
    assert first.returncode == second.returncode == 1
    assert "Traceback" not in first.stderr + second.stderr
    said = first.stderr + second.stderr
    assert said.count("error: data.batch_size is 9 for all 2 processes together") == 2
    assert (
        own_lines(second.stdout) == ""
        and first.stdout.count("joins the 2 processes that were launched on 1 machine") == 4
    )
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert str(sweep.relative_to(tmp_path)) == first.stdout.splitlines()[-1]
    trained, _, *refused = sorted(path for path in sweep.iterdir() if path.is_dir())
    assert all((path / "error.txt").is_file() and not (path / "result.json").exists() for path in refused)
    assert [json.loads(path.read_text())["processes"] for path in sorted(sweep.glob("*/result.json"))] == [2, 2]
    assert len(list(sweep.glob("*/report.html"))) == 2
    own = Command(tmp_path, *alike, "trainer=ddp_cpu", "report=none", "hydra.run.dir=own").end()
    assert own.returncode == 0, own.stderr
    assert read_metrics(trained / "metrics.csv") == read_metrics(tmp_path / "own" / "metrics.csv")
    hashes = [json.loads((path / "result.json").read_text())["config_hash"] for path in (trained, tmp_path / "own")]
    assert hashes[0] == hashes[1]


def test_processes_that_have_nowhere_to_meet_say_so_once(tmp_path: Path) -> None:
    first, second = (Command(tmp_path, environment=mpirun(rank)).end() for rank in range(2))
    assert first.returncode == second.returncode == 1 and second.stdout == second.stderr == ""
    assert first.stderr.startswith("error: 2 processes were launched without saying where the first one is: set MASTER")
    assert len(first.stderr.splitlines()) == 1 and not (tmp_path / "outputs").exists()


def test_a_signal_while_they_find_each_other_costs_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process waits for the second in C."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setattr(stopping, "FINDING", 0.3)
    started = time.monotonic()
    pid, said = fork(lambda: Meeting(Place(0, 2, 0, 2)))  # type: ignore[arg-type, return-value]
    time.sleep(0.5)
    os.kill(pid, signal.SIGTERM)
    code, words = end(pid, said)
    assert code == 128 + signal.SIGTERM and words.startswith("stopped by SIGTERM") and time.monotonic() - started < 8


def wait_for(path: Path) -> None:
    deadline = time.time() + 60
    while not path.exists() and time.time() < deadline:
        time.sleep(0.02)


def test_launched_processes_stop_together_share_a_folder_and_go_on(tmp_path: Path) -> None:
    """A folder named by the time of day is that of the first process, on whichever machine the others compose it."""
    named = "hydra.run.dir=run_${now:%f}"
    arguments = (*SMALL, "trainer.max_epochs=6", "trainer.num_threads=1", named)
    running = Launched(tmp_path, pods, *arguments)
    while not (found := list(tmp_path.glob("run_*/metrics.csv"))):
        time.sleep(0.02)
    running.ranks[1].send_signal(signal.SIGTERM)
    first, second = running.end()
    assert first.returncode == second.returncode == 128 + signal.SIGTERM, first.stderr + second.stderr
    (folder,) = tmp_path.glob("run_*")
    assert folder == found[0].parent and f"resume={folder.name}" in first.stdout and own_lines(second.stdout) == ""
    step = load_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"]
    assert 0 < step < 36
    ended = Launched(tmp_path, pods, f"resume={folder.name}").end()
    assert [rank.returncode for rank in ended] == [0, 0], ended[0].stderr + ended[1].stderr
    assert f"resuming at step {step}" in ended[0].stdout
    whole = Launched(tmp_path, pods, *arguments[:-1], "hydra.run.dir=whole").end()
    assert [rank.returncode for rank in whole] == [0, 0]
    paths = [tmp_path / name / "checkpoints" / "last.ckpt" for name in ("whole", folder.name)]
    assert_identical(*(load_checkpoint(path)["state_dict"] for path in paths))


def test_a_rank_that_is_killed_ends_the_others(tmp_path: Path) -> None:
    running = Command(tmp_path, *SMALL, "trainer=ddp_cpu", "trainer.max_epochs=500", "hydra.run.dir=run")
    wait_for(tmp_path / "run" / "metrics.csv")
    pid = running.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    ended = running.end(timeout=60)
    assert ended.returncode == 75 and "Traceback" not in ended.stderr
    assert f"rank 1 (pid {children[-1]}) was killed by SIGKILL" in ended.stderr and len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / "run" / "result.json").exists()
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_torchrun_starts_the_processes(tmp_path: Path) -> None:
    """In new interpreters: one folder named by the time of day, one line at its end."""
    arguments = ["--standalone", "--nproc-per-node=2", str(ROOT / "train.py"), *SMALL, "trainer.max_epochs=1"]
    done = Command(tmp_path, *arguments, become=torchrun, environment={"OMP_NUM_THREADS": "1"}).end()
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs" / "simclr" / "shapes").iterdir()
    assert done.stdout.splitlines()[-1] == str(folder.relative_to(tmp_path))
    assert json.loads((folder / "result.json").read_text())["processes"] == 2


def test_ctrl_c_at_torchrun_has_its_processes_save_and_end(tmp_path: Path) -> None:
    """A terminal sends it to torchrun's group, and torchrun to its processes."""
    arguments = (*SMALL, "trainer.max_epochs=500", "trainer.num_threads=1", "hydra.run.dir=run")
    running = Command(tmp_path, *arguments, become=torchrun_of_forks, environment={"OMP_NUM_THREADS": "1"})
    wait_for(tmp_path / "run" / "metrics.csv")
    pid = running.process.pid
    assert pid is not None
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.killpg(pid, signal.SIGINT)
    ended = running.end(timeout=60)
    assert ended.stdout.count("stopped by SIGINT; to continue: ") == 1, ended.stderr
    assert len(children) >= 2 and not any(Path(f"/proc/{child}").exists() for child in children)
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] > 0
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.fixture
def machines() -> Iterator[tuple[str, str]]:
    """Two network namespaces, 10.77.0.1 and 10.77.0.2, joined by a cable of their own and nothing else."""
    ip = shutil.which("ip")
    names = tuple(f"ssl{os.getpid()}{end}" for end in "ab")
    if ip is None or os.geteuid() != 0 or call(ip, "netns", "add", names[0]) != 0:
        pytest.skip("network namespaces are not allowed here: they need root and ip (iproute2)")
    try:
        done = [call(ip, "netns", "add", names[1])]
        done += [call(ip, "link", "add", names[0], "type", "veth", "peer", "name", names[1])]
        for number, name in enumerate(names, start=1):
            inside = (ip, "-n", name)
            done += [call(ip, "link", "set", name, "netns", name)]
            done += [call(*inside, "addr", "add", f"10.77.0.{number}/24", "dev", name)]
            done += [call(*inside, "link", "set", device, "up") for device in ("lo", name)]
        if any(done):
            pytest.skip("network namespaces are not allowed here: a veth pair could not be made")
        yield names  # type: ignore[misc]
    finally:
        for name in names:
            call(ip, "netns", "del", name)


def call(*command: str) -> int:
    return subprocess.run(command, capture_output=True).returncode


def test_two_machines_equal_one_with_two_processes(machines: tuple[str, str], tmp_path: Path) -> None:
    """As many processes, a network between them: the same numbers, bit for bit."""
    settings = [*SMALL, "trainer.max_epochs=1"]
    options = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-id=test", "--rdzv-backend=c10d"]
    options += ["--rdzv-endpoint=10.77.0.1:29400"]
    running = []
    for number, name in enumerate(machines, start=1):
        own = [f"--local-addr=10.77.0.{number}", f"--rdzv-conf=is_host={number == 1}"]  # one name for both hosts
        words = [name, *options, *own, "train.py", *settings, "hydra.run.dir=two"]
        variables = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": name}
        running.append(Command(tmp_path, *words, become=torchrun_in_namespace, environment=variables))
    ended = [process.end(timeout=180) for process in running]
    assert [process.returncode for process in ended] == [0, 0], ended
    assert sum("joins the 2 processes that were launched on 2 machines" in each.stdout for each in ended) == 1
    one = Command(tmp_path, *settings, "trainer=ddp_cpu", "hydra.run.dir=one").end()
    assert one.returncode == 0, one.stderr
    assert read_metrics(tmp_path / "two" / "metrics.csv") == read_metrics(tmp_path / "one" / "metrics.csv")
    states = [load_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("two", "one")]
    assert_identical(states[0]["state_dict"], states[1]["state_dict"])
