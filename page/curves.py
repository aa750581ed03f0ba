"""The numbers of the page: what the scripts' own ppo_loss says of single samples.

Everything is computed in float64 and rounded, so that the page is the same on every machine.
"""

import math
from statistics import NormalDist
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
from draw import sample_loss
from torch.distributions import Normal

EPSILONS = [0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4]
RATIOS = [round(0.02 * i, 2) for i in range(1, 101)]  # 0.02 to 2
ADVANTAGES = [round(0.05 * i, 2) for i in range(-30, 31)]  # -1.5 to 1.5
OLD_LOGPROB = -1.0  # log pi_old of the sample, on which the value of the beta_t form depends
SCALE = 10_000  # curves are stored as whole numbers of 1 / SCALE

# Part 5: one state, one action dimension, a policy that has moved, and many samples of the old one.
NUM_SAMPLES = 60
BETAS = [0.25 * i for i in range(13)]  # 0 to 3
OLD_MEAN, OLD_LOGSTD = 0.0, 0.0
NEW_MEAN, NEW_LOGSTD = 0.25, -0.12


def evaluate(script: ModuleType, epsilon: float) -> dict[str, np.ndarray]:
    """Objective, coefficient of grad log pi, kill and pass, each [advantages, ratios]."""

    def loss(logprob: torch.Tensor, advantage: torch.Tensor) -> tuple[torch.Tensor, dict]:
        """ppo_loss of a minibatch of this sample alone."""
        old_logprob = torch.full((1,), OLD_LOGPROB, dtype=torch.float64)
        return sample_loss(script, epsilon, logprob.reshape(1), old_logprob, advantage.reshape(1))

    # A hair towards 1, so that the ratios 1 - epsilon and 1 + epsilon lie in the band.
    ratios = 1 + (torch.tensor(RATIOS, dtype=torch.float64) - 1) * (1 - 1e-9)
    advantages = torch.tensor(ADVANTAGES, dtype=torch.float64)
    logprobs, advantages = torch.broadcast_tensors(
        OLD_LOGPROB + ratios.log(), advantages.unsqueeze(1)
    )
    gradient = torch.func.grad_and_value(loss, has_aux=True)
    each_ratio = torch.func.vmap(gradient)
    each_advantage = torch.func.vmap(each_ratio)
    slope, (value, metrics) = each_advantage(logprobs, advantages)
    return {
        "objective": -value.numpy(),
        "coefficient": -slope.numpy(),
        "kill": metrics["partition/kill"].bool().numpy(),
        "pass": metrics["partition/pass"].bool().numpy(),
    }


class CurvePool:
    """Curves as lists of whole numbers, each different one once."""

    def __init__(self):
        self.curves: list[list[int]] = []
        self.index: dict[tuple[int, ...], int] = {}

    def add(self, values: np.ndarray) -> int:
        """The place of this curve in the pool."""
        curve = [round(value * SCALE) for value in values.tolist()]
        key = tuple(curve)
        if key not in self.index:
            self.index[key] = len(self.curves)
            self.curves.append(curve)
        return self.index[key]


def letters(kill: np.ndarray, passed: np.ndarray) -> str:
    """A curve's sets: i, k or p per ratio."""
    return "".join(np.where(kill, "k", np.where(passed, "p", "i")))


def tables(scripts: dict[str, ModuleType]) -> dict:
    """The curves of every script, divided by |A|, which makes most of them equal and storable."""
    pool = CurvePool()
    sizes = [abs(advantage) or 1.0 for advantage in ADVANTAGES]
    forms = {}
    sets = []
    for name, script in scripts.items():
        forms[name] = {"objective": [], "coefficient": []}
        for epsilon in EPSILONS:
            result = evaluate(script, epsilon)
            for quantity, rows in forms[name].items():
                scaled = zip(result[quantity], sizes, strict=True)
                rows.append([pool.add(values / size) for values, size in scaled])
            if name == "klip":
                pairs = zip(result["kill"], result["pass"], strict=True)
                sets.append([letters(kill, passed) for kill, passed in pairs])
    return {
        "epsilons": EPSILONS,
        "ratios": RATIOS,
        "advantages": ADVANTAGES,
        "oldLogprob": OLD_LOGPROB,
        "scale": SCALE,
        "curves": pool.curves,
        "forms": forms,
        "sets": sets,
    }


def pushes(
    script: ModuleType, actions: torch.Tensor, advantages: torch.Tensor, **args
) -> tuple[torch.Tensor, dict]:
    """Each sample's push on the mean and on log std, [N, 2], and what ppo_loss logs of it."""
    one = torch.ones(1, 1, dtype=torch.float64)
    old_logprob = Normal(OLD_MEAN, math.exp(OLD_LOGSTD)).log_prob(actions)

    def loss(parameters: torch.Tensor, action, logprob, advantage) -> tuple[torch.Tensor, dict]:
        """ppo_loss of a minibatch of this sample alone under the policy of these parameters."""
        mean, logstd = parameters
        agent = SimpleNamespace(
            actor_mean=lambda obs: mean.reshape(1, 1),
            actor_logstd=logstd.reshape(1),
            get_value=lambda obs: one[0],
        )
        agent.logprob = lambda mean, actions: script.Agent.logprob(agent, mean, actions)
        batch = script.Batch(
            obs=one,
            actions=action.reshape(1, 1),
            old_logprob=logprob.reshape(1),
            old_mean=one * OLD_MEAN,
            old_logstd=one * OLD_LOGSTD,
            old_value=one[0],
            advantages=advantage.reshape(1),
            returns=one[0],
        )
        return script.ppo_loss(agent, script.Args(**args), batch)

    parameters = torch.tensor([NEW_MEAN, NEW_LOGSTD], dtype=torch.float64)
    gradient = torch.func.grad(loss, has_aux=True)
    each_sample = torch.func.vmap(gradient, in_dims=(None, 0, 0, 0))
    slope, metrics = each_sample(parameters, actions, old_logprob, advantages)
    return -slope, metrics


def cloud(klip: ModuleType, scalar: ModuleType) -> dict:
    """Part 5: the pushes of many samples under beta_t and under every scalar beta."""
    normal = NormalDist(OLD_MEAN, math.exp(OLD_LOGSTD))
    quantiles = [normal.inv_cdf((i + 0.5) / NUM_SAMPLES) for i in range(NUM_SAMPLES)]
    actions = np.array(quantiles)  # of the old policy, and none of them extreme
    noise = np.random.default_rng(1).normal(size=NUM_SAMPLES)
    advantages = 0.5 * actions + noise  # larger actions are a little better
    advantages = (advantages - advantages.mean()) / advantages.std()
    samples = (torch.tensor(actions), torch.tensor(advantages))
    by_beta_t, metrics = pushes(klip, *samples)
    by_scalar = [pushes(scalar, *samples, kl_coef=beta)[0] for beta in BETAS]
    kill = metrics["partition/kill"].bool().numpy()
    passed = metrics["partition/pass"].bool().numpy()
    return {
        "sets": letters(kill, passed),
        "betaT": rounded(by_beta_t),
        "betas": BETAS,
        "scalar": [rounded(pushed) for pushed in by_scalar],
    }


def rounded(pushed: torch.Tensor) -> list[list[float]]:
    """As lists, to four digits."""
    return pushed.numpy().round(4).tolist()
