#!/usr/bin/python3
"""scripts/reproduce: what its tables say of known runs, and a small form of each experiment.

The programs are found in $FEDMOE_BIN (default: build/release/bin).
"""

import csv
import json
import os
import pathlib
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path[:0] = [str(ROOT / "scripts/lib"), str(ROOT / "tests/e2e")]
import experiment_tables as tables  # noqa: E402
import experiments  # noqa: E402
from end_to_end import BIN, EndToEndTest, main  # noqa: E402
from experiments import Experiment, ExperimentError, Run, Sweep  # noqa: E402
from models_test import ARCHIVE, DATA, unpack_images  # noqa: E402

TOY = Experiment(title="Toy", sweeps=(), arms=("balanced", "random", "full"), small=())


def toy_run(arm, seed, curve, group=""):
    """A run with these global accuracies, 1000 bytes and half a simulated second a round."""
    reports = [{"round": i + 1, "global_accuracy": value, "personalised_accuracy": 0.5, "global_loss": 2.0, "bytes_down": 600,
                "bytes_up": 400, "load_cv": 0.2, "load_cv_floor": 0.1, "cumulative_load_cv": 0.05}
               for i, value in enumerate(curve)]
    return Run(arm, group, seed, reports, {"bytes_down": 600 * len(curve), "bytes_up": 400 * len(curve)},
               [0.5 * (i + 1) for i in range(len(curve))])


class TablesTest(unittest.TestCase):
    RUNS = [toy_run("balanced", 1, [0.40, 0.76, 0.80]), toy_run("balanced", 2, [0.20, 0.40, 0.60]),
            toy_run("random", 1, [0.10, 0.40, 0.40]), toy_run("random", 2, [0.10, 0.40, 0.40]),
            toy_run("full", 1, [0.50, 0.80, 0.80]), toy_run("full", 2, [0.50, 0.80, 0.80])]

    def rows(self, runs=None):
        return {row["arm"]: row for row in tables.rows_of(TOY, runs or self.RUNS)}

    def test_the_target_is_a_share_of_the_references_end(self):
        targets = experiments.targets_of(TOY, [toy_run("full", 1, [0.9, 0.8, None]), toy_run("full", 2, [0.5]),
                                               toy_run("random", 3, [0.9])])
        self.assertEqual({key: round(value, 6) for key, value in targets.items()}, {("", 1): 0.76, ("", 2): 0.475})

    def test_a_run_reaches_its_target_in_the_first_round_at_or_above_it(self):
        row = self.rows()["full"]
        self.assertEqual((row["reached_to_target"], row["rounds_to_target"], row["bytes_to_target"], row["seconds_to_target"]),
                         (2, 2, 2000, 1.0))

    def test_seeds_that_never_get_there_are_counted_not_averaged(self):
        row = self.rows()["balanced"]
        self.assertEqual((row["runs"], row["reached_to_target"], row["rounds_to_target"]), (2, 1, 2))
        header, cells = tables.markdown_rows(TOY, list(self.rows().values()))
        column = header.index("rounds to target")
        self.assertEqual([line[column] for line in cells], ["2.0 (1 of 2)", "never", "2.0"])

    def test_randoms_end_is_a_goal_too(self):
        self.assertEqual((self.rows()["balanced"]["rounds_to_random"], self.rows()["random"]["rounds_to_random"]), (1.5, 2))

    def test_differences_are_taken_seed_by_seed(self):
        rows = self.rows()
        self.assertAlmostEqual(rows["random"]["difference_mean"], 0.3)
        self.assertAlmostEqual(rows["random"]["difference_deviation"], 0.1 * 2 ** 0.5)
        self.assertIsNone(rows["balanced"]["difference_mean"])
        header, cells = tables.markdown_rows(TOY, list(rows.values()))
        column = header.index("balanced is better by, points")
        self.assertEqual([line[column] for line in cells], ["", "+30.0 ± 14.1", "-10.0 ± 14.1"])

    def test_one_seed_has_no_deviation(self):
        row = self.rows(self.RUNS[::2])["balanced"]
        self.assertEqual((row["global_accuracy_mean"], row["global_accuracy_deviation"]), (0.8, None))
        self.assertEqual(tables.spread(row, "global_accuracy"), "80.0")

    def test_groups_are_compared_within_themselves(self):
        runs = [toy_run("balanced", 1, [0.4], "a"), toy_run("random", 1, [0.1], "a"), toy_run("full", 1, [0.4], "a"),
                toy_run("balanced", 1, [0.4], "b"), toy_run("random", 1, [0.5], "b"), toy_run("full", 1, [0.8], "b")]
        rows = tables.rows_of(TOY, runs)
        self.assertEqual([(row["group"], row["arm"], row["reached_to_target"]) for row in rows],
                         [("a", "balanced", 1), ("a", "random", 0), ("a", "full", 1),
                          ("b", "balanced", 0), ("b", "random", 0), ("b", "full", 1)])
        self.assertEqual(tables.target_text(TOY, runs), "Target: 95 % of the global accuracy that `full` ends with, seed by seed: "
                         "a: 38.0 %; b: 76.0 %.\n")

    def test_small_numbers_keep_three_figures(self):
        self.assertEqual([tables.figures(value) for value in (0, 0.0123456, 1.5, 123.4, 98765.0, None)],
                         ["0", "0.0123", "1.50", "123", "98765", ""])

    def test_the_csv_has_every_number(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "table.csv"
            tables.write_csv(path, list(self.rows().values()))
            with open(path, encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        self.assertEqual([row["arm"] for row in rows], ["balanced", "random", "full"])
        self.assertEqual((rows[0]["global_accuracy_mean"], rows[1]["rounds_to_target"], rows[2]["load_cv"]), ("0.7", "", "0.2"))


class SweepFilesTest(unittest.TestCase):
    def test_each_sweep_file_belongs_to_an_experiment(self):
        named = {sweep.file for experiment in experiments.EXPERIMENTS.values() for sweep in experiment.sweeps}
        self.assertEqual(named, {path.name for path in experiments.CONFIGS.glob("*.sweep.yaml")})

    def test_a_sweep_is_taken_seed_by_seed_and_stands_anywhere(self):
        text = experiments.sweep_text(Sweep("alignment.sweep.yaml"), 7)
        self.assertIn(f'base: "{ROOT}/configs/experiments/alignment.yaml"\n', text)
        self.assertTrue(text.endswith("\nseeds: [7]\n"), text)

    def test_the_seeds_are_the_files(self):
        self.assertEqual(experiments.seeds_of(experiments.EXPERIMENTS["alignment"]), [1, 2, 3])

    def test_a_sweep_without_base_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "x.sweep.yaml"
            path.write_text("seeds: [1]\n", encoding="utf-8")
            with self.assertRaisesRegex(ExperimentError, r"x\.sweep\.yaml: needs one line `base: FILE` and one line"):
                experiments.sweep_text(Sweep(str(path)), 1)


class SmallFormsTest(EndToEndTest):
    """Each experiment's `--small`: every contender ran, and every file is there."""

    def reproduce(self, *arguments, out="out", label="reproduce", code=0):
        program = self.sandbox.start(label, ROOT / "scripts/reproduce", *arguments, "--out", self.folder / out, "--bin", BIN)
        self.expect_exit(program, code, deadline_s=200)  # up to 129 runs
        return program.log()

    def expect_all(self, name, groups, *arguments):
        log = self.reproduce(name, "--small", *arguments)
        out = self.folder / "out"
        with open(out / "table.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        experiment = experiments.EXPERIMENTS[name]
        self.assertEqual([(row["group"], row["arm"], row["runs"]) for row in rows],
                         [(group, arm, "1") for group in groups for arm in experiment.arms])
        for row in rows:
            self.assertNotEqual(row[f"{experiment.metric}_mean"], "", row)
            self.assertGreater(float(row["simulated_s"]), 0.0, row)
        self.assertTrue((out / "table.md").read_text(encoding="utf-8").startswith(f"# {experiment.title}\n"))
        self.assertEqual(json.loads((out / "experiment.json").read_text(encoding="utf-8"))["seeds"], [1])
        return log, rows

    def test_alignment(self):
        log, rows = self.expect_all("alignment", [""])
        full = [row for row in rows if row["arm"] == "full"][0]
        self.assertEqual(full["reached_to_target"], "1")
        self.assertEqual([row["load_cv"] for row in rows if row["arm"] in ("balanced", "static")], ["0", "0"])
        self.assertIn("alignment.strategy=full,seed=1: completed", log)

        # What is completed is not run again; what stands in the folder is not overwritten unasked.
        again = self.reproduce("alignment", "--small", "--resume", label="again")
        self.assertEqual(again.count(": completed before"), 8)
        refused = self.reproduce("alignment", "--small", label="refused", code=2)
        self.assertIn("out is not empty; choose another --out, or go on with --resume", refused)

    def test_alignment_without_matplotlib(self):
        stub = self.folder / "stubs/matplotlib"
        stub.mkdir(parents=True)
        (stub / "__init__.py").write_text("raise ImportError\n", encoding="utf-8")
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = str(stub.parent)
        try:
            log, _ = self.expect_all("alignment", [""], "--set", "run.rounds=1")
        finally:
            os.environ.pop("PYTHONPATH")
            if before is not None:
                os.environ["PYTHONPATH"] = before
        self.assertIn("python3-matplotlib is not installed, so there are no plots; --install gets it", log)
        self.assertEqual(list((self.folder / "out").glob("*.png")), [])

    def test_failed_runs_are_named(self):
        log = self.reproduce("alignment", "--small", "--set", "training.learning_rate=100", "--set", "training.clip_norm=0",
                             "--set", "training.epochs=50", "--set", "run.max_aborts=1", "--set", "run.rounds=1", code=1)
        self.assertIn("reproduce: not completed: alignment, alignment.strategy=balanced,seed=1 (failed)", log)
        self.assertIn("out completed", log)  # "no run of DIR completed"

    def test_capacity(self):
        self.expect_all("capacity", [f"{count} of 16" for count in (1, 2, 4, 8)])

    def test_participation(self):
        self.expect_all("participation", [f"{count} a round" for count in (4, 8, 16)])

    def test_fitness(self):
        self.expect_all("fitness", [""])

    def test_fedau(self):
        self.expect_all("fedau", [""])

    @unittest.skipUnless((DATA / "mnist/train-images-idx3-ubyte.gz").exists(), "MNIST is not here")
    def test_label_skew(self):
        self.expect_all("label_skew", ["MNIST, Dirichlet 0.1", "MNIST, Dirichlet 0.3", "domains"], "--set",
                        f"fleet.data.path={DATA}/mnist")

    @unittest.skipUnless((DATA / "mnist/train-images-idx3-ubyte.gz").exists(), "MNIST is not here")
    def test_alignment_mnist(self):
        self.expect_all("alignment_mnist", ["Dirichlet 0.1", "Dirichlet 0.3", "Dirichlet 0.8", "2 classes a client",
                                            "4 classes a client"], "--set", f"fleet.data.path={DATA}/mnist")

    @unittest.skipUnless((DATA / "languages/en.train.txt").exists(), "the languages are not here")
    def test_languages(self):
        self.expect_all("languages", [""], "--set", f"fleet.data.path={DATA}/languages")

    @unittest.skipUnless((DATA / "languages/en.train.txt").exists(), "the languages are not here")
    def test_languages_gates(self):
        self.expect_all("languages_gates", [""], "--set", f"fleet.data.path={DATA}/languages")

    @unittest.skipUnless((DATA / "languages/en.train.txt").exists(), "the languages are not here")
    def test_languages_transformer(self):
        self.expect_all("languages_transformer", [""], "--set", f"fleet.data.path={DATA}/languages")

    @unittest.skipUnless((DATA / "languages/en.train.txt").exists(), "the languages are not here")
    def test_languages_transformer_rates(self):
        self.expect_all("languages_transformer_rates", ["rate 0.004", "rate 0.008", "rate 0.016"], "--set",
                        f"fleet.data.path={DATA}/languages")

    @unittest.skipUnless(ARCHIVE.exists(), "the images of CIFAR-10 are not here")
    def test_alignment_cifar10(self):
        images = self.folder / "images"
        unpack_images(images)
        self.expect_all("alignment_cifar10", ["Dirichlet 0.1", "Dirichlet 0.3", "Dirichlet 0.8", "2 classes a client", "4 classes a client"],
                        "--set", f"fleet.data.path={images}")

    @unittest.skipUnless(ARCHIVE.exists(), "the images of CIFAR-10 are not here")
    def test_label_skew_cifar10(self):
        images = self.folder / "images"
        unpack_images(images)
        self.expect_all("label_skew_cifar10", ["Dirichlet 0.1", "Dirichlet 0.3", "4 classes a client"],
                        "--set", f"fleet.data.path={images}")

    @unittest.skipUnless(ARCHIVE.exists(), "the images of CIFAR-10 are not here")
    def test_flexmoe(self):
        images = self.folder / "images"
        unpack_images(images)
        self.expect_all("flexmoe", ["iid", "classes_per_client", "dirichlet"], "--set", f"fleet.data.path={images}")


if __name__ == "__main__":
    main()
