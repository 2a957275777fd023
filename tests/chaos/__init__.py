"""The chaos suite: real workers on a real Kafka, disturbed on purpose, against totals that are known beforehand.

``python -m tests.chaos`` runs it; ``docs/guarantees.md`` says what it shows.
"""
