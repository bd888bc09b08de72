#!/usr/bin/python3
"""Processes that are killed in the middle of a round, and what becomes of the run."""

import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from end_to_end import EndToEndTest, free_port, main, outcomes, read_reports, read_summary  # noqa: E402

DETERMINISTIC = {"run": {"rounds": 8, "deterministic": True, "clients": {"min": 3}}, "training": {"epochs": 2}}
WORK = {"data": {"domains": {"examples": 2048}}}
FOREVER = {"data": {"domains": {"examples": 100000}}}


class CrashTest(EndToEndTest):
    def test_killed_client(self):
        """The round ends at its quorum and deadline; the client that is started again is the same and trains again."""
        coordinator = self.coordinator({
            "run": {"rounds": 100000, "quorum": 0.5, "deadline_s": 3, "grace_s": 60, "heartbeat_timeout_s": 60,
                    "clients": {"min": 3}}})
        others = self.clients(2, self.address(), WORK)
        victim = self.client("node-2", self.address(), FOREVER)
        self.wait_for_log(victim, "round 1: training")
        victim.kill()
        self.wait_for_rounds(self.folder / "run", 1, coordinator)
        first = read_reports(self.folder / "run")[0]
        self.assertEqual(outcomes(first), {"node-0": "accepted", "node-1": "accepted", "node-2": "expired"})
        self.assertIn("deadline", first["cells"])
        self.assertEqual((first["attempts"], first["accepted"]), (1, 2))
        self.assertGreaterEqual(first["seconds"], 3)

        again = self.client("node-2", self.address(), WORK)
        self.wait_until("node-2 takes part again", lambda: any(
            outcomes(report).get("node-2") == "accepted" for report in read_reports(self.folder / "run")), coordinator, again)
        self.assertIn("registered with ", again.log())
        coordinator.signal(signal.SIGTERM)
        self.expect_stopped(coordinator, others + [again])

    def test_lost_client_is_noticed_by_its_silence(self):
        """No deadline: the heartbeat timeout alone frees the round."""
        coordinator = self.coordinator({
            "run": {"rounds": 1, "quorum": 0.5, "deadline_s": 0, "grace_s": 60, "heartbeat_timeout_s": 1.5,
                    "clients": {"min": 3}}, "server": {"heartbeat_interval_s": 0.2, "poll_hold_s": 0.2}})
        others = self.clients(2, self.address(), WORK)
        victim = self.client("node-2", self.address(), FOREVER)
        self.wait_for_log(victim, "round 1: training")
        victim.kill()
        for program in [coordinator] + others:
            self.expect_exit(program, 0)
        report, = read_reports(self.folder / "run")
        self.assertEqual(outcomes(report), {"node-0": "accepted", "node-1": "accepted", "node-2": "lost"})

    def test_killed_coordinator(self):
        """The same command goes on where it was; the clients come back by themselves; the model is that of no crash."""
        undisturbed = self.coordinator(DETERMINISTIC, out="undisturbed", label="undisturbed")
        for program in [undisturbed] + self.clients(3, self.address("undisturbed"), WORK):
            self.expect_exit(program, 0)

        port = free_port()
        coordinator = self.coordinator(DETERMINISTIC, port=port)
        clients = self.clients(3, f"127.0.0.1:{port}", WORK)
        for rounds in (1, 3):  # killed twice
            self.wait_for_rounds(self.folder / "run", rounds, coordinator)
            coordinator.kill()
            coordinator = self.coordinator(DETERMINISTIC, port=port, label=f"resumed-after-{rounds}")
        for program in [coordinator] + clients:
            self.expect_exit(program, 0)
        self.assertRegex(coordinator.log(), r"I coordinator: run e2e goes on: version [3-7], ")
        # What the clients notice is not always told: a transfer that is cut goes on by itself.
        summary = read_summary(self.folder / "run")
        self.assertEqual((summary["status"], summary["rounds"]), ("completed", 8))
        self.assertEqual([report["round"] for report in read_reports(self.folder / "run")], list(range(1, 9)))
        self.assertEqual(summary["model_digest"], read_summary(self.folder / "undisturbed")["model_digest"])

    def test_clients_come_back_at_once(self):
        """As soon as their own retries say (0.5 s here), and not after the 10 s that a gRPC channel waits once it has failed."""
        port = free_port()
        config = {"run": {"rounds": 100000, "clients": {"min": 2}}}
        coordinator = self.coordinator(config, port=port)
        clients = self.clients(2, f"127.0.0.1:{port}", WORK)
        self.wait_for_rounds(self.folder / "run", 1, coordinator)
        coordinator.kill()
        for client in clients:
            self.wait_for_log(client, "cannot be reached")
        coordinator = self.coordinator(config, port=port, label="again")
        self.wait_until("the clients' return", lambda: all("registered again" in client.log() for client in clients),
                        coordinator, *clients, deadline_s=8.0)
        coordinator.signal(signal.SIGTERM)
        self.expect_stopped(coordinator, clients)


if __name__ == "__main__":
    main()
