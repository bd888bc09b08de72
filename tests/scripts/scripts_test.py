#!/usr/bin/env python3
"""What scripts/ promises: packages, usage errors, expected skips. No package is installed: apt and sudo are stand-ins."""
import glob
import os
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ENSURE = 'set -euo pipefail; source "$1/scripts/lib/common.sh"; source "$1/scripts/lib/packages.sh"; ensure_packages "${@:2}"'

# Stand-ins that note how they were called. apt-get marks packages as installed; FAIL names the step that fails.
DPKG_QUERY = """#!/bin/bash
for name in "${@:3}"; do grep -qx -- "$name" "$STATE/installed" && echo "installed $name"; done
exit 1
"""
APT_GET = """#!/bin/bash
while [[ $1 == -q || $1 == -o ]]; do [[ $1 == -o ]] && shift; shift; done
echo "apt-get $*" >>"$STATE/calls"
[[ $1 != "${FAIL:-}" ]] || exit 100
if [[ $1 == install ]]; then printf '%s\\n' "${@:4}" >>"$STATE/installed"; fi
"""
SUDO = """#!/bin/bash
[[ -n ${MAY_SUDO:-} && $1 == -n ]] || exit 1
shift
echo "sudo" >>"$STATE/calls"
exec "$@"
"""
ID = """#!/bin/bash
echo "${AS_UID:-0}"
"""


class PackagesTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        for name, text in (("dpkg-query", DPKG_QUERY), ("apt-get", APT_GET), ("sudo", SUDO), ("id", ID)):
            path = os.path.join(self.folder.name, name)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(path, 0o755)
        self.installed("")
        with open(os.path.join(self.folder.name, "calls"), "w", encoding="utf-8"):
            pass

    def installed(self, names):
        with open(os.path.join(self.folder.name, "installed"), "w", encoding="utf-8") as file:
            file.write("".join(name + "\n" for name in names.split()))

    def ensure(self, *sections, **environment):
        return subprocess.run(["bash", "-c", ENSURE, "ensure", ROOT, *sections], capture_output=True, text=True,
                              check=False, stdin=subprocess.DEVNULL,
                              env={"PATH": self.folder.name + ":" + os.environ["PATH"], "STATE": self.folder.name,
                                   **environment})

    def calls(self):
        with open(os.path.join(self.folder.name, "calls"), encoding="utf-8") as file:
            return file.read().splitlines()

    def test_nothing_missing_calls_no_apt(self):
        self.installed("git mmdebstrap")
        outcome = self.ensure("fresh")
        self.assertEqual((outcome.returncode, outcome.stdout), (0, "Packages: all 2 are installed.\n"))
        self.assertEqual(self.calls(), [])

    def test_only_what_is_missing_is_installed(self):
        self.installed("git")
        outcome = self.ensure("fresh")
        self.assertEqual(outcome.returncode, 0, outcome.stderr)
        self.assertEqual(outcome.stdout, "Packages: installing 1 of 2: mmdebstrap\n")
        self.assertEqual(self.calls(), ["apt-get update", "apt-get install -y --no-install-recommends mmdebstrap"])

    def test_sections_are_joined(self):
        self.installed("git")
        self.ensure("fresh", "clang")
        self.assertEqual(self.calls()[1],
                         "apt-get install -y --no-install-recommends mmdebstrap clang libclang-rt-14-dev")

    def test_sudo_without_a_password_is_used(self):
        outcome = self.ensure("fresh", AS_UID="1000", MAY_SUDO="yes")
        self.assertEqual(outcome.returncode, 0, outcome.stderr)
        self.assertIn("sudo", self.calls())
        self.assertIn("apt-get install -y --no-install-recommends git mmdebstrap", self.calls())

    def test_neither_root_nor_sudo_names_packages_and_command(self):
        outcome = self.ensure("fresh", AS_UID="1000")
        self.assertEqual(outcome.returncode, 3)
        self.assertEqual(outcome.stderr.splitlines()[-3:], [
            "ensure: missing packages: git mmdebstrap",
            "Neither root nor sudo without a password is at hand. As root, run:",
            "  apt-get update && apt-get install -y --no-install-recommends git mmdebstrap"])
        self.assertEqual(self.calls(), [])

    def test_failed_update_may_still_install(self):
        outcome = self.ensure("fresh", FAIL="update")
        self.assertEqual(outcome.returncode, 0)
        self.assertIn("warning: apt-get update failed; trying with the lists that are there", outcome.stderr)

    def test_failed_install_names_packages_and_command(self):
        outcome = self.ensure("fresh", FAIL="install")
        self.assertEqual(outcome.returncode, 3)
        self.assertIn("ensure: missing packages: git mmdebstrap\napt-get could not install them", outcome.stderr)

    def test_unknown_section(self):
        outcome = self.ensure("toys")
        self.assertEqual((outcome.returncode, self.calls()), (1, []))
        self.assertIn("ensure: scripts/packages.txt has no section toys", outcome.stderr)

    def test_without_apt(self):
        os.remove(os.path.join(self.folder.name, "dpkg-query"))
        for name in ("bash", "dirname", "basename", "awk", "cat"):
            os.symlink(os.path.realpath(subprocess.check_output(["which", name], text=True).strip()),
                       os.path.join(self.folder.name, name))
        outcome = self.ensure("fresh", PATH=self.folder.name)
        self.assertEqual(outcome.returncode, 3)
        self.assertIn("ensure: this machine has no apt: install the counterparts of these Debian 12 packages, then use "
                      "--no-install: git mmdebstrap", outcome.stderr)

    def test_the_list_names_each_package_once(self):
        with open(os.path.join(ROOT, "scripts", "packages.txt"), encoding="utf-8") as file:
            names = [line.strip() for line in file if line.strip() and not line.startswith("#")]
        self.assertEqual(sorted(names), sorted(set(names)))


class SkipsTest(unittest.TestCase):
    def judge(self, expected, *cases, **environment):
        with tempfile.TemporaryDirectory() as folder:
            paths = [os.path.join(folder, "expected"), os.path.join(folder, "report")]
            for path, text in zip(paths, (expected, "<testsuite>" + "".join(cases) + "</testsuite>")):
                with open(path, "w", encoding="utf-8") as file:
                    file.write(text)
            outcome = subprocess.run([os.path.join(ROOT, "scripts/lib/unexpected_skips.py"), *paths],
                                     capture_output=True, text=True, check=False, env={**os.environ, **environment})
            return outcome.returncode, outcome.stderr.replace(folder + "/", "")

    RAN = '<testcase name="A.Ran" status="run"/>'
    FAILED = '<testcase name="A.Failed" status="fail"/>'
    SKIPPED = ('<testcase name="MnistTest.Reads" status="notrun"><skipped message="x"/>'
               "<system-out>a_test.cc:3: Skipped\nno MNIST here\n\n[  SKIPPED ] MnistTest.Reads\n</system-out></testcase>")
    DISABLED = '<testcase name="A.Off" status="disabled"><skipped message=""/></testcase>'

    def test_what_ran_is_no_skip(self):
        self.assertEqual(self.judge("", self.RAN, self.FAILED), (0, ""))

    def test_a_skip_without_a_line_fails(self):
        self.assertEqual(self.judge("", self.RAN, self.SKIPPED), (
            1, "expected: MnistTest.Reads was skipped (no MNIST here), and no line says that it may be\n"))

    def test_a_disabled_test_is_a_skip(self):
        self.assertEqual(self.judge("", self.DISABLED), (
            1, "expected: A.Off was skipped (disabled), and no line says that it may be\n"))

    def test_a_line_counts_only_under_its_condition(self):
        line = r"MnistTest\..* no-mnist not in the repository" + "\n"
        with tempfile.TemporaryDirectory() as data:
            self.assertEqual(self.judge(line, self.SKIPPED, FEDMOE_DATA_DIR=data)[0], 0)
            os.makedirs(os.path.join(data, "mnist"))
            with open(os.path.join(data, "mnist", "train-images-idx3-ubyte.gz"), "w", encoding="utf-8"):
                pass
            self.assertEqual(self.judge(line, self.SKIPPED, FEDMOE_DATA_DIR=data)[0], 1)

    def test_a_line_must_match_the_whole_name(self):
        with tempfile.TemporaryDirectory() as data:
            self.assertEqual(self.judge("MnistTest no-mnist r\n", self.SKIPPED, FEDMOE_DATA_DIR=data)[0], 1)

    def test_a_line_without_a_reason_is_an_error(self):
        self.assertEqual(self.judge("A no-mnist\n", self.RAN), (
            2, "unexpected_skips: expected:1: want a pattern, a condition (no-cifar10, no-cuda, no-languages, no-mnist, no-namespaces, "
            "no-reference-blas, no-shakespeare, root) and a reason\n"))

    def test_an_empty_report_is_an_error(self):
        self.assertEqual(self.judge(""), (2, "unexpected_skips: report: no test in it\n"))

    def test_the_list_of_the_repository_can_be_read(self):
        with tempfile.TemporaryDirectory() as folder:
            report = os.path.join(folder, "report")
            with open(report, "w", encoding="utf-8") as file:
                file.write(f"<testsuite>{self.RAN}</testsuite>")
            subprocess.run([os.path.join(ROOT, "scripts/lib/unexpected_skips.py"),
                            os.path.join(ROOT, "tests/expected_skips.txt"), report], check=True)


class UsageTest(unittest.TestCase):
    def run_script(self, *arguments):
        return subprocess.run([os.path.join(ROOT, "scripts", arguments[0]), *arguments[1:]], capture_output=True,
                              text=True, check=False, stdin=subprocess.DEVNULL, timeout=60)

    def test_each_script_has_help(self):
        for path in sorted(glob.glob(os.path.join(ROOT, "scripts", "*"))):
            if os.path.isdir(path) or path.endswith(".txt"):
                continue
            with self.subTest(script=os.path.basename(path)):
                outcome = self.run_script(os.path.basename(path), "--help")
                self.assertEqual((outcome.returncode, outcome.stderr), (0, ""))
                self.assertRegex(outcome.stdout, "(?i)usage: ")

    def test_wrong_usage(self):
        for arguments, message in (
                (("build", "--fast"), "build: unknown option --fast; see --help\n"),
                (("build", "--preset"), "build: --preset needs a value; see --help\n"),
                (("build", "--preset", "fast"), "build: unknown preset fast; known: release, dev, asan, tsan, fuzz\n"),
                (("test", "all"), "test: unknown argument all; see --help\n"),
                (("test", "--filter", ""), "test: --filter needs a value; see --help\n"),
                (("check", "--preset", "x"), "check: unknown preset x; known: release, dev, asan, tsan, fuzz\n"),
                (("fuzz", "--minutes", "0"), "fuzz: --minutes must be a whole number of at least 1 (got 0)\n"),
                (("fuzz", "nothing"), "fuzz: unknown target nothing; known: update_blocks, encoded_shards, safetensors, "
                                      "manifest, protocol_messages, yaml_config, dataset_headers, images\n"),
                (("check_fresh", "--only", "x"), "check_fresh: --only takes quickstart, test or packages (got x)\n")):
            with self.subTest(arguments=arguments):
                outcome = self.run_script(*arguments)
                self.assertEqual((outcome.returncode, outcome.stdout, outcome.stderr), (2, "", message))


if __name__ == "__main__":
    unittest.main()
