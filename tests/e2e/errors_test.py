#!/usr/bin/python3
"""Bad input and bad circumstances: what the user is told, word for word, and the exit code."""

import pathlib
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from end_to_end import BIN, MODEL, EndToEndTest, free_port, main, outcomes, read_reports, run_program  # noqa: E402


class ConfigurationTest(EndToEndTest):
    def expect(self, program, text, message, *arguments):
        path = self.folder / "bad.yaml"
        path.write_text(text, encoding="utf-8")
        code, out, error = run_program(program, "--config", path, *arguments)
        self.assertEqual((code, out, error), (2, "", message.replace("FILE", str(path)) + "\n"))

    def test_not_yaml(self):
        self.expect("fedmoe-coordinator", "run:\n  rounds: [1\n",
                    "fedmoe-coordinator: FILE:3:1: not valid YAML: end of sequence flow not found")

    def test_all_errors_at_once_with_suggestions(self):
        self.expect("fedmoe-coordinator", "model:\n  inputs: 32\n  classes: 8\nrun:\n  roundz: 3\n  quorum: 2\n",
                    "fedmoe-coordinator: FILE:5: unknown key 'run.roundz' (did you mean 'run.rounds'?)\n"
                    "FILE:6: run.quorum must be above 0 and at most 1 (got 2)")

    def test_bad_override(self):
        self.expect("fedmoe-coordinator", "model: {inputs: 32, classes: 8}\n",
                    "fedmoe-coordinator: --set run.rounds=0: run.rounds must be 1 to 1000000 (got 0)", "--set", "run.rounds=0")

    def test_missing_key(self):
        self.expect("fedmoe-client", "role: trainer\n", "fedmoe-client: FILE: missing key 'name' (1 to 64 characters of A-Z, a-z, 0-9, "
                    "'.', '_' and '-', the first no dot; unique in the run)")

    def test_unknown_role(self):
        self.expect("fedmoe-client", "name: x\nrole: boss\n",
                    "fedmoe-client: FILE:2: role must be one of trainer, evaluator (got 'boss')")


class RunDirectoryTest(EndToEndTest):
    def refused(self, label, config, *arguments, out, port=0):
        program = self.coordinator(config, *arguments, out=out, port=port, label=label)
        self.wait_until("its end", lambda: program.process.poll() is not None, program)
        return program.process.returncode, program.log()

    def test_port_taken_and_run_directory_locked_or_used(self):
        config = {"run": {"rounds": 1}}
        first = self.coordinator(config)
        port = self.address().split(":")[1]
        run = self.folder / "run"
        with self.subTest("port taken"):
            self.assertEqual(self.refused("port", config, out="other", port=port), (
                4, f"fedmoe-coordinator: cannot listen on 127.0.0.1:{port}: address already in use\n"))
        with self.subTest("locked"):
            self.assertEqual(self.refused("locked", config, "--resume", out="run"), (
                3, f"fedmoe-coordinator: run directory {run} is in use by another coordinator "
                   f"(process {first.process.pid})\n"))
        first.kill()
        with self.subTest("another configuration"):
            changed = {"run": {"rounds": 2, "seed": 7}, "training": {"learning_rate": 0.5}}
            self.assertEqual(self.refused("changed", changed, out="run"), (
                3, f"fedmoe-coordinator: the configuration differs from the run's in {run}; a resumed run keeps its own:\n"
                   "  run.seed: 1 in the run, 7 now\n  training.learning_rate: 0.1 in the run, 0.5 now\n"
                   "for a new run choose another directory with --set storage.directory=DIR\n"))
        with self.subTest("the same configuration"):
            again = self.coordinator(config, label="again")
            client = self.client("node-0", self.address())
            self.expect_exit(again, 0)
            self.expect_exit(client, 0)
        with self.subTest("completed"):
            self.assertEqual(self.refused("completed", config, out="run")[0], 3)
            self.assertIn(f"fedmoe-coordinator: the run in {run} is completed (1 rounds); raise run.rounds to train on, "
                          "or choose another directory\n", (self.folder / "completed.log").read_text(encoding="utf-8"))


class DatasetTest(EndToEndTest):
    def write_idx(self, images=4, labels=4, short_by=0):
        folder = self.folder / "idx"
        folder.mkdir(exist_ok=True)
        (folder / "train-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, labels) + bytes(labels))
        data = struct.pack(">IIII", 0x803, images, 28, 28) + bytes(images * 784)
        (folder / "train-images-idx3-ubyte").write_bytes(data[:len(data) - short_by])
        return folder

    def expect(self, folder, message):
        config = self.client_config("node-0", "127.0.0.1:1", {"data": {"dataset": "idx", "path": str(folder)}})
        code, _, error = run_program("fedmoe-client", "--config", config)
        self.assertEqual((code, error.splitlines()[-1]), (4, f"fedmoe-client: {message}"))

    def test_missing(self):
        path = self.folder / "nowhere/train-labels-idx1-ubyte"
        self.expect(self.folder / "nowhere", f"{path}: no such file (nor {path}.gz); fetch it with scripts/fetch_data mnist, "
                                             "or set data.path")

    def test_truncated(self):
        folder = self.write_idx(short_by=10)
        self.expect(folder, f"{folder}/train-images-idx3-ubyte: truncated: 3142 bytes where the header says 3152")

    def test_labels_for_other_images(self):
        folder = self.write_idx(labels=5)
        self.expect(folder, f"{folder}/train-labels-idx1-ubyte: 5 labels for 4 images")


class RefusedTest(EndToEndTest):
    def expect_refused(self, client, message):
        self.expect_exit(client, 6)
        self.assertEqual(client.log().splitlines()[-1], f"fedmoe-client: {message}")

    def test_client_is_refused(self):
        # Never starts a round: a second client of its own kind is missing.
        coordinator = self.coordinator({"run": {"rounds": 1, "clients": {"min": 9, "too_small": "reject"}}})
        where = self.address()
        self.wait_for_log(self.client("node-0", where), "registered with")
        with self.subTest("its name is taken"):
            copy = self.client("twin", where, {"name": "node-0"})
            self.expect_refused(copy, "client name 'node-0' is taken by another instance; choose another name or stop the "
                                      "other client")
        with self.subTest("its state directory is in use"):
            second = self.client("second", where, {"state_directory": str(self.folder / "state/node-0")})
            self.expect_exit(second, 3)
            self.assertEqual(second.log().splitlines()[-1],
                             f"fedmoe-client: another client uses the state directory {self.folder}/state/node-0; give each "
                             "client its own")
        with self.subTest("features"):
            wide = self.client("wide", where, {"data": {"domains": {"dimensions": 40}}})
            self.expect_refused(wide, "data 'domains' has 40 features and 8 classes, the model takes 32 and 8")
        with self.subTest("classes"):
            classes = self.client("classes", where, {"data": {"domains": {"classes": 5}}})
            self.expect_refused(classes, "data 'domains' has 32 features and 5 classes, the model takes 32 and 8")
        with self.subTest("too small for an expert"):
            small = self.client("small", where, {"capacity": {"memory_bytes": "80KiB"}})
            self.expect_exit(small, 6)
            self.assertRegex(small.log().splitlines()[-1],
                             r"^fedmoe-client: client 'small' is too small for this model: one expert needs [\d.]+ MB of "
                             r"memory, its budget is [\d.]+ MB$")
        with self.subTest("too small for the trunk"):
            tiny = self.client("tiny", where, {"capacity": {"memory_bytes": "1KiB"}})
            self.expect_exit(tiny, 6)
            self.assertRegex(tiny.log().splitlines()[-1],
                             r"^fedmoe-client: client 'tiny' is too small for this model: the trunk needs [\d.]+ MB of "
                             r"memory, its budget is [\d.]+ MB$")
        self.assertIn("client node-0 is turned away: client name 'node-0' is taken", coordinator.log())
        self.assertEqual(read_reports(self.folder / "run"), [])

    def test_small_client_trains_the_trunk(self):
        coordinator = self.coordinator({"run": {"rounds": 2, "clients": {"min": 3, "too_small": "trunk_only"}}})
        clients = self.clients(2, self.address())
        small = self.client("small", self.address(), {"capacity": {"memory_bytes": "80KiB"}})
        for program in [coordinator, small] + clients:
            self.expect_exit(program, 0)
        for report in read_reports(self.folder / "run"):
            self.assertEqual(set(outcomes(report).values()), {"accepted"})
            entry, = [client for client in report["clients"] if client["client"] == "small"]
            self.assertEqual((entry["experts"], entry["experts_capacity"], entry["capacity_reason"]), ([], 0, "memory"))
            self.assertGreater(entry["examples"], 0)
            self.assertEqual(report["cells"], ["complete"] * (1 + MODEL["experts"]))
        self.assertIn("the trunk only (memory)\n", small.log())
        self.assertIn("round 1: training the trunk only on ", small.log())

    def test_retry_limit(self):
        port = free_port()
        config = self.client_config("node-0", f"127.0.0.1:{port}", {"retry": {"initial_s": 0.05, "limit_s": 0.5}})
        client = self.sandbox.start("node-0", BIN / "fedmoe-client", "--config", config)
        self.expect_exit(client, 5)
        self.assertRegex(client.log().splitlines()[-1],
                         rf"^fedmoe-client: gave up after [\d.]+ s without coordinator 127\.0\.0\.1:{port} \(.*"
                         r"Connection refused\)$")


if __name__ == "__main__":
    main()
