"""Details that the oracle (test_oracle.py) is too coarse or too short for."""

import random
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import load, result, scalars


def train(module, folder, rollouts: int, **args) -> dict:
    """Train for some rollouts of 64 steps, two updates each; return result.json."""
    small = {"num_steps": 64, "num_minibatches": 2, "update_epochs": 1}
    steps = rollouts * small["num_steps"]
    module.train(module.Args(**small | args, total_timesteps=steps, run_dir=str(folder)))
    return result(folder)


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
    module = load("kl_scalar")
    measured = iter([*kls, 1.0])
    states = torch.ones(64, 1)
    monkeypatch.setattr(module, "kl_divergence", lambda *_: states.double() * next(measured))
    train(module, tmp_path, 3, env_id="InvertedPendulum-v4", kl_coef=beta, kl_target=target)
    assert scalars(tmp_path)["charts/kl_coef"] == pytest.approx(expected, rel=1e-6)


class Dice(gym.Env):
    """Draws from the two generators that everyone shares."""

    observation_space = gym.spaces.Box(0, 1, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        return np.float32([random.random(), np.random.random()]), {}

    def step(self, action):
        return self.reset()[0], random.random(), random.random() < 0.1, False, {}


gym.register("Dice-v0", entry_point=Dice)


@pytest.mark.parametrize("unseeded", [None, "    random.seed", "    np.random.seed"])
def test_a_task_that_draws_from_the_shared_generators_repeats(tmp_path, unseeded):
    """The controls do not seed one of them."""
    mistake = [(f"{unseeded}(args.seed)", f"{unseeded}(None)")] if unseeded else []
    runs = [
        train(load("klip", *mistake), tmp_path / name, 2, env_id="Dice-v0") for name in ("a", "b")
    ]
    same = runs[0]["weights_sha256"] == runs[1]["weights_sha256"]
    assert same == (unseeded is None)


def test_the_agent_is_saved_ten_times_and_at_the_end(tmp_path, monkeypatch):
    module, steps = load("klip"), []
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda x, f: steps.append(x["global_step"]) or save(x, f))
    train(module, tmp_path, 22, env_id="InvertedPendulum-v4")
    assert steps == [64 * i for i in (3, 5, 7, 9, 11, 14, 16, 18, 20, 22)]
    assert torch.load(tmp_path / "agent.pt", weights_only=True)["global_step"] == 64 * 22


def test_time_and_speed_are_of_the_whole_run(tmp_path, monkeypatch):
    module = load("klip")
    times = iter([0, 100, 102, 110, 120])  # the folder's name, the start, three iterations
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: next(times)))
    found = train(module, tmp_path, 3, env_id="InvertedPendulum-v4")
    assert (found["wall_time_s"], found["sps"]) == (20, 192 / 20)
    assert scalars(tmp_path)["charts/SPS"] == pytest.approx([64 / 2, 128 / 10, 192 / 20])


class Sparse(Dice):
    """Gives no reward."""

    def step(self, action):
        return self.reset()[0], 0.0, False, False, {}


gym.register("Sparse-v0", entry_point=Sparse)


class Reseeds(Dice):
    """Sets PyTorch's random state at each reset, and ends its episodes at the third step."""

    def reset(self, *, seed=None, options=None):
        torch.manual_seed(0)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        seen.append(action.item())
        return np.zeros(2, np.float32), 0.0, len(seen) % 3 == 0, False, {}


seen = []
gym.register("Reseeds-v0", entry_point=Reseeds)


def test_a_task_that_reseeds_pytorch_does_not_repeat_the_noise(tmp_path):
    train(load("klip"), tmp_path, 2, env_id="Reseeds-v0")
    inside = [action for action in seen if abs(action) < 1]
    assert len(set(inside)) == len(inside) > 50


def test_a_task_whose_rewards_are_all_zero_trains(tmp_path):
    train(load("klip"), tmp_path, 2, env_id="Sparse-v0")
