"""Every part of PPO against its definition: in NumPy, in torch.distributions, or by hand."""

import itertools
from types import SimpleNamespace
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import VARIANTS, load, scalars
from torch.distributions import Independent, Normal, kl_divergence

MODULES = {variant: load(variant) for variant in VARIANTS}
CLIP, SCALAR = MODULES["clip"], MODULES["kl_scalar"]
GAMMA, LAMBDA = 0.5, 0.7


# --- advantages ---


def test_gae_is_its_definition():
    """The lambda-weighted mean of the k-step advantages, a double sum, for 5 steps with every
    arrangement of none, termination and truncation (243, the last step's being the rollout's)."""
    rng = np.random.default_rng(0)
    ends = np.array([*itertools.product((0, 1, 2), repeat=5)]).T  # [5, 243]: 1 is a termination
    rewards, values, next_values = rng.normal(size=(3, *ends.shape))
    terminated, done = ends == 1, ends > 0
    next_values[:-1] = np.where(done[:-1], next_values[:-1], values[1:])
    got = CLIP.gae(rewards, values, next_values, terminated, done, GAMMA, LAMBDA)
    for t, n in np.ndindex(*ends.shape):
        last = next(i for i in range(t, 5) if done[i, n] or i == 4)
        k_step = []
        for k in range(1, last - t + 2):
            end = t + k - 1
            bootstrap = 0 if terminated[end, n] else next_values[end, n]
            discounted = sum(GAMMA**i * rewards[t + i, n] for i in range(k))
            k_step.append(discounted + GAMMA**k * bootstrap - values[t, n])
        weights = [(1 - LAMBDA) * LAMBDA**i for i in range(len(k_step) - 1)]
        weights.append(LAMBDA ** (len(k_step) - 1))
        assert got[t, n] == pytest.approx(np.dot(weights, k_step), abs=1e-12)


def test_recurrence():
    rng = np.random.default_rng(0)
    x, decay, start = rng.normal(size=(7, 3)), rng.uniform(size=(7, 3)), rng.normal(size=3)
    y = CLIP.recurrence(x, decay, start)
    for t, n in np.ndindex(7, 3):
        before = start[n] if t == 0 else y[t - 1, n]
        assert y[t, n] == pytest.approx(x[t, n] + decay[t, n] * before)
    assert (CLIP.recurrence(x, 0 * decay, start) == x).all()


# --- statistics and the Gaussian ---


def test_merge_is_numpy_over_the_concatenated_rows():
    rng = np.random.default_rng(0)
    chunks = [rng.normal(3, 10.0**i, (n, 4)) for i, n in enumerate((1, 7, 2, 100, 1))]
    stats = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64).repeat(1, 4)
    for i, chunk in enumerate(chunks):
        stats = CLIP.merge(stats, torch.tensor(chunk))
        rows = np.concatenate(chunks[: i + 1])
        np.testing.assert_allclose(stats[0], rows.mean(0))
        np.testing.assert_allclose(stats[1], rows.var(0))
        assert (stats[2] == len(rows)).all()


def test_gaussian_is_torchs():
    torch.manual_seed(0)
    agent = CLIP.Agent(3, 4).double()
    torch.nn.init.normal_(agent.actor_logstd)
    mean, actions = torch.randn(2, 50, 4, dtype=torch.float64)
    normal = Independent(Normal(mean, agent.actor_logstd.exp()), 1)
    torch.testing.assert_close(agent.logprob(mean, actions), normal.log_prob(actions))
    entropy = loss(CLIP, agent, batch(agent))[1][2]
    torch.testing.assert_close(entropy, normal.entropy()[0])


def test_initial_weights():
    agent = CLIP.Agent(11, 3)
    for net, head_gain in ((agent.critic, 1.0), (agent.actor_mean, 0.01)):
        for layer, gain in zip(net[::2], (2**0.5, 2**0.5, head_gain), strict=True):
            w = layer.weight if layer.weight.shape[0] < layer.weight.shape[1] else layer.weight.T
            torch.testing.assert_close(w @ w.T, gain**2 * torch.eye(len(w)), atol=1e-5, rtol=0)
            assert not layer.bias.any()
    assert not agent.actor_logstd.any()


# --- the loss ---


def batch(agent, n: int = 50, seed: int = 1) -> tuple[torch.Tensor, ...]:
    """n random samples of another policy in the order ppo_loss takes them, float64."""
    torch.manual_seed(seed)
    obs_dim, act_dim = agent.critic[0].in_features, len(agent.actor_logstd)
    obs, actions = torch.randn(n, obs_dim).double(), torch.randn(n, act_dim).double()
    old_mean, old_logstd = 0.3 * torch.randn(2, n, act_dim).double()
    old_logprob = Independent(Normal(old_mean, old_logstd.exp()), 1).log_prob(actions)
    old_value, advantages, returns = torch.randn(3, n).double()
    return obs, actions, old_logprob, old_mean, old_logstd, old_value, advantages, returns


def loss(module, agent, samples, **args):
    """ppo_loss with some arguments that are not the defaults."""
    return module.ppo_loss(agent, module.Args(**args), *samples)


@pytest.mark.parametrize("ent_coef, vf_coef, clip_coef", [(0.0, 0.5, 0.2), (0.1, 0.3, 0.4)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_from_scratch(variant, ent_coef, vf_coef, clip_coef):
    agent = CLIP.Agent(5, 2).double()
    torch.nn.init.normal_(agent.actor_logstd, std=0.3)
    samples = batch(agent)
    coefs = {"ent_coef": ent_coef, "vf_coef": vf_coef, "clip_coef": clip_coef}
    beta = {"kl_coef": 0.7} if variant == "kl_scalar" else {}
    total, logged = loss(MODULES[variant], agent, samples, **coefs, **beta)

    obs, actions, old_logprob, old_mean, old_logstd, old_value, advantages, returns = samples
    policy = Independent(Normal(agent.actor_mean(obs), agent.actor_logstd.exp()), 1)
    w = (policy.log_prob(actions) - old_logprob).exp()
    band = w.clamp(1 - clip_coef, 1 + clip_coef)
    clipped = torch.min(w * advantages, band * advantages)
    old = Independent(Normal(old_mean, old_logstd.exp()), 1)
    objective = {
        "clip": clipped,
        "phi": clipped,
        "klip": w * advantages
        - ((w - band) * advantages > 0) * w * advantages * policy.log_prob(actions),
        "kl_scalar": w * advantages - 0.7 * kl_divergence(old, policy),
    }[variant].mean()
    value = agent.critic(obs)[:, 0]
    near = old_value + (value - old_value).clamp(-clip_coef, clip_coef)
    v_loss = 0.5 * torch.maximum((value - returns) ** 2, (near - returns) ** 2).mean()
    entropy = policy.entropy().mean()
    torch.testing.assert_close(total, -objective + vf_coef * v_loss - ent_coef * entropy)
    torch.testing.assert_close(logged[:3], (-objective.detach(), v_loss.detach(), entropy.detach()))


def test_value_clipping():
    """A value that has moved on towards its target by more than epsilon is moved no further."""
    agent = CLIP.Agent(5, 2).double()
    obs, *policy, old_value, advantages, _ = batch(agent, 3)
    value = agent.critic(obs)[:, 0].detach()
    old_value = value - torch.tensor([0.1, 0.3, 0.3]).double()
    returns = value + torch.tensor([1.0, 1.0, -1.0]).double()
    moved = {}
    for clip_vloss in (True, False):
        leaf = value.clone().requires_grad_()
        stub = SimpleNamespace(
            actor_mean=agent.actor_mean,
            actor_logstd=agent.actor_logstd,
            logprob=agent.logprob,
            critic=lambda obs, leaf=leaf: leaf.unsqueeze(-1),
        )
        samples = (obs, *policy, old_value, advantages, returns)
        v_loss, _ = loss(CLIP, stub, samples, clip_vloss=clip_vloss, vf_coef=3.0)
        moved[clip_vloss] = -torch.autograd.grad(v_loss, leaf)[0]
    torch.testing.assert_close(moved[True], torch.tensor([1.0, 0.0, -1.0]).double())
    torch.testing.assert_close(moved[False], torch.tensor([1.0, 1.0, -1.0]).double())


@pytest.mark.parametrize("max_grad_norm", [0.01, 1e6])
def test_gradient_clipping(max_grad_norm):
    agent = CLIP.Agent(5, 2).double()
    samples = batch(agent)
    args = CLIP.Args(max_grad_norm=max_grad_norm)
    got, _ = CLIP.gradient(agent, args, *samples)
    CLIP.ppo_loss(agent, args, *samples)[0].backward()
    torch.nn.utils.clip_grad_norm_(agent.parameters(), max_grad_norm)
    torch.testing.assert_close(got, torch.cat([p.grad.flatten() for p in agent.parameters()]))


# --- a whole run in a small world, watched ---


class World(gym.Env):
    """Random observations [2, 3] and rewards; episodes of 3 to 7 steps that end in each way."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2, 3), np.float64)
    action_space = gym.spaces.Box(-1.0, np.array([[0.5, 1.0], [1.5, 2.0]]), (2, 2), np.float64)
    made: ClassVar[list] = []  # every instance, for the tests to look into

    def __init__(self):
        self.made.append(self)
        self.rng = np.random.default_rng(len(self.made))
        self.episode, self.steps = 0, []

    def observe(self):
        self.now = self.rng.normal(5, 20, (2, 3)).astype(np.float32).astype(np.float64)
        return self.now

    def reset(self, *, seed=None, options=None):
        self.episode, self.t = self.episode + 1, 0
        return self.observe(), {}

    def step(self, action):
        assert action.shape == (2, 2) and action.dtype == np.float64
        self.t += 1
        over = self.t == 3 + self.episode % 5
        terminated, truncated = over and self.episode % 3 != 0, over and self.episode % 3 != 1
        reward = self.rng.normal() + 1000 * (len(self.steps) == 150)  # once more than 10 sigma
        obs, final = self.now, self.observe()
        self.steps.append((obs, action, reward, final, terminated, terminated or truncated))
        return final, reward, terminated, truncated, {}


gym.register("World-v0", entry_point=World)


class Watch:
    """Replaces an attribute for a test and keeps the arguments and results of its calls."""

    def __init__(self, monkeypatch, owner, name):
        self.calls, function = [], getattr(owner, name)

        def watched(*args):
            kept = [x.copy() if isinstance(x, np.ndarray) else x for x in args]
            self.calls.append((kept, function(*args)))
            return self.calls[-1][1]

        monkeypatch.setattr(owner, name, watched)


def train(module, folder, rollouts=4, **args):
    """Train in World for some rollouts of 2 environments x 40 steps."""
    World.made.clear()
    defaults = {"num_envs": 2, "num_steps": 40, "num_minibatches": 4, "update_epochs": 2}
    args = module.Args(**defaults | args)
    steps = rollouts * args.num_envs * args.num_steps
    module.train(module.Run("World-v0", total_timesteps=steps, run_dir=str(folder)), args)


def column(i: int) -> np.ndarray:
    """What the environments saw, [T, N, ...]: 0 obs, 1 action, 2 reward, 3 next obs, 4 terminated,
    5 done."""
    envs = [world for world in World.made if world.steps]
    return np.stack([np.array([step[i] for step in env.steps]) for env in envs], axis=1)


@pytest.fixture
def watched(monkeypatch, tmp_path):
    """A run in World with the calls of what computes advantages, inputs and old log-probs."""
    module, bootstraps = load("klip"), []
    normalize = Watch(monkeypatch, module.Agent, "normalize")
    logprob = Watch(monkeypatch, module.Agent, "logprob")
    ppo_loss = Watch(monkeypatch, module, "ppo_loss")
    monkeypatch.setattr(module.torch, "randn", lambda shape: 0.3 * torch.ones(shape))  # the noise
    original = module.gae

    def gae(*args):
        (agent, _), final = normalize.calls[-1]
        bootstraps.append(agent.critic(final).squeeze(-1).detach().numpy())
        return original(*args)

    monkeypatch.setattr(module, "gae", gae)
    gae = Watch(monkeypatch, module, "gae")
    train(module, tmp_path, gamma=GAMMA, gae_lambda=LAMBDA)
    return SimpleNamespace(
        run_dir=tmp_path,
        gae=gae.calls,
        normalize=normalize.calls,
        logprob=logprob.calls,
        ppo_loss=ppo_loss.calls,
        bootstraps=bootstraps,
    )


def test_the_world_ends_episodes_in_each_way(watched):
    terminated, done = column(4), column(5)
    assert terminated.any() and (done & ~terminated).any() and (~done[39::40]).any()
    for i, (args, _) in enumerate(watched.gae):
        assert (args[3] == terminated[40 * i : 40 * i + 40]).all()
        assert (args[4] == done[40 * i : 40 * i + 40]).all()
        assert args[5:] == [GAMMA, LAMBDA]


def test_reward_scaling_is_numpy_over_all_rewards(watched):
    """By the standard deviation of every discounted return so far, begun anew in each episode."""
    rewards, done = column(2), column(5)
    discounted, running = np.zeros_like(rewards), np.zeros(2)
    for t, r in enumerate(rewards):
        discounted[t] = running = r + GAMMA * running
        running = running * ~done[t]
    clipped = False
    for i, (args, _) in enumerate(watched.gae):
        sigma = np.sqrt(discounted[: 40 * i + 40].var() + 1e-8)
        expected = (rewards[40 * i : 40 * i + 40] / sigma).clip(-10, 10)
        np.testing.assert_allclose(args[0], expected, rtol=1e-9)
        clipped |= (np.abs(expected) == 10).any()
    assert clipped


def test_observations_are_normalised_by_numpy_over_earlier_rollouts(watched):
    """... and its true final observation is what a truncated episode is bootstrapped with."""
    obs, final = (column(i).reshape(-1, 2, 6) for i in (0, 3))
    for i in range(4):
        earlier = obs[: 40 * i].reshape(-1, 6) if i else np.array([[-1.0] * 6, [1.0] * 6])
        mean, sigma = earlier.mean(0), np.sqrt(earlier.var(0) + 1e-8)
        for seen, (_, got) in zip((obs, final), watched.normalize[2 * i : 2 * i + 2]):
            expected = ((seen[40 * i : 40 * i + 40] - mean) / sigma).clip(-10, 10)
            np.testing.assert_allclose(got.reshape(40, 2, 6), expected, rtol=1e-4, atol=1e-4)
    stats = torch.load(watched.run_dir / "agent.pt", weights_only=True)["obs_stats"]
    np.testing.assert_allclose(stats[0], obs.reshape(-1, 6).mean(0))
    np.testing.assert_allclose(stats[1], obs.reshape(-1, 6).var(0))


def test_bootstrap_values(watched):
    """The critic's value of that observation, which within an episode is the next step's value."""
    for (args, _), bootstrap in zip(watched.gae, watched.bootstraps, strict=True):
        _, values, next_values, _, done, *_ = args
        np.testing.assert_allclose(next_values, bootstrap, atol=1e-6)
        same = np.isclose(next_values[:-1], values[1:], atol=1e-5)
        assert (same | done[:-1]).all() and (~same & done[:-1]).any()


def test_actions(watched):
    """mean + noise sigma, in NumPy as in torch; clipped for the environment only."""
    acted = [call for call in watched.logprob if not call[1].requires_grad]
    taken, clipped = column(1).reshape(-1, 4), 0
    box = World.action_space
    for i, ((agent, mean, actions), _) in enumerate(acted):
        noise = (actions - mean).numpy()
        sigma = noise / 0.3
        assert np.allclose(sigma, sigma[0], rtol=1e-3)
        if i == 0:
            assert np.allclose(sigma, 1, rtol=1e-3)
        expected = actions.numpy().clip(box.low.ravel(), box.high.ravel())
        assert (taken[80 * i : 80 * i + 80] == expected.astype(np.float64)).all()
        clipped += (actions.numpy() != expected).sum()
    assert len(acted) == 4


def test_minibatches(watched):
    """Each epoch takes every sample once; advantages are normalised once, over the rollout."""
    for i, ((*_, done, _, _), _) in enumerate(watched.gae):
        raw = watched.gae[i][1]
        updates = [call[0] for call in watched.ppo_loss[8 * i : 8 * i + 8]]
        for epoch in (updates[:4], updates[4:]):
            advantages = np.concatenate([args[8].numpy() for args in epoch])
            expected = (raw - raw.mean()) / raw.std(ddof=1)
            assert np.allclose(np.sort(advantages), np.sort(expected.ravel()), atol=1e-5)
            returns = np.concatenate([args[9].numpy() for args in epoch])
            targets = (raw + watched.gae[i][0][1]).ravel()
            assert np.allclose(np.sort(returns), np.sort(targets), atol=1e-5)
        first = torch.cat([args[2] for args in updates[:4]])
        assert not torch.equal(first, torch.cat([args[2] for args in updates[4:]]))


def test_episode_statistics(watched):
    rewards, done = column(2), column(5)
    returns, running, length = [], np.zeros(2), np.zeros(2)
    for t, r in enumerate(rewards):
        running, length = running + r, length + 1
        returns += [(t, running[n], length[n]) for n in range(2) if done[t, n]]
        running, length = running * ~done[t], length * ~done[t]
    logged = scalars(watched.run_dir)
    for i in range(4):
        ended = np.array([e[1:] for e in returns if 40 * i <= e[0] < 40 * i + 40])
        assert logged["charts/episodic_return"][i] == pytest.approx(ended[:, 0].mean(), rel=1e-5)
        assert logged["charts/episodic_length"][i] == pytest.approx(ended[:, 1].mean())


# --- schedules ---


@pytest.mark.parametrize("anneal_lr", [True, False])
def test_the_optimizer_is_adam_and_its_learning_rate_falls_linearly(
    monkeypatch, tmp_path, anneal_lr
):
    original, rates, peer = CLIP.adam, [], []

    def adam(params, grads, *state, lr, **kwargs):
        if not peer:
            peer.append(torch.optim.Adam([params[0].clone()], eps=1e-5, fused=True))
        group = peer[0].param_groups[0]
        group["lr"], group["params"][0].grad = lr, grads[0]
        peer[0].step()
        original(params, grads, *state, lr=lr, **kwargs)
        rates.append(lr)
        assert torch.equal(params[0], group["params"][0])

    monkeypatch.setattr(CLIP, "adam", adam)
    train(CLIP, tmp_path, learning_rate=1e-3, anneal_lr=anneal_lr)
    expected = [1e-3, 7.5e-4, 5e-4, 2.5e-4] if anneal_lr else [1e-3] * 4
    assert rates == pytest.approx([rate for rate in expected for _ in range(8)])
    assert scalars(tmp_path)["charts/learning_rate"] == pytest.approx(expected)


@pytest.mark.parametrize(
    "beta, target, kls, expected",
    [
        (1.0, 0.02, [0.0301, 0.0301], [1, 2, 4]),  # d > 1.5 target doubles
        (1.0, 0.02, [0.0133, 0.0133], [1, 0.5, 0.25]),  # d < target / 1.5 halves
        (1.0, 0.02, [0.03, 0.02 / 1.5], [1, 1, 1]),  # exactly on a threshold nothing happens
        (1.0, 0.02, [0.0299, 0.0134], [1, 1, 1]),
        (1.0, 0.02, [0.05, 0.001], [1, 2, 1]),
        (6000.0, 0.02, [1.0, 1.0], [6000, 10_000, 10_000]),
        (1.5e-4, 0.02, [0.0, 0.0], [1.5e-4, 1e-4, 1e-4]),
        (3.0, None, [1.0, 0.0], [3, 3, 3]),  # fixed
    ],
)
def test_the_rule_for_beta(monkeypatch, tmp_path, beta, target, kls, expected):
    """Schulman et al. 2017, sec. 4, once per rollout, on the KL that the run is made to measure;
    at the end comes one more, which no update follows."""
    module, measured = load("kl_scalar"), iter([*kls, 1.0])
    fake = lambda old, new: torch.full((1, 1), next(measured), dtype=torch.float64)
    monkeypatch.setattr(module, "kl_divergence", fake)
    watch = Watch(monkeypatch, module, "gradient")
    train(module, tmp_path, rollouts=3, kl_coef=beta, kl_target=target)
    used = scalars(tmp_path)["charts/kl_coef"]
    assert used == pytest.approx(expected, rel=1e-6)
    assert len(watch.calls) == 24


def test_beta_in_the_loss():
    """The loss takes the tensor beta has become, and is linear in it."""
    agent = SCALAR.Agent(5, 2).double()
    at = [
        loss(SCALAR, agent, batch(agent), kl_coef=torch.tensor(b, dtype=torch.float64))[0]
        for b in (0.0, 1.0, 3.0)
    ]
    torch.testing.assert_close(at[2] - at[0], 3 * (at[1] - at[0]))
    assert at[1] > at[0]


def test_the_logged_kl(monkeypatch, tmp_path):
    """KL(old || new) over the rollout, of the policies before and after the update."""
    module = load("clip")
    watch = Watch(monkeypatch, module, "kl_divergence")
    ppo_loss = Watch(monkeypatch, module, "ppo_loss")
    train(module, tmp_path, rollouts=2)
    for i, ((old, new), kl) in enumerate(watch.calls):
        by_hand = (new.scale / old.scale).log() - 0.5
        by_hand = by_hand + (old.variance + (old.loc - new.loc) ** 2) / (2 * new.variance)
        torch.testing.assert_close(kl, by_hand, atol=1e-6, rtol=1e-4)
        seen = torch.cat([args[5] for args, _ in ppo_loss.calls[8 * i : 8 * i + 4]])
        assert torch.equal(seen.sort(0).values, old.loc.sort(0).values)
        assert scalars(tmp_path)["losses/kl"][i] == pytest.approx(kl.sum(-1).mean().item())
        assert kl.sum() > 0


def test_target_kl_ends_the_epochs(monkeypatch, tmp_path):
    module = load("clip")
    watch = Watch(monkeypatch, module, "ppo_loss")
    train(module, tmp_path / "a", rollouts=2, target_kl=1e-9)
    assert len(watch.calls) == 8  # one epoch of four minibatches each
    train(module, tmp_path / "b", rollouts=2, target_kl=1e9)
    assert len(watch.calls) == 8 + 16


@pytest.mark.parametrize("variant", VARIANTS)
def test_other_box_spaces(tmp_path, variant):
    """No MuJoCo, observations and actions of two dimensions; and a classic task of one each."""
    train(MODULES[variant], tmp_path / "world", rollouts=1)
    run = MODULES[variant].Run("MountainCarContinuous-v0", total_timesteps=64)
    run.run_dir = str(tmp_path / "car")
    MODULES[variant].train(run, MODULES[variant].Args(num_steps=64, num_minibatches=2))
