"""The confusion matrix as a PNG."""

from collections.abc import Sequence
from pathlib import Path

from wastetune.formatting import shortened

# Shades go with the square root of the share, so that a confusion of 5 % can be told from none.
SHADE = 0.5


def draw_confusion_matrix(matrix: Sequence[Sequence[int]], classes: Sequence[str], path: Path) -> None:
    """A PNG of the matrix: counts in the cells, shaded by the share of the true class; also fit for print."""
    # The object interface: pyplot would pick a window system and keep every figure alive.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    totals = [max(sum(row), 1) for row in matrix]
    shares = [[count / total for count in row] for row, total in zip(matrix, totals, strict=True)]
    side = 1.2 + 0.55 * len(classes)
    figure = Figure(figsize=(side + 2.2, side + 1.2), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(SHADE, vmin=0, vmax=1))
    for row, line in enumerate(matrix):
        for column, count in enumerate(line):
            share = shares[row][column]
            # Empty cells stay legible but step back, so that the confusions stand out.
            colour = "white" if share**SHADE > 0.6 else "black" if count else "0.7"
            weight = "bold" if row == column else "normal"
            axes.text(column, row, str(count), ha="center", va="center", color=colour, weight=weight, size=10)
    names = [shortened(name, 30) for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks([i - 0.5 for i in range(1, len(names))], minor=True)
    axes.set_yticks([i - 0.5 for i in range(1, len(names))], minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    bar = figure.colorbar(image, ax=axes, shrink=0.8, ticks=[0, 0.05, 0.25, 0.5, 1])
    bar.ax.set_yticklabels(["0 %", "5 %", "25 %", "50 %", "100 %"])
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    canvas.print_figure(path, dpi=200, format="png", bbox_inches="tight", pad_inches=0.1)
