#!/usr/bin/python3
"""A deterministic run ends in the same bytes whether its clients are processes or virtual."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from simulate import CONFIG, SimulateTest  # noqa: E402
from end_to_end import main, merge, read_assignments, read_reports, read_summary  # noqa: E402


# How long something took, and traffic, which counts towards the report that happens to be written next.
TIMING = {"seconds", "bytes_down", "bytes_up"}


def without_timing(report):
    """Of a line of rounds.jsonl, all that is the same whoever computes it."""
    clients = [{key: value for key, value in client.items() if key != "train_s"} for client in report["clients"]]
    return {**{key: value for key, value in report.items() if key not in TIMING}, "clients": clients}


class DigestTest(SimulateTest):
    def check(self, changes, *arguments):
        config = merge(CONFIG, changes)
        local = self.run_local(self.sandbox.write("config.yaml", config))
        self.expect_exit(local, 0)
        virtual = self.simulate_config(config, *arguments)
        self.expect_exit(virtual, 0)
        processes, simulated = read_summary(self.folder / "run"), read_summary(self.folder / "virtual")
        self.assertEqual(len(simulated["model_digest"]), 64)
        for key in ("status", "rounds", "model_digest", "final_accuracy", "personalised_accuracy", "final_loss",
                    "load_cv", "bytes_down", "bytes_up"):
            self.assertEqual(simulated[key], processes[key], key)
        self.assertEqual(list(map(without_timing, read_reports(self.folder / "virtual"))),
                         list(map(without_timing, read_reports(self.folder / "run"))))
        self.assertEqual(read_assignments(self.folder / "virtual"), read_assignments(self.folder / "run"))

    def test_balanced_experts_of_a_shared_gate(self):
        self.check({}, "--threads", 3)

    def test_local_gates_momenta_and_a_drawn_cohort(self):
        """What stays on the client between its tasks stays on the virtual client too."""
        self.check({"model": {"gate": {"mode": "local"}}, "training": {"optimizer": "adamw", "learning_rate": 0.01},
                    "aggregation": {"optimizer": "fedadam", "learning_rate": 0.05},
                    "run": {"rounds": 4, "clients": {"min": 4, "per_round": 4}}, "fleet": {"clients": 4}},
                   "--threads", 1)

    def test_stochastic_int8(self):
        """Draws are keyed by client, round and block, not by who makes them."""
        self.check({"transfer": {"up": {"encoding": "int8", "zstd": True}}, "run": {"rounds": 15}}, "--threads", 2)
        self.expect_learning()

    def test_encoded_downloads(self):
        """Both train from the same rounded weights, and count the same bytes."""
        self.check({"transfer": {"down": {"encoding": "int8", "zstd": True}, "up": {"encoding": "bf16"}},
                    "run": {"rounds": 15}}, "--threads", 2)
        self.expect_learning()

    def test_gates_by_the_population_and_after_the_training(self):
        self.check({"model": {"soup": 0.2, "gate": {"input": "data", "normalise": "population", "post_hoc_batches": 3}}},
                   "--threads", 2)

    def test_a_robust_rule(self):
        self.check({"aggregation": {"rule": "trimmed_mean", "trim": 0.34}}, "--threads", 2)

    def test_residuals_of_topk_beside_local_gates(self):
        """What a client has not sent yet stays with it."""
        self.check({"transfer": {"up": {"encoding": "topk", "top_k_fraction": 0.2}},
                    "model": {"gate": {"mode": "local"}}, "run": {"rounds": 15}}, "--threads", 2)
        self.expect_learning()

    def expect_learning(self):
        """The last third of the rounds beats the first."""
        losses = [report["train_loss"] for report in read_reports(self.folder / "run")]
        self.assertLess(sum(losses[-5:]), 0.8 * sum(losses[:5]))


if __name__ == "__main__":
    main()
