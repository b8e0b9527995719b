"""SASRec: written out with loops, what a place sees, padding, and the export."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import layer_norm, linear

from ssl_framework.models.sequence import SASRec

ROWS = torch.tensor([[0, 0, 3, 1, 4], [2, 5, 1, 1, 6]])


def backbone(**changed: object) -> SASRec:
    torch.manual_seed(0)
    return SASRec(**{"items": 5, "length": 5, "width": 4, "depth": 2, "num_heads": 2, **changed})  # type: ignore


def test_it_is_the_network_of_the_paper_written_out() -> None:
    made = backbone().eval()
    own = dict(made.net.named_parameters())
    outputs = made(ROWS)

    def layer(name: str, x: torch.Tensor) -> torch.Tensor:
        return linear(x, own[f"{name}.weight"], own[f"{name}.bias"])

    for b, row in enumerate(ROWS.tolist()):
        z = {t: own["items.weight"][item] + own["places"][t] for t, item in enumerate(row) if item}
        for i in range(2):
            at = f"blocks.{i}"
            norm = (own[f"{at}.first_norm.weight"], own[f"{at}.first_norm.bias"])
            normed = {t: layer_norm(x, (4,), *norm) for t, x in z.items()}
            q, k, v = ({t: layer(f"{at}.{n}", x) for t, x in normed.items()} for n in ("queries", "keys", "values"))
            found = {}
            for t in z:
                parts = []
                for h in (slice(0, 2), slice(2, 4)):
                    before = [s for s in z if s <= t]
                    weight = torch.stack([q[t][h] @ k[s][h] / math.sqrt(2) for s in before]).softmax(0)
                    parts.append(sum(w * v[s][h] for w, s in zip(weight, before, strict=True)))
                x = z[t] + torch.cat(parts)  # type: ignore[arg-type]
                inner = layer_norm(x, (4,), own[f"{at}.second_norm.weight"], own[f"{at}.second_norm.bias"])
                found[t] = x + layer(f"{at}.outer", layer(f"{at}.inner", inner).relu())
            z = found
        for t in range(5):
            expected = layer_norm(z[t], (4,), own["norm.weight"], own["norm.bias"]) if t in z else torch.zeros(4)
            torch.testing.assert_close(outputs["tokens"][b, t], expected)
    assert torch.equal(outputs["pooled"], outputs["tokens"][:, -1]) and made.dim == 4


def test_a_place_knows_nothing_of_those_behind_it_and_a_hidden_item_is_one_of_its_own() -> None:
    made = backbone().eval()
    other = ROWS.clone()
    other[:, -1] = 2
    first, second = made(ROWS)["tokens"], made(other)["tokens"]
    torch.testing.assert_close(first[:, :-1], second[:, :-1])
    assert (first[:, -1] - second[:, -1]).abs().min() > 0
    assert made(torch.zeros(1, 5, dtype=torch.int64))["pooled"].isfinite().all()  # nothing but padding
    made.train()
    made(ROWS)["pooled"].square().sum().backward()
    grad = made.net.items.weight.grad
    assert grad is not None and grad[0].eq(0).all() and grad[6].abs().sum() > 0


def test_an_export_loads_outside_a_run(tmp_path: Path) -> None:
    made = backbone().eval()
    save_file(dict(made.net.state_dict()), tmp_path / "net.safetensors")
    found: dict = {}
    exec(made.load_line(tmp_path / "net.safetensors"), found)
    assert torch.equal(found["net"](ROWS), made(ROWS)["tokens"])
    assert made.about()["settings"] == "items=5, length=5, width=4, depth=2, num_heads=2"


def test_what_is_no_sequence_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"sasrec_2x4 takes sequences of 5 items, but the views have torch.float32 samp"
    ):
        backbone()(torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"backbone\.num_heads is 3, which does not divide the width 4"):
        backbone(num_heads=3)
