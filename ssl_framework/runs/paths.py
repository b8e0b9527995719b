"""Every argument of a trusted class that is a path, an address or a switch to fetch something, and what a config that
comes out of a run folder may say there.

A loaded run writes nowhere but into its own folder, fetches nothing, and reads data where it was trained, if that is a
plain path. What the command line says of a key itself is the user's word and is not looked at. A test walks all classes
that a stored config may name, and fails where an argument is called like a path and is not in ``RULES``.
"""

import os
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple


class Place(NamedTuple):
    """Where a value stands."""

    file: str  # the config, as an error calls it
    key: str  # in that file
    folder: Path  # of the run
    said: frozenset[str]  # keys that the command line sets itself

    def refuse(self, why: str) -> None:
        """Raises ValueError; the key on the command line is the way round it."""
        raise ValueError(
            f"{self.file} has {self.key}={why}: nothing was loaded; if you want this, say so yourself in the command "
            f"with {self.key}=..."
        )


Rule = Callable[[Any, Place], Any]
"""What may stand there -> what is used; raises ValueError."""

SCHEME = re.compile(r"[A-Za-z][\w+.-]*:")
"""What an address begins with; ``pipe:`` is one, too."""

SYSTEM = ("/dev", "/proc", "/sys")
"""Files there are no data: some never end, some act when they are opened."""


def local(value: Any, place: Place) -> Any:
    """A file or folder, or a list of such, or nothing: plain paths of this machine."""
    for path in value if isinstance(value, list) else [value]:
        if path is not None:
            refuse_odd_path(path, place)
    return value


def refuse_odd_path(path: Any, place: Place) -> None:
    """Raises ValueError for an address, and for what is neither file nor folder."""
    if not isinstance(path, str):
        place.refuse(f"{path!r}, which is no path")
    if SCHEME.match(path) or path.startswith("-"):
        place.refuse(f"{path!r}, and a stored config reads plain paths only")
    whole = os.path.realpath(os.path.expanduser(path))
    if any(whole == system or whole.startswith(f"{system}/") for system in SYSTEM):
        place.refuse(f"{path!r}, which is of the system")
    if os.path.exists(whole) and not (os.path.isfile(whole) or os.path.isdir(whole)):
        place.refuse(f"{path!r}, which is neither a file nor a folder")


def run_folder(value: Any, place: Place) -> str:
    """Whatever the config says: the folder of the run, where it lies now."""
    return str(place.folder)


def off(value: Any, place: Place) -> bool:
    """A switch that fetches or writes: off."""
    return False


def switch(value: Any, place: Place) -> bool:
    """True or false as it stands: who goes on with the run looks at it (see ``training.resumed``)."""
    if not isinstance(value, bool):
        place.refuse(f"{value!r}, which is neither true nor false")
    return value


def nothing(value: Any, place: Place) -> None:
    """Left open: what uses it fills it in."""


def word(value: Any, place: Place) -> Any:
    """The name of a file or folder without any way to another one, or nothing."""
    if value is not None and not (isinstance(value, (str, int)) and re.fullmatch(r"(?!\.\.?$)[^/\\\0]*", str(value))):
        place.refuse(f"{value!r}, which is no plain name")
    return value


def plain(value: Any, place: Place) -> Any:
    """Numbers, truth values, names and lists and mappings of them."""
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        plain(one, place)
    if isinstance(value, str) and not re.fullmatch(r"[\w.+-]{0,64}", value):
        place.refuse(f"{value!r}, which is no plain value")
    return value


FETCHING = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}
"""Arguments of ``timm.create_model`` that say which weights a network begins with and where they are."""

OTHER_OPTIONS = {"model_name", "scriptable", "exportable", "no_jit", "features_only", "num_classes", "in_chans"}
"""Arguments of it that a backbone has no use for, or sets itself."""

LIKE_A_PATH = re.compile(
    r"(^|_)((?<!drop_)paths?|dir|file|files|url|hub|hf|repo|root|cfg|cache|weights|checkpoint)(_|$)"
)
"""What names of options that lead elsewhere have in them."""


def leads_elsewhere(option: str) -> bool:
    """Whether an option of a network says where weights are, or what a backbone here has no use for."""
    return option in FETCHING | OTHER_OPTIONS or LIKE_A_PATH.search(option) is not None


def options(value: Any, place: Place) -> Any:
    """Options of a network: plain values that say how it is built. Which weights it begins with (``pretrained``) goes,
    for a run has its own."""
    if not isinstance(value, dict):
        return value
    kept = {key: one for key, one in value.items() if key != "pretrained" or one not in (True, False)}
    for key, one in kept.items():
        where = below(place, key)
        if where.key in place.said:
            continue
        if one is not None and leads_elsewhere(str(key)):
            where.refuse(f"{one!r}, which says where weights are, and a run has its own")
        plain(one, where)
    return kept


UNPICKLING = {"ImageNet", "LSUN", "PhotoTour"}
"""Data sets of torchvision that unpickle what lies in their folder, or keep a pickle there."""


def harmless_set(value: Any, place: Place) -> Any:
    """The name of a data set of torchvision that runs nothing of what it reads."""
    if value in UNPICKLING:
        place.refuse(f"{value!r}, which can run code that lies in its folder")
    return word(value, place)


def no_name(value: Any, place: Place) -> None:
    """Nothing: what a name on a hub stands for is not in the folder that the user gave."""
    if value is not None:
        place.refuse(f"{value!r}, which names data elsewhere")


DATA = "ssl_framework.data.images."
PAIRS = "ssl_framework.data.pairs."
LOGGERS = "lightning.pytorch.loggers."
TRACKERS = "ssl_framework.training.loggers."

RULES: dict[str, dict[str, Rule]] = {
    "ssl_framework.data.audio.folder.SoundFolder": {"root": local, "test_folder": word},
    "ssl_framework.data.graphs.pyg.PyGGraph": {"root": local, "file": local},
    "ssl_framework.data.graphs.table.GraphTable": {"root": local, "nodes": local, "edges": local},
    "ssl_framework.data.sequences.interactions.Interactions": {"root": local, "table": local},
    "ssl_framework.data.series.archive.Archive": {"root": local},
    "ssl_framework.data.texts.docstrings.Docstrings": {"root": local},
    "ssl_framework.data.texts.files.TextFiles": {"root": local},
    DATA + "arrays.TorchvisionSource": {"root": local, "name": word, "download": off, "splits": plain},
    DATA + "files.FilesSource": {"root": local, "test_folder": word, "targets": local, "table": local},
    DATA + "folder.FolderSource": {
        **{"root": local, "test_folder": word, "targets": local, "store": local, "table": local},
        "make_store": off,
    },
    DATA + "generated.Arrays": {"path": local},
    DATA + "paired.PairedFiles": {"path": local},
    DATA + "hub_sets.HubSet": {"root": local, "dataset": no_name, "download": off, "make_cache": off},
    DATA + "litdata_shards.LitDataSource": {
        **{"root": local, "train_shards": local, "test_shards": local, "cache": nothing},
    },
    DATA + "store.StoreSource": {"root": local},
    DATA + "torchvision_sets.TorchvisionSet": {
        **{"root": local, "download": off, "dataset": harmless_set, "splits": plain},
    },
    DATA + "webdataset_shards.WebDatasetSource": {
        **{"root": local, "train_shards": local, "test_shards": local, "train_sizes": local, "test_sizes": local},
        "keep_sizes": off,
    },
    PAIRS + "captions.CaptionTable": {"root": local, "table": local},
    PAIRS + "emoji.EmojiFolder": {"root": local, "languages": plain},
    PAIRS + "shards.CaptionShards": {"root": local},
    PAIRS + "words.CaptionVocabulary": {"file": local, "folder": local},
    "ssl_framework.data.pseudo_labels.LabelFile": {"path": local},
    "ssl_framework.models.backbone.Backbone": {
        **{"options": options, "pretrained": switch, "weights": local, "name": word, "small_name": word},
    },
    "ssl_framework.models.graph.GCN": {"weights": local},
    "ssl_framework.models.prompts.FrozenHead": {"weights": local},
    "ssl_framework.models.pyg.PyGNet": {"weights": local, "model": word, "options": options},
    "ssl_framework.models.sequence.SASRec": {"weights": local},
    "ssl_framework.models.hub_text.HubText": {"folder": local, "weights": local, "pretrained": switch},
    "ssl_framework.models.series.OfSeries": {"weights": local},
    "ssl_framework.models.series.SeriesBackbone": {"weights": local},
    "ssl_framework.models.series_nets.SeriesLSTM": {"weights": local},
    "ssl_framework.models.series_nets.SeriesTransformer": {"weights": local},
    "ssl_framework.models.text.TextTransformer": {"weights": local},
    "ssl_framework.models.word_scores.WordScores": {"weights": local},
    "ssl_framework.training.stages.StageClusters": {"previous": nothing},
    TRACKERS + "WandbRun": {"save_dir": run_folder, "name": word, "id": nothing},
    TRACKERS + "TrackioRun": {"save_dir": run_folder, "name": word, "space_id": nothing, "id": nothing},
    TRACKERS + "MLflowRun": {
        **{"save_dir": run_folder, "tracking_uri": nothing, "experiment": word, "name": word, "id": nothing},
    },
    LOGGERS + "CSVLogger": {"save_dir": run_folder, "name": word, "version": word},
    LOGGERS + "TensorBoardLogger": {"save_dir": run_folder, "name": word, "version": word, "sub_dir": word},
    LOGGERS + "WandbLogger": {"save_dir": run_folder, "name": word, "version": word, "id": word},
}
"""Class -> its arguments that are places -> what may stand there."""

ALWAYS = {
    DATA + "folder.FolderSource": {"make_store": "store"},
    DATA + "hub_sets.HubSet": {"make_cache": "root"},
    DATA + "webdataset_shards.WebDatasetSource": {"keep_sizes": "root"},
}
"""Switches that are set even where the config does not name them -> the argument by which the command line takes them
back: who says where a store lies wants it made."""

ONLY: dict[str, tuple[str, ...]] = {
    LOGGERS + "CSVLogger": ("prefix", "flush_logs_every_n_steps"),
    LOGGERS + "TensorBoardLogger": ("log_graph", "default_hp_metric", "prefix"),
    LOGGERS + "WandbLogger": (
        *("project", "entity", "group", "tags", "notes", "job_type", "offline", "anonymous", "prefix"),
    ),
}
"""Classes that pass on whatever they are given -> what a stored config may give them beside their ``RULES``."""

NO_PATHS = {
    ("ssl_framework.evaluation.probes.naive_bayes.NaiveBayes", "sizes"),  # numbers of images
    ("ssl_framework.masks.base.Drawn", "targets"),  # places
    ("ssl_framework.masks.block.IJEPAMask", "targets"),  # how many
    ("ssl_framework.mixers.rules.Switch", "weights"),  # of chance
    ("ssl_framework.models.backbone.Backbone", "checkpoint_activations"),  # a switch of the backward pass
    ("ssl_framework.models.tuning.LoRA", "weights"),  # a pattern of their names
    ("ssl_framework.objectives.all4one.All4One", "weights"),  # of its terms
    ("ssl_framework.objectives.terms.Terms", "weights"),  # likewise
    *(("ssl_framework.objectives.ibot.IBOT", name) for name in ("targets", "patch_targets")),  # how they are made
    ("torch.optim.Rprop", "step_sizes"),  # numbers
}
"""Arguments that are called like a path and are none."""

OPENERS = {
    "ssl_framework.data.datamodule.DataModule",
    *(DATA + f"files.{name}" for name in ("Cutter", "Files", "FilesLoader", "Paths")),
    *(DATA + f"layout.{name}" for name in ("Layout", "Listing")),
    *(DATA + f"table.{name}" for name in ("Line", "Table")),
    *(DATA + f"litdata_shards.{name}" for name in ("Index", "LitReader")),
    *(DATA + name for name in ("paired.Paired", "store.Mapped")),
    DATA + "webdataset_shards.TarReader",
    PAIRS + "captions.Captioned",
    "ssl_framework.evaluation.embedding.FileSamples",
    "ssl_framework.evaluation.embedding.Item",
    "ssl_framework.evaluation.embedding.Parts",
    "ssl_framework.evaluation.foreign.Foreign",
    "ssl_framework.evaluation.public_clip.PublicCLIP",
    "ssl_framework.models.weights.Newest",
}
"""Classes within the parts that open what they are given: sources make them, and no config names them."""

SPECIAL = {"_target_", "_partial_", "_recursive_", "_convert_"}
"""Keys that are no arguments."""


def confined(content: dict[str, Any], file: str, folder: Path, said: Collection[str] = ()) -> dict[str, Any]:
    """A stored config whose places are safe.

    Args:
        content: nested mappings and lists, whose classes are trusted.
        file: what an error calls it.
        folder: of the run.
        said: keys that the command line sets itself.

    Returns:
        A copy.

    Raises:
        ValueError: a place that is not allowed.
    """
    found = confined_node(content, Place(file, "", folder.absolute(), frozenset(said)), content.get("data"))
    data = found.get("data")
    if isinstance(data, dict) and data.get("download") and "data.download" not in said:
        data["download"] = False  # as the source, which took it from here
    trainer = found.get("trainer")
    if isinstance(trainer, dict) and trainer.get("mirror") and "trainer.mirror" not in said:
        trainer["mirror"] = None  # elsewhere is written what the command line says
    return found


def confined_node(node: Any, place: Place, data: Any) -> Any:
    """A copy of a node; ``data`` is the config's, from which its source has taken what is called the same."""
    if isinstance(node, list):
        return [confined_node(one, below(place, i), data) for i, one in enumerate(node)]
    if not isinstance(node, dict):
        return node
    found = {key: confined_node(one, below(place, key), data) for key, one in node.items()}
    target = str(node.get("_target_"))
    for key in found:
        where = below(place, key)
        if is_said(where, found[key], data):
            continue
        if rule := RULES.get(target, {}).get(key):
            found[key] = rule(found[key], where)
        elif target in ONLY and key not in ONLY[target] and key not in SPECIAL:
            where.refuse(f"{found[key]!r}, which {target.rpartition('.')[2]} is not given by a stored config")
    for key, by in ALWAYS.get(target, {}).items():
        if not is_said(below(place, by), node.get(by), data):
            found[key] = False
    return found


def below(place: Place, key: Any) -> Place:
    """Where a key of a node stands."""
    return place._replace(key=f"{place.key}.{key}" if place.key else str(key))


def is_said(place: Place, value: Any, data: Any) -> bool:
    """Whether the command line sets this key, or that of the data which a source has taken it from. A mapping is only
    added to, so it is not taken for said."""
    if isinstance(value, dict):
        return False
    above, _, name = place.key.rpartition(".")
    taken = above == "data.source" and isinstance(data, dict) and data.get(name) == value
    return place.key in place.said or (taken and f"data.{name}" in place.said)
