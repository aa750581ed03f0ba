# Exercise, epsilon to 0: beta_t = -w A wherever (w - 1) A > 0
# What moves the right way is stopped at once.
beta = torch.where((ratio - 1) * advantages > 0, -ratio * advantages, 0.0).detach()
objective = ratio * advantages + beta * logprob
