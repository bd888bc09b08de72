"""A small deterministic fleet of real processes that is killed and started again, and what must hold of it after each kill.

Used by scripts/crash_matrix. The kills at chosen operations are the programs' own (FEDMOE_CRASH_POINTS, docs/reliability.md).
"""

import datetime
import glob
import json
import os
import re
import signal
import socket
import subprocess
import time

CLIENTS = 3
PHASES = ("before", "half", "after")
RESUME_LIMIT_S = 5.0
PATIENCE_S = 120.0  # for a run that makes no progress; far above what any needs
CONFIG = {
    "name": "crash",
    "model": {"inputs": 8, "classes": 4, "width": 8, "expert_width": 8, "experts": 2, "top_k": 1, "gate": {"mode": "local"}},
    "run": {"deterministic": True, "max_aborts": 1000, "clients": {"min": CLIENTS}},
    "aggregation": {"optimizer": "fedadam", "learning_rate": 0.01},
    "evaluation": {"mode": "none"},
    "storage": {"keep_versions": 1},
    "log": {"live_table": False},
}
CLIENT = {
    "capacity": {"measure": False, "max_experts": 1},
    "retry": {"initial_s": 0.02, "max_s": 0.2},
    "threads": 1,
}
# The generated data have as many features and classes as the model.
EXAMPLES = 64

LOG_TIME = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) . coordinator: run \S+ listens on ", re.MULTILINE)
GOES_ON = re.compile(r"run crash goes on: version (\d+), ")
ABORTED = re.compile(r"round (\d+) attempt \d+ aborted: ")
CLIENT_DONE = ": done: all "
CLIENT_ROUND = re.compile(r"round (\d+): (training |sending the finished update again|sent .*, accepted)")


class Lost(Exception):
    """Something that a kill must not do."""


def environment(points=None):
    """As scripts/run_local sets it: the BLAS that keeps to its threads."""
    env = dict(os.environ)
    openblas = sorted(glob.glob("/usr/lib/*/openblas-openmp"))
    env["LD_LIBRARY_PATH"] = ":".join(openblas[:1] + [p for p in [env.get("LD_LIBRARY_PATH")] if p])
    env["OMP_WAIT_POLICY"] = "passive"
    env.pop("FEDMOE_CRASH_POINTS", None)
    if points is not None:
        env["FEDMOE_CRASH_POINTS"] = points
    return env


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def site_of(operation, path):
    """The kind of operation and file: "rename spool/N.tmp"."""
    name = path
    for folder in ("spool/", "checkpoints/"):
        if f"/{folder}" in path:
            name = folder + path.rsplit("/", 1)[1]
            break
    else:
        name = path.rsplit("/", 1)[1]
    return f"{operation} " + re.sub(r"\d+(\.\d+-\d+)?", "N", name)


def read_trace(path):
    """(index, operation, path) of each operation."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [(int(index), operation, name) for index, operation, name in
            (line.split(" ", 2) for line in lines if not line.startswith("killed "))]


class Programs:
    """Where they are, and what is set beside their configurations."""

    def __init__(self, folder, sets=()):
        self.folder, self.sets = folder, sets

    def command(self, program, config):
        sets = self.sets if program == "fedmoe-coordinator" else ()
        return [str(self.folder / program), "--config", str(config), *(word for value in sets for word in ("--set", value))]


class Life:
    """One process, from its start to its end."""

    def __init__(self, command, log, point=None, trace=None):
        points = ",".join(([":".join(map(str, point))] if point else []) + ([str(trace)] if trace else []))
        self.point, self.trace = point, trace
        self.reported_before = 0
        self.told = False  # a client, of the run's end, as it said before it was killed
        self.log_path = log
        self.log_start = log.stat().st_size if log.is_file() else 0
        self.started = time.time()
        with open(log, "ab") as file:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                                            env=environment(points or None), start_new_session=True)

    def log(self):
        with open(self.log_path, "rb") as file:
            file.seek(self.log_start)
            return file.read().decode(errors="replace")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def died(self):
        """By SIGKILL, its own at its point."""
        return self.process.poll() == -signal.SIGKILL

    def listening_after_s(self):
        """Seconds from the start until it served, by its own clock; None: it did not come to it."""
        found = LOG_TIME.search(self.log())
        if found is None:
            return None
        return datetime.datetime.strptime(found.group(1), "%Y-%m-%d %H:%M:%S.%f").timestamp() - self.started


class Fleet:
    """One run in a folder of its own: a coordinator, its clients, and what was seen of the run so far."""

    def __init__(self, folder, programs, rounds, reference=None):
        self.folder, self.programs, self.rounds, self.reference = folder, programs, rounds, reference
        self.out = folder / "run"
        folder.mkdir(parents=True)
        self.port = free_port()
        self.coordinator = None
        self.clients = [None] * CLIENTS
        self.lines = []  # of rounds.jsonl, as last seen
        self.lives = 0
        self.served = False  # a coordinator has listened
        self.slowest_resume_s = 0.0
        self.write("coordinator.yaml", {**CONFIG, "run": {**CONFIG["run"], "rounds": rounds},
                                        "storage": {**CONFIG["storage"], "directory": str(self.out)},
                                        "server": {"address": f"127.0.0.1:{self.port}"}})
        for number in range(CLIENTS):
            self.write(f"node-{number}.yaml", {
                **CLIENT, "name": f"node-{number}", "coordinator": f"127.0.0.1:{self.port}",
                "state_directory": str(folder / "state" / f"node-{number}"),
                "data": {"client_index": number, "domains": {"examples": EXAMPLES, "dimensions": 8, "classes": 4}}})

    def write(self, name, config):
        (self.folder / name).write_text(json.dumps(config, indent=1), encoding="utf-8")

    def trace_of(self, name):
        self.lives += 1
        return self.folder / "traces" / f"{name}-{self.lives}"

    def start(self, name, program, point, traced):
        trace = self.trace_of(name) if point or traced else None
        (self.folder / "traces").mkdir(exist_ok=True)
        return Life(self.programs.command(program, self.folder / f"{name}.yaml"),
                    self.folder / f"{name}.log", point, trace)

    def start_coordinator(self, point=None, traced=False):
        """Always the same command."""
        self.coordinator = self.start("coordinator", "fedmoe-coordinator", point, traced)
        self.coordinator.reported_before = len(self.lines)

    def start_client(self, number, point=None, traced=False):
        """None is started again that had said that it was done when it was killed."""
        if self.clients[number] is not None and CLIENT_DONE in self.clients[number].log():
            self.clients[number].told = True
            return
        self.clients[number] = self.start(f"node-{number}", "fedmoe-client", point, traced)

    def start_clients(self, *numbers, traced=False):
        for number in numbers or range(CLIENTS):
            self.start_client(number, traced=traced)

    def close(self):
        for life in [self.coordinator, *self.clients]:
            if life is not None and life.process.poll() is None:
                life.kill()

    # ---- What must hold.

    def check_reports(self):
        """No committed round is gone or changed, none stands there twice, and each has the undisturbed run's model."""
        path = self.out / "rounds.jsonl"
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
        if lines[:len(self.lines)] != self.lines:
            raise Lost(f"rounds.jsonl had {len(self.lines)} rounds, and they are not its first {len(lines)} any more")
        for number, line in enumerate(lines[len(self.lines):], len(self.lines) + 1):
            report = json.loads(line)
            if report["round"] != number:
                raise Lost(f"line {number} of rounds.jsonl is round {report['round']}")
            if self.reference and report["model_digest"] != self.reference[number - 1]:
                raise Lost(f"round {number} has the model {report['model_digest']}, without kills {self.reference[number - 1]}")
        self.lines = lines

    def check_coordinator_life(self, life):
        """Of a life that is over: it resumed in time, and at the version that was there."""
        log = life.log()
        after_s = life.listening_after_s()
        if after_s is not None:
            if self.served:
                self.slowest_resume_s = max(self.slowest_resume_s, after_s)
                if after_s > RESUME_LIMIT_S:
                    raise Lost(f"it took {after_s:.2f} s to resume")
            self.served = True
        found = GOES_ON.search(log)
        if found and int(found.group(1)) < life.reported_before:
            raise Lost(f"it went on at version {found.group(1)}, after {life.reported_before} rounds were reported")
        self.check_reports()

    def check_acknowledged(self):
        """No update that was acknowledged is asked for again, unless its round was aborted."""
        aborted = set(map(int, ABORTED.findall((self.folder / "coordinator.log").read_text(errors="replace"))))
        for number in range(CLIENTS):
            accepted = set()
            text = (self.folder / f"node-{number}.log").read_text(errors="replace")
            for round_number, what in CLIENT_ROUND.findall(text):
                if what.startswith("sent"):
                    accepted.add(int(round_number))
                elif int(round_number) in accepted - aborted:
                    raise Lost(f"node-{number} was asked again for its update of round {round_number}, which was acknowledged")
        return len(aborted)

    def check_end(self):
        """The run is completed, with every round and the undisturbed run's model, and its clients know."""
        self.check_coordinator_life(self.coordinator)
        summary = json.loads((self.out / "summary.json").read_text(encoding="utf-8"))
        if (summary["status"], len(self.lines)) != ("completed", self.rounds):
            raise Lost(f"the run ended {summary['status']} with {len(self.lines)} of {self.rounds} rounds")
        last = json.loads(self.lines[-1])["model_digest"]
        if summary["model_digest"] != last:
            raise Lost(f"summary.json has the model {summary['model_digest']}, the last round {last}")
        for number, client in enumerate(self.clients):
            try:
                code = client.process.wait(timeout=PATIENCE_S)
            except subprocess.TimeoutExpired:
                raise Lost(f"node-{number} does not know that the run is over") from None
            if code != 0 and CLIENT_DONE not in client.log():
                raise Lost(f"node-{number} ended with exit code {code}: {client.log()[-500:]}")
        return summary["model_digest"]
