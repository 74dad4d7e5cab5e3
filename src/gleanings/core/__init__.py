"""What every room stands on: keys, configuration, runs, training loop, executors, statistics, reports."""
