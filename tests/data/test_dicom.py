"""DICOM files among images: bit depth, inversion, signed values, colours."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssl_framework.data.images.decoding import open_image, read_crops, read_image
from ssl_framework.data.images.files import FilesSource

pydicom = pytest.importorskip("pydicom")


def written(path: Path, values: np.ndarray, **said: Any) -> Path:
    """A file of one frame, uncompressed."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Rows, data.Columns = values.shape[:2]
    data.SamplesPerPixel = 3 if values.ndim == 3 else 1
    if values.ndim == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated = 8 * values.itemsize
    data.BitsStored, data.PhotometricInterpretation = data.BitsAllocated, "MONOCHROME2"
    data.PixelRepresentation = int(values.dtype.kind == "i")
    for key, value in said.items():
        setattr(data, key, value)
    data.HighBit = data.BitsStored - 1
    data.PixelData = values.tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


def grey(path: Path, bits: int | None = None) -> list[int]:
    return read_image(path, 2, 1, bits).flatten().tolist()


def test_white_is_the_highest_value_that_the_file_stores(tmp_path: Path) -> None:
    values = np.array([[0, 1024], [2048, 4095]], np.uint16)
    path = written(tmp_path / "a.dcm", values, BitsStored=12)
    assert grey(path) == [0, 64, 128, 255]
    assert grey(path, bits=13) == [0, 32, 64, 127]
    inverted = written(tmp_path / "b.DCM", values, BitsStored=12, PhotometricInterpretation="MONOCHROME1")
    assert grey(inverted) == [255, 191, 127, 0]
    signed = written(tmp_path / "c.dicom", np.array([[-2048, -1024], [0, 2047]], np.int16), BitsStored=12)
    assert grey(signed) == [0, 64, 128, 255]


def test_colours_and_crops(tmp_path: Path) -> None:
    values = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    path = written(tmp_path / "a.dcm", values, PhotometricInterpretation="RGB")
    crop = read_crops(open_image(path, 3), [(0, 1, 2, 2)], [2], 3)[0]
    assert torch.equal(crop, torch.from_numpy(values[0:2, 1:3]).permute(2, 0, 1))
    assert read_image(path, 4, 3).permute(1, 2, 0).numpy().tolist() == values.tolist()


def test_a_folder_of_them_is_read_and_a_broken_one_named(tmp_path: Path) -> None:
    for number in range(4):
        written(tmp_path / f"{number}.dcm", np.full((4, 4), number, np.uint8))
    source = FilesSource(str(tmp_path), 3, 4, 0.0, 0)
    assert source.load("train").rows[torch.arange(4)][:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    (tmp_path / "2.dcm").write_bytes(b"no DICOM")
    with pytest.raises(ValueError, match=r"2\.dcm cannot be read"):
        FilesSource(str(tmp_path), 3, 4, 0.0, 0).load("train").rows[torch.arange(4)]


def test_what_has_no_range_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.dcm", np.array([[0, 70000], [1, 2]], np.uint32))
    with pytest.raises(ValueError, match="it stores 32 bits"):
        read_image(path, 2, 1)
