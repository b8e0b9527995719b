"""What a user reads when something cannot be done."""

import contextlib
import difflib
import logging
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, InterpolationKeyError, OmegaConfBaseException
from yaml import YAMLError

from ssl_framework.runs.groups import CONFIGS, HERE, choices, groups
from ssl_framework.runs.plain import printable
from ssl_framework.runs.plugins import as_typed as plugins_as_typed
from ssl_framework.runs.stopping import AGAIN as AGAIN
from ssl_framework.runs.stopping import STOPPED as STOPPED
from ssl_framework.runs.stopping import Interrupted as Interrupted
from ssl_framework.runs.stopping import commanded as commanded
from ssl_framework.runs.system import system_sentence
from ssl_framework.runs.typed_paths import path_of

SCRIPTS = {
    "train": "python train.py",
    **{name: f"python scripts/{name}.py" for name in ("embed", "evaluate", "export", "report", "show", "study")},
    "prepare": "python scripts/prepare_data.py",
}
"""Command -> how it is typed in a source tree; an installed package has it as ``ssl-<command>``."""


def typed(command: str) -> str:
    """How the user types a command: as the one that is running was typed, or as there is one where none was typed."""
    return f"ssl-{command}" if is_installed() else SCRIPTS[command]


def as_typed(text: str) -> str:
    """A text with every ``python scripts/study.py`` and so on as the user types it."""
    if is_installed():
        for command, script in SCRIPTS.items():
            text = text.replace(script, f"ssl-{command}").replace(script.removeprefix("python "), f"ssl-{command}")
    return text


def is_installed() -> bool:
    """Whether the running command was typed as ``ssl-study`` and so on, or there is no source tree to type another."""
    return Path(sys.argv[0]).name.startswith("ssl-") or CONFIGS.parent == HERE


OmegaConf.register_new_resolver("typed", typed, replace=True)  # for --help of the training command


def command_line(overrides: Sequence[str], *options: str) -> str:
    """The command that a user types for these overrides, with the plugins that this one was told of."""
    words = [*plugins_as_typed(), *overrides]
    return " ".join([typed("train"), *options, *map(shell_word, words)])


def shell_word(text: str) -> str:
    """A word of a command as a shell takes it: bare, in double quotes, or, where those would not do, as ``shlex``."""
    if re.fullmatch(r"[\w=.,:/+~@%-]+", text):
        return text
    return shlex.quote(text) if re.search(r'["$`\\!]', text) else f'"{text}"'


def error_line(error: Exception | str) -> str:
    """The one line for what a user can cause; commands in it are as the user types them."""
    return printable(f"error: {as_typed(sentence(error) if isinstance(error, Exception) else error)}")


def sentence(error: Exception) -> str:
    """What an error means to a user: errors of the system, of YAML and of Hydra in our words, ours as they are."""
    if isinstance(error, (HydraException, OmegaConfBaseException)):  # first: some of Hydra's are errors of the system
        return explain(error)
    if isinstance(error, OSError):
        return system_sentence(error)
    if isinstance(error, MemoryError):
        said = " ".join(str(error).split()) or "no more could be had"
        return f"this needs more memory than there is ({said}): lower the sizes that were asked for, or the data's"
    if isinstance(error, YAMLError):
        return yaml_sentence(error)
    return str(error)


def yaml_sentence(error: YAMLError) -> str:
    """The file, the place in it, and what is wrong there."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"a file is no YAML: {' '.join(str(error).split())}"
    problem = " ".join(str(getattr(error, "problem", "") or "it ends too early").split())
    return f"{mark.name} is no YAML at line {mark.line + 1}, column {mark.column + 1}: {problem}: correct or restore it"


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Around what a command does: what a user can cause ends it in one sentence, with exit code 1."""
    try:
        yield
    except (BrokenPipeError, Interrupted):  # not a user's doing; see ``commanded``
        raise
    except (*REFUSALS, HydraException) as error:
        sys.exit(error_line(error))


def split_run(arguments: list[str], example: str) -> tuple[Path, list[str]]:
    """The folder of ``run=``, and the other arguments."""
    folders = [a.removeprefix("run=") for a in arguments if a.startswith("run=")]
    if len(folders) != 1:
        sys.exit(error_line(f"say which run: {example}"))
    return path_of(folders[0]), [a for a in arguments if not a.startswith("run=")]


failures: list[str] = []


class RunFailed(Exception):
    """A process of a run ended with an error that it has printed itself."""


REFUSALS = (ValueError, OSError, MemoryError, OmegaConfBaseException, YAMLError, RunFailed)
"""What a user can cause, and what was said already."""


def say_error(error: Exception) -> None:
    """One line for what a user can cause, the traceback for the rest; a rank has printed its own."""
    if isinstance(error, RunFailed):
        return
    if isinstance(error, BrokenPipeError):
        raise error
    if isinstance(error, REFUSALS):
        print(error_line(error), file=sys.stderr, flush=True)
    else:
        traceback.print_exception(error)


def explain(error: Exception) -> str:
    """A composition error in one or two lines: what was found, what exists, and the nearest name."""
    cause: BaseException = error
    while cause.__cause__ is not None and not isinstance(cause, MissingConfigException):
        cause = cause.__cause__
    message = str(error).strip()
    if isinstance(error, OverrideParseException):
        if re.fullmatch(r"[\w./-]+", error.override):
            return no_pair(error.override)
        return (
            f"{error.override} cannot be read: put a value with brackets, commas or spaces into quotes twice, "
            f"as in \"key='a, b'\""
        )
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) and not isinstance(error, HydraException):
        return f"the config has no key {cause.full_key}, which is needed: leave out what takes it away, or add it"
    lacking = re.search(r"Interpolation key '([\w.]+)'", message)
    if isinstance(cause, InterpolationKeyError) and lacking is not None:
        reader = str(cause.full_key)
        either = " or ".join(f"{group}=<name>" for group in dict.fromkeys(map(group_of, (lacking[1], reader))))
        return f"{reader} reads {lacking[1]}, which this composition has not: choose another {either}"
    if isinstance(error, MissingConfigException) and error.options:
        group, _, wanted = (error.missing_cfg_file or "").rpartition("/")
        timm = f"; a model of timm is backbone=timm backbone.name={wanted}" if group == "backbone" else ""
        there = f"{group} can be: {', '.join(error.options)}"
        meant = " (trainer=auto takes a GPU)" if (group, wanted) in GPU else nearest(wanted, error.options)
        return f"there is no {group}={wanted}{meant}; {there}{timm}"
    key = getattr(cause, "key", None)
    parent = getattr(cause, "parent_node", None)
    if isinstance(error, ConfigCompositionException) and key is not None and isinstance(parent, DictConfig):
        known = [str(name) for name in parent if not str(name).startswith("_") and name != "hydra"]
        full = str(getattr(cause, "full_key", "") or key)
        where = full.rsplit(".", 1)[0] if "." in full else "the config"
        if "." not in full:
            known = sorted({*known, *groups()})
        data: Any = parent._get_root()._get_node("data")
        if isinstance(data, DictConfig) and isinstance(own := data._get_node(where, validate_access=False), DictConfig):
            there = f"the data have {where} of their own"
            if key in own:
                return f"there is no key {full}: {there}, so set data.{full}"
            known = [str(name) for name in own if name != "_target_"]
            return (
                f"there is no key {full}{nearest(str(key), known)}; {there}, and data.{where} has: {', '.join(known)}"
            )
        if not known and where in groups():
            others = ", ".join(choice for choice in choices(where) if choice != "none")
            return f"there is no key {full}: {where} is empty here: choose {where}={others}"
        if not known:
            return f"there is no key {full}, and {where} is empty as shipped: add it with +{full}=..."
        meant = nearest(str(key), known) or deeper(str(key), parent, "" if where == "the config" else where)
        return f"there is no key {full}{meant}; {where} has: {', '.join(known)}"
    found = re.search(r"Could not override '(\w+)'", message)
    if found and "No match in the defaults list" in message:
        if found[1] in groups():
            return f"this method has no {found[1]}, which only some have: leave it out, or choose another method"
        return f"there is no group {found[1]}{nearest(found[1], groups())}; groups are: {', '.join(groups())}"
    if found := re.match(r"Ambiguous value for argument '([^=]+)=(.*?)'\s", message, re.DOTALL):
        key, values = found.groups()
        return f"{key}={values} gives several values: add -m for a run of each, or write {key}=[{values}] for a list"
    return " ".join(message.split())


def group_of(key: str) -> str:
    """The group whose choice says a key."""
    return "head" if key.startswith("student.heads") else key.partition(".")[0]


def nearest(wanted: str, known: Sequence[str]) -> str:
    """`` (did you mean X?)`` or nothing; capitals do not count."""
    lower = {name.lower(): name for name in known if name != wanted}
    match = difflib.get_close_matches(wanted.lower(), lower, n=1)
    return f" (did you mean {lower[match[0]]}?)" if match else ""


def no_pair(word: str) -> str:
    """What is said of a word of a command that sets nothing."""
    homes = [group for group in ("method", *groups()) if word in choices(group)]
    meant = f" (did you mean {homes[0]}={word}?)" if homes else ""
    return f"{word} is not key=value{meant}: {typed('train')} --help lists groups, their choices and keys"


GPU = {("trainer", "gpu"), ("trainer", "cuda")}
"""Choices that one may look for."""

ELSEWHERE = {
    **dict.fromkeys(("out", "output", "out_dir", "output_dir", "save_dir", "log_dir", "run_dir"), "hydra.run.dir"),
    **dict.fromkeys(("gpu", "gpus", "num_gpus"), "trainer.devices"),
}
"""What other programs call keys of ours."""


def deeper(wanted: str, node: DictConfig, where: str) -> str:
    """`` (did you mean data.batch_size?)`` where a key below a node is called so, or has it as a word of its name, the
    shortest one; or nothing."""
    below = [key for key in keys_below(OmegaConf.to_container(node), where) if not key.startswith("hydra.")]
    last = {key: key.rpartition(".")[2] for key in below}
    if not where and wanted in ELSEWHERE:
        return f" (did you mean {ELSEWHERE[wanted]}?)"
    called = [key for key in below if last[key] == wanted]
    called = called or [key for key in below if wanted in last[key].split("_")]
    called = called or [key for key in below if last[key] == f"{wanted}s"]
    return f" (did you mean {min(called, key=lambda key: (key.count('.'), len(key)))}?)" if called else ""


def keys_below(node: Any, where: str) -> Iterator[str]:
    """``a.b`` for every value in nested mappings."""
    for name, value in node.items() if isinstance(node, dict) else ():
        key = f"{where}.{name}" if where else str(name)
        yield from keys_below(value, key) if isinstance(value, dict) else [key]


def quiet() -> None:
    """Silences notes of libraries that a user of this command can do nothing about."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*`torch.distributed.*` is deprecated.*")
    warnings.formatwarning = lambda message, *_args, **_kwargs: f"note: {message}\n"
