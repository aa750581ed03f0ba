# Scalar beta with given noise: sigma is not learned, it follows the clip's on Ant-v4; mechanism
# If all losses return the same with it, then noise alone explains what Ant-v4 makes of them.
# instead of: self.actor_logstd = nn.Parameter(torch.zeros(act_dim))
# put: self.register_buffer("actor_logstd", torch.zeros(act_dim))
# instead of: for iteration in range(1, num_iterations + 1):
# put: logstds = (THE CLIP'S SCHEDULE)
# put: for iteration in range(1, num_iterations + 1):
# put:     agent.actor_logstd.fill_(logstds[iteration - 1])
