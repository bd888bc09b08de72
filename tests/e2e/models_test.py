#!/usr/bin/python3
"""Short forms of the configurations with a model of their own, on real data: does the whole path run and learn?"""

import os
import pathlib
import sys
import tarfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from end_to_end import ROOT, EndToEndTest, main, read_assignments, read_reports, read_summary  # noqa: E402

DATA = pathlib.Path(os.environ.get("FEDMOE_DATA_DIR", ROOT.parent / "shared/data"))
ARCHIVE = DATA / "cifar10/cifar10-jpeg.tar.xz"
IMAGES_PER_CLASS = {"train": 60, "test": 20}


def unpack_images(folder):
    """The first images of each class: an image folder."""
    counts = {}
    wanted = 10 * sum(IMAGES_PER_CLASS.values())
    with tarfile.open(ARCHIVE, "r|xz") as archive:  # a stream, left when there is enough
        for member in archive:
            parts = pathlib.PurePosixPath(member.name).parts[-3:]
            if not member.isfile() or len(parts) != 3 or parts[0] not in IMAGES_PER_CLASS:
                continue
            key = parts[:2]
            if counts.get(key, 0) == IMAGES_PER_CLASS[parts[0]]:
                continue
            counts[key] = counts.get(key, 0) + 1
            path = folder.joinpath(*parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.extractfile(member).read())
            if sum(counts.values()) == wanted:
                return


class ModelsTest(EndToEndTest):
    def run_short(self, name, path, *settings):
        """Two or more rounds of configs/NAME.yaml with a small model; the reports."""
        arguments = [text for setting in (f"fleet.data.path={path}", *settings) for text in ("--set", setting)]
        local = self.run_local(ROOT / f"configs/{name}.yaml", *arguments)
        self.expect_exit(local, 0)
        summary = read_summary(self.folder / "run")
        self.assertEqual(summary["status"], "completed")
        self.assertIsNotNone(summary["final_accuracy"])
        self.assertIsNotNone(summary["personalised_accuracy"])
        reports = read_reports(self.folder / "run")
        self.assertLess(reports[-1]["train_loss"], reports[0]["train_loss"])
        return reports

    @unittest.skipUnless(ARCHIVE.exists(), "the images of CIFAR-10 are not here")
    def test_cifar10(self):
        images = self.folder / "images"
        unpack_images(images)
        reports = self.run_short("cifar10", images, "run.rounds=3", "model.width=32", "model.expert_width=32",
                                 "training.batch_size=16", "fleet.clients=4", "run.clients.min=4",
                                 "fleet.data.partition.alpha=5")
        self.assertEqual(len(reports[-1]["clients"]), 4)
        self.assertEqual({int(row["expert"]) for row in read_assignments(self.folder / "run")}, set(range(8)))

    @unittest.skipUnless((DATA / "shakespeare/input.txt").exists(), "tiny-shakespeare is not here")
    def test_shakespeare(self):
        reports = self.run_short("shakespeare", DATA / "shakespeare", "run.rounds=2", "model.width=32", "model.depth=2",
                                 "model.heads=2", "model.expert_width=32", "model.dense_width=32", "fleet.clients=4",
                                 "run.clients.min=4", "training.epochs=1", "fleet.data.max_examples=128",
                                 "training.learning_rate=0.01")
        # Two layers of eight experts: each client's are split over both.
        for client in reports[-1]["clients"]:
            layers = [expert // 8 for expert in client["experts"]]
            self.assertEqual(layers.count(0), layers.count(1), client)
        self.assertLess(reports[-1]["train_loss"], 4.0)  # log(128) = 4.85 at the start

    @unittest.skipUnless((DATA / "languages/en.train.txt").exists(), "the languages are not here")
    def test_languages(self):
        reports = self.run_short("languages", DATA / "languages", "run.rounds=2", "model.width=32", "model.heads=1",
                                 "model.expert_width=32", "model.dense_width=32", "fleet.data.max_examples=128",
                                 "training.learning_rate=0.01")
        self.assertEqual(len(reports[-1]["clients"]), 16)
        self.assertTrue(all(len(client["experts"]) == 2 for client in reports[-1]["clients"]))
        self.assertLess(reports[-1]["train_loss"], 5.0)  # log(384) = 5.95 at the start


if __name__ == "__main__":
    main()
