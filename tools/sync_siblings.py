"""Copy what the four scripts share from one of them into the other three.

    python tools/sync_siblings.py ppo_clip_continuous.py

Edit one script, run this, and look at `git diff`. Each script keeps what stands between its own
markers (see markers.py). The regions "scalar beta" are in one script only; each goes back to behind
the line that it stood behind.
"""

import sys
from pathlib import Path
from typing import NoReturn

from markers import SCALAR_BETA, policy_loss, shared, with_policy_loss

NAMES = [f"ppo_{form}_continuous.py" for form in ("clip", "phi", "klip", "kl_scalar")]


def fail(message: str) -> NoReturn:
    """Print one line and exit with code 2."""
    print(f"sync_siblings.py: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def merge(source: str, target: str) -> str:
    """The shared text of `source` with the regions of `target`.

    Raises ValueError if the markers of either are broken or a region has no certain place.
    """
    shared(target)
    text = with_policy_loss(shared(source), policy_loss(target))
    for region in SCALAR_BETA.finditer(target):
        before = target[: region.start()].splitlines(keepends=True)[-1]
        lines = text.splitlines(keepends=True)
        if lines.count(before) != 1:
            raise ValueError(f"cannot place the region that stood after the line {before.strip()}")
        lines.insert(lines.index(before) + 1, region[0])
        text = "".join(lines)
    return text


def main(path: Path) -> None:
    """Copy the shared text of the script at `path` into its three siblings in the same folder.

    Writes nothing if it cannot.
    """
    if path.name not in NAMES:
        fail(f"{path.name} is none of {', '.join(NAMES)}")
    new = {}
    for name in NAMES:
        target = path.with_name(name)
        try:
            new[target] = merge(path.read_text(), target.read_text())
        except (OSError, ValueError) as error:
            fail(f"{name}: {error}")
    for target, text in new.items():
        target.write_text(text)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        fail("usage: python tools/sync_siblings.py SCRIPT")
    if sys.argv[1].endswith("/"):
        fail(f"{sys.argv[1]} is not the name of a file")
    main(Path(sys.argv[1]))
