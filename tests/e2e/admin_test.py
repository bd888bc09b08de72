#!/usr/bin/python3
"""fedmoe-admin asks a running coordinator for its state, and ends its run."""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from end_to_end import EndToEndTest, free_port, main, read_reports, read_summary, run_program  # noqa: E402

STATUS_KEYS = ["run", "run_id", "directory", "status", "detail", "phase", "version", "rounds", "round", "attempt", "cells",
               "tasks", "model_digest", "global_accuracy", "personalised_accuracy", "load_cv", "bytes_down", "bytes_up",
               "clients"]
CLIENT_KEYS = ["client", "role", "connected", "heard_s_ago", "experts_capacity", "capacity_reason", "experts",
               "rounds_merged"]
FOREVER = {"data": {"domains": {"examples": 100000}}}


class AdminTest(EndToEndTest):
    def admin(self, command):
        code, text, error = run_program("fedmoe-admin", "--coordinator", self.address(), command)
        self.assertEqual((code, error), (0, ""))
        return text

    def test_status_and_drain(self):
        coordinator = self.coordinator({"run": {"rounds": 100000, "clients": {"min": 2}}})
        clients = self.clients(2, self.address())
        self.wait_for_rounds(self.folder / "run", 2, coordinator)
        status = json.loads(self.admin("status"))
        self.assertEqual(list(status), STATUS_KEYS)
        self.assertEqual((status["run"], status["directory"], status["status"], status["rounds"]),
                         ("e2e", str(self.folder / "run"), "running", 100000))
        self.assertGreaterEqual(status["version"], 2)
        self.assertEqual(len(status["cells"]), 5)
        self.assertRegex(status["model_digest"], r"^[0-9a-f]{64}$")
        for number, client in enumerate(status["clients"]):
            self.assertEqual(list(client), CLIENT_KEYS)
            self.assertEqual((client["client"], client["role"], client["connected"], client["experts_capacity"]),
                             (f"node-{number}", "trainer", True, 2))
        self.assertEqual(self.admin("drain"), "")
        self.expect_stopped(coordinator, clients)
        summary = read_summary(self.folder / "run")
        self.assertEqual((summary["status"], summary["rounds"]), ("stopped", len(read_reports(self.folder / "run"))))

    def test_stop_aborts_the_round_in_hand(self):
        coordinator = self.coordinator({"run": {"rounds": 3}, "server": {"heartbeat_interval_s": 0.1}})
        client = self.client("node-0", self.address(), FOREVER)
        self.wait_for_log(client, "round 1: training")
        self.assertEqual(json.loads(self.admin("status"))["tasks"], {"open": 1})
        self.assertEqual(self.admin("stop"), "")
        self.expect_stopped(coordinator, [client])
        summary = read_summary(self.folder / "run")
        self.assertEqual((summary["status"], summary["rounds"], summary["final_accuracy"]), ("stopped", 0, None))
        self.assertIn("task cancelled: the round was aborted", client.log())

    def test_no_coordinator(self):
        where = f"127.0.0.1:{free_port()}"
        for command in ("status", "drain", "stop"):
            code, text, error = run_program("fedmoe-admin", "--coordinator", where, command)
            self.assertEqual((code, text), (1, ""))
            self.assertRegex(error, rf"^fedmoe-admin: {where}: UNAVAILABLE: .*Connection refused\n$")


if __name__ == "__main__":
    main()
