"""What the end-to-end tests share: folders and processes that never outlive their test, and small configurations.

The programs are found in $FEDMOE_BIN (default: build/release/bin). Waiting is polling with a deadline that is generous, because
the machine may be busy; no test depends on how long something takes.
"""

import csv
import glob
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("FEDMOE_BIN", ROOT / "build/release/bin"))
DEADLINE_S = 60.0
FILE_LIMIT_S = 280  # below the TIMEOUT of CMakeLists.txt, so that processes are cleaned up before CTest kills
SKIP_CODE = 77

MODEL = {"inputs": 32, "classes": 8, "width": 32, "expert_width": 32, "experts": 4, "top_k": 2}


def environment():
    """As scripts/run_local sets it, so that what is started by hand computes with the same BLAS."""
    env = dict(os.environ)
    openblas = glob.glob("/usr/lib/*/openblas-openmp")
    env["LD_LIBRARY_PATH"] = ":".join(openblas + [p for p in [env.get("LD_LIBRARY_PATH")] if p])
    env["OMP_WAIT_POLICY"] = "passive"
    return env


def merge(base, changes):
    """`base` with the values of `changes`, dictionary by dictionary."""
    merged = dict(base)
    for key, value in changes.items():
        inner = merged.get(key)
        merged[key] = merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def processes_naming(text):
    """Ids of the living processes whose command line contains `text`, this one left out."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(str(text)) in command:  # a zombie's command line is empty
            found.append(int(entry.name))
    return found


def run_program(name, *arguments):
    """(exit code, stdout, stderr) of a program that ends by itself."""
    done = subprocess.run([str(BIN / name), *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=DEADLINE_S, env=environment(), check=False)
    return done.returncode, done.stdout, done.stderr


def read_reports(out):
    """The whole lines of rounds.jsonl."""
    try:
        text = (pathlib.Path(out) / "rounds.jsonl").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.split("\n")[:-1]]


def read_summary(out):
    return json.loads((pathlib.Path(out) / "summary.json").read_text(encoding="utf-8"))


def read_assignments(out):
    with open(pathlib.Path(out) / "assignments.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def outcomes(report):
    return {client["client"]: client["outcome"] for client in report["clients"]}


class Program:
    """A started program, its group and its log (stdout and stderr)."""

    def __init__(self, command, log):
        self.log_path = log
        with open(log, "ab") as file:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                                            env=environment(), start_new_session=True)

    def log(self):
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def signal(self, number):
        self.process.send_signal(number)

    def signal_group(self, number):
        os.killpg(self.process.pid, number)

    def kill(self):
        """As a crash: no handler runs."""
        self.process.kill()
        self.process.wait()


class Sandbox:
    """A folder, and the processes started in it: each names the folder on its command line, so none escapes close()."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="fedmoe-e2e-"))
        self.programs = []

    def close(self):
        for pid in processes_naming(self.folder):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for program in self.programs:
            program.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, label, *command):
        program = Program([str(part) for part in command], self.folder / f"{label}.log")
        self.programs.append(program)
        return program

    def write(self, name, config):
        """JSON is YAML."""
        path = self.folder / name
        path.write_text(json.dumps(config, indent=1), encoding="utf-8")
        return path


class EndToEndTest(unittest.TestCase):
    """A test with a sandbox of its own."""

    maxDiff = None

    def setUp(self):
        self.sandbox = Sandbox()
        self.addCleanup(self.sandbox.close)
        self.folder = self.sandbox.folder

    # ---- Waiting.

    def wait_until(self, what, condition, *programs, deadline_s=DEADLINE_S):
        """Returns the first true value of `condition()`; fails with the programs' logs at the deadline."""
        end = time.monotonic() + deadline_s
        while not (value := condition()):
            if time.monotonic() > end:
                logs = "".join(f"\n--- {p.log_path.name}\n{p.log()[-3000:]}" for p in programs)
                self.fail(f"{what}: not within {deadline_s:.0f} s{logs}")
            time.sleep(0.02)
        return value

    def wait_for_log(self, program, text):
        self.wait_until(f"'{text}' in {program.log_path.name}", lambda: text in program.log(), program)

    def wait_for_rounds(self, out, count, *programs):
        self.wait_until(f"{count} rounds", lambda: len(read_reports(out)) >= count, *programs)

    def expect_exit(self, program, code, deadline_s=DEADLINE_S):
        self.wait_until(f"end of {program.log_path.stem}", lambda: program.process.poll() is not None, program,
                        deadline_s=deadline_s)
        self.assertEqual(program.process.returncode, code, program.log()[-3000:])

    def expect_stopped(self, coordinator, clients):
        """The coordinator stopped before its rounds were done: clients wait for its return until they are told to go."""
        self.expect_exit(coordinator, 7)
        for client in clients:
            self.assertIsNone(client.process.poll(), client.log()[-3000:])
            client.signal(signal.SIGTERM)
            self.expect_exit(client, 0)

    def expect_nothing_left(self, deadline_s=15.0):
        self.wait_until("no process left", lambda: not processes_naming(self.folder), deadline_s=deadline_s)

    # ---- Programs.

    def run_local(self, config, *arguments, out="run", **start):
        """Starts scripts/run_local with its run directory in the sandbox."""
        return self.sandbox.start(out + "-local", ROOT / "scripts/run_local", config, "--out", self.folder / out, "--bin",
                                  BIN, *arguments, **start)

    def coordinator(self, config, *arguments, out="run", port=0, label="coordinator"):
        """Starts a coordinator on `config` (a dictionary over the small model's) and waits until it listens."""
        (self.folder / out).mkdir(exist_ok=True)
        (self.folder / out / "address").unlink(missing_ok=True)
        base = {"name": "e2e", "model": MODEL, "evaluation": {"mode": "none"}}
        path = self.sandbox.write(f"{label}.yaml", merge(base, config))
        program = self.sandbox.start(label, BIN / "fedmoe-coordinator", "--config", path, "--set",
                                     f"storage.directory={self.folder / out}", "--set",
                                     f"server.address=127.0.0.1:{port}", *arguments)
        address = self.folder / out / "address"
        self.wait_until("the coordinator listens", lambda: address.is_file() or program.process.poll() is not None, program)
        return program

    def address(self, out="run"):
        return (self.folder / out / "address").read_text(encoding="utf-8").strip()

    def client_config(self, name, address, config=None):
        number = int(name[-1]) if name[-1].isdigit() else 0
        base = {"name": name, "coordinator": address, "state_directory": str(self.folder / "state" / name),
                "data": {"client_index": number, "domains": {"examples": 256}},
                "capacity": {"measure": False, "max_experts": 2}, "retry": {"max_s": 0.5}}
        return self.sandbox.write(f"{name}.yaml", merge(base, config or {}))

    def client(self, name, address, config=None):
        """Starts a client; one of a name after another has the same state directory, and is the same instance."""
        return self.sandbox.start(name, BIN / "fedmoe-client", "--config", self.client_config(name, address, config))

    def clients(self, count, address, config=None):
        return [self.client(f"node-{i}", address, config) for i in range(count)]


def main():
    """Runs the tests of the file that calls it. Exit code 77: all of them were skipped, for the reason that is printed."""
    def out_of_time(_number, _frame):
        raise TimeoutError(f"the tests of this file took more than {FILE_LIMIT_S} s")

    signal.signal(signal.SIGALRM, out_of_time)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    signal.alarm(FILE_LIMIT_S)
    result = unittest.main(module="__main__", exit=False, verbosity=2).result
    if not result.wasSuccessful():
        sys.exit(1)
    if result.skipped and len(result.skipped) == result.testsRun:
        print(f"Skipped\n{result.skipped[0][1]}")
        sys.exit(SKIP_CODE)
    sys.exit(1 if result.testsRun == 0 else 0)
