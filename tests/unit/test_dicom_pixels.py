"""Images taken out of DICOM objects: what is decoded is what was checked, frame by frame."""

import io
import struct

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended, get_frame
from pydicom.uid import (
    JPEG2000MC,
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from viscera.adapters.dicom_pixels import dataset_images, file_images
from viscera.adapters.dicom_series import DICOM_FAULTS

# Three images of 9 rows and 10 columns.
PIXELS = np.random.default_rng(4).integers(-1000, 400, (3, 9, 10)).astype("<i2")


def plain(frames=PIXELS):
    """A multi-frame object with uncompressed pixels."""
    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = CTImageStorage
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = "1.2.3"
    one.NumberOfFrames, one.Rows, one.Columns = frames.shape
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 1
    one.PixelData = frames.tobytes()
    return one


NAMES = {
    JPEGLosslessSV1: "JPEGLosslessProcess14_1",
    JPEGLSLossless: "JPEGLSLossless",
    JPEG2000Lossless: "JPEG2000Lossless",
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The compressed images by transfer syntax, made by GDCM."""
    gdcm = pytest.importorskip("gdcm")
    folder, found = tmp_path_factory.mktemp("packed"), {}
    for syntax, name in NAMES.items():
        for number, frame in enumerate(PIXELS):
            plain(frame[None]).save_as(folder / "plain.dcm", enforce_file_format=True)
            reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
            reader.SetFileName(str(folder / "plain.dcm"))
            assert reader.Read()
            change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name)))
            change.SetInput(reader.GetImage())
            assert change.Change()
            writer.SetFileName(str(folder / f"{number}.dcm"))
            writer.SetFile(reader.GetFile())
            writer.SetImage(change.GetOutput())
            assert writer.Write()
            made = pydicom.dcmread(folder / f"{number}.dcm")
            found.setdefault(syntax, []).append(get_frame(made.PixelData, 0, number_of_frames=1))
    return found


def packed(syntax, images):
    """The multi-frame object with these compressed images."""
    one = plain()
    one.file_meta.TransferSyntaxUID = syntax
    one.PixelData = encapsulate(images)
    one["PixelData"].is_undefined_length = True
    return one


def written(dataset, *, whole=True):
    buffer = io.BytesIO()
    if whole:
        dataset.save_as(buffer, enforce_file_format=True)
    else:
        pydicom.dcmwrite(buffer, Dataset(dataset), implicit_vr=True, little_endian=True)
    return io.BytesIO(buffer.getvalue())


def taken(found):
    return np.stack(list(found))


@pytest.mark.parametrize("frames", [[0, 1, 2], [2], [1, 0]])
@pytest.mark.parametrize("syntax", NAMES)
def test_compressed_frames_in_any_order(images, syntax, frames):
    one = packed(syntax, images[syntax])
    np.testing.assert_array_equal(taken(dataset_images(one, frames)), PIXELS[frames])
    np.testing.assert_array_equal(taken(file_images(written(one), frames)), PIXELS[frames])


@pytest.mark.parametrize("whole", [True, False])
def test_plain_frames_with_and_without_the_files_first_part(whole):
    np.testing.assert_array_equal(taken(file_images(written(plain(), whole=whole), [2, 0])), PIXELS[[2, 0]])


def test_run_lengths():
    one = plain()
    one.compress(RLELossless, generate_instance_uid=False)
    np.testing.assert_array_equal(taken(file_images(written(one), range(3))), PIXELS)
    np.testing.assert_array_equal(taken(dataset_images(one, range(3))), PIXELS)


def test_an_image_in_several_fragments(images):
    whole = images[JPEGLSLossless]
    one = packed(JPEGLSLossless, whole)
    one.PixelData = encapsulate(whole, fragments_per_frame=2)
    np.testing.assert_array_equal(taken(dataset_images(one, range(3))), PIXELS)


def test_an_extended_offset_table(images):
    one = packed(JPEGLSLossless, images[JPEGLSLossless])
    one.PixelData, one.ExtendedOffsetTable, one.ExtendedOffsetTableLengths = encapsulate_extended(
        images[JPEGLSLossless]
    )
    np.testing.assert_array_equal(taken(dataset_images(one, [1, 2])), PIXELS[[1, 2]])


def refused(one, frames=(0,), match=None):
    with pytest.raises(DICOM_FAULTS, match=match):
        list(dataset_images(one, frames))


def larger(syntax, image):
    """The image that says of itself that it has 100 rows."""
    mark, offset, code = {
        JPEGLosslessSV1: (b"\xff\xc3", 5, ">H"),
        JPEGLSLossless: (b"\xff\xf7", 5, ">H"),
        JPEG2000Lossless: (b"\xff\x4f\xff\x51", 12, ">I"),
    }[syntax]
    place = image.index(mark) + offset
    return image[:place] + struct.pack(code, 100) + image[place + struct.calcsize(code) :]


@pytest.mark.parametrize("syntax", NAMES)
def test_each_image_is_checked_before_it_is_decoded(images, syntax):
    first, second, third = images[syntax]
    one = packed(syntax, [first, larger(syntax, second), third])
    found = dataset_images(one, range(3))
    np.testing.assert_array_equal(next(found), PIXELS[0])
    with pytest.raises(ValueError, match=r"of \(100, 10, 1\)"):
        next(found)


def test_an_image_of_another_kind_than_its_transfer_syntax(images):
    refused(packed(JPEGLosslessSV1, images[JPEG2000Lossless]), match="first mark")
    refused(packed(JPEG2000Lossless, images[JPEGLSLossless]), match="first mark")


def test_a_transfer_syntax_that_nobody_decodes(images):
    refused(packed(JPEG2000MC, images[JPEG2000Lossless]))


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one.__delattr__("PixelData"),
        lambda one: one.__delattr__("Rows"),
        lambda one: setattr(one, "SamplesPerPixel", 3),
        lambda one: setattr(one, "Columns", 11),
        lambda one: setattr(one, "PixelData", b""),
        lambda one: setattr(one, "PixelData", one.PixelData[:20]),
        lambda one: setattr(one, "PixelData", encapsulate([b"\xff\xd8"])),
        lambda one: one.__delattr__("BitsAllocated"),
        lambda one: setattr(one, "BitsAllocated", 8),
    ],
    ids=["no pixels", "no rows", "three samples", "another width", "empty", "cut", "no image", "no bits", "other bits"],
)
def test_an_object_that_contradicts_its_images(images, change):
    one = packed(JPEGLSLossless, images[JPEGLSLossless])
    change(one)
    refused(one)


def test_a_frame_that_is_not_there(images):
    refused(packed(JPEGLSLossless, images[JPEGLSLossless]), frames=[3])


@pytest.mark.filterwarnings("ignore::UserWarning")  # what pydicom says of it
@pytest.mark.parametrize("size", [0, 100, 131, 132, 140, 400, 700])
@pytest.mark.parametrize("syntax", [None, JPEGLSLossless])
def test_a_file_that_is_cut_off(images, syntax, size):
    one = plain() if syntax is None else packed(syntax, images[syntax])
    raw = written(one).getvalue()
    assert size < len(raw)
    with pytest.raises(DICOM_FAULTS):
        list(file_images(io.BytesIO(raw[:size]), [2]))
