# Epsilon to 0: beta = -w A wherever (w - 1) A > 0; an exercise
# What moves the right way is stopped at once.
beta = torch.where((ratio - 1) * adv_over_n > 0, -ratio * adv_over_n, 0.0).detach()
objective = ratio * adv_over_n + beta * logprob
