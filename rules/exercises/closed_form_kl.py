# Closed-form KL: w A - beta KL(old || new), beta = -w A on the kill set; an exercise
# The KL of a whole state in place of the sampled -log pi: its gradient is no multiple of
# grad log pi, so that it cancels nothing.
logstd = agent.actor_logstd
spread = torch.exp(2 * batch.old_logstd) + (batch.old_mean - mean) ** 2
kl = (logstd - batch.old_logstd + 0.5 * spread * torch.exp(-2 * logstd) - 0.5).sum(-1)
beta = torch.where(kill_set, -ratio * adv_over_n, 0.0).detach()
objective = ratio * adv_over_n - beta * kl
