"""w2v-BERT: golden values, a loop over hidden frames, spans, and codes that collapse without the contrast."""

import math

import pytest
import torch
from torch import Tensor, nn

from ssl_framework.masks.base import Draws
from ssl_framework.masks.span import SpanMask
from ssl_framework.objectives.w2v_bert import W2VBert, contrast_of, perplexity
from ssl_framework.types import Batch, Clock
from tests.golden import golden, mix_raw, mix_rows
from tests.objectives import loops


def test_golden() -> None:
    context, target, total = mix_rows(0), mix_rows(2), 0.0
    for t in (0, 2, 3, 5):
        where = [t, (t + 1) % 6, (t + 2) % 6, (t + 4) % 6]  # itself and its distractors
        four = contrast_of(
            context[where][None], target[where][None], torch.arange(4)[None], torch.ones(1, 4).bool(), 0.1
        )
        total += four[0, 0].item() / 4
    assert total == pytest.approx(golden("w2v_bert: contrast at masked frames, mean"), abs=1e-7)
    share = mix_raw(0).view(6, 2, 4).softmax(dim=2).mean(dim=0)  # [2, 4]
    found = perplexity(share).item()
    name = "w2v_bert: codebook perplexity (summed over groups); diversity term (GV - perplexity)/GV"
    assert [found, (8 - found) / 8] == pytest.approx(golden(name), abs=1e-7)


def test_the_contrast_equals_the_loop() -> None:
    context, target = mix_raw(0, 10, 4).view(2, 5, 4), mix_raw(1, 10, 4).view(2, 5, 4)
    code = torch.tensor([[0, 1, 1, 2, 3], [2, 2, 2, 2, 1]])
    hidden = torch.tensor([[1, 1, 1, 0, 1], [1, 1, 0, 1, 0]]).bool()
    found = contrast_of(context, target, code, hidden, 0.3)
    for b, t in hidden.nonzero().tolist():
        rows = [t, *(s for s in range(5) if hidden[b, s] and code[b, s] != code[b, t])]
        own = context[b, t] / context[b, t].norm()
        scores = [loops.dot(own, target[b, s] / target[b, s].norm()) / 0.3 for s in rows]
        assert found[b, t].item() == pytest.approx(loops.log_sum_exp(scores) - scores[0], abs=1e-12)
    assert found[1, 0] == 0  # all others have its code


def objective(**changed: float) -> W2VBert:
    torch.manual_seed(0)
    plain = {"bands": 6, "dim": 8, "num_codes": 5, "code_dim": 4, "temperature": 0.3, "gumbel": [2.0, 0.5]}
    plain |= {"gumbel_decay": 0.9, "contrast_weight": 1.0, "diversity_weight": 0.1, "prediction_weight": 0.7}
    plain |= {"code_gradient": 0.5}
    return W2VBert(**{**plain, **changed}).double()  # type: ignore[arg-type]


def outputs(count: int = 12) -> tuple[Tensor, dict[str, Tensor]]:
    """Sounds of four frames, and what a student might have made of them."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(count, 1, 6, 4, generator=draw, dtype=torch.float64)
    layers = torch.randn(count, 2, 4, 8, generator=draw, dtype=torch.float64)
    mask = torch.rand(count, 4, generator=draw) < 0.6
    return x, {"patch_features": layers[:, 1], "layers": layers, "mask": mask}


def test_the_loss_is_the_sum_of_its_terms() -> None:
    made, (x, seen) = objective(), outputs()
    found = made([seen], None, Batch([x], torch.arange(12)), loops.CLOCK)
    logits = made.choose(x[:, 0].transpose(1, 2))
    chosen, mask = made.chosen(logits, loops.CLOCK), seen["mask"]
    code = chosen.argmax(dim=2)
    contrast = contrast_of(made.context(seen["layers"][:, 0]), made.codes[code], code, mask, 0.3)[mask].mean()
    said = nn.functional.cross_entropy(made.predict(seen["patch_features"])[mask], code[mask])
    share = logits.softmax(dim=2).mean(dim=(0, 1))
    diversity = 1 - math.exp(-sum(p * math.log(p) for p in share.tolist())) / 5
    expected = contrast.item() + 0.1 * diversity + 0.7 * said.item()
    assert found["loss"].item() == pytest.approx(expected, abs=1e-9)
    assert found["perplexity"].item() == pytest.approx(perplexity(code.flatten().bincount(minlength=5) / 48).item())


def test_choices_are_gumbel_draws_of_a_falling_temperature() -> None:
    made, logits = objective(), torch.tensor([0.0, 1.0, 2.0, 0.0, -1.0]).double().expand(3000, 2, 5)
    chosen = made.chosen(logits, Clock(0, 0, 9))
    assert set(chosen.unique().tolist()) == {0, 1}
    torch.testing.assert_close(chosen.mean(dim=(0, 1)), logits[0, 0].softmax(0), rtol=0, atol=0.02)
    one = logits[:1].clone().requires_grad_()
    sizes = []
    for step in (0, 200):  # hot, and at the lowest
        (grad,) = torch.autograd.grad(made.chosen(one, Clock(step, 0, 9))[0, 0, 2], one)
        sizes.append(float(grad.abs().max()))
    assert min(sizes) > 0  # that of the soft choice


def train(contrast_weight: float) -> float:
    """The perplexity of eight codes after some steps, the context of a frame being the mean of what is seen."""
    made = objective(contrast_weight=contrast_weight, num_codes=8, code_gradient=0.05, gumbel_decay=0.999)
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(32, 1, 6, 4, generator=draw, dtype=torch.float64)
    net = nn.Linear(6, 8).double()
    mask = torch.rand(32, 4, generator=draw) < 0.5
    optimizer = torch.optim.Adam([*made.parameters(), *net.parameters()], lr=0.15)
    for step in range(40):
        hidden = x[:, 0].transpose(1, 2).masked_fill(mask[..., None], 0.0)
        context = net(hidden.mean(dim=1, keepdim=True).expand(-1, 4, -1))  # [B, 4, 8]
        seen = {"patch_features": context, "layers": context[:, None], "mask": mask}
        found = made([seen], None, Batch([x], torch.arange(32)), Clock(step, 0, 40))
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
    return found["perplexity"].item()


def test_without_the_contrast_few_codes_are_left() -> None:
    assert train(0.0) < 3.5
    assert train(1.0) > 7


def test_spans_are_hidden_along_time() -> None:
    masker = SpanMask(0.1, 4)
    hidden = masker.draw(300, (2, 20), Draws(torch.Generator().manual_seed(0), torch.Generator()), torch.device("cpu"))
    rows = hidden.hidden.view(300, 2, 20)
    assert torch.equal(rows[:, 0], rows[:, 1]) and not masker.even
    count = rows[:, 0].sum(dim=1)  # two spans, which may overlap
    assert count.min() == 5 and count.max() == 8
    edges = nn.functional.pad(rows[:, 0].int(), (1, 1)).diff(dim=1)
    begin, end = (edges == 1).nonzero(), (edges == -1).nonzero()
    assert ((end - begin)[:, 1] >= 4).all() and rows[:, 0].any(dim=0).all()
    with pytest.raises(ValueError, match=r"masker\.length is 4, but a view has 4 columns of patches: set it to fewer"):
        masker.check(1, 4)
