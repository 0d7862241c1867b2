"""Reading the checkpoints and the networks of runs; nothing here needs Ray."""
