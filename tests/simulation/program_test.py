#!/usr/bin/python3
"""The program's files, exit codes and signals."""

import csv
import json
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from simulate import CONFIG, SimulateTest  # noqa: E402
from end_to_end import main, merge, read_reports, read_summary  # noqa: E402

DEVICES = {"run": {"deterministic": False, "deadline_s": 600}, "simulation": {"devices": {"phone": 1, "gpu_server": 1}}}


class ProgramTest(SimulateTest):
    def expect_error(self, program, code, text):
        self.expect_exit(program, code)
        self.assertIn(text, program.log())

    def test_a_run_leaves_a_run_directory_and_its_simulated_time(self):
        program = self.simulate_config(merge(CONFIG, DEVICES))
        self.expect_exit(program, 0)
        out = self.folder / "virtual"
        self.assertEqual(read_summary(out)["status"], "completed")
        reports = read_reports(out)
        with open(out / "simulation.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        self.assertEqual([int(row["round"]) for row in rows], [1, 2, 3])
        total = 0.0
        for row, report in zip(rows, reports):
            self.assertGreater(report["seconds"], 0)
            self.assertAlmostEqual(float(row["simulated_round_s"]), report["seconds"], places=3)
            total += report["seconds"]
            self.assertAlmostEqual(float(row["simulated_s"]), total, places=2)
            self.assertAlmostEqual(float(row["global_accuracy"]), report["global_accuracy"], places=5)
        times = json.loads((out / "simulation.json").read_text(encoding="utf-8"))
        self.assertAlmostEqual(times["simulated_s"], total, places=2)
        busy_s = times["training_s"] + times["evaluation_s"]
        self.assertAlmostEqual(times["overhead"], times["wall_s"] * times["threads"] / busy_s - 1, places=6)
        self.assertTrue((out / "config.yaml").is_file() and list((out / "checkpoints").glob("000003.json")))
        self.assertIn("run completed after 3 rounds", program.log())
        self.assertIn("  overhead ", program.log().splitlines()[-1])

    def test_a_directory_with_a_run_is_left_alone(self):
        self.expect_exit(self.simulate_config(CONFIG), 0)
        before = (self.folder / "virtual/rounds.jsonl").read_bytes()
        self.expect_error(self.simulate_config(CONFIG), 3, "holds a run already")
        self.assertEqual((self.folder / "virtual/rounds.jsonl").read_bytes(), before)

    def test_configuration(self):
        self.expect_error(self.simulate_config({"model": {"inputs": 4, "classes": 2}}, out="a"), 2, "no fleet section")
        self.expect_error(self.simulate_config(CONFIG, "--set", "simulation.dropout=2", out="b"), 2,
                          "simulation.dropout must be at least 0 and below 1")
        self.expect_error(self.simulate_config(CONFIG, "--set", "simulation.device=cuda:99", out="d"), 2,
                          "simulation.device is cuda:99, but libtorch finds ")
        self.expect_error(self.simulate("--out", self.folder / "c", label="c"), 2, "--config or --sweep is required")
        self.assertFalse((self.folder / "a").exists() or (self.folder / "b").exists())

    def test_data_that_is_not_there(self):
        config = merge(CONFIG, {"fleet": {"data": {"dataset": "idx", "path": str(self.folder / "nowhere"),
                                                   "partition": {"kind": "iid"}}}})
        self.expect_error(self.simulate_config(config), 4, "no such file")
        self.assertFalse((self.folder / "virtual").exists())

    def test_too_few_clients_fail_the_run(self):
        trace = self.folder / "trace.csv"
        trace.write_text("client,start_s,end_s\nclient-00,0,10\nclient-01,20,30\n", encoding="utf-8")
        config = merge(CONFIG, {"run": {"deterministic": False, "clients": {"min": 2}},
                                "simulation": {"availability": "trace", "trace": str(trace)}})
        self.expect_error(self.simulate_config(config), 1, "round 1 cannot begin: 0 trainers are there")
        self.assertEqual(read_summary(self.folder / "virtual")["status"], "failed")

    def test_a_signal_finishes_the_round_in_hand(self):
        config = merge(CONFIG, {"run": {"rounds": 100000}})
        program = self.simulate_config(config)
        self.wait_for_rounds(self.folder / "virtual", 2, program)
        program.signal(signal.SIGTERM)
        self.expect_exit(program, 7)
        summary = read_summary(self.folder / "virtual")
        self.assertEqual(summary["status"], "stopped")
        self.assertEqual(len(read_reports(self.folder / "virtual")), summary["rounds"])

    def test_a_second_signal_ends_at_once(self):
        config = merge(CONFIG, {"training": {"epochs": 1000}, "fleet": {"data": {"domains": {"examples": 100000}}},
                                "evaluation": {"mode": "none"}})
        program = self.simulate_config(config)
        self.wait_until("the run begins", lambda: (self.folder / "virtual/simulation.csv").is_file(), program)
        program.signal(signal.SIGTERM)
        self.wait_until("the run to end", lambda: program.signal(signal.SIGTERM) or program.process.poll() is not None,
                        program)
        self.assertEqual(program.process.returncode, 7)
        self.assertEqual(read_reports(self.folder / "virtual"), [])


if __name__ == "__main__":
    main()
