"""Every rule in rules/ is what its paper says, and its script is the KLip script but for the block;
a block of the mechanism changes what it says and no more."""

import difflib
import re
from functools import partial
from pathlib import Path
from textwrap import dedent

import draw
import identity
import insert
import numpy as np
import pytest
import torch
from conftest import ROOT, changed, minibatch, script, start
from insert import block, compose, exercises, mechanism, names
from markers import policy_loss, shared, with_policy_loss
from torch.distributions import Normal, kl_divergence

KLIP = script("klip").read_text()
ALL = names() + exercises()
INSERT = ROOT / "rules" / "insert.py"
QUICK = {"env_id": "Hopper-v4", "num_steps": 64, "num_minibatches": 2, "total_timesteps": 128}


def killed(w, a, eps):
    """The clip's kill set by its definition."""
    return ((w > 1 + eps) & (a > 0)) | ((w < 1 - eps) & (a < 0))


def clipped(w, a, low, high):
    """The surrogate of Schulman et al. 2017 with a band of two edges."""
    return torch.min(w * a, w.clamp(low, high) * a)


def masked(w, a, keep):
    """The surrogate of the samples to keep."""
    return torch.where(keep, w * a, 0.0)


# What follows is each rule as published: the objective of one sample, to be maximised, of its
# ratio w, advantage a, the epsilon and the KL of its state.


def dpo(w, a, eps, kl):
    """As in its first author's PureJaxRL."""
    x = (w - 1) * a
    y = w.log() * a
    good = torch.relu(x - 2 * torch.tanh(x / 2))
    bad = torch.relu(y - 0.6 * torch.tanh(y / 0.6))
    return w * a - torch.where(a >= 0, good, bad)


def dual_clip(w, a, eps, kl):
    single = clipped(w, a, 1 - eps, 1 + eps)
    return torch.where(a < 0, torch.max(single, 3 * a), single)


def rollback(w, a, eps, kl):
    """A slope of -alpha beyond the edge, and no jump there."""
    good = torch.where(w <= 1 + eps, w, -0.3 * w + 1.3 * (1 + eps))
    bad = torch.where(w >= 1 - eps, w, -0.3 * w + 1.3 * (1 - eps))
    return torch.where(a > 0, good, bad) * a


def sapo(w, a, eps, kl):
    """With the authors' tau scaled so that the gate is half open at the edge."""
    tau = torch.where(a > 0, 1.0, 1.05) * 1.763 / eps
    return torch.sigmoid(tau * (w - 1)) * 4 / tau * a


def soft(w, a, eps, kl):
    """By its coefficient: w A up to the edge, then down to 0 over a width of 0.2."""
    past = torch.where(a > 0, w - (1 + eps), (1 - eps) - w)
    gate = (1 - past / 0.2).clamp(0, 1)
    return (w * a * gate).detach() * w.log()


PUBLISHED = {
    "cispo": lambda w, a, eps, kl: w.clamp(1 - eps, 1 + eps).detach() * a * w.log(),
    "cispo_upper": lambda w, a, eps, kl: w.clamp(max=1 + eps).detach() * a * w.log(),
    "clip_higher": lambda w, a, eps, kl: clipped(w, a, 1 - eps, 1 + 1.4 * eps),
    "dpo": dpo,
    "dppo": lambda w, a, eps, kl: masked(w, a, (kl <= eps**2 / 2) | ((w - 1) * a <= 0)),
    "dual_clip": dual_clip,
    "one_sided": lambda w, a, eps, kl: masked(w, a, (w <= 1 + eps) | (a < 0)),
    "rollback": rollback,
    "sapo": sapo,
    "soft": soft,
    "spo": lambda w, a, eps, kl: w * a - a.abs() * (w - 1) ** 2 / (2 * eps),
    "two_sided": lambda w, a, eps, kl: masked(w, a, (w - 1).abs() <= eps),
    "epsilon_infinity": lambda w, a, eps, kl: w * a,
    "epsilon_zero": lambda w, a, eps, kl: masked(w, a, (w - 1) * a <= 0),
    "no_stop_gradient": lambda w, a, eps, kl: w * a - masked(w, a, killed(w, a, eps)) * w.log(),
}
RATIOS = [0.02, 0.3, 0.55, 0.65, 0.69, 0.72, 0.79, 0.81, 0.89, 0.91, 0.97]
RATIOS += [1.03, 1.09, 1.11, 1.13, 1.19, 1.21, 1.27, 1.29, 1.35, 1.43, 1.6, 2.9, 3.1, 8.0]
ADVANTAGES = [-3.0, -1.0, -0.1, 0.1, 1.0, 3.0]
KLS = [0.0, 0.01, 0.03, 1.0]


MODULES = {name: draw.load(compose(name)) for name in ALL}
MODULES["klip"] = draw.load(KLIP)
samples = partial(minibatch, n=300, seed=3, change=0.1)  # some that the dual clip stops, too
GRID = torch.cartesian_prod(torch.tensor(RATIOS), torch.tensor(ADVANTAGES))


def coefficient(name: str, eps: float) -> torch.Tensor:
    """The coefficient of grad log pi over grid and KL, by autograd on the script's loss."""
    ratio, advantage = GRID.numpy().T
    parts = [draw.coefficient(MODULES[name], ratio, advantage, eps, kl) for kl in KLS]
    return torch.tensor(np.concatenate(parts)).double()


def published(name: str, eps: float) -> torch.Tensor:
    """The same of the published objective, in float64."""
    ratio, advantage = GRID.double().T
    parts = []
    for kl in KLS:
        logprob = ratio.log().requires_grad_()
        objective = PUBLISHED[name](logprob.exp(), advantage, eps, kl)
        parts.append(torch.autograd.grad(objective.sum(), logprob)[0])
    return torch.cat(parts)


def agree(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two coefficients are the same but for float32's rounding."""
    return torch.allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("eps", [0.1, 0.2, 0.3])
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_coefficient_is_the_published_one(name, eps):
    assert agree(coefficient(name, eps), published(name, eps))


def test_every_rule_is_looked_up():
    """But for two: one that takes another gradient, below, and one that is the clip."""
    assert set(PUBLISHED) | {"closed_form_kl", "dropped"} == set(ALL)
    assert torch.equal(coefficient("dropped", 0.2), coefficient("klip", 0.2))


@pytest.mark.parametrize("name", [*PUBLISHED, "klip"])
def test_no_rule_agrees_with_another_one(name):
    ours = coefficient(name, 0.2)
    for other in set(PUBLISHED) - {name}:
        assert not agree(ours, published(other, 0.2)), other


def gradient(module, **args) -> torch.Tensor:
    """The gradient of a script's loss with respect to all weights, on that minibatch."""
    agent, batch = samples(module)
    loss, _ = module.ppo_loss(agent, module.Args(clip_vloss=False, **args), batch)
    grads = torch.autograd.grad(loss, list(agent.parameters()))
    return torch.cat([grad.flatten() for grad in grads])


LIMITS = {
    "soft": ("width = 0.2", "width = 0.0"),
    "rollback": ("alpha = 0.3", "alpha = 0.0"),
    "dual_clip": ("c = 3.0", "c = math.inf"),
    "clip_higher": ("1.4 * args.clip_coef", "args.clip_coef"),
}


@pytest.mark.parametrize("name", LIMITS)
def test_in_its_limit_a_rule_is_the_clip_to_the_bit(name):
    before, after = LIMITS[name]
    text = compose(name)
    assert text.count(before) == 1
    clip = gradient(MODULES["klip"])
    assert torch.equal(gradient(draw.load(text.replace(before, after))), clip)
    assert not torch.equal(gradient(MODULES[name]), clip)


@pytest.mark.parametrize("name, epsilon", [("epsilon_zero", 1e-12), ("epsilon_infinity", 1e12)])
def test_the_limits_of_epsilon_are_the_clip_there_to_the_bit(name, epsilon):
    limit = gradient(MODULES["klip"], clip_coef=epsilon)
    assert torch.equal(gradient(MODULES[name]), limit)
    assert not torch.equal(gradient(MODULES["klip"]), limit)


def ratio_and_kl(agent, batch) -> tuple:
    """The ratio and the KL(old || new) of every sample's state, [N] both."""
    mean = agent.actor_mean(batch.obs)
    old_policy = Normal(batch.old_mean, batch.old_logstd.exp())
    new_policy = Normal(mean, agent.actor_logstd.exp())
    ratio = (agent.logprob(mean, batch.actions) - batch.old_logprob).exp()
    return ratio, kl_divergence(old_policy, new_policy).sum(-1)


def assert_loss_maximises(objective, module, agent, batch, **args):
    """The script's loss has, for the actor, the gradient of minus the mean objective."""
    actor = [agent.actor_logstd, *agent.actor_mean.parameters()]
    loss, _ = module.ppo_loss(agent, module.Args(**args), batch)
    ours = torch.autograd.grad(loss, actor)
    theirs = torch.autograd.grad(-objective.mean(), actor)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_dppo_gates_by_the_whole_kl_of_a_state():
    module = MODULES["dppo"]
    agent, batch = samples(module)
    ratio, kl = ratio_and_kl(agent, batch)
    threshold = kl.median().item()  # kills half of those that move away
    keep = (kl <= threshold) | ((ratio - 1) * batch.advantages <= 0)
    objective = masked(ratio, batch.advantages, keep)
    epsilon = (2 * threshold) ** 0.5 * 1.0001
    assert_loss_maximises(objective, module, agent, batch, clip_coef=epsilon, clip_vloss=False)


def test_closed_form_kl_takes_the_gradient_of_the_whole_kl():
    module = MODULES["closed_form_kl"]
    agent, batch = samples(module)
    ratio, kl = ratio_and_kl(agent, batch)
    beta = -masked(ratio, batch.advantages, killed(ratio, batch.advantages, 0.2)).detach()
    assert_loss_maximises(ratio * batch.advantages - beta * kl, module, agent, batch)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_the_picture_of_the_identity_shows_it(advantage):
    ratios = np.linspace(0.05, 2.5, 60)
    kill = ratios > 1.2 if advantage > 0 else ratios < 0.8
    modules = (identity.clip, identity.phi, identity.klip)
    values, curves = zip(*[identity.curve(module, advantage, ratios) for module in modules])
    _, scalar = identity.curve(identity.kl_scalar, advantage, ratios, 1.0)
    assert (curves[0] == curves[1]).all() and (curves[0] == curves[2]).all()
    np.testing.assert_allclose(curves[0], np.where(kill, 0, advantage * ratios), atol=1e-5)
    np.testing.assert_allclose(values[0], values[1], atol=1e-6)
    assert (np.abs(values[2] - values[0]) > 1e-3)[kill].all()
    assert (np.abs(scalar - curves[0]) > 1e-3)[kill].any()


@pytest.mark.parametrize("name", ALL)
def test_one_hunk_between_the_markers_differs_from_klip(name):
    text = compose(name)
    hunks = difflib.unified_diff(KLIP.splitlines(), text.splitlines(), n=1, lineterm="")
    assert [line.startswith("@@") for line in hunks].count(True) == 1
    assert shared(text) == shared(KLIP)
    assert dedent(policy_loss(text)) == block(name)
    assert all(draw.describe(name)), "name, formula and source"


def test_composed_scripts_pass_the_linter(tmp_path):
    for name in ALL:
        (tmp_path / f"ppo_{name}_continuous.py").write_text(compose(name))
    for command in (["check"], ["format", "--check"]):
        config = ["--config", ROOT / "ruff.toml", "--no-cache", "."]
        done = start(["-m", "ruff", *command, *config], tmp_path)
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ALL, *[x for x in mechanism() if "scheduled" not in x]])
def test_a_composed_loss_can_be_compiled(name):
    module = draw.load(compose(name))
    traced = torch.compile(module.ppo_loss, backend="eager", fullgraph=True)
    agent, batch = samples(module)
    args = module.Args()
    assert torch.equal(traced(agent, args, batch)[0], module.ppo_loss(agent, args, batch)[0])


def test_insert_prints_a_script_or_lists_all_with_their_formulas():
    done = start([INSERT], ROOT)
    assert start([INSERT, "dppo"], ROOT).stdout == compose("dppo")
    for name in ALL:
        formula = block(name).splitlines()[0].removeprefix("# ")
        assert re.search(rf"^ +{name} +{re.escape(formula)}$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("bad", [["sp"], ["spo", "cispo"], ["draw"]])
def test_insert_refuses_anything_else_in_one_line(bad):
    done = start([INSERT, *bad], ROOT)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("insert.py: error: ")
    assert done.stderr.count("\n") == 1


def test_the_figure_has_a_panel_for_every_rule():
    figure = draw.draw()
    titles = [axis.texts[0].get_text() for axis in figure.axes if axis.get_visible()]
    assert titles == ["PPO-Clip", *[draw.describe(name)[0] for name in names()]]
    assert figure.get_facecolor() == (1, 1, 1, 1)  # legible on a dark page too


# --- the mechanism

QUIET = ("nn.Parameter(torch.zeros(act_dim))", "nn.Parameter(torch.full((act_dim,), -1.0))")


def gradients(source: str, **args) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a script's policy loss on a minibatch: the gradient of the actor's mean, and of log sigma."""
    module = draw.load(source)
    agent, batch = samples(module)
    loss, _ = module.ppo_loss(agent, module.Args(vf_coef=0.0, **args), batch)
    grads = torch.autograd.grad(loss, [*agent.actor_mean.parameters(), agent.actor_logstd])
    return torch.cat([grad.flatten() for grad in grads[:-1]]), grads[-1]


def test_a_dose_of_the_charge_for_noise_lies_between_none_and_all():
    whole = gradients(script("kl_scalar").read_text(), kl_coef=3.0)
    none = gradients(compose("kl_mean"), kl_coef=3.0)
    for dose, name in ((0, "kl_mean"), (0.1, "kl_dose_10"), (0.3, "kl_dose_30")):
        found = gradients(compose(name), kl_coef=3.0)
        torch.testing.assert_close(found[0], whole[0])  # the mean's is the same at any dose
        torch.testing.assert_close(found[1], none[1] + dose * (whole[1] - none[1]))
    assert not torch.allclose(none[1], whole[1])


def test_the_charged_clip_pays_twice_the_kl_of_sigmas_change_and_nothing_else():
    charged, clip = gradients(compose("clip_charged")), gradients(script("clip").read_text())
    torch.testing.assert_close(charged[0], clip[0])
    agent, batch = samples(draw.load(script("clip").read_text()))
    old, new = batch.old_logstd[0], agent.actor_logstd.detach().requires_grad_()
    kl = kl_divergence(Normal(0.0, old.exp()), Normal(0.0, new.exp())).sum()
    torch.testing.assert_close(
        charged[1], clip[1] + 2 * torch.autograd.grad(kl, new)[0], rtol=1e-4, atol=1e-5
    )


def test_the_cap_is_one_on_w_above_a_half():
    agent, batch = samples(draw.load(script("kl_scalar").read_text()))
    ratio, kl = ratio_and_kl(agent, batch)
    objective = clipped(ratio, batch.advantages, 0.0, 1.5) - 0.3 * kl
    assert (ratio > 1.5).any()
    module = draw.load(compose("kl_capped"))
    assert_loss_maximises(objective, module, agent, batch, kl_coef=0.3, clip_vloss=False)


@pytest.mark.parametrize("variant", ["clip", "kl_scalar"])
def test_with_little_noise_only_its_start_is_another(variant):
    name = f"{variant.removesuffix('_scalar')}_quiet"
    source = compose(name)
    expected = changed(variant, QUIET)
    assert with_policy_loss(source, "") == with_policy_loss(expected, "")
    assert policy_loss(source).endswith(policy_loss(expected))


def test_a_line_to_exchange_must_occur_once():
    text = "# x\n# instead of: b = 1\n# put: b = 2\n# put:     c = 3\n"
    assert insert.exchange_lines("a\n  b = 1\nd\n", text) == "a\n  b = 2\n      c = 3\nd\n"
    for script_text in ("a\nb = 11\n", "a\nb = 1\n b = 1\n"):
        with pytest.raises(ValueError, match="'b = 1' must occur once"):
            insert.exchange_lines(script_text, text)


def test_the_schedule_is_the_mean_of_ten_clips(tmp_path, monkeypatch):
    monkeypatch.setattr(insert, "CURVES", tmp_path / "curves.csv")
    with pytest.raises(ValueError, match="needs Ant-v4, clip, seeds 1 to 10"):
        compose("clip_scheduled")
    lines = ["env_id,arm,seed,step,entropy", "Ant-v4,clip,11,8192,99", "Hopper-v4,clip,1,8192,99"]
    for seed in range(1, 11):
        for step in (8192, 16384, 24576, 32768):
            logstd = -step / 2048 / 100 + 0.01 * (seed - 5.5)  # of the end of an iteration
            entropy = 8 * (logstd + 0.5 / 100 * 4 + 0.5 * np.log(2 * np.pi * np.e))
            lines.append(f"Ant-v4,clip,{seed},{step},{entropy}")
    insert.CURVES.write_text("\n".join(lines))
    numbers = [float(number) for number in insert.schedule().split(",")]
    np.testing.assert_allclose(numbers[:14], -np.arange(14) / 100, atol=6e-4)
    assert len(numbers) == 16

    module = draw.load(compose("kl_scheduled"))
    run = module.Args(**QUICK, run_dir=str(tmp_path / "run"))
    module.__file__ = str(tmp_path / "script.py")
    Path(module.__file__).write_text(compose("kl_scheduled"))
    module.train(run)
    state = torch.load(tmp_path / "run/agent.pt")["state_dict"]
    assert torch.equal(state["actor_logstd"], torch.full((3,), numbers[1]))
