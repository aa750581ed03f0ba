"""The marked regions of the scripts: the code between two comments, in which scripts differ.

Every script has one region "policy loss". The scalar script has regions "scalar beta" besides.
"""

import re

POLICY_LOSS = re.compile(
    r"(?<=    # --- policy loss ---\n).*?(?=    # --- end of policy loss ---\n)", re.DOTALL
)
SCALAR_BETA = re.compile(
    r"^ *# --- scalar beta ---\n.*?^ *# --- end of scalar beta ---\n", re.DOTALL | re.MULTILINE
)
MARKER = re.compile(r"^ *# --- (?:end of )?(?:policy loss|scalar beta) ---$", re.MULTILINE)


def policy_loss(script: str) -> str:
    """What stands between the two markers of the policy loss; ValueError unless there is one."""
    found = POLICY_LOSS.findall(script)
    if len(found) != 1:
        raise ValueError("needs one policy loss between its two markers")
    return found[0]


def with_policy_loss(script: str, block: str) -> str:
    """The script with `block` between the two markers of its policy loss."""
    policy_loss(script)  # is there one to exchange?
    return POLICY_LOSS.sub(lambda _: block, script)


def shared(script: str) -> str:
    """The script without its regions; of the policy loss the two markers stay.

    Raises ValueError unless there is one policy loss and the markers come in pairs.
    """
    rest = SCALAR_BETA.sub("", with_policy_loss(script, ""))
    if len(MARKER.findall(rest)) != 2:
        raise ValueError("has a marker without its partner")
    return rest
