"""Both doors against a running Orthanc: what comes back from it is what a direct segmentation gives."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

pytest.importorskip("pynetdicom")
pytest.importorskip("requests")
pytest.importorskip("highdicom")

import highdicom as hd

from viscera.cli.main import main
from viscera.formats.dicom.read import read_dicom
from viscera.read import read_label_map

from .conftest import (
    PATIENT_ID,
    PATIENT_NAME,
    ListenerProcess,
    Orthanc,
    ct_objects,
    save_objects,
    send,
    wait_for,
)

Listen = Callable[..., ListenerProcess]
PLAIN = ["--device", "cpu", "--threads", "1", "--no-cache"]


def direct_labels(images: Path, folder: Path) -> "np.ndarray":
    """What `viscera segment` makes of the images: (slice, row, column), slices along their normal."""
    assert main(["segment", "-q", str(images), "-o", str(folder / "direct.nii"), *PLAIN]) == 0
    return read_label_map(folder / "direct.nii").labels


def labels_of(seg: Path, images: Path) -> "np.ndarray":
    """The labels of a SEG on the slices of the images, in the order in which `read_dicom` has them."""
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in images.rglob("*") if path.is_file()]
    normal = np.cross(*np.reshape(np.array(headers[0].ImageOrientationPatient, dtype=float), (2, 3)))
    headers.sort(key=lambda one: float(np.dot(np.array(one.ImagePositionPatient, dtype=float), normal)))
    segmentation = hd.seg.segread(seg)
    return segmentation.get_pixels_by_source_instance([one.SOPInstanceUID for one in headers], combine_segments=True)


def only_result(orthanc: Orthanc, modality: str, study: str, path: Path) -> Path:
    (instance,) = orthanc.results(modality, study)
    return orthanc.file(instance, path)


def test_a_study_is_segmented_on_request(orthanc: Orthanc, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    objects = ct_objects(11, tmp_path / "ct")
    images = save_objects(objects, tmp_path / "images")
    assert set(send(objects, orthanc.dicom_port, called="ORTHANC")) == {0}
    study = str(objects[0].StudyInstanceUID)
    request = ["pacs", "segment", "--dicomweb", orthanc.dicomweb, "--study", study, "-f", "dicom-seg", "-f", "rtstruct"]
    assert main([*request, *PLAIN]) == 0
    assert "stored dicom-seg, rtstruct" in capsys.readouterr().out

    seg = only_result(orthanc, "SEG", study, tmp_path / "seg.dcm")
    labels = labels_of(seg, images)
    np.testing.assert_array_equal(labels, direct_labels(images, tmp_path))
    assert set(np.unique(labels)) == {0, 1, 2, 3, 4}
    assert str(pydicom.dcmread(seg).PatientName) == PATIENT_NAME
    structures = pydicom.dcmread(only_result(orthanc, "RTSTRUCT", study, tmp_path / "rt.dcm"))
    assert [one.ROIName for one in structures.StructureSetROISequence] == ["liver", "kidney", "spleen", "pancreas"]

    # Once more: the same objects, so that none is added.
    assert main([*request, "-q", *PLAIN]) == 0
    assert len(orthanc.results("SEG", study)) == len(orthanc.results("RTSTRUCT", study)) == 1


def test_of_several_series_the_best_is_taken_with_a_note(
    orthanc: Orthanc, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objects = ct_objects(12, tmp_path / "ct")
    study = str(objects[0].StudyInstanceUID)
    scout, short = ct_objects(12, tmp_path / "scout")[:1], ct_objects(12, tmp_path / "short")[:4]
    for number, others in enumerate((scout, short), start=2):
        for one in others:
            one.SeriesInstanceUID, one.SeriesNumber = f"1.2.3.{number}", number
            one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}.{one.InstanceNumber}"
    scout[0].ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    send([*scout, *short, *objects], orthanc.dicom_port, called="ORTHANC")
    request = ["pacs", "segment", "--dicomweb", orthanc.dicomweb, "--study", study, *PLAIN]
    assert main(request) == 0
    out, err = capsys.readouterr()
    assert "Of 3 CT series, series 1 (Abdomen), 40 images, is segmented; the next best, series 3 (Abdomen)" in err
    assert "4 images, has fewer than 10 places; see --series" in err
    assert "series 1 (Abdomen), 40 images: stored dicom-seg" in out
    seg = pydicom.dcmread(only_result(orthanc, "SEG", study, tmp_path / "seg.dcm"), stop_before_pixels=True)
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == objects[0].SeriesInstanceUID

    assert main([*request, "--series", "1.2.3.404"]) == 1
    assert "Give one of:" in capsys.readouterr().err
    assert main([*request, "--series", "1.2.3.2"]) == 1
    assert "localisers" in capsys.readouterr().err


def test_a_projection_with_more_images_is_not_segmented(
    orthanc: Orthanc, listen: Listen, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither on request nor by the listener, to which nobody said which series to take."""
    objects, projection = ct_objects(17, tmp_path / "ct"), ct_objects(17, tmp_path / "mip")
    study = str(objects[0].StudyInstanceUID)
    for number, one in enumerate(projection * 2):
        one.SeriesInstanceUID, one.SeriesNumber = "1.2.3.17", 9
        one.ImageType = ["DERIVED", "SECONDARY", "REFORMATTED", "MIP"]
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.17.{number}"
        one.ImagePositionPatient = [*one.ImagePositionPatient[:2], 4.8 * number]
        send([one], orthanc.dicom_port, called="ORTHANC")
    send(objects, orthanc.dicom_port, called="ORTHANC")
    request = ["pacs", "segment", "--dicomweb", orthanc.dicomweb, "--study", study, *PLAIN]
    assert main(request) == 0
    out, err = capsys.readouterr()
    assert "series 1 (Abdomen), 40 images, is segmented; the next best, series 9 (Abdomen), 80 images" in err
    assert "is a projection or rendering (MIP, MinIP)" in err
    assert "series 1 (Abdomen), 40 images: stored" in out
    assert main([*request, "--all-series"]) == 0
    out, err = capsys.readouterr()
    assert "series 9 (Abdomen), 80 images, is passed over, as it is a projection or rendering" in err
    assert "series 9" not in out

    running = listen(f"ORTHANC@127.0.0.1:{orthanc.dicom_port}")
    send(projection, running.port)
    running.wait_for("series 1: cannot be segmented: ReadError: expected slices of the body, not projections")
    assert len(orthanc.results("SEG", study)) == 1


def test_what_arrives_is_segmented_and_sent_on(orthanc: Orthanc, listen: Listen, tmp_path: Path) -> None:
    objects = ct_objects(13, tmp_path / "ct")
    images = save_objects(objects, tmp_path / "images")
    study = str(objects[0].StudyInstanceUID)
    running = listen(f"ORTHANC@127.0.0.1:{orthanc.dicom_port}", "-f", "dicom-seg", "-f", "rtstruct")
    assert set(send(objects, running.port)) == {0}
    running.wait_for("series 1: done")
    seg = only_result(orthanc, "SEG", study, tmp_path / "seg.dcm")
    np.testing.assert_array_equal(labels_of(seg, images), direct_labels(images, tmp_path))
    assert len(orthanc.results("RTSTRUCT", study)) == 1

    # The same images again: acknowledged, and nothing happens.
    assert set(send(objects, running.port)) == {0}
    assert running.end() == 0
    assert running.text().count("complete with") == 1

    health = json.loads((tmp_path / "spool" / "health.json").read_text())
    assert health["status"] == "stopped"
    assert health["series"] == {**dict.fromkeys(health["series"], 0), "done": 1}
    assert health["disk_bytes"] == 0
    assert list((tmp_path / "spool" / "series").rglob("*.dcm")) == []
    told = running.text() + json.dumps(health)
    secrets = (PATIENT_NAME, "Secret", PATIENT_ID, study, str(objects[0].SeriesInstanceUID), "Abdomen")
    assert not [one for one in secrets if one in told]


def test_half_a_series_and_then_silence(orthanc: Orthanc, listen: Listen, tmp_path: Path) -> None:
    objects = ct_objects(14, tmp_path / "ct")
    running = listen(f"ORTHANC@127.0.0.1:{orthanc.dicom_port}")
    # Every fourth slice is missing: nobody can segment that, and the rest may still come.
    first = [one for number, one in enumerate(objects) if number % 4]
    assert set(send(first, running.port)) == {0}
    running.wait_for("series 1: cannot be segmented: GeometryError")
    assert set(send(objects, running.port)) == {0}
    running.wait_for("series 1: done")
    assert len(orthanc.results("SEG", str(objects[0].StudyInstanceUID))) == 1


def test_killed_in_the_middle_nothing_is_lost_or_done_twice(orthanc: Orthanc, listen: Listen, tmp_path: Path) -> None:
    objects = ct_objects(15, tmp_path / "ct")
    images = save_objects(objects, tmp_path / "images")
    study, forward = str(objects[0].StudyInstanceUID), f"ORTHANC@127.0.0.1:{orthanc.dicom_port}"

    running = listen(forward, quiet_seconds=30)
    assert set(send(objects[:25], running.port)) == {0}
    running.end(signal.SIGKILL)  # while it receives

    running = listen(forward, quiet_seconds=1)
    assert set(send(objects[20:], running.port)) == {0}
    running.wait_for("series 1: complete with 40 images")
    running.end(signal.SIGKILL)  # while it segments

    running = listen(forward)
    running.wait_for("series 1: done")
    running.end(signal.SIGKILL)

    running = listen(forward)
    assert set(send(objects, running.port)) == {0}
    assert running.end() == 0
    assert running.text().count("series 1: done") == 1
    assert running.text().count(": done") == 1
    seg = only_result(orthanc, "SEG", study, tmp_path / "seg.dcm")
    np.testing.assert_array_equal(labels_of(seg, images), direct_labels(images, tmp_path))


def test_killed_while_it_sends_the_same_object_is_sent_again(
    listen: Listen, tmp_path: Path, ending: Callable[[Callable[[], None]], None]
) -> None:
    import pynetdicom

    received: list[tuple[str, bytes]] = []
    running: list[ListenerProcess] = []

    def store(event: Any) -> int:
        received.append((str(event.request.AffectedSOPInstanceUID), event.request.DataSet.getvalue()))
        if len(received) == 1:
            running[0].end(signal.SIGKILL)  # before it has the answer
        return 0x0000

    archive = pynetdicom.AE(ae_title="ARCHIVE")
    archive.add_supported_context(pydicom.uid.SegmentationStorage)
    server = archive.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(pynetdicom.evt.EVT_C_STORE, store)])
    forward = f"ARCHIVE@127.0.0.1:{server.server_address[1]}"
    running.append(listen(forward))
    assert set(send(ct_objects(17, tmp_path / "ct"), running[0].port)) == {0}
    wait_for(lambda: received and running[0].process.poll() is not None, 60)
    again = listen(forward)
    again.wait_for("series 1: done")
    assert again.end() == 0
    assert len(received) == 2
    assert received[0] == received[1]
    assert "segmented" not in again.text()[again.started_at :]
    ending(server.shutdown)


def test_a_real_series_comes_back_from_orthanc(
    orthanc: Orthanc, listen: Listen, shared_data: Path, tmp_path: Path
) -> None:
    images = shared_data / "real" / "cptac_pda_c3l_00189"
    objects = [pydicom.dcmread(path) for path in sorted(images.rglob("*")) if path.is_file()]
    running = listen(f"ORTHANC@127.0.0.1:{orthanc.dicom_port}")
    assert set(send(objects, running.port)) == {0}
    running.wait_for("series 1: done")
    running.end()
    seg = only_result(orthanc, "SEG", str(objects[0].StudyInstanceUID), tmp_path / "seg.dcm")
    labels = labels_of(seg, images)
    np.testing.assert_array_equal(labels, direct_labels(images, tmp_path))
    assert labels.shape == read_dicom(images).hu.shape
    assert (labels == 1).sum() > 100_000  # there is much liver in these slices


def test_the_end_on_request_gives_work_back(orthanc: Orthanc, listen: Listen, tmp_path: Path) -> None:
    objects = ct_objects(16, tmp_path / "ct")
    forward = f"ORTHANC@127.0.0.1:{orthanc.dicom_port}"
    running = listen(forward)
    assert set(send(objects, running.port)) == {0}
    running.wait_for("series 1: complete")
    assert running.end() == 0
    assert wait_for((tmp_path / "spool" / "health.json").is_file)
    counts = json.loads((tmp_path / "spool" / "health.json").read_text())["series"]
    assert counts["waiting"] + counts["sending"] + counts["done"] == 1
    running = listen(forward)
    if not counts["done"]:
        running.wait_for("series 1: done")
    assert len(orthanc.results("SEG", str(objects[0].StudyInstanceUID))) == 1
