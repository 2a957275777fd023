"""The web views of a worker: blueprints without a global app."""
