"""PPO for continuous control in one file. Its siblings differ only between the markers.

    python ppo_clip_continuous.py --env-id Walker2d-v4        # min:     min(w A, clip(w) A)
    python ppo_phi_continuous.py --env-id Walker2d-v4         # Phi:     w A - Phi(w, A)
    python ppo_klip_continuous.py --env-id Walker2d-v4        # beta_t:  w A + beta_t log pi
    python ppo_kl_scalar_continuous.py --env-id Walker2d-v4   # beta:    w A - beta KL(old || new)

The first three have the same gradient: one seed trains them to the same bits (arXiv 2606.23932).
"""

import hashlib
import io
import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from itertools import accumulate

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # NumPy acts on a few rows, where more only spin
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # one graph needs no pool of compilers

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.optim.adam import adam  # torch.optim.Adam would load the compiler: 70 MB, 0.8 s
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


@dataclass
class Run:
    """what to train on, where, and where the results go"""

    env_id: str = "HalfCheetah-v4"  # Gymnasium id, Box observations and Box actions
    seed: int = 1  # decides the run: same seed, machine and versions, same weights
    total_timesteps: int = 1_000_000  # environment steps, rounded down to whole rollouts
    exp_name: str = os.path.basename(__file__).removesuffix(".py")  # in run folder and results
    run_dir: str | None = None  # run folder, by default runs/{env_id}__{exp_name}__{seed}__{time}
    torch_deterministic: bool = True  # deterministic algorithms on the GPU; on the CPU always
    cuda: bool = True  # evaluate and update on the GPU if there is one
    compile: bool = False  # compile the update: takes a C++ compiler and some 15 s, then faster
    track: bool = False  # mirror the run to Weights & Biases (pip install wandb)
    wandb_project_name: str = "klip-ppo"  # its project there
    wandb_entity: str | None = None  # its team there


@dataclass
class Args:
    """PPO; the defaults are the KLip paper's one configuration for all tasks"""

    learning_rate: float = 3e-4  # Adam's
    anneal_lr: bool = True  # lower it linearly to 0
    num_envs: int = 1  # environments, stepped in turn
    num_steps: int = 2048  # steps in each per rollout
    num_minibatches: int = 32  # per epoch; must divide num_envs * num_steps
    update_epochs: int = 10  # passes over each rollout
    gamma: float = 0.99  # discount
    gae_lambda: float = 0.95  # decay of the advantage estimate's trace
    norm_adv: bool = True  # normalise advantages, once per rollout
    clip_coef: float = 0.2  # epsilon: the band is 1 - epsilon <= ratio <= 1 + epsilon
    clip_vloss: bool = True  # clip the change of the value, too, by epsilon
    ent_coef: float = 0.0  # weight of the entropy bonus
    vf_coef: float = 0.5  # weight of the value loss
    max_grad_norm: float = 0.5  # bound on the norm of the whole gradient
    target_kl: float | None = None  # end the epochs after one whose mean approx_kl exceeds this


def fail(message: str, code: int = 2):
    """Print one line and exit: code 2 for bad input, 1 for a run that broke."""
    tqdm.write(f"{os.path.basename(sys.argv[0])}: error: {message}", file=sys.stderr)
    raise SystemExit(code)


def check(run: Run, args: Args) -> None:
    """Exit with code 2 and one line naming the argument if one will not do."""
    most = {"seed": 2**31 - 1, "gamma": 1, "gae_lambda": 1, "ent_coef": 1e9, "vf_coef": 1e9}
    for name, x in (vars(run) | vars(args)).items():
        end = most.get(name, 1 if name == "clip_coef" else math.inf)
        if type(x) in (int, float) and not (0 < x < end or (name in most and x in (0, end))):
            interval = f"[0, {end}]" if name in most else f"(0, {end})"
            fail(f"--{name.replace('_', '-')} must be a number in {interval}, not {x}")
    rollout = args.num_envs * args.num_steps
    if rollout % args.num_minibatches:
        fail(f"--num-minibatches must divide num_envs * num_steps = {rollout}")
    if run.total_timesteps < rollout:
        fail(f"--total-timesteps must be at least num_envs * num_steps = {rollout}")
    if os.path.exists(f"{run.run_dir}/result.json"):
        fail(f"--run-dir {run.run_dir} holds a finished run: name another folder")
    if run.compile and not shutil.which(os.environ.get("CXX", "g++")):
        fail("--compile needs a C++ compiler: install g++, or name yours in the variable CXX")
    if run.track and not find_spec("wandb"):
        fail("--track needs the package wandb: pip install wandb")


def make_env(env_id: str, **kwargs) -> gym.Env:
    """An environment that warns of nothing its user cannot change; exits with 2 if it won't do."""
    import mujoco  # whose warnings would also land in a file in the current folder

    mujoco.set_mju_user_warning(lambda text: "settotalmass" in text or tqdm.write(text))
    gym.logger.min_level = gym.logger.ERROR  # the v4 tasks are deprecated, and the paper's
    try:
        env = gym.make(env_id, **kwargs)
    except (gym.error.Error, ImportError, ValueError) as error:
        fail(f"--env-id {env_id} cannot be made: {error}")
    for kind, space in (("observation", env.observation_space), ("action", env.action_space)):
        if not isinstance(space, gym.spaces.Box):
            fail(f"--env-id must name a task of Box spaces, the {kind}s of {env_id} are {space}")
    return env


def merge(stats: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Mean, variance and count [3, dim] with rows [B, dim] taken in (Chan et al. 1979)."""
    (mean, var, count), rows = stats, rows.double()
    weight, delta = len(rows) / (count + len(rows)), rows.mean(0) - mean
    var = var + (rows.var(0, correction=0) - var) * weight + delta**2 * weight * (1 - weight)
    return torch.stack([mean + delta * weight, var, count + len(rows)])


class Agent(nn.Module):
    """Gaussian policy and value function; its observation statistics are saved with its weights."""

    def __init__(self, obs_dim: int, act_dim: int):
        super().__init__()
        start = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
        self.register_buffer("obs_stats", start.repeat(1, obs_dim))  # mean, variance, count
        self.critic = self.mlp(obs_dim, 1, gain=1.0)
        self.actor_mean = self.mlp(obs_dim, act_dim, gain=0.01)
        self.actor_logstd = nn.Parameter(torch.zeros(act_dim))

    def mlp(self, n_in: int, n_out: int, gain: float) -> nn.Sequential:
        """64-64 tanh network, biases 0, weights orthogonal with gain sqrt(2), in the last `gain`."""
        linear = nn.Linear(n_in, 64), nn.Linear(64, 64), nn.Linear(64, n_out)
        for layer, layer_gain in zip(linear, (math.sqrt(2), math.sqrt(2), gain)):
            nn.init.orthogonal_(layer.weight, layer_gain)
            nn.init.zeros_(layer.bias)
        return nn.Sequential(linear[0], nn.Tanh(), linear[1], nn.Tanh(), linear[2])

    def normalize(self, obs: torch.Tensor) -> torch.Tensor:
        """Observations [B, obs_dim] as the networks take them: standardised, clipped to +-10."""
        mean, var = self.obs_stats[:2].float()
        return ((obs - mean) / (var + 1e-8).sqrt()).clamp(-10, 10)

    def logprob(self, mean: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """log pi(actions) of the diagonal Gaussian around mean, [B, act_dim] -> [B]."""
        z = (actions - mean) * torch.exp(-self.actor_logstd)
        return (-0.5 * z * z - (self.actor_logstd + 0.5 * math.log(2 * math.pi))).sum(-1)


def ppo_loss(
    agent, args, obs, actions, old_logprob, old_mean, old_logstd, old_value, advantages, returns
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Loss [] of N samples, all [N] or [N, dim], "old" from the policy that collected them; and to
    log: policy loss, value loss, entropy []; log ratio, is it in kill, is it in pass [N]."""
    mean, logstd = agent.actor_mean(obs), agent.actor_logstd
    logprob = agent.logprob(mean, actions)
    logratio = logprob - old_logprob
    ratio = logratio.exp()  # w
    clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
    # A / N is summed, not A averaged, so that all forms round the same products; and in float64,
    # which holds the product of two float32 numbers, the min sees no false tie beyond the band.
    advantages = (advantages / len(advantages)).double()  # A / N, called A below
    side = (ratio - clipped).detach() * advantages
    kill = side > 0  # w > 1 + epsilon and A > 0, or w < 1 - epsilon and A < 0
    passing = side < 0  # outside the band too, but with the other sign of A

    # --- policy loss ---
    # min form: sum of min(w A, clip(w, 1 - epsilon, 1 + epsilon) A), Schulman et al. 2017, eq. 7
    objective = torch.min(ratio * advantages, clipped * advantages)
    # --- end of policy loss ---

    pg_loss = -objective.sum()
    value = agent.critic(obs).squeeze(-1)
    v_loss = nn.functional.mse_loss(value, returns, reduction="none")
    if args.clip_vloss:
        near = value.clamp(old_value - args.clip_coef, old_value + args.clip_coef)
        v_loss = torch.max(v_loss, nn.functional.mse_loss(near, returns, reduction="none"))
    v_loss = 0.5 * v_loss.mean()
    entropy = (logstd + 0.5 * math.log(2 * math.pi * math.e)).sum()
    loss = pg_loss + args.vf_coef * v_loss - args.ent_coef * entropy
    return loss, tuple(x.detach() for x in (pg_loss, v_loss, entropy, logratio, kill, passing))


def gradient(agent: Agent, args: Args, *minibatch: torch.Tensor) -> tuple:
    """The gradient of ppo_loss as one vector, its norm clipped; and what is logged of the loss."""
    loss, logged = ppo_loss(agent, args, *minibatch)
    grad = torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*agent.parameters()])])
    return grad * (args.max_grad_norm / (grad.norm() + 1e-6)).clamp(max=1), logged


def recurrence(x: np.ndarray, decay: np.ndarray, start: np.ndarray) -> np.ndarray:
    """y[t] = x[t] + decay[t] * y[t-1] over arrays [T, N], from y[-1] = start [N]."""
    y = np.empty_like(x)
    for n in range(len(start)):  # Python floats: ten times as fast here as NumPy's scalars
        steps = zip(x[:, n].tolist(), decay[:, n].tolist())
        y[:, n] = list(accumulate(steps, lambda y, s: s[0] + s[1] * y, initial=start[n]))[1:]
    return y


def gae(rewards, values, next_values, terminated, done, gamma, gae_lambda) -> np.ndarray:
    """Advantages (Schulman et al. 2016, eq. 16) from arrays [T, N]. What follows a termination is
    worth 0, what follows a truncation the value of its final observation; `done` is either."""
    delta = rewards + gamma * next_values * ~terminated - values
    decay, start = gamma * gae_lambda * ~done, np.zeros(delta.shape[1])
    return recurrence(delta[::-1], decay[::-1], start)[::-1]


def write(path: str, data: bytes) -> None:
    """Write a file that is either whole or not there."""
    with open(path + ".tmp", "wb") as file:
        file.write(data)
    os.replace(path + ".tmp", path)


def make_run_dir(run: Run, config: dict) -> str:
    """Make the run folder and write config.json there."""
    path = run.run_dir or f"runs/{run.env_id}__{run.exp_name}__{run.seed}__{int(time.time())}"
    try:
        os.makedirs(path, exist_ok=run.run_dir is not None)
        write(f"{path}/config.json", json.dumps(config, indent=2).encode())
    except OSError as error:
        if isinstance(error, FileExistsError) and run.run_dir is None:
            time.sleep(1)  # another run took this second
            return make_run_dir(run, config)
        fail(f"--run-dir {path} cannot be written: {error.strerror}")
    return path


def train(run: Run, args: Args) -> None:
    """Train PPO on a continuous-control task and leave the results in the run folder."""
    check(run, args)
    device = torch.device("cuda" if (gpu := run.cuda and torch.cuda.is_available()) else "cpu")
    if gpu:  # on the CPU one thread is enough to be deterministic
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        torch.use_deterministic_algorithms(run.torch_deterministic)
    torch.set_num_threads(1)  # also the fastest for nets this small
    torch.manual_seed(run.seed)
    batch_size = args.num_envs * args.num_steps
    num_iterations = run.total_timesteps // batch_size
    envs = [make_env(run.env_id) for _ in range(args.num_envs)]
    box, shape = envs[0].action_space, (args.num_steps, args.num_envs)
    low, high = box.low.ravel(), box.high.ravel()
    now = np.float32([env.reset(seed=run.seed + n)[0].ravel() for n, env in enumerate(envs)])
    obs, next_obs = np.zeros((2, *shape, now.shape[1]), np.float32)  # next: the true successors
    actions, rewards = np.zeros((*shape, low.size), np.float32), np.zeros(shape)  # not clipped
    terminated, done = np.zeros((2, *shape), bool)  # done: terminated or truncated
    agent = Agent(obs.shape[-1], actions.shape[-1]).to(device)
    weights = nn.utils.parameters_to_vector(agent.parameters()).detach()
    nn.utils.vector_to_parameters(weights, agent.parameters())  # views: Adam takes one vector
    moments = [0 * weights], [0 * weights], [], [weights.new_zeros(())]  # means of g, g^2; steps
    adam_args = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-5, "weight_decay": 0.0, "amsgrad": False}
    return_stats, gradient_fn = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64), gradient
    if run.compile:
        torch._dynamo.config.trace_autograd_ops = True  # torch.autograd.grad within the graph
        # on the GPU CUDA graphs, and no fused multiply-adds, which would round the forms apart
        options = {"triton.cudagraphs": gpu, "emulate_precision_casts": gpu, "cpp_wrapper": not gpu}
        gradient_fn = torch.compile(gradient, fullgraph=True, dynamic=False, options=options)
    versions = {p: version(p) for p in ("torch", "gymnasium", "mujoco", "numpy")}
    versions["python"] = sys.version.split()[0]
    config = asdict(run) | asdict(args) | {"device": str(device), "versions": versions}
    run_dir = make_run_dir(run, config)
    if run.track:
        import wandb

        to = {"project": run.wandb_project_name, "entity": run.wandb_entity, "dir": run_dir}
        wandb.init(**to, name=run_dir, config=config, sync_tensorboard=True)
    writer = SummaryWriter(run_dir, purge_step=0)  # hides what an unfinished run left here
    line = "{desc}{n_fmt}/{total_fmt} steps, {rate_fmt}, {remaining} left{postfix}\n"
    how = {} if sys.stderr.isatty() else {"mininterval": 10, "bar_format": line}
    bar = tqdm(total=num_iterations * batch_size, unit=" steps", leave=False, **how)
    start, carry, final, kills, kl = time.time(), np.zeros((3, args.num_envs)), [], [], None
    for iteration in range(1, num_iterations + 1):
        lr = args.learning_rate * (1 - (iteration - 1) / num_iterations if args.anneal_lr else 1)

        # act, with the actor in NumPy: on a few rows that takes a third of torch's time
        tensors = *agent.obs_stats[:2].float(), *agent.actor_mean.parameters()
        mean, var, w1, b1, w2, b2, w3, b3 = (y.detach().cpu().numpy().T for y in tensors)
        std = np.sqrt(var + 1e-8)
        noise = (torch.randn(actions.shape) * agent.actor_logstd.detach().exp().cpu()).numpy()
        for t in range(args.num_steps):
            obs[t], x = now, ((now - mean) / std).clip(-10, 10)
            actions[t] = np.tanh(np.tanh(x @ w1 + b1) @ w2 + b2) @ w3 + b3 + noise[t]
            clipped = actions[t].clip(low, high).astype(box.dtype).reshape(-1, *box.shape)
            for n, env in enumerate(envs):
                state, rewards[t, n], terminated[t, n], truncated, _ = env.step(clipped[n])
                next_obs[t, n] = state.ravel()
                done[t, n] = terminated[t, n] or truncated
                now[n] = env.reset()[0].ravel() if done[t, n] else next_obs[t, n]

        # evaluate
        with torch.no_grad():
            raw, acts = (torch.tensor(x).flatten(0, 1).to(device) for x in (obs, actions))
            x, next_x = agent.normalize(raw), agent.normalize(torch.tensor(next_obs).to(device))
            mean, logstd = agent.actor_mean(x), agent.actor_logstd.repeat(batch_size, 1)
            old_value, logprob = agent.critic(x).squeeze(-1), agent.logprob(mean, acts)
            v, next_v = (y.cpu().numpy().reshape(shape) for y in (old_value, agent.critic(next_x)))

        # advantages
        going_on = np.vstack([np.ones_like(done[:1]), ~done[:-1]])
        sums = np.stack([rewards, rewards, np.ones(shape)])  # so far in the episode:
        for i, gamma in enumerate((args.gamma, 1, 1)):  # discounted return, return, length
            sums[i] = recurrence(sums[i], gamma * going_on, carry[i])
        carry = sums[:, -1] * ~done[-1]
        return_stats = merge(return_stats, torch.tensor(sums[0].reshape(-1, 1)))
        scaled = (rewards / math.sqrt(return_stats[1].item() + 1e-8)).clip(-10, 10)
        advantages = gae(scaled, v, next_v, terminated, done, args.gamma, args.gae_lambda)
        returns = advantages + v
        if args.norm_adv:
            advantages = (advantages - advantages.mean()) / (advantages.std(ddof=1) + 1e-8)
        targets = (torch.tensor(y.ravel()).float().to(device) for y in (advantages, returns))

        # update
        batch, metrics = (x, acts, logprob, mean, logstd, old_value, *targets), []
        for _ in range(args.update_epochs):
            order = torch.randperm(batch_size).to(device)
            for minibatch in zip(*(y[order].chunk(args.num_minibatches) for y in batch)):
                grad, logged = gradient_fn(agent, args, *minibatch)
                adam([weights], [grad], *moments, lr=lr, maximize=False, fused=True, **adam_args)
                metrics.append([y.clone() for y in logged])  # CUDA graphs reuse their memory
            logratio = torch.stack([m[3] for m in metrics[-args.num_minibatches :]])
            if args.target_kl and (logratio.exp() - 1 - logratio).mean() > args.target_kl:
                break
        new = Normal(agent.actor_mean(x).detach(), agent.actor_logstd.detach().exp(), False)
        kl = kl_divergence(Normal(mean, logstd.exp(), False), new).sum(-1).mean().item()
        agent.obs_stats = merge(agent.obs_stats, raw)

        # log
        global_step, secs = iteration * batch_size, time.time() - start
        pg_loss, v_loss, entropy, logratio, kill, passing = map(torch.stack, zip(*metrics))
        scalars = {
            "charts/learning_rate": lr,
            "charts/SPS": global_step / secs,
            "losses/policy_loss": pg_loss.mean(),
            "losses/value_loss": v_loss.mean(),
            "losses/entropy": entropy.mean(),
            "losses/approx_kl": (logratio.exp() - 1 - logratio).mean(),
            "losses/clipfrac": ((logratio.exp() - 1).abs() > args.clip_coef).double().mean(),
            "losses/explained_variance": 1 - (returns - v).var() / (returns.var() + 1e-8),
            "losses/kl": kl,
            "partition/in": (~kill & ~passing).double().mean(),
            "partition/kill": kill.double().mean(),
            "partition/pass": passing.double().mean(),
        }
        if done.any():
            scalars["charts/episodic_return"] = sums[1][done].mean()
            scalars["charts/episodic_length"] = sums[2][done].mean()
            bar.set_postfix_str(f"return {sums[1][done].mean():.0f}", refresh=False)
        if not (weights.isfinite().all() and math.isfinite(sum(scalars.values()))):
            given = not np.isfinite(obs.sum() + rewards.sum())
            cause = f"returned by {run.env_id}" if given else "lower --learning-rate"
            fail(f"NaN or infinity in iteration {iteration}: {cause}", 1)
        for name, y in scalars.items():
            writer.add_scalar(name, float(y), global_step)
        os.utime(f"{run_dir}/config.json")  # fails if the folder was deleted
        kills.append(scalars["partition/kill"].item())
        ended_at = global_step - batch_size + (np.nonzero(done)[0] + 1) * args.num_envs
        final += sums[1][done][ended_at > 0.9 * num_iterations * batch_size].tolist()
        bar.update(batch_size)
    bar.close()
    writer.close()
    state, buffer = {k: y.cpu() for k, y in agent.state_dict().items()}, io.BytesIO()
    torch.save(state, buffer)
    write(f"{run_dir}/agent.pt", buffer.getvalue())
    sha = hashlib.sha256(b"".join(y.numpy().tobytes() for y in state.values())).hexdigest()
    score = float(np.mean(final)) if final else None
    result = config | {"global_step": global_step, "episodic_return": score, "weights_sha256": sha}
    result |= {"kill_fraction": np.mean(kills), "sps": global_step / secs, "wall_time_s": secs}
    write(f"{run_dir}/result.json", json.dumps(result, indent=2).encode())
    print(f"{run_dir}\nfinal return {score}\nweights_sha256 {sha}")


if __name__ == "__main__":
    threading.excepthook = lambda _: None  # train meets the event writer's errors as well
    for n in (signal.SIGINT, signal.SIGTERM):  # end without a word, from libraries too
        signal.signal(n, lambda n, _: (os.dup2(os.open(os.devnull, 1), 2), sys.exit(128 + n)))
    try:
        tyro.cli(train, config=(tyro.conf.OmitArgPrefixes,))
    except OSError as error:
        fail(f"the run folder cannot be written: {error}", 1)
