"""Print a PPO script with another policy loss: the marked block of a script exchanged.

    python rules/insert.py                                        # lists the names
    mkdir -p runs
    python rules/insert.py spo > runs/ppo_spo_continuous.py
    python runs/ppo_spo_continuous.py --env-id Hopper-v4

A block is a file. Those in rules/ are rules to train with, those in rules/exercises show what
breaks; they go into the KLip script. Those in rules/mechanism ask why one beta fails on Ant: clip_*
go into the clip script, kl_* into the scalar one. A file added to a folder is a name of its own.

A file of rules/mechanism may also exchange whole lines elsewhere in the script:

    # instead of: LINE
    # put: LINE

A LINE that does not occur exactly once is an error. More lines to put may follow. A file without
code leaves the script's own block as it is, below the file's comments.
"""

import csv
import re
import signal
import sys
from collections import defaultdict
from pathlib import Path
from textwrap import fill, indent
from typing import NoReturn

import numpy as np

RULES = Path(__file__).resolve().parent
ROOT = RULES.parent
SCRIPT = ROOT / "ppo_klip_continuous.py"
CURVES = ROOT / "benchmark/results/curves.csv"
PROGRAMS = ("draw", "identity", "insert")
MARKED = re.compile(
    r"(?<=    # --- policy loss ---\n).*?(?=    # --- end of policy loss ---\n)", re.DOTALL
)
EXCHANGE = re.compile(r"^# instead of: (.*)\n((?:# put: .*\n)+)", re.MULTILINE)
SCHEDULE = "THE CLIP'S SCHEDULE"  # stands for the numbers in a line to put


def names() -> list[str]:
    """The rules one can train with, sorted."""
    return sorted(path.stem for path in RULES.glob("*.py") if path.stem not in PROGRAMS)


def exercises() -> list[str]:
    """The exercises, sorted."""
    return sorted(path.stem for path in RULES.glob("exercises/*.py"))


def mechanism() -> list[str]:
    """The blocks that ask why one beta fails on Ant, sorted."""
    return sorted(path.stem for path in RULES.glob("mechanism/*.py"))


def block(name: str) -> str:
    """The policy loss of that name as its file has it: comments, then code."""
    folders = {"exercises": exercises(), "mechanism": mechanism()}
    folder = next((folder for folder, found in folders.items() if name in found), ".")
    return (RULES / folder / f"{name}.py").read_text(encoding="utf-8")


def schedule() -> str:
    """log sigma of the clip on Ant-v4 before each iteration, the mean of seeds 1 to 10, as code.

    It follows from the entropy in benchmark/results/curves.csv, a mean over some iterations in each
    row. Raises ValueError until all ten runs are there.
    """
    actions, steps = 8, 2048
    entropy = defaultdict(dict)  # by number of iterations, then seed
    if CURVES.exists():
        with open(CURVES, encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if (row["env_id"], row["arm"]) == ("Ant-v4", "clip") and int(row["seed"]) <= 10:
                    entropy[int(row["step"]) // steps][row["seed"]] = float(row["entropy"])
    if not entropy or min(map(len, entropy.values())) < 10:
        raise ValueError("needs Ant-v4, clip, seeds 1 to 10 in benchmark/results/curves.csv")
    ends = sorted(entropy)
    middles = np.convolve([0, *ends], [0.5, 0.5], "valid")  # in updates done
    means = np.array([np.mean(list(entropy[end].values())) for end in ends])
    logstds = means / actions - 0.5 * np.log(2 * np.pi * np.e)
    found = np.interp(np.arange(ends[-1]), [0, *middles], [0, *logstds])
    return fill(", ".join(f"{x:.3f}" for x in found), 96)


def exchange_lines(script: str, text: str) -> str:
    """The script with the lines exchanged that a block's comments name."""
    for old, new in EXCHANGE.findall(text):
        found = re.findall(rf"^( *){re.escape(old)}$", script, re.MULTILINE)
        if len(found) != 1:
            raise ValueError(f"the line {old!r} must occur once, not {len(found)} times")
        put = re.sub(r"^# put: ?", "", new, flags=re.MULTILINE)
        if SCHEDULE in put:
            put = put.replace(SCHEDULE, f"\n{indent(schedule(), '    ')},\n")
        script = script.replace(f"\n{found[0]}{old}\n", f"\n{indent(put, found[0])}")
    return script


def compose(name: str) -> str:
    """The whole script with the block of that name; ValueError if the script has no place for it."""
    script, text = SCRIPT, block(name)
    if name in mechanism():
        script = ROOT / f"ppo_{'clip' if name.startswith('clip_') else 'kl_scalar'}_continuous.py"
    source = exchange_lines(script.read_text(encoding="utf-8"), text)
    text = indent(EXCHANGE.sub("", text), "    ")
    (own,) = MARKED.findall(source)
    if all(line.lstrip().startswith("#") for line in text.splitlines()):
        text += own
    return MARKED.sub(lambda _: text, source)


def fail(message: str) -> NoReturn:
    """Print one line and exit with code 2."""
    print(f"insert.py: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def main(arguments: list[str]) -> None:
    """List the names, or print the script of the one given."""
    groups = {"rules": names(), "exercises": exercises(), "mechanism": mechanism()}
    if arguments in ([], ["--help"], ["-h"]):
        print("usage: python rules/insert.py NAME > runs/ppo_NAME_continuous.py\n")
        for title, found in groups.items():
            print(f"{title}:")
            for name in found:
                print(f"  {name:16} {block(name).splitlines()[0].removeprefix('# ')}")
        return
    if len(arguments) > 1:
        fail("takes one NAME")
    known = [name for found in groups.values() for name in found]
    if arguments[0] not in known:
        fail(f"NAME must be one of {', '.join(known)}, not {arguments[0]}")
    try:
        print(compose(arguments[0]), end="")
    except ValueError as error:
        fail(f"{arguments[0]}: {error}")


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # not on Windows
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end in silence when head has enough
    main(sys.argv[1:])
