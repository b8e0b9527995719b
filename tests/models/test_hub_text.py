"""Models of transformers from a folder: their tokens are the tokenizer's, padding changes nothing, a run keeps both."""

import json
from pathlib import Path

import pytest
import torch

from ssl_framework.build import build_data, build_module
from ssl_framework.data.loader import take
from ssl_framework.data.pairs.words import CaptionVocabulary
from ssl_framework.data.texts.worded import Said
from ssl_framework.models.hub_text import HubText, hub_tokenizer
from ssl_framework.types import Clock
from ssl_framework.views.text import BEGIN, END, PADDING, SPECIAL, UNKNOWN
from tests.small_runs import SMALL, config, run_in

WORDS = ("red", "blue", "square", "##s", "circle", "a")
NAMES = ("[UNK]", "[CLS]", *WORDS, "[SEP]", "[PAD]", "[MASK]")  # not in our order


def folder(place: Path, **changed: object) -> Path:
    """A tokenizer as transformers saves it."""
    place.mkdir(exist_ok=True)
    model = {
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 9,
        "vocab": {name: number for number, name in enumerate(NAMES)},
    }  # fmt: skip
    added = [
        {"id": NAMES.index(name), "content": name, "special": True, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False}
        for name in NAMES if name.startswith("[")
    ]  # fmt: skip
    whole = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "model": model,
        "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": False},
    }  # fmt: skip
    said = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "mask_token": {"content": "[MASK]"}}
    (place / "tokenizer.json").write_text(json.dumps(whole))
    (place / "tokenizer_config.json").write_text(json.dumps({**said, "pad_token": "[PAD]", **changed}))
    return place


class Colours:
    def splits(self) -> dict[str, list[Said]]:
        return {"train": [Said(("red",))], "test": []}


def test_our_tokens_that_are_no_words_stand_for_those_of_the_tokenizer(tmp_path: Path) -> None:
    _, order = hub_tokenizer(str(folder(tmp_path)))
    assert [NAMES[number] for number in order] == ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *WORDS]


def test_a_tokenizer_without_padding_takes_its_end_for_it(tmp_path: Path) -> None:
    said = {"pad_token": None, "cls_token": None, "mask_token": None, "sep_token": None, "eos_token": "[SEP]"}
    _, order = hub_tokenizer(str(folder(tmp_path, **said)))
    assert [NAMES[number] for number in order[:5]] == ["[SEP]", "[SEP]", "[SEP]", "[UNK]", "[UNK]"]
    assert len(order) == 5 + len(NAMES) - 2


def test_what_is_no_model_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"data\.tokenizer_folder is null, but data\.tokenizer=hf and backbone=hf_text"
    ):
        hub_tokenizer(None)
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.json: save the model's fast tokenizer there"):
        hub_tokenizer(str(tmp_path))
    none = {name: None for name in ("pad_token", "eos_token")}
    with pytest.raises(ValueError, match=r"says no pad_token: name one in its tokenizer_config\.json"):
        hub_tokenizer(str(folder(tmp_path, **none)))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer\.json is no JSON: save the tokenizer again"):
        hub_tokenizer(str(tmp_path))
    with pytest.raises(ValueError, match=r"reads tokens of its own tokenizer, but data\.tokenizer is words: set"):
        HubText(str(tmp_path), 8, "words", False)
    with pytest.raises(ValueError, match=r"pool of a text backbone is middle: choose one of mean, first, last"):
        HubText(str(tmp_path), 8, "hf", False, pool="middle")
    with pytest.raises(FileNotFoundError, match=r"has no config\.json: name the folder of a Hugging Face model"):
        HubText(str(folder(tmp_path)), 8, "hf", False)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"has no weights in safetensors, the only form that is read"):
        HubText(str(tmp_path), 8, "hf", True)


def test_texts_are_tokens_of_the_tokenizer_and_a_run_keeps_it(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    words = CaptionVocabulary(Colours(), 50, "hf", None, str(folder(tmp_path / "model")))
    assert words.names == [*SPECIAL, *WORDS] and len(words) == 11
    rows = words.encode(["Red squares a zebra", "a circle"], 7)
    red, square, s, a, circle = (words.number[name] for name in ("red", "square", "##s", "a", "circle"))
    assert rows.tolist() == [[BEGIN, red, square, s, a, UNKNOWN, END], [BEGIN, a, circle, END, *[PADDING] * 3]]
    assert words.decode(rows[0]) == "red squares a"
    file = tmp_path / "vocabulary.json"
    file.write_text(json.dumps(words.content))
    again = CaptionVocabulary(Colours(), 50, "hf", str(file), None)
    assert torch.equal(again.encode(["Red squares a zebra", "a circle"], 7), rows)
    with pytest.raises(ValueError, match=r"has 11 tokens of the kind hf: set data\.tokenizer=hf"):
        len(CaptionVocabulary(Colours(), 50, "words", str(file)))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny BERT with random weights and its tokenizer, saved to a folder."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    bert = {**sizes, "max_position_embeddings": 12, "vocab_size": len(NAMES), "pad_token_id": NAMES.index("[PAD]")}
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(**bert)).save_pretrained(tmp_path / "model")
    return folder(tmp_path / "model")


def test_a_model_of_a_folder_gives_what_transformers_makes_of_its_own_tokens(model: Path) -> None:
    import transformers

    backbone = HubText(str(model), 8, "hf", True, "first").eval()
    assert backbone.dim == 16 and backbone.name == "hf_bert" and backbone.dense_dims == {"tokens": 16}
    words = CaptionVocabulary(Colours(), 50, "hf", None, str(model))
    x = words.encode(["Red squares", "a circle a blue"], 8).long()
    out = backbone(x)
    texts = (("[CLS]", "red", "square", "##s", "[SEP]", "[PAD]"), ("[CLS]", "a", "circle", "a", "blue", "[SEP]"))
    ids = torch.tensor([[NAMES.index(token) for token in text] for text in texts])
    mask = (ids != NAMES.index("[PAD]")).long()
    theirs = transformers.AutoModel.from_pretrained(model).eval()
    expected = theirs(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]
    torch.testing.assert_close(out["tokens"][:, : ids.shape[1]], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out["pooled"], expected[:, 0], rtol=1e-5, atol=1e-6)
    longer = backbone(torch.nn.functional.pad(x, (0, 2)))
    torch.testing.assert_close(longer["pooled"], out["pooled"], rtol=1e-5, atol=1e-6)
    mean = HubText(str(model), 8, "hf", True).eval()(x)["pooled"]
    torch.testing.assert_close(mean[0], expected[0].sum(dim=0) / mask[0].sum(), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"data\.tokens is 20, but .* takes up to 12 tokens: lower it"):
        HubText(str(model), 20, "hf", True)
    with pytest.raises(ValueError, match=r"hf_bert takes texts of 11 tokens, but the views have torch\.float32"):
        backbone(torch.zeros(2, 3))


def test_a_run_with_a_model_of_a_folder_trains_every_parameter_and_ends(model: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    lines = [f"a {colour} {shape} a {other}" for colour in WORDS for shape in WORDS for other in WORDS[:2]]
    (texts / "train.txt").write_text("\n".join(lines[:48]))
    (texts / "test.txt").write_text("\n".join(lines[48:]))
    cfg = config(
        *("method=simclr", "data=text_files", f"data.root={texts}", "backbone=hf_text", "data.tokenizer=hf"),
        *(f"data.tokenizer_folder={model}", "data.vocabulary=11", "data.tokens=8", *SMALL[2:]),
    )
    module = build_module(cfg, False, 48)
    data = build_data(cfg)
    module.losses(take(data.pretrain, torch.arange(8)), Clock(0, 0, 10))["loss"].backward()  # type: ignore[arg-type]
    assert not [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    run_in(tmp_path / "run", cfg, data="text_files")
    kept = json.loads((tmp_path / "run" / "vocabulary.json").read_text())
    assert kept["kind"] == "hf" and len(kept["order"]) == 11
