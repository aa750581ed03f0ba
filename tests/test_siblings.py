"""The four scripts are one text outside the marked regions, and the command that keeps them so."""

import difflib
import itertools
import shutil

import pytest
from conftest import FORMS, ROOT, VARIANTS, changed, script, start
from markers import SCALAR_BETA, shared, with_policy_loss

TEXTS = {variant: script(variant).read_text() for variant in VARIANTS}
SYNC = ROOT / "tools" / "sync_siblings.py"


def test_the_rest_is_byte_identical():
    for variant in VARIANTS:
        data = script(variant).read_bytes()
        assert shared(data.decode()).encode() == shared(TEXTS["clip"]).encode(), variant
        assert bool(SCALAR_BETA.search(TEXTS[variant])) == (variant == "kl_scalar")


def test_drift_is_seen():
    text = TEXTS["phi"].replace("gamma: float = 0.99", "gamma: float = 0.98")
    assert shared(text) != shared(TEXTS["phi"])


@pytest.mark.parametrize("one, other", [*itertools.combinations(FORMS, 2)])
def test_two_forms_differ_in_one_hunk(one, other):
    lines = [TEXTS[form].splitlines() for form in (one, other)]
    hunks = [h for h in difflib.SequenceMatcher(None, *lines).get_opcodes() if h[0] != "equal"]
    assert len(hunks) == 1
    for text, (first, last) in zip(lines, (hunks[0][1:3], hunks[0][3:5]), strict=True):
        assert text.index("    # --- policy loss ---") < first
        assert last <= text.index("    # --- end of policy loss ---")


@pytest.fixture
def copies(tmp_path):
    """A folder with the four scripts."""
    for variant in VARIANTS:
        shutil.copy(script(variant), tmp_path)
    return tmp_path


def sync(folder, variant):
    """Run the command on a copy; return its exit code, its error and the four texts after it."""
    done = start([SYNC, script(variant).name], folder)
    texts = {v: (folder / script(v).name).read_text() for v in VARIANTS}
    return done.returncode, done.stderr, texts


EDITS = {
    "none": ("class Agent", "class Agent"),
    "a default": ("gae_lambda: float = 0.95", "gae_lambda: float = 0.9"),
    "two lines more": ("    norm_adv: bool", "    more: int = 1\n\n    norm_adv: bool"),
    "a line less": ("        writer.flush()\n", ""),
    "backslashes": ("class Agent", "X = r'\\1\\g<0>\\'\n\n\nclass Agent"),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_sync_copies_an_edit_to_all(copies, variant, edit):
    (copies / script(variant).name).write_text(changed(variant, edit))
    assert sync(copies, variant) == (0, "", {v: changed(v, edit) for v in VARIANTS})


def test_sync_leaves_the_policy_losses_alone(copies):
    path = copies / script("klip").name
    path.write_text(with_policy_loss(TEXTS["klip"], "    objective = 0 * ratio\n"))
    assert sync(copies, "klip")[2] == TEXTS | {"klip": path.read_text()}


BEFORE = next(line for line in TEXTS["clip"].splitlines() if "    target_kl:" in line)
REFUSED = {
    "the place is lost": (BEFORE, "    other: int = 1"),
    "the place is double": (BEFORE, f"{BEFORE}\n{BEFORE}"),
    "a marker is missing": ("    # --- policy loss ---\n", ""),
    "a partner is missing": (BEFORE, f"    # --- scalar beta ---\n{BEFORE}"),
}


@pytest.mark.parametrize("edit", REFUSED.values(), ids=REFUSED)
def test_sync_refuses_with_one_line_and_writes_nothing(copies, edit):
    (copies / script("clip").name).write_text(changed("clip", edit))
    code, error, after = sync(copies, "clip")
    assert code == 2 and error.count("\n") == 1
    assert error.startswith("sync_siblings.py: error: ppo_")
    assert after == TEXTS | {"clip": changed("clip", edit)}


@pytest.mark.parametrize("name", ["ppo_clip.py", "ppo_clip_continuous.py/"])
def test_sync_wants_one_of_the_four(copies, name):
    (copies / "ppo_clip.py").write_text(TEXTS["clip"])
    done = start([SYNC, name], copies)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
