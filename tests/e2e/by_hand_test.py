#!/usr/bin/python3
"""Coordinator and clients started one by one, as on a real fleet."""

import json
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from end_to_end import EndToEndTest, free_port, main, outcomes, read_reports, read_summary, run_program  # noqa: E402

DETERMINISTIC = {"run": {"rounds": 8, "deterministic": True, "clients": {"min": 3}}, "training": {"epochs": 2}}
WORK = {"data": {"domains": {"examples": 2048}}}  # rounds long enough to be interrupted
FOREVER = {"data": {"domains": {"examples": 100000}}}


class ByHandTest(EndToEndTest):
    def finish(self, coordinator, clients, code=0):
        if code == 7:
            return self.expect_stopped(coordinator, clients)
        self.expect_exit(coordinator, code)
        for client in clients:
            self.expect_exit(client, 0)

    def test_client_waits_for_its_coordinator(self):
        port = free_port()
        client = self.client("node-0", f"127.0.0.1:{port}")
        self.wait_for_log(client, "trying again in")
        self.assertRegex(client.log(), rf"W node-0: coordinator 127\.0\.0\.1:{port} cannot be reached \(.*"
                                       r"Connection refused\); trying again in [\d.]+ s\n")
        coordinator = self.coordinator({"run": {"rounds": 2}}, port=port)
        self.finish(coordinator, [client])
        self.assertIn(f"registered with 127.0.0.1:{port} for run e2e: up to 2 experts (declared)\n", client.log())
        self.assertEqual(read_summary(self.folder / "run")["status"], "completed")

    def test_client_that_the_run_has_no_work_for_waits(self):
        """One of three is drawn for each round; the others stay, and have their turn."""
        coordinator = self.coordinator({"run": {"rounds": 100000, "clients": {"min": 1, "per_round": 1}},
                                        "server": {"poll_hold_s": 0.1}})
        clients = self.clients(3, self.address())
        self.wait_until("each client's turn", lambda: 3 == len({
            client for report in read_reports(self.folder / "run") for client in outcomes(report)}), coordinator, *clients)
        coordinator.signal(signal.SIGTERM)
        self.finish(coordinator, clients, code=7)
        for report in read_reports(self.folder / "run"):
            self.assertEqual(list(outcomes(report).values()), ["accepted"])
        for client in clients:
            self.assertEqual(client.log().count("registered"), 1)

    def test_waiting_client_is_not_lost(self):
        """Waiting longer than the heartbeat timeout is no silence."""
        coordinator = self.coordinator({"run": {"rounds": 1, "heartbeat_timeout_s": 3, "clients": {"min": 2}},
                                        "server": {"heartbeat_interval_s": 0.2}})
        first = self.client("node-0", self.address())
        self.wait_for_log(first, "registered with")
        heard = [0.0]

        def heard_again():
            status = run_program("fedmoe-admin", "--coordinator", self.address(), "status")[1]
            heard.append(json.loads(status)["clients"][0]["heard_s_ago"])
            return sum(later < earlier for earlier, later in zip(heard, heard[1:])) >= 2

        self.wait_until("two signs of life", heard_again, coordinator, first)
        self.finish(coordinator, [first, self.client("node-1", self.address())])
        self.assertEqual(coordinator.log().count("client node-0 joins"), 1, coordinator.log())

    def test_sigterm_to_a_client_in_training(self):
        """It leaves cleanly, and the round goes on at its quorum."""
        coordinator = self.coordinator({"run": {"rounds": 1, "quorum": 0.5, "clients": {"min": 3}}})
        clients = self.clients(2, self.address())
        slow = self.client("node-2", self.address(), FOREVER)
        self.wait_for_log(slow, "round 1: training 2 experts")
        slow.signal(signal.SIGTERM)
        self.expect_exit(slow, 0)
        self.assertRegex(slow.log(), r"W node-2: round 1: task \d+ is abandoned: the client is stopping\n")
        self.assertRegex(slow.log(), r"I node-2: done: stopped\n$")
        self.finish(coordinator, clients)
        report, = read_reports(self.folder / "run")
        self.assertEqual(outcomes(report), {"node-0": "accepted", "node-1": "accepted", "node-2": "lost"})
        self.assertRegex(coordinator.log(), r"I coordinator: client node-2 leaves\n")

    def test_drained_run_resumes_to_the_same_model(self):
        undisturbed = self.coordinator(DETERMINISTIC, out="undisturbed", label="undisturbed")
        self.finish(undisturbed, self.clients(3, self.address("undisturbed"), WORK))

        coordinator = self.coordinator(DETERMINISTIC)
        clients = self.clients(3, self.address(), WORK)
        self.wait_for_rounds(self.folder / "run", 1, coordinator)
        coordinator.signal(signal.SIGTERM)
        self.finish(coordinator, clients, code=7)
        stopped = read_summary(self.folder / "run")
        self.assertEqual((stopped["status"], stopped["detail"]), (
            "stopped", f"stopped after round {stopped['rounds']} as requested"))
        self.assertTrue(1 <= stopped["rounds"] < 8, stopped)
        self.assertEqual(stopped["rounds"], len(read_reports(self.folder / "run")))
        self.assertIn("asked to stop: the round in hand is finished first; once more to stop at once", coordinator.log())

        resumed = self.coordinator(DETERMINISTIC, "--resume", label="resumed")
        self.finish(resumed, self.clients(3, self.address(), WORK))
        summary = read_summary(self.folder / "run")
        self.assertEqual((summary["status"], summary["rounds"]), ("completed", 8))
        self.assertEqual([report["round"] for report in read_reports(self.folder / "run")], list(range(1, 9)))
        self.assertEqual(summary["model_digest"], read_summary(self.folder / "undisturbed")["model_digest"])

    def test_help_and_version(self):
        for program in ("fedmoe-coordinator", "fedmoe-client", "fedmoe-admin"):
            with self.subTest(program):
                code, text, error = run_program(program, "--help")
                self.assertEqual((code, error), (0, ""))
                self.assertIn("Exit codes: 0 ", text)
                self.assertIn("--version", text)
                code, text, error = run_program(program, "--version")
                self.assertEqual((code, error), (0, ""))
                self.assertRegex(text, rf"^{program} \d+\.\d+\.\d+\n$")

    def test_usage_errors(self):
        code, _, error = run_program("fedmoe-coordinator")
        self.assertEqual((code, error), (2, "--config is required\nRun with --help for more information.\n"))
        code, _, error = run_program("fedmoe-client", "--config", self.folder / "none.yaml")
        self.assertEqual((code, error), (2, f"fedmoe-client: open {self.folder}/none.yaml: No such file or directory\n"))
        code, _, error = run_program("fedmoe-admin")
        self.assertEqual((code, error), (2, "A subcommand is required\nRun with --help for more information.\n"))


if __name__ == "__main__":
    main()
