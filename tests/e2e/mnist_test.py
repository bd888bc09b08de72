#!/usr/bin/python3
"""The quickstart on real MNIST, as `scripts/quickstart --data mnist` starts it."""

import os
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from end_to_end import ROOT, EndToEndTest, main, read_reports, read_summary  # noqa: E402

FOLDER = pathlib.Path(os.environ.get("FEDMOE_DATA_DIR", ROOT.parent / "shared/data")) / "mnist"
IMAGES = [FOLDER / ("train-images-idx3-ubyte" + suffix) for suffix in ("", ".gz")]


@unittest.skipUnless(any(path.exists() for path in IMAGES), "MNIST is not here")
class MnistTest(EndToEndTest):
    def test_quickstart(self):
        local = self.run_local(ROOT / "configs/quickstart.yaml", "--set", "name=quickstart-mnist", "--set",
                               "fleet.data.dataset=idx", "--set", "fleet.data.partition.kind=dirichlet", "--set",
                               f"fleet.data.path={FOLDER}", "--set", "run.rounds=2")
        self.expect_exit(local, 0)
        summary = read_summary(self.folder / "run")
        self.assertEqual((summary["status"], summary["rounds"]), ("completed", 2))
        self.assertGreater(summary["final_accuracy"], 0.5)
        report = read_reports(self.folder / "run")[-1]
        examples = [client["examples"] for client in report["clients"]]
        self.assertGreater(sum(examples), 40000)  # of 60000, the hold-out kept back
        self.assertGreater(len(set(examples)), 1)


if __name__ == "__main__":
    main()
