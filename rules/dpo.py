# DPO: beta = -w A tanh(x)^2, -A tanh(y)^2 or 0; Lu et al., arXiv 2210.05639
# Discovered Policy Optimisation, a drift found by meta-learning and put into a formula:
# x = (w - 1) A / 2 for A > 0, y = log(w) A / 0.6 for A < 0; elsewhere beta = 0. Epsilon has no
# part in it: the larger |A|, the sooner a sample stops, so that A must be normalised.
unscaled = adv_over_n * len(adv_over_n)  # A, not A / N
above = -ratio * adv_over_n * torch.tanh((ratio - 1) * unscaled / 2.0) ** 2
below = -adv_over_n * torch.tanh(logratio * unscaled / 0.6) ** 2
drift = torch.where(adv_over_n > 0, above, below)
beta = torch.where((ratio - 1) * adv_over_n > 0, drift, 0.0).detach()
objective = ratio * adv_over_n + beta * logprob
