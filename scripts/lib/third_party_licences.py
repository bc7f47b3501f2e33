"""Prints the licences of everything that the binary is built of, with their texts: most of them ask for that.

usage: third_party_licences.py TARGET

The texts are those that the crates bring. One that names a licence and brings no text is a failure, unless the licence
is one whose text is the same everywhere and is among those that other crates bring.
"""

import html
import json
import pathlib
import re
import subprocess
import sys

TARGET = sys.argv[1]
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BRINGS = re.compile(r"^(licen[cs]e|copying|copyright|notice|unlicen[cs]e)([-._].*)?$", re.IGNORECASE)
# Licences without a name of the author in them: any copy does.
SAME_EVERYWHERE = {"Apache-2.0": "www.apache.org/licenses", "BSL-1.0": "Boost Software License"}
LINE = "=" * 100


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout


def shipped():
    """The crates that the binary holds, the service's own packages aside."""
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", TARGET]
    metadata = json.loads(output(*command))
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    waiting, seen = [metadata["resolve"]["root"]], set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        for dependency in nodes[node]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                waiting.append(dependency["pkg"])
    crates = [packages[node] for node in seen if packages[node]["source"]]
    return sorted(crates, key=lambda crate: (crate["name"], crate["version"]))


def texts_of(crate):
    folder = pathlib.Path(crate["manifest_path"]).parent
    files = sorted(path for path in folder.iterdir() if BRINGS.match(path.name))
    files += sorted(path for path in folder.glob("LICENSES/*") if path.is_file())
    return [tidy(path) for path in files if path.is_file()]


def tidy(path):
    lines = path.read_text(encoding="utf-8", errors="replace").replace("\f", "").splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def names_of(expression):
    return set(re.findall(r"[A-Za-z0-9.-]+", expression.replace("/", " OR "))) - {"OR", "AND", "WITH"}


def mit(authors):
    """The licence's text, with the authors whom the crate names."""
    text = tidy(ROOT / "LICENSE")
    return re.sub(r"^Copyright .*$", "Copyright (c) " + (authors or "the authors"), text, count=1, flags=re.MULTILINE)


def gather():
    """Each text, and which crates it goes with. Texts that differ in white space alone are one."""
    texts, without, written = {}, [], {}
    for crate in shipped():
        title = f"{crate['name']} {crate['version']} ({crate['license'] or 'see below'})"
        found = texts_of(crate)
        for text in found:
            text = written.setdefault(" ".join(text.split()), text)
            texts.setdefault(text, []).append(title)
        if not found:
            without.append((title, crate))
    for title, crate in without:
        names = names_of(crate["license"] or "")
        if "MIT" in names:
            texts.setdefault(mit(", ".join(crate["authors"])), []).append(title)
            continue
        mark = next((mark for name, mark in SAME_EVERYWHERE.items() if name in names), None)
        text = next((text for text in texts if mark and mark in text[:2000]), None)
        if text is None:
            sys.exit(f"{title} brings no text of its licence")
        texts[text].append(title)
    return texts


def runtime():
    """What is linked beside the crates: Rust's standard library, and the C library."""
    page = pathlib.Path(output("rustc", "--print", "sysroot").strip()) / "share/doc/rust/COPYRIGHT-library.html"
    if page.exists():
        text = html.unescape(re.sub(r"<style.*?</style>|<[^>]*>", "", tidy(page), flags=re.DOTALL))
        text = "\n".join(line for line in text.splitlines() if line.strip())
    else:  # an installation of Rust without its documentation
        text = mit("The Rust Project Developers (see https://thanks.rust-lang.org)")
    yield "the Rust standard library (MIT OR Apache-2.0)", text
    if TARGET.endswith("-gnu"):
        note = (
            "The GNU C library is linked statically. Its licence asks that you can link this program with another\n"
            "version of it: the source of this program is free (MIT), and its scripts/build does that.\n\n"
        )
        licence = pathlib.Path("/usr/share/common-licenses/LGPL-2.1")
        if not licence.exists():
            sys.exit(f"{licence} is missing: it is in Debian's package base-files; build on Debian")
        yield "the GNU C library (LGPL-2.1-or-later)", note + tidy(licence)
    else:
        yield "the musl C library (MIT)", mit("Rich Felker, et al.")


def main():
    print("persistent-cache-service holds the following, each under the licence below it.")
    for text, titles in sorted(gather().items(), key=lambda entry: entry[1][0]):
        print("\n" + LINE + "\n" + "\n".join(titles) + "\n" + LINE + "\n\n" + text)
    for title, text in runtime():
        print("\n" + LINE + "\n" + title + "\n" + LINE + "\n\n" + text)


main()
