#!/usr/bin/python3
"""Sweeps: a directory a cell, what is completed is not run again, one table."""

import csv
import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from simulate import CONFIG, SimulateTest  # noqa: E402
from end_to_end import main, read_summary  # noqa: E402

SWEEP = {"base": "base.yaml", "set": {"run": {"rounds": 1}},
         "vary": {"alignment": {"strategy": ["balanced", "random"]}, "fleet": {"capacity": {"max_experts": ["[1, 2]", "3"]}}},
         "seeds": [1, 2]}


class SweepTest(SimulateTest):
    def sweep(self, sweep, *arguments, label="sweep"):
        self.sandbox.write("base.yaml", CONFIG)
        path = self.sandbox.write("sweep.yaml", sweep)
        return self.simulate("--sweep", path, "--out", self.folder / "out", *arguments, label=label)

    def results(self):
        with open(self.folder / "out/results.csv", encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def test_every_cell_is_run_once(self):
        first = self.sweep(SWEEP, label="first")
        self.expect_exit(first, 0)
        rows = self.results()
        self.assertEqual([(row["alignment.strategy"], row["fleet.capacity.max_experts"], row["seed"]) for row in rows],
                         [(s, k, i) for s in ("balanced", "random") for k in ("[1, 2]", "3") for i in "12"])
        self.assertEqual(len({row["model_digest"] for row in rows}), 8)
        for row in rows:
            summary = read_summary(self.folder / "out" / row["cell"])
            self.assertEqual((row["status"], row["rounds"], row["model_digest"]), ("completed", "1", summary["model_digest"]))
            self.assertAlmostEqual(float(row["final_accuracy"]), summary["final_accuracy"])
        self.assertIn("8/8 alignment.strategy=random,fleet.capacity.max_experts=3,seed=2: completed", first.log())
        self.assertIn("; 0.0 s left", first.log())

        # One cell is lost, one was cut off: these two are run again, to the same end.
        shutil.rmtree(self.folder / "out" / rows[3]["cell"])
        (self.folder / "out" / rows[5]["cell"] / "summary.json").unlink()
        second = self.sweep(SWEEP, label="second")
        self.expect_exit(second, 0)
        self.assertEqual(second.log().count(": completed before"), 6)
        self.assertEqual([row["model_digest"] for row in self.results()], [row["model_digest"] for row in rows])

    def test_a_cell_of_another_configuration_is_not_touched(self):
        one = {"base": "base.yaml", "seeds": [1]}
        self.expect_exit(self.sweep(one, "--set", "run.rounds=1", label="one"), 0)
        before = read_summary(self.folder / "out/seed=1")
        other = self.sweep(one, "--set", "run.rounds=2", label="other")
        self.expect_exit(other, 3)
        self.assertIn("has another configuration than this sweep's cell", other.log())
        self.assertEqual(read_summary(self.folder / "out/seed=1"), before)

    def test_a_failed_cell_does_not_stop_the_others(self):
        sweep = {"base": "base.yaml", "set": {"run": {"rounds": 1, "max_aborts": 1}},
                 "vary": {"training": {"learning_rate": [100, 0.1]}, "aggregation": {"learning_rate": [1]}}, "seeds": [1]}
        sweep["set"]["training"] = {"clip_norm": 0, "epochs": 50}
        program = self.sweep(sweep)
        self.expect_exit(program, 1)
        self.assertEqual([row["status"] for row in self.results()], ["failed", "completed"])

    def test_a_bad_cell_is_found_before_any_is_run(self):
        program = self.sweep({"base": "base.yaml", "vary": {"alignment": {"strategy": ["balanced", "best"]}}, "seeds": [1]})
        self.expect_exit(program, 2)
        self.assertIn("--set alignment.strategy=best: alignment.strategy must be one of", program.log())
        self.assertFalse((self.folder / "out").exists())


if __name__ == "__main__":
    main()
