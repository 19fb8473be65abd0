"""`make pictures`: the manual's pictures, taken of the lab that `make lab` made, so that they show what there is."""

from __future__ import annotations

import itertools
import json
import os
import pty
import secrets
import select
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyte
from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import Page, sync_playwright

from lab import __main__ as commands
from lab.settings import BUCKET, Lab
from tests.chart import draw
from tests.e2e import load
from tests.prometheus import EXAMPLES, asked, beside
from tests.server import ROOT, Server, by_way_of_mitogen

FOLDER = ROOT / "docs/pictures"
FONT = "/usr/share/fonts/truetype/dejavu/DejaVuSansMono.ttf"
COLUMNS, SIZE = 118, 13
INK, PAPER = "#d8dee9", "#1e2430"
COLOURS = {"red": "#ff6b6b", "green": "#8fd694", "brown": "#f2c14e", "cyan": "#7fd1e0", "blue": "#82aaff"}
# Nobody wants to watch pauses: longer ones are cut to this.
LONGEST_PAUSE = 1.5
DASHBOARD_SECONDS = 420
# Panels that want cgroup v2 or a disk of the machine's own.
NOT_IN_THE_LAB = ("Memory", "Disk that is free", "Doctor: what is well")
BROKEN = "from airflow.sdk import dag\nimport no_such_package\n"


class Terminal:
    """A terminal of a height, whose screen can be drawn."""

    def __init__(self, rows: int) -> None:
        self.screen = pyte.Screen(COLUMNS, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.frames: list[tuple[float, Image.Image]] = []
        self.font = ImageFont.truetype(FONT, SIZE)
        self.width, self.height = round(self.font.getlength("m")), SIZE + 4

    def type(self, text: str) -> None:
        """Show what an operator types."""
        self.stream.feed(f"\x1b[1m$ {text}\x1b[0m\r\n".encode())
        self.frames.append((time.monotonic(), self.draw()))

    def run(self, command: Sequence[str], environment: dict[str, str] | None = None) -> None:
        """Run a command in the terminal, and keep a frame whenever the screen changes."""
        pid, output = pty.fork()
        if pid == 0:
            os.chdir(ROOT)
            os.environ.update(environment or {}, COLUMNS=str(COLUMNS), LINES=str(self.screen.lines), TERM="xterm")
            os.execvp(command[0], list(command))
        for chunk in chunks(output):
            self.stream.feed(chunk)
            if not self.frames or time.monotonic() - self.frames[-1][0] > 1:
                self.frames.append((time.monotonic(), self.draw()))
        os.waitpid(pid, 0)
        self.frames.append((time.monotonic(), self.draw()))

    def draw(self) -> Image.Image:
        """Return a picture of the screen."""
        size = (COLUMNS * self.width + 24, self.screen.lines * self.height + 24)
        image = Image.new("RGB", size, PAPER)
        draw = ImageDraw.Draw(image)
        for number, line in self.screen.buffer.items():
            for column, cell in line.items():
                if cell.data.strip():
                    place = (12 + column * self.width, 12 + number * self.height)
                    draw.text(
                        place, cell.data, font=self.font, fill=COLOURS.get(cell.fg, "#ffffff" if cell.bold else INK)
                    )
        return image

    def save(self, name: str) -> None:
        """Keep the last screen, without the empty lines below it."""
        used = max(
            (number for number, line in self.screen.buffer.items() if any(c.data.strip() for c in line.values()))
        )
        image = self.draw().crop((0, 0, COLUMNS * self.width + 24, (used + 1) * self.height + 24))
        image.quantize(32).save(FOLDER / name, optimize=True)

    def save_recording(self, name: str) -> None:
        """Keep all frames as a GIF."""
        times = [at for at, _ in self.frames]
        lengths = [min(LONGEST_PAUSE, after - before) for before, after in itertools.pairwise(times)] + [3.0]
        first, *others = [image.quantize(8) for _, image in self.frames]
        milliseconds = [max(40, round(1000 * length)) for length in lengths]
        first.save(FOLDER / name, save_all=True, append_images=others, duration=milliseconds, loop=0, optimize=True)
        print(f"{name}: {sum(milliseconds) / 1000:.0f} s, {(FOLDER / name).stat().st_size // 1000} kB")


def chunks(output: int) -> Iterator[bytes]:
    """Yield what a process writes, until it ends."""
    while True:
        select.select([output], [], [], 1)
        try:
            chunk = os.read(output, 65536)
        except OSError:
            return
        if not chunk:
            return
        yield chunk


def on_host(server: Server, name: str, command: str) -> None:
    """Take a picture of a command on the host."""
    terminal = Terminal(48)
    terminal.type(command)
    terminal.run([*server.ssh[:1], "-t", *server.ssh[1:], command])
    terminal.save(name)


def browser_pictures(server: Server, page: Page) -> None:
    """The user interface at a run, the trigger form, and the report's mail."""
    page.goto(f"{server.url}/auth/login/")
    page.fill("[name=username]", "admin")
    page.fill("[name=password]", server.password)
    page.click("[type=submit]")
    page.wait_for_url(f"{server.url}/")
    run = server.sql("SELECT run_id FROM dag_run WHERE dag_id = 'twitter' ORDER BY id DESC LIMIT 1")
    page.goto(f"{server.url}/dags/twitter/runs/{run}/details")
    page.get_by_text("Bundle Version").first.wait_for()
    shoot(page, "run.png")
    page.goto(f"{server.url}/dags/twitter")
    page.get_by_role("button", name="Trigger").first.click()
    page.get_by_text("Single Run").first.wait_for()
    shoot(page, "trigger.png")
    s3 = server.aws("s3")
    listing = s3.list_objects_v2(Bucket=BUCKET, Prefix="curated/report/daily/")["Contents"]
    newest = max(each["Key"] for each in listing if each["Key"].endswith("report.html"))
    page.set_viewport_size({"width": 800, "height": 1000})
    page.set_content(s3.get_object(Bucket=BUCKET, Key=newest)["Body"].read().decode())
    shoot(page, "report.png", full_page=True)


def shoot(page: Page, name: str, **options: bool) -> None:
    """Take a picture of a page once it is at rest."""
    page.wait_for_timeout(1500)
    page.screenshot(path=FOLDER / name, **options)
    Image.open(FOLDER / name).convert("RGB").quantize(128).save(FOLDER / name, optimize=True)


def recording(server: Server) -> None:
    """Ship a DAG, have a broken one refused, go back."""
    environment = commands.environment(server.lab)
    playbook = shlex.split("ansible-playbook")
    with tempfile.TemporaryDirectory() as folder:
        source = load.source(Path(folder))
        terminal = Terminal(20)
        for text, name, arguments in (
            ("# an edited DAG", "", ["update.yml", "-e", f"release_source={source}"]),
            ("# a DAG that cannot be imported", "broken", ["update.yml", "-e", f"release_source={source}"]),
            ("# and back", "", ["rollback.yml"]),
        ):
            if name:
                (source / "dags" / f"{name}_dag.py").write_text(BROKEN)
            shown = [
                "ansible-playbook",
                f"playbooks/{arguments[0]}",
                *(["-e release_source=dags-repository"] * bool(arguments[1:])),
            ]
            terminal.type(f"{' '.join(shown)}    {text}")
            terminal.run([*playbook, f"playbooks/{arguments[0]}", *arguments[1:]], environment)
    terminal.save_recording("update.gif")


def dashboard(server: Server) -> None:
    """Draw what the dashboard's panels show, by their own queries, after some minutes of tasks."""
    password = secrets.token_hex(16)
    server.ansible = by_way_of_mitogen()
    server.play("site.yml", "-e", json.dumps({"metrics_password": password}))
    panels = [panel for panel in json.loads((EXAMPLES / "dashboard.json").read_text())["panels"] if "targets" in panel]
    with tempfile.TemporaryDirectory() as folder, beside(server, password):
        source = load.source(Path(folder))
        # The recording went back from these DAGs, and a release that was withdrawn is refused.
        (source / "dags" / "dashboard").touch()
        server.play("update.yml", "-e", f"release_source={source}")
        with load.Load(server, seconds=(1, 4, 20), every=20):
            time.sleep(DASHBOARD_SECONDS)
        now = time.time()
        span = {"start": now - DASHBOARD_SECONDS, "end": now, "step": 5}
        drawn = {}
        for panel in panels:
            if panel["type"] == "timeseries" and panel["title"] not in NOT_IN_THE_LAB:
                found = asked(server, panel["targets"][0]["expr"], **span)
                drawn[panel["title"]] = {label(each["metric"]): [float(v) for _, v in each["values"]] for each in found}
    draw("dashboard", drawn, "", "")
    server.play("rollback.yml")


def label(metric: dict[str, str]) -> str:
    """What tells a curve of a panel from the others."""
    known = ("state", "component", "database", "statsd", "check")
    return next((metric[name].rpartition(".")[2] for name in known if name in metric), "")


def main() -> None:
    """Take them all."""
    lab = Lab()
    server = Server(lab, "airstrip")
    FOLDER.mkdir(exist_ok=True)
    for graph in sorted(FOLDER.glob("*.dot")):
        subprocess.run(["dot", "-Tsvg", "-o", graph.with_suffix(".svg"), graph], check=True)
    on_host(server, "check.png", "sudo airstrip check")
    on_host(server, "status.png", "sudo airstrip status")
    server.run("systemctl stop airflow-triggerer")
    on_host(server, "check-red.png", "sudo airstrip check")
    server.run("systemctl start airflow-triggerer")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(ignore_https_errors=True, viewport={"width": 1280, "height": 1180})
        browser_pictures(server, page)
        browser.close()
    recording(server)
    dashboard(server)


if __name__ == "__main__":
    main()
