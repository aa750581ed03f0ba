# Sigma's charge put into the clip: min(w A, clip(w) A) - 2 KL of sigma's change alone; mechanism
# 2 is where adaptive beta stands for most of its run on Ant.
shrunk = agent.actor_logstd - batch.old_logstd
kl = (shrunk + 0.5 * torch.exp(-2 * shrunk) - 0.5).sum(-1)
objective = torch.min(ratio * adv_over_n, clipped_ratio * adv_over_n) - 2 * kl / len(kl)
