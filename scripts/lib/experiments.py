"""The experiments of scripts/reproduce: what they are, how their runs are made, and what a run says."""

import csv
import dataclasses
import glob
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs/experiments"
TARGET_SHARE = 0.95  # of the reference's final accuracy
STOPPED = 7  # fedmoe-simulate's exit code


class ExperimentError(Exception):
    """What ends the script: a message, and its exit code."""

    def __init__(self, message, code=1):
        super().__init__(message)
        self.code = code


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep file of configs/experiments. What a run is called follows from the keys that the file varies: {KEY} in a name is
    the run's value of that key."""

    file: str
    arm: str = "{alignment.strategy}"  # the contender
    group: str = ""  # runs are compared within a group
    data_seed: str = ""  # instead of the experiment's


@dataclasses.dataclass(frozen=True)
class Experiment:
    title: str
    sweeps: tuple
    arms: tuple  # in the order of tables and plots
    small: tuple  # overrides that make a run take a second
    champion: str = "balanced"  # whose differences from the others are reported
    reference: str = "full"  # whose final accuracy fixes the target
    data_seed: str = ""  # key that takes each seed beside run.seed
    metric: str = "global_accuracy"  # of targets and differences
    remarks: str = ""  # below the table


STRATEGIES = ("balanced", "greedy", "random", "static", "round_robin", "load_only", "none", "full")
MAIN_STRATEGIES = ("balanced", "greedy", "random", "static", "none", "full")
DOMAINS_SEED = "fleet.data.domains.seed"
PARTITION_SEED = "fleet.data.partition.seed"

DOMAINS_SMALL = ("run.rounds=3", "model.width=16", "model.expert_width=16", "fleet.data.domains.examples=80",
                 "fleet.test_examples=128")
MNIST_SMALL = ("run.rounds=2", "model.width=16", "model.expert_width=16", "fleet.data.max_examples=80")
LANGUAGES_SMALL = ("run.rounds=2", "model.expert_width=16", "training.max_batches=2", "fleet.data.max_test_examples=24")
CIFAR_SMALL = ("run.rounds=2", "evaluation.every_rounds=1", "model.width=16", "model.expert_width=16",
               "fleet.data.max_examples=40", "fleet.data.max_test_examples=40", "training.batch_size=16")


def languages(prefix, **options):
    """The three sweeps of the contenders on the languages."""
    return (Sweep(f"{prefix}.sweep.yaml", **options), Sweep(f"{prefix}_dense.sweep.yaml", arm="dense", **options),
            Sweep(f"{prefix}_wide.sweep.yaml", arm="wide", **options))


EXPERIMENTS = {
    "alignment": Experiment(
        title="Strategies on the generated domains",
        sweeps=(Sweep("alignment.sweep.yaml"),), arms=STRATEGIES, small=DOMAINS_SMALL, data_seed=DOMAINS_SEED),
    "alignment_mnist": Experiment(
        title="Strategies under label skew: MNIST",
        sweeps=(Sweep("alignment_mnist_dirichlet.sweep.yaml", group="Dirichlet {fleet.data.partition.alpha}"),
                Sweep("alignment_mnist_classes.sweep.yaml", group="{fleet.data.partition.classes_per_client} classes a client")),
        arms=STRATEGIES, small=MNIST_SMALL, data_seed=PARTITION_SEED),
    "alignment_cifar10": Experiment(
        title="Strategies under label skew: CIFAR-10",
        sweeps=(Sweep("alignment_cifar10_dirichlet.sweep.yaml", group="Dirichlet {fleet.data.partition.alpha}"),
                Sweep("alignment_cifar10_classes.sweep.yaml", group="{fleet.data.partition.classes_per_client} classes a client")),
        arms=MAIN_STRATEGIES, small=CIFAR_SMALL, data_seed=PARTITION_SEED),
    "languages": Experiment(
        title="Eight languages at equal client memory",
        sweeps=languages("languages") + (Sweep("languages_none.sweep.yaml", arm="none"),), arms=MAIN_STRATEGIES[:5] + ("dense", "wide", "full"), small=LANGUAGES_SMALL,
        data_seed=PARTITION_SEED),
    "languages_transformer": Experiment(
        title="Eight languages at equal client memory, with a decoder",
        sweeps=languages("languages_transformer"), arms=("balanced", "random", "static", "none", "dense", "wide", "full"),
        small=LANGUAGES_SMALL, data_seed=PARTITION_SEED),
    "languages_gates": Experiment(
        title="What the gate reads of the languages",
        sweeps=(Sweep("languages_gates.sweep.yaml", arm="{model.gate.input}, {model.gate.normalise}"),),
        arms=tuple(f"{what}, {how}" for what in ("data", "sequence", "token") for how in ("population", "example")),
        small=LANGUAGES_SMALL, data_seed=PARTITION_SEED, champion="data, population"),
    "languages_rates": Experiment(
        title="Learning rates for the languages",
        sweeps=languages("languages_rates", group="rate {training.learning_rate}"),
        arms=("balanced", "static", "random", "none", "dense", "wide"), small=LANGUAGES_SMALL, data_seed=PARTITION_SEED),
    "languages_transformer_rates": Experiment(
        title="Learning rates for the languages, with a decoder",
        sweeps=languages("languages_transformer_rates", group="rate {training.learning_rate}"),
        arms=("balanced", "static", "random", "none", "dense", "wide"), small=LANGUAGES_SMALL, data_seed=PARTITION_SEED),
    "label_skew": Experiment(
        title="What helps where clients differ in labels",
        sweeps=tuple(sweep for where, group, seed in (("mnist", "MNIST, Dirichlet {fleet.data.partition.alpha}", PARTITION_SEED),
                                                      ("domains", "domains", DOMAINS_SEED))
                     for sweep in (Sweep(f"label_skew_{where}.sweep.yaml", group=group, data_seed=seed),
                                   Sweep(f"label_skew_{where}_consensus.sweep.yaml", arm="consensus {aggregation.consensus}",
                                         group=group, data_seed=seed),
                                   Sweep(f"label_skew_{where}_fading.sweep.yaml",
                                         arm="fading at {aggregation.consensus_information}", group=group, data_seed=seed),
                                   Sweep(f"label_skew_{where}_population.sweep.yaml", arm="population, fading at 1", group=group,
                                         data_seed=seed),
                                   Sweep(f"label_skew_{where}_trunk.sweep.yaml", arm="trunk loss", group=group,
                                         data_seed=seed),
                                   Sweep(f"label_skew_{where}_soup.sweep.yaml", arm="soup", group=group, data_seed=seed),
                                   Sweep(f"label_skew_{where}_post_hoc.sweep.yaml", arm="post-hoc gates", group=group,
                                         data_seed=seed))),
        arms=("balanced", "consensus 0.1", "consensus 0.3", "consensus 0.6", "fading at 0.4", "fading at 1",
              "population, fading at 1", "trunk loss", "soup", "post-hoc gates", "random", "static", "none", "full"),
        small=("run.rounds=2", "model.width=16", "model.expert_width=16", "fleet.data.max_examples=80",
               "fleet.data.max_test_examples=100", "fleet.data.domains.examples=80", "fleet.test_examples=128")),
    "label_skew_cifar10": Experiment(
        title="What helps where clients differ in labels: CIFAR-10",
        sweeps=tuple(Sweep(f"label_skew_cifar10_{kind}{suffix}.sweep.yaml", arm=arm, group=group)
                     for kind, group in (("dirichlet", "Dirichlet {fleet.data.partition.alpha}"),
                                         ("classes", "{fleet.data.partition.classes_per_client} classes a client"))
                     for suffix, arm in (("", "{alignment.strategy}"), ("_population", "population, fading at 1"))),
        arms=("population, fading at 1", "balanced", "random"), small=CIFAR_SMALL, data_seed=PARTITION_SEED,
        champion="population, fading at 1", reference="random"),
    "fitness": Experiment(
        title="Fitness signals, exploration and movement",
        sweeps=(Sweep("fitness.sweep.yaml", arm="{fitness.signal}"),
                Sweep("fitness_ucb.sweep.yaml", arm="{fitness.signal} + ucb"),
                Sweep("fitness_contextual.sweep.yaml", arm="{fitness.signal} + contextual"),
                Sweep("fitness_movement.sweep.yaml", arm="{fitness.signal} + movement {alignment.movement.weight}"),
                Sweep("fitness_baselines.sweep.yaml")),
        arms=("affinity", "loss", "accuracy", "sum", "affinity + ucb", "loss + ucb", "accuracy + ucb", "sum + ucb",
              "loss + contextual", "accuracy + contextual", "sum + contextual", "affinity + movement 0.1",
              "affinity + movement 0.5", "loss + movement 0.1", "loss + movement 0.5", "random", "full"),
        small=DOMAINS_SMALL, data_seed=DOMAINS_SEED, champion="affinity"),
    "capacity": Experiment(
        title="How many of sixteen experts a client can hold",
        sweeps=(Sweep("capacity.sweep.yaml", group="{fleet.capacity.max_experts} of 16"),),
        arms=MAIN_STRATEGIES, small=DOMAINS_SMALL, data_seed=DOMAINS_SEED),
    "participation": Experiment(
        title="How many of thirty-two clients take part in a round",
        sweeps=(Sweep("participation.sweep.yaml", group="{run.clients.per_round} a round"),),
        arms=MAIN_STRATEGIES, small=DOMAINS_SMALL, data_seed=DOMAINS_SEED),
    "fedau": Experiment(
        title="Clients of half the domains are seldom there",
        sweeps=(Sweep("fedau.sweep.yaml", arm="{alignment.strategy}, {aggregation.participation}"),),
        arms=tuple(f"{strategy}, {participation}" for strategy in ("balanced", "random", "none")
                   for participation in ("fedau", "plain")),
        small=DOMAINS_SMALL, data_seed=DOMAINS_SEED, champion="balanced, fedau"),
    "flexmoe": Experiment(
        title="Local gates on CIFAR-10, after FLEX-MoE",
        sweeps=(Sweep("flexmoe.sweep.yaml", group="{fleet.data.partition.kind}"),), arms=MAIN_STRATEGIES,
        small=CIFAR_SMALL, data_seed=PARTITION_SEED, metric="personalised_accuracy",
        remarks="FLEX-MoE (arXiv 2512.23070) reports for its method on CIFAR-10 83 % IID, 65.51 % with 4 classes a client and "
                "68.81 % under Dirichlet 0.8, at a load CV of about 0.003, against more than 0.29 for greedy assignment. Ours "
                "differ in the images (JPEG), the cohort, the size of the model and the number of rounds."),
}


# ---- Running.

def environment():
    """The OpenMP flavour of OpenBLAS, as scripts/run_local has it."""
    env = dict(os.environ)
    found = sorted(glob.glob("/usr/lib/*/openblas-openmp"))
    if found:
        env["LD_LIBRARY_PATH"] = ":".join(filter(None, [found[0], env.get("LD_LIBRARY_PATH")]))
    return env


def sweep_text(sweep, seed):
    """The sweep's file for one seed, to stand anywhere."""
    path = CONFIGS / sweep.file
    text = path.read_text(encoding="utf-8")
    text, bases = re.subn(r"(?m)^base: *(\S+).*$", lambda match: f"base: {json.dumps(str(path.parent / match[1]))}", text)
    text, seeds = re.subn(r"(?m)^seeds: *\[.*$", f"seeds: [{seed}]", text)
    if (bases, seeds) != (1, 1):
        raise ExperimentError(f"{path}: needs one line `base: FILE` and one line `seeds: [...]`")
    return text


def seeds_of(experiment):
    """The seeds that the first sweep's file names."""
    path = CONFIGS / experiment.sweeps[0].file
    match = re.search(r"(?m)^seeds: *\[([0-9, ]+)\]", path.read_text(encoding="utf-8"))
    if match is None:
        raise ExperimentError(f"{path}: needs a line `seeds: [...]`")
    return [int(seed) for seed in match[1].split(",")]


def sweep_folder(out, sweep, seed):
    return out / "runs" / sweep.file.removesuffix(".sweep.yaml") / f"seed-{seed}"


def wait_for(process):
    """The exit code. An interrupt is the program's to answer: it finishes its round."""
    def pass_on(number, _frame):
        process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_sweep(program, experiment, sweep, seed, out, sets, threads):
    """Runs what is not completed yet. True if every run of it completed."""
    folder = sweep_folder(out, sweep, seed)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "sweep.yaml"
    path.write_text(sweep_text(sweep, seed), encoding="utf-8")
    data_seed = sweep.data_seed or experiment.data_seed
    overrides = list(sets) + ([f"{data_seed}={seed}"] if data_seed else [])
    command = [str(program), "--sweep", str(path), "--out", str(folder)]
    for override in overrides:
        command += ["--set", override]
    if threads:
        command += ["--threads", str(threads)]
    # In a session of its own, so that Ctrl-C reaches it once.
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, start_new_session=True)
    code = wait_for(process)
    if code == STOPPED:
        raise ExperimentError(f"stopped; go on with --resume --out {out}", STOPPED)
    if code not in (0, 1):
        raise ExperimentError(f"fedmoe-simulate ended with {code} (see above)", code if 0 < code < 128 else 1)
    return code == 0


# ---- Reading.

@dataclasses.dataclass
class Run:
    """One completed run."""

    arm: str
    group: str
    seed: int
    reports: list  # of rounds.jsonl
    summary: dict
    seconds: list  # simulated time at the end of each round

    def curve(self, metric):
        """The metric after each round; None where it was not measured."""
        return [report[metric] for report in self.reports]

    def final(self, metric):
        measured = [value for value in self.curve(metric) if value is not None]
        return measured[-1] if measured else None

    def round_reaching(self, metric, target):
        """Index of the first round that reaches the target; None for none."""
        for index, value in enumerate(self.curve(metric)):
            if value is not None and target is not None and value >= target:
                return index
        return None

    def bytes_until(self, index):
        return sum(report["bytes_down"] + report["bytes_up"] for report in self.reports[:index + 1])

    def mean(self, key):
        return sum(report[key] for report in self.reports) / len(self.reports)


def named(name, row):
    """The name with the run's values in the place of {KEY}."""
    return re.sub(r"\{([^}]*)\}", lambda match: row[match[1]], name)


def read_run(folder, sweep, row):
    reports = [json.loads(line) for line in (folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()]
    with open(folder / "simulation.csv", encoding="utf-8", newline="") as file:
        seconds = [float(line["simulated_s"]) for line in csv.DictReader(file)]
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return Run(named(sweep.arm, row), named(sweep.group, row), int(row["seed"]), reports, summary, seconds)


def read_runs(experiment, seeds, out):
    """(completed runs, names of those that are not)."""
    runs, missing = [], []
    for sweep in experiment.sweeps:
        for seed in seeds:
            folder = sweep_folder(out, sweep, seed)
            with open(folder / "results.csv", encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file):
                    if row["status"] == "completed":
                        runs.append(read_run(folder / row["cell"], sweep, row))
                    else:
                        missing.append(f"{folder.parent.name}, {row['cell']} ({row['status']})")
    unknown = sorted({run.arm for run in runs} - set(experiment.arms))
    if unknown:
        raise ExperimentError(f"contenders without a place in the tables: {', '.join(unknown)}")
    return runs, missing


def groups_of(runs):
    """The groups in the order of their runs."""
    return list(dict.fromkeys(run.group for run in runs))


def targets_of(experiment, runs):
    """{(group, seed): accuracy}: a share of what the reference ends with on the same data."""
    targets = {}
    for run in runs:
        final = run.final(experiment.metric)
        if run.arm == experiment.reference and final is not None:
            targets[run.group, run.seed] = TARGET_SHARE * final
    return targets


# ---- Provenance.

def output_of(*command):
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def machine():
    cpu = re.search(r"(?m)^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return f"{len(os.sched_getaffinity(0))} cores of {cpu[1] if cpu else os.uname().machine}"


def provenance(name, seeds, arguments):
    commit = output_of("git", "rev-parse", "--short=12", "HEAD") or "unknown"
    if commit != "unknown" and output_of("git", "status", "--porcelain", "--untracked-files=no", "src", "configs"):
        commit += " with changes"
    return {"experiment": name, "command": "scripts/reproduce " + " ".join(arguments), "commit": commit,
            "machine": machine(), "seeds": seeds}


def complain(text):
    print(f"reproduce: {text}", file=sys.stderr, flush=True)
