"""How the tokens of a text become one vector."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor


def mean_of_tokens(tokens: Tensor, there: Tensor) -> Tensor:
    """[B, L, D], zero where ``there`` [B, L] is false -> [B, D]"""
    return tokens.sum(dim=1) / there.sum(dim=1, keepdim=True).to(tokens.dtype)


def first_token(tokens: Tensor, there: Tensor) -> Tensor:
    """[B, L, D] -> [B, D]"""
    return tokens[:, 0]


def last_token(tokens: Tensor, there: Tensor) -> Tensor:
    """[B, L, D], [B, L] bool -> [B, D]"""
    last = there.sum(dim=1)[:, None, None].expand(-1, 1, tokens.shape[2]) - 1  # [B, 1, D]
    return tokens.gather(1, last)[:, 0]


POOLS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"mean": mean_of_tokens, "first": first_token, "last": last_token}
)
