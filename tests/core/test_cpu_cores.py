"""How many cores a process may use: by affinity and by the quotas of control groups."""

import os

import pytest

from viscera.core import cores


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Sets the control groups: the lines of /proc/self/cgroup, and files below the file system's root."""

    def make(lines, files):
        (tmp_path / "own").write_text(lines)
        for name, text in files.items():
            path = tmp_path / "fs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.setattr(cores, "_OWN_CGROUPS", tmp_path / "own")
        monkeypatch.setattr(cores, "_CGROUPS", tmp_path / "fs")
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
        return cores.allowed_cores()

    return make


@pytest.mark.parametrize(
    ("lines", "files", "count"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "5000 100000\n"}, 1),
        ("0::/job/step\n", {"job/cpu.max": "300000 100000\n", "job/step/cpu.max": "max 100000\n"}, 3),
        ("0::/of/the/host\n", {"cpu.max": "200000 100000\n"}, 2),
        (
            "4:cpu,cpuacct:/x\n2:memory:/x\n",
            {"cpu,cpuacct/x/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"},
            3,
        ),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        ("0::/\n", {"cpu.max": "rubbish\n"}, 16),
        ("", {}, 16),
    ],
)
def test_quotas(groups, lines, files, count):
    assert groups(lines, files) == count


def test_affinity(groups, monkeypatch):
    groups("", {})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert cores.allowed_cores() == 1


def test_evaluate_and_prepare_begin_no_more_processes(monkeypatch, tmp_path):
    from viscera.cli.main import main
    from viscera.evaluation import evaluate
    from viscera.evaluation.scores import Evaluation

    asked = []
    monkeypatch.setattr(cores, "allowed_cores", lambda: 3)
    monkeypatch.setattr(
        evaluate, "evaluate_cases", lambda *_, workers, **__: asked.append(workers) or Evaluation(scores=())
    )
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.nii").touch()
    assert main(["evaluate", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert asked == [3]
