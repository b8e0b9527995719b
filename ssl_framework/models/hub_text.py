"""Encoders of texts of the package transformers, with their own tokenizer, from a folder on this machine.

Nothing is fetched, no code of the folder is run, and weights are read from safetensors only.

B texts, L tokens a text, D features.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_framework.arguments import Count, guarded
from ssl_framework.models.pools import POOLS
from ssl_framework.models.text import PADDING
from ssl_framework.types import Outputs

NAMES = (
    ("pad_token", "eos_token"),
    ("cls_token", "bos_token", "eos_token"),
    ("sep_token", "eos_token"),
    ("unk_token", "eos_token"),
    ("mask_token", "unk_token", "eos_token"),
)
"""What tokenizers call padding, begin, end, an unknown word and a mask, which are our tokens 0 to 4; the first that a
tokenizer has."""


def hub_tokenizer(folder: str | None) -> tuple[dict[str, Any], list[int]]:
    """A tokenizer as its file has it, and the number that it gives to each of our tokens: the five that are no words,
    then all others in their order.

    Raises:
        FileNotFoundError: there is no such folder, or it has no tokenizer.
        ValueError: no folder is named, or its files are not what they should be.
    """
    if folder is None:
        raise ValueError(
            "data.tokenizer_folder is null, but data.tokenizer=hf and backbone=hf_text need the folder of a Hugging "
            "Face model: name one that has config.json, tokenizer.json and model.safetensors"
        )
    place = Path(folder).expanduser()
    said: dict[str, Any] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (place / name).is_file():
            said = {**read(place / name), **said}
    if not (place / "tokenizer.json").is_file():
        raise FileNotFoundError(
            f"data.tokenizer_folder={folder} has no tokenizer.json: save the model's fast tokenizer there, by "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    content = read(place / "tokenizer.json")
    vocabulary = content["model"]["vocab"]
    pairs = vocabulary.items() if isinstance(vocabulary, dict) else ((w[0], n) for n, w in enumerate(vocabulary))
    number = dict(pairs) | {each["content"]: each["id"] for each in content.get("added_tokens") or ()}
    first = []
    for names in NAMES:
        tokens = [t["content"] if isinstance(t := said.get(name), dict) else t for name in names]
        known = [number[token] for token in tokens if token in number]
        if not known:
            raise ValueError(
                f"the tokenizer of {folder} says no {names[0]}: name one in its tokenizer_config.json or "
                "special_tokens_map.json"
            )
        first.append(known[0])
    return content, [*first, *sorted(set(number.values()) - set(first))]


def read(path: Path) -> dict[str, Any]:
    """A mapping in JSON; raises ValueError if it is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: save the tokenizer again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no mapping: save the tokenizer again")
    return found


def transformers() -> Any:
    """The package.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import transformers as found
    except ImportError as error:
        raise ValueError(
            "backbone=hf_text needs the package transformers: pip install -e '.[transformers]', or choose "
            "backbone=text_tiny"
        ) from error
    return found


@guarded
class HubText(nn.Module):
    """A model of transformers (``AutoModel``) as a backbone: its last states, and one vector a text.

    Args:
        folder: of the model; with its tokenizer, which made the tokens of the data.
        length: L, the most tokens a text has.
        tokenizer: the data's; it has to be "hf".
        pretrained: whether a new run begins with the weights of the folder, or with random ones of the same net.
        pool: "mean" over the tokens that are no padding, or the "first" one, which is [CLS] of BERT.
        weights: run folder or .safetensors file that a new run begins with instead (see ``weights``); ``None``: none.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no such model, the tokens are not its own, or texts are longer than it takes.
    """

    order: Tensor  # [our tokens] int64: the model's number of each

    def __init__(
        self,
        folder: str | None,
        length: Count,
        tokenizer: str | None,
        pretrained: bool,
        pool: str = "mean",
        weights: str | None = None,
    ) -> None:
        super().__init__()
        if pool not in POOLS:
            raise ValueError(f"pool of a text backbone is {pool}: choose one of {', '.join(POOLS)}")
        if tokenizer != "hf":
            raise ValueError(
                f"a Hugging Face model reads tokens of its own tokenizer, but data.tokenizer is {tokenizer}: set "
                "data.tokenizer=hf and data.tokenizer_folder, on data that have these keys, such as data=text_files"
            )
        order = hub_tokenizer(folder)[1]
        assert folder is not None
        self.net: Any = network(Path(folder).expanduser(), pretrained)
        self.register_buffer("order", torch.tensor(order), persistent=False)
        longest = getattr(self.net.config, "max_position_embeddings", None) or length
        if length > longest:
            raise ValueError(f"data.tokens is {length}, but {folder} takes up to {longest} tokens: lower it")
        self.folder = folder
        self.dim = int(self.net.config.hidden_size)
        self.dense_dims = {"tokens": self.dim}
        self.length = length
        self.pool = POOLS[pool]
        self.weights = weights
        self.name = f"hf_{self.net.config.model_type}"

    def forward(self, x: Tensor) -> Outputs:
        """[B, L] int64 of our tokens -> "tokens" [B, L, D], zero at padding, and "pooled" [B, D].

        Raises:
            ValueError: what comes in is no text.
        """
        if x.ndim != 2 or x.is_floating_point() or int(x.max()) >= len(self.order):
            raise ValueError(
                f"{self.name} takes texts of {len(self.order)} tokens, but the views have {x.dtype} samples of "
                f"{' x '.join(map(str, x.shape[1:]))}: choose another backbone, or texts with data.tokenizer=hf"
            )
        there = x != PADDING  # [B, L]
        states = self.net(input_ids=self.order[x], attention_mask=there.long()).last_hidden_state  # [B, L, D]
        tokens = states * there[..., None]  # [B, L, D]
        return {"tokens": tokens, "pooled": self.pool(tokens, there)}

    def about(self) -> dict[str, str]:
        """The class, and its config."""
        return {"network": f"transformers.{type(self.net).__name__}", "settings": self.net.config.to_json_string()}

    def load_line(self, path: Path) -> str:
        """Builds the network and reads its weights."""
        return (
            "from safetensors.torch import load_file\n"
            "from ssl_framework.models.hub_text import network\n"
            "from pathlib import Path\n"
            f"net = network(Path({self.folder!r}), pretrained=False)\n"
            f"net.load_state_dict(load_file({str(path)!r}))"
        )


def network(folder: Path, pretrained: bool) -> Any:
    """The model of a folder without the pooler that is trained for pairs of sentences, which nothing here reads.

    Args:
        folder: with config.json and, for its weights, safetensors.
        pretrained: whether to read the weights.

    Raises:
        FileNotFoundError: there is no such folder, or it has no weights in safetensors.
        ValueError: transformers cannot build it.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json: name the folder of a Hugging Face model")
    if pretrained and not list(folder.glob("*.safetensors")):
        raise FileNotFoundError(
            f"{folder} has no weights in safetensors, the only form that is read: save the model with "
            "safe_serialization=True, or set pretrained=false"
        )
    package = transformers()
    package.logging.set_verbosity_error()
    package.logging.disable_progress_bar()
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = package.AutoConfig.from_pretrained(str(folder), **local)
        if pretrained:
            net = package.AutoModel.from_pretrained(str(folder), config=config, use_safetensors=True, **local)
        else:
            net = package.AutoModel.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{folder} cannot be read as a model of transformers: {' '.join(str(error).split())}"
        ) from error
    if getattr(net, "pooler", None) is not None:
        net.pooler = None
    return net.float().train()
