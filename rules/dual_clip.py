# Dual clip: beta = -w A on kill, and where A < 0, w > 3; Ye et al., arXiv 1912.09729
# On the pass set nothing bounds w, so that one bad action which has become likely may outweigh
# its whole minibatch. c is the authors'.
c = 3.0
killed = kill_set | ((adv_over_n < 0) & (ratio > c))
beta = torch.where(killed, -ratio * adv_over_n, 0.0).detach()
objective = ratio * adv_over_n + beta * logprob
