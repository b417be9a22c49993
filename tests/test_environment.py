"""One environment, written down three times for three tools: the three must agree."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DECLARED = PROJECT["dependencies"] + [
    requirement
    for extra in PROJECT["optional-dependencies"].values()
    for requirement in extra
    if not requirement.startswith("rotate-core[")
]
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]


def normal(requirement: str) -> tuple[str, str]:
    parsed = Requirement(requirement)
    return canonicalize_name(parsed.name), str(parsed.specifier)


def test_environment_yml_equals_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    listed = [line for line in pip if not line.startswith("--")]
    assert sorted(map(normal, listed)) == sorted(map(normal, DECLARED))
    assert [line for line in pip if line.startswith("--")] == [
        "--constraint constraints.txt",
        "--editable .",
    ]


def test_conda_python_is_one_that_the_package_accepts():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (python,) = (line for line in environment["dependencies"] if str(line).startswith("python="))
    version = python.removeprefix("python=") + ".0"
    assert version in Requirement(f"python{PROJECT['requires-python']}").specifier


@pytest.mark.parametrize("python_version", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_constraints_pin_what_pyproject_declares(python_version: str):
    environment = {
        "python_version": python_version,
        "python_full_version": f"{python_version}.9",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    pinned: dict[str, list[str]] = {}
    for pin in PINS:
        if pin.marker is None or pin.marker.evaluate(environment):
            (specifier,) = pin.specifier
            pinned.setdefault(canonicalize_name(pin.name), []).append(specifier.version)
    for wanted in map(Requirement, DECLARED):
        versions = pinned.get(canonicalize_name(wanted.name), [])
        assert len(versions) == 1, f"{wanted}: {versions}"
        assert versions[0] in wanted.specifier, f"{wanted}: {versions}"


def test_every_pin_is_exact_and_names_no_server():
    for pin in PINS:
        assert pin.url is None
        assert [specifier.operator for specifier in pin.specifier] == ["=="], pin


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    source = (ROOT / "rotate_core" / "__init__.py").read_text(encoding="utf-8")
    assert citation["version"] == PROJECT["version"]
    assert re.search(rf"^## {re.escape(PROJECT['version'])}", changelog, re.MULTILINE)
    assert f'__version__ = "{PROJECT["version"]}"' in source


def test_the_address_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    address = PROJECT["urls"]["Repository"]
    assert citation["repository-code"] == address
    name = re.escape(address.rpartition("/")[2])
    written = subprocess.run(
        ["git", "grep", "-hoIE", rf"https://github\.com/[^/ ]+/{name}\b"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert set(written.stdout.split()) == {address}


def test_the_citation_is_dated_as_the_changelog_is():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    (date,) = re.findall(rf"^## {re.escape(PROJECT['version'])} \((.+)\)$", changelog, re.MULTILINE)
    assert str(citation.get("date-released", "unreleased")) == date


def test_ci_runs_the_pythons_that_are_promised():
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    tried = yaml.safe_load(workflow)["jobs"]["package"]["strategy"]["matrix"]["python"]
    promised = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if ":: 3." in c]
    assert tried == promised
    assert f">={tried[0]}" == PROJECT["requires-python"]


def test_binder_has_the_pinned_torch_for_the_processor():
    (torch,) = (pin for pin in PINS if pin.name == "torch")
    wanted = (ROOT / "binder/requirements.txt").read_text(encoding="utf-8")
    assert f"torch{torch.specifier}+cpu" in wanted.splitlines()


def test_other_peoples_machines_have_a_python_that_is_promised():
    promised = {c.rpartition(" ")[2] for c in PROJECT["classifiers"] if ":: 3." in c}
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
    assert container["image"].rpartition(":")[2] in promised
    runtime = (ROOT / "binder/runtime.txt").read_text(encoding="utf-8")
    assert runtime.strip().removeprefix("python-") in promised
