# Clip-higher: beta = -w A on the kill set of [0.8, 1.28]; DAPO, arXiv 2503.14476
# Leaves a good action more room to become likely than a bad one to become unlikely, against
# collapsing entropy. The band below is the authors' at epsilon = 0.2.
upper = 1 + 1.4 * args.clip_coef
beyond = (ratio - ratio.clamp(1 - args.clip_coef, upper)).detach() * adv_over_n
beta = torch.where(beyond > 0, -ratio * adv_over_n, 0.0).detach()
objective = ratio * adv_over_n + beta * logprob
