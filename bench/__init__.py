"""Benchmarks: Queue Max beside what a user would pick instead."""
