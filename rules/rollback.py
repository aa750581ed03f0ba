# Rollback: beta = -(1 + alpha) w A on the kill set; Truly PPO, arXiv 1903.07940
# A sample that has left the band is not only stopped but pushed back, with slope alpha.
# Simplified: the authors take a smaller alpha for Humanoid, 0.02.
alpha = 0.3
beta = torch.where(kill_set, -(1 + alpha) * ratio * adv_over_n, 0.0).detach()
objective = ratio * adv_over_n + beta * logprob
