"""PPO for continuous control in one file. Its siblings differ only in the policy loss.

    python ppo_clip_continuous.py --env-id Walker2d-v4        # min:     min(w A, clip(w) A)
    python ppo_phi_continuous.py --env-id Walker2d-v4         # Phi:     w A - Phi(w, A)
    python ppo_klip_continuous.py --env-id Walker2d-v4        # beta_t:  w A + beta_t log pi
    python ppo_kl_scalar_continuous.py --env-id Walker2d-v4   # beta:    w A - beta KL(old || new)

w = pi_new(a|s) / pi_old(a|s) is the ratio of a sample, A its advantage. The first three losses have
the same gradient: with one seed they train bit-identical weights (KLip-PPO, arXiv 2606.23932).
"""

# /// script
# requires-python = ">=3.11,<3.15"
# dependencies = [
#     "torch==2.13.0",
#     "gymnasium[mujoco]==1.4.0",
#     "mujoco==3.17.0",
#     "numpy==2.4.6",
#     "tyro==1.0.17",
#     "tensorboard==2.21.0",
# ]
# ///

import hashlib
import json
import math
import os
import platform
import random
import shlex
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # for a few rows, more threads would only wait
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # one graph needs no pool of compilers
# Kernels that round alike on every x86-64 processor: one seed gives one hash, unless overridden
os.environ.setdefault("OPENBLAS_CORETYPE", "Haswell")  # for NumPy
os.environ.setdefault("MKL_CBWR", "COMPATIBLE")  # for PyTorch; AUTO is faster, with other hashes

import gymnasium as gym
import mujoco
import numpy as np
import torch
import tyro
from gymnasium.wrappers.utils import RunningMeanStd
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.utils.tensorboard import SummaryWriter

warnings.filterwarnings("ignore", ".*is out of date", DeprecationWarning)  # the paper's v4 tasks


@dataclass
class Args:
    env_id: str = "HalfCheetah-v4"  # Gymnasium task with Box observations and Box actions
    seed: int = 1  # decides the run: same seed and versions, same weights
    total_timesteps: int = 1_000_000  # environment steps, rounded down to whole rollouts
    exp_name: str = Path(globals().get("__file__", "notebook")).stem  # part of the folder's name
    run_dir: str | None = None  # run folder, by default runs/{env_id}__{exp_name}__{seed}__{time}
    torch_deterministic: bool = True  # use deterministic algorithms on the GPU
    cuda: bool = False  # update on the GPU (untested; bit-equality is checked on the CPU)
    compile: bool = False  # compile the update: needs a C++ compiler and some 15 s, then faster
    track: bool = False  # mirror the run to Weights & Biases (pip install wandb)
    wandb_project_name: str = "klip-ppo"  # project at Weights & Biases
    wandb_entity: str | None = None  # team at Weights & Biases

    # PPO's own; the defaults are the KLip paper's one configuration for all tasks
    learning_rate: float = 3e-4  # Adam's, at the start
    anneal_lr: bool = True  # lower the learning rate linearly to 0
    num_envs: int = 1  # environments, stepped in turn
    num_steps: int = 2048  # steps in each per rollout
    num_minibatches: int = 32  # per epoch; must divide num_envs * num_steps
    update_epochs: int = 10  # passes over each rollout
    gamma: float = 0.99  # discount
    gae_lambda: float = 0.95  # lambda of GAE: 0 trusts the value function, 1 the rewards
    norm_adv: bool = True  # normalise advantages, once per rollout
    clip_coef: float = 0.2  # epsilon: the band is 1 - epsilon <= ratio <= 1 + epsilon
    clip_vloss: bool = True  # clip the change of the value, too, by epsilon
    ent_coef: float = 0.0  # weight of the entropy bonus
    vf_coef: float = 0.5  # weight of the value loss
    max_grad_norm: float = 0.5  # bound on the norm of the whole gradient
    target_kl: float | None = None  # end the epochs after one whose last approx_kl exceeds this


class ArgumentError(ValueError):
    """An argument will not do; the message names it."""


def mlp(in_dim: int, out_dim: int, out_gain: float, generator: torch.Generator) -> nn.Sequential:
    """64-64 tanh network; orthogonal weights of gain sqrt(2), out_gain in the last; biases 0."""
    first, second, last = nn.Linear(in_dim, 64), nn.Linear(64, 64), nn.Linear(64, out_dim)
    for layer, gain in ((first, 2**0.5), (second, 2**0.5), (last, out_gain)):
        nn.init.orthogonal_(layer.weight, gain, generator)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), last)


class Agent(nn.Module):
    """Gaussian policy and value function; its observation statistics are saved with its weights."""

    def __init__(self, obs_dim: int, act_dim: int, generator: torch.Generator | None = None):
        super().__init__()
        self.register_buffer("obs_mean", torch.zeros(obs_dim))
        self.register_buffer("obs_std", torch.ones(obs_dim))
        self.critic = mlp(obs_dim, 1, 1.0, generator)
        self.actor_mean = mlp(obs_dim, act_dim, 0.01, generator)
        self.actor_logstd = nn.Parameter(torch.zeros(act_dim))

    def normalize(self, obs: torch.Tensor) -> torch.Tensor:
        """Observations [B, obs_dim] as the networks take them: standardised, clipped to +-10."""
        return ((obs - self.obs_mean) / self.obs_std).clamp(-10, 10)

    def get_value(self, obs: torch.Tensor) -> torch.Tensor:
        """V of normalised observations, [B, obs_dim] -> [B]."""
        return self.critic(obs).squeeze(-1)

    def logprob(self, mean: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """log pi(actions) of the diagonal Gaussian around mean, [B, act_dim] -> [B]."""
        z = (actions - mean) * torch.exp(-self.actor_logstd)
        log_normalizer = self.actor_logstd + 0.5 * math.log(2 * math.pi)
        return (-0.5 * z * z - log_normalizer).sum(-1)


def numpy_policy(state: list[np.ndarray], obs: np.ndarray) -> np.ndarray:
    """agent.actor_mean(agent.normalize(obs)) in NumPy: PyTorch would make a run a third longer."""
    _, obs_mean, obs_std, *_, w1, b1, w2, b2, w3, b3 = state
    x = ((obs - obs_mean) / obs_std).clip(-10, 10)
    x = np.tanh(x @ w1.T + b1)
    x = np.tanh(x @ w2.T + b2)
    return x @ w3.T + b3


def compute_gae(
    rewards: np.ndarray,
    values: np.ndarray,
    next_values: np.ndarray,
    terminations: np.ndarray,
    dones: np.ndarray,
    args: Args,
) -> np.ndarray:
    """Advantages by generalised advantage estimation (Schulman et al. 2016, eq. 16).

    Arrays are [num_steps, num_envs]. A termination has no value after it. A truncation (a time
    limit) bootstraps from the value of its final observation. Neither lets the sum run on.
    """
    next_values = np.where(terminations, 0, next_values)
    deltas = rewards + args.gamma * next_values - values
    decay = args.gamma * args.gae_lambda * ~dones
    advantages = np.zeros_like(deltas)
    lastgaelam = 0
    for t in reversed(range(len(deltas))):
        lastgaelam = deltas[t] + decay[t] * lastgaelam
        advantages[t] = lastgaelam
    return advantages


class Batch(NamedTuple):
    """N samples; "old" marks outputs of the agent that collected them."""

    obs: torch.Tensor  # [N, obs_dim], normalised
    actions: torch.Tensor  # [N, act_dim], as sampled
    old_logprob: torch.Tensor  # [N]
    old_mean: torch.Tensor  # [N, act_dim]; only closed-form KLs read it and old_logstd
    old_logstd: torch.Tensor  # [N, act_dim]
    old_value: torch.Tensor  # [N]
    advantages: torch.Tensor  # [N]
    returns: torch.Tensor  # [N]


def ppo_loss(agent: Agent, args: Args, batch: Batch) -> tuple[torch.Tensor, dict]:
    """The loss [] of a minibatch, and the scalars [] to log, by name."""
    mean = agent.actor_mean(batch.obs)
    logprob = agent.logprob(mean, batch.actions)
    logratio = logprob - batch.old_logprob
    ratio = logratio.exp()  # w
    # clip(w), gradient 1 in the band and on its edges, where ratio.clamp has 0 from torch 2.14 on
    nearest = ratio.detach().clamp(1 - args.clip_coef, 1 + args.clip_coef)
    clipped_ratio = torch.where(ratio == nearest, ratio, nearest)
    # A / N, to be summed: dividing after the sum would round differently in each form. In float64
    # products are exact: in float32 they could tie outside the band, and min halve a gradient.
    adv_over_n = (batch.advantages / len(batch.advantages)).double()
    excess = (ratio - clipped_ratio).detach() * adv_over_n
    kill_set = excess > 0  # w > 1 + epsilon and A > 0, or w < 1 - epsilon and A < 0
    pass_set = excess < 0  # outside the band too, but with the other sign of A

    # --- policy loss ---
    # Phi form: sum of w A - Phi, Phi = (w - clip(w)) A on kill, else 0; KLip paper, appendix A
    # Mirror Learning (Kuba et al. 2022) calls it a drift, and writes it relu((w - clip(w)) A)
    phi = torch.where(kill_set, (ratio - clipped_ratio) * adv_over_n, 0.0)
    objective = ratio * adv_over_n - phi
    # --- end of policy loss ---
    policy_loss = -objective.sum()  # between forms equal in gradient, not in value

    value = agent.get_value(batch.obs)
    squared_error = (value - batch.returns) ** 2
    if args.clip_vloss:
        change = (value - batch.old_value).clamp(-args.clip_coef, args.clip_coef)
        clipped_error = (batch.old_value + change - batch.returns) ** 2
        squared_error = torch.max(squared_error, clipped_error)
    value_loss = 0.5 * squared_error.mean()

    entropy = (agent.actor_logstd + 0.5 * math.log(2 * math.pi * math.e)).sum()  # of every state
    loss = policy_loss + args.vf_coef * value_loss - args.ent_coef * entropy
    metrics = {
        "losses/policy_loss": policy_loss,
        "losses/value_loss": value_loss,
        "losses/entropy": entropy,
        "losses/approx_kl": (ratio - 1 - logratio).mean(),
        "partition/kill": kill_set.double().mean(),
        "partition/pass": pass_set.double().mean(),
    }
    return loss, {name: x.detach() for name, x in metrics.items()}


def compute_gradient(agent: Agent, args: Args, batch: Batch) -> tuple[torch.Tensor, dict]:
    """The gradient of ppo_loss as one vector, its norm clipped, and ppo_loss's metrics."""
    loss, metrics = ppo_loss(agent, args, batch)
    grads = torch.autograd.grad(loss, list(agent.parameters()))
    grad = torch.cat([g.flatten() for g in grads])
    scale = args.max_grad_norm / (grad.norm() + 1e-6)
    return grad * scale.clamp(max=1), metrics


def compile_gradient(args: Args) -> Callable:
    """compute_gradient, compiled at its first call; on the GPU recorded as a CUDA graph."""
    torch._dynamo.config.trace_autograd_ops = True  # torch.autograd.grad within the graph
    options = {
        "cpp_wrapper": True,
        "cpp.enable_tiling_heuristics": False,  # else only some forms vectorise exp()
        "cpp.simdlen": 256,  # this and the next: the same code for every x86-64 processor
        "cpp.march": "",
    }
    how = {"backend": "cudagraphs"} if args.cuda else {"options": options}
    return torch.compile(compute_gradient, fullgraph=True, dynamic=False, **how)


class Adam:
    """Adam (Kingma and Ba 2015) over one vector, of which the agent's parameters become views."""

    def __init__(self, agent: Agent):
        self.weights = nn.utils.parameters_to_vector(agent.parameters()).detach()
        nn.utils.vector_to_parameters(self.weights, agent.parameters())
        self.exp_avg = torch.zeros_like(self.weights)
        self.exp_avg_sq = torch.zeros_like(self.weights)
        self.step_count = 0

    def step(self, grad: torch.Tensor, lr: float) -> None:
        """Move the weights against their gradient."""
        self.step_count += 1
        self.exp_avg.lerp_(grad, 1 - 0.9)
        self.exp_avg_sq.lerp_(grad * grad, 1 - 0.999)
        square = self.exp_avg_sq / (1 - 0.999**self.step_count)
        std = square.rsqrt().reciprocal() + 1e-5  # torch.sqrt rounds by processor
        self.weights.addcdiv_(self.exp_avg, std, value=-lr / (1 - 0.9**self.step_count))


def make_env(env_id: str, **kwargs) -> gym.Env:
    """Make a task: flat observations [obs_dim], clipped actions. ArgumentError if unfit."""
    # prints MuJoCo's warnings, but not the one that HalfCheetah's own file causes
    mujoco.set_mju_user_warning(lambda text: "settotalmass" in text or print(text, file=sys.stderr))
    try:
        env = gym.wrappers.FlattenObservation(gym.make(env_id, **kwargs))
    except Exception as error:
        raise ArgumentError(f"--env-id {env_id} cannot be made: {error!r}") from error
    for space in (env.observation_space, env.action_space):
        if not isinstance(space, gym.spaces.Box):
            raise ArgumentError(f"--env-id must name a task of Box spaces, {env_id} has {space}")
    bound = abs(env.action_space.high).max()
    if bound < 0.1 or 10 < bound < math.inf:
        warnings.warn(
            f"actions start near 0 +- 1, clipped to {env.action_space}: try RescaleAction"
        )
    return gym.wrappers.RecordEpisodeStatistics(gym.wrappers.ClipAction(env))


def check(args: Args) -> None:
    """ArgumentError if an argument will not do."""
    batch_size = args.num_envs * args.num_steps
    rollout = f"num_envs * num_steps = {batch_size}"
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    whole = min(args.num_envs, args.num_steps, args.num_minibatches, args.update_epochs)
    rules = {
        "--num-envs, --num-steps, --num-minibatches, --update-epochs must be 1 or more": whole > 0,
        f"--num-minibatches must divide {rollout}": batch_size % (args.num_minibatches or 1) == 0,
        f"--total-timesteps must be >= {rollout} >= 2": args.total_timesteps >= batch_size >= 2,
        "--seed must be in [0, 2^31)": 0 <= args.seed < 2**31,
        "--learning-rate must be positive": args.learning_rate > 0,
        "--gamma must be in [0, 1]": 0 <= args.gamma <= 1,
        "--gae-lambda must be in [0, 1]": 0 <= args.gae_lambda <= 1,
        "--clip-coef must be in (0, 1)": 0 < args.clip_coef < 1,
        "--max-grad-norm must be positive": args.max_grad_norm > 0,
        "--cuda needs a GPU": torch.cuda.is_available() or not args.cuda,
        "--compile needs a C++ compiler: g++, or what CXX names": compiler or not args.compile,
        "--track needs the package wandb: pip install wandb": find_spec("wandb") or not args.track,
    }
    for rule, holds in rules.items():
        if not holds:
            raise ArgumentError(rule)


def start_run(args: Args, env_id: str) -> tuple[str, dict, SummaryWriter]:
    """Make the run folder and say where it is; return its path, the config and the writer."""
    run_name = f"{env_id}__{args.exp_name}__{args.seed}__{int(time.time())}".replace("/", "_")
    run_dir = args.run_dir or f"runs/{run_name}"
    versions = {name: version(name) for name in ("torch", "gymnasium", "mujoco", "numpy")}
    versions["python"] = platform.python_version()
    config = vars(args) | {"run_dir": run_dir, "env_spec_id": env_id, "versions": versions}
    try:
        os.makedirs(run_dir, exist_ok=True)
        with open(f"{run_dir}/config.json", "x") as file:  # one folder, one run
            json.dump(config, file, indent=2)
    except OSError as error:
        raise ArgumentError(f"--run-dir must be a new folder: {error}") from error
    if args.track:
        import wandb

        to = {"project": args.wandb_project_name, "entity": args.wandb_entity, "dir": run_dir}
        wandb.init(**to, name=run_dir, config=config, sync_tensorboard=True)
    writer = SummaryWriter(run_dir)
    writer.add_text("hyperparameters", f"```\n{json.dumps(config, indent=2)}\n```")
    print(f"{env_id}; watch: tensorboard --logdir {shlex.quote(run_dir)}", flush=True)
    return run_dir, config, writer


def train(args: Args) -> dict:
    """Train PPO on a continuous-control task; return what it leaves in result.json.

    Raises ArgumentError before anything is written, FloatingPointError if the run meets NaN, and
    whatever the task raises. Sets PyTorch to one thread.
    """
    check(args)
    envs = [make_env(args.env_id) for _ in range(args.num_envs)]
    try:
        return train_in(envs, args)
    finally:
        for env in envs:
            env.close()


def train_in(envs: list[gym.Env], args: Args) -> dict:
    """The whole of PPO: act, compute advantages, update on minibatches, log."""
    env_id = envs[0].spec.id  # with its version, which --env-id may leave out
    batch_size = args.num_envs * args.num_steps
    num_iterations = args.total_timesteps // batch_size
    total_steps = num_iterations * batch_size
    torch.set_num_threads(1)  # deterministic, and the fastest for networks this small
    random.seed(args.seed)  # this and the next for tasks that draw from them
    np.random.seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)  # of weights, noise and minibatches
    device = "cuda" if args.cuda else "cpu"
    if args.cuda:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        torch.use_deterministic_algorithms(args.torch_deterministic)
    obs_dim = envs[0].observation_space.shape[0]
    act_space = envs[0].action_space
    act_dim = math.prod(act_space.shape)
    agent = Agent(obs_dim, act_dim, generator).to(device)
    optimizer = Adam(agent)
    gradient_fn = compile_gradient(args) if args.compile else compute_gradient
    obs_rms = RunningMeanStd(epsilon=0, shape=obs_dim)
    return_rms = RunningMeanStd(epsilon=0)
    shape = (args.num_steps, args.num_envs)  # of a rollout, overwritten by the next
    obs, next_obs = np.zeros((2, *shape, obs_dim), np.float32)  # next: before a reset
    actions = np.zeros((*shape, act_dim), np.float32)  # as sampled, not clipped
    rewards, discounted_returns = np.zeros((2, *shape))  # returns of the episode so far
    terminations, dones = np.zeros((2, *shape), bool)  # done: terminated or truncated

    def flat(array: np.ndarray) -> torch.Tensor:
        """[num_steps, num_envs, ...] -> [batch_size, ...] in float32, on the device."""
        return torch.tensor(array, dtype=torch.float32, device=device).flatten(0, 1)

    run_dir, config, writer = start_run(args, env_id)
    kill_fractions, final_returns = [], []  # returns: of the last 10 % of the steps
    global_step = 0
    discounted_return = np.zeros(args.num_envs)
    last_obs = np.stack([env.reset(seed=args.seed + n)[0] for n, env in enumerate(envs)])
    start_time = time.time()
    for iteration in range(1, num_iterations + 1):
        lr = args.learning_rate
        if args.anneal_lr:
            lr *= 1 - (iteration - 1) / num_iterations

        # --- act ---
        state = [tensor.cpu().numpy() for tensor in agent.state_dict().values()]  # logstd first
        noise = torch.randn(actions.shape, generator=generator).numpy() * np.exp(state[0])
        episodes = []
        for t in range(args.num_steps):
            global_step += args.num_envs
            obs[t] = last_obs
            actions[t] = numpy_policy(state, obs[t]) + noise[t]
            if not np.isfinite(obs[t]).all():
                raise FloatingPointError(f"{env_id} returned an observation of NaN or infinity")
            for n, env in enumerate(envs):
                action = actions[t, n].reshape(act_space.shape)
                last_obs[n], reward, terminated, truncated, info = env.step(action)
                next_obs[t, n] = last_obs[n]
                rewards[t, n] = np.asarray(reward).item()  # an array of one number, of some tasks
                terminations[t, n] = terminated
                dones[t, n] = terminated or truncated
                if dones[t, n]:
                    episodes.append(info["episode"] | {"ended_at": global_step})
                    last_obs[n], _ = env.reset()
            discounted_returns[t] = rewards[t] + args.gamma * discounted_return
            discounted_return = discounted_returns[t] * ~dones[t]

        # --- evaluate: one pass for values and log-probabilities, of the policy that acted ---
        with torch.no_grad():
            b_obs = agent.normalize(flat(obs))
            b_actions = flat(actions)
            old_mean = agent.actor_mean(b_obs)
            old_logstd = agent.actor_logstd.repeat(batch_size, 1)  # a copy: Adam works in place
            old_logprob = agent.logprob(old_mean, b_actions)
            old_value = agent.get_value(b_obs)
            next_value = agent.get_value(agent.normalize(flat(next_obs)))
        values = old_value.cpu().numpy().reshape(shape)
        next_values = next_value.cpu().numpy().reshape(shape)

        # --- advantages, of rewards scaled as by NormalizeReward, but once per rollout ---
        return_rms.update(discounted_returns.ravel())
        scaled_rewards = (rewards / np.sqrt(return_rms.var + 1e-8)).clip(-10, 10)
        advantages = compute_gae(scaled_rewards, values, next_values, terminations, dones, args)
        returns = advantages + values
        if args.norm_adv:
            advantages = (advantages - advantages.mean()) / (advantages.std(ddof=1) + 1e-8)

        # --- update ---
        batch = Batch(
            obs=b_obs,
            actions=b_actions,
            old_logprob=old_logprob,
            old_mean=old_mean,
            old_logstd=old_logstd,
            old_value=old_value,
            advantages=flat(advantages),
            returns=flat(returns),
        )
        metrics = []
        for _ in range(args.update_epochs):
            b_inds = torch.randperm(batch_size, generator=generator).to(device)
            shuffled = [tensor[b_inds].chunk(args.num_minibatches) for tensor in batch]
            for minibatch in map(Batch, *shuffled):
                grad, mb_metrics = gradient_fn(agent, args, minibatch)
                optimizer.step(grad, lr)
                metrics.append(torch.stack([*mb_metrics.values()]))
            if args.target_kl is not None and mb_metrics["losses/approx_kl"] > args.target_kl:
                break
        if not optimizer.weights.isfinite().all():
            raise FloatingPointError(
                f"NaN weights: --learning-rate too high, or rewards of {env_id}"
            )
        with torch.no_grad():
            new_mean = agent.actor_mean(b_obs)
            old_policy = Normal(old_mean, old_logstd.exp())
            new_policy = Normal(new_mean, agent.actor_logstd.exp())
            kl = kl_divergence(old_policy, new_policy).sum(-1).mean().item()
            ratio = (agent.logprob(new_mean, b_actions) - old_logprob).exp()
        obs_rms.update(np.float64(obs.reshape(batch_size, obs_dim)))  # for the next rollout
        agent.obs_mean.copy_(torch.tensor(obs_rms.mean))
        agent.obs_std.copy_(torch.tensor(np.sqrt(obs_rms.var + 1e-8)))

        # --- log ---
        seconds = time.time() - start_time
        log = dict(zip(mb_metrics, torch.stack(metrics).mean(0).tolist()))
        log["losses/clipfrac"] = log["partition/kill"] + log["partition/pass"]
        log["partition/in"] = 1 - log["losses/clipfrac"]
        log["losses/explained_variance"] = 1 - (returns - values).var() / returns.var()
        for percent in (1, 10, 50, 90, 99):
            log[f"ratio/q{percent:02}"] = ratio.quantile(percent / 100).item()
        log |= {"losses/kl": kl, "charts/learning_rate": lr, "charts/SPS": global_step / seconds}
        if episodes:
            log["charts/episodic_return"] = np.mean([episode["r"] for episode in episodes])
            log["charts/episodic_length"] = np.mean([episode["l"] for episode in episodes])
        for name, value in log.items():
            writer.add_scalar(name, value, global_step)
        writer.flush()
        kill_fractions.append(log["partition/kill"])
        final_returns += [ep["r"] for ep in episodes if ep["ended_at"] > 0.9 * total_steps]
        if iteration * 10 % num_iterations < 10:  # ten times a run, and at its end
            saved = {"global_step": global_step, "state_dict": agent.state_dict()}
            torch.save(saved, f"{run_dir}/agent.pt.tmp")
            os.replace(f"{run_dir}/agent.pt.tmp", f"{run_dir}/agent.pt")  # never half an agent
            score = f"return {log.get('charts/episodic_return', math.nan):.1f}"
            print(
                f"{global_step}/{total_steps} steps, {log['charts/SPS']:.0f}/s, {score}", flush=True
            )
    writer.close()
    data = [tensor.cpu().numpy().tobytes() for tensor in agent.state_dict().values()]
    result = {
        "global_step": global_step,
        "episodic_return": np.mean(final_returns) if final_returns else None,
        "kill_fraction": np.mean(kill_fractions),
        "weights_sha256": hashlib.sha256(b"".join(data)).hexdigest(),
        "sps": global_step / seconds,
        "wall_time_s": seconds,
    }
    Path(f"{run_dir}/result.json.tmp").write_text(json.dumps(config | result, indent=2))
    os.replace(f"{run_dir}/result.json.tmp", f"{run_dir}/result.json")  # last: the run is finished
    print(f"episodic_return {result['episodic_return']}, mean over the last 10 % of the steps")
    print(f"kill_fraction {result['kill_fraction']:.3f}, the share of samples in the kill set")
    print(f"weights_sha256 {result['weights_sha256']}")
    print(f"play it: python evaluate.py {shlex.quote(run_dir)}")
    return config | result


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the run without a traceback
    try:
        train(tyro.cli(Args, description=__doc__))
    except (ArgumentError, FloatingPointError) as error:
        print(f"{os.path.basename(__file__)}: error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ArgumentError) else 1)
