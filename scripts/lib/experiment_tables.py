"""From the runs of an experiment to its tables."""

import csv
import math
import statistics

from experiments import TARGET_SHARE, groups_of, targets_of

FINALS = ("global_accuracy", "personalised_accuracy", "global_loss")
# Columns of table.csv after group, arm and runs. `to_target` is where `metric` first reaches the target of the same
# seed and group, `to_random` where it reaches what `random` ends with; means over the seeds that get there.
REACHES = ("target", "random")
COLUMNS = tuple(f"{name}_{part}" for name in FINALS for part in ("mean", "deviation")) + tuple(
    f"{what}_to_{goal}" for goal in REACHES for what in ("reached", "rounds", "bytes", "seconds")) + (
    "load_cv", "load_cv_floor", "cumulative_load_cv", "bytes_down", "bytes_up", "simulated_s", "difference_mean",
    "difference_deviation")


def mean(values):
    return statistics.fmean(values) if values else None


def deviation(values):
    return statistics.stdev(values) if len(values) > 1 else None


def of_arm(runs, group, arm):
    return sorted((run for run in runs if (run.group, run.arm) == (group, arm)), key=lambda run: run.seed)


def finals(runs, metric):
    return [value for value in (run.final(metric) for run in runs) if value is not None]


def reach(runs, metric, goals):
    """How many of the runs get to the goal of their seed, and the mean round, bytes and simulated time at which."""
    found = []
    for run in runs:
        index = run.round_reaching(metric, goals.get((run.group, run.seed)))
        if index is not None:
            found.append((run.reports[index]["round"], run.bytes_until(index), run.seconds[index]))
    columns = list(zip(*found)) or [(), (), ()]
    return [len(found)] + [mean(column) for column in columns]


def differences(champions, others, metric):
    """Of the champion over another contender, seed by seed."""
    by_seed = {run.seed: run.final(metric) for run in others}
    pairs = [(run.final(metric), by_seed.get(run.seed)) for run in champions]
    return [own - other for own, other in pairs if own is not None and other is not None]


def row_of(experiment, runs, group, arm, goals):
    """One row of table.csv, as a dictionary."""
    own = of_arm(runs, group, arm)
    row = {"group": group, "arm": arm, "runs": len(own)}
    for name in FINALS:
        values = finals(own, name)
        row[f"{name}_mean"], row[f"{name}_deviation"] = mean(values), deviation(values)
    for goal in REACHES:
        keys = [f"{what}_to_{goal}" for what in ("reached", "rounds", "bytes", "seconds")]
        row.update(zip(keys, reach(own, experiment.metric, goals[goal])))
    row["load_cv"] = mean([run.mean("load_cv") for run in own])
    row["load_cv_floor"] = mean([run.mean("load_cv_floor") for run in own])
    row["cumulative_load_cv"] = mean([run.reports[-1]["cumulative_load_cv"] for run in own])
    row["bytes_down"] = mean([run.summary["bytes_down"] for run in own])
    row["bytes_up"] = mean([run.summary["bytes_up"] for run in own])
    row["simulated_s"] = mean([run.seconds[-1] for run in own])
    apart = differences(of_arm(runs, group, experiment.champion), own, experiment.metric)
    if arm == experiment.champion:
        apart = []
    row["difference_mean"], row["difference_deviation"] = mean(apart), deviation(apart)
    return row


def rows_of(experiment, runs):
    random = {(run.group, run.seed): run.final(experiment.metric) for run in runs if run.arm == "random"}
    goals = {"target": targets_of(experiment, runs), "random": random}
    return [row_of(experiment, runs, group, arm, goals) for group in groups_of(runs) for arm in experiment.arms
            if of_arm(runs, group, arm)]


def write_csv(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("group", "arm", "runs") + COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
                             for key, value in row.items()})


# ---- Markdown.

def number(value, scale=1.0, digits=1):
    return "" if value is None else f"{value * scale:.{digits}f}"


def figures(value):
    """Three significant figures, without exponents."""
    if value is None:
        return ""
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{max(0, digits)}f}"


def megabytes(value):
    return figures(None if value is None else value / 1e6)


def spread(row, name, scale=100.0, digits=1):
    text = number(row[f"{name}_mean"], scale, digits)
    apart = row[f"{name}_deviation"]
    return text if apart is None or not text else f"{text} ± {apart * scale:.{digits}f}"


def reached(row, what, goal, text_of=number):
    """The mean where all seeds get there; how many do where not all."""
    count = row[f"reached_to_{goal}"]
    if count == 0:
        return "never"
    text = text_of(row[f"{what}_to_{goal}"])
    return text if count == row["runs"] else f"{text} ({count} of {row['runs']})"


def difference(row):
    text = spread(row, "difference")
    return text if text.startswith("-") or not text else "+" + text


def markdown_rows(experiment, rows):
    """Header and rows of the table as lists of cells; without what no run has."""
    has_group = any(row["group"] for row in rows)
    has_reference = any(row["reached_to_target"] for row in rows)
    has_random = any(row["arm"] == "random" for row in rows)
    columns = [("", lambda row: row["group"])] if has_group else []
    columns += [
        ("contender", lambda row: row["arm"]),
        ("global accuracy, %", lambda row: spread(row, "global_accuracy")),
        ("personalised, %", lambda row: spread(row, "personalised_accuracy")),
        ("loss, nats", lambda row: spread(row, "global_loss", 1.0, 3)),
        (f"{experiment.champion} is better by, points", difference),
    ]
    if has_reference:
        columns += [("rounds to target", lambda row: reached(row, "rounds", "target")),
                    ("MB to target", lambda row: reached(row, "bytes", "target", megabytes)),
                    ("simulated s to target", lambda row: reached(row, "seconds", "target", figures))]
    if has_random:
        columns.append(("rounds to random's end", lambda row: reached(row, "rounds", "random")))
    columns += [
        ("load CV a round (floor)", lambda row: f"{row['load_cv']:.3f} ({row['load_cv_floor']:.3f})"),
        ("load CV of all rounds", lambda row: number(row["cumulative_load_cv"], 1.0, 3)),
        ("MB down / up", lambda row: f"{megabytes(row['bytes_down'])} / {megabytes(row['bytes_up'])}"),
        ("simulated s", lambda row: figures(row["simulated_s"])),
    ]
    return [title for title, _ in columns], [[cell(row) for _, cell in columns] for row in rows]


def target_text(experiment, runs):
    targets = targets_of(experiment, runs)
    if not targets:
        return ""
    lines = []
    for group in groups_of(runs):
        values = [f"{100 * value:.1f}" for (its, _), value in sorted(targets.items(), key=lambda item: item[0][1])
                  if its == group]
        if values:
            lines.append(f"{group + ': ' if group else ''}{', '.join(values)} %")
    name = experiment.metric.replace("_", " ")
    return (f"Target: {100 * TARGET_SHARE:.0f} % of the {name} that `{experiment.reference}` ends with, seed by seed: "
            f"{'; '.join(lines)}.\n")


def markdown(experiment, runs, rows, origin, missing):
    header, cells = markdown_rows(experiment, rows)
    rounds = sorted({len(run.reports) for run in runs})
    lines = [f"# {experiment.title}", "",
             f"`{origin['command']}`, commit {origin['commit']}, {origin['machine']}; seeds "
             f"{', '.join(map(str, origin['seeds']))}; {' or '.join(map(str, rounds))} rounds. Means over the seeds ± standard "
             "deviation, after the last round. Bytes are all that was sent, evaluation included.", ""]
    target = target_text(experiment, runs)
    lines += [target] if target else []
    lines += ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in cells]
    if experiment.remarks:
        lines += ["", experiment.remarks]
    if missing:
        lines += ["", "Not completed: " + "; ".join(missing) + "."]
    return "\n".join(lines) + "\n"
