# DPPO: beta = -w A where KL > epsilon^2/2 and (w - 1) A > 0; Qi et al., arXiv 2602.04879
# Asks how far the policy has moved in this state, not how far this action's probability has.
# On robots the same gate is TR-PPO, arXiv 1903.07940. KL <= epsilon^2 / 2 bounds the total
# variation by epsilon / 2 (Pinsker), and so does |w - 1| <= epsilon for all actions.
# Simplified: the authors, with a vocabulary, approximate the divergence; a Gaussian's is exact.
logstd = agent.actor_logstd
spread = torch.exp(2 * batch.old_logstd) + (batch.old_mean - mean) ** 2
kl = (logstd - batch.old_logstd + 0.5 * spread * torch.exp(-2 * logstd) - 0.5).sum(-1)
killed = (kl > args.clip_coef**2 / 2) & ((ratio - 1) * adv_over_n > 0)
beta = torch.where(killed, -ratio * adv_over_n, 0.0).detach()
objective = ratio * adv_over_n + beta * logprob
