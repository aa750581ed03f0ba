"""Copy what the four scripts share from one of them into the other three.

    python tests/sync_siblings.py ppo_clip_continuous.py

Edit one script, run this, and look at `git diff`. Each script keeps what stands between its own
markers. The region "policy loss" is in all four; the regions "scalar beta" are in one script only
and go back to behind the line that they stood behind.
"""

import re
import sys
from pathlib import Path

NAMES = [f"ppo_{form}_continuous.py" for form in ("clip", "phi", "klip", "kl_scalar")]
POLICY_LOSS = re.compile(
    r"(?<=    # --- policy loss ---\n).*?(?=    # --- end of policy loss ---\n)", re.DOTALL
)
SCALAR_BETA = re.compile(
    r"^ *# --- scalar beta ---\n.*?^ *# --- end of scalar beta ---\n", re.DOTALL | re.MULTILINE
)


def shared(text: str) -> str:
    """A script without its marked regions; of the policy loss the two markers stay.

    Raises ValueError unless there is one policy loss and the markers come in pairs.
    """
    if len(POLICY_LOSS.findall(text)) != 1:
        raise ValueError("needs one policy loss between its two markers")
    rest = SCALAR_BETA.sub("", POLICY_LOSS.sub("", text))
    if rest.count("# ---") != 2:
        raise ValueError("has a marker without its partner")
    return rest


def merge(source: str, target: str) -> str:
    """The shared text of `source` with the regions of `target`.

    Raises ValueError if the markers of either are broken or a region has no certain place.
    """
    shared(target)
    text = POLICY_LOSS.sub(lambda _: POLICY_LOSS.findall(target)[0], shared(source))
    for region in SCALAR_BETA.finditer(target):
        before = target[: region.start()].splitlines(keepends=True)[-1]
        lines = text.splitlines(keepends=True)
        if lines.count(before) != 1:
            raise ValueError(f"cannot place the region that stood after the line {before.strip()}")
        lines.insert(lines.index(before) + 1, region[0])
        text = "".join(lines)
    return text


def main(path: str) -> None:
    """Copy the shared text of the script at `path` into its three siblings in the same folder.

    Exits with code 2 and one line, and writes nothing, if it cannot.
    """
    source, new, target = Path(path), {}, Path(path)
    try:
        if source.name not in NAMES:
            raise ValueError(f"is none of {', '.join(NAMES)}")
        for target in (source.with_name(name) for name in NAMES):
            new[target] = merge(source.read_text(), target.read_text())
    except (OSError, ValueError) as error:
        print(f"sync_siblings.py: error: {target.name}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    for target, text in new.items():
        target.write_text(text)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("usage: python tests/sync_siblings.py SCRIPT", file=sys.stderr)
        raise SystemExit(2)
    main(sys.argv[1])
