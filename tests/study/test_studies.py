"""The studies that are shipped: every declaration reads, composes, names metrics that its runs will have, and shows no
number without a source. Nothing is run."""

import functools
import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from ssl_framework.build import build, build_data, build_module
from ssl_framework.data.base import Graded, Split
from ssl_framework.data.images.shapes import FACTORS
from ssl_framework.data.pairs.captioned_shapes import NAMED, PROMPTS
from ssl_framework.evaluation.base_to_new import BaseToNew, base_to_new
from ssl_framework.evaluation.cross_modal import CrossModal, Pairs
from ssl_framework.evaluation.frozen import FrozenEvaluation
from ssl_framework.evaluation.wordings import Wordings
from ssl_framework.models.encoder import Encoder
from ssl_framework.report.render import as_csv, latex, markdown
from ssl_framework.report.results_csv import read_csv
from ssl_framework.report.sheet import TRUST, Effect
from ssl_framework.runs.config import config_hash
from ssl_framework.runs.groups import CONFIGS
from ssl_framework.runs.overrides import latest_of
from ssl_framework.study.cells import cells_of
from ssl_framework.study.declaration import Line, Study, declared, names_of_studies, read_study
from ssl_framework.study.record import lead_of, sheet_of
from tests.small_runs import GROUPS, put_together, small

STUDIES = names_of_studies()
RECORDS = Path(__file__).resolve().parents[2] / "results" / "studies"


def overrides_of(study: Study, scale: str, row: Line, column: Line) -> tuple[str, ...]:
    return tuple(latest_of([*study.scales[scale].overrides, *row.overrides, *column.overrides]))


def metrics_of(study: Study, row: Line, column: Line) -> tuple[str, ...]:
    names = {"row": row.name, "column": column.name, **row.names, **column.names}
    return tuple(metric.format(**names) for metric in study.metrics.values())


class Place(NamedTuple):
    """A row and a column at the small scale."""

    name: str
    content: dict[str, Any]  # the resolved config
    metrics: tuple[str, ...]  # names that it should find in result.json


@functools.cache
def places(name: str) -> list[Place]:
    """Every place of a study's table."""
    study = read_study(name)
    found = []
    for row, column in itertools.product(study.rows, study.columns):
        content: Any = OmegaConf.to_container(put_together(*overrides_of(study, "small", row, column)), resolve=True)
        found.append(Place(f"{row}, {column}", content, metrics_of(study, row, column)))
    return found


SIZES = {"train": 2560, "test": 200}
"""As many as naive Bayes' largest sample, the measures' draw and few-shot episodes need."""


@functools.cache
def reported(settings: str) -> frozenset[str]:
    """Names of the metrics that an evaluation reports of a student, read from features of noise.

    Args:
        settings: JSON of the config's ``evaluation``, ``data.num_classes`` and ``student``, the last only where the
            evaluation looks at more than the backbone's features.
    """
    node = json.loads(settings)
    evaluation = build(OmegaConf.create(node["evaluation"]))
    assert isinstance(evaluation, FrozenEvaluation)
    student = build(OmegaConf.create(node["student"])) if node["student"] else None
    widths = {"": 8}
    if student is not None:
        assert isinstance(student, Encoder)
        texts = student.backbone.name.startswith("text")
        shown = torch.ones(2, 5).long() if texts else torch.zeros(2, node["student"]["backbone"]["channels"], 32, 32)
        layers = student.eval().embed_layers(shown, evaluation.head_layers)
        widths = {layer: x.shape[1] if evaluation.head_probes else 8 for layer, x in layers.items()}
    generator = torch.Generator().manual_seed(0)

    def features(images: Split) -> dict[str, torch.Tensor]:
        return {layer: torch.randn(len(images.label), width, generator=generator) for layer, width in widths.items()}

    labels = {split: torch.arange(n) % (node["num_classes"] or 2) for split, n in SIZES.items()}
    splits = {split: SimpleNamespace(label=label, rows=None) for split, label in labels.items()}
    wordings, evaluation.wordings = evaluation.wordings, None  # which reads no such splits
    found = set(evaluation.score(features, SimpleNamespace(**splits), student))  # type: ignore[arg-type]
    if wordings is not None:
        found |= {metric for noise in NOISE_OF_TEXTS for metric in wordings.score(noise)}
    if evaluation.cross is not None:
        found |= across(evaluation.cross, node["num_classes"])
    if evaluation.after is not None:
        plain = "simclr" if evaluation.cross is None else "cloc"  # which has towers, boxes and their texts
        cfg = small({"fusion": "hicmae"}.get(evaluation.after.name, plain))
        if wordings is not None:
            cfg = small("pairing_net", "data.source.num_test=500")  # which has pairs whose points lie on each other
        found |= evaluation.after.score_module(build_module(cfg, True), build_data(cfg)).keys()
    return frozenset(found)


NOISE_OF_TEXTS = [
    Wordings(
        torch.randn(500, 2, 8, generator=torch.Generator().manual_seed(0)),
        torch.arange(500),
        Graded(torch.arange(4 * count).view(-1, 2, 2) % 2, torch.arange(float(count))),
        kind=torch.arange(500) % 4,
        kinds=("code", "concurrency", "network", "other"),  # of data=docstring_domains
    )
    for count in (1843, 500)  # pairs of data=caption_texts and caption_tasks
]


def across(cross: CrossModal | BaseToNew, num_classes: int) -> set[str]:
    """What is reported of two towers, of embeddings of noise, or of scores of noise; the factors are those of captioned
    shapes."""
    if isinstance(cross, BaseToNew):
        return set(base_to_new(torch.randn(500, num_classes), torch.arange(500) % num_classes, cross.known))
    prompts = {factor: torch.randn(len(FACTORS[factor]), 2 * len(PROMPTS[factor]), 8) for factor in NAMED}
    label = {factor: torch.arange(500) % len(x) for factor, x in prompts.items()}
    further = {name: torch.randn(500, 8) for name in cross.further}
    pairs = Pairs(*torch.randn(2, 500, 8), ("image", "text"), torch.arange(500), prompts, label, further=further)
    return {name for probe in cross.probes.values() for name in probe(pairs)}


def settings_of(content: dict[str, Any]) -> str:
    evaluation = content["evaluation"]
    looks_further = evaluation.get("head_layers") or evaluation.get("head_probes")
    return json.dumps(
        {
            "evaluation": evaluation,
            "num_classes": content["data"]["num_classes"],
            "student": content["student"] if looks_further else None,
        }
    )


@pytest.mark.parametrize(("name", "row"), [("amcl/heads", 1), ("mixup/early_stopped", 1)])
def test_what_is_put_together_is_what_the_study_composes(name: str, row: int) -> None:
    """A key that is taken away and lists of views; a data set in the place of the scale's."""
    study = read_study(name)
    study = study._replace(rows=study.rows[row : row + 1])
    cells = cells_of(study, "small", seeds=(5,))
    ours = [put_together(*overrides_of(study, "small", study.rows[0], column)) for column in study.columns]
    assert [cell.run.folder.path.name for cell in cells] == [f"{config_hash(cfg)}-seed5" for cfg in ours]
    assert len({cell.run.folder for cell in cells}) == len(study.columns) == 2
    heads = {"amcl/heads": ["projector_0"], "mixup/early_stopped": ["classifier"]}[name]
    assert [list(cfg.student.heads) for cfg in ours] == [heads, heads]


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_says_what_it_is(name: str) -> None:
    study, text = read_study(name), (CONFIGS / "study" / f"{name}.yaml").read_text()
    assert text.startswith(f"# Command: python scripts/study.py study={name} scale=small\n")
    assert re.search(r"\(arXiv:\d{4}\.\d{5}\)$", study.paper)
    assert "?" in study.question and len(study.seeds) == 3 and len(study.columns) > 1
    assert {"paper", "small"} <= set(study.scales) <= {"paper", "small", "long"}
    assert all(len(scale.note) > 80 for scale in study.scales.values())
    assert not study.scales["paper"].effects and not study.scales["small"].effects  # some of its records are older
    if "long" in study.scales:
        assert "experiment=study_small" in study.scales["long"].overrides and study.scales["long"].effects
    assert "experiment=study_small" in study.scales["small"].overrides
    assert "experiment=study_paper" in study.scales["paper"].overrides
    assert next(iter(study.metrics)).startswith("top-1")  # the tables mark the best of these
    if study.published is not None:
        assert study.published.trust in TRUST and study.published.values
        assert re.search(r"arXiv:\d{4}\.\d{5}|github\.com/\w+", study.published.source)
        assert all(0 < value < 100 for row in study.published.values.values() for value in row.values())
        kind = "linear" if "linear" in study.published.what else "k-NN"  # they stand beside ours of the first metric
        assert kind in study.published.what and kind in next(iter(study.metrics))


@pytest.mark.parametrize("name", [name for name in STUDIES if "long" in read_study(name).scales])
def test_the_long_scale_differs_from_the_small_one_in_epochs_alone(name: str) -> None:
    study = read_study(name)
    places = [(study.rows[0], study.columns[0]), (study.rows[-1], study.columns[-1])]
    for row, column in places:
        small, long = (put_together(*overrides_of(study, scale, row, column)) for scale in ("small", "long"))
        assert long.trainer.max_epochs == 40 > 5 > small.trainer.max_epochs
        small.trainer.max_epochs = 40
        assert long == small


@pytest.mark.parametrize("name", STUDIES)
def test_no_cell_is_another_one_by_accident(name: str) -> None:
    seen: dict[tuple[str, tuple[str, ...]], str] = {}
    for place in places(name):
        key = json.dumps(place.content, sort_keys=True), place.metrics
        assert (twin := seen.setdefault(key, place.name)) == place.name, f"{place.name} is {twin}"


@pytest.mark.filterwarnings("ignore:alpha-ReQ skipped")  # noise of eight numbers has no more directions
@pytest.mark.parametrize("name", STUDIES)
def test_every_metric_is_one_that_the_evaluation_reports(name: str) -> None:
    for place in places(name):
        known = reported(settings_of(place.content))
        assert known.issuperset(place.metrics), f"{place.name}: {place.metrics} are not all among {sorted(known)}"


@pytest.mark.parametrize("name", STUDIES)
def test_the_papers_scale_composes_and_differs_in_size_alone(name: str) -> None:
    study = read_study(name)
    row, column = study.rows[0], study.columns[0]
    cfg = put_together(*overrides_of(study, "paper", row, column))
    small = OmegaConf.create(places(name)[0].content)
    assert (
        cfg.backbone.get("name", "resnet of texts").startswith(("resnet", "vit_"))  # or a transformer
        and cfg.trainer.max_epochs >= 200 > small.trainer.max_epochs
    )
    assert cfg.objective._target_ == small.objective._target_
    for item in (*row.overrides, *column.overrides):  # what makes a row or a column is the same at either scale
        key = item.partition("=")[0].lstrip("+~")
        if key not in GROUPS:
            assert OmegaConf.select(cfg, key) == OmegaConf.select(small, key), key


GOOD = """
title: a
paper: b
question: c
metrics: {top-1: "knn[k={k}]/top1"}
seeds: [0]
axis: d
rows: {one: [method=simclr], two: [method=dcl]}
columns: {x: {metric: {k: 20}}}
baseline: one
published: {what: e, source: f, trust: paper, values: {one: {x: 1.0}}}
scales: {small: {note: g, overrides: [data=shapes]}}
"""


def changed(**keys: Any) -> dict[str, Any]:
    """A good declaration with some keys changed; None takes one away."""
    node = {**yaml.safe_load(GOOD), **keys}
    return {key: value for key, value in node.items() if value is not None}


def sought(effects: Any) -> dict[str, Any]:
    """Effects at the scale of the good declaration."""
    return {"scales": {"small": {"note": "g", "overrides": [], "effects": effects}}}


def test_a_good_declaration_is_read() -> None:
    study = declared("p/t", changed())
    assert study.rows == (Line("one", ("method=simclr",), {}), Line("two", ("method=dcl",), {}))
    assert study.columns == (Line("x", (), {"k": 20}),)
    assert study.published is not None and study.published.values == {"one": {"x": 1.0}}
    assert declared("p/t", changed(baseline=None, published=None)).published is None
    effect = {"plus": [["two", "x"]], "minus": [["one", "x"]], "by": 1}
    found = declared("p/t", changed(**sought({"c": effect}))).scales["small"].effects
    assert found == (Effect("c", (("two", "x"),), (("one", "x"),), 1.0, "top-1"),)
    deleting = declared("p/t", changed(rows={"one": ["~student.heads.projector", "+a.b=1", "views.groups.0.count=2"]}))
    assert deleting.rows[0].overrides[0] == "~student.heads.projector"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"colums": {}}, r"it has \['colums'\], which is none of axis, baseline, columns,"),
        ({"title": None}, "title is missing"),
        ({"scales": None}, "scales is missing"),
        ({"rows": {}}, "rows is {}: give one or more names"),
        ({"columns": ["x"]}, r"columns is \['x'\]: give one or more names"),
        ({"rows": {"one": "method=simclr"}}, r"rows.one is method=simclr: give a list of overrides"),
        ({"rows": {"one": ["method"]}}, "rows.one has 'method', which is not of the form key=value or ~key"),
        ({"rows": {"one": [{"method": "simclr"}]}}, "rows.one has {'method': 'simclr'}, which is not of the form"),
        ({"columns": {"x": {"override": []}}}, r"columns.x has \['override'\]: only overrides and metric are known"),
        ({"columns": {"x": []}}, r"metrics has {k} in 'top-1', which neither rows.one.metric nor columns.x.metric"),
        ({"metrics": []}, r"metrics is \[\]: give one or more"),
        ({"baseline": "three"}, "baseline is three, which is none of its rows: one, two"),
        ({"seeds": []}, r"seeds is \[\]: give one or more whole numbers"),
        ({"seeds": 3}, "seeds is 3: give one or more whole numbers"),
        ({"seeds": [0, "1"]}, r"seeds is \[0, '1'\]: give one or more whole numbers"),
        ({"scales": {"small": {"overrides": []}}}, "scales.small is .*: give it overrides and a note"),
        ({"scales": {"small": {"note": "g", "overrides": ["data shapes"]}}}, "scales.small has 'data shapes', which"),
        (sought("more"), "scales.small.effects is more: give claims, each with plus, minus and by"),
        (
            sought({"c": {"plus": [["one", "x"]], "by": 1}}),
            "scales.small.effects.'c' is .*: give it plus,",
        ),
        (
            sought({"c": {"plus": [["one", "y"]], "minus": [["two", "x"]], "by": 1}}),
            r"scales.small.effects.'c'.plus has \[one, y\], but the rows are one, two and the columns x",
        ),
        (
            sought({"c": {"plus": [["one", "x"]], "minus": ["two"], "by": 1}}),
            r"scales.small.effects.'c'.minus is \['two'\]: give a list of places, each as \[row, column\]",
        ),
        (
            sought({"c": {"plus": [["one", "x"]], "minus": [["two", "x"]], "by": -1}}),
            "scales.small.effects.'c'.by is -1: give the least difference that counts, a number of at least 0",
        ),
        (
            sought({"c": {"plus": [["one", "x"]], "minus": [["two", "x"]], "by": 1, "metric": "top-2"}}),
            "scales.small.effects.'c'.metric is top-2, which is none of top-1",
        ),
        ({"published": {"what": "e", "trust": "paper", "values": {"one": {"x": 1}}}}, "published.source is missing"),
        (
            {"published": {"what": "e", "source": "f", "trust": "hearsay", "values": {"one": {"x": 1}}}},
            "published.trust is hearsay: choose one of paper, readme, re-implementation, memory",
        ),
        (
            {"published": {"what": "e", "source": "f", "trust": "paper", "values": {"three": {"x": 1}}}},
            "published.values has the row three, but the rows are one, two",
        ),
        (
            {"published": {"what": "e", "source": "f", "trust": "paper", "values": {"one": {"y": 1}}}},
            "published.values.one has the column y, but the columns are x",
        ),
    ],
)
def test_a_wrong_declaration_is_refused_in_one_sentence(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        declared("p/t", changed(**keys))
    assert "\n" not in str(caught.value)
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "t.yaml").write_text(yaml.safe_dump(changed(**keys)))
    with pytest.raises(ValueError, match=f"^study=p/t: {message}"):
        read_study("p/t", tmp_path)


def test_a_study_that_is_not_there_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"there is no study=dcl/batchsize \(did you mean dcl/batch_size\?\)"):
        read_study("dcl/batchsize")


@pytest.mark.parametrize("folder", sorted(path.parent for path in RECORDS.rglob("results.csv")), ids=lambda f: f.name)
def test_the_tables_of_a_record_are_those_of_its_results(folder: Path) -> None:
    study, about = read_study(str(folder.relative_to(RECORDS))), json.loads((folder / "about.json").read_text())
    entries = read_csv((folder / "results.csv").read_text())
    sheet = sheet_of(study, entries, about["scale"], about["target"])
    assert {entry.state for entry in entries} == {"done"} and sheet.seeds == study.seeds
    lead = lead_of(study, about["scale"])
    assert (folder / "table.md").read_text() == "\n\n".join([f"# {study.title}", *lead, markdown(sheet)])
    assert (folder / "table.csv").read_text() == as_csv(sheet) and (folder / "table.tex").read_text() == latex(sheet)
