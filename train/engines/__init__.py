"""Engines of others: what they are given (`scaling emit --to megatron`), and what comes back (`scaling ingest`)."""
