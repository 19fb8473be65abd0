"""Draws the memory of each unit over time. It runs in the virtualenv that has matplotlib."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

found = json.loads(Path(sys.argv[1]).read_text())
figure = Figure(figsize=(9, 3.6), layout="constrained")
for axes, (title, curves) in zip(figure.subplots(1, len(found), sharey=True), found.items(), strict=True):
    for unit, held in sorted(curves.items(), key=lambda item: -item[1][-1]):
        axes.plot(held, label=unit.partition("-")[2])
    axes.set(title=title, xlabel="minutes, ten tasks in each", ylabel="MB", ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)
figure.savefig(sys.argv[2], dpi=100)
