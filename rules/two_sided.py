# Two-sided mask: beta = -w A wherever w is outside the band; IcePop, arXiv 2510.18855
# Kills pass as well, the samples on their way back: what has left the band teaches nothing.
# Simplified: IcePop masks the ratio of a training to an inference engine, with a band of
# [0.5, 5], and clips w besides; here w itself is masked, with a band of 1 +- epsilon.
beta = torch.where(kill_set | pass_set, -ratio * adv_over_n, 0.0).detach()
objective = ratio * adv_over_n + beta * logprob
