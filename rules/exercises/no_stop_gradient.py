# No stop-gradient: w A + beta log pi, beta = -w A on the kill set, not detached; an exercise
# The gradient of a killed sample becomes -w A log pi, not 0.
beta = torch.where(kill_set, -ratio * adv_over_n, 0.0)
objective = ratio * adv_over_n + beta * logprob
