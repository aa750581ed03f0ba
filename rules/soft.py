# Soft clip: beta = -w A min(1, (|w - 1| - epsilon) / width) on kill; KLip, arXiv 2606.23932
# A ramp in place of the step: the push fades out over a width behind the edge. The paper leaves
# the shape of the coefficient to future work; ramp and width are this project's.
width = 0.2
gate = ((ratio - clipped_ratio).abs() / width).clamp(max=1)
beta = torch.where(kill_set, -ratio * adv_over_n * gate, 0.0).detach()
objective = ratio * adv_over_n + beta * logprob
