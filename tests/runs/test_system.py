"""What the operating system refuses: one sentence with the path and what to do, and nothing lost."""

import contextlib
import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from yaml import YAMLError, safe_load

from ssl_framework.runs.durable import replacing
from ssl_framework.runs.folder import read_json, write_json
from ssl_framework.runs.messages import REFUSALS, Interrupted, error_line, refusing
from ssl_framework.runs.system import CURES, refuse_unwritable, system_sentence, under_way
from tests.small_runs import run_in, small


def refused(call: Callable[[], object]) -> str:
    """The line of what a call is refused with."""
    with pytest.raises(REFUSALS) as error:
        call()
    return error_line(error.value)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    file, loop, dangling = tmp_path / "file", tmp_path / "loop", tmp_path / "dangling"
    file.touch()
    loop.symlink_to(loop)
    dangling.symlink_to(tmp_path / "nowhere" / "deep")
    for place, path, words in (
        (file / "x.json", file, "exists already and is no folder"),
        (file / "a" / "x.json", file / "a", "leads through a file where a folder should be"),
        (loop / "x.json", loop, ""),
        (dangling / "x.json", dangling, "exists already and is no folder"),
        (Path("/proc/nothing/x.json"), Path("/proc/nothing"), "does not exist, nor can it be made"),
        (tmp_path / ("a" * 300), tmp_path / ("a" * 300), "has too long a name"),
        (tmp_path, tmp_path, "is a folder where a file should be"),
    ):
        said = refused(lambda place=place: refuse_unwritable(place))  # type: ignore[misc]
        assert said.startswith(f"error: {path} ") and words in said


def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("stays")
    refuse_unwritable(tmp_path / "own")
    refuse_unwritable(tmp_path / "new" / "deep" / "x.json")
    assert [path.name for path in tmp_path.iterdir()] == ["own"] and (tmp_path / "own").read_text() == "stays"


@pytest.mark.parametrize("number", sorted(CURES))
def test_every_error_says_what_to_do(number: int) -> None:
    said = system_sentence(OSError(number, os.strerror(number), "some/place"))
    assert said.startswith("some/place ") and "Errno" not in said and os.strerror(number) not in said


def test_our_own_sentences_stay() -> None:
    assert error_line(FileNotFoundError("there is no checkpoint x")) == "error: there is no checkpoint x"
    assert system_sentence(OSError(errno.EPROTO, "Protocol error", "x")) == "x cannot be used: Protocol error"


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """Files may not become larger than 4 kB meanwhile. Around a few lines only: pytest may write to a file as well."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[0][1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before[0])
        signal.signal(signal.SIGXFSZ, before[1])


def test_a_disk_that_is_full_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"step": 1})
    with small_files():
        said = refused(lambda: write_json(path, {"step": "2" * 5000}))
    assert said.startswith(f"error: {path} cannot be written, as files may not get so large here")
    assert read_json(path) == {"step": 1} and os.listdir(tmp_path) == ["result.json"]


def test_a_disk_that_is_full_under_torch_and_safetensors(tmp_path: Path) -> None:
    for name, write in (
        ("last.ckpt", lambda beside: torch.save(torch.zeros(5000), beside.open("wb"))),
        ("net.safetensors", partial(tell_rust_error, 'IoError(Os { code: 28, kind: StorageFull, message: "No" })')),
        ("again.safetensors", partial(tell_rust_error, "I/O error: No space left on device (os error 28)")),
    ):
        with small_files(), pytest.raises(OSError) as error, replacing(tmp_path / name) as beside:
            write(beside)
        assert error.value.filename == str(tmp_path / name) and error.value.errno in (errno.EFBIG, errno.ENOSPC)
    assert os.listdir(tmp_path) == []


def tell_rust_error(words: str, where: Path) -> None:
    raise SafetensorError(f"Error while serializing: {words}")


def test_a_run_that_meets_a_full_disk_is_interrupted_and_keeps_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = []

    def save(content: object, file: object) -> None:
        if writes:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")
        writes.append(torch_save(content, file))

    torch_save = torch.save
    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(Interrupted, match=r"last\.ckpt cannot be written .* the same command again"):
        run_in(tmp_path, small("simclr"))
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["last.ckpt"]
    monkeypatch.setattr(torch, "save", torch_save)
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6


def test_what_is_no_matter_of_the_disk_stays_an_error() -> None:
    with pytest.raises(FileNotFoundError), under_way():
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "x")
    with pytest.raises(KeyError), under_way():
        raise KeyError("x")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    for text in ("", "{", "null", "[1]"):
        path.write_text(text)
        assert refused(lambda: read_json(path)).startswith(f"error: {path} is damaged")
    path = tmp_path / "config.yaml"
    path.write_text("a: 1\nb:\n\tc: 2\n")
    with pytest.raises(YAMLError) as error, path.open() as file:
        safe_load(file)
    assert error_line(error.value).startswith(f"error: {path} is no YAML at line 3, column 1: ")


def test_a_command_ends_in_one_sentence() -> None:
    with pytest.raises(SystemExit, match="error: x lies on a file system that cannot be written"), refusing():
        raise OSError(errno.EROFS, "Read-only file system", "x")
    for untouched in (BrokenPipeError(), Interrupted("a rank was killed"), KeyError("a fault of ours")):
        with pytest.raises(type(untouched)), refusing():
            raise untouched
