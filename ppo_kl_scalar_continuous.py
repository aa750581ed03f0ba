"""PPO for continuous control in one file. Its siblings differ only in marked lines.

    python ppo_clip_continuous.py --env-id Walker2d-v4        # min:     min(w A, clip(w) A)
    python ppo_phi_continuous.py --env-id Walker2d-v4         # Phi:     w A - Phi(w, A)
    python ppo_klip_continuous.py --env-id Walker2d-v4        # beta_t:  w A + beta_t log pi
    python ppo_kl_scalar_continuous.py --env-id Walker2d-v4   # beta:    w A - beta KL(old || new)

w = pi_new(a|s) / pi_old(a|s) is a sample's ratio, A its advantage. The first three losses have the
same gradient: one seed trains them to the same bits (KLip-PPO, arXiv 2606.23932).
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
#     "tqdm==4.70.1",
# ]
# ///

import os
import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the imports and the run in silence
    if sys.stderr is None:  # closed (2>&-)
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115, open until the end
        os.set_inheritable(sys.stderr.fileno(), True)  # MuJoCo's window library starts a process

import contextlib
import hashlib
import io
import json
import math
import platform
import random
import re
import shutil
import subprocess
import sysconfig
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import NamedTuple, NoReturn, TextIO

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # NumPy acts on a few rows, where more threads only spin
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # one graph needs no pool of compilers

import gymnasium as gym
import mujoco
import numpy as np
import torch
import tyro
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.optim.adam import adam
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


@dataclass
class Args:
    env_id: str = "HalfCheetah-v4"  # Gymnasium task with Box observations and Box actions
    seed: int = 1  # decides the run: same seed, machine and versions, same weights
    total_timesteps: int = 1_000_000  # environment steps, rounded down to whole rollouts
    exp_name: str = os.path.basename(__file__).removesuffix(".py")  # part of the run folder's name
    run_dir: str | None = None  # run folder, by default runs/{env_id}__{exp_name}__{seed}__{time}
    torch_deterministic: bool = True  # deterministic algorithms on the GPU; on the CPU always
    cuda: bool = False  # update on the GPU: untested; equal bits are proven on the CPU
    compile: bool = False  # compile the update: takes a C++ compiler and some 15 s, then faster
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
    target_kl: float | None = None  # end the epochs after one whose mean approx_kl exceeds this
    # --- scalar beta ---
    kl_coef: float = 1.0  # beta, the weight of the KL penalty (with --kl-target: at the start)
    kl_target: float | None = None  # adapt beta to this KL; the paper's is 0.02 (not: --target-kl)
    # --- end of scalar beta ---


def fail(message: str, code: int = 2) -> NoReturn:
    """Print one line and exit: code 2 for bad input, 1 for a run that broke."""
    program = os.path.basename(sys.argv[0])
    line = " ".join(message.split())
    tqdm.write(f"{program}: error: {line}", file=sys.stderr)
    raise SystemExit(code)


def require(holds: object, rule: str) -> None:
    """Exit with code 2 and the rule, which names an argument, unless it holds."""
    if not holds:
        fail(rule)


def check(args: Args) -> None:
    """Exit with code 2 and one line if an argument will not do."""
    batch_size = args.num_envs * args.num_steps
    require(re.fullmatch(r"\S+", args.env_id), "--env-id must have no spaces")
    require(re.fullmatch(r"[\w.=+-]+", args.exp_name), "--exp-name may hold letters, digits, _.=+-")
    require(args.run_dir != "", "--run-dir must not be empty")
    require(0 <= args.seed < 2**31, "--seed must be in [0, 2^31)")
    require(args.num_envs >= 1, "--num-envs must be at least 1")
    require(args.num_steps >= 1, "--num-steps must be at least 1")
    require(args.num_minibatches >= 1, "--num-minibatches must be at least 1")
    require(args.update_epochs >= 1, "--update-epochs must be at least 1")
    require(batch_size >= 2, "--num-steps must be at least 2 with one environment")
    rollout = f"num_envs * num_steps = {batch_size}"
    require(batch_size % args.num_minibatches == 0, f"--num-minibatches must divide {rollout}")
    require(args.total_timesteps >= batch_size, f"--total-timesteps must be at least {rollout}")
    require(0 < args.learning_rate < math.inf, "--learning-rate must be positive")
    require(0 <= args.gamma <= 1, "--gamma must be in [0, 1]")
    require(0 <= args.gae_lambda <= 1, "--gae-lambda must be in [0, 1]")
    require(0 < args.clip_coef < 1, "--clip-coef must be in (0, 1)")
    require(0 <= args.ent_coef < math.inf, "--ent-coef must be 0 or more")
    require(0 <= args.vf_coef < math.inf, "--vf-coef must be 0 or more")
    require(args.max_grad_norm > 0, "--max-grad-norm must be positive")
    require(args.target_kl is None or args.target_kl > 0, "--target-kl must be positive")
    # --- scalar beta ---
    require(0 < args.kl_coef < math.inf, "--kl-coef must be positive")
    if args.kl_target is not None:
        require(args.kl_target > 0, "--kl-target must be positive")
        require(1e-4 <= args.kl_coef <= 1e4, "--kl-coef must be in [1e-4, 1e4] to be adapted")
    # --- end of scalar beta ---
    if args.cuda:
        require(torch.cuda.is_available(), "--cuda needs a GPU, and this PyTorch finds none")
    if args.compile and not args.cuda:
        rule = "--compile needs a C++ compiler (g++, or what CXX names) and Python.h (python3-dev)"
        compiler = shutil.which(os.environ.get("CXX", "g++"))
        require(compiler, rule)
        trial = [compiler, "-fsyntax-only", "-I", sysconfig.get_path("include"), "-xc++", "-"]
        code = b"#include <Python.h>"
        tried = subprocess.run(trial, input=code, capture_output=True, check=False)
        require(tried.returncode == 0, rule)
    if args.track:
        require(find_spec("wandb"), "--track needs the package wandb: pip install wandb")


def show_mujoco_warning(text: str) -> None:
    """Print MuJoCo's warnings, which would go to a file, except the one about HalfCheetah."""
    if "settotalmass" not in text:
        tqdm.write(text, file=sys.stderr)


def make_env(env_id: str, **kwargs) -> gym.Env:
    """A Gymnasium environment of Box spaces; exits with code 2 and one line if it is none."""
    gym.logger.min_level = gym.logger.ERROR  # quiet: the paper's v4 tasks are deprecated
    mujoco.set_mju_user_warning(show_mujoco_warning)
    try:
        env = gym.make(env_id, **kwargs)
    except Exception as error:  # noqa: BLE001, a third party's constructor may raise anything
        fail(f"--env-id {env_id!r} cannot be made: {error}")
    for space in (env.observation_space, env.action_space):
        if not isinstance(space, gym.spaces.Box):
            fail(f"--env-id must name a task of Box spaces, {env_id} has {space}")
    return env


class RunningMeanStd(nn.Module):
    """Mean and variance of all rows seen so far, per column (Chan et al. 1979)."""

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("var", torch.ones(dim, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(dim, dtype=torch.float64))  # the same in all

    def update(self, rows: torch.Tensor) -> None:
        """Take in rows [B, dim]."""
        rows = rows.double()
        weight = len(rows) / (self.count + len(rows))
        delta = rows.mean(0) - self.mean
        self.var += (rows.var(0, correction=0) - self.var) * weight
        self.var += delta**2 * weight * (1 - weight)
        self.mean += delta * weight
        self.count += len(rows)


def mlp(in_dim: int, out_dim: int, out_gain: float) -> nn.Sequential:
    """64-64 tanh network: biases 0, weights orthogonal with gain sqrt(2), in the last out_gain."""
    net = nn.Sequential(
        nn.Linear(in_dim, 64),
        nn.Tanh(),
        nn.Linear(64, 64),
        nn.Tanh(),
        nn.Linear(64, out_dim),
    )
    gains = {0: math.sqrt(2), 2: math.sqrt(2), 4: out_gain}
    for i, gain in gains.items():
        nn.init.orthogonal_(net[i].weight, gain)
        nn.init.zeros_(net[i].bias)
    return net


class Agent(nn.Module):
    """Gaussian policy and value function; its observation statistics are saved with its weights."""

    def __init__(self, obs_dim: int, act_dim: int):
        super().__init__()
        self.obs_rms = RunningMeanStd(obs_dim)
        self.critic = mlp(obs_dim, 1, out_gain=1.0)
        self.actor_mean = mlp(obs_dim, act_dim, out_gain=0.01)
        self.actor_logstd = nn.Parameter(torch.zeros(act_dim))

    def normalize(self, obs: torch.Tensor) -> torch.Tensor:
        """Observations [B, obs_dim] as the networks take them: standardised, clipped to +-10."""
        std = torch.sqrt(self.obs_rms.var.float() + 1e-8)
        return ((obs - self.obs_rms.mean.float()) / std).clamp(-10, 10)

    def get_value(self, obs: torch.Tensor) -> torch.Tensor:
        """V of normalised observations, [B, obs_dim] -> [B]."""
        return self.critic(obs).squeeze(-1)

    def logprob(self, mean: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """log pi(actions) of the diagonal Gaussian around mean, [B, act_dim] -> [B].

        Normal(mean, std).log_prob would make a run some 7 % slower.
        """
        z = (actions - mean) * torch.exp(-self.actor_logstd)
        log_normalizer = self.actor_logstd + 0.5 * math.log(2 * math.pi)
        return (-0.5 * z * z - log_normalizer).sum(-1)

    def entropy(self) -> torch.Tensor:
        """Entropy of the Gaussian, the same in every state, []."""
        return (self.actor_logstd + 0.5 * math.log(2 * math.pi * math.e)).sum()


def numpy_policy(agent: Agent) -> Callable[[np.ndarray], np.ndarray]:
    """The function agent.actor_mean(agent.normalize(obs)) in NumPy, [num_envs, obs_dim] ->
    [num_envs, act_dim]. In PyTorch, one row at a time, it would make a run some 10 % slower."""
    obs_mean = agent.obs_rms.mean.float().cpu().numpy()
    obs_std = np.sqrt(agent.obs_rms.var.float().cpu().numpy() + 1e-8)
    state = agent.actor_mean.state_dict()
    weights = {name: tensor.cpu().numpy().T for name, tensor in state.items()}

    def policy_mean(obs: np.ndarray) -> np.ndarray:
        x = ((obs - obs_mean) / obs_std).clip(-10, 10)
        x = np.tanh(x @ weights["0.weight"] + weights["0.bias"])
        x = np.tanh(x @ weights["2.weight"] + weights["2.bias"])
        return x @ weights["4.weight"] + weights["4.bias"]

    return policy_mean


class Episode(NamedTuple):
    """A finished episode."""

    ended_at: int  # global step
    episodic_return: float
    length: int


class Runner:
    """Steps the environments in turn and keeps the latest rollout.

    Arrays are [num_steps, num_envs] or [num_steps, num_envs, dim], overwritten by each rollout.
    """

    def __init__(self, args: Args):
        self.gamma = args.gamma
        self.envs = [make_env(args.env_id) for _ in range(args.num_envs)]
        self.action_space = self.envs[0].action_space
        obs_dim = math.prod(self.envs[0].observation_space.shape)
        act_dim = math.prod(self.action_space.shape)

        shape = (args.num_steps, args.num_envs)
        self.obs = np.zeros((*shape, obs_dim), np.float32)
        self.next_obs = np.zeros((*shape, obs_dim), np.float32)  # after the step, before any reset
        self.actions = np.zeros((*shape, act_dim), np.float32)  # as sampled, not clipped
        self.rewards = np.zeros(shape)
        self.discounted_returns = np.zeros(shape)  # of the episode so far, to scale rewards
        self.terminations = np.zeros(shape, bool)
        self.dones = np.zeros(shape, bool)  # the episode ended with this step, either way

        # What lasts from one rollout to the next.
        self.global_step = 0
        self.last_obs = np.zeros((args.num_envs, obs_dim), np.float32)
        self.discounted_return = np.zeros(args.num_envs)
        self.episode_return = np.zeros(args.num_envs)
        self.episode_length = np.zeros(args.num_envs, int)
        for n, env in enumerate(self.envs):
            obs, _ = env.reset(seed=args.seed + n)
            self.last_obs[n] = obs.ravel()

    def rollout(self, agent: Agent) -> list[Episode]:
        """Take num_steps steps in each environment; return the episodes that ended."""
        policy_mean = numpy_policy(agent)
        action_std = agent.actor_logstd.detach().exp().cpu()
        noise = (torch.randn(self.actions.shape) * action_std).numpy()  # for the whole rollout
        low = self.action_space.low.ravel()
        high = self.action_space.high.ravel()
        episodes = []
        for t in range(len(self.obs)):
            self.global_step += len(self.envs)
            self.obs[t] = self.last_obs
            self.actions[t] = policy_mean(self.last_obs) + noise[t]
            env_actions = self.actions[t].clip(low, high).astype(self.action_space.dtype)
            for n, env in enumerate(self.envs):
                action = env_actions[n].reshape(self.action_space.shape)
                obs, reward, terminated, truncated, _ = env.step(action)
                reward = np.asarray(reward).item()  # some tasks return an array of one number
                done = terminated or truncated

                self.next_obs[t, n] = obs.ravel()
                self.rewards[t, n] = reward
                self.terminations[t, n] = terminated
                self.dones[t, n] = done

                self.discounted_return[n] = reward + self.gamma * self.discounted_return[n]
                self.discounted_returns[t, n] = self.discounted_return[n]
                self.episode_return[n] += reward
                self.episode_length[n] += 1
                if done:
                    episodes.append(
                        Episode(self.global_step, self.episode_return[n], self.episode_length[n])
                    )
                    self.discounted_return[n] = 0
                    self.episode_return[n] = 0
                    self.episode_length[n] = 0
                    obs, _ = env.reset()
                self.last_obs[n] = obs.ravel()
        return episodes


def compute_gae(
    rewards: np.ndarray,
    values: np.ndarray,
    next_values: np.ndarray,
    terminations: np.ndarray,
    dones: np.ndarray,
    args: Args,
) -> np.ndarray:
    """Advantages by generalised advantage estimation (Schulman et al. 2016, eq. 16).

    Arrays are [num_steps, num_envs]. After a termination nothing follows; a truncation (a time
    limit) is followed by the value of its last observation. Both end the sum over later steps.
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
    """N samples; "old" marks what the agent that collected them gave."""

    obs: torch.Tensor  # [N, obs_dim], normalised
    actions: torch.Tensor  # [N, act_dim], as sampled
    old_logprob: torch.Tensor  # [N]
    old_mean: torch.Tensor  # [N, act_dim], of the policy; with old_logstd for closed-form KLs
    old_logstd: torch.Tensor  # [N, act_dim]
    old_value: torch.Tensor  # [N]
    advantages: torch.Tensor  # [N]
    returns: torch.Tensor  # [N]


def compute_value_loss(agent: Agent, args: Args, batch: Batch) -> torch.Tensor:
    """Half the mean over samples of the larger squared error: of V, or of V clipped, []."""
    value = agent.get_value(batch.obs)
    squared_error = (value - batch.returns) ** 2
    if args.clip_vloss:
        low = batch.old_value - args.clip_coef
        high = batch.old_value + args.clip_coef
        clipped_value = value.clamp(low, high)
        squared_error = torch.max(squared_error, (clipped_value - batch.returns) ** 2)
    return 0.5 * squared_error.mean()


def ppo_loss(agent: Agent, args: Args, batch: Batch) -> tuple[torch.Tensor, dict]:
    """Loss [] of a minibatch, and a dict to log: scalars [] and per-sample tensors [N]."""
    mean = agent.actor_mean(batch.obs)
    logprob = agent.logprob(mean, batch.actions)
    logratio = logprob - batch.old_logprob
    ratio = logratio.exp()  # w
    # clip(w), for the min and Phi forms with gradient 1 in the band, edges included, else 0. That
    # of ratio.clamp is the same up to PyTorch 2.13; from 2.14 on it is 0 on the edges, too.
    nearest = ratio.detach().clamp(1 - args.clip_coef, 1 + args.clip_coef)
    clipped_ratio = torch.where(ratio == nearest, ratio, nearest)
    # From here on A means A / N, for a sum: averaging at the end would round the forms differently.
    # In float64 w A is exact. In float32 w A and clip(w) A could round to the same number outside
    # the band; the min form would then pass on half of a gradient that should be 0.
    advantages = (batch.advantages / len(batch.advantages)).double()
    excess = (ratio - clipped_ratio).detach() * advantages
    kill_set = excess > 0  # w > 1 + epsilon and A > 0, or w < 1 - epsilon and A < 0
    pass_set = excess < 0  # outside the band too, but with the other sign of A

    # --- policy loss ---
    # scalar beta: sum of w A - beta KL(old || new) / N, closed form; Schulman et al. 2017, eq. 8
    logstd = agent.actor_logstd
    spread = torch.exp(2 * batch.old_logstd) + (batch.old_mean - mean) ** 2
    kl = (logstd - batch.old_logstd + 0.5 * spread * torch.exp(-2 * logstd) - 0.5).sum(-1)
    objective = ratio * advantages - args.kl_coef * kl / len(kl)
    # --- end of policy loss ---
    policy_loss = -objective.sum()

    value_loss = compute_value_loss(agent, args, batch)
    entropy = agent.entropy()
    loss = policy_loss + args.vf_coef * value_loss - args.ent_coef * entropy
    metrics = {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "logratio": logratio,
        "kill": kill_set,
        "pass": pass_set,
    }
    return loss, {name: x.detach() for name, x in metrics.items()}


def loss_in_words() -> str:
    """The first comment in the marked block of ppo_loss, in which the scripts differ."""
    with open(__file__, encoding="utf-8") as file:
        block = file.read().split("# --- policy loss ---\n")[1]
    return block.splitlines()[0].strip("# ")


def compute_gradient(agent: Agent, args: Args, batch: Batch) -> tuple[torch.Tensor, dict]:
    """The gradient of ppo_loss as one vector, its norm clipped, and ppo_loss's metrics.

    As loss.backward() and clip_grad_norm_ give it; those two and Adam over 13 separate tensors
    would together make a run some 15 % slower.
    """
    loss, metrics = ppo_loss(agent, args, batch)
    grads = torch.autograd.grad(loss, list(agent.parameters()))
    grad = torch.cat([g.flatten() for g in grads])
    scale = args.max_grad_norm / (grad.norm() + 1e-6)
    clipped_grad = grad * scale.clamp(max=1)
    return clipped_grad, metrics


def compile_gradient(args: Args) -> Callable:
    """compute_gradient, compiled at its first call; on the GPU into a CUDA graph, which replays the
    kernels of an uncompiled run. Compiled ones could sum in an order that depends on the form.
    """
    torch._dynamo.config.trace_autograd_ops = True  # torch.autograd.grad within the graph
    if args.cuda:
        how = {"backend": "cudagraphs"}
    else:
        # With its heuristics the compiler may vectorise exp() in some forms only: they round apart.
        how = {"options": {"cpp_wrapper": True, "cpp.enable_tiling_heuristics": False}}
    return torch.compile(compute_gradient, fullgraph=True, dynamic=False, **how)


class Adam:
    """torch.optim.Adam over one vector, of which the agent's parameters become views.

    That class itself would make a run some 8 % slower, and load PyTorch's compiler: 67 MB, and 1 s
    at the start.
    """

    def __init__(self, agent: Agent):
        self.weights = nn.utils.parameters_to_vector(agent.parameters()).detach()
        nn.utils.vector_to_parameters(self.weights, agent.parameters())
        self.exp_avg = torch.zeros_like(self.weights)
        self.exp_avg_sq = torch.zeros_like(self.weights)
        self.step_count = self.weights.new_zeros(())

    def step(self, grad: torch.Tensor, lr: float) -> None:
        """Move the weights against their gradient."""
        adam(
            params=[self.weights],
            grads=[grad],
            exp_avgs=[self.exp_avg],
            exp_avg_sqs=[self.exp_avg_sq],
            max_exp_avg_sqs=[],
            state_steps=[self.step_count],
            lr=lr,
            beta1=0.9,
            beta2=0.999,
            eps=1e-5,
            weight_decay=0.0,
            amsgrad=False,
            maximize=False,
            fused=True,
        )


def approx_kl(logratio: torch.Tensor) -> torch.Tensor:
    """Mean of w - 1 - log w, an estimate of KL(old || new) from samples of the old policy, []."""
    return (logratio.exp() - 1 - logratio).mean()


def update(
    agent: Agent, optimizer: Adam, gradient_fn: Callable, args: Args, batch: Batch, lr: float
) -> dict[str, torch.Tensor]:
    """Take update_epochs passes over the batch; return ppo_loss's metrics, a row a minibatch."""
    batch_size = len(batch.obs)
    metrics = []
    for _ in range(args.update_epochs):
        b_inds = torch.randperm(batch_size).to(batch.obs.device)
        for mb_inds in b_inds.chunk(args.num_minibatches):
            # index_select is faster than tensor[mb_inds]
            minibatch = Batch(*[tensor.index_select(0, mb_inds) for tensor in batch])
            grad, mb_metrics = gradient_fn(agent, args, minibatch)
            optimizer.step(grad, lr)
            if args.cuda:  # CUDA graphs write the next minibatch's over this one's
                mb_metrics = {name: x.clone() for name, x in mb_metrics.items()}
            metrics.append(mb_metrics)
        if args.target_kl is not None:
            logratios = [m["logratio"] for m in metrics[-args.num_minibatches :]]
            if approx_kl(torch.stack(logratios)) > args.target_kl:
                break
    if not optimizer.weights.isfinite().all():
        fail("the weights have become NaN or infinite: lower --learning-rate", 1)
    return {name: torch.stack([m[name] for m in metrics]) for name in metrics[0]}


@torch.no_grad()
def policy_change(agent: Agent, batch: Batch) -> tuple[float, torch.Tensor]:
    """Mean over a rollout's states of the closed-form KL(old || new), and the ratios [N]."""
    new_mean = agent.actor_mean(batch.obs)
    old_policy = Normal(batch.old_mean, batch.old_logstd.exp(), validate_args=False)
    new_policy = Normal(new_mean, agent.actor_logstd.exp(), validate_args=False)
    kl = kl_divergence(old_policy, new_policy).sum(-1).mean()
    logratio = agent.logprob(new_mean, batch.actions) - batch.old_logprob
    return kl.item(), logratio.exp()


def fraction(members: torch.Tensor) -> float:
    """Fraction of samples in a set, from booleans."""
    return members.double().mean().item()


def loss_scalars(metrics: dict[str, torch.Tensor], clip_coef: float) -> dict[str, float]:
    """What to log of an iteration's minibatches, from what `update` returns."""
    logratio = metrics["logratio"]
    return {
        "losses/policy_loss": metrics["policy_loss"].mean().item(),
        "losses/value_loss": metrics["value_loss"].mean().item(),
        "losses/entropy": metrics["entropy"].mean().item(),
        "losses/approx_kl": approx_kl(logratio).item(),
        "losses/clipfrac": fraction((logratio.exp() - 1).abs() > clip_coef),
        "partition/in": fraction(~metrics["kill"] & ~metrics["pass"]),
        "partition/kill": fraction(metrics["kill"]),
        "partition/pass": fraction(metrics["pass"]),
    }


def write_file(path: str, data: bytes) -> None:
    """Write or replace a file in one go: readers find the old one or the new, never a part."""
    with open(path + ".tmp", "wb") as file:
        file.write(data)
    os.replace(path + ".tmp", path)


def say(line: str, file: TextIO | None = None) -> None:
    """Print a line; if whoever read the output has gone, train on in silence."""
    with contextlib.suppress(OSError):
        print(line, file=file, flush=True)


def cpu_kind() -> str:
    """Kind of processor: NumPy and PyTorch choose their kernels by it, and these round apart."""
    words = [platform.machine(), torch.backends.cpu.get_cpu_capability()]
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:  # Linux has it
        words += re.findall(r"(?:cpu family|model|CPU part)\s*: (\S+)\n", file.read())[:2]
    return " ".join(words)


def start_run(args: Args) -> tuple[str, dict, SummaryWriter]:
    """Make the run folder and say where it is; return its path, the config and the writer."""
    run_name = f"{args.env_id}__{args.exp_name}__{args.seed}__{int(time.time())}"
    run_dir = args.run_dir or "runs/" + re.sub("[/:]", "_", run_name)
    packages = ("torch", "gymnasium", "mujoco", "numpy")
    versions = {package: version(package) for package in packages}
    versions["python"] = sys.version.split()[0]
    versions["cpu"] = cpu_kind()
    with open(__file__, "rb") as file:
        versions["script"] = hashlib.sha256(file.read()).hexdigest()
    device = "cuda" if args.cuda else "cpu"
    config = asdict(args) | {"run_dir": run_dir, "device": device, "versions": versions}
    try:
        os.makedirs(run_dir, exist_ok=True)
        with open(f"{run_dir}/config.json", "x") as file:  # by one run only
            json.dump(config, file, indent=2)
    except FileExistsError:
        fail(f"--run-dir {run_dir} holds a run already: name another folder, or remove it")
    except OSError as error:
        fail(f"--run-dir {run_dir} cannot be written: {error.strerror}")

    if args.track:
        import wandb

        wandb.init(
            project=args.wandb_project_name,
            entity=args.wandb_entity,
            dir=run_dir,
            name=run_dir,
            config=config,
            sync_tensorboard=True,
        )
    writer = SummaryWriter(run_dir)
    rows = [f"|{argument}|{value}|" for argument, value in config.items()]
    writer.add_text("hyperparameters", "\n".join(["|argument|value|", "|-|-|", *rows]))

    say(f"PPO, {loss_in_words()}")
    say(f"{args.env_id}, seed {args.seed}, {device}; watch: tensorboard --logdir {run_dir}")
    return run_dir, config, writer


def save_agent(agent: Agent, run_dir: str, global_step: int) -> str:
    """Write agent.pt; return the SHA-256 of weights and observation statistics."""
    state = {name: tensor.cpu() for name, tensor in agent.state_dict().items()}
    buffer = io.BytesIO()
    torch.save({"global_step": global_step, "state_dict": state}, buffer)
    write_file(f"{run_dir}/agent.pt", buffer.getvalue())
    data = [tensor.numpy().tobytes() for tensor in state.values()]
    return hashlib.sha256(b"".join(data)).hexdigest()


def finish_run(run_dir: str, result: dict) -> None:
    """Write result.json, whose presence means a finished run, and say what came out."""
    write_file(f"{run_dir}/result.json", json.dumps(result, indent=2).encode())
    score = result["episodic_return"]
    minutes, seconds = divmod(round(result["wall_time_s"]), 60)
    say(f"finished in {minutes} min {seconds} s")
    if score is None:
        say("return: no episode ended in the last 10 % of the steps")
    else:
        digits = 0 if abs(score) >= 10 else 2
        say(f"return {score:.{digits}f}, mean over the last 10 % of the steps")
    say(f"kill_fraction {result['kill_fraction']:.3f}, the share of samples in the kill set")
    say(f"weights_sha256 {result['weights_sha256']}")
    say(f"play it with: python evaluate.py {run_dir}")


def set_up_torch(args: Args) -> torch.device:
    """Seed every generator, make PyTorch deterministic, and return the device to update on."""
    random.seed(args.seed)
    np.random.seed(args.seed)
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # deterministic, and the fastest for networks this small
    if not args.cuda:
        return torch.device("cpu")
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(args.torch_deterministic)
    return torch.device("cuda")


def train(args: Args) -> None:
    """Train PPO on a continuous-control task and leave the results in the run folder."""
    check(args)
    device = set_up_torch(args)
    batch_size = args.num_envs * args.num_steps
    num_iterations = args.total_timesteps // batch_size
    total_steps = num_iterations * batch_size
    save_every = math.ceil(num_iterations / 10)

    runner = Runner(args)
    agent = Agent(runner.obs.shape[-1], runner.actions.shape[-1]).to(device)
    optimizer = Adam(agent)
    return_rms = RunningMeanStd(1)
    gradient_fn = compile_gradient(args) if args.compile else compute_gradient

    run_dir, config, writer = start_run(args)
    bar = tqdm(total=total_steps, unit=" steps", leave=False, disable=None)  # on a terminal only
    final_returns = []  # of the episodes that ended in the last 10 % of the steps
    kill_fractions = []
    start_time = time.time()
    # --- scalar beta ---
    args.kl_coef = torch.tensor(args.kl_coef, device=device)  # a new float would recompile
    # --- end of scalar beta ---
    for iteration in range(1, num_iterations + 1):
        lr = args.learning_rate
        if args.anneal_lr:
            lr *= 1 - (iteration - 1) / num_iterations

        # act
        episodes = runner.rollout(agent)
        global_step = runner.global_step

        # evaluate: values and log-probabilities in one pass, the policy being the same throughout
        raw_obs = torch.tensor(runner.obs).flatten(0, 1).to(device)
        raw_next_obs = torch.tensor(runner.next_obs).flatten(0, 1).to(device)
        actions = torch.tensor(runner.actions).flatten(0, 1).to(device)
        with torch.no_grad():
            obs = agent.normalize(raw_obs)
            old_mean = agent.actor_mean(obs)
            old_logstd = agent.actor_logstd.repeat(batch_size, 1)  # a copy: Adam works in place
            old_logprob = agent.logprob(old_mean, actions)
            old_value = agent.get_value(obs)
            next_value = agent.get_value(agent.normalize(raw_next_obs))

        # advantages, of rewards divided by the std of discounted returns (as NormalizeReward does)
        return_rms.update(torch.tensor(runner.discounted_returns).reshape(-1, 1))
        return_std = math.sqrt(return_rms.var.item() + 1e-8)
        rewards = (runner.rewards / return_std).clip(-10, 10)
        values = old_value.cpu().numpy().reshape(rewards.shape)
        next_values = next_value.cpu().numpy().reshape(rewards.shape)
        advantages = compute_gae(
            rewards, values, next_values, runner.terminations, runner.dones, args
        )
        returns = advantages + values
        if args.norm_adv:
            advantages = (advantages - advantages.mean()) / (advantages.std(ddof=1) + 1e-8)
        if not (math.isfinite(return_std) and np.isfinite(advantages).all()):
            fail(f"{args.env_id} returned NaN, infinity or rewards too large to square", 1)

        # update
        batch = Batch(
            obs=obs,
            actions=actions,
            old_logprob=old_logprob,
            old_mean=old_mean,
            old_logstd=old_logstd,
            old_value=old_value,
            advantages=torch.tensor(advantages.ravel()).float().to(device),
            returns=torch.tensor(returns.ravel()).float().to(device),
        )
        metrics = update(agent, optimizer, gradient_fn, args, batch, lr)
        kl, ratio = policy_change(agent, batch)
        agent.obs_rms.update(raw_obs)  # last: a rollout and its update see the same statistics

        # log
        seconds = time.time() - start_time
        log = loss_scalars(metrics, args.clip_coef)
        log["losses/explained_variance"] = 1 - (returns - values).var() / (returns.var() + 1e-8)
        log["losses/kl"] = kl
        # --- scalar beta ---
        log["charts/kl_coef"] = args.kl_coef.item()
        if args.kl_target is not None:  # Schulman et al. 2017, section 4
            if kl > 1.5 * args.kl_target:
                args.kl_coef *= 2
            if kl < args.kl_target / 1.5:
                args.kl_coef /= 2
            args.kl_coef.clamp_(1e-4, 1e4)
        # --- end of scalar beta ---
        for percent in (1, 10, 50, 90, 99):
            log[f"ratio/q{percent:02}"] = ratio.quantile(percent / 100)
        log["charts/learning_rate"] = lr
        log["charts/SPS"] = global_step / seconds
        if episodes:
            log["charts/episodic_return"] = np.mean([ep.episodic_return for ep in episodes])
            log["charts/episodic_length"] = np.mean([ep.length for ep in episodes])
            bar.set_postfix_str(f"return {log['charts/episodic_return']:.0f}", refresh=False)
        for name, value in log.items():
            writer.add_scalar(name, float(value), global_step)
        writer.flush()
        kill_fractions.append(log["partition/kill"])
        final_returns += [ep.episodic_return for ep in episodes if ep.ended_at > 0.9 * total_steps]
        if iteration % save_every == 0 or iteration == num_iterations:
            weights_sha256 = save_agent(agent, run_dir, global_step)
            if bar.disable:
                line = f"{global_step}/{total_steps} steps, {global_step / seconds:.0f} steps/s"
                say(line, sys.stderr)
        bar.update(batch_size)

    bar.close()
    writer.close()
    result = {
        "global_step": global_step,
        "episodic_return": float(np.mean(final_returns)) if final_returns else None,
        "kill_fraction": float(np.mean(kill_fractions)),
        "weights_sha256": weights_sha256,
        "sps": global_step / seconds,
        "wall_time_s": seconds,
    }
    finish_run(run_dir, config | result)


if __name__ == "__main__":
    threading.excepthook = lambda _: None  # the event writer's thread: its errors end train, too
    try:
        train(tyro.cli(Args, description=f"PPO, {loss_in_words()}"))
    except MemoryError as error:
        fail(f"--num-envs times --num-steps needs too much memory: {error}")
    except OSError as error:
        fail(f"cannot write: {error}", 1)
