"""The files around the package: they parse, they agree with each other, and they name what is there."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from viscera.cli.main import build_parser

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
YAML = sorted(
    path
    for pattern in (".github/**/*.yml", "deploy/*.yaml", ".pre-commit-config.yaml", "CITATION.cff")
    for path in ROOT.glob(pattern)
)
PYTHONS = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line) for line in PROJECT["classifiers"]]
TESTED = [found[1] for found in PYTHONS if found]


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def workflow(name: str) -> Any:
    return loaded(ROOT / ".github" / "workflows" / f"{name}.yml")


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_it_is_yaml(path: Path) -> None:
    assert isinstance(loaded(path), dict)


def test_the_version_is_the_same_everywhere() -> None:
    citation = loaded(ROOT / "CITATION.cff")
    assert citation["version"] == PROJECT["version"]
    heading = rf"^## {re.escape(PROJECT['version'])} - (\d{{4}}-\d\d-\d\d)$"
    released = re.search(heading, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert released
    assert str(citation["date-released"]) == released[1]


def test_the_workflows_test_what_the_classifiers_say() -> None:
    matrix = workflow("tests")["jobs"]["quick"]["strategy"]["matrix"]
    assert matrix["python"] == TESTED
    assert {"ubuntu-latest", "macos-latest", "windows-latest"} == set(matrix["os"])
    assert f">={TESTED[0]}" == PROJECT["requires-python"]


@pytest.mark.parametrize("name", ["tests", "lint", "docs", "publish"])
def test_a_workflow_has_no_more_rights_than_it_needs(name: str) -> None:
    found = workflow(name)
    assert found["permissions"] == {"contents": "read"}
    for job, content in found["jobs"].items():
        allowed = {"id-token": "write"} if (name, job) == ("publish", "publish") else None
        assert content.get("permissions") == allowed
        assert content["timeout-minutes"]


def test_only_true_addresses_are_given() -> None:
    # No address of a home page is known to the source tree, so none is claimed.
    assert set(PROJECT["urls"]) == {"Method"}


@pytest.mark.parametrize("name", ["Containerfile", "Containerfile.gpu"])
def test_the_container_is_not_root_and_copies_what_is_there(name: str) -> None:
    lines = re.sub(r"\\\n", " ", (ROOT / "deploy" / name).read_text(encoding="utf-8")).splitlines()
    last_stage = lines[max(index for index, line in enumerate(lines) if line.startswith("FROM ")) :]
    users = [line.split()[1] for line in last_stage if line.startswith("USER ")]
    assert users == ["10001:10001"]
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), line
                assert f"!{source}" in kept, line
    extras = next(line.partition("=")[2] for line in lines if line.startswith("ARG EXTRAS="))
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


def test_the_composed_listener_and_orthanc_speak_of_the_same() -> None:
    compose = loaded(ROOT / "deploy" / "compose.yaml")
    listener = compose["services"]["viscera"]
    args = build_parser().parse_args(listener["command"])
    orthanc = json.loads((ROOT / "deploy" / "orthanc.json").read_text(encoding="utf-8"))
    assert orthanc["DicomModalities"] == {"viscera": [args.aet, "viscera", args.port]}
    assert f"--forward={orthanc['DicomAet']}@orthanc:{orthanc['DicomPort']}" in listener["command"]
    assert f"--allow-aet={orthanc['DicomAet']}" in listener["command"]
    assert listener["read_only"] is True
    for service in compose["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (ROOT / "deploy" / source).is_file(), volume
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
