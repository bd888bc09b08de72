#!/usr/bin/python3
"""fedmoe-align: its exit codes and errors, and a recorded run explained and replayed."""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from end_to_end import BIN, MODEL, EndToEndTest, main, read_reports, run_program  # noqa: E402

RUN = {
    "name": "aligned", "model": MODEL,
    "run": {"rounds": 4, "clients": {"min": 3}, "deterministic": True},
    "alignment": {"movement": {"weight": 0.02, "cost": "bytes"}},
    "evaluation": {"mode": "none"},
    "fleet": {"clients": 3, "evaluators": 0, "data": {"domains": {"examples": 128}},
              "capacity": {"measure": False, "max_experts": [1, 2, 3]}},
}
PROBLEM = "client,capacity,f0,f1,f2,f3\nb,2,0.9,0.8,0.1,0.2\na,1,0.95,0.1,0.2,0.3\nc,1,0.5,0.6,0.55,0.1\n"


class AlignTest(EndToEndTest):
    def align(self, *arguments, code=0):
        """Standard output of a call that ends as it must; standard error where that is not 0."""
        ended, out, error = run_program("fedmoe-align", *arguments)
        self.assertEqual(ended, code, out + error)
        return out if code == 0 else error

    def problem(self, text=PROBLEM, name="p.csv"):
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path

    def test_a_problem_from_a_file(self):
        path = self.problem()
        text = self.align("solve", "--problem", path)
        self.assertIn("balanced by exact, 3 clients, 4 experts in 1 layer, 4 assignments", text)
        self.assertIn("objective  2.55\nbound      2.55\n", text)
        plans = {}
        for solver in ("exact", "prices"):
            plan = json.loads(self.align("solve", "--problem", path, "--solver", solver, "--threads", 2, "--json"))
            self.assertEqual((plan["solver"], plan["load"]), (solver, [1, 1, 1, 1]))
            plans[solver] = {client["client"]: client["experts"] for client in plan["clients"]}
        self.assertEqual(plans["exact"], plans["prices"])
        self.align("solve", "--problem", path, "--strategy", "greedy", "--plan", self.folder / "plan.csv")
        self.assertEqual((self.folder / "plan.csv").read_text(encoding="utf-8"),
                         "client,expert,fitness,reason\na,0,0.95,fitness\nb,0,0.9,fitness\nb,1,0.8,fitness\nc,1,0.6,fitness\n")

    def test_errors_name_the_place_and_have_their_codes(self):
        path = self.problem(PROBLEM.replace("0.55", "x"))
        self.assertEqual(self.align("solve", "--problem", path, code=4),
                         f"fedmoe-align: {path}:4: f2 is 'x', must be a finite number\n")
        self.assertIn("unknown alignment strategy 'best', known are none, full,",
                      self.align("solve", "--problem", path, "--strategy", "best", code=2))
        unmet = self.problem('{"clients": ["a"], "capacity": 1, "fitness": [[1, 2, 3]], "deficit": [2, 2, 0]}', "p.json")
        self.assertIn("no plan meets the load bounds: ", self.align("solve", "--problem", unmet, "--no-relax", code=1))
        self.assertIn("relaxed    by 1 client: ", self.align("solve", "--problem", unmet))
        self.align("solve", code=2)
        self.assertEqual(self.align("explain", "--run", "nowhere", "--round", 1, code=3),
                         "fedmoe-align: nowhere is no run directory: it has no config.yaml; --run is one such as runs/quickstart\n")

    def test_a_recorded_run_is_explained_and_replayed(self):
        run = self.folder / "run"
        self.expect_exit(self.sandbox.start("simulate", BIN / "fedmoe-simulate", "--config",
                                            self.sandbox.write("config.yaml", RUN), "--out", run), 0)
        reports = read_reports(run)
        replay = json.loads(self.align("replay", "--run", run, "--json"))
        self.assertEqual([round["experts"] for round in replay["rounds"]],
                         [[client["experts"] for client in report["clients"]] for report in reports])
        self.assertEqual(replay["would"], replay["did"])
        self.assertTrue(all(round["same"] for round in replay["rounds"]))

        full = json.loads(self.align("replay", "--run", run, "--strategy", "full", "--set", "alignment.movement.weight=0",
                                     "--json"))
        self.assertEqual(full["rounds"][-1]["experts"], [[0, 1, 2, 3]] * 3)
        self.assertEqual(full["would"]["moved"], 12)
        self.assertIn("What if greedy", self.align("replay", "--run", run, "--strategy", "greedy"))

        text = self.align("explain", "--run", run, "--round", 2, "--client", "client-01")
        for expert in range(4):
            self.assertIn(f"\nExpert {expert}: client-01 has it ", text)
        told = json.loads(self.align("explain", "--run", run, "--round", 2, "--client", "client-01", "--json"))
        self.assertTrue(told["reproduced"])
        self.assertEqual([pair["expert"] for pair in told["clients"][0]["pairs"] if pair["assigned"]],
                         reports[1]["clients"][1]["experts"])

        problem = self.problem(self.align("problem", "--run", run, "--round", 3), "round.json")
        solved = json.loads(self.align("solve", "--problem", problem, "--json"))
        self.assertEqual(solved["objective"], reports[2]["alignment"]["objective"])

        self.assertIn("a replay can set alignment.*", self.align("replay", "--run", run, "--set", "model.experts=8", code=2))
        self.assertIn("alignment.strategy must be one of", self.align("replay", "--run", run, "--strategy", "best", code=2))
        self.assertIn("the run has rounds 1 to 4", self.align("explain", "--run", run, "--round", 5, code=2))
        self.assertIn("its clients were client-00, client-01, client-02",
                      self.align("explain", "--run", run, "--round", 1, "--client", "x", code=2))


if __name__ == "__main__":
    main()
