# Closed-form KL: w A - beta KL(old || new), beta = -w A on the kill set; an exercise
# The KL of a whole state in place of the sampled -log pi: its gradient is no multiple of
# grad log pi, so that it cancels nothing.
old_policy = Normal(batch.old_mean, batch.old_logstd.exp())
new_policy = Normal(mean, agent.actor_logstd.exp())
kl = kl_divergence(old_policy, new_policy).sum(-1)
beta = torch.where(kill_set, -ratio * advantages, 0.0).detach()
objective = ratio * advantages - beta * kl
