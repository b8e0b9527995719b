"""Captions said word by word: the likeliest word by a loop, and what counts as named rightly."""

import pytest
import torch

from ssl_framework.build import build, build_data, build_module
from ssl_framework.data.pairs.captioned_shapes import BACKGROUND, NAMED, TEMPLATES
from ssl_framework.data.pairs.counted_shapes import CLASSES
from ssl_framework.evaluation.after_training.captioning import greedy, named_by, only
from ssl_framework.evaluation.features import Splits, in_eval_mode
from ssl_framework.evaluation.frozen import FrozenEvaluation
from tests.small_runs import small


def made(method: str, *overrides: str):  # type: ignore[no-untyped-def]
    cfg = small(method, "evaluation=captioning", "evaluation.after.num_samples=6", *overrides)
    torch.manual_seed(0)
    data = build_data(cfg)
    return build(cfg.evaluation), Splits(data.train, data.test), build_module(cfg, True, 48)


def test_a_class_is_named_by_a_word_of_every_slot_and_rightly_if_no_other_is() -> None:
    names = torch.tensor([[[5, 6], [9, -1]], [[7, -1], [9, 10]], [[8, -1], [-1, -1]]])
    ids = torch.tensor([[1, 6, 9, 2], [1, 5, 2, 0], [1, 7, 5, 9], [1, 8, 2, 0], [1, 9, 10, 2]])
    named = named_by(ids, names)
    assert named.tolist() == [
        [True, False, False],
        [False, False, False],
        [True, True, False],
        [False, False, True],
        [False, False, False],
    ]
    assert only(named, torch.tensor([0, 0, 0, 2, 1])).tolist() == [True, False, False, True, False]


def test_the_likeliest_word_follows_the_likeliest_until_the_end() -> None:
    """Word w is followed by w + 1; the end, which is token 2, comes behind token 8; padding behind it."""
    seen = []

    def scores(ids: torch.Tensor) -> torch.Tensor:
        seen.append(ids.shape[1])
        follow = torch.where(ids[:, -1] == 8, 2, ids[:, -1] + 1)
        found = torch.nn.functional.one_hot(follow, 20).float()
        found[:, [0, 1, 3, 4]] = 5.0  # what no caption may say
        return found

    found = greedy(scores, torch.tensor([5, 7, 10]), 6).tolist()
    assert found == [[5, 6, 7, 8, 2, 0], [7, 8, 2, 0, 0, 0], [10, 11, 12, 13, 14, 15]]
    assert seen[:5] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("method", "data"), [("coca", "captioned_shapes"), ("vladva", "scenes"), ("cosmo", "counted_shapes")]
)
def test_captions_of_a_run_equal_the_loop(method: str, data: str) -> None:
    evaluation, splits, module = made(method, f"data={data}")
    assert isinstance(evaluation, FrozenEvaluation)
    found, split = evaluation.after.score_module(module, splits), splits.test
    length, objective = split.beside["text"].shape[-1], module.objective
    image, text = module.student.tower("image"), module.student.tower("text")
    right = {factor: 0 for factor in split.named}
    every = exact = 0
    with torch.no_grad(), in_eval_mode(module):
        for n in range(6):
            picture = image.encode(module.views.clean(split.rows[n : n + 1]))["token_projector"]
            ids = [1]
            while len(ids) < length and ids[-1] != 2:
                words = text.encode(torch.tensor([ids]))["token_projector"]
                there = torch.ones(1, len(ids), dtype=torch.bool)
                logits = objective.decoder.logits(words, there, objective.pool(picture))[0, -1].tolist()
                ids.append(max((w for w in range(len(logits)) if w not in (0, 1, 3, 4)), key=lambda w: logits[w]))
            every_one = True
            for factor, names in split.named.items():
                holds = [all(any(w in ids for w in slot if w >= 0) for slot in each) for each in names.tolist()]
                good = holds.count(True) == 1 and holds[int(split.numbers[factor][n])]
                right[factor] += good
                every_one &= good
            every += every_one
            exact += [*ids, *[0] * (length - len(ids))] in split.beside["text"][n].tolist()
    for factor, count in right.items():
        assert found[f"captioning[{factor},classes={len(split.named[factor])},n=6]/named"].right == count
    assert found["captioning[n=6]/all_factors"].right == every and found["captioning[n=6]/exact"].right == exact
    chance = evaluation.after.chance(module, splits)
    product = 100.0
    for names in split.named.values():
        product /= len(names)
    assert chance["captioning[n=6]/all_factors"] == pytest.approx(product)
    assert set(found) - set(chance) == {"captioning[n=6]/exact"}


def test_the_captions_of_the_data_name_every_factor_rightly() -> None:
    for method, data in (("coca", "captioned_shapes"), ("coca", "counted_shapes")):
        _, splits, _ = made(method, f"data={data}")
        split = splits.test
        for wording in split.beside["text"][:, : 1 if data == "counted_shapes" else None].unbind(1):
            for factor, names in split.named.items():
                assert only(named_by(wording.long(), names), split.numbers[factor]).all(), (data, factor)


def test_no_word_names_two_things_and_fixed_words_name_nothing() -> None:
    synonyms = [word for slots in NAMED.values() for slot in slots for words in slot.values() for word in words]
    assert len(set(synonyms)) == len(synonyms) and set(BACKGROUND["plain"]) <= set(synonyms)
    assert not {word for template in TEMPLATES for word in template.split()} & set(synonyms)
    counted = [name for names in CLASSES.values() for name in names]
    assert len(set(counted)) == len(counted)


def test_what_says_no_captions_is_refused_before_training() -> None:
    evaluation, splits, _ = made("coca")
    clip = build_module(small("clip"), True, 48)
    with pytest.raises(
        ValueError, match="has captions said, which CLIP does not: choose method=coca, cosmo, urbanclip"
    ):
        evaluation.after.check(clip)
    with pytest.raises(ValueError, match="evaluation=captioning has to know what words name in a picture"):
        evaluation.after.check_split(splits.test._replace(named=None))
