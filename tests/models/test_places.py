"""What keeps places apart, one vector each, whatever the backbone."""

import torch

from ssl_framework.functional import positions
from ssl_framework.models.backbone import Backbone
from ssl_framework.models.encoder import Encoder
from ssl_framework.models.heads import MLPHead
from ssl_framework.models.text import TextTransformer

HEAD = {"token_projector": MLPHead("places", [], 5, norm=False)}
VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}


def test_places_are_positions_of_a_map_patches_without_a_class_token_or_words() -> None:
    pictures, texts = torch.randn(2, 3, 16, 16), torch.tensor([[1, 5, 2, 0]] * 2)
    for backbone, x, kind, number in (
        (Backbone("ssl_tiny", None, 16, 3), pictures, "map", 4),
        (Backbone("vit_tiny_patch16_224", None, 16, 3, VIT), pictures, "patches", 4),
        (TextTransformer(9, 4, 8, 1, 2), texts, "tokens", 4),
    ):
        encoder = Encoder(backbone, HEAD).eval()
        out = encoder.encode(x)
        expected = positions(out[kind]) if kind == "map" else out[kind]
        torch.testing.assert_close(out["places"], expected)
        assert out["token_projector"].shape == (2, number, 5) and encoder.dims["places"] == expected.shape[2]
        assert "places" not in Encoder(backbone, {}).eval().encode(x)  # nobody reads them
