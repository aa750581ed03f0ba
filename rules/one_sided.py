# One-sided clip: beta = -w A where w > 1 + epsilon and A > 0; half of PPO-Clip
# Shows what the lower half is for: here nothing stops a bad action from becoming ever less
# likely.
beta = torch.where(kill_set & (ratio > 1), -ratio * adv_over_n, 0.0).detach()
objective = ratio * adv_over_n + beta * logprob
