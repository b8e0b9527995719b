"""Head, teacher and objective are chosen apart: what fits trains, and what does not is refused in one sentence."""

import contextlib
import hashlib
import inspect
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssl_framework.build import build_data, build_module, check_labels
from ssl_framework.commands import train
from ssl_framework.data.loader import take
from ssl_framework.loading import load_run, load_run_config
from ssl_framework.runs.added_keys import left_out, without_added
from ssl_framework.runs.composition import PARTS, called, choice_of, own_parts, refuse_mixed_parts
from ssl_framework.runs.config import config_hash, refuse_other_config
from ssl_framework.runs.folder import RunFolder, read_json
from ssl_framework.runs.groups import CONFIGS
from ssl_framework.types import Clock
from tests.objectives.table import DIM, OBJECTIVES
from tests.small_runs import METHODS, SMALL, SMALL_OF, composed, config, run_in, small
from tests.test_methods import begun
from tools.pages.compositions import REFUSED, compositions_page, refused, verdicts
from tools.pages.methods import chosen_by

ROOT = Path(__file__).parent.parent

DIGESTS = {
    "amcl_moco": "2d11c828fd51",
    "byol": "b2c6a30a5ed9",
    "cacr_mocov3": "5f9c16cc5a76",
    "core_tuning": "26de367a6b3c",
    "dacl": "9ce7c078ab0b",
    "mochi": "0dd5cd4613cd",
    "reweight_head": "fbc66ae1a550",
    "sepclr": "7103b0cf1e4f",
    "simlap": "66550ff09dd6",
    "symmetric_relu_head": "af2cf2eb1da2",
}
"""Method -> digest of its resolved student, teacher, objective and views of each, as they were in one file."""


def content(group: str, name: str) -> Any:
    """A group's file."""
    return yaml.safe_load((CONFIGS / group / f"{name}.yaml").read_text())


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


# The files


@pytest.mark.parametrize("method", METHODS)
def test_a_method_names_every_part_and_sets_nothing_inside_one(method: str) -> None:
    """A key that a method sets inside a part would stay there when another part is chosen."""
    file = content("method", method)
    chosen = chosen_by(file).keys()
    assert {"views", "optimizer"} <= chosen
    held = {"objective": "objective" in file, "teacher": "teacher" in file, "head": "heads" in file.get("student", {})}
    for group in PARTS:
        assert held[group] != (group in chosen), f"{group}: chosen or written whole, not both"
    if not held["objective"]:
        assert not {"student_views", "teacher_views"} & file.keys()


def used(group: str) -> set[str | None]:
    """The choices that methods make of a group."""
    return {chosen_by(content("method", method)).get(group) for method in METHODS}


@pytest.mark.parametrize("group", PARTS)
def test_every_part_is_some_methods_or_a_cell_of_a_study(group: str) -> None:
    studies = "".join(path.read_text() for path in (CONFIGS / "study").rglob("*.yaml"))
    assert not set(choices(group)) - used(group) - set(re.findall(rf"\b{group}=(\w+)", studies))


@pytest.mark.parametrize("choice", [f"{group}/{name}" for group in PARTS for name in choices(group)])
def test_a_part_lists_every_argument(choice: str) -> None:
    """So that a command line may set it, which struct mode refuses for keys that are not there."""
    for node in classes(content(*choice.split("/"))):
        arguments = inspect.signature(get_class(node["_target_"]).__init__).parameters
        others = {name for name, one in arguments.items() if name != "self" and one.default is not inspect._empty}
        assert others <= node.keys(), node["_target_"]


def classes(node: Any) -> list[dict[str, Any]]:
    """Every mapping with a ``_target_`` below a node."""
    if isinstance(node, dict):
        return [*([node] if "_target_" in node else []), *(one for value in node.values() for one in classes(value))]
    return [one for value in node for one in classes(value)] if isinstance(node, list) else []


@pytest.mark.parametrize("method", DIGESTS)
def test_a_composition_is_what_the_method_was_when_it_stood_in_one_file(method: str) -> None:
    now: Any = OmegaConf.to_container(config(f"method={method}"), resolve=True)
    if (projector := now["student"]["heads"].get("projector", {})).get("last_norm") == "scale":
        projector["last_norm"] = False  # SimCLR's head had none then
    cfg = without_added(now)
    was = {key: cfg[key] for key in ("student", "teacher", "objective", "student_views", "teacher_views")}
    was["student"].pop("backbone")
    assert hashlib.sha256(json.dumps(was, sort_keys=True).encode()).hexdigest()[:12] == DIGESTS[method]


@pytest.mark.parametrize("method", ["simclr", "mocov2", "unmix_byol", "metrix_proxy_anchor"])
@pytest.mark.parametrize("objective", ["dcl", "byol", "mocov2", "amcl"])
def test_another_objective_replaces_the_methods_whole(method: str, objective: str) -> None:
    """Nothing of the method's own objective stays in the node."""
    cfg, own = composed(f"method={method}", f"objective={objective}"), composed(f"method={objective}")
    assert OmegaConf.to_container(cfg.objective) == OmegaConf.to_container(own.objective)
    for key in ("student_views", "teacher_views"):
        assert cfg[key] == own[key]


def test_another_head_replaces_the_methods_whole() -> None:
    cfg = composed("method=byol", "head=simclr")
    assert list(cfg.student.heads) == ["projector"] and cfg.student.heads == composed("method=simclr").student.heads
    assert composed("method=byol", "teacher=none").teacher is None


def test_arguments_that_methods_leave_alone_can_be_set() -> None:
    cfg = config("method=simclr", "student.heads.projector.last_norm=true", "objective.head=pooled")
    assert cfg.student.heads.projector.last_norm and cfg.objective.head == "pooled"


# What fits


def test_the_page_of_compositions_is_up_to_date() -> None:
    """To mend it: python -m tools.pages.readme"""
    assert (ROOT / "docs" / "compositions.md").read_text() == compositions_page(ROOT)


def test_every_cross_builds_or_is_refused_in_one_sentence_that_names_a_group() -> None:
    verdict = verdicts(ROOT)
    assert verdict.head.keys() == used("objective") and len(verdict.head["simclr"]) == len(choices("head"))
    for group in (verdict.head, verdict.teacher):
        for objective, refusals in group.items():
            assert "" in refusals.values(), f"{objective} goes with nothing"
            for sentence in filter(None, refusals.values()):
                named = re.search(
                    r"choose .*\b(head|teacher)=|set data\.num_classes to|^student\.heads\.\w+\.out is null", sentence
                )
                assert "\n" not in sentence and named, sentence


@pytest.mark.parametrize("method", METHODS)
def test_a_methods_own_parts_fit(method: str) -> None:
    own = chosen_by(content("method", method))
    if not PARTS.keys() <= own.keys():
        pytest.skip("writes a part itself")
    assert verdicts(ROOT).head[own["objective"]][own["head"]] == ""
    assert verdicts(ROOT).teacher[own["objective"]][own["teacher"]] == ""


@pytest.mark.parametrize(
    ("objective", "group", "choice"),
    [
        ("mocov2", "head", "none"),
        ("dcl", "head", "byol"),
        ("swav", "head", "symmetric_relu"),
        ("amcl_moco", "teacher", "moco"),
        ("byol", "teacher", "moco"),
        ("nnclr", "teacher", "ema"),
        ("sepclr", "head", "sepclr"),
        ("simlap", "head", "linear"),
    ],
)
def test_a_verdict_is_that_of_building_the_run(objective: str, group: str, choice: str) -> None:
    verdict = getattr(verdicts(ROOT), group)[objective][choice]
    overrides = (f"method={verdicts(ROOT).method[objective]}", f"{group}={choice}")
    if not verdict:
        assert build_module(config(*SMALL, *overrides), has_labels=True, num_samples=48)
    else:
        assert refused(" ".join(overrides)) == verdict


def test_crosses_are_refused_with_their_sentences() -> None:
    assert len(REFUSED) >= 10
    assert refused("method=mocov2 objective=simclr") == (
        "SimCLR reads no teacher, but the config has one: choose teacher=none, or an objective that needs one"
    )
    assert refused("method=byol head=simclr") == (
        "BYOL reads predictor of the student, but the head that was chosen has projector: choose head=beclr, bgrl, "
        "byol, cacr_mocov3, imix_byol, mocov3, nnbyol, nnclr, nnsiam, simsiam, smog or another objective"
    )
    assert refused("method=supervised head=core_tuning") == (
        "Supervised reads classifier of the student, but the head that was chosen has projector besides, which nothing "
        "would train: choose head=classifier or another objective"
    )
    assert refused("method=albef head=simclr") == (  # whose objective is as wide as that head, so it is not built yet
        "ALBEF reads token_projector of the student, but the head that was chosen has projector: choose head=tokens or "
        "another objective"
    )
    assert refused("method=amcl_moco head=simclr").startswith(
        "AMCLMoCo reads projector_0 of the student, but the head that was chosen has projector: choose head=amcl"
    )


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_reads_the_outputs_that_it_says(name: str) -> None:
    """Of student and teacher, those and no others."""
    case, seen = OBJECTIVES[name], {"student": set(), "teacher": set()}

    class Noting(dict):
        def __init__(self, outputs: Any, who: str) -> None:
            super().__init__(outputs)
            self.who = who

        def __getitem__(self, key: str) -> Any:
            seen[self.who].add(key)
            return super().__getitem__(key)

    objective, count = case.build(), 6
    views = [torch.randn(count, DIM, generator=torch.Generator().manual_seed(v)) for v in range(case.num_views)]
    outputs = {
        who: [view and Noting(view, who) for view in case.outputs(views, which)]
        for who, which in (("student", case.student), ("teacher", case.teacher))
    }
    batch = case.batch(torch.arange(count), case.labels(torch.arange(count) % 2), views)
    objective(outputs["student"], outputs["teacher"] if case.teacher else None, batch, Clock(1, 0, 3))
    assert seen["student"] == set(objective.reads)
    assert seen["teacher"] == set(objective.teacher_reads)


def test_a_queue_is_as_wide_as_what_it_keeps() -> None:
    """Also where the config tells no width: features, and heads that leave it as it is."""
    for head, width in (("groco", 512), ("none", 192), ("simlap", 256), ("symmetric_relu", 192)):
        module = build_module(config("method=mocov2", f"head={head}", *SMALL, "objective.queue.size=24"), True)
        assert module.objective.queue.rows.shape == (24, width)


def test_a_teacher_has_the_heads_that_its_heads_read() -> None:
    module = build_module(small("mocov2", "head=simlap"), True)
    assert module.teacher is not None and list(module.teacher.encoder.heads) == ["mlp", "projector"]
    outputs = module.teacher([torch.randn(4, 3, 32, 32)], [0], Clock(0, 0, 3))[0]
    assert outputs is not None and outputs["projector"].shape == (4, 256)


# What trains


@pytest.mark.parametrize(
    ("method", "overrides"),
    [
        ("simclr", ("head=barlow_twins", "objective=dcl", "student.heads.projector.hidden=[16]")),
        ("simclr", ("head=mlp3",)),
        ("simclr", ("head=linear",)),
        ("simclr", ("head=none",)),
        ("mocov2", ("head=none", "objective.queue.size=24")),
        ("byol", ("objective=simclr", "head=simclr", "teacher=none")),
        ("mocov2", ("teacher=ema", "objective.queue.size=24")),
        ("simclr", ("objective=mocov2", "teacher=moco", "objective.queue.size=24")),
        ("mocov3", ("objective=byol", "head=imix_byol", "teacher=moco")),
        ("supcon", ("objective=barlow_twins",)),
        ("unmix_simclr", ("objective=unmix", "teacher=moco", "objective.host.queue.size=24")),
    ],
)
def test_a_composition_trains_every_parameter(method: str, overrides: tuple[str, ...]) -> None:
    run = begun(method, *overrides)
    before = {name: p.detach().clone() for name, p in run.module.named_parameters()}
    losses = [run.step(number) for number in range(3)]
    assert len(set(losses)) == 3 and all(torch.isfinite(torch.tensor(losses)))
    assert all(not torch.equal(p, before[name]) for name, p in run.module.named_parameters())


WITH_ALL_PARTS = [method for method in METHODS if PARTS.keys() <= chosen_by(content("method", method)).keys()]
CROSSES = [tuple(random.Random(number).sample(WITH_ALL_PARTS, 2)) for number in range(40)]


@pytest.mark.parametrize(("method", "other"), CROSSES)
def test_any_methods_objective_head_and_teacher_train_within_another_or_are_refused_before_a_run(
    method: str, other: str
) -> None:
    own = chosen_by(content("method", other))
    sizes = [item for item in SMALL_OF.get(other, ()) if item.startswith("objective.")]
    overrides = [f"method={method}", *SMALL, *(f"{group}={own[group]}" for group in PARTS), *sizes]
    try:
        cfg = config(*overrides)
        data = build_data(cfg).pretrain
        module = build_module(cfg, data.labelled, data.shape[0])
        check_labels(module.objective, data.label)
    except (ValueError, OmegaConfBaseException) as error:
        assert isinstance(error, OmegaConfBaseException) or re.search(r"(choose|set) \w", str(error)), error
        return
    module.losses(take(data, torch.arange(8)), Clock(0, 0, 3))["loss"].backward()
    assert not [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]


# What it is called


@pytest.fixture
def hydra_is_there() -> Any:
    own_parts.cache_clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


@pytest.mark.usefixtures("hydra_is_there")
def test_a_composition_is_never_called_as_the_method_alone() -> None:
    own = {"method": "simclr", **own_parts("simclr")}
    assert own == {"method": "simclr", "objective": "simclr", "head": "simclr", "teacher": "none"}
    assert called(own) == "simclr"
    assert called({**own, "head": "barlow_twins", "objective": "dcl"}) == "simclr + objective=dcl head=barlow_twins"
    assert called({**own, "method": "mocov2"}) == "mocov2 + objective=simclr head=simclr teacher=none"


@pytest.mark.usefixtures("hydra_is_there")
def test_older_runs_name_their_method_only() -> None:
    about = {"method": "byol", "data": "shapes"}
    assert [choice_of(about, group) for group in ("method", "data", "head")] == ["byol", "shapes", "byol"]
    choices = {"method": "simclr", "objective": "dcl", "head": "simclr", "teacher": "none"}
    about = {"method": "simclr + objective=dcl", "data": "shapes", "choices": choices}
    assert [choice_of(about, group) for group in ("method", "objective")] == ["simclr", "dcl"]


def test_a_part_that_a_method_writes_itself_is_not_mixed_with_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n  - override /head: linear\n"
        "objective: {_target_: ssl_framework.objectives.dcl.DCL, temperature: 0.3, weight_sigma: null}\n"
    )
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", overrides=[f"hydra.searchpath=[file://{tmp_path}]", "method=mine"])
    assert set(cfg.objective) == {"_target_", "temperature", "weight_sigma"}
    assert list(cfg.student.heads) == ["projector"]
    own = {"objective": None, "head": "linear", "teacher": None}
    monkeypatch.setattr("ssl_framework.runs.composition.own_parts", lambda method: own)
    assert called({"method": "mine", **own}) == "mine"
    refuse_mixed_parts({"method": "mine", **own})
    with pytest.raises(ValueError) as error:
        refuse_mixed_parts({"method": "mine", **own, "objective": "byol"})
    assert str(error.value) == (
        "the file of method=mine holds the objective itself, with which objective=byol would be mixed: give it a file "
        "in configs/objective that the method chooses, or leave objective=byol out"
    )


def test_the_command_trains_a_composition_under_its_name_and_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def command(*arguments: str) -> list[str]:
        monkeypatch.setattr(train, "failures", [])
        monkeypatch.setattr("sys.argv", ["train.py", *arguments])
        with contextlib.suppress(SystemExit):
            train.main()
        return [line for text in capfd.readouterr() for line in text.splitlines()]

    parts = ("method=simclr", "head=linear", "objective=dcl")
    lines = command(*parts, *SMALL, "trainer=cpu", "trainer.max_epochs=1")
    assert lines[0].startswith("simclr + objective=dcl head=linear on shapes: 48 images")
    assert lines[-1].startswith("outputs/simclr+objective-dcl+head-linear/shapes/")
    folder = tmp_path / lines[-1]
    result = read_json(folder / "result.json")
    assert result["method"] == "simclr + objective=dcl head=linear" and result["steps"] == 6
    assert result["choices"] == {"method": "simclr", "objective": "dcl", "head": "linear", "teacher": "none"}
    assert f"error: resume={lines[-1]} is a run of head=linear: leave head=simclr out, or start a new run" in command(
        f"resume={lines[-1]}", "head=simclr"
    )
    command(f"resume={lines[-1]}", "objective=dcl", "trainer.max_epochs=2")
    again = read_json(folder / "result.json")
    assert again["steps"] == 12 and again["resumed_at"] == 6 and again["method"] == result["method"]


# Hashes and old folders


def test_keys_that_were_added_are_left_out_where_they_change_nothing() -> None:
    head = {"_target_": "ssl_framework.models.heads.MLPHead", "hidden": [8], "norm": True, "last_norm": False}
    assert left_out({"a": [head]}) == {"a": [{k: head[k] for k in ("_target_", "hidden", "norm")}]}
    assert left_out({**head, "last_norm": True}) == {**head, "last_norm": True}
    simclr = {"_target_": "ssl_framework.objectives.simclr.SimCLR", "temperature": 0.2, "head": "pooled"}
    assert left_out(simclr) == simclr and "head" not in left_out({**simclr, "head": "projector"})
    assert config_hash(config("objective.head=pooled")) != config_hash(config())
    assert config_hash(config("student.heads.projector.last_norm=true")) != config_hash(config())


def test_a_run_folder_from_before_the_groups_loads_and_is_the_same_run(tmp_path: Path) -> None:
    cfg = small("mocov2", "trainer.max_epochs=1")
    run_in(tmp_path, cfg)
    result = read_json(tmp_path / "result.json")
    before: Any = without_added(OmegaConf.to_container(cfg, resolve=True))
    assert "last_norm" not in before["student"]["heads"]["projector"] and "head" not in before["objective"]
    assert before["student"]["heads"]["projector"]["_partial_"] and before["teacher"]["_partial_"]
    OmegaConf.save(before, tmp_path / "config.yaml")
    assert config_hash(load_run_config(tmp_path)) == result["config_hash"]
    refuse_other_config(cfg, RunFolder(tmp_path))
    _, module = load_run(tmp_path, [])
    assert module.objective.queue.rows.shape == (24, 128)
    before["trainer"]["max_epochs"] = 2
    OmegaConf.save(before, tmp_path / "config.yaml")
    run_in(tmp_path, load_run_config(tmp_path), resume=True)
    assert read_json(tmp_path / "result.json")["steps"] == 12
