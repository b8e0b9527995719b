"""Folders of sounds: the rules for rates, channels and lengths, the layouts of images, and files that are none."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from ssl_framework.data.audio.folder import SoundFolder, fitted, read_file, resampled
from tests.small_runs import SMALL, config, run_in


def tone(points: int = 800, rate: int = 8000, frequency: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(points) / rate)


def written(path: Path, x: np.ndarray, rate: int = 8000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(path, rate, x)
    return path


def source(root: Path, **changed: object) -> SoundFolder:
    plain = {"rate": 8000, "length": 1000, "on_error": "refuse", "test_fraction": 0.5, "seed": 0}
    return SoundFolder(str(root), **{**plain, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["int16", "int32", "uint8", "float32", "float64"])
def test_every_kind_of_wav_is_a_share_of_the_largest_value(kind: str, tmp_path: Path) -> None:
    x = tone()
    stored = {"int16": x * 2**15, "int32": x * 2**31, "uint8": x * 128 + 128}.get(kind, x)
    read, rate = read_file(written(tmp_path / "a.wav", np.asarray(stored).astype(kind)))
    assert rate == 8000 and np.abs(read - x).max() < {"uint8": 0.01}.get(kind, 1e-4)


def test_channels_become_their_mean_and_long_and_short_sounds_lie_in_the_middle() -> None:
    assert fitted(np.array([0.5]), 4).tolist() == [0, 16384, 0, 0]
    assert fitted(np.arange(6) / 8, 2).tolist() == [2 * 4096, 3 * 4096]
    assert fitted(np.array([1.0, -1.0]), 2).tolist() == [32767, -32768]


def test_another_rate_is_resampled_to_the_same_tone(tmp_path: Path) -> None:
    stereo = np.stack([tone(16000, 16000), np.zeros(16000)], axis=1).astype(np.float32)
    x, rate = read_file(written(tmp_path / "a.wav", stereo, 16000))
    assert np.allclose(x, tone(16000, 16000) / 2, atol=1e-6)
    there = resampled(x, rate, 8000)
    assert len(there) == 8000 and np.abs(there[200:-200] - tone(8000)[200:-200] / 2).max() < 2e-3
    assert resampled(x, 16000, 16000) is x


def test_class_folders_are_labels_and_a_share_of_each_is_held_out(tmp_path: Path) -> None:
    for name, frequency in (("high", 880.0), ("low", 220.0)):
        for number in range(4):
            written(tmp_path / name / f"{number}.WAV", (tone(600, frequency=frequency) * 32767).astype(np.int16))
    (tmp_path / "notes.txt").write_text("left out")
    with pytest.warns(UserWarning, match=r"1 files below .* are of other kinds and left out: \.txt \(1\)"):
        train = source(tmp_path).load("train")
    assert train.shape == (4, 1000) and train.classes == ("high", "low") and train.rows.dtype == torch.int16
    assert train.label.tolist() == [0, 0, 1, 1] and source(tmp_path).load("pretrain").shape == (4, 1000)  # type: ignore[union-attr]
    assert (train.rows[torch.tensor([0])][0, :200] == 0).all()  # 600 points in the middle of 1000


def test_files_that_are_no_sounds_are_refused_or_left_out_by_name(tmp_path: Path) -> None:
    for number in range(3):
        written(tmp_path / f"{number}.wav", (tone() * 32767).astype(np.int16))
    (tmp_path / "3.wav").write_text("no sound")
    written(tmp_path / "4.wav", np.array([0.0, np.nan], dtype=np.float32))
    with pytest.raises(ValueError, match=r"3\.wav"):
        source(tmp_path, test_fraction=0.0).load("train")
    with pytest.warns(UserWarning, match=r"4\.wav|3\.wav"):
        assert source(tmp_path, test_fraction=0.0, on_error="skip").load("train").shape == (3, 1000)
    with pytest.raises(ValueError, match="on_error=ask is not known: choose one of"):
        source(tmp_path, on_error="ask")


def test_a_folder_without_sounds_is_refused_in_words_of_sounds(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"has no sounds \(0 other files\): point data\.root at a folder of wav, wave,"
    ):
        source(tmp_path).load("train")
    with pytest.raises(FileNotFoundError, match=r"does not exist: set data\.root to a folder of sounds"):
        source(tmp_path / "none").load("train")


def test_a_compressed_file_names_the_package_that_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    (tmp_path / "a.flac").write_bytes(b"")
    with pytest.raises(ModuleNotFoundError, match=r"a\.flac needs the package soundfile: pip install -e '\.\[audio"):
        source(tmp_path, test_fraction=0.0).load("train")


def test_flac_is_read_as_wav_is(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")  # of the extra "audio"
    soundfile.write(tmp_path / "a.flac", tone(), 8000)
    x, rate = read_file(tmp_path / "a.flac")
    assert rate == 8000 and np.abs(x - tone()).max() < 1e-4


def test_a_run_trains_on_a_folder(tmp_path: Path) -> None:
    for number in range(40):
        name = ("high", "low")[number % 2]
        x = tone(2048, frequency=(880.0, 220.0)[number % 2]) * (0.2 + number / 80)
        written(tmp_path / "sounds" / name / f"{number}.wav", (x * 32767).astype(np.int16))
    own = (f"data.root={tmp_path / 'sounds'}", "data.rate=8000", "data.length=2048", "data.image_size=16")
    rest = tuple(item for item in SMALL if not item.startswith("data.source"))
    assert (
        run_in(tmp_path / "run", config("method=simclr", "data=audio_folder", *own, *rest), data="audio_folder") is None
    )
