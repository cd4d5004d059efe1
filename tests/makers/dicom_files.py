"""DICOM files of given pixels."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID

__all__ = ["write_dicom"]

EXPLICIT = "1.2.840.10008.1.2.1"


def write_dicom(file, pixels, *, syntax=EXPLICIT, **elements):
    """Write pixels as a DICOM file of grey or RGB values, with further elements; return it.

    An element of None is left out.
    """
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.7")
    meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    header = FileDataset(str(file), {}, file_meta=meta, preamble=bytes(128))
    pixels = np.asarray(pixels)
    values = {
        "Rows": pixels.shape[0], "Columns": pixels.shape[1],
        "SamplesPerPixel": 3 if pixels.ndim == 3 else 1,
        "PhotometricInterpretation": "RGB" if pixels.ndim == 3 else "MONOCHROME2",
        "PlanarConfiguration": 0, "BitsAllocated": 8 * pixels.itemsize,
        "BitsStored": 8 * pixels.itemsize, "HighBit": 8 * pixels.itemsize - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"), "PixelData": pixels.tobytes(),
    } | elements  # fmt: skip
    for name, value in values.items():
        if value is not None:
            setattr(header, name, value)
    header.save_as(file, enforce_file_format=True)
    return file
