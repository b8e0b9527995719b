"""What an evaluation is asked for, in words and overrides, and the record that comes of it."""

import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf

from ssl_framework.build import build_module, build_source, modalities_of
from ssl_framework.device import cpu_name, device_name, use_threads
from ssl_framework.evaluation.features import Bare, Splits
from ssl_framework.evaluation.foreign import Foreign
from ssl_framework.evaluation.public_clip import PublicCLIP
from ssl_framework.evaluation.score_all import Chosen, metrics_of, score_all
from ssl_framework.loading import load_run_and_checkpoint
from ssl_framework.module import SSLModule
from ssl_framework.runs.folder import RunFolder, write_json
from ssl_framework.runs.messages import nearest, typed
from ssl_framework.runs.overrides import composed, merged, names_of, override_each, pair, resolved, stored
from ssl_framework.runs.plugins import as_typed
from ssl_framework.runs.provenance import commit, versions
from ssl_framework.runs.settings import refuse_settings
from ssl_framework.runs.system import refuse_unwritable
from ssl_framework.runs.typed_paths import path_of

WORDS = ("run", "backbone", "model", "pretrained", "data", "evaluation", "trainer", "out")
"""What the command knows beside ``key=value``."""


class Request(NamedTuple):
    """What a command asks for."""

    words: dict[str, str]  # of WORDS
    overrides: list[str]  # key=value
    arguments: list[str]  # as they were typed


class Subject(NamedTuple):
    """A backbone, and how it is made without its weights."""

    cfg: DictConfig  # resolved
    model: SSLModule | Bare
    untrained: Callable[[], SSLModule | Bare] | None  # None: it has no weights from a training
    about: dict[str, Any]
    learnt: dict[str, Any]  # what the run has trained beside the student: name of the callback -> its state


def request_of(arguments: Sequence[str]) -> Request:
    """The words and overrides of a command.

    Raises:
        ValueError: an unknown or repeated word, words that do not go together, or neither run nor backbone.
    """
    words: dict[str, str] = {}
    overrides = []
    for item in arguments:
        key, value = pair(item)
        if key in WORDS:
            if key in words:
                raise ValueError(f"{key}= is there twice: give it once, several names with commas between them")
            words[key] = value
        elif "." not in key and key != "seed":
            raise ValueError(
                f"there is no {key}={nearest(key, WORDS)}: evaluate takes {', '.join(f'{word}=' for word in WORDS)} "
                "and key=value such as evaluation.probes.knn.k=5"
            )
        else:
            overrides.append(item)
    if "run" in words and "backbone" in words:
        raise ValueError("run= and backbone= are two backbones: give one of them")
    if "run" not in words and "backbone" not in words:
        raise ValueError(
            "say which run: python scripts/evaluate.py run=outputs/latest, or which backbone: backbone=timm:resnet18 "
            "data=digits"
        )
    if "run" in words and (odd := [word for word in ("model", "pretrained") if word in words]):
        raise ValueError(f"{odd[0]}= goes with backbone=, and a run knows its own: leave it out")
    if "backbone" in words and "data" not in words:
        raise ValueError(f"say on which data: data=<name>, one or more of {', '.join(stored('data'))}")
    return Request(words, overrides, list(arguments))


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Those of protocols, of data sets, and of the rest."""
    groups: dict[str, list[str]] = {"evaluation": [], "data": [], "": []}
    for item in overrides:
        group = item.partition(".")[0]
        groups[group if group in groups else ""].append(item)
    return groups["evaluation"], groups["data"], groups[""]


def evaluate_request(request: Request) -> dict[str, Any]:
    """Scores what a command asks for.

    Returns:
        The record: "model", "command" and so on, and for each data set and protocol "data", "images", "protocol",
        "metrics", "intervals", "references" ... - in one list "results", or beside the others if there is one only.

    Raises:
        ValueError, FileNotFoundError: what the user asked for cannot be done.
    """
    started, source = time.perf_counter(), commit()
    words = request.words
    for_protocols, for_data, for_base = split_overrides(request.overrides)
    base, make = run_of(request, for_base) if "run" in words else foreign_of(request, for_base)
    if "trainer" in words:
        base = merged(base, composed("trainer", names_of("trainer", words["trainer"])[0]))
        override_each([base], [item for item in for_base if item.startswith("trainer.")], "configs/trainer")
    refuse_settings(base)
    data = data_sets(base, words.get("data"), for_data)
    protocols, taken, asked = protocols_of(base, words.get("evaluation"), for_protocols)
    said = "trainer" in words or any(item.startswith("trainer.devices=") for item in for_base)
    if said and base.trainer.devices != 1:  # a run's own number is what it was trained with
        raise ValueError(
            f"evaluation={','.join(protocols)} runs in one process: leave out what sets trainer.devices to "
            f"{base.trainer.devices}"
        )
    use_threads(base.trainer.num_threads)
    device = torch.device("cuda" if torch.cuda.is_available() and base.trainer.accelerator != "cpu" else "cpu")
    chosen = [Chosen(name, node, own, asked) for (name, node), own in zip(protocols.items(), taken, strict=True)]
    results: list[dict[str, Any]] = []
    left_out: dict[str, dict[str, str]] = {}
    about: dict[str, Any] = {}
    for own in data:
        try:
            subject = make(own)
            about = subject.about
            found, why = score_on(subject, own, chosen, for_data, device, request)
        except (ValueError, FileNotFoundError) as error:
            if len(data) == 1:
                raise
            found, why = [], {",".join(protocols): str(error)}  # the other data sets are scored all the same
        results += found
        left_out[own.data.name] = why
    if not results:
        reasons = dict.fromkeys(f"{name}: {reason}" for why in left_out.values() for name, reason in why.items())
        instead = (
            "" if "evaluation" in words else f": say by which protocol, evaluation={', '.join(stored('evaluation'))}"
        )
        raise ValueError(f"nothing can be scored: {'; '.join(reasons)}{instead}")
    return {
        **(results[0] if len(results) == 1 else {"results": results}),
        "left_out": {name: why for name, why in left_out.items() if why},
        "model": about,
        "command": f"{typed('evaluate')} {shlex.join([*as_typed(), *request.arguments])}",
        "overrides": request.overrides,
        "versions": versions(),
        "commit": source,
        "device": device_name(device),
        "cpu": cpu_name(),
        "wall_seconds": round(time.perf_counter() - started, 2),
    }


def score_on(
    subject: Subject,
    own: DictConfig,
    protocols: Sequence[Chosen],
    overrides: Sequence[str],
    device: torch.device,
    request: Request,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Scores a backbone on one data set; see ``score_all``.

    Args:
        subject: the backbone.
        own: ``{data: ...}``.
        protocols: with settings that may refer to the data's.
        overrides: of the command, those of the data.
        device: where features are computed.
        request: the whole command.

    Raises:
        ValueError: the backbone reads samples of another kind.
    """
    reads, given = modalities_of(subject.cfg.data)[0], modalities_of(own.data)[0]
    if reads != given:
        raise ValueError(
            f"the backbone reads samples of modality {reads}, but those of data={own.data.name} are of {given}: choose "
            f"data of {reads}"
        )
    cfg = resolved(merged(subject.cfg, {"data": None}, own), "data")
    refuse_settings(cfg)
    splits = splits_of(cfg)
    ready = []
    for chosen in protocols:
        full = resolved(merged(cfg, {"evaluation": None}, chosen.node), f"evaluation={chosen.name}")
        ready.append(chosen._replace(node=full.evaluation, overrides=[*chosen.overrides, *overrides]))
    as_trained = "run" in request.words and "data" not in request.words
    learnt = subject.learnt if as_trained else {}
    scored = OmegaConf.select(subject.cfg, "evaluation.protocol")
    new = not as_trained or any(
        chosen.asked and OmegaConf.select(chosen.node, "protocol") != scored for chosen in ready
    )
    found, why = score_all(subject.model.to(device), splits, ready, subject.untrained, new, learnt)
    for record in found:
        if as_trained and not overrides:
            record["references"] |= references_in(path_of(request.words["run"]), record["metrics"])
    images = {name: list(getattr(splits, name).shape) for name in ("train", "test")}
    head = {"data": cfg.data.name, "source": OmegaConf.to_container(cfg.data.source), "images": images}
    return [{**head, **record} for record in found], why


def run_of(request: Request, overrides: list[str]) -> tuple[DictConfig, Callable[[DictConfig], Subject]]:
    """A run's config, and what makes its backbone, the same one for every data set."""
    folder = path_of(request.words["run"])
    cfg, module, checkpoint = load_run_and_checkpoint(folder, overrides)
    names = RunFolder(folder).read_about()
    about = {"run": str(folder), "method": names.get("method", "run"), "data": cfg.data.name, "seed": cfg.seed}
    about |= {"backbone": module.student.backbone.name, "steps": int(checkpoint["global_step"])}
    count = checkpoint["DataModule"].get("num_samples")

    def untrained() -> SSLModule:
        torch.manual_seed(cfg.seed)
        return build_module(cfg, has_labels=True, num_samples=count)

    subject = Subject(cfg, module, untrained, about, checkpoint.get("callbacks", {}))
    return cfg, lambda own: subject


def foreign_of(request: Request, overrides: list[str]) -> tuple[DictConfig, Callable[[DictConfig], Subject]]:
    """The config of a backbone from elsewhere, and what makes it for a data set."""
    words = request.words
    kind = PublicCLIP if PublicCLIP.meant(words["backbone"], words.get("model")) else Foreign
    foreign = kind.read(words["backbone"], words.get("model"), words.get("pretrained"))
    base = foreign.config()
    override_each([base], overrides, "configs/backbone/timm.yaml and configs/views/uncropped.yaml")

    def make(own: DictConfig) -> Subject:
        given = modalities_of(own.data)
        if given[0] != "image":
            raise ValueError(f"backbone={words['backbone']} reads pictures, but data={own.data.name} is of {given[0]}")
        foreign.refuse_modalities(given, own.data.name)
        cfg = foreign.settled(resolved(merged(base, own), words["backbone"]))
        model = foreign.build(cfg, with_weights=True)
        untrained = (lambda: foreign.build(cfg, with_weights=False)) if foreign.has_weights else None
        return Subject(cfg, model, untrained, {**foreign.about(model), "seed": cfg.seed}, {})

    return base, make


def data_sets(base: DictConfig, value: str | None, overrides: Sequence[str]) -> list[DictConfig]:
    """``{data: ...}`` for each name in ``data=``, a run's own as it was configured; without names the run's own."""
    own = OmegaConf.select(base, "data")
    names = [own.name] if value is None else names_of("data", value)
    found = [
        OmegaConf.create({"data": OmegaConf.to_container(own)})
        if own is not None and own.name == name
        else composed("data", name)
        for name in names
    ]
    override_each(found, overrides, " and ".join(f"configs/data/{name}.yaml" for name in names))
    return found


def protocols_of(
    base: DictConfig, value: str | None, overrides: Sequence[str]
) -> tuple[dict[str, DictConfig], list[list[str]], bool]:
    """Name -> ``{evaluation: ...}`` for ``evaluation=``, the overrides each has taken, and whether they were named."""
    if value == "all":
        names = sorted(stored("evaluation"), key=lambda name: (name != "frozen", name))
    elif value is None and ("evaluation" not in base or base.evaluation.get("protocol") == "none/1"):
        names = ["frozen"]
    else:
        names = [] if value is None else names_of("evaluation", value)
    found = {name: composed("evaluation", name) for name in names}
    if not found:  # the run's own
        node = OmegaConf.create({"evaluation": OmegaConf.to_container(base.evaluation)})
        found = {node.evaluation.get("protocol", "unnamed").split("/")[0]: node}
    where = " and ".join(f"configs/evaluation/{name}.yaml" for name in found)
    return found, override_each(list(found.values()), overrides, where), value != "all"


def splits_of(cfg: DictConfig) -> Splits:
    """The two splits that evaluators read.

    Raises:
        ValueError, FileNotFoundError: the data cannot be read.
    """
    source = build_source(cfg)
    return Splits(source.load("train"), source.load("test"))


def references_in(folder: Path, metrics: Iterable[str]) -> dict[str, dict[str, float]]:
    """What a run has written of raw pixels and of the untrained backbone in these metrics."""
    wrote = RunFolder(folder).read_result().get("baselines", {})
    found = {name: {key: values[key] for key in metrics if key in values} for name, values in wrote.items()}
    return {name: values for name, values in found.items() if values}


def evaluate(folder: Path, overrides: Sequence[str]) -> dict[str, float]:
    """Scores the last checkpoint of a run, by its own probes after the overrides, or by what ``evaluation=`` and
    ``data=`` among them name; writes ``evaluation.json``."""
    request = request_of([f"run={folder}", *overrides])
    path = place_of(request)
    record = evaluate_request(request)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
    return metrics_of(record.get("results", [record]))


def place_of(request: Request) -> Path:
    """Where the record goes, which is tried before anything is computed.

    Raises:
        ValueError: ``out=`` names no .json file.
        OSError: nothing can be written there.
    """
    path = written(request)
    if path.suffix != ".json":
        raise ValueError(f"out={path} is not the name of a .json file: give it one, such as out=scores.json")
    if "out" in request.words or "run" not in request.words or path.parent.is_dir():  # else there is no such run
        refuse_unwritable(path)
    return path


def written(request: Request) -> Path:
    """Where the record goes: ``out=``, the run's folder, or a new one in ``outputs/evaluations``."""
    if "out" in request.words:
        return Path(request.words["out"])
    if "run" in request.words:
        return RunFolder(path_of(request.words["run"])).evaluation_file
    name = Path(request.words["backbone"].removeprefix("timm:").replace(":", "-")).stem
    return RunFolder(Path("outputs/evaluations") / name / f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}").evaluation_file
