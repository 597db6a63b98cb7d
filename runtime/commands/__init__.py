"""The verbs of the runtime: detect, inspect, doctor."""
