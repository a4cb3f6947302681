"""The notebook runs from its first cell to its last, and shows a table of the organs and a picture."""

import base64
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "notebooks" / "real-ct.ipynb"
ORGANS = ("liver", "kidney", "spleen", "pancreas")


def outputs(notebook, kind):
    return [
        output["data"][kind]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if kind in output.get("data", {})
    ]


@pytest.mark.filterwarnings("default")  # of Jupyter's packages
def test_it_runs_and_shows_what_it_says(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    for package in ("ipykernel", "matplotlib", "pandas"):
        pytest.importorskip(package)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    client = nbclient.NotebookClient(
        notebook, timeout=280, startup_timeout=240, kernel_name="python3", resources=resources
    )
    client.execute()
    tables = outputs(notebook, "text/html")
    assert len(tables) == 2
    assert all(organ in table for table in tables for organ in ORGANS)
    (picture,) = outputs(notebook, "image/png")
    assert base64.b64decode(picture).startswith(b"\x89PNG")


def test_the_stored_outputs_are_whole() -> None:
    # What the site shows: every cell was run, in order, without an error.
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    assert len(outputs(notebook, "image/png")) == 1
