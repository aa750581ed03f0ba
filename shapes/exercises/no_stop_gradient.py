# Exercise, no stop-gradient: sum of w A + beta_t log pi with a beta_t that is not detached
# The gradient of a killed sample becomes -w A log pi, not 0.
beta = torch.where(kill_set, -ratio * advantages, 0.0)
objective = ratio * advantages + beta * logprob
