#!/usr/bin/env python3
"""Makes one training and one test text a language from the manual pages of unpacked Debian packages.

Usage: roff_text.py MAN_FOLDER OUT_FOLDER

MAN_FOLDER is a usr/share/man: man1/NAME.1.gz is English, de/man1/NAME.1.gz German. The roff markup is stripped. A page
is wholly in LANGUAGE.test.txt (100,000 characters) or LANGUAGE.train.txt (at most 700,000), by the digest of its name.
Exit codes: 0 done, 1 a language has too little text, 2 wrong usage.
"""
import glob
import gzip
import hashlib
import os
import re
import sys

LANGUAGES = ("en", "de", "es", "fr", "it", "nl", "pl", "pt_BR")
TEST_CHARACTERS = 100_000
TRAIN_CHARACTERS = 700_000
MIN_TRAIN_CHARACTERS = 200_000

# Requests whose arguments are text that a reader sees.
TEXT_REQUESTS = {"SH", "SS", "B", "I", "BR", "BI", "IB", "IR", "RB", "RI", "SM", "SB", "IP", "TQ"}
SPECIAL = {"aq": "'", "dq": '"', "bu": "*", "em": "-", "en": "-", "lq": '"', "rq": '"', "oq": "'", "cq": "'", "co": "(C)",
           "rs": "\\", "ti": "~", "ha": "^", "ga": "`", "hy": "-", "mi": "-", "->": "->", "<-": "<-", "Fo": "\u00ab", "Fc": "\u00bb"}


def special(name):
    if re.fullmatch(r"u[0-9A-F]{4,6}", name):
        return chr(int(name[1:], 16))
    return SPECIAL.get(name, "")


def without_escapes(line):
    """The line as it reads, without font changes and with special characters as themselves."""
    line = re.sub(r'\\["#].*', "", line)
    line = re.sub(r"\\f(\[[^]]*\]|\(..|.)", "", line)
    line = re.sub(r"\\s(\[[^]]*\]|[-+]?\d)", "", line)
    line = re.sub(r"\\\*(\[[^]]*\]|\(..|.)", "", line)
    line = re.sub(r"\\[mMhvwZ](\[[^]]*\]|'[^']*')", "", line)
    line = re.sub(r"\\\[([^]]*)\]", lambda match: special(match.group(1)), line)
    line = re.sub(r"\\\((..)", lambda match: special(match.group(1)), line)
    line = re.sub(r"\\[&/,|^:%ct)]", "", line)
    line = re.sub(r"\\[ ~0]", " ", line)
    line = line.replace("\\-", "-").replace("\\.", ".").replace("\\'", "'").replace("\\`", "`")
    return line.replace("\\e", "\\").replace("\\\\", "\\")


def arguments(text, joined):
    """A request's arguments as text; `joined` requests alternate fonts within a word."""
    words = re.findall(r'"((?:[^"]|"")*)"|(\S+)', text)
    return ("" if joined else " ").join((quoted or bare).replace('""', '"') for quoted, bare in words)


def page_text(roff):
    lines = []
    skipped_until = None
    for line in roff.splitlines():
        if skipped_until is not None:
            skipped_until = None if line.strip() == skipped_until else skipped_until
            continue
        if re.match(r"[.']\s*(de|am|ig)\b", line):
            skipped_until = ".."
            continue
        if line.strip() == ".TS":
            skipped_until = ".TE"
            continue
        match = re.match(r"[.']\s*([A-Za-z]+)\s*(.*)", line)
        if match:
            if match.group(1) not in TEXT_REQUESTS:
                continue
            text = re.sub(r'\\["#].*', "", match.group(2))
            line = arguments(text, joined=len(match.group(1)) == 2 and set(match.group(1)) <= set("BIR"))
        elif line.startswith((".", "'")):
            continue
        text = re.sub(r"[ \t]+", " ", without_escapes(line)).strip()
        if text:
            lines.append(text)
    return "\n".join(lines) + "\n"


def pages(man_folder, language):
    """(name, text) of every page, in the order of the names' digests."""
    folder = man_folder if language == "en" else os.path.join(man_folder, language)
    found = sorted(glob.glob(os.path.join(glob.escape(folder), "man[1-9]*", "*.gz")),
                   key=lambda path: hashlib.sha256(os.path.basename(path).encode()).digest())
    for path in found:
        if os.path.islink(path):
            continue
        with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
            roff = file.read()
        if len(roff) > 1000:  # shorter ones only refer to another page
            yield os.path.basename(path), page_text(roff)


def main(folders):
    if len(folders) != 2:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    man_folder, out_folder = folders
    for language in LANGUAGES:
        parts = {"test": "", "train": ""}
        for _, text in pages(man_folder, language):
            part = "test" if len(parts["test"]) < TEST_CHARACTERS else "train"
            parts[part] += text
            if len(parts["train"]) >= TRAIN_CHARACTERS:
                break
        if len(parts["train"]) < MIN_TRAIN_CHARACTERS:
            print(f"roff_text: {man_folder}: {len(parts['train'])} characters of {language} to train on are fewer than "
                  f"{MIN_TRAIN_CHARACTERS}", file=sys.stderr)
            return 1
        for part, most in (("test", TEST_CHARACTERS), ("train", TRAIN_CHARACTERS)):
            with open(os.path.join(out_folder, f"{language}.{part}.txt"), "w", encoding="utf-8") as file:
                file.write(parts[part][:most])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
