"""Shards: every sample once, in an order of (seed, epoch) alone, for both libraries, on shards made from ``shapes``."""

import http.server
import io
import json
import pickle
import shutil
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from ssl_framework.build import build
from ssl_framework.data.base import Split
from ssl_framework.data.images import shards as shards_module
from ssl_framework.data.images.litdata_shards import write_litdata
from ssl_framework.data.images.shards import Piece, ShardLoader, Shards, cut
from ssl_framework.data.images.webdataset_shards import count_samples, write_webdataset
from ssl_framework.runs.groups import CONFIGS
from ssl_framework.types import Samples
from tests.small_runs import config

NAMES = ("webdataset", "litdata")
WRITE: dict[str, Callable[..., None]] = {"webdataset": write_webdataset, "litdata": write_litdata}
NUM_TRAIN, NUM_TEST, PER_SHARD = 61, 17, 7
"""Nine shards to train on, the last with five samples."""

SMALL = ("data.image_size=16", "data.stored_size=16", "data.batch_size=8", "data.num_streams=4", "data.num_workers=0")


def as_png(image: Tensor) -> bytes:
    """[3, S, S] uint8 -> the bytes of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def shapes() -> dict[str, Split]:
    """The images that the shards are made of."""
    cfg = config(f"data.source.num_train={NUM_TRAIN}", f"data.source.num_test={NUM_TEST}", "data.image_size=16")
    source = build(cfg.data.source)
    return {split: source.load(split) for split in ("train", "test")}


@pytest.fixture(scope="module")
def root(shapes: dict[str, Split], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """<library>/train and <library>/test."""
    folder = tmp_path_factory.mktemp("shards")
    for split, images in shapes.items():
        assert images.label is not None and isinstance(images.rows, Tensor)
        encoded = list(zip(map(as_png, images.rows), images.label.tolist(), strict=True))
        for name in NAMES:
            WRITE[name](encoded, folder / name / split, PER_SHARD)
    return folder


def source(name: str, root: Path, *overrides: str) -> Any:
    """The source of the shipped config with some values changed."""
    shipped = OmegaConf.create({"data": OmegaConf.load(CONFIGS / "data" / f"{name}.yaml")})
    cfg = OmegaConf.merge(shipped, OmegaConf.from_dotlist([*SMALL, f"data.root={root / name}", *overrides]))
    return build(cfg.data.source)


def pretrain(name: str, root: Path, *overrides: str) -> Shards:
    loaded = source(name, root, *overrides).load("pretrain")
    assert isinstance(loaded, Shards)
    return loaded


def batches(loader: ShardLoader, epoch: int = 0) -> list[Samples]:
    loader.set_epoch(epoch)
    return list(loader)


def indices(loader: ShardLoader, epoch: int = 0) -> list[list[int]]:
    return [batch.index.tolist() for batch in batches(loader, epoch)]


def same(a: list[Samples], b: list[Samples]) -> bool:
    """Whether all tensors are equal."""
    assert len(a) == len(b)
    return all(
        torch.equal(x.inputs, y.inputs) and torch.equal(x.index, y.index) and torch.equal(x.label, y.label)
        for x, y in zip(a, b, strict=True)
    )


# --- who reads what


@pytest.mark.parametrize(("counts", "streams"), [([7] * 8 + [5], 4), ([5, 0, 1, 30, 2], 3), ([10] * 6, 6), ([1, 1], 2)])
def test_streams_have_equal_lengths_and_together_every_sample_once(counts: list[int], streams: int) -> None:
    for epoch in range(3):
        found = cut(counts, streams, seed=0, epoch=epoch)
        lengths = [sum(piece.last - piece.first for piece in stream) for stream in found]
        assert len(found) == streams and max(lengths) - min(lengths) <= 1
        seen = sorted((p.shard, i) for stream in found for p in stream for i in range(p.first, p.last))
        assert seen == [(shard, i) for shard, count in enumerate(counts) for i in range(count)]


def test_shards_of_one_length_are_each_read_by_one_stream() -> None:
    found = cut([10] * 6, 3, seed=0, epoch=0)
    assert all(piece[1:] == (0, 10) for stream in found for piece in stream)
    assert sorted(piece.shard for stream in found for piece in stream) == list(range(6))
    orders = {tuple(piece.shard for stream in cut([10] * 6, 3, 0, e) for piece in stream) for e in range(5)}
    assert len(orders) > 1


# --- batches


@pytest.mark.parametrize("name", NAMES)
def test_an_epoch_has_every_sample_at_most_once_and_leaves_out_less_than_a_batch(name: str, root: Path) -> None:
    shards = pretrain(name, root)
    assert shards.shape == (61, 3, 16, 16) and shards.labelled
    loader = shards.loader(8, seed=0)
    for epoch in range(2):
        seen = [i for batch in indices(loader, epoch) for i in batch]
        assert len(loader) == 7 and len(seen) == len(set(seen)) == 56 and set(seen) <= set(range(61))


@pytest.mark.parametrize("name", NAMES)
def test_with_a_batch_that_divides_the_set_an_epoch_is_all_of_it(name: str, root: Path, tmp_path: Path) -> None:
    shards = pretrain(name, root, "data.num_streams=1")
    assert sorted(i for batch in indices(shards.loader(61, seed=0)) for i in batch) == list(range(61))


@pytest.mark.parametrize("name", NAMES)
def test_images_labels_and_indices_belong_together(name: str, root: Path, shapes: dict[str, Split]) -> None:
    train = shapes["train"]
    for batch in batches(pretrain(name, root).loader(8, seed=0)):
        assert (
            isinstance(batch.inputs, Tensor) and batch.inputs.dtype == torch.uint8 and batch.index.dtype == torch.int64
        )
        assert batch.label is not None and train.label is not None
        assert torch.equal(batch.inputs, train.rows[batch.index])
        assert torch.equal(batch.label, train.label[batch.index])


@pytest.mark.parametrize("name", NAMES)
def test_the_order_is_a_function_of_seed_and_epoch_not_of_history(name: str, root: Path) -> None:
    shards = pretrain(name, root)
    loader = shards.loader(8, seed=0)
    history = [indices(loader, epoch) for epoch in range(3)]
    assert indices(shards.loader(8, seed=0), 2) == history[2]
    assert history[0] != history[1] and indices(shards.loader(8, seed=1), 0) != history[0]
    assert [i for batch in history[0] for i in batch] != sorted(i for batch in history[0] for i in batch)
    assert loader.sampler is loader and loader.epoch == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_takes_equal_shares_of_all_streams(name: str, root: Path) -> None:
    loader = pretrain(name, root).loader(8, seed=0)
    for number, stream in enumerate(cut([7] * 8 + [5], 4, seed=0, epoch=0)):
        own = {7 * piece.shard + i for piece in stream for i in range(piece.first, piece.last)}
        assert all(set(batch[2 * number : 2 * number + 2]) <= own for batch in indices(loader))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(name: str, workers: int, root: Path) -> None:
    alone = batches(pretrain(name, root).loader(8, seed=0), 1)
    assert same(batches(pretrain(name, root, f"data.num_workers={workers}").loader(8, seed=0), 1), alone)


@pytest.mark.parametrize("name", NAMES)
def test_what_workers_get_can_be_sent_to_a_process_that_was_not_forked(name: str, root: Path) -> None:
    loader = pretrain(name, root).loader(8, seed=0)
    sent = pickle.loads(pickle.dumps(loader.streams(2)))
    assert same([part.samples for part in sent], list(loader)[2:])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_read_their_own_samples_and_share_each_global_batch(
    name: str, workers: int, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = pretrain(name, root, f"data.num_workers={workers}")
    whole = indices(shards.loader(8, seed=0))
    parts = []
    for r in range(2):
        monkeypatch.setattr(shards_module, "rank", lambda r=r: r)
        monkeypatch.setattr(shards_module, "world_size", lambda: 2)
        parts.append(indices(shards.loader(8, seed=0)))
    assert all(len(batch) == 4 for part in parts for batch in part)
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("workers", [0, 2])
def test_it_goes_on_after_the_batches_that_were_served_and_then_from_the_start(
    name: str, workers: int, root: Path
) -> None:
    shards = pretrain(name, root, f"data.num_workers={workers}", *(["data.shuffle_buffer=4"] * (name == "webdataset")))
    whole = batches(shards.loader(8, seed=0), 1)
    for served in (5,) if workers else (1, 5, 6):
        resumed = shards.loader(8, seed=0, served=served)
        assert same(batches(resumed, 1), whole[served:])
        assert same(batches(resumed, 1), whole) and resumed.served == 0


@pytest.mark.parametrize("name", NAMES)
def test_served_counts_what_was_handed_out_not_what_was_made_ahead(name: str, root: Path) -> None:
    loader = pretrain(name, root, "data.num_workers=1").loader(8, seed=0)
    counted = [loader.served for _ in loader]
    assert counted == [1, 2, 3, 4, 5, 6, 0]
    stopped = iter(loader)
    first = [next(stopped).index.tolist() for _ in range(3)]
    assert loader.served == 3 and first == indices(pretrain(name, root).loader(8, seed=0))[:3]
    stopped.close()  # type: ignore[attr-defined]


def test_resuming_does_not_open_shards_whose_samples_were_all_served(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = pretrain("webdataset", root, "data.num_streams=1", "data.shuffle_buffer=2")
    opened: list[int] = []
    original = type(shards.reader).samples

    def watch(self: Any, piece: Piece) -> Iterator[Any]:
        opened.append(piece.shard)
        return original(self, piece)

    monkeypatch.setattr(type(shards.reader), "samples", watch)
    whole = batches(shards.loader(8, seed=0))
    first = len(opened)
    assert first == 9 and same(batches(shards.loader(8, seed=0, served=6)), whole[6:])
    assert len(opened) - first <= 4


# --- for evaluators


@pytest.mark.parametrize("name", NAMES)
def test_evaluators_get_images_in_memory(name: str, root: Path, shapes: dict[str, Split]) -> None:
    loaded = source(name, root)
    for split in ("train", "test"):
        images = loaded.load(split)
        assert isinstance(images, Split) and images is loaded.load(split) and images.label is not None
        assert torch.equal(images.rows, shapes[split].rows) and torch.equal(images.label, shapes[split].label)


@pytest.mark.parametrize("name", NAMES)
def test_fewer_images_for_evaluators_come_from_all_shards(name: str, root: Path, shapes: dict[str, Split]) -> None:
    images = source(name, root, "data.eval_samples=18").load("train")
    expected = [7 * shard + i for shard in range(8) for i in range(2)] + [56, 57]  # 18 of 61: two of each shard
    assert torch.equal(images.rows, shapes["train"].rows[expected])


@pytest.mark.parametrize("name", NAMES)
def test_without_labels_or_test_shards_there_is_nothing_to_score(
    name: str, tmp_path: Path, shapes: dict[str, Split]
) -> None:
    WRITE[name](((as_png(image), None) for image in shapes["test"].rows), tmp_path / name / "train", PER_SHARD)
    loaded = source(name, tmp_path, "data.test_shards=null", "data.num_streams=2")
    shards, train, test = (loaded.load(split) for split in ("pretrain", "train", "test"))
    assert not shards.labelled and all(batch.label is None for batch in shards.loader(8, seed=0))
    assert train.shape == (17, 3, 16, 16) and train.label is None
    assert test.shape == (0, 3, 16, 16) and test.label is None


def test_images_of_any_size_and_kind_are_brought_to_one(tmp_path: Path) -> None:
    kinds = [("JPEG", "RGB", (90, 60)), ("PNG", "L", (20, 33)), ("WEBP", "RGB", (40, 24)), ("PNG", "RGBA", (24, 24))]
    encoded = []
    for kind, mode, size in kinds:
        file = io.BytesIO()
        Image.new(mode, size, {"L": 100, "RGB": (200, 30, 90), "RGBA": (0, 0, 0, 0)}[mode]).save(file, kind)
        encoded.append((file.getvalue(), 0))
    for name in NAMES:
        WRITE[name](encoded, tmp_path / name / "train", 1)
        (batch,) = pretrain(name, tmp_path, "data.test_shards=null", "data.num_streams=1").loader(4, seed=0)
        colour = dict(zip(batch.index.tolist(), batch.inputs.float().mean((2, 3)).round().int().tolist(), strict=True))
        for i, expected in enumerate([[200, 30, 90], [100] * 3, [200, 30, 90], [255] * 3]):
            assert max(abs(a - b) for a, b in zip(colour[i], expected, strict=True)) <= 4  # JPEG and WebP lose a little


# --- refusals


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.num_streams=10"], r"data\.num_streams is 10, but there are only 9 shards.* at most 9"),
        (["data.num_streams=0"], r"num_streams is 0: it must be at least 1"),
        (["data.stored_size=8"], r"data\.stored_size=8 is below data\.image_size=16"),
        (["data.channels=2"], r"channels=2"),
    ],
)
def test_settings_that_cannot_be(name: str, overrides: list[str], words: str, root: Path) -> None:
    with pytest.raises(ValueError, match=words):
        pretrain(name, root, *overrides)


def test_streams_that_do_not_divide(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = pretrain("webdataset", root, "data.num_workers=3")
    with pytest.raises(ValueError, match=r"data\.batch_size is 10, which data\.num_streams=4 streams cannot share"):
        shards.loader(10, seed=0)
    monkeypatch.setattr(shards_module, "world_size", lambda: 2)
    with pytest.raises(ValueError, match=r"num_streams is 4, fewer than 2 processes x data\.num_workers=3.*at most 2"):
        shards.loader(8, seed=0)
    monkeypatch.setattr(shards_module, "world_size", lambda: 3)
    with pytest.raises(ValueError, match=r"data\.num_streams is 4 for 3 processes: make it a multiple of 3"):
        shards.loader(12, seed=0)


@pytest.mark.parametrize("name", NAMES)
def test_shards_that_are_not_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no .*/train.* or set data\.test_shards=null"):
        source(name, tmp_path).load("pretrain")
    with pytest.raises(ValueError, match="There is no split 'val'"):
        source(name, tmp_path).load("val")


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_package_is_named_with_what_installs_it(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=rf"needs the package {name}.*pip install -e '\.\[shards\]'"):
        source(name, root)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_in_one_sentence(name: str, workers: int, tmp_path: Path) -> None:
    good = as_png(torch.randint(256, (3, 16, 16), dtype=torch.uint8))
    WRITE[name]([(good, 0), (good[:400], 1)], tmp_path / name / "train", 2)
    overrides = ("data.test_shards=null", "data.num_streams=1", f"data.num_workers={workers}")
    with pytest.raises(ValueError, match=r"^sample .*1 of .*train.* cannot be decoded \(.*\): write") as error:
        batches(pretrain(name, tmp_path, *overrides).loader(2, seed=0))
    assert "\n" not in str(error.value)


# --- webdataset


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_samples_are_counted_once_and_the_numbers_kept(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "webdataset" / "train"
    shutil.copytree(root / "webdataset" / "train", folder)
    written = (folder / "sizes.json").read_text()
    (folder / "sizes.json").unlink()
    assert [count_samples(str(path)) for path in sorted(folder.glob("*.tar"))] == [7] * 8 + [5]
    assert pretrain("webdataset", tmp_path, "data.test_shards=null").shape[0] == 61
    assert json.loads((folder / "sizes.json").read_text()) == json.loads(written)
    assert sorted(path.suffix for path in folder.iterdir()) == [".json"] + [".tar"] * 9


def test_numbers_that_do_not_fit_the_shards_are_refused(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "webdataset" / "train"
    shutil.copytree(root / "webdataset" / "train", folder)
    sizes = json.loads((folder / "sizes.json").read_text())
    for wrong in (6, 8):
        (folder / "sizes.json").write_text(json.dumps({**sizes, "000003.tar": wrong}))
        with pytest.raises(ValueError, match=rf"000003\.tar has 7 samples, but sizes\.json .* says {wrong}"):
            batches(pretrain("webdataset", tmp_path, "data.test_shards=null").loader(4, seed=0))
    (folder / "sizes.json").write_text(json.dumps({"000000.tar": 7}))
    with pytest.raises(ValueError, match=r"sizes\.json gives no number of samples for 000001\.tar: add it, or delete"):
        pretrain("webdataset", tmp_path, "data.test_shards=null")


def test_shards_with_other_content_are_refused(tmp_path: Path) -> None:
    png = as_png(torch.zeros(3, 16, 16, dtype=torch.uint8))
    path, overrides = tmp_path / "webdataset" / "train" / "0.tar", ("data.test_shards=null", "data.num_streams=1")
    for files, words in (
        ({"a.png": png, "b.txt": b"no image"}, r"sample b of .*0\.tar has no jpg, jpeg, png, webp but txt: write"),
        ({"a.png": png, "a.cls": b"3", "b.png": png, "b.cls": b"cat"}, r"sample b of .* has the class 'cat' in cls"),
        ({"a.png": png, "a.cls": b"3", "b.png": png}, r"sample b of .* has the class '' in cls"),
    ):
        write_tar(path, files)
        with pytest.raises(ValueError, match=words):
            batches(pretrain("webdataset", tmp_path, *overrides).loader(2, seed=0))
        (path.parent / "sizes.json").unlink()
    path.write_bytes(b"not a tar file" * 100)
    with pytest.raises(ValueError, match=r"the shard .*0\.tar cannot be read \(.*\): write it again"):
        pretrain("webdataset", tmp_path, *overrides)


def test_a_shard_that_ends_too_early_is_refused(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "webdataset" / "train"
    shutil.copytree(root / "webdataset" / "train", folder)
    content = (folder / "000002.tar").read_bytes()
    (folder / "000002.tar").write_bytes(content[: len(content) // 2 + 100])
    with pytest.raises(ValueError, match=r"000002\.tar cannot be read \(.*\): write it again"):
        batches(pretrain("webdataset", tmp_path, "data.test_shards=null").loader(4, seed=0))


def test_a_shard_that_was_cut_at_any_block_is_refused_and_not_counted(tmp_path: Path) -> None:
    """Also where a shorter tar file without an end is left, which libraries read as a whole one."""
    path = tmp_path / "webdataset" / "train" / "0.tar"
    png = as_png(torch.arange(768).view(3, 16, 16).to(torch.uint8))
    write_tar(path, {f"{number}.png": png for number in range(3)})
    content, overrides = path.read_bytes(), ("data.test_shards=null", "data.num_streams=1", "data.batch_size=2")
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1]
    end = last.offset_data + -(-last.size // 512) * 512
    for length in [*range(0, end + 1, 512), end - 700, end - 1, end + 100]:
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"the shard .*0\.tar cannot be read \(it was cut off"):
            pretrain("webdataset", tmp_path, *overrides)
        assert [file.name for file in path.parent.iterdir()] == ["0.tar"]
    path.write_bytes(content[: end + 512])  # the zeros that fill a tape are no part of it
    assert pretrain("webdataset", tmp_path, *overrides).shape[0] == 3


def test_patterns_name_shards(root: Path) -> None:
    counts = pretrain("webdataset", root, "data.train_shards='train/{000001..000008}.tar'").reader.counts
    assert counts == [7] * 7 + [5]
    counts = pretrain("webdataset", root, "data.train_shards=[train,test]", "data.num_streams=1").reader.counts
    assert counts == [7] * 8 + [5, 7, 7, 3]


@pytest.mark.parametrize("place", ["pipe:touch {}/ran", "s3://bucket/0.tar", "-"])
def test_a_shard_cannot_be_a_command(place: str, tmp_path: Path) -> None:
    (tmp_path / "webdataset").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match=r"give a path or one of file, http|there is no"):
        pretrain("webdataset", tmp_path, f"data.train_shards='{place.format(tmp_path)}'")
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset reads URLs with curl")
def test_shards_are_read_from_a_server(root: Path) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(root / "webdataset" / "train"))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    there = (f"data.train_shards='{url}/00000{{0..8}}.tar'", "data.test_shards=null")
    try:
        far = pretrain("webdataset", root, *there, "data.train_sizes=train/sizes.json")
        assert same(batches(far.loader(8, seed=0)), batches(pretrain("webdataset", root).loader(8, seed=0)))
        with pytest.raises(ValueError, match=r"cannot be counted from afar: set data\.train_sizes"):
            pretrain("webdataset", root, *there)
        (gone := {"sizes": root / "gone.json"})["sizes"].write_text(json.dumps({"gone.tar": 3}))
        with pytest.raises(ValueError, match=r"the shard .*gone\.tar cannot be read"):
            pretrain("webdataset", root, f"data.train_shards={url}/gone.tar", f"data.train_sizes={gone['sizes']}")
    finally:
        server.shutdown()
        server.server_close()


# --- litdata


def rewrite(folder: Path, **changes: Any) -> None:
    """Changes the config in an index."""
    index = json.loads((folder / "index.json").read_text())
    index["config"].update(changes)
    (folder / "index.json").write_text(json.dumps(index))


def spec(**changes: Any) -> str:
    """What describes a sample of an image and a label, as litdata writes it."""
    leaf = {"type": None, "context": None, "children_spec": []}
    whole = {"type": "builtins.dict", "context": '["image", "label"]', "children_spec": [leaf, leaf]}
    return json.dumps([1, {**whole, **changes}])


class Trap:
    """Unpickling it is noticed."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("unpickled",)


def test_an_index_that_unpickles_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    from litdata.streaming.cache import Cache

    folder = tmp_path / "litdata" / "train"
    writer = Cache(str(folder), chunk_size=2)
    for number in range(4):
        writer[number] = {"image": as_png(torch.zeros(3, 16, 16, dtype=torch.uint8)), "label": 0, "extra": Trap()}
    writer.done()
    writer.merge()
    assert pickle.dumps(Trap()) in (folder / "chunk-0-0.bin").read_bytes()
    with pytest.raises(ValueError, match=r"index\.json stores 'extra' as pickle, and only images, numbers and text"):
        pretrain("litdata", tmp_path, "data.test_shards=null", "data.num_streams=1")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data_format": ["bytes", "pickle"]}, "stores 'label' as pickle"),
        ({"data_format": ["graph:pickle", "int"]}, "stores 'image' as graph"),
        ({"data_format": ["bytes", "float"]}, r"stores 'label' as float: set data\.label_key"),
        ({"data_format": ["int", "int"]}, r"has no image under 'image', it has image \(int\), label \(int\): set data"),
        ({"data_spec": spec(type="collections.defaultdict")}, "describes samples of collections.defaultdict"),
        ({"data_spec": spec(type="builtins.list", context="null")}, r"describes samples of builtins\.list"),
        ({"data_spec": None}, "is not an index of samples that are mappings"),
        ({"compression": "zstd"}, "has compression 'zstd': write the shards without"),
        ({"item_loader": "TokensLoader"}, "has item_loader 'TokensLoader'"),
    ],
)
def test_an_index_of_anything_but_images_and_numbers_is_refused(
    changes: dict[str, Any], words: str, root: Path, tmp_path: Path
) -> None:
    shutil.copytree(root / "litdata" / "train", tmp_path / "litdata" / "train")
    rewrite(tmp_path / "litdata" / "train", **changes)
    with pytest.raises(ValueError, match=words):
        pretrain("litdata", tmp_path)


def test_chunks_outside_the_folder_are_refused(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "litdata" / "train"
    shutil.copytree(root / "litdata" / "train", folder)
    index = json.loads((folder / "index.json").read_text())
    index["chunks"][0]["filename"] = "../../elsewhere.bin"
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"names the chunk '../../elsewhere\.bin': chunks must lie beside"):
        pretrain("litdata", tmp_path)


def test_chunks_that_are_damaged_or_not_there_are_named(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "litdata" / "train"
    shutil.copytree(root / "litdata" / "train", folder)
    chunk = folder / "chunk-0-4.bin"
    size = chunk.stat().st_size
    chunk.write_bytes(bytes(size))
    with pytest.raises(ValueError, match=r"^sample \d+ of .*train cannot be .*: write") as error:
        batches(pretrain("litdata", tmp_path).loader(4, seed=0))
    assert "\n" not in str(error.value)
    chunk.write_bytes(bytes(10))
    with pytest.raises(ValueError, match=rf"chunk-0-4\.bin is 10 bytes, but index\.json says {size} bytes"):
        pretrain("litdata", tmp_path)
    chunk.unlink()
    with pytest.raises(ValueError, match=rf"chunk-0-4\.bin is missing, but index\.json says {size} bytes"):
        pretrain("litdata", tmp_path)


def test_other_names_and_image_kinds_of_litdata(tmp_path: Path, shapes: dict[str, Split]) -> None:
    import litdata
    from litdata.streaming.cache import Cache

    pixels = shapes["test"].rows
    for kind in (litdata.Image, litdata.Jpeg):
        writer = Cache(str(tmp_path / "litdata" / kind.__name__), chunk_size=3)
        for number in range(6):
            writer[number] = {"picture": kind(bytes=as_png(pixels[number])), "class": number, "note": "six"}
        writer.done()
        writer.merge()
        keys = ("data.image_key=picture", "data.label_key=class", "data.test_shards=null", "data.num_streams=2")
        (batch,) = pretrain("litdata", tmp_path, *keys, f"data.train_shards={kind.__name__}").loader(6, seed=0)
        far = (batch.inputs.int() - pixels[batch.index].int()).abs().float().mean()
        assert far < (5 if kind is litdata.Jpeg else 1e-9) and torch.equal(batch.label, batch.index)


def test_a_far_folder_is_read_as_a_near_one(root: Path, tmp_path: Path) -> None:
    far = f"data.root='local:{root / 'litdata'}'"
    with pytest.raises(ValueError, match=r"set data\.cache to a folder for their index"):
        pretrain("litdata", root, far)
    shards = pretrain("litdata", root, far, f"data.cache={tmp_path}", "data.num_workers=2")
    assert same(batches(shards.loader(8, seed=0)), batches(pretrain("litdata", root).loader(8, seed=0)))
    assert len(list(tmp_path.rglob("index.json"))) == 1


def test_local_chunks_are_left_as_they_are_and_nothing_is_kept_beside_them(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "litdata"
    shutil.copytree(root / "litdata", folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    batches(pretrain("litdata", tmp_path, "data.num_workers=2").loader(8, seed=0))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not list(home.iterdir())
