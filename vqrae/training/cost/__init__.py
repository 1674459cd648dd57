"""What a training run will take, from its recipe alone: parameters, arithmetic, memory, time."""
