"""Real services that tests run against."""
