# SAPO: beta = -w A (1 - 4 s (1 - s)), s = sigmoid(tau (w - 1)); Gao et al., arXiv 2511.20347
# A smooth gate in place of the band; it fades kill and pass alike, a little sooner for A < 0.
# Simplified: the authors' tau, for language models, is 1 and 1.05, a gate that is half open at
# w = 2.8; here it is half open at 1 +- epsilon.
tau = torch.where(adv_over_n > 0, 1.0, 1.05) * 1.763 / args.clip_coef
s = torch.sigmoid(tau * (ratio - 1))
beta = (-ratio * adv_over_n * (1 - 4 * s * (1 - s))).detach()
objective = ratio * adv_over_n + beta * logprob
