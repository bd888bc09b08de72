#!/usr/bin/python3
"""Every strategy, gate and optimiser that the configuration offers trains a small fleet for two rounds."""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from end_to_end import MODEL, EndToEndTest, main, merge, read_assignments, read_reports, read_summary  # noqa: E402

CONFIG = {
    "name": "variant", "model": MODEL,
    "run": {"rounds": 2, "deterministic": True, "clients": {"min": 2}},
    "fleet": {"clients": 2, "evaluators": 0, "test_examples": 256, "data": {"domains": {"examples": 256}},
              "capacity": {"measure": False, "max_experts": [2, 3]}},
}


class VariantsTest(EndToEndTest):
    def reports(self, changes):
        """Of a run that must complete."""
        path = self.sandbox.write("config.yaml", merge(CONFIG, changes))
        local = self.run_local(path)
        self.expect_exit(local, 0)
        summary = read_summary(self.folder / "run")
        self.assertEqual((summary["status"], summary["rounds"]), ("completed", 2))
        reports = read_reports(self.folder / "run")
        self.assertEqual([report["accepted"] for report in reports], [2, 2])
        self.assertEqual(len({report["model_digest"] for report in reports}), 2)
        return reports

    def assigned(self, strategy, reasons):
        """Experts by client in each round."""
        reports = self.reports({"alignment": {"strategy": strategy}})
        self.assertEqual({report["alignment"]["strategy"] for report in reports}, {strategy})
        self.assertEqual({row["reason"] for row in read_assignments(self.folder / "run")} - reasons, set())
        return [[client["experts"] for client in report["clients"]] for report in reports]

    def check_capacity(self, rounds):
        for first, second in rounds:
            self.assertEqual((len(first), len(second)), (2, 3))

    def test_strategy_none(self):
        """No experts: trunk and head alone are trained."""
        self.assertEqual(self.assigned("none", set()), [[[], []]] * 2)

    def test_strategy_full(self):
        self.assertEqual(self.assigned("full", {"full"}), [[[0, 1, 2, 3]] * 2] * 2)

    def test_strategy_random(self):
        self.check_capacity(self.assigned("random", {"random"}))

    def test_strategy_static(self):
        rounds = self.assigned("static", {"pinned"})
        self.check_capacity(rounds)
        self.assertEqual(rounds[0], rounds[1])

    def test_strategy_round_robin(self):
        rounds = self.assigned("round_robin", {"rotation"})
        self.check_capacity(rounds)
        self.assertNotEqual(rounds[0], rounds[1])

    def test_strategy_greedy(self):
        self.check_capacity(self.assigned("greedy", {"fitness"}))

    def test_strategy_load_only(self):
        self.check_capacity(self.assigned("load_only", {"load"}))

    def test_gate_shared_rows(self):
        reports = self.reports({"model": {"gate": {"mode": "shared_rows"}}, "fleet": {"evaluators": 1}})
        self.assertIsNotNone(reports[-1]["global_accuracy"])

    def test_gate_local(self):
        """No global accuracy, for a reason; each client keeps its gate."""
        for report in self.reports({"model": {"gate": {"mode": "local"}}, "fleet": {"evaluators": 1}}):
            self.assertEqual((report["global_accuracy"], report["global_accuracy_reason"], report["global_loss"]),
                             (None, "local_gate", None))
            self.assertGreater(report["personalised_accuracy"], 0)
            self.assertIsNone(report["personalised_accuracy_reason"])
        self.assertIsNone(read_summary(self.folder / "run")["final_accuracy"])
        kept = {path.name for path in (self.folder / "run/clients/client-00").iterdir()}
        self.assertTrue(kept & {"state.0", "state.1"}, kept)

    def check_moments(self, optimizer, moments):
        self.reports({"aggregation": {"optimizer": optimizer, "learning_rate": 0.1}})
        folder = self.folder / "run/checkpoints"
        manifest = json.loads((folder / "000002.json").read_text(encoding="utf-8"))
        self.assertEqual({shard["moment_count"] for shard in manifest["shards"]}, {moments})
        self.assertEqual(manifest["shards"][0]["steps"], 2)
        for shard in manifest["shards"]:
            self.assertTrue((folder / shard["moments_file"]).is_file(), shard)

    def test_server_optimizer_fedavgm(self):
        self.check_moments("fedavgm", 1)

    def test_server_optimizer_fedadam(self):
        self.check_moments("fedadam", 2)

    def test_server_optimizer_fedyogi(self):
        self.check_moments("fedyogi", 2)

    def test_adamw_with_fedprox_and_cosine(self):
        reports = self.reports({"training": {"optimizer": "adamw", "learning_rate": 0.003, "weight_decay": 0.01,
                                             "fedprox_mu": 0.1, "schedule": "cosine"}})
        self.assertLess(reports[1]["train_loss"], reports[0]["train_loss"])


if __name__ == "__main__":
    main()
