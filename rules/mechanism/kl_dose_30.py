# A dose of 0.3: w A - beta KL(old || new) with 0.3 of sigma's part in its gradient; mechanism
# Between kl_mean, which charges nothing for the noise, and the scalar script, which charges all.
logstd = agent.actor_logstd
logstd = 0.3 * logstd + (1 - 0.3) * logstd.detach()
spread = torch.exp(2 * batch.old_logstd) + (batch.old_mean - mean) ** 2
kl = (logstd - batch.old_logstd + 0.5 * spread * torch.exp(-2 * logstd) - 0.5).sum(-1)
objective = ratio * adv_over_n - args.kl_coef * kl / len(kl)
