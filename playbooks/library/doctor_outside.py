#!/usr/bin/python
"""Examine an Airflow host from the outside, as a user's browser and a stranger's scanner see it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: doctor_outside
short_description: Examine an Airflow host from the outside
options:
  address:
    description: Address of the host.
    type: str
    required: true
  server_name:
    description: Name under which people reach it.
    type: str
    required: true
  authorities:
    description: Certificate authorities to trust beside the system's, as PEM texts.
    type: list
    elements: str
  certificate:
    description: The host's own certificate as PEM text, if it is self-signed; fetched over SSH.
    type: str
  closed_ports:
    description: Ports that must not answer from outside.
    type: list
    elements: int
    required: true
  asked:
    description: When the host was asked what time it is, in seconds since 1970 by this clock.
    type: float
    required: true
  answered:
    description: What the host's clock said then.
    type: float
    required: true
  username:
    description: The administrator.
    type: str
    required: true
  password:
    description: The administrator's password.
    type: str
    required: true
author: Airstrip
"""

EXAMPLES = r"""
- name: Look from the outside
  doctor_outside:
    address: 192.0.2.10
    server_name: airflow.example.com
    closed_ports: [5432, 6379]
    asked: "{{ before }}"
    answered: "{{ host_time }}"
    username: admin
    password: "{{ password }}"
  delegate_to: localhost
"""

RETURN = r"""
findings:
  description: For each check its name, whether all is well, and a line that says so or how to fix it.
  type: list
  returned: always
"""

import http.client
import json
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.findings import Sick, examine

CLOSED_PATHS = ("/execution/health", "/docs", "/redoc", "/openapi.json", "/auth/docs", "/auth/openapi.json")


class Doctor:
    """One method per check; each returns what is well or raises Sick."""

    def __init__(self, parameters: dict) -> None:
        self.address, self.name = parameters["address"], parameters["server_name"]
        self.credentials = {"username": parameters["username"], "password": parameters["password"]}
        self.asked, self.answered = parameters["asked"], parameters["answered"]
        self.ports = parameters["closed_ports"]
        self.context = ssl.create_default_context()
        for pem in parameters["authorities"] or []:
            self.context.load_verify_locations(cadata=pem)
        if parameters["certificate"]:
            self.context.load_verify_locations(cadata=parameters["certificate"])

    def request(self, method: str, path: str, body: dict | None = None) -> http.client.HTTPResponse:
        connection = http.client.HTTPSConnection(self.name, 443, timeout=15, context=self.context)
        plain = socket.create_connection((self.address, 443), timeout=15)
        connection.sock = self.context.wrap_socket(plain, server_hostname=self.name)
        headers = {"Content-Type": "application/json"} if body else {}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        return connection.getresponse()

    def tls(self) -> str:
        try:
            plain = socket.create_connection((self.address, 443), timeout=10)
            with plain, self.context.wrap_socket(plain, server_hostname=self.name) as secure:
                return f"{secure.version()} for {self.name}"
        except (OSError, ssl.SSLError) as error:
            raise Sick(
                f"no trusted connection to {self.name}: {error}", "set nginx_certificate, run site.yml --tags nginx"
            ) from None

    def redirect(self) -> str:
        connection = http.client.HTTPConnection(self.address, 80, timeout=10)
        connection.request("GET", "/", headers={"Host": self.name})
        answer = connection.getresponse()
        location = answer.getheader("Location", "")
        if answer.status != 301 or not location.startswith("https://"):
            raise Sick(f"port 80 answers {answer.status}", "run playbooks/site.yml --tags nginx")
        return f"port 80 leads to {location}"

    def clock(self) -> str:
        # The host said what time it is between two moments of this clock.
        wrong = max(self.asked - self.answered, self.answered - time.time())
        if wrong > 5:
            raise Sick(f"{wrong:.0f} s away from the controller's", "sudo systemctl restart chrony; chronyc tracking")
        return "agrees with the controller's"

    def login(self) -> str:
        answer = self.request("POST", "/auth/token", self.credentials)
        if answer.status != 201:
            raise Sick(
                f"{self.credentials['username']} gets {answer.status}",
                "wait a minute after many attempts, else set airflow_admin_password and run site.yml --tags airflow",
            )
        return f"{self.credentials['username']} may log in"

    def closed_paths(self) -> str:
        open_paths = [path for path in CLOSED_PATHS if self.request("GET", path).status != 404]
        if open_paths:
            raise Sick(f"open to everybody: {', '.join(open_paths)}", "run playbooks/site.yml --tags nginx")
        return "the tasks' interface is closed"

    def answers(self, port: int) -> bool:
        try:
            socket.create_connection((self.address, port), timeout=2).close()
        except OSError:
            return False
        return True

    def closed_ports(self) -> str:
        # A dropped packet gets no answer: each wait takes its two seconds, all in parallel.
        with ThreadPoolExecutor(len(self.ports)) as pool:
            answers = dict(zip(self.ports, pool.map(self.answers, self.ports), strict=True))
        found = [str(port) for port, answer in answers.items() if answer]
        if found:
            raise Sick(
                f"open to everybody: {', '.join(found)}", f"ss -lntp on the host, and close them: {found[0]} first"
            )
        return f"{', '.join(map(str, self.ports))} do not answer"


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "address": {"type": "str", "required": True},
            "server_name": {"type": "str", "required": True},
            "authorities": {"type": "list", "elements": "str"},
            "certificate": {"type": "str"},
            "closed_ports": {"type": "list", "elements": "int", "required": True},
            "asked": {"type": "float", "required": True},
            "answered": {"type": "float", "required": True},
            "username": {"type": "str", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    doctor = Doctor(module.params)
    names = ("clock", "tls", "redirect", "login", "closed_paths", "closed_ports")
    module.exit_json(changed=False, findings=examine({name.replace("_", " "): getattr(doctor, name) for name in names}))


if __name__ == "__main__":
    main()
