"""Whole short runs of the scripts against an oracle: a second PPO, written from the definitions.

The oracle shares no code with the scripts and is made to be checked by eye, not to be fast. It
works in float64; its statistics are NumPy's over all rows so far, its advantages a sum, its losses
those of the papers on torch.distributions, its gradient autograd's, its optimizer torch's. It is
told what the environments answered, and draws weights, noise and minibatches from the seed itself.
Expected are the final weights, every action, every value in TensorBoard, and the results.
"""

from collections import defaultdict
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import MODULES, VARIANTS, load, result
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

# --- what the environments answer ---


class World(gym.Env):
    """Random observations [2, 3] and rewards; episodes of 3 to 7 steps that end in every way.

    The last observation of a terminated episode is NaN, since nothing may depend on it. A reward
    is an array of one number, and one of each environment's is more than 10 sigma.
    """

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2, 3), np.float64)
    action_space = gym.spaces.Box(-1.0, np.array([[0.5, 1.0], [1.5, 2.0]]), (2, 2), np.float64)
    episodes = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episodes += 1
        self.steps_left = self.np_random.integers(3, 8)
        return self.observe(), {}

    def observe(self) -> np.ndarray:
        return self.np_random.normal(5, 20, (2, 3))

    def step(self, action):
        self.steps_left -= 1
        over = self.steps_left == 0
        terminated = over and self.episodes % 3 != 0
        truncated = over and self.episodes % 3 != 1
        obs = np.full((2, 3), np.nan) if terminated else self.observe()
        reward = self.np_random.normal() + action.mean()
        if over and self.episodes == 20:
            reward = 1000.0
        return obs, np.array([reward]), terminated, truncated, {}


gym.register("World-v0", entry_point=World)


class Recorder(gym.Wrapper):
    """Keeps what an environment is asked and what it answers."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.seeds, self.steps = [], []

    def reset(self, *, seed=None, options=None):
        self.obs, info = self.env.reset(seed=seed, options=options)
        self.seeds.append(seed)
        return self.obs, info

    def step(self, action):
        before = self.obs
        self.obs, reward, terminated, truncated, info = self.env.step(action)
        done = terminated or truncated
        self.steps.append((before, action, np.sum(reward), self.obs, terminated, done))
        return self.obs, reward, terminated, truncated, info


class Record(NamedTuple):
    """What all environments answered in all steps of a run; T steps, N environments."""

    obs: np.ndarray  # [T, N, obs_dim]
    actions: np.ndarray  # [T, N, act_dim], as they reached the environment
    rewards: np.ndarray  # [T, N]
    next_obs: np.ndarray  # [T, N, obs_dim], of the same episode
    terminated: np.ndarray  # [T, N]
    done: np.ndarray  # [T, N], terminated or truncated


def read_record(envs: list[Recorder], num_steps: int) -> Record:
    answers = [[env.steps[t] for env in envs] for t in range(num_steps)]
    shape = (num_steps, len(envs), -1)
    columns = [
        np.array([[answer[i] for answer in row] for row in answers]).reshape(shape)
        for i in range(len(Record._fields))
    ]
    obs, actions, rewards, next_obs, terminated, done = columns
    return Record(obs, actions, rewards[..., 0], next_obs, terminated[..., 0], done[..., 0])


# --- the oracle ---


def network(in_dim: int, out_dim: int, out_gain: float, generator) -> nn.Sequential:
    """64-64 tanh network, biases 0, weights orthogonal; drawn in float32, as the script's."""
    layers = [nn.Linear(in_dim, 64), nn.Linear(64, 64), nn.Linear(64, out_dim)]
    for layer, gain in zip(layers, (2**0.5, 2**0.5, out_gain), strict=True):
        nn.init.orthogonal_(layer.weight, gain, generator)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2]).double()


def gaussian(mean: torch.Tensor, logstd: torch.Tensor) -> Independent:
    return Independent(Normal(mean, logstd.exp()), 1)


class Nets:
    """Policy and value function of normalised observations [..., obs_dim]."""

    def __init__(self, obs_dim: int, act_dim: int, generator: torch.Generator):
        self.critic = network(obs_dim, 1, 1.0, generator)
        self.actor = network(obs_dim, act_dim, 0.01, generator)
        self.logstd = torch.zeros(act_dim, dtype=torch.float64, requires_grad=True)
        self.parameters = [*self.critic.parameters(), *self.actor.parameters(), self.logstd]

    def policy(self, obs: torch.Tensor) -> Independent:
        return gaussian(self.actor(obs), self.logstd)

    def value(self, obs: torch.Tensor) -> torch.Tensor:
        return self.critic(obs)[..., 0]


def discounted_returns(record: Record, gamma: float) -> np.ndarray:
    """[T, N]: the discounted sum of the rewards of the episode so far, the latest counting 1."""
    returns = record.rewards.copy()
    for t in range(1, len(returns)):
        returns[t] += gamma * returns[t - 1] * ~record.done[t - 1]
    return returns


def finished_episodes(record: Record) -> list[tuple[int, float, int]]:
    """Of each: the number of steps in all environments when it ended, its return, its length."""
    episodes = []
    for rewards, done in zip(record.rewards.T, record.done.T):
        start = 0
        for end in np.flatnonzero(done) + 1:
            episodes.append((end * len(record.done.T), rewards[start:end].sum(), end - start))
            start = end
    return episodes


def gae(record: Record, rewards, values, next_values, args) -> np.ndarray:
    """A_t = sum over l of (gamma lambda)^l delta_{t+l}, up to the end of episode or rollout."""
    deltas = rewards + args.gamma * np.where(record.terminated, 0, next_values) - values
    advantages = np.zeros_like(deltas)
    for t, n in np.ndindex(*deltas.shape):
        for later in range(t, len(deltas)):
            weight = (args.gamma * args.gae_lambda) ** (later - t)
            advantages[t, n] += weight * deltas[later, n]
            if record.done[later, n]:
                break
    return advantages


class Samples(NamedTuple):
    """The samples of a rollout or minibatch, B of them; "old" is the policy that acted."""

    obs: torch.Tensor  # [B, obs_dim], normalised
    actions: torch.Tensor  # [B, act_dim]
    old_mean: torch.Tensor  # [B, act_dim]
    old_logstd: torch.Tensor  # [B, act_dim]
    old_value: torch.Tensor  # [B]
    advantages: torch.Tensor  # [B]
    returns: torch.Tensor  # [B]

    def old_policy(self) -> Independent:
        return gaussian(self.old_mean, self.old_logstd)

    def ratio(self, nets: Nets) -> torch.Tensor:
        """w = pi_new / pi_old, [B]."""
        new_logprob = nets.policy(self.obs).log_prob(self.actions)
        return (new_logprob - self.old_policy().log_prob(self.actions)).exp()


def kill_set(w: torch.Tensor, a: torch.Tensor, epsilon: float) -> torch.Tensor:
    return ((w > 1 + epsilon) & (a > 0)) | ((w < 1 - epsilon) & (a < 0))


def policy_loss(variant: str, nets: Nets, s: Samples, epsilon: float, beta) -> torch.Tensor:
    """What each script minimises, from the paper."""
    new = nets.policy(s.obs)
    w, a = s.ratio(nets), s.advantages
    clipped_w = w.clamp(1 - epsilon, 1 + epsilon)
    kill = kill_set(w, a, epsilon)
    if variant == "clip":
        objective = torch.min(w * a, clipped_w * a)
    elif variant == "phi":
        objective = w * a - kill * (w - clipped_w) * a
    elif variant == "klip":
        beta_t = (-w * a * kill).detach()
        objective = w * a + beta_t * new.log_prob(s.actions)
    else:
        objective = w * a - beta * kl_divergence(s.old_policy(), new)
    return -objective.mean()


def value_loss(nets: Nets, s: Samples, args) -> torch.Tensor:
    """Half the mean square error, or that of the clipped value where it is larger."""
    value = nets.value(s.obs)
    error = (value - s.returns) ** 2
    if args.clip_vloss:
        change = (value - s.old_value).clamp(-args.clip_coef, args.clip_coef)
        error = torch.max(error, (s.old_value + change - s.returns) ** 2)
    return 0.5 * error.mean()


def update(variant, nets: Nets, adam, samples: Samples, args, beta, generator) -> dict[str, float]:
    """Train on a rollout; of each value to log its mean over the minibatches."""
    logs = defaultdict(list)
    for _ in range(args.update_epochs):
        order = torch.randperm(len(samples.obs), generator=generator)
        for indices in order.chunk(args.num_minibatches):
            s = Samples(*[column[indices] for column in samples])
            w = s.ratio(nets).detach()
            kill, passing = (kill_set(w, a, args.clip_coef) for a in (s.advantages, -s.advantages))
            p_loss = policy_loss(variant, nets, s, args.clip_coef, beta)
            v_loss = value_loss(nets, s, args)
            entropy = nets.policy(s.obs).entropy().mean()
            logs["losses/policy_loss"].append(p_loss)
            logs["losses/value_loss"].append(v_loss)
            logs["losses/entropy"].append(entropy)
            logs["losses/approx_kl"].append((w - 1 - w.log()).mean())
            logs["losses/clipfrac"].append(((w - 1).abs() > args.clip_coef).double().mean())
            logs["partition/in"].append((~kill & ~passing).double().mean())
            logs["partition/kill"].append(kill.double().mean())
            logs["partition/pass"].append(passing.double().mean())

            adam.zero_grad()
            (p_loss + args.vf_coef * v_loss - args.ent_coef * entropy).backward()
            nn.utils.clip_grad_norm_(nets.parameters, args.max_grad_norm)
            adam.step()
        if args.target_kl is not None and logs["losses/approx_kl"][-1] > args.target_kl:
            break
    return {name: sum(column).item() / len(column) for name, column in logs.items()}


def expected(variant: str, args, envs: list[Recorder]) -> dict[str, np.ndarray]:
    """By name all that a run should leave, given what the environments answered."""
    batch_size = args.num_envs * args.num_steps
    num_iterations = args.total_timesteps // batch_size
    total_steps = num_iterations * batch_size
    record = read_record(envs, num_iterations * args.num_steps)
    obs_dim, act_dim = record.obs.shape[2], record.actions.shape[2]
    discounted = discounted_returns(record, args.gamma)
    episodes = finished_episodes(record)
    log = defaultdict(list)  # a list of (global step, value) for each name
    sampled_actions = []

    generator = torch.Generator().manual_seed(args.seed)
    nets = Nets(obs_dim, act_dim, generator)
    adam = torch.optim.Adam(nets.parameters, eps=1e-5)
    beta = getattr(args, "kl_coef", None)

    for iteration in range(num_iterations):
        begin, end = iteration * args.num_steps, (iteration + 1) * args.num_steps
        rollout = Record(*[column[begin:end] for column in record])

        # normalised by mean and variance of all observations of the earlier rollouts
        earlier = record.obs[:begin].reshape(-1, obs_dim)
        mean = earlier.mean(0) if iteration > 0 else 0.0
        var = earlier.var(0) if iteration > 0 else 1.0
        obs = torch.tensor(((rollout.obs - mean) / np.sqrt(var + 1e-8)).clip(-10, 10))
        next_obs = torch.tensor(((rollout.next_obs - mean) / np.sqrt(var + 1e-8)).clip(-10, 10))

        # acting
        with torch.no_grad():
            old_mean = nets.actor(obs)
            old_logstd = nets.logstd.expand_as(old_mean).clone()
            noise = torch.randn(*old_mean.shape, generator=generator).double()
            actions = old_mean + old_logstd.exp() * noise
            old_value = nets.value(obs)
            next_value = nets.value(next_obs)
        sampled_actions.append(actions)

        # advantages; rewards are divided by the deviation of all discounted returns so far
        rewards = (rollout.rewards / np.sqrt(discounted[:end].var() + 1e-8)).clip(-10, 10)
        values = old_value.numpy()
        advantages = gae(rollout, rewards, values, next_value.numpy(), args)
        returns = advantages + values
        if args.norm_adv:
            advantages = (advantages - advantages.mean()) / (advantages.std(ddof=1) + 1e-8)

        # update
        lr = args.learning_rate
        if args.anneal_lr:
            lr *= 1 - iteration / num_iterations
        adam.param_groups[0]["lr"] = lr
        per_sample = (torch.tensor(advantages), torch.tensor(returns))
        columns = (obs, actions, old_mean, old_logstd, old_value, *per_sample)
        samples = Samples(*[column.flatten(0, 1) for column in columns])
        now = update(variant, nets, adam, samples, args, beta, generator)

        # log
        with torch.no_grad():
            w = samples.ratio(nets)
            kl = kl_divergence(samples.old_policy(), nets.policy(samples.obs)).mean().item()
        now["losses/kl"] = kl
        for percent in (1, 10, 50, 90, 99):
            now[f"ratio/q{percent:02}"] = np.percentile(w, percent)
        unexplained = np.var(returns - values) / np.var(returns)
        now["losses/explained_variance"] = 1 - unexplained
        now["charts/learning_rate"] = lr
        first, last = begin * args.num_envs, end * args.num_envs
        if ended := [episode for episode in episodes if first < episode[0] <= last]:
            _, now["charts/episodic_return"], now["charts/episodic_length"] = np.mean(ended, 0)
        if variant == "kl_scalar":
            now["charts/kl_coef"] = beta
            if args.kl_target is not None and kl > 1.5 * args.kl_target:
                beta *= 2
            elif args.kl_target is not None and kl < args.kl_target / 1.5:
                beta /= 2
        for name, value in now.items():
            log[name].append((last, value))

    space = envs[0].action_space
    all_obs = record.obs.reshape(-1, obs_dim)
    final = [total for step, total, _ in episodes if step > 0.9 * total_steps]
    out = log | {
        "seeds": [args.seed + n for n in range(args.num_envs)],
        "actions": torch.cat(sampled_actions).numpy().clip(space.low.ravel(), space.high.ravel()),
        "obs_mean": all_obs.mean(0),
        "obs_std": np.sqrt(all_obs.var(0) + 1e-8),
        "actor_logstd": nets.logstd,
        "global_step": total_steps,
        "episodic_return": np.mean(final) if final else np.nan,
        "kill_fraction": np.mean([fraction for _, fraction in log["partition/kill"]]),
    }
    for name, network in (("critic", nets.critic), ("actor_mean", nets.actor)):
        out |= {f"{name}.{key}": x for key, x in network.state_dict().items()}
    return {name: as_array(value) for name, value in out.items()}


# --- the comparison ---


def as_array(value) -> np.ndarray:
    """A tensor, a list or a number in float64; None as NaN."""
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    return np.array(value, np.float64)


def observed(folder, envs: list[Recorder]) -> dict[str, np.ndarray]:
    """By name all that a run has left."""
    events = EventAccumulator(str(folder)).Reload()
    tags = set(events.Tags()["scalars"]) - {"charts/SPS"}
    out = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}
    out |= torch.load(folder / "agent.pt", weights_only=True)["state_dict"]
    found = result(folder)
    out |= {name: found[name] for name in ("global_step", "episodic_return", "kill_fraction")}
    out["actions"] = read_record(envs, len(envs[0].steps)).actions
    out["seeds"] = [env.seeds[0] for env in envs]
    assert all(seed is None for env in envs for seed in env.seeds[1:])
    return {name: as_array(value) for name, value in out.items()}


def is_close(name: str, got: np.ndarray, want: np.ndarray) -> bool:
    """Whether they are equal but for the script's float32. Weights were to 7e-7, the rest to 4e-6."""
    if got.shape != want.shape:
        return False
    if name.startswith(("actor", "critic")):
        return np.allclose(got, want, rtol=0, atol=3e-6)
    return np.allclose(got, want, rtol=1e-4, atol=1e-6, equal_nan=True)


# The learning rate is ten times the default, so that so short a run leaves the band.
BASE = {
    "env_id": "World-v0",
    "seed": 5,
    "total_timesteps": 599,  # 4 rollouts of 120 and a rest, which is left off
    "num_steps": 120,
    "num_minibatches": 2,  # of 60 samples
    "update_epochs": 3,
    "learning_rate": 3e-3,
}


def differences(module, variant: str, folder, settings: dict) -> set[str]:
    """Names of all in which a run of a script is not as the oracle says."""
    make, envs = gym.make, []

    def make_recorder(env_id: str) -> Recorder:
        envs.append(Recorder(make(env_id)))
        return envs[-1]

    args = module.Args(**BASE | settings, run_dir=str(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gym, "make", make_recorder)  # inside the wrappers of the script
        module.train(args)
    got = observed(folder, envs)
    want = expected(variant, args, envs)
    both = got.keys() & want.keys()
    differ = {name for name in both if not is_close(name, got[name], want[name])}
    return differ | (got.keys() ^ want.keys())


SETTINGS = {
    "World": {},
    "Hopper": {"env_id": "Hopper-v4"},
    "three environments": {"num_envs": 3, "num_steps": 40},
    "raw advantages, no annealing": {"norm_adv": False, "anneal_lr": False},
    "raw values, entropy bonus": {"clip_vloss": False, "ent_coef": 0.02, "vf_coef": 0.3},
    "narrow band, small steps": {"clip_coef": 0.037, "max_grad_norm": 0.1},
    "short horizon": {"gamma": 0.9, "gae_lambda": 0.5, "num_minibatches": 5},
    "target KL": {"target_kl": 0.01, "update_epochs": 8},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_is_as_the_oracle_says(tmp_path, variant, settings):
    assert differences(MODULES[variant], variant, tmp_path, settings) == set()


@pytest.mark.parametrize("target", [None, 0.012])
def test_other_betas(tmp_path, target):
    """With the target beta was doubled, kept and halved again."""
    settings = {"kl_coef": 0.3, "kl_target": target}
    assert differences(MODULES["kl_scalar"], "kl_scalar", tmp_path, settings) == set()


# the settings that show a mistake, what the script says, and the mistake
MISTAKES = """
World | manual_seed(args.seed) | manual_seed(1)
World | args.total_timesteps // batch_size | -(-args.total_timesteps // batch_size)
World | obs_std).clip(-10, 10) | obs_std)
World | return_rms.var + 1e-8)).clip(-10, 10) | return_rms.var + 1e-8))
World | np.where(terminations, 0, next_values) | np.where(dones, 0, next_values)
World | gae_lambda * ~dones | gae_lambda * ~terminations
World | discounted_returns[t] * ~dones[t] | discounted_returns[t]
World | 0.9 * total_steps | 0.8 * total_steps
World | (ratio - 1 - logratio).mean() | -logratio.mean()
World | kill_set.double().mean() | pass_set.double().mean()
World | pass_set.double().mean() | kill_set.double().mean()
World | log["partition/kill"] + log["partition/pass"] | log["partition/kill"]
World | (returns - values).var() / returns.var() | returns.var() / (returns - values).var()
World | b_actions) - old_logprob).exp() | b_actions) - old_logprob)
three environments | seed=args.seed + n | seed=args.seed
three environments | generator=generator).numpy() | generator=generator).numpy()[:, :1]
raw advantages, no annealing | if args.norm_adv: | if True:
raw advantages, no annealing | if args.anneal_lr: | if True:
raw values, entropy bonus | if args.clip_vloss: | if True:
narrow band, small steps | grad * scale.clamp(max=1) | grad
target KL | mb_metrics["losses/approx_kl"] > args | metrics[0][3] > args
target KL | mb_metrics["losses/approx_kl"] > args | mb_metrics["partition/kill"] > args
"""


@pytest.mark.parametrize("mistake", MISTAKES.strip().splitlines())
def test_control_a_mistake_is_seen(tmp_path, mistake):
    where, *replacement = mistake.split(" | ")
    assert differences(load("klip", replacement), "klip", tmp_path, SETTINGS[where])
