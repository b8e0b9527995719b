"""The notebook-like script, as it is, in this process."""

import runpy
import signal
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "notebook.py"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def test_the_script_runs_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """As a notebook would run it, with arguments that are not for us."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json", "method=nonsense"])
    before = ([signal.getsignal(number) for number in SIGNALS], warnings.formatwarning)
    names = runpy.run_path(str(SCRIPT))
    assert ([signal.getsignal(number) for number in SIGNALS], warnings.formatwarning) == before
    assert not GlobalHydra.instance().is_initialized()
    assert set(names["run"].metrics) == {"knn[k=20,T=0.1]/top1", "linear[l2=0.0001]/top1"}
    assert names["run"].result["steps"] == 18 and names["features"].shape == (8, names["run"].encoder.backbone.dim)
    assert float(names["loss"]) < 4.0  # at chance log(127) = 4.84
    assert (tmp_path / "outputs" / "notebook" / "evaluation.json").is_file()
    assert "python train.py method=simclr data=shapes" in capsys.readouterr().out


def test_a_run_in_another_thread_touches_no_handler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook's kernel, or a server, may train in a thread of its own."""
    import ssl_framework
    from tests.small_runs import SMALL

    monkeypatch.chdir(tmp_path)
    before = [signal.getsignal(number) for number in SIGNALS]
    found: list[torch.Tensor] = []

    def work() -> None:
        run = ssl_framework.compose("method=simclr", "trainer=cpu", *SMALL, "trainer.max_epochs=1").fit("run")
        found.append(run.embed(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)))
        found.append(torch.tensor([signal.getsignal(n) is h for n, h in zip(SIGNALS, before, strict=True)]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(found) == 2 and torch.equal(found[0][0], found[0][1]) and bool(found[1].all())
