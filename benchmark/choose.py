"""Which runs are compared with which, and which settings a sweep chooses."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import arms
import numpy as np
from collect import Failure, Results, Run
from scipy.stats import gmean

TUNING_SEEDS = (11, 12, 13)  # choose a setting, and count for nothing else
Cell = tuple[str, str]  # task and arm


# ---- the three forms of one gradient


def form_cells(results: Results) -> dict[tuple, dict[str, Run]]:
    """The runs of the forms of one gradient, by name, by task, epsilon and seed."""
    cells: dict[tuple, dict[str, Run]] = {}
    for run in results.runs:
        arm = arms.parse(run.arm)
        if arm.base in arms.FORMS:
            cells.setdefault((run.env_id, arm.value, run.seed), {})[arm.base] = run
    return cells


def without_copies(results: Results) -> Results:
    """Without the runs of Φ and β_t whose weights are those of the clip. Where only such a copy
    logged the quantiles of its ratios, it takes the place of the clip's run."""
    kept = {run.key: run for run in results.runs}
    for forms in form_cells(results).values():
        clip = forms.pop("clip", None)
        for run in forms.values():
            if clip and run.weights_sha256 == clip.weights_sha256:
                del kept[run.key]
                if has_ratios(run) and not has_ratios(kept[clip.key]):
                    kept[clip.key] = replace(run, arm=clip.arm)
    return Results(list(kept.values()))


def with_equal_seeds(results: Results) -> Results:
    """Φ and β_t only where they have the seeds of the clip, lest means differ for no other reason;
    and all other arms."""
    kept = []
    for env_id, arm in cells_of(results):
        seeds = [run.seed for run in results.cell(env_id, arm)]
        clips = [run.seed for run in results.cell(env_id, "clip")]
        if arm not in arms.FORMS or seeds == clips or not clips:
            kept += results.cell(env_id, arm)
    return Results(kept)


# ---- parts of the results


def cells_of(results: Results) -> list[Cell]:
    """Every task and arm of which there is a run."""
    pairs = [(env_id, arm) for env_id in results.envs for arm in results.arms]
    return [pair for pair in pairs if results.cell(*pair)]


def beside_shapes(results: Results) -> Results:
    """The runs of shapes, and of the clip on the same tasks."""
    shapes = results.only(lambda run: arms.parse(run.arm).is_shape)
    names = ("clip", *shapes.arms)
    return results.only(lambda run: run.env_id in shapes.envs and run.arm in names)


# ---- the sweep


def settings_of(tuning: Results, env_id: str, base: str) -> dict[str, float]:
    """Mean return of every setting of an arm on a task, over the seeds that all of them have."""
    returns = {}
    for arm in tuning.arms:
        found = tuning.returns(env_id, arm)
        if arms.parse(arm).base == base and found:
            returns[arm] = found
    shared = set(TUNING_SEEDS).intersection(*returns.values())
    if not shared:
        return {}
    return {arm: np.mean([found[seed] for seed in shared]) for arm, found in returns.items()}


def best_setting(tuning: Results, envs: list[str], base: str) -> str | None:
    """The setting with the highest mean over tasks, each in units of the default clip's return."""
    scores: dict[str, list[float]] = {}
    for env_id in envs:
        clip = tuning.values(env_id, "clip")
        unit = abs(clip.mean()) if clip.sum() else 1.0
        for arm, mean in settings_of(tuning, env_id, base).items():
            scores.setdefault(arm, []).append(mean / unit)
    complete = {arm: sum(parts) for arm, parts in scores.items() if len(parts) == len(envs)}
    return max(complete, key=complete.get, default=None)


def swept(tuning: Results) -> dict[str, dict[str, int]]:
    """How many settings have run, by the name of the arm and by task, where they are several."""
    numbers = {}
    for base in dict.fromkeys(arms.parse(arm).base for arm in tuning.arms):
        tried = {env_id: len(settings_of(tuning, env_id, base)) for env_id in tuning.envs}
        several = {env_id: number for env_id, number in tried.items() if number > 1}
        if several:
            numbers[base] = several
    return numbers


class Choice(NamedTuple):
    """What the tuning seeds say of one arm on one task."""

    env_id: str
    base: str
    tried: int
    best: str
    single: str  # the best on all tasks it was swept on


def choose_settings(tuning: Results) -> list[Choice]:
    """The best settings, by task and arm."""
    choices = []
    for base, numbers in swept(tuning).items():
        single = best_setting(tuning, list(numbers), base)
        for env_id, tried in numbers.items():
            best = best_setting(tuning, [env_id], base)
            choices.append(Choice(env_id, base, tried, best, single or best))
    return choices


def has_value(name: str) -> bool:
    """Whether an arm is at another setting than its default."""
    arm = arms.parse(name)
    return arm.name != arm.base


def is_setting(name: str) -> bool:
    """Whether an arm is one of the paper's at another setting than its default."""
    return has_value(name) and not arms.parse(name).is_shape


# ---- arms of about one KL


def typical(numbers: list[float]) -> float:
    """Geometric mean of positive numbers, as of KLs that differ by factors."""
    return float(gmean(np.maximum(numbers, 1e-30)))


def has_ratios(run: Run) -> bool:
    """Whether a run logged the quantiles of its ratios."""
    return not np.isnan(run.curve["q50"]).all()


def matched(results: Results, env_id: str) -> list[str]:
    """The clip, and of each scalar baseline the setting whose KL on a task is nearest to its."""
    clip = results.cell(env_id, "clip")
    if not clip:
        return []
    aim = math.log(typical([run.median_kl for run in clip]))
    chosen = ["clip"]
    for base in ("kl_fixed", "kl_adaptive"):
        distance = {}
        for arm in results.arms:
            runs = results.cell(env_id, arm)
            if arms.parse(arm).base == base and runs:
                kl = typical([run.median_kl for run in runs])
                distance[arm] = abs(math.log(kl) - aim)
        if distance:
            chosen.append(min(distance, key=distance.get))
    return chosen if len(chosen) > 1 else []


# ---- all of it


class Data(NamedTuple):
    """The runs, sorted by what they are for."""

    every: Results
    failed: list[Failure]
    paper: Results  # the paper's arms on test seeds
    test: Results  # this and the next two hold the clip's runs for all three forms
    tuning: Results
    logged: Results  # with quantiles of the ratios
    panels: dict[str, list[str]]  # task: arms of about one KL


def is_test(run: Run | Failure) -> bool:
    """Whether a run has a test seed."""
    return run.seed not in TUNING_SEEDS


def sort_runs(runs: list[Run], failures: Sequence[Failure] = ()) -> Data:
    """Which run is for what."""
    every = Results(runs)
    distinct = without_copies(every)
    logged = distinct.only(has_ratios)
    failed = {failure.key: failure for failure in failures}  # the last of each
    for run in runs:
        failed.pop(run.key, None)
    panels = {env_id: matched(logged, env_id) for env_id in logged.envs}
    return Data(
        every=every,
        failed=sorted(failed.values(), key=lambda failure: failure.key),
        paper=every.only(lambda run: is_test(run) and run.arm in arms.PAPER),
        test=distinct.only(is_test),
        tuning=distinct.only(lambda run: not is_test(run)),
        logged=logged,
        panels={env_id: names for env_id, names in panels.items() if names},
    )
