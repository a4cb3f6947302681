"""The CT that ships with the package: whole, checked, and what its attribution says."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from viscera import ReadError, demo_data
from viscera.read import read_label_map, read_volume


def test_the_shipped_ct_and_its_labels_lie_on_one_grid() -> None:
    files = demo_data.example_ct()
    volume, labels = read_volume(files.ct), read_label_map(files.labels)
    assert volume.grid.shape_zyx == (112, 101, 122)
    np.testing.assert_allclose(volume.grid.spacing_zyx_mm, (3.0, 3.0, 3.0))
    assert labels.grid.shape_zyx == volume.grid.shape_zyx
    np.testing.assert_array_equal(labels.grid.affine, volume.grid.affine)
    assert np.unique(labels.labels).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_an_altered_installation_is_refused(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in demo_data.example_ct():
        shutil.copy(path, tmp_path)
    target = tmp_path / "ts_example_ct.nii.gz"
    if damage == "missing":
        target.unlink()
    else:
        target.write_bytes(target.read_bytes()[:-1] + b"?")
    monkeypatch.setattr(demo_data, "_FOLDER", tmp_path)
    with pytest.raises(ReadError, match=r"which comes with viscera.*Install viscera again"):
        demo_data.example_ct()


def test_the_attribution_names_source_licence_and_sums() -> None:
    folder = Path(demo_data.__file__).parent
    text = (folder / "ATTRIBUTION.txt").read_text(encoding="utf-8")
    for word in ("TotalSegmentator", "Apache-2.0", *demo_data._SHA256, *demo_data._SHA256.values()):
        assert word in text
    assert {path.name for path in folder.glob("*.nii.gz")} == set(demo_data._SHA256)
