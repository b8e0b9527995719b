"""Which parts fit together: every refusal of a combination is here."""

from collections.abc import Callable, Sequence

from ssl_framework.feature_mixers.base import FeatureMixer
from ssl_framework.mixers.base import LearnedRule
from ssl_framework.mixers.mixing import Mixing
from ssl_framework.objectives.base import Objective


def check_modalities(
    needed: Sequence[str], offered: Sequence[str], data: str, others: Callable[[str], Sequence[str]]
) -> None:
    """Refuses views of what the data lack.

    Args:
        needed: modality of each view.
        offered: what a sample of the data consists of.
        data: name of the data set.
        others: modality -> the data sets that have it.

    Raises:
        ValueError: a modality is missing.
    """
    for modality in dict.fromkeys(needed):
        if modality not in offered:
            there = ", ".join(f"data={name}" for name in others(modality)) or f"data with {modality}"
            raise ValueError(
                f"{data} has no {modality}: choose {there}, or views of what it has ({', '.join(offered)})"
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
            f"{name} needs a teacher, but the config has teacher: null: set teacher, or choose another method"
        )
    reads = objective.requires | objective.accepts
    if mixer is None and objective.requires & {"mixer", "added mixtures"}:
        raise ValueError(f"{name} needs a mixer, but the config has mixer=none: choose one with mixer=<name>")
    if mixer is not None and not reads & {"mixer", "added mixtures"}:
        raise ValueError(
            f"{name} does not read what {type(mixer.rule).__name__} produces: "
            "set mixer=none or choose a method that reads it (simclr, mocov2, byol)"
        )
    if mixer is not None and ("added mixtures" if mixer.add else "mixer") not in reads:
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
        raise ValueError(f"mixer.views is {mixer.views}, but the views are numbered 0 to {num_views - 1}")
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
        raise ValueError(
            f"{type(mixer.rule).__name__} compares mixtures with clean views, but the student encodes none: choose a "
            "method that encodes several views (simclr, byol) or another mixer"
        )
    missing = set() if feature_mixer is None else feature_mixer.needs - objective.accepts
    if missing:
        other = "simclr" if "queries of both views" in missing else "mocov2"
        raise ValueError(
            f"{type(feature_mixer).__name__} needs {' and '.join(sorted(missing))}, but {name} has none: "
            f"choose method={other} or feature_mixer=none"
        )
    for key, chosen in (("student_views", student_views), ("teacher_views", teacher_views)):
        if chosen is not None and (not chosen or not all(0 <= v < num_views for v in chosen)):
            raise ValueError(f"{key} is {list(chosen)}, but the views are numbered 0 to {num_views - 1}")
        fewest, most = objective.num_views
        count = num_views if chosen is None else len(chosen)
        if (key == "student_views" or has_teacher) and not fewest <= count <= (most or count):
            wanted = f"{fewest}" if fewest == most else f"at least {fewest}"
            raise ValueError(
                f"{name} takes {wanted} views of a sample from each encoder, but {key} names {count} of the "
                f"{num_views} that views.groups make: change the count of a group, or {key}"
            )
