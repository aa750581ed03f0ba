# SPO: beta = -|A| w (w - 1) / epsilon; Xie et al., arXiv 2401.16025
# A parabola in place of the band, Phi = |A| (w - 1)^2 / (2 epsilon): from either side it draws
# w to where the clip stops pushing it, 1 + epsilon for A > 0 and 1 - epsilon for A < 0.
beta = (-adv_over_n.abs() * ratio * (ratio - 1) / args.clip_coef).detach()
objective = ratio * adv_over_n + beta * logprob
