"""One plot, where matplotlib is installed: how many times as fast as each peer, a dot for every cell."""

from pathlib import Path

from benchmarks.catalog import PEERS
from benchmarks.summary import Summary, geometric_mean


def write_plot(summary: Summary, file: Path) -> None:
    """Write the SVG; nothing without matplotlib, which is no dependency."""
    try:
        import matplotlib as mpl
    except ImportError:
        return
    mpl.use("svg")
    from matplotlib import pyplot as plt

    cells = [(model, workload) for model in summary.models() for workload in summary.workloads(model)]
    ratios = {name: [summary.ratio(name, *cell) for cell in cells] for name in PEERS if PEERS[name].rival != name}
    known = {name: [ratio for ratio in values if ratio] for name, values in ratios.items()}
    shown = [name for name in reversed(known) if known[name] and name != "shardlabel-embeddings"]
    figure, axes = plt.subplots(figsize=(9, 0.5 * len(shown) + 1))
    for place, name in enumerate(shown):
        axes.plot(known[name], [place] * len(known[name]), "o", color="tab:blue", alpha=0.4)
        axes.plot(geometric_mean(known[name]), place, "|", color="black", markersize=16)
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set(xscale="log", yticks=range(len(shown)), yticklabels=shown, xlabel="shardlabel is faster by (bar: mean)")
    figure.savefig(file, bbox_inches="tight")
    plt.close(figure)
