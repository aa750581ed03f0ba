# Epsilon to 0: beta = -w A wherever (w - 1) A > 0; an exercise
# What moves the right way is stopped at once.
beta = torch.where((ratio - 1) * advantages > 0, -ratio * advantages, 0.0).detach()
objective = ratio * advantages + beta * logprob
