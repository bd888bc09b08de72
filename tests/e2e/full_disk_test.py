#!/usr/bin/python3
"""A disk that is full at the start: exit code 1, after which a service manager tries again, for there may be space by then."""

import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from end_to_end import MODEL, EndToEndTest, main, run_program  # noqa: E402


class FullDiskTest(EndToEndTest):
    def setUp(self):
        super().setUp()
        if os.geteuid() != 0:
            self.skipTest("to mount a file system needs root")
        self.disk = self.folder / "disk"
        self.disk.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", self.disk], capture_output=True, text=True,
                                 check=False)
        if mounted.returncode != 0:
            self.skipTest(f"this system does not allow it: {mounted.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", "--lazy", self.disk], check=True)
        (self.disk / "all").write_bytes(bytes(4096))

    def test_run_directory(self):
        config = self.sandbox.write("full", {"model": MODEL})
        code, _, error = run_program("fedmoe-coordinator", "--config", config, "--set", f"storage.directory={self.disk}/run")
        self.assertEqual((code, error), (1, f"fedmoe-coordinator: lock {self.disk}/run/coordinator.lock: No space left on "
                                            "device\n"))

    def test_state_directory(self):
        config = self.client_config("node-0", "127.0.0.1:1", {"state_directory": f"{self.disk}/state"})
        code, _, error = run_program("fedmoe-client", "--config", config)
        self.assertEqual((code, error.splitlines()[-1]), (1, f"fedmoe-client: lock {self.disk}/state/lock: No space left on "
                                                             "device"))


if __name__ == "__main__":
    main()
