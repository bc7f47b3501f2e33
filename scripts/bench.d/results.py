"""The complete results of the four long runs, which scripts/bench --readme writes into the documentation."""

import json

# Each leaves NAME.json in target/results.
COMMANDS = {"bench": "scripts/bench", "growth": "scripts/bench --growth", "chaos": "scripts/chaos", "fuzz": "scripts/fuzz"}


def keep(directory, name, result):
    """Keeps a complete result until the next one."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps(result, indent=1))


def all_of_one_revision(directory):
    """The four results by name. Ends the program if one is missing, or if they are not of the same unchanged revision."""
    files = {name: directory / f"{name}.json" for name in COMMANDS}
    missing = [name for name, file in files.items() if not file.exists()]
    if missing:
        raise SystemExit(f"no complete result in {directory} of: {', '.join(COMMANDS[name] for name in missing)}. Run it first")
    found = {name: json.loads(file.read_text()) for name, file in files.items()}
    revisions = {name: result["revision"] for name, result in found.items()}
    if len(set(revisions.values())) > 1 or any(" " in revision for revision in revisions.values()):
        listed = "".join(f"\n  {COMMANDS[name]}: {revision}" for name, revision in revisions.items())
        raise SystemExit(f"the results are not of one committed revision; run those of another one again:{listed}")
    return found
