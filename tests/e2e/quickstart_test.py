#!/usr/bin/python3
"""The main job as a user starts it: eight unequal clients and an evaluator, from configs/quickstart.yaml."""

import json
import os
import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from end_to_end import (BIN, ROOT, EndToEndTest, main, read_assignments, read_reports, read_summary,  # noqa: E402
                        run_program)

CONFIG = ROOT / "configs/quickstart.yaml"
EXPERTS = 8
CAPACITY = {f"client-{i:02}": i % 4 + 1 for i in range(8)}
SUMMARY_KEYS = ["status", "detail", "rounds", "final_accuracy", "best_accuracy", "personalised_accuracy", "final_loss",
                "load_cv", "bytes_down", "bytes_up", "wall_s", "coordinator_peak_rss_bytes", "model_digest"]
REPORT_KEYS = ["round", "attempts", "seconds", "connected_trainers", "clients_per_round", "min_clients", "quorum", "sat_out", "clients", "accepted", "rejected", "cells", "reassigned", "train_loss", "load", "load_cv",
               "load_cv_floor", "cumulative_load_cv", "client_expert_information_nats", "consensus", "alignment", "global_accuracy",
               "global_accuracy_reason", "global_loss", "personalised_accuracy", "personalised_accuracy_reason",
               "personalised_loss", "bytes_down", "bytes_up", "model_digest"]


class QuickstartTest(EndToEndTest):
    def finished(self, out, *sets):
        """Runs the quickstart to its end; returns what was on the terminal."""
        arguments = [part for override in sets for part in ("--set", override)]
        local = self.run_local(CONFIG, *arguments, out=out)
        self.expect_exit(local, 0)
        return local.log()

    def test_main_job(self):
        terminal = self.finished("run")
        run = self.folder / "run"
        summary, reports = read_summary(run), read_reports(run)
        self.rounds = int(re.search(r"^  rounds: (\d+)$", (run / "config.yaml").read_text(encoding="utf-8"), re.M).group(1))
        with self.subTest("summary"):
            self.check_summary(summary, reports)
        with self.subTest("terminal"):
            self.check_terminal(terminal, run, summary)
        with self.subTest("reports"):
            self.check_reports(reports)
        with self.subTest("assignments"):
            self.check_assignments(read_assignments(run), reports)
        with self.subTest("configuration"):
            self.check_configuration(run)
        with self.subTest("checkpoint"):
            self.check_checkpoint(run, summary)
        with self.subTest("no process is left"):
            self.expect_nothing_left(deadline_s=0.5)

    def test_determinism(self):
        digests = []
        for out, seed in (("first", 1), ("second", 1), ("other", 2)):
            self.finished(out, "run.rounds=3", f"run.seed={seed}")
            digests.append([report["model_digest"] for report in read_reports(self.folder / out)])
        self.assertEqual(len(set(digests[0])), 3)
        self.assertEqual(digests[0], digests[1])
        self.assertEqual(set(digests[0]) & set(digests[2]), set())

    def check_summary(self, summary, reports):
        self.assertEqual(list(summary), SUMMARY_KEYS)
        self.assertEqual((summary["status"], summary["detail"], summary["rounds"]), ("completed", "", self.rounds))
        self.assertGreaterEqual(summary["final_accuracy"], 0.75)
        self.assertEqual(summary["final_accuracy"], reports[-1]["global_accuracy"])
        self.assertEqual(summary["best_accuracy"], max(report["global_accuracy"] for report in reports))
        self.assertEqual(summary["personalised_accuracy"], reports[-1]["personalised_accuracy"])
        self.assertEqual(summary["final_loss"], reports[-1]["global_loss"])
        self.assertEqual(summary["load_cv"], reports[-1]["cumulative_load_cv"])
        self.assertEqual(summary["model_digest"], reports[-1]["model_digest"])
        for key in ("bytes_down", "bytes_up"):
            self.assertEqual(summary[key], sum(report[key] for report in reports))
        self.assertGreater(summary["wall_s"], 0)
        self.assertGreater(summary["coordinator_peak_rss_bytes"], 1e6)
        if not os.environ.get("FEDMOE_SANITIZE"):  # which takes memory of its own
            self.assertLess(summary["coordinator_peak_rss_bytes"], 64 * 2**20)

    def check_terminal(self, terminal, run, summary):
        rows = re.findall(rf"^ +(\d+)/{self.rounds} +8/8 +[\d.]+ % +[\d.]+ % ", terminal, re.MULTILINE)
        self.assertEqual(rows, [str(number) for number in range(1, self.rounds + 1)], terminal)
        header = terminal.split("\n")[0].split()
        self.assertEqual(header, "round clients accuracy personal loss train loss load CV down up seconds".split())
        self.assertIn(f"run completed after {self.rounds} rounds in ", terminal)
        self.assertIn(f"global accuracy        {100 * summary['final_accuracy']:.1f} % (best ", terminal)
        for client, most in CAPACITY.items():
            self.assertRegex(terminal, rf"(?m)^ +{client} +experts [\d,]+ +of up to {most} \(declared\) +\d+ examples +accepted$")
        self.assertIn(f"run directory          {run}\n", terminal)

    def check_reports(self, reports):
        self.assertEqual([report["round"] for report in reports], list(range(1, self.rounds + 1)))
        for report in reports:
            self.assertEqual(list(report), REPORT_KEYS)
            self.assertEqual([client["client"] for client in report["clients"]], sorted(CAPACITY))
            self.assertEqual({client["outcome"] for client in report["clients"]}, {"accepted"})
            self.assertEqual(report["cells"], ["complete"] * (1 + EXPERTS))
            self.assertEqual((report["accepted"], report["rejected"]), (8, {}))
        self.assertLess(reports[-1]["train_loss"], reports[0]["train_loss"])

    def check_assignments(self, rows, reports):
        """The pairs of the file are those of the reports, and within each client's capacity."""
        pairs = sorted((int(row["round"]), row["client"], int(row["expert"])) for row in rows)
        reported = sorted((report["round"], client["client"], expert) for report in reports
                          for client in report["clients"] for expert in client["experts"])
        self.assertEqual(pairs, reported)
        for number in range(1, self.rounds + 1):
            held = {client: {e for r, c, e in pairs if (r, c) == (number, client)} for client in CAPACITY}
            for client, most in CAPACITY.items():
                self.assertTrue(1 <= len(held[client]) <= most, f"round {number}: {client} holds {held[client]}")
            self.assertEqual(set().union(*held.values()), set(range(EXPERTS)))
        self.assertLessEqual({row["reason"] for row in rows}, {"fitness", "balance"})

    def check_configuration(self, run):
        code, text, error = run_program("fedmoe-coordinator", "--config", run / "config.yaml", "--check")
        self.assertEqual((code, error), (0, ""))
        self.assertEqual(text, (run / "config.yaml").read_text(encoding="utf-8"))

    def check_checkpoint(self, run, summary):
        read = subprocess.run([ROOT / "scripts/read_checkpoint", run], capture_output=True, text=True, check=False)
        self.assertEqual((read.returncode, read.stderr), (0, ""))
        lines = read.stdout.splitlines()
        self.assertEqual(lines[0], f"version {self.rounds}: 9 shards verified, model {summary['model_digest']}")
        names = {line.split()[0] for line in lines[1:]}
        for expert in range(EXPERTS):
            self.assertTrue(any(str(expert) in re.findall(r"\d+", name) and "expert" in name for name in names), names)
        manifest = json.loads((run / f"checkpoints/{self.rounds:06}.json").read_text(encoding="utf-8"))
        self.assertEqual([shard["name"] for shard in manifest["shards"]],
                         ["trunk"] + [f"expert.{expert}" for expert in range(EXPERTS)])
        # The reader must notice one changed byte.
        file = run / "checkpoints" / manifest["shards"][0]["file"]
        data = bytearray(file.read_bytes())
        data[manifest["shards"][0]["offset"]] ^= 1
        file.write_bytes(data)
        read = subprocess.run([ROOT / "scripts/read_checkpoint", run], capture_output=True, text=True, check=False)
        self.assertEqual((read.returncode, read.stdout), (1, ""))
        self.assertIn("shard trunk does not have its digest", read.stderr)

    def test_coordinator_does_not_link_libtorch(self):
        for program, links in (("fedmoe-coordinator", False), ("fedmoe-admin", False), ("fedmoe-client", True)):
            listed = subprocess.run(["ldd", BIN / program], capture_output=True, text=True, check=True).stdout
            self.assertEqual("libtorch" in listed or "libc10" in listed, links, program)


if __name__ == "__main__":
    main()
