"""Puts odd values into every key of the shipped configs, one after another, and says what became of each.

    python -m tools.odd_values OUT.json [--every N] [GROUP=CHOICE ...]

some methods and all choices of all groups, or those; of all cases every Nth (12 has other values for other keys).

A key is set as the command line would set it, and everything that the config describes is built, without data sets that
lie on a disk and without training. Stopped, it goes on where it was (``OUT.json.tried``). What may come of it:

    refused      one sentence that names the key
    unnamed      one sentence that does not
    accepted     built; whether it should be is for a reader to judge, so all of these are listed
    page         any other error, which a user would see as a traceback
    hang, died   nothing within ``PATIENCE`` seconds, or the process was ended (memory)
"""

import argparse
import copy
import json
import math
import multiprocessing
import resource
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra import compose
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssl_framework.build import build, build_module, refuse_wrong
from ssl_framework.runs.config import hosted, leaves
from ssl_framework.runs.groups import choices, composing
from ssl_framework.runs.messages import quiet, sentence
from ssl_framework.runs.settings import refuse_settings
from ssl_framework.training.trainer import build_trainer

ODD: dict[str, Any] = {
    **{"null": None, "true": True, "nan": math.nan, "inf": math.inf, "-1": -1, "0": 0, "1.5": 1.5},
    **{"abc": "abc", "[]": [], "1e9": 1e9, "1000000000": 1_000_000_000},
}
"""As typed, and what Hydra makes of it."""

METHODS = (
    *("simclr", "mocov2", "mochi", "byol", "swav", "isogclr", "barlow_twins", "amcl_moco", "core_tuning", "clip"),
    *("metrix_multi_similarity", "supremix", "mcl", "g_simclr"),
)
GROUPS = (
    *("mixer", "masker", "feature_mixer", "evaluation", "data", "backbone", "head", "optimizer", "views", "sampler"),
    *("trainer", "generated", "pseudo_labels", "objective", "teacher", "report", "labels"),
)
PATIENCE = 20.0
MEMORY = 6 * 2**30
"""Bytes that a case may ask for beyond what the process has."""


class Case(NamedTuple):
    """One value in one key of one config."""

    choices: tuple[str, ...]
    key: str
    value: str  # of ODD

    def __str__(self) -> str:
        return " ".join([*self.choices, f"{self.key}={self.value}"])


def compositions(asked: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The overrides of every config that is looked at."""
    if asked:
        yield from ((item,) for item in asked)
        return
    yield from ((f"method={name}",) for name in METHODS)
    yield from ((f"{group}={name}",) for group in GROUPS for name in choices(group))


def composed(overrides: Sequence[str]) -> DictConfig | None:
    """The config, unresolved; None where the choice does not go with the default ones."""
    with composing():
        try:
            cfg = compose("train", list(overrides))
            OmegaConf.set_struct(cfg, False)
            cfg.data.source.update({key: 20 for key in ("num_train", "num_test") if key in cfg.data.source})
            resolved_copy(cfg)
        except (ValueError, HydraException, OmegaConfBaseException):
            return None
    return cfg


def resolved_copy(cfg: DictConfig) -> DictConfig:
    """The config as a run gets it."""
    found = copy.deepcopy(cfg)
    refuse_settings(found)
    hosted(found)
    found.pop("logger")  # reads where Hydra runs
    OmegaConf.resolve(found)
    return found


def keys_of(cfg: DictConfig, seen: set[tuple[str, str]]) -> Iterator[str]:
    """Keys of values that nobody has looked at yet in the same class. Changes ``seen``."""
    content = OmegaConf.to_container(cfg, resolve=False)
    for key, _ in leaves(content):
        *above, name = key.split(".")
        if name.startswith("_") or above[:1] == ["logger"] or name in ("resume", "experiment"):
            continue
        node = OmegaConf.select(cfg, ".".join(above)) if above else cfg
        owner = str(node.get("_target_")) if isinstance(node, DictConfig) else ""
        if (key, owner) not in seen:
            seen.add((key, owner))
            yield key


def cases(asked: Sequence[str]) -> Iterator[tuple[DictConfig, Case]]:
    """Every case with its config."""
    seen: set[tuple[str, str]] = set()
    for overrides in compositions(asked):
        if (cfg := composed(overrides)) is None:
            continue
        for key in keys_of(cfg, seen):
            yield from ((cfg, Case(overrides, key, value)) for value in ODD)


def make(cfg: DictConfig, group: str) -> None:
    """Builds what a group of keys is of."""
    if group in ("evaluation", "report", "sampler", "pseudo_labels", "labels"):
        build(cfg[group])
    elif group == "trainer":
        cfg.trainer.precision = "32-true" if cfg.trainer.precision == "auto" else cfg.trainer.precision
        build_trainer(cfg.trainer, Path("."), [], [])
    elif group == "generated":
        refuse_wrong(OmegaConf.to_container(cfg.generated), "generated")
    else:
        module = build_module(cfg, has_labels=True, num_samples=64)
        if group == "optimizer":
            build(cfg.optimizer).build(module, 256, 10)
        source = cfg.data.source
        refuse_wrong(OmegaConf.to_container(source), "data.source")
        if group == "data" and not cfg.data.get("root"):
            build(source)


def outcome(cfg: DictConfig, case: Case) -> tuple[str, str]:
    """What became of a case, and what was said."""
    try:
        changed = copy.deepcopy(cfg)
        OmegaConf.update(changed, case.key, ODD[case.value], merge=False)
        make(resolved_copy(changed), case.key.split(".")[0])
    except (ValueError, OSError, HydraException, OmegaConfBaseException) as error:
        said = sentence(error)
        *above, name = (name for name in case.key.split(".") if not name.isdigit())
        return ("refused" if name in said or (above and ".".join(above) in said) else "unnamed"), said
    except Exception as error:
        return "page", f"{type(error).__name__}: {' '.join(str(error).split())}"
    return "accepted", ""


def work(found: Sequence[tuple[DictConfig, Case]], first: int, pipe: Connection) -> None:
    """The process in which cases are tried, one after another."""
    torch.set_num_threads(1)
    quiet()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for number in range(first, len(found)):
        pipe.send((number, *outcome(*found[number])))


Outcome = tuple[str, str, str]
"""A case as words of a command, its kind, and what was said."""


def tried(
    found: Sequence[tuple[DictConfig, Case]], say: Callable[[str], None], before: Sequence[Outcome] = ()
) -> Iterator[Outcome]:
    """Every case with its outcome, behind those ``before``; a process that hangs or dies costs its case only."""
    context, done = multiprocessing.get_context("fork"), list(before)
    while len(done) < len(found):
        here, there = context.Pipe()
        worker = context.Process(target=work, args=(found, len(done), there), daemon=True)
        worker.start()
        there.close()
        try:
            while len(done) < len(found):
                if not here.poll(PATIENCE):
                    raise TimeoutError
                number, kind, said = here.recv()
                done.append((str(found[number][1]), kind, said))
                yield done[-1]
                if len(done) % 500 == 0:
                    say(f"{len(done)} of {len(found)}")
        except TimeoutError:
            done.append((str(found[len(done)][1]), "hang", f"nothing within {PATIENCE:.0f} s"))
            yield done[-1]
        except EOFError:
            worker.join()
            done.append((str(found[len(done)][1]), "died", f"exit code {worker.exitcode}"))
            yield done[-1]
        worker.kill()
        worker.join()


def read_tried(path: Path, found: Sequence[tuple[DictConfig, Case]]) -> list[Outcome]:
    """The outcomes of a command that was stopped; none of one that tried other cases."""
    lines = path.read_text().splitlines() if path.is_file() else []
    before: list[Outcome] = [tuple(json.loads(line)) for line in lines]  # type: ignore[misc]
    same = all(words == str(case) for (words, _, _), (_, case) in zip(before, found, strict=False))
    return before if same else []


def main(arguments: Sequence[str]) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tools.odd_values")
    parser.add_argument("out")
    parser.add_argument("choices", nargs="*", metavar="GROUP=CHOICE")
    parser.add_argument("--every", type=int, default=1)
    given = parser.parse_args(arguments)
    out, found, partial = given.out, list(cases(given.choices))[:: given.every], Path(f"{given.out}.tried")
    done = read_tried(partial, found)
    with partial.open("a" if done else "w", buffering=1) as file:
        for each in tried(found, lambda line: print(line, flush=True), done):
            done.append(each)
            file.write(json.dumps(each) + "\n")
    counts = Counter(kind for _, kind, _ in done)
    Path(out).write_text(json.dumps({"counts": dict(sorted(counts.items())), "cases": done}, indent=1) + "\n")
    partial.unlink()
    print(", ".join(f"{number} {kind}" for kind, number in counts.most_common()))


if __name__ == "__main__":
    main(sys.argv[1:])
