"""Details that the oracle (test_oracle.py) is too coarse or too short for."""

import random

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import load, scalars


def train(module, folder, rollouts: int, env_id: str = "InvertedPendulum-v4", **args) -> dict:
    """Train for some rollouts of 64 steps, two updates each; return what train() returns."""
    args |= {"num_steps": 64, "num_minibatches": 2, "update_epochs": 1, "run_dir": str(folder)}
    return module.train(module.Args(env_id, total_timesteps=64 * rollouts, **args))


def test_adam_is_torchs():
    """In double precision to 1e-12, with a changing learning rate; the agent moves with it."""
    module = load("clip")
    agent = module.Agent(5, 2).double()
    optimizer = module.Adam(agent)
    weights = optimizer.weights.clone()
    peer = torch.optim.Adam([weights], eps=1e-5)
    for i in range(30):
        lr = 1e-3 / (i + 1)
        weights.grad = torch.randn_like(weights) * 10.0 ** (-i % 7)
        peer.param_groups[0]["lr"] = lr
        peer.step()
        optimizer.step(weights.grad, lr)
        moved = torch.nn.utils.parameters_to_vector(agent.parameters())
        assert torch.allclose(optimizer.weights, weights, rtol=0, atol=1e-12)
        assert torch.equal(moved, optimizer.weights)


RULE = [  # beta at the start, the target, the KL of two rollouts, beta after them
    (1.0, 0.02, [0.0301, 0.0301], [1, 2, 4]),  # above 1.5 times the target it doubles
    (1.0, 0.02, [0.0133, 0.0133], [1, 0.5, 0.25]),  # below the target by 1.5 it halves
    (1.0, 0.02, [0.03, 0.02 / 1.5], [1, 1, 1]),  # exactly on a threshold nothing happens
    (1.0, 0.02, [0.05, 0.001], [1, 2, 1]),
    (6000.0, 0.02, [1.0, 1.0], [6000, 10_000, 10_000]),
    (1.5e-4, 0.02, [0.0, 0.0], [1.5e-4, 1e-4, 1e-4]),
    (3.0, None, [1.0, 0.0], [3, 3, 3]),  # fixed
]


@pytest.mark.parametrize("beta, target, kls, expected", RULE)
def test_the_rule_for_beta(monkeypatch, tmp_path, beta, target, kls, expected):
    """Schulman et al. 2017, sec. 4, once per rollout, on the KL that the run is made to measure;
    at the end comes one more, which no update follows."""
    module = load("kl_scalar")
    measured = iter([*kls, 1.0])
    states = torch.ones(64, 1).double()
    monkeypatch.setattr(module, "kl_divergence", lambda *_: states * next(measured))
    train(module, tmp_path, 3, kl_coef=beta, kl_target=target)
    assert scalars(tmp_path)["charts/kl_coef"] == pytest.approx(expected, rel=1e-6)


class Dice(gym.Env):
    """Draws from the two generators that everyone shares, seeds PyTorch's; gives no reward."""

    observation_space = gym.spaces.Box(0, 1, (2,), np.float32)
    action_space = gym.spaces.Box(-9, 9, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        torch.manual_seed(len(actions))  # in another run another
        return np.float32([random.random(), np.random.random()]), {}

    def step(self, action):
        actions.append(action)
        return np.float32([random.random(), 0]), 0.0, len(actions) % 4 == 0, False, {}


actions = []
gym.register("Dice-v0", entry_point=Dice)


SHARED = [
    ("    random.seed(args.seed)", "    random.seed(None)"),
    ("    np.random.seed(args.seed)", "    np.random.seed(None)"),
    ("(actions.shape, generator=generator)", "(actions.shape)"),
    ("(batch_size, generator=generator)", "(batch_size)"),
]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # nothing to explain
@pytest.mark.parametrize("mistake", [None, *SHARED], ids=str)
def test_a_task_that_uses_the_shared_generators(tmp_path, mistake):
    """Its run repeats, for it finds two of them seeded, and the script does not use the third."""
    module = load("klip", mistake) if mistake else load("klip")
    runs = [train(module, tmp_path / name, 2, "Dice-v0")["weights_sha256"] for name in "ab"]
    assert (runs[0] == runs[1]) == (mistake is None)


def test_the_agent_is_saved_ten_times_and_at_the_end(tmp_path, monkeypatch):
    steps, save = [], torch.save
    monkeypatch.setattr(torch, "save", lambda x, f: steps.append(x["global_step"]) or save(x, f))
    train(load("klip"), tmp_path, 22)
    assert steps == [64 * i for i in (3, 5, 7, 9, 11, 14, 16, 18, 20, 22)]
