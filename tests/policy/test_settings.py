"""Where a setting may be, and how it may be written."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
WIRED = [name for name in yaml.safe_load((ROOT / "playbooks/group_vars/all.yml").read_text()) if name[:2] != "__"]
VAULT = "inventory/production/group_vars/all/vault.yml"


def variables(inventory: Path, *arguments: str) -> dict:
    """What the playbooks' host sees of an inventory."""
    command = ["ansible-inventory", "-i", str(inventory), "--playbook-dir", "playbooks", "--host", "server", *arguments]
    said = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout
    return json.loads(said)


@pytest.mark.parametrize(
    "place",
    [
        "group_vars/all.yml",
        "group_vars/airstrip.yml",
        "group_vars/airflow_api.yml",
        "host_vars/server.yml",
        "inventory of all",
        "inventory of a group",
        "inventory of the host",
        "-e",
    ],
)
def test_what_the_operator_sets_wins_over_the_wiring_between_roles(tmp_path, place):
    wanted = {name: f"{name} of {place}" for name in WIRED}
    hosts = {"airstrip": {"hosts": {"server": {}}}}
    if place == "inventory of all":
        hosts["all"] = {"vars": wanted}
    elif place == "inventory of a group":
        hosts["airstrip"]["vars"] = wanted
    elif place == "inventory of the host":
        hosts["airstrip"]["hosts"]["server"] = wanted
    elif place != "-e":
        (tmp_path / place).parent.mkdir()
        (tmp_path / place).write_text(json.dumps(wanted))
    (tmp_path / "groups.yml").write_text((ROOT / "inventory/production/groups.yml").read_text())
    (tmp_path / "hosts.yml").write_text(json.dumps(hosts))
    seen = variables(tmp_path, *(["-e", json.dumps(wanted)] if place == "-e" else []))
    assert {name: seen[name] for name in WIRED} == wanted


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_boolean_may_be_given_as_a_word(role):
    """With -e everything is a string, and "false" is as true as any."""
    options = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    for name in (name for name, option in options.items() if option["type"] == "bool"):
        for path in [*(role / "tasks").rglob("*.yml"), *(role / "templates").rglob("*.j2")]:
            # A message may name it, as in `-e name=true`.
            bare = re.findall(rf"\b{name}\b(?! *\| *bool)(?!=)", path.read_text())
            assert not bare, f"{path.relative_to(ROOT)}: {name} needs `| bool`"


def host(inventory: Path) -> subprocess.CompletedProcess[str]:
    """Run what all playbooks begin with."""
    playbook = inventory.parent / "host.yml"
    tasks = [{"ansible.builtin.import_tasks": str(ROOT / "playbooks/tasks/host.yml")}]
    playbook.write_text(
        json.dumps([{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}])
    )
    command = ["ansible-playbook", "-i", str(inventory), str(playbook)]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)


@pytest.mark.parametrize(
    ("content", "plain"),
    [
        ((ROOT / VAULT).read_text(), False),
        (
            "vault_a: ''\nvault_b: \"{{ lookup('env', 'TOKEN') }}\"\nvault_c: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n",
            False,
        ),
        ("vault_a: ''\nvault_b: invented\n", True),
        ('vault_a:\n  inner: "invented"\n', True),
        ("vault_a:\n  - invented\n", True),
    ],
)
def test_a_secret_in_plain_text_is_refused(tmp_path, content, plain):
    inventory = tmp_path / "inventory"
    (inventory / "group_vars/all").mkdir(parents=True)
    (inventory / "groups.yml").write_text((ROOT / "inventory/production/groups.yml").read_text())
    (inventory / "hosts.yml").write_text("airstrip: {hosts: {server: }}")
    vault = inventory / "group_vars/all/vault.yml"
    vault.write_text(content)
    run = host(inventory)
    if plain:
        assert run.returncode and f"ansible-vault encrypt {vault}" in " ".join(run.stdout.split())
    else:
        assert run.returncode == 0 and "in plain text:" not in run.stdout
