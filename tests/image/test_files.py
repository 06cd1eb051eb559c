"""If these fail, an image or a compose file names what is not there, or a linter lets a broken file through."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.run import command
from tests.conftest import ROOT, missing, need
from tests.test_layout import CONFIGURATION, _folders

DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
BAKE: dict[str, Any] = json.loads((DOCKER / "bake.json").read_text(encoding="utf-8"))
TARGETS: dict[str, Any] = {name: target for name, target in BAKE["target"].items() if name != "common"}
SCHEMAS = {
    "vendor.compose-spec": [DOCKER / "compose.yaml", DOCKER / "compose.cuda.yaml"],
    "vendor.github-workflows": [ROOT / ".github/workflows/ci.yml"],
}


def compose(name: str = "compose.yaml") -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    document: dict[str, Any] = yaml.safe_load((DOCKER / name).read_text(encoding="utf-8"))
    return document


@pytest.mark.parametrize("name", TARGETS)
def test_every_image_is_made_of_what_there_is(name: str) -> None:
    arguments = TARGETS[name]["args"]
    assert set(arguments) <= set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    assert (DOCKER / "constraints" / f"{arguments.get('CONSTRAINTS', 'stock')}.txt").exists()
    extras = CONFIGURATION_EXTRAS.intersection(arguments.get("EXTRAS", "models").split(","))
    assert extras == set(arguments.get("EXTRAS", "models").split(","))


CONFIGURATION_EXTRAS = set(
    re.findall(
        r"^(\w+) = \[",
        (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.optional-dependencies]")[2],
        re.MULTILINE,
    )
)


def test_there_is_an_image_for_each_board_server_and_a_cpu() -> None:
    assert set(TARGETS) == {"cpu", "cuda", "jetpack6", "jetpack7"} == set(BAKE["group"]["all"]["targets"])


@pytest.mark.parametrize("name", TARGETS)
def test_the_line_that_builds_an_image_without_bake_says_the_same(name: str) -> None:
    page = (DOCKER / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(rf"docker build -f docker/Dockerfile -t cardlab:{name} .*", page)
    assert len(lines) == 1 and lines[0].endswith(" .")
    # What is left out is the Dockerfile's own default.
    defaults = dict(re.findall(r"^ARG (\w+)=(\S*)$", DOCKERFILE, re.MULTILINE))
    given = dict(re.findall(r"--build-arg (\w+)=(\S*)", lines[0]))
    assert {**defaults, **given} == {**defaults, **TARGETS[name]["args"]}


def test_an_image_gets_every_room_and_nothing_else() -> None:
    """A room that is left out makes an image that does not start; another folder may hold somebody's keys."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    assert {room.name for room in _folders()} <= let_in
    for name in let_in:
        assert (ROOT / name).exists(), f".dockerignore lets in {name}, which is not there"
    rooms = {package.split(".")[1] for package in CONFIGURATION["setuptools"]["packages"] if "." in package}
    assert {name for name in let_in if (ROOT / name).is_dir()} == {*rooms, "docker/constraints"}


def test_images_have_the_torch_that_the_tests_run_with() -> None:
    pinned = re.search(r"^torch==(\S+)$", (DOCKER / "constraints/stock.txt").read_text("utf-8"), re.MULTILINE)
    assert pinned and f"torch=={pinned[1]}" in (ROOT / ".ci/environment").read_text(encoding="utf-8")


def test_jetson_stats_is_told_everywhere_that_it_installs_no_service() -> None:
    """Its build, as root, otherwise installs and starts a system service."""
    yaml = pytest.importorskip("yaml")
    assert re.search(r"^export container=1$", (ROOT / ".ci/environment").read_text("utf-8"), re.MULTILINE)
    assert "\nENV container=1\n" in DOCKERFILE
    plays = yaml.safe_load((ROOT / "examples/fleet/profile.yml").read_text(encoding="utf-8"))
    tasks = [task for play in plays for task in play["tasks"] if "jetson" in str(task.get("ansible.builtin.pip"))]
    assert tasks and all(str(task["environment"]["container"]) == "1" for task in tasks)
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for line in page.read_text(encoding="utf-8").splitlines():
            if re.search(r"pip install .*\bjetson\b", line):
                assert "container=1" in line, f"{page.name}: {line}"


def test_no_password_stands_in_the_compose_file_and_none_is_made_up() -> None:
    services = compose()["services"]
    for service in services.values():
        for name, value in service["environment"].items():
            if "PASSWORD" in name:
                assert value.startswith("${CARDLAB_DB_PASSWORD:?"), f"{name}={value}"
    assert "@database/" in services["server"]["environment"]["CARD_DB"]
    assert services["server"]["depends_on"]["database"]["condition"] == "service_healthy"


@pytest.mark.torch
def test_the_server_of_the_compose_file_starts_as_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All its options are taken; what it lacks here is the keys that its owner makes."""
    monkeypatch.chdir(tmp_path)
    words = [re.sub(r"\$\{\w+:-(.*?)\}", r"\1", word) for word in compose()["services"]["server"]["command"]]
    refused = command(words[0], *words[1:], "--db", "x.db")
    refused.failed_in_one_line(1, "keys/server.key")
    made = command("card", "run", "keys", "server", "--out", "keys")
    assert made.code == 0 and Path("keys/server.key").exists()
    command(words[0], *words[1:], "--db", "x.db").failed_in_one_line(1, "keys/device.pub")


def lint(file: Path) -> subprocess.CompletedProcess[str]:
    words = [need("hadolint"), "--config", str(DOCKER / "hadolint.yaml"), str(file)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.mark.once
def test_the_dockerfile_is_clean_for_the_linter_and_a_broken_one_is_not(tmp_path: Path) -> None:
    clean = lint(DOCKER / "Dockerfile")
    assert clean.returncode == 0, clean.stdout
    broken = tmp_path / "Dockerfile"
    broken.write_text(DOCKERFILE.replace("WORKDIR /var/lib", "WORKDIR var/lib"), encoding="utf-8")
    assert "DL3000" in lint(broken).stdout and lint(broken).returncode == 1
    broken.write_text(DOCKERFILE.replace("USER 10001:10001", "USER root"), encoding="utf-8")
    assert "DL3002" in lint(broken).stdout and lint(broken).returncode == 1


def judge(schema: str, *files: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, files)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if "No module named check_jsonschema" in done.stderr:
        missing("check-jsonschema is not installed")
    return done


@pytest.mark.once
@pytest.mark.parametrize("schema", SCHEMAS)
def test_compose_file_and_workflow_follow_their_schema_and_a_broken_one_does_not(schema: str, tmp_path: Path) -> None:
    checked = judge(schema, *SCHEMAS[schema])
    assert checked.returncode == 0, checked.stdout
    for file in SCHEMAS[schema]:
        broken = tmp_path / file.name
        # `services` and `jobs` hold everything.
        broken.write_text(re.sub(r"^(services|jobs):", r"\1s:", file.read_text("utf-8"), flags=re.MULTILINE), "utf-8")
        assert judge(schema, broken).returncode == 1, f"{file.name} without its main key passes"


def test_make_check_judges_them_too() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = makefile.partition("\ncheck:")[2].partition("\n\n")[0]
    assert "hadolint" in recipe and all(f"$(SCHEMA) {schema} " in recipe for schema in SCHEMAS)
    for file in [DOCKER / "Dockerfile", *(file for files in SCHEMAS.values() for file in files)]:
        assert str(file.relative_to(ROOT)) in recipe
