"""Numbers that are not finite stop a run before they are saved, and the step can be made again."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from ssl_framework.build import build_module
from ssl_framework.commands import show
from ssl_framework.distributed import rank
from ssl_framework.loading import load_run_config
from ssl_framework.memory import SampleBank
from ssl_framework.models.weights import load_checkpoint
from ssl_framework.module import SSLModule
from ssl_framework.runs.folder import RunFolder
from ssl_framework.training import nonfinite, replay
from ssl_framework.training.nonfinite import NonFinite, Note, Values, norms, refuse_non_finite_state
from ssl_framework.training.replay import Position
from ssl_framework.types import Samples
from tests.forked import Command, train
from tests.small_runs import SMALL, run_in, small

NAN, INF = float("nan"), float("inf")


def poisoned(monkeypatch: pytest.MonkeyPatch, at: int, value: float = NAN) -> None:
    """The backward pass of step ``at`` leaves one number in the first weight's gradient."""
    before = nonfinite.NonFiniteWatch.on_after_backward

    def poison(self: Any, trainer: L.Trainer, module: Any) -> None:
        if trainer.global_step == at:
            grad = next(p.grad for p in module.parameters() if p.grad is not None)
            grad[(0,) * grad.ndim] = value
        before(self, trainer, module)

    monkeypatch.setattr(nonfinite.NonFiniteWatch, "on_after_backward", poison)


@pytest.mark.parametrize(("step", "value"), [(11, NAN), (5, INF), (0, NAN)])
def test_a_gradient_that_is_not_finite_is_never_saved(
    step: int, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(monkeypatch, step, value)
    with pytest.raises(
        NonFinite, match=rf"the gradient of student\.\S+ is not finite at step {step} on rank 0 \(loss="
    ):
        run_in(tmp_path, small("simclr"))
    run = RunFolder(tmp_path)
    assert not run.result_file.is_file() and run.has_trained
    if step < 6:
        assert not run.checkpoint_file.is_file()
        return
    kept = load_checkpoint(run.checkpoint_file)  # of the epoch before
    assert kept["global_step"] == 6 and all(x.isfinite().all() for x in kept["state_dict"].values())


def shown(folder: Path, capsys: pytest.CaptureFixture, *more: str) -> str:
    """What the command prints of a run."""
    show.main(["nonfinite", f"run={folder}", *more])
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("method", "overrides"),
    [
        ("mocov2", ["trainer.accumulate_grad_batches=2", "data.batch_size=4"]),
        ("simclr", ["data.micro_batch_size=4"]),
        ("clip", ["data=captioned_shapes"]),
        ("simclr", ["data=waves"]),
    ],
)
def test_a_step_is_made_again(
    method: str, overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The samples and the state before the step, with its memories: the same loss to the last bit, for any data."""
    cfg = small(method, *overrides)
    whole = []
    before = nonfinite.Note.end

    def keep(self: Any, values: Any) -> None:
        whole.append(values.found().terms["loss"])
        before(self, values)
        if len(whole) == 5:
            self.wrong = torch.ones((), dtype=torch.bool)

    monkeypatch.setattr(nonfinite.Note, "end", keep)
    with pytest.raises(NonFinite):
        run_in(tmp_path, cfg)
    step = replay.read_step(RunFolder(tmp_path), 0)
    made = replay.make_again(load_run_config(tmp_path), step, torch.device("cpu"))
    assert made.terms["loss"] == step.found.terms["loss"] == whole[-1] and len(whole) == 5
    assert not made.wrong and "the replay is finite" in shown(tmp_path, capsys)


def test_the_replay_names_the_first_part_and_the_gradients(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(
        NonFinite, match=r"the loss is not finite at step 1 on rank 0 \(loss=nan.*show\.py nonfinite run="
    ):
        run_in(tmp_path, small("simclr", "optimizer.lr_per_256=1e30"))
    said = shown(tmp_path, capsys)
    assert "the loss is not finite at step 1" in said and "the replay is not finite, either" in said
    assert "student.backbone.net" in said and " of " in said and "not finite in all" in said
    about = json.loads((tmp_path / "nonfinite" / "rank_0.json").read_text())
    assert about["step"] == 1 and about["terms"]["loss"] == "nan" and about["precision"] == "32-true"
    assert sorted(path.name for path in (tmp_path / "nonfinite").iterdir()) == ["rank_0.json", "rank_0.safetensors"]


def test_weights_that_an_update_has_broken_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients are finite, what the optimizer makes of them is not: the step before the checkpoint is kept."""

    def broken(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if self.trainer.global_step == 5:
            next(self.parameters()).data.fill_(INF)

    original = SSLModule.optimizer_step
    monkeypatch.setattr(SSLModule, "optimizer_step", broken)
    with pytest.raises(
        NonFinite, match=r"student\.backbone\S+ is not finite after 6 steps on rank 0: nothing of it is"
    ):
        run_in(tmp_path, small("simclr"))
    assert not RunFolder(tmp_path).checkpoint_file.is_file()
    step = replay.read_step(RunFolder(tmp_path), 0)
    assert step.at.step == 5 and all(x.isfinite().all() for x in step.state.values() if x.is_floating_point())


@pytest.mark.parametrize(
    ("name", "said"),  # "": of the optimizer
    [
        ("objective.queue.rows", r"objective\.queue\.rows is"),
        ("teacher.encoder.heads.projector", r"teacher\.encoder\.heads\.projector\S+ is"),
        ("student.backbone.net.features.1.running_var", r"student\.backbone\.net\.features\.1\.running_var is"),
        ("mixer.rule", r"mixer\.rule\S+ is"),
        ("", r"the optimizer's exp_avg of student\.backbone\S+ is"),
    ],
)
def test_everything_of_a_checkpoint_is_looked_at(name: str, said: str) -> None:
    cfg = small("simclr", "mixer=adamixup") if name == "mixer.rule" else small("mocov2")
    module = build_module(cfg, has_labels=True)
    optimizer = torch.optim.Adam(module.student.parameters())
    for p in module.student.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    refuse_non_finite_state(module, [optimizer])  # nothing yet
    state = next(iter(optimizer.state.values()))["exp_avg"] if not name else None
    wrong = next(x for key, x in module.state_dict().items() if key.startswith(name)) if state is None else state
    wrong[(0,) * wrong.ndim] = NAN
    with pytest.raises(NonFinite, match=said):
        refuse_non_finite_state(module, [optimizer])


def test_a_norm_is_finite_exactly_if_all_numbers_are() -> None:
    """The square of 1e30 is not: no gradient is refused for that."""
    values = [torch.tensor([1e30, 1.0]), torch.tensor([[INF, 0.0]]), torch.tensor([NAN]), torch.zeros(0), torch.ones(2)]
    assert norms(values).isfinite().tolist() == [True, False, False, True, True]
    assert norms([torch.tensor([1e300], dtype=torch.float64)]).isfinite().all() and len(norms([])) == 0


def test_without_a_wait_each_step_the_first_one_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at at an epoch's end and five steps later, the note says which step was the first, and keeps that one."""
    monkeypatch.setattr(nonfinite, "looks_every", lambda device, every: 5)
    whole: dict[int, Tensor] = {}
    batches: dict[int, Tensor] = {}
    before = nonfinite.Note.begin

    def keep(self: Any, position: replay.Position, samples: Samples) -> None:
        whole[position.step] = self.state["student.backbone.net.features.0.weight"].detach().clone()
        batches[position.step] = samples.index.clone()
        before(self, position, samples)

    monkeypatch.setattr(nonfinite.Note, "begin", keep)
    poisoned(monkeypatch, 7)
    with pytest.raises(NonFinite, match="is not finite at step 7 on rank 0"):
        run_in(tmp_path, small("mocov2"))
    step = replay.read_step(RunFolder(tmp_path), 0)
    assert max(whole) == 10 and not whole[8].isfinite().all()
    torch.testing.assert_close(step.state["student.backbone.net.features.0.weight"], whole[7], rtol=0, atol=0)
    assert step.at.step == 7 and step.samples.index.tolist() == batches[7].tolist()
    assert all(x.isfinite().all() for x in step.state.values() if x.is_floating_point())


def test_samples_of_every_kind_come_back() -> None:
    one, two, index = torch.ones(2, 3), torch.zeros(2, 4), torch.arange(2)
    crops = Samples([one, two], index, None, [one, two], None)
    pairs = Samples(one, index, index, None, {"text": two})
    for samples in (crops, pairs):
        found = replay.samples_of(replay.named_tensors(samples))
        assert replay.named_tensors(found).keys() == replay.named_tensors(samples).keys()
        assert type(found.inputs) is type(samples.inputs) and (found.label is None) == (samples.label is None)


def test_a_damaged_step_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(NonFinite):
        run_in(tmp_path, small("simclr", "optimizer.lr_per_256=1e30"))
    for content in ("", "[1]", "{}", '{"step": "x"}'):
        (tmp_path / "nonfinite" / "rank_0.json").write_text(content)
        with pytest.raises(SystemExit) as ended:
            shown(tmp_path, capsys)
        assert "nonfinite holds no step that can be read" in str(ended.value)  # a sentence ends with exit code 1


@pytest.mark.parametrize("left_out", [True, False])
def test_where_a_scaler_leaves_steps_out_the_weights_decide(
    left_out: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with 16-mixed: an infinite gradient whose step is left out stops nothing, what it does to weights does."""
    original = nonfinite.NonFiniteWatch.on_train_start

    def scaled(self: Any, *args: Any) -> None:
        original(self, *args)
        self._scaled = True

    def clear(self: Any) -> None:
        if left_out and self.global_step == 3:
            self.zero_grad()

    monkeypatch.setattr(nonfinite.NonFiniteWatch, "on_train_start", scaled)
    monkeypatch.setattr(SSLModule, "on_after_backward", clear)
    poisoned(monkeypatch, 3, INF)
    cfg = small("simclr", "trainer.max_epochs=1")
    if left_out:
        assert run_in(tmp_path, cfg) is None and not (tmp_path / "nonfinite").exists()
        return
    with pytest.raises(NonFinite, match=r"student\.backbone\S+ is not finite at step 3 on rank 0 \(loss=[\d.]+"):
        run_in(tmp_path, cfg)
    step = replay.read_step(RunFolder(tmp_path), 0)
    assert all(x.isfinite().all() for x in step.state.values() if x.is_floating_point())


def poison_one_rank(arguments: Sequence[str]) -> None:
    """Becomes ``python train.py`` whose second rank loses its loss in the third step."""
    original = SSLModule.losses

    def losses(self: SSLModule, samples: Samples, clock: Any) -> dict[str, Tensor]:
        found = original(self, samples, clock)
        return {**found, "loss": found["loss"] * (NAN if clock.step == 2 and rank() == 1 else 1)}

    SSLModule.losses = losses  # type: ignore[method-assign]
    train(arguments)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_every_rank_writes_its_share_and_one_sentence_names_the_rank(strategy: str, tmp_path: Path) -> None:
    arguments = ["method=simclr", "data=shapes", *SMALL, "trainer=ddp_cpu", f"trainer.strategy={strategy}"]
    found = Command(tmp_path, *arguments, "hydra.run.dir=run", become=poison_one_rank).end()
    assert found.returncode == 1, found.stderr
    assert found.stderr.count("error:") == 1 and "error: the loss is not finite at step 2 on rank 1 (" in found.stderr
    run = RunFolder(tmp_path / "run")
    assert replay.ranks_of(run) == [0, 1] and not run.checkpoint_file.exists() and not run.result_file.exists()
    zero, one = (replay.read_step(run, number) for number in (0, 1))
    assert zero.at.ranks == 2 and one.at == zero.at._replace(rank=1) and math.isnan(one.found.terms["loss"])
    weights = [name for name, _ in build_module(load_run_config(run.path), True).named_parameters()]
    assert all(torch.equal(zero.state[name], one.state[name]) for name in weights)
    assert not set(zero.samples.index.tolist()) & set(one.samples.index.tolist())
    made = replay.make_again(load_run_config(run.path), one, torch.device("cpu"))
    assert "it knows rank 1 alone" in replay.verdict(one, made)


@pytest.mark.parametrize("every", [1, 4])
def test_a_memory_of_all_samples_is_given_back_as_before_the_noted_step(every: int) -> None:
    """It is not copied in each step: what later steps wrote over is put back."""
    bank = SampleBank({"row": torch.zeros(100)})
    note = Note({"bank.row": bank.get_buffer("row"), "weight": torch.zeros(2)}, every, {"bank": bank})
    before: dict[int, torch.Tensor] = {}
    positions = [Position(step, 0, 9, 0, step, 0, 1) for step in range(6)]
    for step, position in enumerate(positions[:3] if every == 1 else positions):
        before[step] = bank.column("row")
        note.begin(position, Samples(torch.zeros(2, 1), torch.arange(2)))
        bank.write(torch.tensor([step, 50]), {"row": torch.full((2,), 1.0 + step)})
        wrong = step == 2 if every == 1 else step >= 4
        note.end(Values.of({"loss": torch.tensor(float("nan") if wrong else 1.0)}, {}))
        if len(note.positions) < every:
            continue
        at = note.look()
    at = note.look() if every > 1 else at
    assert at == positions[2 if every == 1 else 4]
    assert "bank.row" not in note.before and torch.equal(note.state_before(at)["bank.row"], before[at.step])
    note.close()
    assert bank.undo is None
