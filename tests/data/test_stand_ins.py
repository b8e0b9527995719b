"""Broken images in shards end no run where they are to be skipped, and change no order."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssl_framework.data.images.shards import ShardLoader, Shards
from ssl_framework.data.images.stand_ins import StandIns, Undecodable
from ssl_framework.runs.folder import RunFolder
from tests.data.test_shards import NAMES, SMALL, WRITE, as_png, batches, pretrain, same
from tests.small_runs import config, run_in

BROKEN = (3, 17, 18)


def decoded(number: int) -> Tensor:
    """A sample that is its number, of which the negative ones are broken."""
    if number < 0:
        raise Undecodable(f"sample {number}", "negative")
    return torch.tensor([number])


def stream(*numbers: int, skips: bool = True) -> StandIns[int]:
    return StandIns(iter(numbers), decoded, lambda: iter(sorted(numbers)), skips)


def taken(found: StandIns[int], count: int) -> list[int]:
    return [found.take()[0] for _ in range(count)]


def test_the_next_readable_one_stands_in_and_comes_once_more() -> None:
    found = stream(1, -1, -2, 2, 3, -3)
    assert taken(found, 6) == [1, 2, 2, 2, 3, 1]  # behind the last the first readable of the whole
    assert found.skipped == {f"sample {number}": "negative" for number in (-1, -2, -3)}


def test_a_stream_that_goes_on_is_the_rest_of_the_whole() -> None:
    numbers = (1, -1, -2, 2, -4, 3)
    whole = taken(stream(*numbers), 6)
    for start in range(6):
        resumed = StandIns(iter(numbers[start:]), decoded, lambda: iter(sorted(numbers)), True)
        assert taken(resumed, 6 - start) == whole[start:]


def test_none_stands_in_where_none_is_readable_or_wanted() -> None:
    with pytest.raises(Undecodable, match=r"sample -1 cannot be decoded \(negative\)"):
        stream(-1, -2).take()
    with pytest.raises(Undecodable, match="sample -1"):
        stream(-1, 2, skips=False).take()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """<library>/train, 40 samples in 8 shards, three of them cut off in the middle; and <library>/test with one."""
    folder = tmp_path_factory.mktemp("broken")
    images = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def encoded(count: int) -> Iterator[tuple[bytes, int | None]]:
        for number, image in enumerate(images[:count]):
            data = as_png(image)
            yield data[: len(data) // 2] if number in BROKEN else data, number % 3

    for name in NAMES:
        WRITE[name](encoded(40), folder / name / "train", 5)
        WRITE[name](encoded(8), folder / name / "test", 4)
    return folder


def loader(shards: Shards, served: int = 0) -> ShardLoader:
    return shards.loader(8, seed=0, served=served)


@pytest.mark.filterwarnings("ignore:sample .* cannot be decoded")
@pytest.mark.parametrize("name", NAMES)
def test_batches_are_the_same_for_any_workers_and_after_an_interruption(name: str, root: Path) -> None:
    alone = pretrain(name, root, "data.on_error=skip")
    whole = batches(loader(alone))
    assert len(whole) == 5 and all(len(batch.index) == 8 for batch in whole)
    served = torch.cat([batch.index for batch in whole]).tolist()
    assert not set(served) & set(BROKEN) and len(set(served)) == 40 - len(BROKEN)
    assert len(alone.unread) == len(BROKEN)
    assert same(batches(loader(pretrain(name, root, "data.on_error=skip", "data.num_workers=2"))), whole)
    assert same(batches(loader(alone, served=2)), whole[2:])


@pytest.mark.filterwarnings("ignore:sample .* cannot be decoded")
def test_a_run_on_shards_with_broken_images_ends_and_counts_them(root: Path, tmp_path: Path) -> None:
    own = ("data=webdataset", f"data.root={root / 'webdataset'}", *SMALL, "data.on_error=skip", "trainer.max_epochs=1")
    cfg = config("method=simclr", "backbone=tiny", "trainer=cpu", "report=none", "evaluation=none", *own)
    assert run_in(tmp_path / "run", cfg) is None
    result = RunFolder(tmp_path / "run").read_result()
    assert result["num_skipped_files"] == len(result["skipped_files"]) == len(BROKEN)
    assert result["images"] == {"pretrain": 40, "train": 37, "test": 7}
