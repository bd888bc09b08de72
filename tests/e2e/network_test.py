#!/usr/bin/python3
"""Real programs whose network fails: lost packets, delay, a limited rate, partitions. Needs root, ip, tc and nft."""

import json
import pathlib
import signal
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from end_to_end import BIN, MODEL, EndToEndTest, main, merge, outcomes, read_reports, read_summary  # noqa: E402
from networks import Network, why_not  # noqa: E402

WHY_NOT = why_not()
PORT = 7070
CLIENTS = 3
# Slow networks are slow; a run that does not end at all is what these are to find.
DEADLINE_S = 200.0
DETERMINISTIC = {"run": {"rounds": 4, "deterministic": True, "clients": {"min": CLIENTS}}}
# Experts of 0.5 MB: over a slow link the transfer of one takes longer than the heartbeat timeout.
WIDE = {"model": {"inputs": 32, "width": 64, "expert_width": 1024}}
WORK = {"data": {"domains": {"examples": 512}}}


@unittest.skipIf(WHY_NOT, WHY_NOT)
class NetworkTest(EndToEndTest):
    def network(self, delay_s=0.0):
        network = Network(CLIENTS, delay_s)
        self.addCleanup(network.close)
        return network

    def start_run(self, network, config, out="run"):
        """(coordinator, clients): one in the hub, each of the others in a node."""
        (self.folder / out).mkdir()
        base = {"name": "e2e", "model": MODEL, "evaluation": {"mode": "none"}, "server": {"allow_plaintext": True}}
        path = self.sandbox.write(f"{out}-coordinator.yaml", merge(base, config))
        coordinator = self.sandbox.start(
            f"{out}-coordinator", *network.within("hub"), BIN / "fedmoe-coordinator", "--config", path, "--set",
            f"storage.directory={self.folder / out}", "--set", f"server.address=0.0.0.0:{PORT}")
        self.wait_until("the coordinator listens", lambda: (self.folder / out / "address").is_file()
                        or coordinator.process.poll() is not None, coordinator)
        clients = []
        for i in range(CLIENTS):
            own = {"state_directory": str(self.folder / out / "state" / str(i))}
            path = self.client_config(f"node-{i}", f"{network.hub_address(i)}:{PORT}", merge(WORK, own))
            clients.append(self.sandbox.start(f"{out}-node-{i}", *network.within(f"node-{i}"), BIN / "fedmoe-client",
                                              "--config", path))
        return coordinator, clients

    def expect_end(self, coordinator, clients):
        for program in [coordinator] + clients:
            self.wait_until(f"end of {program.log_path.stem}", lambda p=program: p.process.poll() is not None, program,
                            deadline_s=DEADLINE_S)
            self.assertEqual(program.process.returncode, 0, program.log()[-3000:])

    def tell(self, what, value):
        print(json.dumps({"test": self.id().rsplit(".", 1)[-1], what: value}), flush=True)

    def digest_of_a_clean_run(self, config):
        coordinator, clients = self.start_run(self.network(), config, out="clean")
        self.expect_end(coordinator, clients)
        return read_summary(self.folder / "clean")["model_digest"]

    def expect_the_model_of_a_clean_run(self, config, wall_s):
        """Every update counted, and none of them twice: the model is that of a network without faults."""
        summary = read_summary(self.folder / "run")
        self.assertEqual(summary["status"], "completed")
        reports = read_reports(self.folder / "run")
        self.assertEqual([report["round"] for report in reports], list(range(1, config["run"]["rounds"] + 1)))
        for report in reports:
            self.assertEqual(outcomes(report), {f"node-{i}": "accepted" for i in range(CLIENTS)})
            self.assertEqual(report["attempts"], 1)
        self.assertEqual(summary["model_digest"], self.digest_of_a_clean_run(config))
        self.tell("seconds_by_round", [round(report["seconds"], 2) for report in reports])
        self.tell("wall_s", round(wall_s, 1))
        clean = [report["seconds"] for report in read_reports(self.folder / "clean")]
        self.tell("clean_seconds_by_round", [round(seconds, 2) for seconds in clean])

    def run_under(self, network, config):
        start = time.monotonic()
        coordinator, clients = self.start_run(network, config)
        self.expect_end(coordinator, clients)
        network.close()
        return coordinator, clients, time.monotonic() - start

    def test_loss(self):
        """One packet in five is lost, in each direction."""
        network = self.network()
        network.lose(0.2, *range(CLIENTS))
        _, _, wall_s = self.run_under(network, DETERMINISTIC)
        self.expect_the_model_of_a_clean_run(DETERMINISTIC, wall_s)

    def test_delay(self):
        """Each packet takes 300 ms, in each direction."""
        _, _, wall_s = self.run_under(self.network(delay_s=0.3), DETERMINISTIC)
        self.expect_the_model_of_a_clean_run(DETERMINISTIC, wall_s)

    def test_rate(self):
        """A link of 512 kbit/s: a transfer takes longer than the heartbeat timeout, and its client is not lost."""
        config = merge(merge(DETERMINISTIC, WIDE), {
            "run": {"rounds": 2, "heartbeat_timeout_s": 5},
            "server": {"heartbeat_interval_s": 0.5, "poll_hold_s": 2}})
        network = self.network()
        network.limit(0, 512)
        coordinator, clients, wall_s = self.run_under(network, config)
        slowest = max(report["seconds"] for report in read_reports(self.folder / "run"))
        self.assertGreater(slowest, 5, "the link was too fast for this test")
        for program in clients:
            self.assertNotIn("registered again", program.log())
        self.assertEqual(coordinator.log().count(" joins"), CLIENTS, coordinator.log())
        self.expect_the_model_of_a_clean_run(config, wall_s)

    def test_partition_of_all(self):
        """Nobody reaches anybody for six seconds; a deterministic run waits, and goes on."""
        config = merge(DETERMINISTIC, {"run": {"rounds": 6}})
        network = self.network()
        start = time.monotonic()
        coordinator, clients = self.start_run(network, config)
        self.wait_for_rounds(self.folder / "run", 1, coordinator)
        network.lose(1.0, *range(CLIENTS))
        before = len(read_reports(self.folder / "run"))
        time.sleep(6)
        network.lose(0.0, *range(CLIENTS))
        healed = time.monotonic()
        self.wait_until("a round after the partition", lambda: len(read_reports(self.folder / "run")) > before + 1
                        or coordinator.process.poll() is not None, coordinator, deadline_s=DEADLINE_S)
        self.tell("seconds_from_heal_to_a_round", round(time.monotonic() - healed, 2))
        self.expect_end(coordinator, clients)
        network.close()
        self.expect_the_model_of_a_clean_run(config, time.monotonic() - start)

    def test_partition_of_one(self):
        """The others go on at quorum without the client that cannot be reached, and with it when it can."""
        network = self.network()
        coordinator, clients = self.start_run(network, {
            "run": {"rounds": 100000, "quorum": 0.5, "grace_s": 0.5, "deadline_s": 60, "heartbeat_timeout_s": 3,
                    "clients": {"min": 2}},
            "server": {"heartbeat_interval_s": 0.3, "poll_hold_s": 2}})
        out = self.folder / "run"

        def wait_for(what, wanted, after=0):
            return self.wait_until(what, lambda: next(
                (report for report in read_reports(out) if report["round"] > after and wanted(outcomes(report))), None),
                coordinator, clients[2], deadline_s=DEADLINE_S)

        together = wait_for("a round of all", lambda clients: list(clients.values()) == ["accepted"] * CLIENTS)
        network.lose(1.0, 2)
        cut = time.monotonic()
        without = wait_for("a round without node-2", lambda clients: clients.get("node-2") != "accepted", together["round"])
        self.tell("seconds_from_cut_to_a_round_without", round(time.monotonic() - cut, 2))
        alone = wait_for("rounds go on", lambda clients: "node-2" not in clients, without["round"])
        wait_for("and on", lambda clients: "node-2" not in clients, alone["round"] + 3)
        network.lose(0.0, 2)
        healed, rounds = time.monotonic(), len(read_reports(out))
        wait_for("node-2 takes part again", lambda clients: clients.get("node-2") == "accepted", rounds)
        self.tell("seconds_from_heal_to_its_next_round", round(time.monotonic() - healed, 2))
        self.tell("rounds_without", rounds - together["round"])
        coordinator.signal(signal.SIGTERM)
        self.expect_stopped(coordinator, clients)
        reports = read_reports(out)
        self.assertEqual([report["round"] for report in reports], list(range(1, len(reports) + 1)))
        for report in reports:
            self.assertEqual(report["attempts"], 1)
            self.assertEqual(report["accepted"], list(outcomes(report).values()).count("accepted"))


if __name__ == "__main__":
    main()
