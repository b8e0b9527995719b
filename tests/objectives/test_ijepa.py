import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.models.patch_heads import positions
from ssl_framework.objectives.ijepa import IJEPA
from ssl_framework.types import Batch
from tests.golden import golden, mix_raw
from tests.objectives import loops


def objective(depth: int = 1) -> IJEPA:
    torch.manual_seed(0)
    found = IJEPA(8, depth, 2)
    found.meet({"patches": 6})
    return found.double()


MASK = torch.tensor([[0, 1, 1, 1, 0, 1, 1, 1, 0], [1, 1, 0, 1, 0, 1, 0, 1, 1]]).bool()
TARGETS = torch.tensor([[[1, 2], [6, 7]], [[0, 1], [7, 8]]])


def test_golden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of given predictions: sample 0 has two target blocks of six patches."""
    found = IJEPA(8, 1, 2)
    monkeypatch.setattr(found, "predict", lambda *arguments: mix_raw(0, 12, 8).view(1, 2, 6, 8))
    where = torch.arange(12).view(1, 2, 6)
    student = [{"patch_features": torch.empty(1, 0, 8), "mask": torch.ones(1, 12).bool()}]
    batch = Batch([], torch.arange(1), targets=[where])
    value = found(student, [{"patches": mix_raw(1, 12, 8)[None]}], batch, loops.CLOCK)["loss"].item()
    name = "ijepa: smooth L1 (beta 1) to layer-normalised targets"
    assert value == pytest.approx(golden(name), abs=1e-7)


def test_equals_the_loop() -> None:
    """Every target block by itself, through the predictor with its own mask tokens, and every number by itself."""
    own, context, whole = objective(), mix_raw(0, 6, 6).view(2, 3, 6), mix_raw(1, 18, 6).view(2, 9, 6)
    outputs = [{"patch_features": context, "mask": MASK}]
    value = own(outputs, [{"patches": whole}], Batch([], torch.arange(2), targets=[TARGETS]), loops.CLOCK)["loss"]
    place, parts = positions(9, 8, context), []
    for b in range(2):
        seen = [n for n in range(9) if not MASK[b, n]]
        read = own.predictor.read(context[b]) + torch.stack([place[n] for n in seen])
        for block in TARGETS[b].tolist():
            asked = torch.stack([own.token + place[n] for n in block])
            found = own.predictor(torch.cat([read, asked])[None])[0, len(seen) :]
            for n, row in zip(block, found, strict=True):
                target = F.layer_norm(whole[b, n], (6,))
                errors = [abs(x - y) for x, y in zip(row.tolist(), target.tolist(), strict=True)]
                parts += [e**2 / 2 if e < 1 else e - 0.5 for e in errors]
    assert value.item() == pytest.approx(sum(parts) / len(parts), abs=1e-10)


def test_target_blocks_do_not_see_each_other() -> None:
    own, context = objective(), mix_raw(0, 6, 6).view(2, 3, 6)
    both = own.predict(context, MASK, TARGETS)
    for block in range(2):
        torch.testing.assert_close(own.predict(context, MASK, TARGETS[:, block : block + 1])[:, 0], both[:, block])


def test_the_order_of_a_block_is_the_order_of_its_predictions() -> None:
    own, context = objective(), mix_raw(0, 6, 6).view(2, 3, 6)
    turned = own.predict(context, MASK, TARGETS.flip(2)).flip(2)
    torch.testing.assert_close(turned, own.predict(context, MASK, TARGETS))


def test_the_context_alone_has_a_gradient() -> None:
    context: Tensor = mix_raw(0, 6, 6).view(2, 3, 6).requires_grad_()
    whole = mix_raw(1, 18, 6).view(2, 9, 6)
    batch = Batch([], torch.arange(2), targets=[TARGETS])
    objective()([{"patch_features": context, "mask": MASK}], [{"patches": whole}], batch, loops.CLOCK)[
        "loss"
    ].backward()
    assert context.grad is not None and (context.grad.abs().sum(dim=2) > 0).all()
