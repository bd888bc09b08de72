#!/usr/bin/env python3
"""Finds tests that were skipped, or not run, without a reason that the list of expected skips knows.

Usage: unexpected_skips.py EXPECTED_SKIPS JUNIT_REPORT
Exit codes: 0 none, 1 some (each named on stderr), 2 a file cannot be read.
"""
import ctypes.util
import glob
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def is_absent(*names):
    """True where none of the files is in $FEDMOE_DATA_DIR, else in ../shared/data."""
    data = os.environ.get("FEDMOE_DATA_DIR", os.path.join(ROOT, "..", "shared", "data"))
    return lambda: not any(os.path.exists(os.path.join(data, name)) for name in names)


def reference_blas_is_absent():
    return not glob.glob("/usr/lib/*/blas/libblas.so.3")


def cuda_is_absent():
    return not glob.glob("/dev/nvidia[0-9]*") or ctypes.util.find_library("torch_cuda") is None


def namespaces_cannot_be_used():
    return subprocess.run([os.path.join(ROOT, "tests/e2e/networks.py")], stdout=subprocess.DEVNULL, check=False).returncode != 0


CONDITIONS = {
    "no-mnist": is_absent("mnist/train-images-idx3-ubyte", "mnist/train-images-idx3-ubyte.gz"),
    "no-cifar10": is_absent("cifar10/cifar10-jpeg.tar.xz"),
    "no-shakespeare": is_absent("shakespeare/input.txt"),
    "no-languages": is_absent("languages/en.train.txt"),
    "no-namespaces": namespaces_cannot_be_used,
    "no-cuda": cuda_is_absent,
    "no-reference-blas": reference_blas_is_absent,
    "root": lambda: os.geteuid() == 0,
}


def read_expected(path):
    """The patterns whose condition holds now."""
    patterns = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            fields = line.split(None, 2)
            if len(fields) != 3 or fields[1] not in CONDITIONS:
                raise ValueError(f"{path}:{number}: want a pattern, a condition "
                                 f"({', '.join(sorted(CONDITIONS))}) and a reason")
            if CONDITIONS[fields[1]]():
                patterns.append(re.compile(fields[0]))
    return patterns


def skipped_tests(path):
    """(name, why) of every test in CTest's report that was not run to an end. A report without tests is an error."""
    cases = list(ElementTree.parse(path).getroot().iter("testcase"))
    if not cases:
        raise ValueError(f"{path}: no test in it")
    for case in cases:
        if case.get("status") in ("run", "fail"):
            continue
        output = case.findtext("system-out") or ""
        reason = re.search(r"Skipped\n(.*)", output) or re.search(r"()", "")
        yield case.get("name"), reason.group(1).strip() or case.get("status")


def main(arguments):
    if len(arguments) != 2:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    try:
        expected = read_expected(arguments[0])
        skipped = list(skipped_tests(arguments[1]))
    except (OSError, ValueError, re.error, ElementTree.ParseError) as error:
        print(f"unexpected_skips: {error}", file=sys.stderr)
        return 2
    bad = [(name, why) for name, why in skipped
           if not any(pattern.fullmatch(name) for pattern in expected)]
    for name, why in bad:
        print(f"{arguments[0]}: {name} was skipped ({why}), and no line says that it may be", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
