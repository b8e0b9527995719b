"""Files and folders that somebody else has written: none runs code, writes outside, reaches the network or hangs.

Every case lies in a folder of its own, with a program ``gs`` and others on the PATH that would leave a trace. Each ends
in one sentence within two seconds, leaves the folder as it was, and the environment, too.
"""

import csv
import io
import json
import os
import socket
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ssl_framework.data.images.decoding import open_image, read_image
from ssl_framework.data.images.litdata_shards import read_index
from ssl_framework.data.images.store import read_description
from ssl_framework.data.images.webdataset_shards import TarReader, list_shards, read_sizes
from ssl_framework.evaluation.foreign import Foreign, foreign_config
from ssl_framework.loading import load_run_config
from ssl_framework.report.escaping import FORMULA, csv_cell, csv_text, markdown_cell, terminal_text
from ssl_framework.report.render import as_csv, escaped, latex, markdown, page, plot
from ssl_framework.report.results_csv import read_csv, write_csv
from ssl_framework.report.sheet import Entry, Sheet
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.messages import error_line
from ssl_framework.runs.plain import plain_json, printable
from ssl_framework.study.cells import cells_of
from ssl_framework.study.request import study_of

SECONDS = 2.0
"""Of computing; of a machine that does much else, ten times as many by the clock."""

PROGRAMS = ("gs", "curl", "gsutil", "sh", "touch", "convert")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with programs that leave ``ran`` where they are called, and no network."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in PROGRAMS:
        (programs / name).write_text(f"#!/bin/bash\necho {name} >> {tmp_path}/ran\n")
        (programs / name).chmod(0o755)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: pytest.fail(f"the network was asked: {args}"))
    return tmp_path


@contextmanager
def harmless(place: Path) -> Iterator[None]:
    """Within it nothing is run, written or waited for."""
    before, environment = listing(place), dict(os.environ)
    started, computing = time.monotonic(), time.process_time()
    yield
    assert time.process_time() - computing < SECONDS and time.monotonic() - started < 10 * SECONDS
    assert listing(place) == before and dict(os.environ) == environment


def listing(place: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.lstat().st_size) for path in place.rglob("*"))


def sentence(place: Path, act: Callable[[], object]) -> str:
    """What is said when the act is refused."""
    with harmless(place), pytest.raises((ValueError, FileNotFoundError)) as refused:
        act()
    said = error_line(refused.value)
    assert "\n" not in said and "\x1b" not in said and len(said) < 1000
    return said


# --- config.yaml


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


def part(target: str, **arguments: Any) -> str:
    return json.dumps({"part": {"_target_": target, **arguments}})


DATA = "ssl_framework.data.images."
LOGGERS = "lightning.pytorch.loggers."
WEB = DATA + "webdataset_shards.WebDatasetSource"
BACKBONE = "ssl_framework.models.backbone.Backbone"
CONFIGS = {
    "alias bomb": (bomb(5), "an anchor or alias"),
    "longer alias bomb": (bomb(30), "an anchor or alias"),
    "alias of itself": ("a: &a [*a]", "an anchor or alias"),
    "deep lists": ("a: " + "[" * 100_000 + "]" * 100_000, "levels"),
    "deep mappings": ("{a: " * 50_000 + "1" + "}" * 50_000, "levels"),
    "too long": ("a: " + "x" * (1 << 21), "more than 1,048,576 bytes"),
    "too many": ("[" + "1," * 300_000 + "1]", "more than 20,000 values"),
    "python tag": ("a: !!python/object/apply:os.system [touch ran]", "the tag"),
    "path tag": ("a: !!python/object/apply:pathlib.PosixPath [r]", "the tag"),
    "own tag": ("a: !run ran", "the tag"),
    "merge key": ("a: {<<: {_target_: os.system}}", r"merge key"),
    "key twice": ("a: 1\na: 2", "the key 'a' twice"),
    "key of a list": ("? [a]\n: 1", "no text"),
    "two documents": ("a: 1\n---\na: 2", "second document"),
    "no mapping": ("- 1", "not a mapping"),
    "no yaml": ("a: [", "no YAML"),
    "half": ("objective:\n  _target_: ssl_fr", "nothing was loaded"),
    "huge number": ("a: " + "9" * 10_000, "no number"),
    "escape sequence": (r'a: "\e]0;ran\a"', "control character"),
    "interpolation": ("a: ${oc.env:HOME}", "interpolation"),
    "interpolation in a key": ("${oc.env:HOME}: 1", "interpolation"),
    "interpolation within": ("a: [{b: 'x${oc.create:{}}'}]", "interpolation"),
    "missing value": ("a: ???", "missing"),
    "shell": (part("os.system", command="touch ran"), "asks to construct"),
    "positional": (part("torch.optim.SGD", _args_=[1]), "with _args_"),
    "function": (part("ssl_framework.runs.folder.write", path="ran", text="x"), "asks to construct"),
    "writer of a logger": (part(LOGGERS + "csv_logs.ExperimentWriter", log_dir="ran"), "asks to construct"),
    "writer of the package": (part("ssl_framework.training.metrics_log.MetricsCSV", folder="ran"), "asks to"),
    "reader of shards": (part(DATA + "webdataset_shards.TarReader", shards=["pipe:touch ran"]), "asks to construct"),
    "module of torch": (part("torch.nn.Linear", in_features=10**9, out_features=10**9), "asks to construct"),
    "another name": (part("ssl_framework.evaluation.foreign.Backbone", name="x"), "asks to construct"),
    "pipe as shards": (part(WEB, root="r", train_shards="pipe:touch ran"), "plain paths only"),
    "one of several shards": (part(WEB, root="r", train_shards=["a", "pipe:touch ran"]), "plain paths only"),
    "sizes of a pipe": (part(WEB, root="r", train_sizes="pipe:touch ran"), "plain paths only"),
    "server": (part(WEB, root="r", train_shards="http://127.0.0.1/0.tar"), "plain paths only"),
    "bucket": (part(DATA + "litdata_shards.LitDataSource", root="s3://x"), "plain paths only"),
    "device": (part(DATA + "files.FilesSource", root="r", targets="/dev/zero"), "of the system"),
    "around to a device": (part(DATA + "files.FilesSource", root="/usr/../dev"), "of the system"),
    "store of a process": (part(DATA + "folder.FolderSource", root="r", store="/proc/self"), "of the system"),
    "labels of a number": (part("ssl_framework.data.pseudo_labels.LabelFile", path=7), "no path"),
    "name that climbs": (part(LOGGERS + "TensorBoardLogger", save_dir="x", name="../../ran"), "no plain name"),
    "version that climbs": (part(LOGGERS + "CSVLogger", save_dir="x", version="/ran"), "no plain name"),
    "argument of wandb": (part(LOGGERS + "WandbLogger", settings={"base_url": "http://x"}), "not given"),
    "weights from the hub": (part(BACKBONE, options={"pretrained_cfg_overlay": {"hf_hub_id": "a/b"}}), "weights"),
    "weights of a file": (part(BACKBONE, options={"checkpoint_path": "/etc/passwd"}), "weights"),
    "weights of a cache": (part(BACKBONE, options={"pretrained": "yes"}), "weights"),
    "option that is a path": (part(BACKBONE, options={"act_layer": "../../x"}), "no plain value"),
    "network of the hub": (part(BACKBONE, name="hf-hub:a/b"), "no plain name"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_is_refused(name: str, place: Path) -> None:
    text, said = CONFIGS[name]
    run = place / "run"
    run.mkdir()
    (run / "config.yaml").write_text(text)
    assert said in sentence(place, lambda: load_run_config(run))


def test_a_config_that_never_ends_is_no_file(place: Path) -> None:
    os.mkfifo(place / "config.yaml")
    assert "it is not a run folder" in sentence(place, lambda: load_run_config(place))
    os.mkfifo(place / "targets.csv")
    (place / "run").mkdir()
    (place / "run" / "config.yaml").write_text(
        part(DATA + "files.FilesSource", root="r", targets=str(place / "targets.csv"))
    )
    assert "neither a file nor a folder" in sentence(place, lambda: load_run_config(place / "run"))


def test_a_config_reads_as_before(place: Path) -> None:
    """Numbers, truth values, null and texts are those of OmegaConf, which has written them."""
    from omegaconf import OmegaConf

    texts = ["1e-3", "yes", "", "x: y", "ü", "=", "~", "1_0", "0x1", "2020-01-01", "null"]
    content = {"a": [1, 1e-3, 2.5e10, True, None, *texts], "b": {"c": {}, "d": []}}
    (place / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(content)))
    assert OmegaConf.to_container(load_run_config(place)) == content
    assert OmegaConf.to_container(OmegaConf.load(place / "config.yaml")) == content


# --- files of weights


METADATA = {
    **{
        target: ({"noise": {"_target_": target, "path": "ran"}}, "trained_with has 'noise'")
        for target in ("pathlib.Path.touch", "os.makedirs", "numpy.load", "joblib.load", "torch.load", "torch.hub.load")
    },
    "views": ({"groups": [{"_target_": "os.makedirs"}]}, "trained_with has 'groups'"),
    "mapping as a number": ({"image_size": {"_target_": "os.makedirs", "name": "ran"}}, "image_size="),
    "mapping in a list": ({"mean": [{"_target_": "os.makedirs", "name": "ran"}]}, "mean="),
    "huge size": ({"image_size": 10**9}, "image_size="),
    "text as a size": ({"image_size": "${oc.env:HOME}"}, "image_size="),
    "no number": ({"std": [float("nan")]}, "std="),
    "nothing to divide by": ({"std": [0.0]}, "std="),
    "channels": ({"channels": 10**6}, "channels="),
    "target among options": ({"options": {"x": {"_target_": "os.makedirs", "name": "ran"}}}, "options="),
    "target as an option": ({"options": {"_target_": "os.makedirs"}}, "options="),
    "weights of a file": ({"options": {"checkpoint_path": "payload"}}, "options="),
    "weights of the hub": ({"options": {"pretrained": True}}, "options="),
    "overlay": ({"options": {"pretrained_cfg_overlay": {"url": "http://x"}}}, "options="),
    "path as an option": ({"options": {"norm_layer": "../x"}}, "options="),
    "depth": ({"options": {"depth": 10**9}}, "options="),
    "no mapping": ([1], "not a mapping"),
    "layout": ({"channels_last": ["${x}"]}, "channels_last="),
}


def exported(path: Path, trained_with: str) -> Path:
    save_file({"x": torch.zeros(1)}, str(path), metadata={"timm_name": "ssl_tiny", "trained_with": trained_with})
    return path


@pytest.mark.parametrize("name", METADATA)
def test_what_a_file_of_weights_says_of_itself_is_never_constructed(name: str, place: Path) -> None:
    content, said = METADATA[name]
    path = exported(place / "net.safetensors", json.dumps(content))
    assert said in sentence(place, lambda: Foreign.read(str(path), None, None))


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "x" * 100_000], ids=["deep", "half", "long"])
def test_metadata_that_is_no_json(text: str, place: Path) -> None:
    path = exported(place / "net.safetensors", text)
    assert "trained_with" in sentence(place, lambda: Foreign.read(str(path), None, None))


@pytest.mark.parametrize("name", ["hf-hub:a/b", "local-dir:/etc", "../x", ""])
def test_metadata_names_models_of_timm_only(name: str, place: Path) -> None:
    path = place / "net.safetensors"
    save_file({"x": torch.zeros(1)}, str(path), metadata={"timm_name": name})
    assert "timm has no model" in sentence(place, lambda: Foreign.read(str(path), None, None))


def test_what_an_export_says_goes_into_the_views(place: Path) -> None:
    content = {"image_size": 8, "channels": 1, "mean": [0.3], "std": [0.3], "options": {"drop_rate": 0.1}}
    path = exported(place / "net.safetensors", json.dumps({**content, "channels_last": ["cpu"]}))
    with harmless(place):
        cfg = foreign_config(Foreign.read(str(path), None, None))
    assert (cfg.views.image_size, cfg.views.mean, cfg.backbone.options) == (8, [0.3], {"drop_rate": 0.1})


# --- images


def encoded(format: str, **settings: Any) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, format, **settings)
    return out.getvalue()


def huge_png(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its data have not."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(touch ran) system\nshowpage\n"
IMAGES = {
    "eps": (EPS, "no image of a known format"),
    "pcx": (encoded("PCX"), "no image of a known format"),
    "ico": (encoded("ICO"), "no image of a known format"),
    "tga": (encoded("TGA"), "no image of a known format"),
    "pdf": (encoded("PDF"), "no image of a known format"),
    "square bomb": (huge_png(50_000, 50_000), "pixels"),
    "bomb below Pillow's": (huge_png(12_000, 12_000), "more than the limit"),
    "empty": (b"", "no image of a known format"),
    "script": (b"#!/bin/sh\ntouch ran\n", "no image of a known format"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_of_the_listed_formats(name: str, place: Path) -> None:
    content, said = IMAGES[name]
    path = place / "x.png"
    path.write_bytes(content)
    assert said in sentence(place, lambda: read_image(path, 8, 3))
    assert said in sentence(place, lambda: read_image(io.BytesIO(content), 8, 3))
    assert said in sentence(place, lambda: open_image(path))


def test_the_listed_formats_are_read(place: Path) -> None:
    for format in ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM"):
        (place / "x").write_bytes(encoded(format))
        assert read_image(place / "x", 8, 3).shape == (3, 8, 8)


# --- shards and stores


def shard(path: Path, mode: Any = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        member = tarfile.TarInfo("0.png")
        member.size = len(content := encoded("PNG"))
        archive.addfile(member, io.BytesIO(content))
    return path


PIPES = ("pipe:touch ran", "pipe://touch ran", "PIPE:touch ran")
ADDRESSES = (*PIPES, "ssh://x/0.tar", "htgs://x", "ais://x", "-", "0.tar")
COUNTS = ("true", "1e3", "-1", "99999999999999999999")


@pytest.mark.parametrize("address", [*ADDRESSES, "gs://x;touch ran", "https://x/$(touch ran)", "hf://x'y"])
def test_shards_are_checked_where_they_are_opened(address: str, place: Path) -> None:
    (place / "sizes.json").write_text(json.dumps({address.rpartition("/")[2]: 1}))
    assert "the shard" in sentence(place, lambda: TarReader([address], place / "sizes.json", 1))


def test_other_files_than_plain_tar_are_no_shards(place: Path) -> None:
    os.mkfifo(place / "0.tar")
    assert "is no file" in sentence(place, lambda: TarReader([str(place / "0.tar")], None, 1))
    for mode in ("w:gz", "w:bz2", "w:xz"):
        packed = shard(place / "1.tar", mode)
        assert "is compressed" in sentence(place, lambda packed=packed: TarReader([str(packed)], None, 1))


@pytest.mark.parametrize("pattern", ["{0..999999999}.tar", "{0..99999999999999999999}.tar", "{a,b}" * 40 + ".tar"])
def test_patterns_do_not_count_for_ever(pattern: str, place: Path) -> None:
    assert sentence(place, lambda: list_shards(place, pattern))


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", "\xff", *(f'{{"0.tar": {count}}}' for count in COUNTS)])
def test_sizes_are_numbers(content: str, place: Path) -> None:
    (place / "sizes.json").write_bytes(content.encode("latin-1"))
    assert "sizes.json" in sentence(place, lambda: read_sizes(place / "sizes.json", [str(place / "0.tar")]))


def test_other_descriptions_too_deep_are_refused(place: Path) -> None:
    for name in ("store.json", "index.json", "run.json"):
        (place / name).write_text("[" * 100_000)
    assert sentence(place, lambda: read_description(place))
    assert sentence(place, lambda: read_index(place / "index.json", "image", "label"))
    assert sentence(place, RunFolder(place).summary)


def test_counted_samples_of_a_loaded_run_are_not_written_down(place: Path) -> None:
    path = shard(place / "0.tar")
    with harmless(place):
        assert TarReader([str(path)], None, 1, keep_sizes=False).counts == [1]


# --- studies


STUDY = {
    **{"title": "t", "paper": "p", "question": "q", "metrics": {"m": "knn_top1"}, "seeds": [0], "axis": "x"},
    **{"rows": {"a": ["method=simclr"]}, "columns": {"b": []}, "scales": {"small": {"overrides": [], "note": "n"}}},
}
STUDIES = {
    "noise": ({"rows": {"a": ["+views.noise={_target_: os.makedirs, _args_: [ran]}"]}}, "asks to construct"),
    "key by key": ({"rows": {"a": ["+views.noise._target_=os.makedirs"]}}, "asks to construct"),
    "column": ({"columns": {"a": ["objective._target_=subprocess.Popen"]}}, "asks to construct"),
    "scale": ({"scales": {"small": {"overrides": ["optimizer._target_=torch.load"], "note": ""}}}, "asks to construct"),
    "callback": ({"rows": {"a": ["+hydra.callbacks.x._target_=os.makedirs"]}}, "only the command line can say"),
    "launcher": ({"rows": {"a": ["hydra/launcher=submitit_local"]}}, "only the command line can say"),
    "trust": ({"rows": {"a": ["trust=[x]"]}}, "only the command line can say"),
    "attribute": ({"metrics": {"m": "{row.__class__}"}}, "neither"),
    "wide metric": ({"metrics": {"m": "{row:>1000000000}"}}, "is a name, too"),
}  # fmt: skip


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_of_a_stranger_names_no_foreign_class(name: str, place: Path) -> None:
    changes, said = STUDIES[name]
    (place / "s.yaml").write_text(json.dumps(STUDY | changes))
    assert said in sentence(place, lambda: cells_of(study_of(str(place / "s.yaml")), "small"))


def test_a_study_file_is_plain_yaml(place: Path) -> None:
    (place / "s.yaml").write_text(bomb(9))
    assert "anchor or alias" in sentence(place, lambda: study_of(str(place / "s.yaml")))
    (place / "s.yaml").write_text(json.dumps(STUDY))
    assert study_of(str(place / "s.yaml")).foreign


# --- what is written of them


FORMULAS = ("=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1")


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_is_a_formula(text: str) -> None:
    assert not FORMULA.match(csv_cell(text)) and csv_text(csv_cell(text)) == printable(text)


def test_numbers_stay_numbers_in_a_table() -> None:
    assert [csv_cell(x) for x in (-1, -1.5, "-1.5", "+3", "1e-3", "", "a=b", None)] == [
        *(-1, -1.5, "-1.5", "+3", "1e-3", "", "a=b", None)
    ]


ROW, COLUMN, METRIC = '=HYPERLINK("x")', "<script>x</script>$\\frac{a$|\x1b[31m", "@m[/red]"


def sheet() -> Sheet:
    entries = tuple(
        Entry(ROW, column, seed, "done", {METRIC: 50.0 + seed}, error="=1")
        for column in (COLUMN, "+b")
        for seed in (0, 1)
    )
    return Sheet("t", "$x_$", (ROW,), (COLUMN, "+b"), (METRIC,), (0, 1), entries)


def test_names_are_text_in_every_form() -> None:
    made = sheet()
    table = as_csv(made) + write_csv(made.entries)
    found = [cell for line in csv.reader(io.StringIO(table)) for cell in line]
    assert len(found) > 50 and not any(cell.startswith(tuple("=+@")) for cell in found)
    assert "\x1b" not in table and '\'=HYPERLINK(""x"")' in table
    again = read_csv(write_csv(made.entries))
    assert again[0] == made.entries[0]._replace(column=printable(COLUMN))
    assert "<script" not in markdown(made) and "\x1b" not in markdown(made) and "\\|" in markdown(made)
    assert "<script>x" not in page(made, [COLUMN]) and "&lt;script&gt;" in page(made, [COLUMN])
    assert "\x1b" not in latex(made) and r"\$\textbackslash{}frac\{a\$" in latex(made)
    assert plot(made, METRIC) is not None  # $...$ is no formula


def test_a_note_in_latex_stays_a_comment() -> None:
    from ssl_framework.report.sheet import Published

    made = sheet()._replace(published=Published("w\n\\input{/etc/passwd}", "s\u2028\\x", "paper", {}))
    assert all(line.startswith(("%", "\\", "=")) or not line or "&" in line for line in latex(made).splitlines())
    assert not any(line.startswith("\\input") for line in latex(made).splitlines())
    assert escaped("a\n\\input{x}") == r"a \textbackslash{}input\{x\}"


def test_a_terminal_gets_no_control_sequences(place: Path) -> None:
    evil = "\x1b]0;title\x07\x1b[2J\x9b31m\u202e\u2066x"
    assert set(printable(evil)) <= set("\ufffd]0;title[2J31mx") and "\x1b" not in terminal_text(evil)
    assert "\x1b" not in error_line(ValueError(evil)) and markdown_cell("a\n| b") == "a \\| b"
    (place / "run.json").write_text(json.dumps({"method": evil, "overrides": [evil], evil: 1}))
    about = RunFolder(place).read_about()
    assert not any("\x1b" in text or "\u202e" in text for text in (about["method"], *about["overrides"], *about))
    (place / "error.txt").write_text(evil)
    assert "\x1b" not in RunFolder(place).read_error()
    assert plain_json('{"a": "\\u001b"}', "x") == {"a": "\ufffd"} and plain_json('{"a": "ü\\n"}', "x") == {"a": "ü\n"}


# --- arrays and datasets that run code


def test_datasets_of_torchvision_that_unpickle_are_not_named(place: Path) -> None:
    from ssl_framework.data.images.arrays import TorchvisionSource

    for dataset in ("LSUN", "ImageFolder", "DatasetFolder", "PhotoTour"):
        splits: dict[str, dict[str, bool | str]] = {name: {} for name in ("pretrain", "train", "test")}
        source = TorchvisionSource("x", dataset, "r", False, 3, splits)
        assert "choose one of CIFAR10" in sentence(place, lambda source=source: source.load("train"))
    splits["train"] = {"root": "/etc"}
    assert "splits has root" in sentence(place, lambda: TorchvisionSource("x", "MNIST", "r", False, 3, splits))


def test_arrays_hold_no_objects(place: Path) -> None:
    from ssl_framework.data.images.arrays import read_arrays
    from ssl_framework.data.pseudo_labels import read_pseudo_labels

    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(place / "ran"),)

    np.savez(place / "train.npz", images=np.array([Trap()], dtype=object), allow_pickle=True)
    np.save(place / "labels.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    assert "cannot be read" in sentence(place, lambda: read_arrays(place / "train.npz"))
    assert "cannot be read" in sentence(place, lambda: read_pseudo_labels(place / "labels.npy"))
