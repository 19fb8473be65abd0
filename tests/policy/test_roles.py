"""What holds for every role and playbook."""

import hashlib
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
TEMPLATES = sorted(path for path in (ROOT / "roles").rglob("*.j2"))


def tracked() -> list[Path]:
    """The files that a clone would have."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    output = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout
    return [ROOT / name for name in output.split("\0") if name and (ROOT / name).is_file()]


def load(path: Path):
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_defaults_and_argument_specs_name_the_same_variables(role):
    """A spec's own default is not applied at run time, so the two files must not drift apart."""
    specs = load(role / "meta/argument_specs.yml")["argument_specs"]
    assert set(specs["main"]["options"]) == set(load(role / "defaults/main.yml"))
    assert specs["preflight"] == specs["main"]


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_default_has_a_sentence(role):
    text = (role / "defaults/main.yml").read_text()
    for name in load(role / "defaults/main.yml"):
        before = text[: text.index(f"\n{name}:")].rstrip().splitlines()[-1]
        assert before.startswith(("#", f"{role.name}_")), f"{name} has no comment above it"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_variables_carry_the_role_name(role):
    for name in load(role / "defaults/main.yml"):
        assert name.startswith(f"{role.name}_")
    if (role / "vars/main.yml").exists():
        assert all(name.startswith(f"__{role.name}_") for name in load(role / "vars/main.yml"))


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_roles_do_not_read_one_another(role):
    others = [other.name for other in ROLES if other != role]
    pattern = re.compile(rf"\b(?:__)?({'|'.join(others)})_[a-z_]+")
    variables = {name for other in ROLES if other != role for name in load(other / "defaults/main.yml")}
    for path in [*role.rglob("*.yml"), *role.rglob("*.j2")]:
        used = {match.group(0) for match in pattern.finditer(path.read_text())}
        assert not used & variables, f"{path.relative_to(ROOT)} reads {used & variables}"


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: str(path.relative_to(ROOT)))
def test_templates_say_that_they_are_managed(template):
    # The connection string is one line that must hold nothing else, and JSON knows no comments.
    if template.name != "database_url.j2" and ".json" not in template.suffixes:
        assert "ansible_managed" in template.read_text()


def test_there_is_one_table_of_components():
    """What must repeat it says the same: the choices of a variable, its default, the unit files, the inventory."""
    table = json.loads((ROOT / "roles/airflow/files/airstrip/airstrip/components.json").read_text())
    for role, name in (("airflow", "airflow_components"), ("release", "release_components")):
        specs = load(ROOT / "roles" / role / "meta/argument_specs.yml")["argument_specs"]["main"]["options"][name]
        assert load(ROOT / "roles" / role / "defaults/main.yml")[name] == specs["choices"] == list(table)
    groups = load(ROOT / "inventory/production/groups.yml")["airflow"]["children"]
    assert {row["group"] for row in table.values()} == set(groups) - {"airflow_workers"}
    units = ROOT / "roles/airflow/templates/etc/systemd/system"
    for row in table.values():
        for unit in (*row["units"], *row.get("beside", [])):
            assert (units / f"{re.sub('@[ab]', '@', unit)}.j2").exists(), unit
    written = [path for path in tracked() if path.suffix in {".yml", ".j2", ".py"} and "tests" not in path.parts]
    port = re.compile(r"(?<![\d.])8080(?!\d)")
    assert [str(path) for path in written if port.search(path.read_text()) and path.name != "doctor.py"] == []


def test_nothing_swallows_errors():
    for path in [*(ROOT / "roles").rglob("*.yml"), *(ROOT / "playbooks").rglob("*.yml")]:
        assert "ignore_errors" not in path.read_text(), path


def test_lock_files_hold_hashes_and_no_addresses():
    for path in tracked():
        if path.suffix == ".txt" and path.with_suffix(".in").exists():
            text = path.read_text()
            pins = re.findall(r"(?m)^[a-z0-9._-]+(?:\[[a-z0-9,_-]+\])?==", text)
            assert pins and "://" not in text, path
            assert len(re.findall(r"(?m)^[a-z][^\n]*\\\n    --hash=sha256:", text)) == len(pins), path


def test_the_lock_covers_our_own_package(tmp_path):
    """The bytes of the package are the same wherever it is built, so that a hash can stand for them."""
    source = ROOT / "roles/airflow/files/airstrip"
    build = ["uv", "build", "--quiet", "--offline", "--wheel", "--out-dir", str(tmp_path), str(source)]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    for lock in ("roles/airflow/files/requirements.txt", "tests/e2e/upgrade/requirements.txt"):
        text = (ROOT / lock).read_text()
        assert f"--hash=sha256:{digest}" in text, "run: make lock UPGRADE='--upgrade-package airstrip-airflow'"


@pytest.mark.parametrize("extras", [[], *([path.stem] for path in (ROOT / "roles/airflow/files/extras").glob("*.txt"))])
def test_the_virtualenv_is_named_by_all_its_lock_files(extras):
    """Otherwise a changed set of packages would be brought into the virtualenv of the running tasks."""
    command = ["ansible", "-i", "localhost,", "localhost", "--playbook-dir", str(ROOT / "playbooks"), "-m", "debug"]
    arguments = ["-a", "var=release_virtualenv", "-e", json.dumps({"airflow_extras": extras})]
    output = subprocess.run([*command, *arguments], cwd=ROOT, text=True, capture_output=True, check=True).stdout
    files = ["requirements.txt", *(f"extras/{name}.txt" for name in extras)]
    content = b"".join((ROOT / "roles/airflow/files" / name).read_bytes() for name in files)
    assert f"/opt/airflow/venvs/{hashlib.sha256(content).hexdigest()[:12]}" in output


@pytest.mark.parametrize("name", ["update.yml", "rollback.yml"])
def test_one_host_that_fails_stops_the_others(name):
    """The hosts that come after must keep the release that works, and those before go back to it."""
    plays = load(ROOT / "playbooks" / name)
    (switch,) = [play for play in plays if play.get("serial")]
    assert (switch["serial"], switch["max_fail_percentage"]) == (1, 0)
    # With it Ansible counts an unreachable host twice, takes the batch for a part of a larger one and goes on.
    assert "any_errors_fatal" not in switch
    tasks = load(ROOT / "playbooks/tasks/live.yml")
    assert "rescue" in tasks[0]


def test_no_secret_and_no_path_of_this_machine_is_kept():
    secret = re.compile(r"BEGIN (RSA |EC |OPENSSH )?PRIVATE KEY-|AKIA[0-9A-Z]{16}|A{21}[0-9A-Za-z%]{20}")
    for path in tracked():
        if path.suffix not in {".png", ".gif"} and path != Path(__file__):
            text = path.read_text()
            assert not secret.search(text), path
            assert str(ROOT) + "/" not in text, path
