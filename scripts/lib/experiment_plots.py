"""The plots of an experiment: PNG files of matplotlib, which may be absent."""

import io
import statistics

from experiments import groups_of

MAX_COLUMNS = 3
HEAT_ARMS = ("balanced", "greedy", "random", "static")
HEAT_WINDOWS = 4  # parts of the run, each a map
DPI = 90
COLOURS = 256
MAX_BANDS = 10  # contenders whose bands can still be told apart


def load_matplotlib():
    """The module of its plots; None where it is not installed."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot
    pyplot.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False,
                            "axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False})
    return pyplot


def panels(pyplot, count, width=4.2, height=3.0):
    """A figure with so many axes, in rows of at most MAX_COLUMNS."""
    columns = min(count, MAX_COLUMNS)
    rows = -(-count // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False,
                                   layout="constrained")
    flat = [axis for row in axes for axis in row]
    for axis in flat[count:]:
        axis.set_visible(False)
    return figure, flat[:count]


def colours(pyplot, arms):
    palette = pyplot.get_cmap("tab10" if len(arms) <= MAX_BANDS else "tab20").colors
    return {arm: palette[index % len(palette)] for index, arm in enumerate(arms)}


def save(pyplot, figure, path):
    """With a palette, which makes the file a third of its size."""
    from PIL import Image  # matplotlib needs it, so it is there
    pixels = io.BytesIO()
    figure.savefig(pixels, dpi=DPI, bbox_inches="tight")
    pyplot.close(figure)
    Image.open(pixels).convert("RGB").quantize(COLOURS).save(path, optimize=True)
    return path


def legend_below(figure, axes):
    """One legend for all axes."""
    entries = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        entries.update(zip(labels, handles))
    figure.legend(entries.values(), entries.keys(), loc="upper center", bbox_to_anchor=(0.5, 0),
                  ncols=min(8, max(1, len(entries))))


def runs_of(runs, group, arm):
    return [run for run in runs if (run.group, run.arm) == (group, arm)]


def summarised(rounds, curves):
    """(round, mean, least, greatest) of curves of equal length, where all of them have a value."""
    return [(number, statistics.fmean(values), min(values), max(values)) for number, *values in zip(rounds, *curves)
            if None not in values]


def band(runs, metric):
    if not runs:
        return []
    return summarised([report["round"] for report in runs[0].reports], [run.curve(metric) for run in runs])


def band_apart(runs, champions, metric):
    """The same of what a run is above the champion's of its seed."""
    by_seed = {run.seed: run.curve(metric) for run in champions}
    curves = [[None if None in pair else pair[0] - pair[1] for pair in zip(run.curve(metric), by_seed[run.seed])]
              for run in runs if run.seed in by_seed]
    return summarised([report["round"] for report in runs[0].reports], curves) if curves else []


def draw_band(axis, points, colour, label, banded):
    """A line of means, and where `banded` the band from the least to the greatest, in points of a hundred."""
    rounds, *curves = zip(*points)
    middle, least, greatest = ([100 * value for value in curve] for curve in curves)
    axis.plot(rounds, middle, color=colour, label=label, linewidth=1.2)
    if banded:
        axis.fill_between(rounds, least, greatest, color=colour, alpha=0.12, linewidth=0)


def plot_accuracy(pyplot, experiment, runs, path):
    """Accuracy over rounds. Of one group: global, personalised, and what each is apart from the champion on the same seed;
    of several: the experiment's metric in each group."""
    groups = groups_of(runs)
    colour = colours(pyplot, experiment.arms)
    if len(groups) == 1:
        shown = [(groups[0], "global_accuracy", False), (groups[0], "personalised_accuracy", False),
                 (groups[0], experiment.metric, True)]
    else:
        shown = [(group, experiment.metric, False) for group in groups]
    figure, axes = panels(pyplot, len(shown))
    for axis, (group, metric, apart) in zip(axes, shown):
        champions = runs_of(runs, group, experiment.champion)
        for arm in experiment.arms:
            own = runs_of(runs, group, arm)
            points = band_apart(own, champions, metric) if apart else band(own, metric)
            if points:
                draw_band(axis, points, colour[arm], arm, len(experiment.arms) <= MAX_BANDS)
        name = metric.replace("_", " ")
        axis.set_ylabel(f"{name} less that of\n{experiment.champion}, points" if apart else f"{name}, %")
        axis.set_xlabel("round")
        axis.set_title(group)
        axis.xaxis.get_major_locator().set_params(integer=True)
    legend_below(figure, axes)
    return save(pyplot, figure, path)


def mean_load(runs, key):
    """By expert over all rounds, as a share of an even load; the experts in descending order, then the mean of seeds."""
    rows = []
    for run in runs:
        loads = run.reports[-1]["load"][key]
        even = sum(loads) / len(loads) if loads else 0
        if even > 0:
            rows.append(sorted((load / even for load in loads), reverse=True))
    return [statistics.fmean(column) for column in zip(*rows)]


def plot_load(pyplot, experiment, runs, path):
    """Assignments and tokens of each expert over the run, as shares of an even load."""
    group = groups_of(runs)[0]
    colour = colours(pyplot, experiment.arms)
    figure, axes = panels(pyplot, 2)
    for axis, key in zip(axes, ("assignments", "tokens")):
        for arm in experiment.arms:
            loads = mean_load(runs_of(runs, group, arm), key)
            if loads:
                axis.plot(range(1, len(loads) + 1), loads, color=colour[arm], label=arm, marker="o", markersize=3,
                          linewidth=1)
        axis.axhline(1, color="black", linewidth=0.6)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("expert, from the most to the least loaded")
        axis.set_ylabel(f"{key}, share of an even load")
        axis.set_title(group)
        axis.xaxis.get_major_locator().set_params(integer=True)
    legend_below(figure, axes)
    return save(pyplot, figure, path)


def experts_of(run):
    return len(run.reports[0]["load"]["assignments"])


def held_shares(run, first, last):
    """[client][expert]: in how many of the rounds that the client took part in, of these, it had the expert."""
    experts = experts_of(run)
    names = sorted({client["client"] for report in run.reports for client in report["clients"]})
    counts = {name: [0] * experts for name in names}
    present = dict.fromkeys(names, 0)
    for report in run.reports[first:last]:
        for client in report["clients"]:
            present[client["client"]] += 1
            for expert in client["experts"]:
                counts[client["client"]][expert] += 1
    return [[count / max(1, present[name]) for count in counts[name]] for name in names]


def leader_order(rows):
    """Clients ordered by their favourite experts, so that those who share them stand together."""
    return sorted(range(len(rows)), key=lambda i: sorted(range(len(rows[i])), key=lambda e: (-rows[i][e], e))[:2])


def rounds_text(first, last):
    return f"round {first}" if first == last else f"rounds {first} to {last}"


def plot_alignment(pyplot, experiment, runs, path):
    """Which client has which expert, in consecutive parts of the first seed's run: a row of maps for each strategy."""
    group = groups_of(runs)[0]
    chosen = []
    for arm in [arm for arm in HEAT_ARMS if arm in experiment.arms]:
        own = runs_of(runs, group, arm)
        chosen += sorted(own, key=lambda run: run.seed)[:1]
    chosen = [run for run in chosen if experts_of(run) > 0]
    if not chosen:
        return None
    windows = min(HEAT_WINDOWS, min(len(run.reports) for run in chosen))
    figure, axes = pyplot.subplots(len(chosen), windows, figsize=(2.3 * windows + 0.6, 2.2 * len(chosen)), squeeze=False,
                                   layout="constrained")
    image = None
    for row, run in zip(axes, chosen):
        edges = [len(run.reports) * part // windows for part in range(windows + 1)]
        order = leader_order(held_shares(run, edges[-2], edges[-1]))
        for part, axis in enumerate(row):
            shares = held_shares(run, edges[part], edges[part + 1])
            image = axis.imshow([shares[i] for i in order], vmin=0, vmax=1, cmap="viridis", aspect="auto",
                                interpolation="nearest")
            axis.grid(False)
            axis.set_title(f"{run.arm}, {rounds_text(edges[part] + 1, edges[part + 1])}")
            axis.set_xlabel("expert")
        row[0].set_ylabel("client, by its experts at the end")
    figure.colorbar(image, ax=axes, label="share of the client's rounds", shrink=0.6)
    return save(pyplot, figure, path)


def plot_groups(pyplot, experiment, runs, path):
    """The last round's accuracy of each contender over the groups; the bars are a standard deviation."""
    groups = groups_of(runs)
    colour = colours(pyplot, experiment.arms)
    # Local gates have no global accuracy; of runs that were never evaluated there is one empty panel.
    metrics = [metric for metric in ("global_accuracy", "personalised_accuracy")
               if any(run.final(metric) is not None for run in runs)] or ["global_accuracy"]
    figure, axes = panels(pyplot, len(metrics))
    for axis, metric in zip(axes, metrics):
        for arm in experiment.arms:
            points = []
            for index, group in enumerate(groups):
                values = [run.final(metric) for run in runs_of(runs, group, arm)]
                values = [100 * value for value in values if value is not None]
                if values:
                    points.append((index, statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0))
            if points:
                places, means, deviations = zip(*points)
                axis.errorbar(places, means, deviations, color=colour[arm], label=arm, marker="o", markersize=3, capsize=2,
                              linewidth=1.2)
        axis.set_xticks(range(len(groups)), groups, rotation=20, ha="right")
        axis.set_ylabel(metric.replace("_", " ") + ", %")
    legend_below(figure, axes)
    return save(pyplot, figure, path)


def write_plots(experiment, runs, out):
    """The files written; None where matplotlib is not installed."""
    pyplot = load_matplotlib()
    if pyplot is None:
        return None
    written = [plot_accuracy(pyplot, experiment, runs, out / "accuracy.png"),
               plot_load(pyplot, experiment, runs, out / "load.png"),
               plot_alignment(pyplot, experiment, runs, out / "alignment.png")]
    if len(groups_of(runs)) > 1:
        written.append(plot_groups(pyplot, experiment, runs, out / "groups.png"))
    return [path for path in written if path is not None]
