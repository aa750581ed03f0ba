"""Print a PPO script with another policy loss: the KLip script with its marked block exchanged.

    python shapes/insert.py                                        # lists the names
    mkdir -p runs
    python shapes/insert.py spo > runs/ppo_spo_continuous.py
    python runs/ppo_spo_continuous.py --env-id Hopper-v4

A block is a file. Those in shapes/rules are rules to train with, those in shapes/exercises show
what breaks. A file added to either folder is a name of its own.
"""

import signal
import sys
from pathlib import Path
from textwrap import indent
from typing import NoReturn

from markers import with_policy_loss

SHAPES = Path(__file__).resolve().parent
SCRIPT = SHAPES.parent / "ppo_klip_continuous.py"


def names() -> list[str]:
    """The rules one can train with, sorted."""
    return sorted(path.stem for path in SHAPES.glob("rules/*.py"))


def exercises() -> list[str]:
    """The exercises, sorted."""
    return sorted(path.stem for path in SHAPES.glob("exercises/*.py"))


def block(name: str) -> str:
    """The policy loss of that name as its file has it: comments, then beta, then objective."""
    folder = "exercises" if name in exercises() else "rules"
    return (SHAPES / folder / f"{name}.py").read_text()


def compose(name: str) -> str:
    """The whole script with the policy loss of that name."""
    return with_policy_loss(SCRIPT.read_text(), indent(block(name), "    "))


def fail(message: str) -> NoReturn:
    """Print one line and exit with code 2."""
    print(f"insert.py: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def list_names() -> None:
    """Print every name with the first line of its block."""
    for title, found in (("rules", names()), ("exercises", exercises())):
        print(f"{title}:")
        for name in found:
            formula = block(name).splitlines()[0].removeprefix("# ")
            print(f"  {name:16} {formula}")


def main(arguments: list[str]) -> None:
    """List the names, or print the script of the one given."""
    if arguments in ([], ["--help"], ["-h"]):
        print("usage: python shapes/insert.py NAME > runs/ppo_NAME_continuous.py\n")
        list_names()
        return
    if len(arguments) > 1:
        fail("takes one NAME")
    name = arguments[0]
    known = names() + exercises()
    if name not in known:
        fail(f"NAME must be one of {', '.join(known)}, not {name}")
    print(compose(name), end="")


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # not on Windows
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end in silence when head has enough
    main(sys.argv[1:])
