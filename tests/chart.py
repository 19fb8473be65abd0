"""Charts for the manual. They are drawn in Airflow's virtualenv, which has matplotlib."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
Curves = Mapping[str, Sequence[float]]


def draw(name: str, panels: Mapping[str, Curves], x: str, y: str) -> None:
    """Draw panels, up to four a row, each with its curves, one value a step, as docs/pictures/NAME.png."""
    python, given = ROOT / "build" / "airflow" / "bin" / "python", json.dumps([panels, x, y])
    subprocess.run([python, __file__, PICTURES / f"{name}.png"], input=given, text=True, check=True)


def main() -> None:
    from matplotlib.figure import Figure
    from PIL import Image

    panels, x, y = json.load(sys.stdin)
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(9, 3.4 if rows == 1 else 1.9 * rows), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False, sharey=rows == 1).flat)
    # One scale for panels in a row; otherwise each has its own.
    top = 1.05 * max(max(values) for curves in panels.values() for values in curves.values()) if rows == 1 else None
    for axes, (title, curves) in zip(grid, panels.items(), strict=False):
        for label, values in curves.items():
            axes.plot(values, label=label, linewidth=1)
        axes.set_title(title, fontsize=9)
        axes.set(xlabel=x, ylim=(0, top))
        axes.tick_params(labelsize=7)
        if len(curves) > 1:
            axes.legend(frameon=False, fontsize=6)
    for axes in grid[len(panels) :]:
        axes.remove()
    figure.supylabel(y, fontsize=9)
    figure.savefig(sys.argv[1], dpi=90)
    Image.open(sys.argv[1]).convert("RGB").quantize(64).save(sys.argv[1], optimize=True)


if __name__ == "__main__":
    main()
