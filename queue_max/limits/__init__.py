"""Limits on how fast, and after how many failures, work goes on; each holds within one process."""
