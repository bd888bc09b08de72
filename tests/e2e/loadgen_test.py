#!/usr/bin/python3
"""fedmoe-loadgen as a program: the sizes of its updates, what it prints, and what it says of wrong usage."""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from end_to_end import MODEL, EndToEndTest, main, run_program  # noqa: E402

CLIENTS = 4
ROUNDS = 5
MOST = 1 << 40


class LoadgenTest(EndToEndTest):
    def run_load(self, *arguments, **config):
        coordinator = self.coordinator({
            "model": MODEL | {"expert_width": 256}, "evaluation": {"mode": "none"},
            "run": {"rounds": ROUNDS, "quorum": 1, "deadline_s": 0, "clients": {"min": CLIENTS}}, **config})
        code, output, error = run_program("fedmoe-loadgen", "--coordinator", self.address(), "--clients", str(CLIENTS),
                                          "--progress", "86400", *arguments)
        self.assertEqual(code, 0, error)
        self.expect_exit(coordinator, 0)
        return json.loads(output), error

    def test_sizes_that_are_asked_for(self):
        totals, error = self.run_load("--update-bytes", "20kB", "32KiB", transfer={"up": {"encoding": "topk"}})
        self.assertEqual(error, "")
        self.assertEqual(totals["accepted"], CLIENTS * ROUNDS)
        self.assertEqual(totals["failed"], 0)
        self.assertGreater(totals["update_bytes_min"], 20_000 - 64 * 32)
        self.assertLess(totals["update_bytes_min"], totals["update_bytes_median"])
        self.assertLess(totals["update_bytes_median"], totals["update_bytes_max"])
        self.assertLessEqual(totals["update_bytes_max"], 32 * 1024)

    def test_sizes_that_cannot_be_had(self):
        totals, error = self.run_load("--update-bytes", "1GB")
        self.assertEqual(totals["accepted"], CLIENTS * ROUNDS)
        self.assertEqual(totals["update_bytes_min"], totals["update_bytes_max"])
        [warning] = error.splitlines()
        self.assertIn("updates of 1000000000 to 1000000000 bytes are asked for; this model's with 4 experts as f32 have ", warning)
        self.assertIn(f" to {totals['update_bytes_max']}, and the nearest are sent", warning)

    def test_wrong_usage(self):
        for arguments, least, most in ((("0",), 0, 0), (("20kB", "10kB"), 20_000, 10_000), (("2TiB",), 2 * MOST, 2 * MOST)):
            code, output, error = run_program("fedmoe-loadgen", "--coordinator", "127.0.0.1:1", "--update-bytes", *arguments)
            self.assertEqual((code, output), (2, ""))
            self.assertEqual(error, f"fedmoe-loadgen: --update-bytes must be 1 to {MOST}, the second no less than the first "
                                    f"(got {least} and {most})\n")


if __name__ == "__main__":
    main()
