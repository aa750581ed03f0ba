# Sigma out of the KL: w A - beta KL(old || new) with sigma held constant in the KL; mechanism
# Takes the charge for the noise out of the penalty, and only out of its gradient: the logged KL,
# by which an adaptive beta is steered, stays that of the whole policy.
logstd = agent.actor_logstd.detach()
spread = torch.exp(2 * batch.old_logstd) + (batch.old_mean - mean) ** 2
kl = (logstd - batch.old_logstd + 0.5 * spread * torch.exp(-2 * logstd) - 0.5).sum(-1)
objective = ratio * adv_over_n - args.kl_coef * kl / len(kl)
