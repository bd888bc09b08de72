#!/usr/bin/python3
"""scripts/run_local leaves no process behind, however it is ended."""

import os
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from end_to_end import BIN, ROOT, EndToEndTest, main, processes_naming, read_reports, read_summary  # noqa: E402


class InterruptTest(EndToEndTest):
    def start(self):
        return self.run_local(ROOT / "configs/quickstart.yaml", "--set", "fleet.clients=3", "--set", "run.clients.min=3",
                              "--set", "run.rounds=100000")

    def started(self):
        local = self.start()
        self.wait_for_rounds(self.folder / "run", 1, local)
        self.assertGreaterEqual(len(processes_naming(self.folder)), 6)  # the script, a coordinator, 3 + 1 clients
        return local

    def test_ctrl_c_of_a_terminal(self):
        local = self.started()
        local.signal_group(signal.SIGINT)
        self.expect_nothing_left()
        self.expect_exit(local, 128 + signal.SIGINT)
        self.assertIn("run_local: stopping", local.log())
        self.assertEqual(read_summary(self.folder / "run")["status"], "stopped")

    def test_sigterm_to_the_script_alone(self):
        local = self.started()
        local.signal(signal.SIGTERM)
        self.expect_nothing_left()
        self.expect_exit(local, 128 + signal.SIGTERM)

    def test_ctrl_c_twice_while_the_fleet_starts(self):
        local = self.start()
        self.wait_until("the first client", lambda: (self.folder / "run/logs/client-00.log").is_file(), local)
        local.signal(signal.SIGINT)
        local.signal(signal.SIGINT)
        self.expect_nothing_left()
        self.expect_exit(local, 128 + signal.SIGINT)
        self.assertNotIn("Traceback", local.log())

    def test_a_client_that_crashes_ends_the_run(self):
        local = self.started()
        victim = [pid for pid in processes_naming(self.folder / "run/clients/client-01.yaml")]
        self.assertEqual(len(victim), 1)
        os.kill(victim[0], signal.SIGKILL)
        self.expect_exit(local, 7)
        self.expect_nothing_left()
        self.assertIn("run_local: client-01 ended with exit code -9", local.log())

    def test_run_directory_that_is_in_use_is_left_alone(self):
        """What the second one says is the coordinator's own word, and the first one's run goes on."""
        local = self.started()
        before = (self.folder / "run/address").read_text(encoding="utf-8")
        second = self.sandbox.start("second", ROOT / "scripts/run_local", ROOT / "configs/quickstart.yaml", "--out",
                                    self.folder / "run", "--bin", BIN)
        self.expect_exit(second, 3)
        self.assertRegex(second.log(), rf"^  coordinator: fedmoe-coordinator: run directory {self.folder}/run is in use by "
                                       r"another coordinator \(process \d+\)\n$")
        self.assertEqual((self.folder / "run/address").read_text(encoding="utf-8"), before)
        self.wait_for_rounds(self.folder / "run", len(read_reports(self.folder / "run")) + 2, local)
        local.signal(signal.SIGINT)
        self.expect_exit(local, 128 + signal.SIGINT)


if __name__ == "__main__":
    main()
