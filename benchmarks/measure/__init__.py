"""What is measured beside latency: the machine's limit and conditions, start-up and memory, throughput."""
