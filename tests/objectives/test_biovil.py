from pathlib import Path

import pytest
import torch

from ssl_framework.build import build_module
from ssl_framework.models.weights import read_weights
from ssl_framework.objectives.biovil import BioViL, hidden_words, phrase_contrast
from ssl_framework.training.parts import begin_with_weights
from ssl_framework.types import Batch
from tests.golden import golden, mix_rows
from tests.objectives import loops
from tests.small_runs import config, run_in, small
from tests.test_wiring import refused


def test_golden_and_its_parts() -> None:
    torch.manual_seed(0)
    objective = BioViL(0.1, 100, 0.5, 4, 9).double()
    tokens = torch.randn(6, 3, 4).double()
    outputs = [{"projector": mix_rows(v), "places": tokens} for v in range(3)]
    words = torch.tensor([[1, 5, 2]] * 6)
    shown = words.clone()
    shown[:2, 1] = 4
    out = objective(outputs, None, Batch([tokens, words, shown], torch.arange(6)), loops.CLOCK)
    clip = golden("clip: loss of raw0, raw1 (normalised inside)")
    logs = objective.words(tokens[:2, 1]).log_softmax(dim=1)[:, 5]
    assert out["loss"].item() == pytest.approx(clip - 0.5 * logs.mean().item(), abs=1e-5)


def test_hidden_words_equal_the_loop_and_none_hidden_is_zero() -> None:
    logits, words = torch.randn(2, 3, 5).double(), torch.tensor([[1, 2, 3], [4, 3, 0]])
    shown = torch.tensor([[1, 4, 3], [1, 3, 0]])
    each = [loops.log_sum_exp(logits[i, j].tolist()) - float(logits[i, j, words[i, j]]) for i, j in ((0, 1), (1, 0))]
    assert hidden_words(logits, words, shown).item() == pytest.approx(sum(each) / 2)
    assert hidden_words(logits, words, words).item() == 0


def test_contrast_of_a_phrase_is_that_of_the_two_parts_of_its_map() -> None:
    similarity, inside = torch.tensor([[0.9, 0.7, 0.1, 0.3]]), torch.tensor([[True, True, False, False]])
    assert phrase_contrast(similarity, inside).item() == pytest.approx(0.6 / (0.01 + 0.01) ** 0.5)


def test_it_wants_a_text_with_hidden_words() -> None:
    assert refused("method=biovil", "views=image_text").startswith("BioViL takes 3 views of a sample")


def test_the_words_are_as_wide_as_the_text_tower() -> None:
    module = build_module(config("method=biovil", "text_backbone.width=48"), has_labels=True)
    assert module.objective.words.in_features == 48
    assert "BioViL reads text.places of the student" in refused("method=simclr", "objective=biovil")


def test_the_first_stage_is_of_texts_alone_and_the_second_begins_with_its_tower(tmp_path: Path) -> None:
    run_in(tmp_path, small("biovil_text", "trainer.max_steps=2"))
    other = build_module(small("biovil", f"text_backbone.weights={tmp_path}"), True, 48)
    begin_with_weights(other)
    begun = other.student.tower("text").backbone.net.state_dict()
    trained = read_weights(tmp_path)
    assert begun.keys() == trained.keys() and all(torch.equal(begun[name], trained[name]) for name in begun)
    assert refused("method=biovil_text", "views=text").startswith("BioViL takes 3 views of a sample")
