"""What the keys of a config must be that no constructor takes; ``arguments`` says the same of those that one takes."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypedDict

from annotated_types import Interval, Len
from omegaconf import DictConfig, OmegaConf

from ssl_framework.arguments import (
    BelowOne,
    Bits,
    Channels,
    Classes,
    Count,
    Fraction,
    Natural,
    NonNegative,
    OpenFraction,
    Pixels,
    Positive,
    Seed,
    Several,
    refuse_values,
)


class Top(TypedDict):
    """Keys at the top."""

    seed: Seed
    resume: str | None
    student: Mapping[str, Any]
    objective: Mapping[str, Any]
    views: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    data: Mapping[str, Any]
    trainer: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    teacher: Mapping[str, Any] | None
    labels: Mapping[str, Any] | None
    sampler: Mapping[str, Any] | None
    pseudo_labels: Mapping[str, Any] | None
    generated: Mapping[str, Any] | None
    report: Mapping[str, Any] | None
    logger: Mapping[str, Any]
    mixer: Mapping[str, Any] | None
    masker: Mapping[str, Any] | None
    feature_mixer: Mapping[str, Any] | None
    student_views: Annotated[Sequence[Natural], Len(1)] | None
    teacher_views: Annotated[Sequence[Natural], Len(1)] | None


class OfTrainer(TypedDict):
    """Keys of ``trainer``."""

    accelerator: Literal["auto", "cpu", "gpu"]
    devices: Literal["auto"] | Annotated[int, Interval(ge=1, le=4096)]  # on one machine; Lightning lists them
    num_nodes: Annotated[int, Interval(ge=1, le=1_000_000)]
    strategy: Literal["ddp", "fsdp"]
    precision: Literal["auto", "32-true", "64-true", "bf16-mixed", "16-mixed"]
    num_threads: Annotated[int, Interval(ge=1, le=4096)] | None  # OpenMP dies of far more
    compile: bool
    compile_views: Literal["auto"] | bool
    max_epochs: Count
    max_steps: Literal[-1] | Count
    max_minutes: Positive | None
    accumulate_grad_batches: Count
    gradient_clip_val: NonNegative | None
    sync_batchnorm: bool
    log_every_n_steps: Count
    collapse_below: OpenFraction | None
    checkpoint_every_n_epochs: Count
    checkpoint_every_n_steps: Count | None
    checkpoint_every_minutes: Positive | None
    keep_best: str | None
    keep_best_mode: Literal["min", "max"]
    keep_best_k: Count
    stop_early: Count | None
    mirror: str | None
    hang_after_minutes: Positive | None
    slurm: bool


class OfData(TypedDict):
    """Keys of ``data``; each data set has some of them."""

    name: str
    modalities: Annotated[Sequence[str], Len(1)]
    root: str | None
    download: bool
    image_size: Pixels
    channels: Channels
    num_classes: Classes | None
    mean: Annotated[Sequence[float], Len(1)]
    std: Annotated[Sequence[Positive], Len(1)]
    blur: bool
    min_crop: Fraction
    hue: Annotated[float, Interval(ge=0, le=0.5)] | None
    batch_size: Several
    micro_batch_size: Count | None
    resident_share: Fraction
    num_workers: Natural | None
    test_fraction: BelowOne
    test_folder: Literal["val", "test"] | None
    table: str | None
    stored_size: Pixels
    bits: Bits | None
    on_error: Literal["refuse", "skip"]
    store: str | None
    num_streams: Count
    shuffle_buffer: Count
    eval_samples: Count
    train_shards: str | Sequence[str]
    test_shards: str | Sequence[str] | None
    train_sizes: str | None
    test_sizes: str | None
    cache: str | None
    dataset: str | None
    image_key: str
    label_key: str
    length: Several
    points: Several
    pairs: Count
    items: Several
    features: Several
    nodes: str
    file: str
    edges: str
    rate: Annotated[int, Interval(ge=1000, le=192_000)]
    mels: Annotated[int, Interval(ge=4, le=512)]
    frames: Annotated[int, Interval(ge=4, le=8192)]
    sound_mean: float
    sound_std: Positive
    tokens: Count
    vocabulary: Count
    words: Mapping[str, Any]
    captions: Mapping[str, Any]
    domains: Several
    train_domains: Annotated[Sequence[str], Len(1)] | None
    parts: Mapping[str, Sequence[str]]
    negatives: Natural
    tasks: Literal["both", "retrieval", "similarity"]
    texts: Mapping[str, Any]
    columns: Mapping[str, str] | None
    languages: Annotated[Sequence[str], Len(1)]
    prompts: Annotated[Sequence[str], Len(1)]
    tokenizer: Literal["words", "bpe", "hf"]
    tokenizer_folder: str | None
    vocabulary_file: str | None
    source: Mapping[str, Any]


class OfSearch(TypedDict):
    """Keys of ``hparams_search``."""

    metric: str


RECORDS = {"": Top, "trainer": OfTrainer, "data": OfData, "hparams_search": OfSearch}
"""Where in the config -> what its keys must be."""


def refuse_settings(cfg: DictConfig) -> None:
    """Refuses values that no run can work with; parts of the config that are not there pass.

    Args:
        cfg: as composed or as stored, resolved or not.

    Raises:
        ValueError: one is not what its record says, in a sentence that names the key.
    """
    for key, record in RECORDS.items():
        node = OmegaConf.select(cfg, key) if key else cfg
        if isinstance(node, DictConfig):
            refuse_values(plain(node), record, key)


def plain(node: DictConfig) -> dict[str, Any]:
    """The keys of a node, interpolations resolved; what is missing (``???``) is left out."""
    return {str(key): value_of(node, str(key)) for key in node if not OmegaConf.is_missing(node, key)}


def value_of(node: DictConfig, key: str) -> Any:
    """One value; of a part as it stands, for what it consists of is looked at elsewhere."""
    value = node[key]
    return OmegaConf.to_container(value, resolve=False) if OmegaConf.is_config(value) else value
