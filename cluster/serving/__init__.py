"""Exported models on a Ray cluster: batch scoring, and the service as replicas."""
