# Scalar beta with given noise: sigma is not learned, it follows the clip's on Ant-v4; mechanism
# If all losses return the same with it, then noise alone explains what Ant-v4 makes of them.
# instead of: z = (actions - mean) * torch.exp(-self.actor_logstd)
# put: z = (actions - mean) * torch.exp(-self.actor_logstd.detach())
# instead of: log_normalizer = self.actor_logstd + 0.5 * math.log(2 * math.pi)
# put: log_normalizer = self.actor_logstd.detach() + 0.5 * math.log(2 * math.pi)
# instead of: logstd = agent.actor_logstd
# put: logstd = agent.actor_logstd.detach()
# instead of: for iteration in range(1, num_iterations + 1):
# put: logstds = (THE CLIP'S SCHEDULE)
# put: for iteration in range(1, num_iterations + 1):
# put:     agent.actor_logstd.data.fill_(logstds[iteration - 1])
