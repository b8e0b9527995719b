"""Exported weights hold a checksum of all they say."""

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from ssl_framework.evaluation.foreign import read_tensors
from ssl_framework.models.exported import read_exported, write_exported
from ssl_framework.models.weights import read_weights

TENSORS = {
    "a": torch.arange(6.0).view(2, 3),
    "b": torch.ones(3, dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "on": torch.tensor([True, False]),
}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    write_exported(path, TENSORS, {"timm_name": "resnet18", "format": "pt"})
    for read in (read_exported, read_tensors, read_weights):
        found = read(path)
        assert found.keys() == TENSORS.keys() and all(torch.equal(found[name], x) for name, x in TENSORS.items())


def test_no_bit_can_flip_without_a_word(tmp_path: Path) -> None:
    """Neither of the tensors nor of what is said of them; only where the checksum's own name is lost is the file one
    without a checksum, as others write them."""
    path = tmp_path / "net.safetensors"
    write_exported(path, TENSORS, {"timm_name": "resnet18", "trained_with": '{"mean": [0.5]}'})
    content = path.read_bytes()
    name = content.index(b"sha256")
    for at in (*range(name), *range(name + 6, len(content))):
        path.write_bytes(content[:at] + bytes([content[at] ^ 2]) + content[at + 1 :])
        with pytest.raises((ValueError, SafetensorError)) as refused:
            read_exported(path)
        if at >= len(content) - 24:
            assert str(refused.value).startswith(f"{path} is damaged: it is not what was exported")
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"no \.safetensors file"):
        read_weights(path)


def test_a_file_from_elsewhere_needs_no_checksum(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file(TENSORS, str(path))
    assert torch.equal(read_exported(path)["a"], TENSORS["a"])
