"""ViLLA's second stage: the piece of a text that a place shows, the loss of such pairs, and a teacher that is the first
stage as it was."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ssl_framework.build import build_data, build_module
from ssl_framework.data.loader import take
from ssl_framework.data.pairs.region_shapes import RegionVocabulary
from ssl_framework.loading import load_run
from ssl_framework.objectives.villa_regions import ViLLARegions, region_texts
from ssl_framework.training.parts import begin_with_weights
from ssl_framework.types import Batch, Clock
from tests.golden import golden, mix_rows
from tests.objectives import loops
from tests.small_runs import run_in, small
from tests.test_wiring import refused

WORDS = RegionVocabulary()
NAME = "cloc: region-text loss, regions 0 and 3 with the same text are no negatives of each other"


def test_golden() -> None:
    """Of pairs, two of which are of equal words: six pictures of one place, each with a text of one word."""
    texts = torch.tensor([[1, word, 2] for word in (5, 6, 7, 5, 8, 9)])
    objective = ViLLARegions(0.07, 100.0, 0.1, 1).double()
    objective.through_heads = lambda x: {"projector": x}
    objective.through_encoder = lambda x, constant, view: {"projector": mix_rows(1)}
    student = [{"places": mix_rows(0)[:, None], "projector": mix_rows(0)}, None]
    batch = Batch([mix_rows(0), texts], torch.arange(6))
    found = objective(student, [{"words": torch.zeros(6, 1, 10)}, None], batch, loops.CLOCK)["loss"]
    assert found.item() == pytest.approx(golden(NAME), abs=1e-5)


def scored(*places: str) -> torch.Tensor:
    """Places that look like these words and like no others: [P, A]."""
    found = -torch.ones(len(places), len(WORDS))
    for place, words in zip(found, places, strict=True):
        place[[WORDS.number[word] for word in words.split()]] = 1.0
    return found


def test_a_place_shows_the_longest_piece_of_the_text_whose_words_are_mapped_to_it() -> None:
    said = ["a red disc and a blue square and a red square", "a yellow diamond and a green ring"]
    scores = torch.stack(
        [
            scored("red disc", "square red", "blue", "green", "a and blue square"),
            scored("yellow green", "ring", "diamond ring green", "", "red"),
        ]
    )
    pieces, there = region_texts(scores, WORDS.encode(said, 14).long(), 0.5)
    assert [[WORDS.decode(piece) for piece in row] for row in pieces] == [
        ["a red disc", "a red square", "a blue", "", "a blue square"],
        ["a yellow", "ring", "a green ring", "", ""],
    ]
    assert there.tolist() == [[True, True, True, False, True], [True, True, True, False, False]]
    assert (pieces[:, :, 0] == 1).all() and pieces[0, 0].tolist()[4:6] == [2, 0]  # each begins, ends, and is padded


def test_what_is_nearly_the_best_place_shows_a_word_too() -> None:
    text = WORDS.encode(["a red disc and a red disc", "a blue square and a blue square"], 14).long()
    scores = torch.zeros(2, 3, len(WORDS))
    scores[0, :, WORDS.number["red"]] = torch.tensor([0.5, 0.42, 0.3])
    scores[0, :, WORDS.number["disc"]] = torch.tensor([0.1, 0.1, 0.9])
    counts = {eps: region_texts(scores, text, eps)[1][0].tolist() for eps in (0.0, 0.1, 1.0)}
    assert counts == {0.0: [True, False, True], 0.1: [True, True, True], 1.0: [True, True, True]}


def case(regions: int) -> tuple[ViLLARegions, list[Any], list[Any], Batch, torch.Tensor]:
    """Three pictures of four places; what they show is known, and some show nothing."""
    objective = ViLLARegions(0.5, 100.0, 0.5, regions).double()
    table = torch.randn(len(WORDS), 5, generator=torch.Generator().manual_seed(1)).double()  # [A, 5]
    objective.through_heads = lambda x: {"projector": 2 * x}
    objective.through_encoder = lambda x, constant, view: {"projector": (table[x] * (x > 4)[..., None]).sum(dim=1)}
    said = ["a red disc and a blue square", "a red disc and a green ring", "a blue square and a blue square"]
    shown = [
        *(("red disc", "", "blue square", "square"), ("disc red", "green ring", "", "")),
        ("square", "blue", "", ""),
    ]
    places = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    scores = torch.stack([scored(*each) for each in shown]).double()
    batch = Batch([places, WORDS.encode(said, 10).long()], torch.arange(3))
    student = [{"places": places, "projector": places[:, 0]}, None]
    return objective, student, [{"words": scores}, None], batch, table


def test_the_loss_equals_the_loop_over_places_that_show_something() -> None:
    objective, student, teacher, batch, table = case(4)
    found = objective(student, teacher, batch, loops.CLOCK)
    pairs = [
        *((0, 0, "red disc"), (0, 2, "blue square"), (0, 3, "square")),
        *((1, 0, "red disc"), (1, 1, "green ring"), (2, 0, "square"), (2, 1, "blue")),
    ]  # the last as "a blue": the article is among the words, too
    a = table[WORDS.number["a"]]
    texts = [a + sum(table[WORDS.number[w]] for w in text.split()) for _, _, text in pairs]
    texts[5] = texts[5] - a  # "square" alone does not stand behind the article in its caption
    texts[2] = texts[2] - a
    z = [[x / x.norm() for x in rows] for rows in ([student[0]["places"][b, p] for b, p, _ in pairs], texts)]
    total = 0.0
    for one, other in (z, z[::-1]):
        for i in range(7):
            others = [j for j in range(7) if j == i or pairs[j][2] != pairs[i][2]]
            scores = {j: loops.dot(one[i], other[j]) / 0.5 for j in others}
            total += (loops.log_sum_exp([*scores.values()]) - scores[i]) / 14
    assert found["loss"].item() == pytest.approx(total, abs=1e-6)
    assert found["mapped"].item() == pytest.approx(7 / 12) and found["words"].item() == pytest.approx(16 / 7)


def test_places_that_show_nothing_are_drawn_last_and_count_nothing() -> None:
    objective, student, teacher, batch, _ = case(3)
    every = objective(student, teacher, batch, loops.CLOCK)["loss"]
    for step in range(1, 4):
        torch.testing.assert_close(objective(student, teacher, batch, Clock(step, 0, 9))["loss"], every)
    objective.regions = 1
    assert len({objective(student, teacher, batch, Clock(step, 0, 9))["loss"].item() for step in range(6)}) > 1
    nothing = [{"words": torch.zeros_like(teacher[0]["words"])}, None]
    same = batch._replace(views=[batch.views[0], batch.views[1][:1].expand(3, -1)])  # all say the same, of nothing
    assert objective(student, nothing, same, loops.CLOCK)["loss"].item() == 0


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the first stage."""
    folder = tmp_path_factory.mktemp("villa")
    assert run_in(folder, small("villa", "data=region_shapes", "trainer.max_steps=1", "trainer.max_epochs=1")) is None
    return folder


def test_the_teacher_is_the_first_stage_with_its_words(first: Path) -> None:
    cfg = small("villa_regions", "data=region_shapes", f"teacher.backbone.weights={first}")
    module = build_module(cfg, True, 48)
    said = begin_with_weights(module)
    assert said[-1] == f"{first}: the vectors of 24 words" and len(said) == 3
    before: Any = load_run(first, [])[1].eval()
    tower, x = before.student.tower("image"), torch.randn(3, 3, 32, 32)
    tower.show(["places"])
    with torch.no_grad():
        places = tower.encode(x)["places"]
        rows = tower.through_heads(places.flatten(0, 1))["projector"].unflatten(0, places.shape[:2])
        (found,) = module.train().teacher([x], None, Clock(0, 0, 1))
    torch.testing.assert_close(found["words"] / 0.1, before.objective.word_scores(rows))
    module.losses(take(build_data(cfg).pretrain, torch.arange(8)), Clock(0, 0, 3))["loss"].backward()
    assert all(p.grad is None for p in module.teacher.parameters())
    assert all(p.grad is not None for p in (*module.student.parameters(), *module.objective.parameters()))


def test_without_a_run_of_the_first_stage_it_is_refused(first: Path, tmp_path: Path) -> None:
    def says(*overrides: str) -> str:
        with pytest.raises(ValueError) as error:
            begin_with_weights(build_module(small("villa_regions", "data=region_shapes", *overrides), True, 48))
        return str(error.value)

    assert "no weights are named for it: set teacher.backbone.weights=<run folder" in says()
    clip = small("clip", "data=region_shapes", "views=image_caption", "trainer.max_steps=1", "trainer.max_epochs=1")
    assert run_in(tmp_path, clip) is None
    assert says(f"teacher.backbone.weights={tmp_path}").endswith(
        "is a run whose objective has no vectors of words: name the folder of a run of the first stage"
    )
    assert "by 128 numbers each, but the run has 30 and 128: choose the data" in says(
        f"teacher.backbone.weights={first}", "data.vocabulary=30"
    )


def test_what_does_not_fit_is_refused() -> None:
    assert "ViLLARegions reads maps, of which micro-batches keep nothing" in refused(
        "method=villa_regions", "data.micro_batch_size=4"
    )
    assert refused("method=villa_regions", "teacher=none").startswith(
        "ViLLARegions needs a teacher, but the config has teacher=none: choose teacher=villa or another objective"
    )
    objective, student, teacher, batch, _ = case(4)
    student[0]["places"] = student[0]["places"][:, :3]
    with pytest.raises(ValueError, match="from 4 places of the teacher's picture, but the student keeps 3: choose"):
        objective(student, teacher, batch, loops.CLOCK)
