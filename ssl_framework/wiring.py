"""Which parts fit together: combinations are refused here, before a run; what a part refuses by itself is in it."""

from collections.abc import Callable, Sequence
from typing import Any

from hydra.utils import get_class

from ssl_framework.feature_mixers.base import FeatureMixer
from ssl_framework.masks.base import Masker
from ssl_framework.mixers.base import LearnedRule
from ssl_framework.mixers.mixing import Mixing
from ssl_framework.models.base import Patched, Shaped
from ssl_framework.models.encoder import Encoder
from ssl_framework.objectives.base import Objective
from ssl_framework.runs.groups import files
from ssl_framework.runs.suggestions import choices, nodes_of, one_of
from ssl_framework.views.base import Telling, ViewMaker

FEATURES = ("pooled", "map", "tokens", "patches", "places", "layers", "middle", "routes", "mask")
"""What a backbone may give beside the heads and the maps of its blocks, "block_-2"; and which patches were hidden."""

OF_BACKBONES = {
    "middle": "backbone=text_tiny on texts",
    "routes": "backbone=text_routed on texts",
    "tokens": "backbone=vit_tiny on pictures or text_tiny on texts",
    "patches": "backbone=vit_tiny on pictures",
    "layers": "backbone=vit_tiny with backbone.last_layers=2",
}
"""Those of them that not every backbone of pictures gives -> one that does."""

TOLD = {
    "geometry": "where in the picture each view was cut",
    "regions": "what is in which region of a picture",
    "answer": "how the last view was changed",
    "common points": "which points two crops have in common",
    "originals": "what altered views were before",
    "fragments": "which fragments each pair is of",
}
"""What views may tell beside themselves (``views.base.Telling``) -> what an objective asks for."""

SAMPLES = {1: "texts or sequences", 2: "series", 3: "pictures"}
"""Dimensions of a sample -> what it is."""

PLACED = ("tokens", "patches", "places")
"""Features of which there is one for every place of a sample."""

PICTURED = "backbone=resnet18 or vit_tiny on pictures"
"""Backbones that give most of the others."""


def check_heads(objective: Objective, student: Encoder) -> None:
    """Refuses an objective that reads a head that the student lacks, and a head that nobody reads: it would not train.

    Every tower of a student must have what is read of it.

    Raises:
        ValueError: one sentence that names the heads which would do.
    """
    name = type(objective).__name__
    for number, (encoder, modalities) in enumerate(student.encoders()):
        reads = [name for name in objective.reads if number == 0 or name not in objective.main_reads]
        whose = f"the student's tower for {listed(modalities)}" if modalities else "the student"
        if not reads and encoder.heads:
            raise ValueError(unreached(name, modalities))
        refuse_missing(name, reads, encoder, whose, objective.token_reads)
        refuse_vectors(name, objective.token_reads, encoder)
        refuse_tokens(name, reads, objective.token_reads, encoder)
        behind = encoder.heads_behind(reads)
        unread = [head for head in encoder.heads if head not in behind]
        if unread:
            raise ValueError(
                f"{name} reads {listed(reads)} of {whose}, but the head that was chosen has {listed(unread)} "
                f"besides, which nothing would train: {heads_with(reads, objective.token_reads)}"
            )


def unreached(name: str, modalities: Sequence[str]) -> str:
    """What is said of a tower that an objective does not read."""
    return (
        f"{name} reads nothing of the student's tower for {listed(modalities)}, which nothing would train: choose "
        "another objective or teacher, or a method of one encoder"
    )


def check_words(objective: Objective, student: Encoder) -> None:
    """Refuses an objective that says the next word on a text tower whose words have seen it.

    Raises:
        ValueError: one sentence that names the key to change.
    """
    for encoder, modalities in student.encoders()[1:] if "causal words" in objective.requires else ():
        if not getattr(encoder.backbone, "causal", False):
            raise ValueError(
                f"{type(objective).__name__} says the next word, but every word of the student's tower for "
                f"{listed(modalities)} sees it already: choose text_backbone=causal, or another objective"
            )


def check_towers(
    objective: Objective, student: Encoder, modality: Sequence[str], student_views: Sequence[int] | None
) -> None:
    """Refuses towers, and backbones beside the first, that no loss would reach, and an objective that compares outputs
    of towers that are not as wide as each other.

    Args:
        objective: says what it reads.
        student: one encoder, or one a modality.
        modality: of each view.
        student_views: positions of the views that the student encodes; ``None`` is all.

    Raises:
        ValueError: one sentence that names the group to change.
    """
    name, towers = type(objective).__name__, student.encoders()
    seen = {modality[view] for view in (range(len(modality)) if student_views is None else student_views)}
    for number, (encoder, modalities) in enumerate(towers):
        reads = [output for output in objective.reads if number == 0 or output not in objective.main_reads]
        trains = any(p.requires_grad for p in encoder.parameters())
        idle = not reads or (not seen & set(modalities) and "encoder" not in objective.requires)
        if modalities and trains and idle:
            raise ValueError(unreached(name, modalities))
        behind = {*reads, *(str(encoder.heads[head].source) for head in encoder.heads_behind(reads))}
        for further, backbone in encoder.beside.items():
            trains = any(p.requires_grad for p in backbone.parameters())
            if trains and not behind & {further, f"{further}.layers"}:
                raise ValueError(
                    f"{name} reads nothing of {further}, a backbone that the method has beside the first, which "
                    "nothing would train: choose another objective, a head that reads it, or a method of one backbone"
                )
    if not any(p.requires_grad for part in (student, objective) for p in part.parameters()):
        raise ValueError(
            f"nothing is left to train: the backbone is frozen, and {listed(objective.reads)}, which {name} reads, has "
            "no layers: choose another tuning=<name> (tuning=none, lora), or a head with layers (head=linear)"
        )
    for output in objective.reads:
        widths = {listed(modalities): encoder.dims[output] for encoder, modalities in towers if output in encoder.dims}
        apart = (*objective.main_reads, *objective.apart_reads, *objective.token_reads)
        compared = output not in apart and (output == "pooled" or not is_feature(output))
        if compared and len(set(widths.values())) > 1:
            wide = listed([f"{width} values of {of}" for of, width in widths.items()])
            raise ValueError(
                f"{name} compares {output} of all towers, which is {wide}: choose a head that gives them one width, "
                "such as head=linear"
            )


def check_inputs(objective: Objective, student: Encoder, views: ViewMaker) -> None:
    """Refuses an objective that reads words on views that are no texts, or places of pictures where there are none, and
    a backbone of other data than the views are of.

    Raises:
        ValueError: one sentence that names the groups to change.
    """
    modality = views.modality
    for encoder, modalities in student.encoders():
        for view, kind in enumerate(modality):
            shape, backbone = views.example(view), encoder.backbone
            takes = backbone.sample_dims if isinstance(backbone, Shaped) else len(shape)
            if takes != len(shape) and (not modalities or kind in modalities):
                raise ValueError(
                    f"backbone {encoder.backbone.name} takes {SAMPLES[takes]}, but view {view} is of {kind}, "
                    f"{' x '.join(map(str, shape))}: choose another backbone, or other data and views"
                )
    for view, wanted in objective.modality.items():
        if view >= len(modality) or modality[view] != wanted:
            found = f"that view is of {modality[view]}" if view < len(modality) else "there is no such view"
            raise ValueError(
                f"{type(objective).__name__} reads view {view} as {wanted}, but {found}: choose "
                f"{methods_of(objective)}another objective"
            )


def methods_of(objective: Objective) -> str:
    """``method=albef or ``: the methods that are called like their objective, of this class: they bring its views."""
    kinds = {name: get_class(target_of(node)) for name, node in nodes_of("objective").items()}
    known = files("method")
    return one_of("method", [name for name, kind in kinds.items() if kind is type(objective) and name in known])


def refuse_missing(
    name: str, reads: Sequence[str], student: Encoder, whose: str = "the student", tokens: Sequence[str] | None = None
) -> None:
    """Raises ValueError if the objective of that name reads outputs that the student, or a tower, does not have; it
    reads one vector a token of ``tokens``, which are not known of an objective that is not built yet."""
    missing = [output for output in reads if output not in {*student.dims, "mask"}]  # on which see check_masks
    refuse_lacking(name, missing, student, whose)
    if missing:
        raise ValueError(
            f"{name} reads {listed(missing)} of {whose}, but the head that was chosen has "
            f"{listed(list(student.heads)) or 'none'}: {heads_with(reads, tokens)}"
        )


def refuse_lacking(name: str, missing: Sequence[str], encoder: Encoder, whose: str, instead: str = "") -> None:
    """Raises ValueError if what is missing should have come from the backbone."""
    if lacking := [output for output in missing if is_feature(output)]:
        raise ValueError(
            f"{name} reads {listed(lacking)} of {whose}, which {encoder.backbone.name} has not: choose "
            f"{instead}another backbone, such as {OF_BACKBONES.get(lacking[0], PICTURED)}, or another objective"
        )


def refuse_vectors(name: str, token_reads: Sequence[str], encoder: Encoder) -> None:
    """Raises ValueError if the objective of that name reads tokens of a head that gives one vector a sample."""

    def fits(node: dict[str, Any]) -> bool:
        return all(node.get(head, {}).get("source") in ("tokens", "patches", "places") for head in token_reads)

    for head in token_reads:
        source = head
        while source in encoder.heads:
            source = str(encoder.heads[source].source)
        if source == "pooled":
            raise ValueError(
                f"{name} reads tokens of {head}, which gives one vector a sample: choose {choices('head', fits)}"
                "another objective"
            )


def refuse_tokens(name: str, reads: Sequence[str], token_reads: Sequence[str], encoder: Encoder) -> None:
    """Raises ValueError if the objective of that name reads one vector a sample of a head that gives one a token."""
    for head in reads:
        source = head
        while source in encoder.heads:
            source = str(encoder.heads[source].source)
        if head in encoder.heads and head not in token_reads and source in PLACED:
            raise ValueError(
                f"{name} reads one vector a sample of {head}, which gives one for each of its {source}: "
                f"{heads_with(reads, token_reads)}"
            )


def is_feature(name: str) -> bool:
    """Whether an output of that name is the backbone's."""
    return name in FEATURES or name.startswith("block_") or name.endswith(".layers")


def source_of(head: Any) -> str:
    """What the node of a head reads; of one that holds another head, what that reads."""
    return head["source"] if "source" in head else source_of(head["head"])


def heads_with(reads: Sequence[str], tokens: Sequence[str] | None) -> str:
    """What to choose instead: the shipped heads that an objective reads whole, or those that have what it reads; as
    ``tokens`` says, one vector a token, or else one a sample. If that is not known, the latter where there are any."""
    if tokens is None:
        said = heads_with(reads, ())
        return said if "head=" in said else heads_with(reads, reads)

    def having(node: dict[str, Any]) -> bool:
        return all(
            (source_of(node[name]) in PLACED) == (name in tokens) if name in node else is_feature(name)
            for name in reads
        )

    def whole(node: dict[str, Any]) -> bool:
        behind = [head for head in reads if head in node]
        for head in behind:  # grows
            source = source_of(node[head])
            behind += [source] if source in node and source not in behind else []
        return having(node) and set(node) == set(behind)

    return f"choose {choices('head', whole) or choices('head', having)}another objective"


def methods(refused: Objective, fits: Callable[[type[Objective]], bool]) -> str:
    """``method=byol, simclr or ``: the methods that are called like their objectives, of another class, which fits."""
    kinds = {name: get_class(target_of(node)) for name, node in nodes_of("objective").items()}
    fitting = [name for name, kind in kinds.items() if kind is not type(refused) and fits(kind)]
    known = files("method")
    return one_of("method", [name for name in fitting if name in known])


def target_of(node: dict[str, Any]) -> str:
    """The class that an objective's file names; the file may set keys beside ``objective``, too."""
    return str(node["_target_"] if "_target_" in node else node["objective"]["_target_"])


def listed(names: Sequence[str]) -> str:
    """Names in a sentence."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def check_teacher(objective: Objective, teacher: Encoder, student: Encoder, follows: bool = True) -> None:
    """Refuses a teacher without the heads that the objective reads of it.

    Args:
        objective: says what it reads.
        teacher, student: encoders.
        follows: whether the teacher has the student's heads, as far as its config names them.

    Raises:
        ValueError: one sentence that names them.
    """
    encoders = [encoder for encoder, _ in teacher.encoders()]
    missing = [name for name in objective.teacher_reads if not all(name in encoder.dims for encoder in encoders)]
    known = {name for own, _ in student.encoders() for name in own.dims}  # what follows the student has
    others = any(name in known or name.endswith(".layers") for name in missing)
    instead = teachers_with(objective) if others else ""
    for encoder in encoders:
        refuse_lacking(type(objective).__name__, missing, encoder, "the teacher", instead)
    if missing:
        raise ValueError(
            f"{type(objective).__name__} reads {listed(missing)} of the teacher, but teacher.heads is "
            f"[{', '.join(teacher.heads)}]: "
            + (f"set teacher.heads=[{','.join(objective.teacher_reads)}], or " if follows else "")
            + f"choose {teachers_with(objective)}another objective"
        )


def teachers_with(objective: Objective) -> str:
    """``teacher=ema, moco or ``: the teachers that have the heads that an objective reads, and no others, and that
    learn by it if they have to."""
    heads = {name for name in objective.teacher_reads if not is_feature(name)}
    learns = "trained teacher" in objective.requires

    def fits(node: Any) -> bool:
        return (
            "_target_" in node
            and heads == set(node.get("heads") or ())
            and getattr(get_class(node["_target_"]), "learns", False) == learns
        )

    return choices("teacher", fits)


def check_learning(objective: Objective, learns: bool, micro_batch_size: int | None) -> None:
    """Refuses a teacher that is to learn by an objective that has nothing for it, one that is not although its
    objective has, and one that learns in micro-batches, which keep no gradient of a teacher.

    Raises:
        ValueError: one sentence that names the key to change.
    """
    name = type(objective).__name__
    if learns != ("trained teacher" in objective.requires):
        found = (
            "trains its teacher, but the config has one that only follows",
            "reads a teacher that nothing trains, but the config has one that learns",
        )[learns]
        raise ValueError(f"{name} {found}: choose {teachers_with(objective)}another objective")
    if learns and micro_batch_size is not None:
        raise ValueError(
            f"data.micro_batch_size is {micro_batch_size}, but {name} trains its teacher, of which micro-batches keep "
            "no gradient: set data.micro_batch_size=null or choose another objective"
        )


def check_wiring(
    objective: Objective,
    has_teacher: bool,
    mixer: Mixing | None,
    feature_mixer: FeatureMixer | None,
    num_views: int,
    student_views: Sequence[int] | None,
    teacher_views: Sequence[int] | None,
) -> None:
    """Refuses parts that do not fit together, in one sentence that names the key to change."""
    name = type(objective).__name__
    if "teacher" in objective.requires and not has_teacher:
        raise ValueError(
            f"{name} needs a teacher, but the config has teacher=none: choose "
            f"{teachers_with(objective)}another objective"
        )
    if has_teacher and "teacher" not in objective.requires and not (mixer and isinstance(mixer.rule, LearnedRule)):
        raise ValueError(
            f"{name} reads no teacher, but the config has one: choose teacher=none, or an objective that needs one"
        )
    reads = objective.requires | objective.accepts
    mixtures = "added mixtures" if mixer is not None and mixer.add else "mixer"
    if mixer is None and objective.requires & {"mixer", "added mixtures"}:
        added = not reads & {"mixer"}
        raise ValueError(
            f"{name} needs a mixer, but the config has mixer=none: {'set mixer.add=true and ' * added}choose "
            f"{choices('mixer', lambda node: node.get('add') in (added, False))}another objective"
        )
    if mixer is not None and not reads & {"mixer", "added mixtures"}:
        raise ValueError(
            f"{name} does not read what {type(mixer.rule).__name__} produces: choose "
            f"{methods(objective, lambda kind: mixtures in kind.requires | kind.accepts)}mixer=none"
        )
    if mixer is not None and mixtures not in reads:
        where = ("beside the clean views", "in the place of clean views")
        raise ValueError(
            f"{name} reads mixtures {where[mixer.add]}, but mixer.add is {str(mixer.add).lower()}, which puts them "
            f"{where[not mixer.add]}: set mixer.add={str(not mixer.add).lower()}"
        )
    if mixer is not None and mixer.hidden and "keys of mixtures" in objective.requires:
        raise ValueError(
            f"{name} needs keys of mixtures, but {type(mixer.rule).__name__} mixes inside the student, where the "
            "teacher does not see it: choose another mixer"
        )
    if mixer is not None and feature_mixer is not None and "positive pairs" in feature_mixer.needs:
        raise ValueError(
            f"{type(feature_mixer).__name__} changes positive pairs, but with {type(mixer.rule).__name__} a positive "
            "is a mixture of two: set mixer=none or feature_mixer=none"
        )
    if mixer is not None and max(mixer.views) >= num_views:
        raise ValueError(
            f"mixer.views is {mixer.views}, but the views are numbered 0 to {num_views - 1}: choose more views "
            "(views=<name>), or set mixer.views"
        )
    encoded = range(num_views) if student_views is None else student_views
    if mixer is not None and not mixer.add and not set(mixer.views) <= set(encoded):
        raise ValueError(
            f"mixer.views is {mixer.views}, but the student encodes {list(encoded)} only, and a teacher sees its "
            "views clean: name views of the student"
        )
    if (
        mixer is not None
        and isinstance(mixer.rule, LearnedRule)
        and mixer.rule.needs_clean
        and not mixer.add
        and set(encoded) <= set(mixer.views)
    ):
        mixed = len(mixer.views)
        several = methods(objective, lambda kind: "mixer" in kind.accepts and kind.num_views[0] > mixed)
        raise ValueError(
            f"{type(mixer.rule).__name__} compares mixtures with clean views, but the student encodes none: choose "
            f"{several}another mixer"
        )
    missing = set() if feature_mixer is None else feature_mixer.needs - objective.accepts
    if missing:
        needs = feature_mixer.needs if feature_mixer is not None else set()
        raise ValueError(
            f"{type(feature_mixer).__name__} needs {' and '.join(sorted(missing))}, but {name} has none: "
            f"choose {methods(objective, lambda kind: needs <= kind.accepts)}feature_mixer=none"
        )
    for key, chosen in (("student_views", student_views), ("teacher_views", teacher_views)):
        if chosen is not None and (not chosen or not all(0 <= v < num_views for v in chosen)):
            raise ValueError(
                f"{key} is {list(chosen)}, but the views are numbered 0 to {num_views - 1}: choose more views "
                f"(views=<name>), or set {key}"
            )
        fewest, most = objective.num_views
        count = num_views if chosen is None else len(chosen)
        if (key == "student_views" or has_teacher) and not fewest <= count <= (most or count):
            wanted = f"{fewest}" if fewest == most else f"at least {fewest}"
            raise ValueError(
                f"{name} takes {wanted} view{'s' * (most != 1)} of a sample from each encoder, but {key} names {count} "
                f"of the {num_views} that views.groups make: choose other views, change a group's count, or set {key}"
            )


def check_places(objective: Objective, views: ViewMaker, micro_batch_size: int | None) -> None:
    """Refuses an objective of maps or tokens in micro-batches, which keep one vector a sample, and one that has to know
    where views were cut on views that do not tell.

    Raises:
        ValueError: one sentence that names the key to change.
    """
    name = type(objective).__name__
    maps = bool({"maps", "encoder"} & objective.requires) or "layers" in objective.reads
    if (maps or objective.token_reads) and micro_batch_size is not None:
        raise ValueError(
            f"data.micro_batch_size is {micro_batch_size}, but {name} reads {'maps' if maps else 'tokens'}, of which "
            "micro-batches keep nothing: set data.micro_batch_size=null or choose another objective"
        )
    told = views.tells if isinstance(views, Telling) else frozenset()
    for what, words in TOLD.items():
        if what in objective.requires and what not in told:
            which = "views of pictures alone, or " if what == "geometry" else choices("views", telling(what))
            kinds = " and ".join(dict.fromkeys(views.modality))
            raise ValueError(
                f"{name} has to know {words}, which these views of {kinds} do not tell: choose {which}another objective"
            )


def telling(what: str) -> Callable[[Any], bool]:
    """Whether the node of a view maker, or of a part of it, is of a class that tells something."""

    def fits(node: Any) -> bool:
        if not isinstance(node, dict):
            return False
        own = getattr(get_class(node["_target_"]), "tells", ()) if "_target_" in node else ()
        return what in own or any(map(fits, node.values()))

    return fits


def check_modalities(views: Sequence[str], data: Sequence[str], name: str) -> None:
    """Refuses views of modalities that the data have not, or have beside the one that samples are of.

    Args:
        views: modality of each view.
        data: modalities of a sample, the main one first.
        name: of the data.
    """

    def fits(node: dict[str, Any]) -> bool:
        there = node.get("modalities") or ("image",)
        return set(views) <= set(there) and views[0] == there[0]

    missing = [modality for modality in views if modality not in data]
    if not missing and views[0] == data[0]:
        return
    others = f"choose {choices('data', fits)}views of {' and '.join(data)}"
    if missing:
        raise ValueError(f"{name} has no {' and no '.join(dict.fromkeys(missing))}: {others}")
    raise ValueError(f"{name} has {views[0]} beside its {data[0]}, but the views are of {views[0]} first: {others}")


def check_mixable(mixer: Mixing, shapes: Sequence[tuple[int, ...]], modality: Sequence[str]) -> None:
    """Refuses to mix views that are no pictures.

    Args:
        mixer: mixes pixels, or maps inside a network of pictures.
        shapes: of each view of one sample; that of a picture is C, h, w.
        modality: of each view.
    """
    for view in mixer.views:
        if len(shapes[view]) != 3:
            raise ValueError(
                f"{type(mixer.rule).__name__} mixes pictures, but view {view} is of modality {modality[view]}: set "
                "mixer=none, or choose a method without a mixer"
            )


def maskers(fits: Callable[[type[Masker]], bool]) -> str:
    """``masker=block, random or ``: the maskers whose class fits."""
    return choices("masker", lambda node: "_target_" in node and fits(get_class(node["_target_"])))


def check_masks(objective: Objective, masker: Masker | None, student: Encoder, micro_batch_size: int | None) -> None:
    """Refuses maskers and objectives, backbones and micro-batches that do not fit together, in one sentence.

    Args:
        objective: says whether it reads masks, and what is to become of hidden patches.
        masker: hides them; ``None``: nothing is hidden.
        student: whose backbone drops or replaces them.
        micro_batch_size: samples that are encoded at once; ``None``: all.
    """
    name, backbone = type(objective).__name__, student.backbone
    hides = backbone.masked_tokens if isinstance(backbone, Patched) else None
    if masker is None:
        if "masks" in objective.requires:
            fitting = maskers(lambda other: True)
            raise ValueError(f"{name} needs masks, but the config has masker=none: choose {fitting}another objective")
        if hides is not None:
            raise ValueError(
                f"backbone.masked_tokens is {hides}, but the config has masker=none, so nothing is hidden: set "
                "backbone.masked_tokens=null or choose a masker"
            )
        return
    kind = type(masker).__name__
    if "masks" not in objective.requires | objective.accepts:
        raise ValueError(
            f"{name} does not read which patches {kind} hides: choose "
            f"{methods(objective, lambda other: 'masks' in other.requires | other.accepts)}masker=none"
        )
    if "targets" in objective.requires and not masker.gives_targets:
        giving = maskers(lambda other: other.gives_targets)
        raise ValueError(
            f"{name} needs blocks to be predicted, which {kind} does not name: choose {giving}another objective"
        )
    if micro_batch_size is not None:
        raise ValueError(
            f"data.micro_batch_size is {micro_batch_size}, but {name} reads patches, which are not kept for a whole "
            "batch: set data.micro_batch_size=null"
        )
    if not isinstance(backbone, Patched) or backbone.patch_dim is None:
        raise ValueError(
            f"{kind} hides patches, but {backbone.name} has none: choose another backbone, such as backbone=vit_tiny, "
            "or masker=none"
        )
    for wanted in ("drop", "replace", "mark"):
        if f"masked_tokens={wanted}" in objective.requires and hides != wanted:
            raise ValueError(
                f"{name} needs backbone.masked_tokens={wanted}, but it is {hides or 'null'}: set it, or choose another "
                "objective"
            )
    if hides is None:
        raise ValueError(f"{kind} hides patches, but backbone.masked_tokens is null: set it to drop or replace")
    if masker.fills != (hides == "mark"):
        filling = maskers(lambda other: other.fills)
        cure = "set it to mark" if masker.fills else f"set it to drop or replace, or choose {filling}another masker"
        raise ValueError(
            f"{kind} {'shows other' if masker.fills else 'shows no other'} patches at the hidden places, but "
            f"backbone.masked_tokens is {hides}: {cure.removesuffix(' or another masker')}"
        )
    if hides == "drop" and not masker.even:
        raise ValueError(
            f"{kind} hides more patches in some samples than in others, but backbone.masked_tokens is drop, which "
            "needs as many in each: set it to replace, or masker.probability=1 and both numbers of masker.ratio alike"
        )
    if student.beside:
        raise ValueError(
            f"{kind} hides patches from one backbone, but student.beside has further ones, which would see them: set "
            "masker=none or choose another method"
        )
