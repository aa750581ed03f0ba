# Scalar beta, w capped at 1.5: min(w A, min(w, 1.5) A) - beta KL(old || new); mechanism
# Less of the upper tail for a beta too small to hold it. With beta near 0 the cap is alone.
logstd = agent.actor_logstd
spread = torch.exp(2 * batch.old_logstd) + (batch.old_mean - mean) ** 2
kl = (logstd - batch.old_logstd + 0.5 * spread * torch.exp(-2 * logstd) - 0.5).sum(-1)
capped = torch.min(ratio * adv_over_n, ratio.clamp(max=1.5) * adv_over_n)
objective = capped - args.kl_coef * kl / len(kl)
